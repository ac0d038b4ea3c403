//! Attempts and retries on a clock that the test moves.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acme_server::validation::{Prober, Validated, Validator};
use ca_core::BoxFuture;
use ca_core::acme::challenge::{
    Answer, ChallengeType, FailureKind, Observed, Probe, Proven, ValidationFailure,
};
use ca_core::time::{Clock, Timestamp};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::Subject;

/// What one attempt sees, after how long; `None` is for ever.
type Step = (Option<Duration>, Result<Answer, ValidationFailure>);

/// Gives prepared observations, one after the other.
struct Prepared(Mutex<VecDeque<Step>>);

impl Prober for Prepared {
    fn probe(&self, _: Probe) -> BoxFuture<'_, Observed> {
        let (delay, answer) = self.0.lock().unwrap().pop_front().expect("there is one attempt too many");
        Box::pin(async move {
            match delay {
                Some(delay) => sleep(delay).await,
                None => pending().await,
            }
            Observed { addresses: vec!["192.0.2.1:80".into()], answer }
        })
    }
}

/// Wall-clock time that goes with the runtime's.
struct RuntimeClock(Instant);

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).plus(self.0.elapsed())
    }
}

struct Outcome {
    validated: Validated,
    took: Duration,
    left: usize,
    /// When each attempt ended, in seconds.
    ended: Vec<i64>,
}

async fn run(subject: &Subject, steps: Vec<Step>) -> Outcome {
    let started = Instant::now();
    let prober = Arc::new(Prepared(Mutex::new(steps.into())));
    let validator = Validator::new(Arc::clone(&prober) as Arc<dyn Prober>, Arc::new(RuntimeClock(started)));
    let validated = validator.validate(subject.validation(), || async {}).await;
    let ended = validated.attempts.iter().map(|attempt| attempt.at.as_seconds() - 1_800_000_000).collect();
    let left = prober.0.lock().unwrap().len();
    Outcome { validated, took: started.elapsed(), left, ended }
}

fn subject() -> Subject {
    Subject::new(ChallengeType::Http01, "www.example.org")
}

fn good(subject: &Subject, delay: u64) -> Step {
    (Some(Duration::from_secs(delay)), Ok(http(subject.body())))
}

fn http(body: String) -> Answer {
    Answer::Http {
        status: 200,
        body: body.into_bytes(),
        truncated: false,
        redirected: false,
        address: "192.0.2.1:80".into(),
    }
}

fn failed(kind: FailureKind, delay: u64) -> Step {
    (Some(Duration::from_secs(delay)), Err(ValidationFailure::new(kind, format!("{kind:?}"))))
}

#[tokio::test(start_paused = true)]
async fn success_ends_it() {
    let subject = subject();
    let outcome = run(&subject, vec![good(&subject, 2), good(&subject, 0)]).await;
    assert_eq!(outcome.validated.outcome, Ok(Proven::default()));
    assert_eq!((outcome.ended, outcome.left), (vec![2], 1));
    assert_eq!(outcome.validated.attempts[0].addresses, ["192.0.2.1:80"]);
    assert_eq!(outcome.validated.attempts[0].failure, None);
}

#[tokio::test(start_paused = true)]
async fn the_network_s_failures_are_tried_again_after_1_and_4_seconds() {
    let subject = subject();
    let steps = vec![failed(FailureKind::Connection, 0), failed(FailureKind::Dns, 0), good(&subject, 0)];
    let outcome = run(&subject, steps).await;
    assert_eq!(outcome.validated.outcome, Ok(Proven::default()));
    assert_eq!(outcome.ended, [0, 1, 5]);
    let failures: Vec<_> = outcome
        .validated
        .attempts
        .iter()
        .map(|attempt| attempt.failure.as_ref().map(|failure| failure.kind))
        .collect();
    assert_eq!(failures, [Some(FailureKind::Connection), Some(FailureKind::Dns), None]);
}

#[tokio::test(start_paused = true)]
async fn a_definite_failure_stands() {
    let subject = subject();
    for kind in [
        FailureKind::IncorrectResponse,
        FailureKind::Tls,
        FailureKind::Unauthorized,
        FailureKind::RejectedIdentifier,
        FailureKind::Caa,
    ] {
        let outcome = run(&subject, vec![failed(kind, 0), good(&subject, 0)]).await;
        assert_eq!(outcome.validated.outcome.unwrap_err().kind, kind);
        assert_eq!(outcome.left, 1, "{kind:?}");
    }
    let wrong: Step = (Some(Duration::ZERO), Ok(http("wrong".into())));
    let outcome = run(&subject, vec![wrong, good(&subject, 0)]).await;
    assert_eq!(outcome.validated.outcome.unwrap_err().kind, FailureKind::Unauthorized);
    assert_eq!(outcome.left, 1);
}

#[tokio::test(start_paused = true)]
async fn after_three_attempts_the_last_failure_stands() {
    let subject = subject();
    let steps = vec![
        failed(FailureKind::Connection, 8),
        failed(FailureKind::Connection, 8),
        failed(FailureKind::Dns, 8),
        good(&subject, 0),
    ];
    let outcome = run(&subject, steps).await;
    assert_eq!(outcome.validated.outcome.unwrap_err().kind, FailureKind::Dns);
    assert_eq!((outcome.ended, outcome.left), (vec![8, 17, 29], 1));
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_hangs_does_not_hold_up_the_outcome() {
    let subject = subject();
    let hang = || (None, Ok(http(String::new())));
    let outcome = run(&subject, vec![hang(), hang(), hang()]).await;
    let failure = outcome.validated.outcome.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Connection);
    assert_eq!(outcome.ended, [10, 21, 29]);
    assert!(outcome.took < Duration::from_secs(30), "{:?}", outcome.took);
    assert_eq!(
        outcome.validated.attempts[0].failure.as_ref().unwrap().detail,
        "there was no answer within 10 s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_while_an_attempt_runs_and_not_in_the_pauses() {
    let subject = subject();
    let steps = vec![failed(FailureKind::Dns, 2), failed(FailureKind::Dns, 2), good(&subject, 2)];
    let prober: Arc<dyn Prober> = Arc::new(Prepared(Mutex::new(steps.into())));
    let started = Instant::now();
    let validator = Validator::new(prober, Arc::new(RuntimeClock(started)));
    let places = Arc::new(Semaphore::new(1));
    let free = Arc::clone(&places);
    let watching = tokio::spawn(async move {
        // In the middle of each second: attempts run from 0 to 2, 3 to 5, and 9 to 11.
        let mut seen = Vec::new();
        sleep(Duration::from_millis(500)).await;
        for _ in 0..12 {
            seen.push(free.available_permits());
            sleep(Duration::from_secs(1)).await;
        }
        seen
    });
    let validated = validator.validate(subject.validation(), || places.acquire()).await;
    assert!(validated.outcome.is_ok(), "{validated:?}");
    assert_eq!(watching.await.unwrap(), [0, 0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_place_takes_nothing_from_the_time_to_try() {
    let subject = subject();
    let steps = vec![failed(FailureKind::Dns, 9), failed(FailureKind::Dns, 9), good(&subject, 6)];
    let prober: Arc<dyn Prober> = Arc::new(Prepared(Mutex::new(steps.into())));
    let validator = Validator::new(prober, Arc::new(RuntimeClock(Instant::now())));
    let validated = validator.validate(subject.validation(), || sleep(Duration::from_mins(1))).await;
    assert!(validated.outcome.is_ok(), "{validated:?}");
    assert_eq!(validated.attempts.len(), 3);
}
