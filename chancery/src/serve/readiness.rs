//! Which roles can do their work now: one check a role, run when somebody asks, and shared by those who ask together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::store::Role;
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

/// A role that has not answered after this is not ready.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// A role's check: ready, or a sentence that says what is missing.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Whether every role is ready, and the report: `{"ready":…,"roles":{"ca":{"ready":…,"missing":…}}}`.
pub type Report = (bool, Value);

/// The checks of this process's roles.
#[derive(Default)]
pub struct Readiness {
    checks: Vec<(Role, Check)>,
    /// The newest round of checks.
    newest: Mutex<Option<Round>>,
}

/// A round of checks, which ends also if nobody waits for it any more.
struct Round {
    began: Instant,
    outcome: watch::Receiver<Option<Report>>,
}

impl Readiness {
    /// Adds a role's check.
    pub fn add(&mut self, role: Role, check: Check) {
        self.checks.push((role, check));
    }

    /// The report of a round of checks that runs, or ended and began at most `max_age` ago, or else of a new one.
    ///
    /// A check may make a signature: whoever asks often shall not keep a token busy.
    pub async fn report(&self, max_age: Duration) -> Report {
        let mut outcome = self.round(max_age);
        let ended = outcome.wait_for(Option::is_some).await;
        ended.ok().and_then(|report| report.clone()).unwrap_or_else(|| {
            (false, json!({ "ready": false, "missing": "the checks ended without an outcome; see the log" }))
        })
    }

    fn round(&self, max_age: Duration) -> watch::Receiver<Option<Report>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = &*newest
            && (round.outcome.has_changed().is_ok() || round.began.elapsed() < max_age)
        {
            return round.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let checks: Vec<_> = self.checks.iter().map(|(role, check)| (*role, check())).collect();
        tokio::spawn(async move { sender.send_replace(Some(check_all(checks).await)) });
        *newest = Some(Round { began: Instant::now(), outcome: outcome.clone() });
        outcome
    }
}

/// Runs the checks side by side.
async fn check_all(checks: Vec<(Role, BoxFuture<'static, Result<(), String>>)>) -> Report {
    let running: Vec<_> = checks
        .into_iter()
        .map(|(role, check)| (role, tokio::spawn(tokio::time::timeout(CHECK_WITHIN, check))))
        .collect();
    let mut roles = Map::new();
    let mut all = true;
    for (role, check) in running {
        let outcome = match check.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the check took too long".to_owned()),
            Err(_) => Err("the check failed; see the log".to_owned()),
        };
        all &= outcome.is_ok();
        let entry = match outcome {
            Ok(()) => json!({ "ready": true }),
            Err(missing) => json!({ "ready": false, "missing": missing }),
        };
        roles.insert(role.name().to_owned(), entry);
    }
    (all, json!({ "ready": all, "roles": roles }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Ready from its third run on, each of which waits until the test lets it end.
    fn readiness() -> (Arc<Readiness>, Arc<AtomicU32>, watch::Sender<u32>) {
        let (allowed, gate) = watch::channel(0);
        let runs = Arc::new(AtomicU32::new(0));
        let mut readiness = Readiness::default();
        let counted = Arc::clone(&runs);
        readiness.add(
            Role::Ca,
            Box::new(move || {
                let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let mut gate = gate.clone();
                Box::pin(async move {
                    gate.wait_for(|allowed| *allowed >= run).await.unwrap();
                    if run < 3 { Err(format!("run {run}")) } else { Ok(()) }
                })
            }),
        );
        (Arc::new(readiness), runs, allowed)
    }

    #[tokio::test]
    async fn who_asks_together_shares_one_round_and_who_asks_later_gets_another() {
        let (readiness, runs, allowed) = readiness();
        let asking: Vec<_> = (0..50)
            .map(|n| {
                let readiness = Arc::clone(&readiness);
                // Also those who accept nothing old.
                let max_age = if n % 2 == 0 { Duration::ZERO } else { Duration::from_secs(3600) };
                tokio::spawn(async move { readiness.report(max_age).await })
            })
            .collect();
        // All of them wait: the one round can't end before.
        tokio::task::yield_now().await;
        allowed.send_replace(1);
        for asked in asking {
            let (ready, report) = asked.await.unwrap();
            assert!(!ready && report["roles"]["ca"]["missing"] == "run 1", "{report}");
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);

        allowed.send_replace(u32::MAX);
        assert!(!readiness.report(Duration::from_secs(3600)).await.0);
        assert_eq!(runs.load(Ordering::SeqCst), 1, "an outcome that is new enough is given again");
        assert_eq!(readiness.report(Duration::ZERO).await.1["roles"]["ca"]["missing"], "run 2");
        assert!(readiness.report(Duration::ZERO).await.0);
        assert!(readiness.report(Duration::from_secs(3600)).await.0, "what was asked last is remembered");
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_round_ends_when_the_one_who_began_it_went_away() {
        let (readiness, _, allowed) = readiness();
        let began = readiness.round(Duration::ZERO);
        drop(began);
        allowed.send_replace(1);
        let (_, report) = readiness.report(Duration::from_secs(3600)).await;
        assert_eq!(report["roles"]["ca"]["missing"], "run 1");
    }
}
