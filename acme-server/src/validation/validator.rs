//! Attempts and retries: from a challenge to its outcome within 30 seconds. RFC 8555 §8.2.

use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::attestation::Trust;
use ca_core::acme::caa::{CaaFinding, CaaSubject};
use ca_core::acme::challenge::{
    Answer, Attempt, Challenge, Claimant, FailureKind, Observed, Probe, Proven, ValidationFailure,
};
use ca_core::pkix::identifier::{DnsName, Identifier};
use ca_core::time::Clock;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Prober, device_attest01};

/// An attempt takes at most this long, whatever the prober does.
const ATTEMPT: Duration = Duration::from_secs(10);
/// So long after a transient failure the next attempt is made.
const GAPS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// All attempts and the pauses between them take at most this long: clients are promised an outcome within 30 s, and it
/// has to be stored.
const TOTAL: Duration = Duration::from_millis(29_500);

/// Validates challenges: probes, judges, and tries again where the network was at fault.
#[derive(Clone)]
pub struct Validator {
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
    trust: Trust,
}

/// What is to be validated.
#[derive(Clone, Debug)]
pub struct Validation {
    /// The challenge.
    pub challenge: Challenge,
    /// An authorization's identifier: without a wildcard label.
    pub identifier: Identifier,
    /// Whether it is about all names one label below the identifier instead.
    pub wildcard: bool,
    /// The account that claims to control it.
    pub claimant: Claimant,
    /// For what the name's CAA records are judged; `None` where they are not looked at.
    pub caa: Option<CaaSubject>,
}

/// How a validation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// What was tried, oldest first; never empty.
    pub attempts: Vec<Attempt>,
    /// The outcome of the last attempt.
    pub outcome: Result<Proven, ValidationFailure>,
}

impl Validator {
    /// A validator that looks through `prober`; `clock` dates the attempts.
    pub fn new(prober: Arc<dyn Prober>, clock: Arc<dyn Clock>) -> Self {
        Self { prober, clock, trust: Trust::default() }
    }

    /// One that also accepts the attestations of devices that lead to these roots.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Decides whether a device's attestation, which came with the client's response, proves the identifier for the
    /// account; `None`: none came.
    pub fn attest(&self, asked: &Validation, attestation: Option<&[u8]>) -> Validated {
        let (attempt, outcome) = device_attest01::attempt(&self.trust, asked, attestation, self.clock.now());
        Validated { attempts: vec![attempt], outcome }
    }

    /// Decides whether the account key controls the identifier and the CAA records let us issue.
    ///
    /// Each attempt waits for `place()` and holds what that gives until it ends, but not in the pauses. An attempt that
    /// failed for the network's sake is repeated up to twice, after 1 s and 4 s; any other outcome stands. Attempts and
    /// pauses together take less than 30 s; the waits for a place are not counted.
    pub async fn validate<P, F>(&self, asked: Validation, place: impl Fn() -> F) -> Validated
    where
        F: Future<Output = P>,
    {
        let mut left = TOTAL;
        let mut gaps = GAPS.into_iter();
        let mut attempts = Vec::new();
        loop {
            let held = place().await;
            let started = Instant::now();
            let (attempt, outcome) = self.attempt(&asked, started + left).await;
            drop(held);
            attempts.push(attempt);
            left = left.saturating_sub(started.elapsed());
            let transient = outcome.as_ref().is_err_and(ValidationFailure::is_transient);
            match gaps.next().filter(|gap| transient && *gap < left) {
                Some(gap) => {
                    left -= gap;
                    sleep(gap).await;
                }
                None => return Validated { attempts, outcome },
            }
        }
    }

    /// Looks at the CAA records of `name` once, within 10 s.
    pub async fn caa(&self, name: &DnsName, subject: &CaaSubject) -> CaaFinding {
        self.judge_caa(name, subject, Instant::now() + ATTEMPT).await
    }

    /// Probes and judges once; the challenge and the CAA records at the same time.
    async fn attempt(
        &self,
        asked: &Validation,
        end: Instant,
    ) -> (Attempt, Result<Proven, ValidationFailure>) {
        let Some(probe) = asked.challenge.probe(&asked.identifier, &asked.claimant) else {
            return device_attest01::attempt(&self.trust, asked, None, self.clock.now());
        };
        let (observed, caa) = match (&asked.identifier, &asked.caa) {
            (Identifier::Dns(name), Some(subject)) => {
                let (observed, caa) =
                    tokio::join!(self.observe(probe, end), self.judge_caa(name, subject, end));
                (observed, Some(caa))
            }
            // RFC 8659 is about domain names.
            _ => (self.observe(probe, end).await, None),
        };
        let now = self.clock.now();
        let outcome = asked
            .challenge
            .judge(&asked.identifier, asked.wildcard, &asked.claimant, &observed, now)
            .and_then(|proven| caa.as_ref().map_or(Ok(()), CaaFinding::permits).map(|()| proven));
        let attempt = Attempt { at: now, addresses: observed.addresses, failure: outcome.clone().err(), caa };
        (attempt, outcome)
    }

    async fn judge_caa(&self, name: &DnsName, subject: &CaaSubject, end: Instant) -> CaaFinding {
        let found = match self.observe(Probe::Caa { name: name.clone() }, end).await.answer {
            Ok(Answer::Caa(found)) => Ok(found),
            Ok(_) => Err(ValidationFailure::new(
                FailureKind::Dns,
                format!("the look-up of CAA records at {name} gave something else"),
            )),
            Err(failure) if failure.kind == FailureKind::Dns => Err(failure),
            Err(failure) => Err(ValidationFailure::new(
                FailureKind::Dns,
                format!("the look-up of CAA records for {name} failed: {}", failure.detail),
            )),
        };
        CaaFinding::new(found.as_ref().map(Option::as_ref).map_err(Clone::clone), subject)
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
