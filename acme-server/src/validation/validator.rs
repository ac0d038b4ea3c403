//! Attempts and retries: from a challenge to its outcome within 30 seconds. RFC 8555 §8.2.

use std::sync::Arc;
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::acme::account::Thumbprint;
use ca_core::acme::challenge::{Attempt, Challenge, FailureKind, Observed, Probe, ValidationFailure};
use ca_core::pkix::identifier::Identifier;
use ca_core::time::Clock;
use tokio::time::{Instant, sleep, timeout_at};

use super::Prober;

/// An attempt takes at most this long, whatever the prober does.
const ATTEMPT: Duration = Duration::from_secs(10);
/// So long after a transient failure the next attempt is made.
const GAPS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// All attempts together take at most this long: clients are promised an outcome within 30 s, and it has to be stored.
const TOTAL: Duration = Duration::from_millis(29_500);

/// Validates challenges: probes, judges, and tries again where the network was at fault.
#[derive(Clone)]
pub struct Validator {
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
}

/// How a validation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// What was tried, oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// The outcome of the last attempt.
    pub outcome: Result<(), ValidationFailure>,
}

impl Validator {
    /// A validator that looks through `prober`; `clock` dates the attempts.
    pub fn new(prober: Arc<dyn Prober>, clock: Arc<dyn Clock>) -> Self {
        Self { prober, clock }
    }

    /// Decides whether the holder of the account key named by `thumbprint` controls `identifier` (an authorization's:
    /// without a wildcard label).
    ///
    /// It takes less than 30 s. An attempt that failed for the network's sake is repeated up to twice, after 1 s and
    /// 4 s; any other outcome stands.
    pub fn validate(
        &self,
        challenge: Challenge,
        identifier: Identifier,
        thumbprint: Thumbprint,
    ) -> BoxFuture<'_, Validated> {
        Box::pin(async move {
            let end = Instant::now() + TOTAL;
            let probe = challenge.probe(&identifier);
            let mut gaps = GAPS.into_iter();
            let mut attempts = Vec::new();
            loop {
                let observed = self.observe(probe.clone(), end).await;
                let outcome = challenge.judge(&identifier, &thumbprint, &observed);
                attempts.push(Attempt {
                    at: self.clock.now(),
                    addresses: observed.addresses,
                    failure: outcome.clone().err(),
                });
                let transient = outcome.as_ref().is_err_and(ValidationFailure::is_transient);
                match gaps.next().filter(|gap| transient && Instant::now() + *gap < end) {
                    Some(gap) => sleep(gap).await,
                    None => return Validated { attempts, outcome },
                }
            }
        })
    }

    async fn observe(&self, probe: Probe, end: Instant) -> Observed {
        let started = Instant::now();
        let deadline = end.min(started + ATTEMPT);
        timeout_at(deadline, self.prober.probe(probe)).await.unwrap_or_else(|_| Observed {
            addresses: Vec::new(),
            answer: Err(ValidationFailure::new(
                FailureKind::Connection,
                format!("there was no answer within {} s", started.elapsed().as_secs()),
            )),
        })
    }
}
