//! Authorizations, RFC 8555 §7.1.4 and §7.5.

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::admission::Admission;
use crate::acme::challenge::{Attempt, Challenge, ChallengeState, ChallengeType, Proven, ValidationFailure};
use crate::id::{AccountId, AuthorizationId, ExternalAccountId};
use crate::pkix::csr::CsrError;
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::{KeyHash, PublicKey};
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
    /// Whether it is about every name below `identifier`, at any depth, as well: RFC 9444 §4.1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub subdomains: bool,
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
    /// No challenge was needed: the operator trusts the account's external account with the name.
    Trusted {
        /// Since when.
        at: Timestamp,
        /// Which external account vouches for the name.
        external_account: ExternalAccountId,
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

impl AuthorizationState {
    /// Whether an authorization may go from this state to `next`, whoever writes it: a proof is made once, and one that
    /// has ended stays as it is.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => true,
            Self::Valid { .. } | Self::Trusted { .. } => {
                self == next || matches!(next, Self::Deactivated { .. } | Self::Revoked { .. })
            }
            Self::Invalid { .. } | Self::Deactivated { .. } | Self::Revoked { .. } => self == next,
        }
    }
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
    /// A new authorization for one identifier of an order: with those of the challenges offered that can prove it, or
    /// born valid, without any, if the account is trusted with the name.
    pub fn generate(
        account: AccountId,
        ordered: &Identifier,
        admission: &Admission<'_>,
        now: Timestamp,
        expires_at: Timestamp,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        if let Some(external_account) = admission.trusts(ordered) {
            return Self {
                id: AuthorizationId::generate(now, rng),
                account,
                identifier: ordered.base(),
                wildcard: ordered.is_wildcard(),
                subdomains: false,
                state: AuthorizationState::Trusted { at: now, external_account },
                challenges: Vec::new(),
                created_at: now,
                // Trust ends with what it rests on.
                expires_at: admission.expires_at().map_or(expires_at, |ends| ends.min(expires_at)),
                version: Version::NEW,
            };
        }
        Self {
            id: AuthorizationId::generate(now, rng),
            account,
            identifier: ordered.base(),
            wildcard: ordered.is_wildcard(),
            subdomains: false,
            state: AuthorizationState::Pending,
            challenges: admission
                .challenges()
                .into_iter()
                .filter(|kind| kind.proves(ordered))
                .map(|kind| Challenge::generate(kind, rng))
                .collect(),
            created_at: now,
            expires_at,
            version: Version::NEW,
        }
    }

    /// A new authorization for a domain and every name below it, RFC 9444 §4.1: proven in the DNS alone, which whoever
    /// runs the zone controls for all of them.
    pub fn for_subdomains(
        account: AccountId,
        domain: &Identifier,
        admission: &Admission<'_>,
        now: Timestamp,
        expires_at: Timestamp,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Self {
        let mut authorization = Self::generate(account, &domain.base(), admission, now, expires_at, rng);
        authorization.challenges.retain(|challenge| challenge.kind.is_dns());
        Self { subdomains: true, ..authorization }
    }

    /// The status at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> AuthorizationStatus {
        match self.state {
            AuthorizationState::Deactivated { .. } => AuthorizationStatus::Deactivated,
            AuthorizationState::Revoked { .. } => AuthorizationStatus::Revoked,
            AuthorizationState::Invalid { .. } => AuthorizationStatus::Invalid,
            AuthorizationState::Pending
            | AuthorizationState::Valid { .. }
            | AuthorizationState::Trusted { .. }
                if self.expires_at <= now =>
            {
                AuthorizationStatus::Expired
            }
            AuthorizationState::Pending => AuthorizationStatus::Pending,
            AuthorizationState::Valid { .. } | AuthorizationState::Trusted { .. } => {
                AuthorizationStatus::Valid
            }
        }
    }

    /// Whether no challenge was needed for it.
    #[must_use]
    pub const fn is_trusted(&self) -> bool {
        matches!(self.state, AuthorizationState::Trusted { .. })
    }

    /// Whether this authorization is about `identifier` as an order names it.
    #[must_use]
    pub fn covers(&self, ordered: &Identifier) -> bool {
        if let (true, Identifier::Dns(domain), Identifier::Dns(name)) =
            (self.subdomains, &self.identifier, ordered)
        {
            return name.is_within(domain);
        }
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
        outcome: Result<Proven, ValidationFailure>,
        now: Timestamp,
    ) -> Self {
        if self.state != AuthorizationState::Pending {
            return self.clone();
        }
        let (challenge, state, until) = match outcome {
            Ok(Proven { until, attested_key }) => (
                ChallengeState::Valid { validated_at: now, attempts, attested_key },
                AuthorizationState::Valid { validated_at: now, by: kind },
                until,
            ),
            Err(failure) => (
                ChallengeState::Invalid { failed_at: now, failure, attempts },
                AuthorizationState::Invalid { failed_at: now },
                None,
            ),
        };
        let expires_at = until.map_or(self.expires_at, |until| until.min(self.expires_at));
        Self { state, expires_at, ..self.with_challenge(kind, challenge) }
    }

    /// The authorization, given up by its account, RFC 8555 §7.5.2. One that has ended stays as it is.
    #[must_use]
    pub fn deactivated(&self, now: Timestamp) -> Self {
        match self.state {
            AuthorizationState::Pending
            | AuthorizationState::Valid { .. }
            | AuthorizationState::Trusted { .. } => {
                Self { state: AuthorizationState::Deactivated { at: now }, ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The authorization, taken away by an administrator. One that has ended stays as it is.
    #[must_use]
    pub fn revoked(&self, now: Timestamp) -> Self {
        match self.state {
            AuthorizationState::Pending
            | AuthorizationState::Valid { .. }
            | AuthorizationState::Trusted { .. } => {
                Self { state: AuthorizationState::Revoked { at: now }, ..self.clone() }
            }
            AuthorizationState::Invalid { .. }
            | AuthorizationState::Deactivated { .. }
            | AuthorizationState::Revoked { .. } => self.clone(),
        }
    }

    /// The key that a device attested when it proved this authorization: no other may be certified by it.
    #[must_use]
    pub fn attested_key(&self) -> Option<KeyHash> {
        let AuthorizationState::Valid { by, .. } = self.state else { return None };
        match self.challenge(by)?.state {
            ChallengeState::Valid { attested_key, .. } => attested_key,
            _ => None,
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

/// Whether `key` is the one that devices attested wherever they proved one of these authorizations, by which the
/// certificate's key is bound to the device (draft-ietf-acme-device-attest-10 §8).
///
/// # Errors
/// [`CsrError::NotAttested`] with the device.
pub fn require_attested_key(authorizations: &[Authorization], key: &PublicKey) -> Result<(), CsrError> {
    let hash = key.hash();
    let other = |authorization: &&Authorization| {
        authorization.attested_key().is_some_and(|attested| attested != hash)
    };
    match authorizations.iter().find(other) {
        Some(authorization) => Err(CsrError::NotAttested(authorization.identifier.clone())),
        None => Ok(()),
    }
}
