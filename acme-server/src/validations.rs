//! Validations under way: off the request path, bounded, one at a time for each challenge, their outcome committed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::acme::account::Thumbprint;
use ca_core::acme::authorization::Accepted;
use ca_core::acme::{Authorization, AuthorizationState, Challenge, ChallengeType};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::AuthorizationId;
use ca_core::store::{Change, Commit, StoreError};
use ca_core::time::Stopwatch;
use tokio::sync::Semaphore;

use crate::problem::{Problem, ProblemType};
use crate::service::{App, Directory, Shared};
use crate::validation::Validated;

/// How many validations run at a time; more wait.
const CONCURRENT: usize = 256;

/// How many run or wait; more are refused.
const MAX_WAITING: usize = 10_000;

/// How many are taken up after a restart in one go.
const RESUMED_AT_ONCE: u32 = 1000;

/// How often an outcome is offered to a store that does not take it.
const OFFERS: u32 = 10;

type Key = (AuthorizationId, ChallengeType);

/// The validations under way.
pub(crate) struct Validations {
    running: Arc<Mutex<HashSet<Key>>>,
    permits: Arc<Semaphore>,
}

impl Default for Validations {
    fn default() -> Self {
        Self { running: Arc::default(), permits: Arc::new(Semaphore::new(CONCURRENT)) }
    }
}

/// Keeps a challenge from being validated twice at a time, until dropped.
struct Running {
    set: Arc<Mutex<HashSet<Key>>>,
    key: Key,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Validations {
    /// `None` if it is under way already.
    fn begin(&self, key: Key) -> Result<Option<Running>, Problem> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(&key) {
            return Ok(None);
        }
        if running.len() >= MAX_WAITING {
            return Err(Problem::unavailable("too many validations are waiting; try again", 10));
        }
        running.insert(key);
        Ok(Some(Running { set: self.running.clone(), key }))
    }
}

impl Shared {
    /// Begins to validate a challenge unless that is under way; its outcome is committed when it is there.
    ///
    /// # Errors
    /// If too many wait.
    pub(crate) fn validate(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        authorization: &Authorization,
        challenge: &Challenge,
        thumbprint: Thumbprint,
    ) -> Result<bool, Problem> {
        let Some(running) = self.validations.begin((authorization.id, challenge.kind))? else {
            return Ok(false);
        };
        let (app, directory) = (self.clone(), directory.clone());
        let (challenge, identifier) = (challenge.clone(), authorization.identifier.clone());
        let counted = self.metrics.validation_began();
        tokio::spawn(async move {
            let (_running, _counted) = (running, counted);
            let stopwatch = Stopwatch::start();
            // The semaphore is never closed, so this always gives a permit.
            let _permit = app.validations.permits.clone().acquire_owned().await;
            let (id, kind) = _running.key;
            let validated = directory.validator.validate(challenge, identifier, thumbprint).await;
            let outcome = match &validated.outcome {
                Ok(()) => "valid",
                Err(failure) => ProblemType::from(failure.kind).name(),
            };
            app.metrics.validation_ended(kind, outcome, stopwatch.elapsed());
            app.record(id, kind, &validated).await;
        });
        Ok(true)
    }

    /// Commits an outcome; offers it again for a while if the store does not take it.
    async fn record(&self, id: AuthorizationId, kind: ChallengeType, validated: &Validated) {
        let mut pause = Duration::from_millis(50);
        for _ in 0..OFFERS {
            let recorded = self.decide(|_| self.try_record(id, kind, validated)).await;
            let Err(problem) = recorded else { return };
            tracing::warn!(authorization = %id, challenge = %kind, detail = problem.detail(), cause = problem.cause(),
                "the outcome of a validation could not be stored");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
        tracing::error!(authorization = %id, challenge = %kind, "the outcome of a validation is lost; it is made again");
    }

    /// Acceptance, if it was not committed before, and outcome in one transaction.
    async fn try_record(
        &self,
        id: AuthorizationId,
        kind: ChallengeType,
        validated: &Validated,
    ) -> Result<(), Problem> {
        let now = self.clock.now();
        let Some(authorization) = self.store.authorization(id).await? else { return Ok(()) };
        let accepted = match authorization.accept(kind, now) {
            Ok(Accepted::Validate(accepted)) => accepted,
            Ok(Accepted::Unchanged) => authorization,
            // It expired or was given up meanwhile: the outcome matters to nobody.
            Err(_) => return Ok(()),
        };
        if accepted.state != AuthorizationState::Pending {
            return Ok(());
        }
        let decided = accepted.decided(kind, validated.attempts.clone(), validated.outcome.clone(), now);
        let event = AuditEvent {
            at: now,
            actor: Actor::Account(decided.account),
            action: Action::ChallengeDecided {
                authorization: id,
                identifier: decided.identifier.to_string(),
                challenge: kind.name().to_owned(),
                valid: validated.outcome.is_ok(),
                detail: validated.outcome.as_ref().err().map(|why| why.detail.clone()).unwrap_or_default(),
            },
        };
        let changes = vec![Change::PutAuthorization(decided)];
        Ok(self.store.commit(Commit { changes, audit: vec![event], ..Commit::default() }).await?)
    }

    /// Takes up validations that were accepted and not decided.
    pub(crate) async fn resume_validations(self: &App) -> Result<usize, StoreError> {
        let mut begun = 0;
        for authorization in self.store.authorizations_processing(RESUMED_AT_ONCE).await? {
            let Some(account) = self.store.account(authorization.account).await? else { continue };
            let Some(directory) = self.directory(account.directory.as_str()) else {
                tracing::warn!(authorization = %authorization.id, directory = %account.directory,
                    "a validation can't go on: its directory is not configured any more");
                continue;
            };
            begun += self.continue_validations(directory, &authorization, account.thumbprint);
        }
        Ok(begun)
    }

    /// Sees to it that what is `processing` is being validated here: whoever did it may have been stopped.
    pub(crate) fn continue_validations(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        authorization: &Authorization,
        thumbprint: Thumbprint,
    ) -> usize {
        if authorization.state != AuthorizationState::Pending {
            return 0;
        }
        authorization
            .processing()
            .filter(|challenge| {
                matches!(self.validate(directory, authorization, challenge, thumbprint), Ok(true))
            })
            .count()
    }
}
