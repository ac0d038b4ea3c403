//! Validations under way: off the request path, bounded, one at a time for each challenge, their outcome committed.

mod places;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::acme::authorization::Accepted;
use ca_core::acme::{Account, Authorization, AuthorizationState, Challenge, ChallengeType};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, AuthorizationId};
use ca_core::store::{Change, Commit, StoreError};
use ca_core::time::Stopwatch;

use crate::problem::{Problem, ProblemType};
use crate::service::{App, Directory, Shared};
use crate::validation::{Validated, Validation};
use places::{Places, Share};

/// How many are taken up after a restart in one go.
const RESUMED_AT_ONCE: u32 = 1000;

/// How often an outcome is offered to a store that does not take it.
const OFFERS: u32 = 10;

type Key = (AuthorizationId, ChallengeType);

/// The validations under way.
#[derive(Default)]
pub(crate) struct Validations {
    running: Arc<Mutex<HashSet<Key>>>,
    places: Places,
}

/// Keeps a challenge from being validated twice at a time, until dropped.
struct Running {
    set: Arc<Mutex<HashSet<Key>>>,
    key: Key,
    share: Share,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Validations {
    /// `None` if it is under way already.
    fn begin(&self, key: Key, account: AccountId) -> Result<Option<Running>, Problem> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains(&key) {
            return Ok(None);
        }
        let share = self.places.share(account)?;
        running.insert(key);
        Ok(Some(Running { set: self.running.clone(), key, share }))
    }

    /// A share in the places for something else that an account has looked up.
    ///
    /// # Errors
    /// If too many wait.
    pub(crate) fn share(&self, account: AccountId) -> Result<Share, Problem> {
        self.places.share(account)
    }
}

/// What has to be decided for a challenge of an account.
fn asked(
    directory: &Directory,
    authorization: &Authorization,
    challenge: &Challenge,
    account: &Account,
) -> Validation {
    Validation {
        challenge: challenge.clone(),
        identifier: authorization.identifier.clone(),
        // What proves every name below proves wildcards.
        wildcard: authorization.wildcard || authorization.subdomains,
        claimant: directory.claimant(account),
        // Which names it will serve is not known yet: their records are looked at when one is certified.
        caa: directory.caa_subject(authorization, Some(challenge.kind)).filter(|_| !authorization.subdomains),
    }
}

/// The outcome as metrics name it.
fn outcome(validated: &Validated) -> &'static str {
    match &validated.outcome {
        Ok(_) => "valid",
        Err(failure) => ProblemType::from(failure.kind).name(),
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
        account: &Account,
    ) -> Result<bool, Problem> {
        let key = (authorization.id, challenge.kind);
        let Some(running) = self.validations.begin(key, authorization.account)? else {
            return Ok(false);
        };
        let (app, directory, account) = (self.clone(), directory.clone(), account.clone());
        let asked = asked(&directory, authorization, challenge, &account);
        let counted = self.metrics.validation_began();
        tokio::spawn(async move {
            let (running, _counted) = (running, counted);
            let stopwatch = Stopwatch::start();
            let (id, kind) = running.key;
            let validated = directory.validator.validate(asked, || running.share.place()).await;
            app.metrics.validation_ended(kind, outcome(&validated), stopwatch.elapsed());
            app.record(&directory, &account, (id, kind), &validated).await;
        });
        Ok(true)
    }

    /// Judges the attestation that came with a response to device-attest-01, and commits acceptance and outcome
    /// together: nothing has to be fetched.
    ///
    /// # Errors
    /// If the store does not take it; then nothing was decided, and the client may try again.
    pub(crate) async fn attest(
        &self,
        directory: &Directory,
        authorization: &Authorization,
        challenge: &Challenge,
        account: &Account,
        attestation: Option<Vec<u8>>,
    ) -> Result<(), Problem> {
        let (stopwatch, counted) = (Stopwatch::start(), self.metrics.validation_began());
        let asked = asked(directory, authorization, challenge, account);
        let validated = directory.validator.attest(&asked, attestation.as_deref());
        let key = (authorization.id, challenge.kind);
        self.decide(|_| self.try_record(directory, account, key, &validated)).await?;
        self.metrics.validation_ended(challenge.kind, outcome(&validated), stopwatch.elapsed());
        drop(counted);
        Ok(())
    }

    /// Commits an outcome; offers it again for a while if the store does not take it.
    async fn record(&self, directory: &Directory, account: &Account, key: Key, validated: &Validated) {
        let (id, kind) = key;
        let mut pause = Duration::from_millis(50);
        for _ in 0..OFFERS {
            let recorded = self.decide(|_| self.try_record(directory, account, key, validated)).await;
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
        directory: &Directory,
        account: &Account,
        (id, kind): Key,
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
        let changes = vec![Change::PutAuthorization(decided.clone())];
        let mut commit = Commit { changes, audit: vec![event], ..Commit::default() };
        let failed = validated.outcome.as_ref().err().map(|why| why.detail.as_str());
        self.count_outcome(directory, account, &decided, failed, &mut commit, now).await?;
        Ok(self.store.commit(commit).await?)
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
            begun += self.continue_validations(directory, &authorization, &account);
        }
        Ok(begun)
    }

    /// Sees to it that what is `processing` is being validated here: whoever did it may have been stopped.
    pub(crate) fn continue_validations(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        authorization: &Authorization,
        account: &Account,
    ) -> usize {
        if authorization.state != AuthorizationState::Pending {
            return 0;
        }
        authorization
            .processing()
            .filter(|challenge| {
                matches!(self.validate(directory, authorization, challenge, account), Ok(true))
            })
            .count()
    }
}
