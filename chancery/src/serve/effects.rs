//! The loop that carries effects out: woken by them, several at a time, each once at a time, with polling behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ca_core::authority::{Authority, AuthorityError};
use ca_core::id::EffectId;
use ca_core::pkix::signed::SignError;
use ca_core::signing::{KeyError, SigningError};
use ca_core::store::{EffectKind, Store, Topic};
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
    while !*stop.borrow() {
        // Registered before the read, so that none is missed.
        let woken = store.watch(&Topic::Effects);
        let limit = in_flight.len() + retries.len() + at_once + READ_AHEAD;
        let waiting = match store.effects(u32::try_from(limit).unwrap_or(u32::MAX)).await {
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
            // A revocation needs no key: it does not wait behind issuance that a slow key holds up.
            let places = if matches!(effect.kind, EffectKind::Revoke { .. }) { 2 * at_once } else { at_once };
            if in_flight.len() >= places {
                continue;
            }
            let due = retries.get(&effect.id).is_none_or(|retry| retry.at <= Instant::now());
            // One publication of a shard ends every wish for it that is older.
            let same = matches!(effect.kind, EffectKind::PublishCrl { .. })
                && in_flight.values().any(|kind| *kind == effect.kind);
            if !due || same || in_flight.contains_key(&effect.id) {
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
