//! The loop that carries effects out: woken by them, several of each kind at a time, each once at a time, with polling behind it.

use std::collections::{HashMap, HashSet};
use std::mem::discriminant;
use std::sync::Arc;
use std::time::Duration;

use ca_core::authority::{Authority, AuthorityError};
use ca_core::id::EffectId;
use ca_core::pkix::signed::SignError;
use ca_core::signing::{KeyError, SigningError};
use ca_core::store::{Effect, EffectKind, Store, StoreError, Topic};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// How often the store is looked at without being woken.
const POLL: Duration = Duration::from_secs(2);
/// The first pause after a failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause of what waits for a key: asking for one that is away costs nothing, and a subscriber waits.
const LONGEST_PAUSE_FOR_A_KEY: Duration = Duration::from_secs(3);
/// How many rows are read beyond those under way, to find others of the same kind waiting behind them.
const READ_AHEAD: usize = 1024;
/// How many rows are looked through for other kinds when issuance fills what is read, no more often than [`POLL`].
const DEEPEST: usize = 1 << 18;
/// The kinds of effects, each with places of its own.
const KINDS: usize = 4;

/// What the loop tells of itself.
#[derive(Clone, Debug, Default)]
pub struct EffectMetrics {
    /// Effects being carried out.
    pub in_flight: Gauge,
    /// Effects that failed and wait for another try.
    pub waiting: Gauge,
    /// Tries that failed.
    pub failures: Counter,
}

/// A failed effect's next try.
struct Retry {
    failures: u32,
    at: Instant,
}

/// Carries effects out until `stop` says so, then ends those under way.
pub async fn run(
    authority: Arc<Authority>,
    store: Arc<dyn Store>,
    at_once: usize,
    metrics: EffectMetrics,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks: JoinSet<Result<(), AuthorityError>> = JoinSet::new();
    let mut names: HashMap<Id, EffectId> = HashMap::new();
    let mut in_flight: HashMap<EffectId, EffectKind> = HashMap::new();
    let mut retries: HashMap<EffectId, Retry> = HashMap::new();
    let mut deep_at = Instant::now();
    while !*stop.borrow() {
        // Registered before the read, so that none is missed.
        let woken = store.watch(&Topic::Effects);
        let limit = in_flight.len() + retries.len() + KINDS * at_once + READ_AHEAD;
        let waiting = match read(&*store, limit, &mut deep_at).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "effects can't be read");
                tokio::select! {
                    () = tokio::time::sleep(POLL) => continue,
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
        };
        let stored: HashSet<EffectId> = waiting.iter().map(|effect| effect.id).collect();
        retries.retain(|id, _| stored.contains(id));
        metrics.waiting.set(i64::try_from(retries.len()).unwrap_or(i64::MAX));
        for effect in waiting {
            let due = retries.get(&effect.id).is_none_or(|retry| retry.at <= Instant::now());
            if !due || !may_start(&effect, &in_flight, at_once) {
                continue;
            }
            in_flight.insert(effect.id, effect.kind.clone());
            let authority = Arc::clone(&authority);
            let id = effect.id;
            let task = tasks.spawn(async move { authority.carry_out(effect).await });
            names.insert(task.id(), id);
        }
        metrics.in_flight.set(i64::try_from(in_flight.len()).unwrap_or(i64::MAX));
        let next_try = retries.values().map(|retry| retry.at).min();
        let timer = next_try.map_or(POLL, |at| {
            at.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(10), POLL)
        });
        tokio::select! {
            Some(done) = tasks.join_next_with_id() => {
                let mut done = Some(done);
                while let Some(ended) = done {
                    let (task, result) = outcome(ended);
                    if let Some(id) = names.remove(&task) {
                        in_flight.remove(&id);
                        settle(id, result, &mut retries, &metrics);
                    }
                    done = tasks.try_join_next_with_id();
                }
            }
            () = woken => {}
            () = tokio::time::sleep(timer) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// The first effects that wait, and, where issuance fills them, at times also those of other kinds far behind: a
/// revocation or a CRL must be found whatever holds issuance up.
async fn read(store: &dyn Store, limit: usize, deep_at: &mut Instant) -> Result<Vec<Effect>, StoreError> {
    let mut waiting = read_first(store, limit).await?;
    if waiting.len() < limit || *deep_at > Instant::now() {
        return Ok(waiting);
    }
    let mut all = Vec::new();
    let mut deeper = limit;
    while deeper < DEEPEST {
        deeper = deeper.saturating_mul(8).min(DEEPEST);
        all = read_first(store, deeper).await?;
        if all.len() < deeper {
            break;
        }
    }
    let known: HashSet<EffectId> = waiting.iter().map(|effect| effect.id).collect();
    waiting
        .extend(all.into_iter().filter(|effect| {
            !matches!(effect.kind, EffectKind::Issue { .. }) && !known.contains(&effect.id)
        }));
    *deep_at = Instant::now() + POLL;
    Ok(waiting)
}

async fn read_first(store: &dyn Store, limit: usize) -> Result<Vec<Effect>, StoreError> {
    store.effects(u32::try_from(limit).unwrap_or(u32::MAX)).await
}

/// Whether there is a place for an effect. Each kind has its own, so that none waits behind issuance that a policy
/// service or a key holds up, and a revocation, which needs no key, not behind CRLs either.
fn may_start(effect: &Effect, in_flight: &HashMap<EffectId, EffectKind>, at_once: usize) -> bool {
    let of_kind = in_flight.values().filter(|kind| discriminant(*kind) == discriminant(&effect.kind));
    // One publication of a shard ends every wish for it that is older.
    let same = matches!(effect.kind, EffectKind::PublishCrl { .. })
        && in_flight.values().any(|kind| *kind == effect.kind);
    of_kind.count() < at_once && !same && !in_flight.contains_key(&effect.id)
}

/// Why an effect was not carried out.
struct Failed {
    error: String,
    longest_pause: Duration,
}

/// How a task ended; a panic in one effect must not stop the others, and counts as a failure of it.
fn outcome(done: Result<(Id, Result<(), AuthorityError>), JoinError>) -> (Id, Result<(), Failed>) {
    let failed =
        |error: &dyn std::fmt::Display, longest_pause| Failed { error: error.to_string(), longest_pause };
    match done {
        Ok((task, Ok(()))) => (task, Ok(())),
        Ok((task, Err(error))) => {
            let longest_pause = match error {
                AuthorityError::Key(KeyError::Unavailable(_))
                | AuthorityError::Sign(SignError::Key(SigningError::Unavailable { .. })) => {
                    LONGEST_PAUSE_FOR_A_KEY
                }
                _ => LONGEST_PAUSE,
            };
            (task, Err(failed(&error, longest_pause)))
        }
        Err(error) => (error.id(), Err(failed(&error, LONGEST_PAUSE))),
    }
}

fn settle(
    id: EffectId,
    result: Result<(), Failed>,
    retries: &mut HashMap<EffectId, Retry>,
    metrics: &EffectMetrics,
) {
    match result {
        Ok(()) => {
            retries.remove(&id);
        }
        Err(Failed { error, longest_pause }) => {
            metrics.failures.inc();
            let retry = retries.entry(id).or_insert(Retry { failures: 0, at: Instant::now() });
            let pause = FIRST_PAUSE.saturating_mul(1 << retry.failures.min(8)).min(longest_pause);
            retry.failures = retry.failures.saturating_add(1);
            retry.at = Instant::now() + pause;
            if retry.failures == 1 || retry.failures.is_power_of_two() {
                tracing::warn!(effect = %id, %error, tries = retry.failures, "an effect could not be carried out; it is tried again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ca_core::id::{CredentialId, IssuerId, OrderId};
    use ca_core::pkix::public_key::KeyHash;
    use ca_core::pkix::serial::SerialNumber;
    use ca_core::random::SystemRandom;
    use ca_core::revocation::RevocationReason;
    use ca_core::store::{CertificateId, Commit, Commits, RevocationRequester};
    use ca_core::time::Timestamp;
    use store::sqlite::{Writer, WriterOptions};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn effect(kind: EffectKind) -> Effect {
        Effect { id: EffectId::generate(NOW, &mut SystemRandom), kind }
    }

    fn issuance() -> Effect {
        effect(EffectKind::Issue { order: OrderId::generate(NOW, &mut SystemRandom) })
    }

    fn issuer() -> IssuerId {
        "issuing-1".parse().unwrap()
    }

    fn publication(shard: u32) -> Effect {
        effect(EffectKind::PublishCrl { issuer: issuer(), shard })
    }

    fn credential() -> Effect {
        effect(EffectKind::IssueCredential { credential: CredentialId::generate(NOW, &mut SystemRandom) })
    }

    fn revocation() -> Effect {
        let serial = SerialNumber::generate(&mut SystemRandom);
        let certificate = CertificateId { issuer: issuer(), serial };
        let requested_by = RevocationRequester::CertificateKey(KeyHash([0; 32]));
        effect(EffectKind::Revoke { certificate, reason: RevocationReason::Superseded, requested_by })
    }

    fn in_flight(effects: Vec<Effect>) -> HashMap<EffectId, EffectKind> {
        effects.into_iter().map(|effect| (effect.id, effect.kind)).collect()
    }

    #[test]
    fn no_kind_waits_for_places_that_another_holds() {
        let hung = in_flight(vec![issuance(), issuance()]);
        assert!(!may_start(&issuance(), &hung, 2));
        for other in [publication(0), credential(), revocation()] {
            assert!(may_start(&other, &hung, 2), "{:?}", other.kind);
        }
        let hung = in_flight(vec![publication(0), publication(1), issuance()]);
        assert!(!may_start(&publication(2), &hung, 2));
        assert!(!may_start(&publication(0), &hung, 3), "one of a shard at a time");
        for other in [issuance(), credential(), revocation()] {
            assert!(may_start(&other, &hung, 2), "{:?}", other.kind);
        }
    }

    #[tokio::test]
    async fn a_publication_is_found_behind_more_issuance_than_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
        let store = Writer::open(directory.path(), options).unwrap();
        let mut effects: Vec<Effect> = (0..40).map(|_| issuance()).collect();
        let later = NOW.plus(Duration::from_secs(1));
        let last = Effect { id: EffectId::generate(later, &mut SystemRandom), ..publication(0) };
        effects.push(last.clone());
        store.commit(Commit { effects, ..Commit::default() }).await.unwrap();

        let mut deep_at = Instant::now();
        let found = read(&*store, 4, &mut deep_at).await.unwrap();
        assert_eq!(found.len(), 5, "the first four, and no other issuance");
        assert_eq!(found[4].id, last.id);
        // Not at every turn of the loop.
        assert_eq!(read(&*store, 4, &mut deep_at).await.unwrap().len(), 4);
    }
}
