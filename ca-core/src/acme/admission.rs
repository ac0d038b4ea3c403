//! What one account may order: its directory's rules, narrowed by the grant of the external account that it is bound to.
//!
//! The one place that knows both. Role acme asks it to answer early, role ca to decide, each from fresh rows.

use std::time::Duration;

use thiserror::Error;

use crate::acme::authorization::{Authorization, AuthorizationState, AuthorizationStatus};
use crate::acme::external_account::{ExternalAccount, ExternalAccountEnded, Grant};
use crate::acme::{Account, ChallengeType};
use crate::id::ExternalAccountId;
use crate::pkix::identifier::Identifier;
use crate::policy::{DirectoryPolicy, NameRefused};
use crate::profile::{Profile, ProfileName};
use crate::time::Timestamp;

/// How long an authorization lasts at least that serves another order, where its lifetime is ten times that or more.
const LEFT_TO_REUSE: Duration = Duration::from_hours(1);

/// What one account may order.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    policy: &'a DirectoryPolicy,
    external: Option<&'a ExternalAccount>,
}

/// Why an account may order nothing at all; the subscriber asks the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdmissionRefused {
    /// What it is bound to has ended.
    #[error("{0}, which this ACME account is bound to; ask the operator of this CA for a new one")]
    Ended(#[from] ExternalAccountEnded),
    /// What it is bound to is not there, or another directory's.
    #[error("the external account '{0}', which this ACME account is bound to, is not known here")]
    Unknown(ExternalAccountId),
}

impl<'a> Admission<'a> {
    /// What `account` may order at `now`. `external` is the row that the account names, if it names one.
    ///
    /// # Errors
    /// See [`AdmissionRefused`].
    pub fn of(
        policy: &'a DirectoryPolicy,
        account: &Account,
        external: Option<&'a ExternalAccount>,
        now: Timestamp,
    ) -> Result<Self, AdmissionRefused> {
        let Some(binding) = &account.external_account else { return Ok(Self::ungranted(policy)) };
        let external = external
            .filter(|external| external.id == binding.id && external.directory == policy.directory)
            .ok_or(AdmissionRefused::Unknown(binding.id))?;
        external.require_valid(now)?;
        Ok(Self { policy, external: Some(external) })
    }

    /// What an account may order that is bound to nothing: what the directory admits.
    #[must_use]
    pub const fn ungranted(policy: &'a DirectoryPolicy) -> Self {
        Self { policy, external: None }
    }

    /// The directory's rules, for what no grant narrows: keys, limits.
    #[must_use]
    pub const fn policy(&self) -> &'a DirectoryPolicy {
        self.policy
    }

    fn grant(&self) -> Option<&'a Grant> {
        self.external.map(|external| &external.grant)
    }

    /// Whether a certificate for this account may carry this name.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn permits(&self, identifier: &Identifier) -> Result<(), NameRefused> {
        self.policy.admits(identifier)?;
        if let Some(grant) = self.grant() {
            if let Some(rules) = &grant.names
                && !rules.iter().any(|rule| rule.admits(identifier))
            {
                return Err(NameRefused::NotGranted(identifier.clone()));
            }
            if identifier.is_wildcard() && !grant.wildcards {
                return Err(NameRefused::WildcardNotGranted(identifier.clone()));
            }
            // Names admitted by trust need no challenge.
            if grant.trusted && grant.names.is_some() {
                return Ok(());
            }
        }
        if self.challenges().iter().any(|kind| kind.proves(identifier)) {
            return Ok(());
        }
        Err(NameRefused::NoChallenge(identifier.clone()))
    }

    /// The external account that vouches for this name, so that no challenge is needed.
    #[must_use]
    pub fn trusts(&self, identifier: &Identifier) -> Option<ExternalAccountId> {
        let external = self.external?;
        // Never beyond names that the operator has listed for it.
        let trusted = external.grant.trusted && external.grant.names.is_some();
        (trusted && self.permits(identifier).is_ok()).then_some(external.id)
    }

    /// The challenges offered, in the directory's order.
    #[must_use]
    pub fn challenges(&self) -> Vec<ChallengeType> {
        let granted = self.grant().and_then(|grant| grant.challenges.as_ref());
        let offered = self.policy.challenges.iter().copied();
        offered.filter(|kind| granted.is_none_or(|granted| granted.contains(kind))).collect()
    }

    /// The profiles offered, in the directory's order; the first is used when none is asked for. None are left if those
    /// that were granted are not configured any more.
    pub fn profiles(&self) -> impl Iterator<Item = &'a ProfileName> {
        let granted = self.grant().and_then(|grant| grant.profiles.as_ref());
        let offered = self.policy.profiles.iter();
        offered.filter(move |profile| granted.is_none_or(|granted| granted.contains(profile)))
    }

    /// How long a certificate of this profile may be valid.
    #[must_use]
    pub fn validity(&self, profile: &Profile) -> Duration {
        let granted = self.grant().and_then(Grant::max_validity);
        granted.map_or(profile.validity, |granted| granted.min(profile.validity))
    }

    /// Until when the grant lasts, if it ends.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.external.and_then(|external| external.expires_at)
    }

    /// Whether an authorization that the account holds already can serve an order for `identifier`. One that a device
    /// has proven serves no other: it is good for the key attested then, and a new order may bring a new key. Nor does one
    /// that is about to end, within the last tenth of its lifetime or the last hour, whichever is shorter: the order ends
    /// with it, and the client might not get to send its CSR.
    #[must_use]
    pub fn reuses(&self, held: &Authorization, identifier: &Identifier, now: Timestamp) -> bool {
        let AuthorizationState::Valid { validated_at, .. } = held.state else { return false };
        self.policy.reuse.is_some_and(|reuse| now <= validated_at.plus(reuse))
            && held.covers(identifier)
            && held.attested_key().is_none()
            && held.status(now) == AuthorizationStatus::Valid
            && held.expires_at.since(now) >= LEFT_TO_REUSE.min(held.expires_at.since(held.created_at) / 10)
            && self.upholds(held, identifier)
    }

    /// Whether what makes an authorization valid still stands for a name: the challenge is one that is offered, or the
    /// external account that vouched for the name still does.
    #[must_use]
    pub fn upholds(&self, authorization: &Authorization, identifier: &Identifier) -> bool {
        match authorization.state {
            AuthorizationState::Valid { by, .. } => {
                self.challenges().contains(&by) && (self.policy.subdomains || !authorization.subdomains)
            }
            AuthorizationState::Trusted { external_account, .. } => {
                self.trusts(identifier) == Some(external_account)
            }
            AuthorizationState::Pending
            | AuthorizationState::Invalid { .. }
            | AuthorizationState::Deactivated { .. }
            | AuthorizationState::Revoked { .. } => false,
        }
    }
}
