//! Authorizations, RFC 8555 §7.1.4 and §7.5.

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::challenge::{Attempt, Challenge, ChallengeState, ChallengeType, ValidationFailure};
use crate::id::{AccountId, AuthorizationId};
use crate::pkix::identifier::Identifier;
use crate::store::Version;
use crate::time::Timestamp;

/// An account's proof, or way to prove, that it controls an identifier. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Its name in URLs.
    pub id: AuthorizationId,
    /// Whose it is.
    pub account: AccountId,
    /// What it is about; never with a wildcard label.
    pub identifier: Identifier,
    /// Whether it is about every name one label below `identifier` instead of `identifier` itself.
    pub wildcard: bool,
    /// How far it got.
    pub state: AuthorizationState,
    /// The ways to prove control, one of which suffices.
    pub challenges: Vec<Challenge>,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// What is stored of an authorization's status; expiry is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum AuthorizationState {
    /// No challenge is decided.
    Pending,
    /// A challenge succeeded.
    Valid {
        /// When.
        validated_at: Timestamp,
        /// By which challenge.
        by: ChallengeType,
    },
    /// A challenge failed.
    Invalid {
        /// When.
        failed_at: Timestamp,
    },
    /// The account gave it up.
    Deactivated {
        /// When.
        at: Timestamp,
    },
    /// An administrator took it away.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

/// An authorization's status at a point in time, RFC 8555 §7.1.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationStatus {
    /// The client acts next.
    Pending,
    /// Control is proven.
    Valid,
    /// Control was not proven.
    Invalid,
    /// Given up by the account.
    Deactivated,
    /// Its time is over.
    Expired,
    /// Taken away.
    Revoked,
}

impl AuthorizationStatus {
    /// The status as RFC 8555 writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Deactivated => "deactivated",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Why a challenge was not accepted; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AcceptError {
    /// The authorization has no such challenge.
    #[error("this authorization has no {0} challenge")]
    NoSuchChallenge(ChallengeType),
    /// The authorization can't be worked on any more.
    #[error("the authorization is {0}; place a new order")]
    NotPending(&'static str),
}

/// What a client's word that it is ready leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The challenge is to be validated now; this is the authorization with it in `processing`.
    Validate(Authorization),
    /// The challenge was accepted before, or is decided: nothing changes.
    Unchanged,
}

impl Authorization {
    /// A new authorization for one identifier of an order, with those of the `offered` challenges that can prove it.
    pub fn generate(
        account: AccountId,
        ordered: &Identifier,
        offered: &[ChallengeType],
        now: Timestamp,
        expires_at: Timestamp,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        Self {
            id: AuthorizationId::generate(now, rng),
            account,
            identifier: ordered.base(),
            wildcard: ordered.is_wildcard(),
            state: AuthorizationState::Pending,
            challenges: offered
                .iter()
                .filter(|kind| kind.proves(ordered))
                .map(|kind| Challenge::generate(*kind, rng))
                .collect(),
            created_at: now,
            expires_at,
            version: Version::NEW,
        }
    }

    /// The status at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> AuthorizationStatus {
        match self.state {
            AuthorizationState::Deactivated { .. } => AuthorizationStatus::Deactivated,
            AuthorizationState::Revoked { .. } => AuthorizationStatus::Revoked,
            AuthorizationState::Invalid { .. } => AuthorizationStatus::Invalid,
            AuthorizationState::Pending | AuthorizationState::Valid { .. } if self.expires_at <= now => {
                AuthorizationStatus::Expired
            }
            AuthorizationState::Pending => AuthorizationStatus::Pending,
            AuthorizationState::Valid { .. } => AuthorizationStatus::Valid,
        }
    }

    /// Whether this authorization is about `identifier` as an order names it.
    #[must_use]
    pub fn covers(&self, ordered: &Identifier) -> bool {
        self.wildcard == ordered.is_wildcard() && self.identifier == ordered.base()
    }

    /// The challenge of a kind.
    #[must_use]
    pub fn challenge(&self, kind: ChallengeType) -> Option<&Challenge> {
        self.challenges.iter().find(|challenge| challenge.kind == kind)
    }

    /// The client says that it is ready for a challenge, RFC 8555 §7.5.1.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub fn accept(&self, kind: ChallengeType, now: Timestamp) -> Result<Accepted, AcceptError> {
        let challenge = self.challenge(kind).ok_or(AcceptError::NoSuchChallenge(kind))?;
        match (&challenge.state, self.status(now)) {
            (ChallengeState::Pending, AuthorizationStatus::Pending) => Ok(Accepted::Validate(
                self.with_challenge(kind, ChallengeState::Processing { accepted_at: now }),
            )),
            (ChallengeState::Pending, other) => Err(AcceptError::NotPending(other.name())),
            _ => Ok(Accepted::Unchanged),
        }
    }

    /// The authorization after a challenge was decided. One that is no longer pending stays as it is.
    #[must_use]
    pub fn decided(
        &self,
        kind: ChallengeType,
        attempts: Vec<Attempt>,
        outcome: Result<(), ValidationFailure>,
        now: Timestamp,
    ) -> Self {
        if self.state != AuthorizationState::Pending {
            return self.clone();
        }
        let (challenge, state) = match outcome {
            Ok(()) => (
                ChallengeState::Valid { validated_at: now, attempts },
                AuthorizationState::Valid { validated_at: now, by: kind },
            ),
            Err(failure) => (
                ChallengeState::Invalid { failed_at: now, failure, attempts },
                AuthorizationState::Invalid { failed_at: now },
            ),
        };
        Self { state, ..self.with_challenge(kind, challenge) }
    }

    /// The authorization, given up by its account, RFC 8555 §7.5.2. One that has ended stays as it is.
    #[must_use]
    pub fn deactivated(&self, now: Timestamp) -> Self {
        match self.state {
            AuthorizationState::Pending | AuthorizationState::Valid { .. } => {
                Self { state: AuthorizationState::Deactivated { at: now }, ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The challenges that were accepted and not decided, such as after a restart.
    pub fn processing(&self) -> impl Iterator<Item = &Challenge> {
        self.challenges.iter().filter(|c| matches!(c.state, ChallengeState::Processing { .. }))
    }

    fn with_challenge(&self, kind: ChallengeType, state: ChallengeState) -> Self {
        let mut next = self.clone();
        for challenge in next.challenges.iter_mut().filter(|challenge| challenge.kind == kind) {
            challenge.state = state.clone();
        }
        next
    }
}
