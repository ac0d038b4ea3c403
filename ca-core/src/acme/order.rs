//! Orders, RFC 8555 §7.1.3 and §7.4.

use std::collections::HashMap;
use std::time::Duration;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::DirectoryName;
use crate::acme::admission::Admission;
use crate::acme::authorization::{Authorization, AuthorizationStatus, require_attested_key};
use crate::acme::renewal::{Predecessor, ReplacesRejected};
use crate::acme::star::{self, AskedAutoRenewal, AutoRenewal, AutoRenewalRefused, Renewing};
use crate::id::{AccountId, AuthorizationId, OrderId};
use crate::pkix::csr::{Csr, CsrError};
use crate::pkix::identifier::{DnsName, Identifier};
use crate::policy::{DirectoryPolicy, NameRefused};
use crate::policy_hook::Annotations;
use crate::profile::{Profile, ProfileName, RequestedValidity, ValidityRefused};
use crate::store::{CertificateId, CertificateRecord, Version};
use crate::time::Timestamp;

/// An account's request for one certificate. A stored type: changing it needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name in URLs.
    pub id: OrderId,
    /// Whose it is.
    pub account: AccountId,
    /// The directory it was placed in.
    pub directory: DirectoryName,
    /// The names the certificate is to have, in the order asked for, each once.
    pub identifiers: Vec<Identifier>,
    /// The authorizations by which the identifiers are proven, in the order of these. One may serve for several.
    pub authorizations: Vec<AuthorizationId>,
    /// The profile the certificate is made by.
    pub profile: ProfileName,
    /// The dates that the certificate is to have; those of the profile where none were asked for.
    #[serde(default, skip_serializing_if = "RequestedValidity::is_empty")]
    pub validity: RequestedValidity,
    /// The certificate that this one is to replace, RFC 9773 §5; set when the order is placed, after
    /// [`crate::acme::renewal::require_replaceable`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Predecessor>,
    /// How its certificate is renewed without the client, RFC 8739.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_renewal: Option<AutoRenewal>,
    /// What the policy service has kept beside it; set by role ca when it reserves the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Box<Annotations>>,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Until when it can be worked on.
    pub expires_at: Timestamp,
    /// What is stored of its status.
    pub state: OrderState,
    /// Counts its changes.
    pub version: Version,
}

/// What is stored of an order's status: `pending`, `ready` and `invalid` of an open order derive from its
/// authorizations and the time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum OrderState {
    /// No CSR was accepted.
    Open,
    /// A CSR was accepted; the CA acts next.
    Processing {
        /// The CSR in DER.
        #[serde(with = "crate::id::serde_base64url")]
        csr: Vec<u8>,
    },
    /// The certificate is there.
    Valid {
        /// Which.
        certificate: CertificateId,
    },
    /// Certificates are issued one after the other, RFC 8739; `valid` to the client.
    Renewing(Box<Renewing>),
    /// The account canceled it: no more are issued, and none is downloaded (RFC 8739 §3.1.2).
    Canceled {
        /// The newest certificate.
        certificate: CertificateId,
        /// When it was canceled.
        at: Timestamp,
    },
    /// The CA issues no more certificates for it.
    Stopped {
        /// The newest certificate.
        certificate: CertificateId,
        /// Why.
        failure: OrderFailure,
    },
    /// It failed for good.
    Failed {
        /// Why.
        failure: OrderFailure,
    },
}

impl OrderState {
    /// Whether an order may go from this state to `next`, whoever writes it. What has ended stays as it is, and the CSR
    /// that was accepted is the one that is certified. Of these, `ca` alone writes certificates and failures
    /// ([`crate::store::permits`]): what is left to a front end is to accept a CSR, and to cancel.
    #[must_use]
    pub fn may_become(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Open, Self::Open | Self::Processing { .. } | Self::Failed { .. })
            | (Self::Processing { .. }, Self::Valid { .. } | Self::Failed { .. }) => true,
            (Self::Processing { csr }, Self::Processing { csr: other }) => csr == other,
            (Self::Processing { csr }, Self::Renewing(renewing)) => *csr == renewing.csr,
            (Self::Renewing(renewing), Self::Renewing(next)) => {
                renewing.csr == next.csr && renewing.first == next.first && renewing.index <= next.index
            }
            (
                Self::Renewing(renewing),
                Self::Canceled { certificate, .. } | Self::Stopped { certificate, .. },
            ) => renewing.certificate == *certificate,
            (ended, next) => {
                !matches!(ended, Self::Open | Self::Processing { .. } | Self::Renewing(_)) && ended == next
            }
        }
    }
}

/// Why an order failed for good, in words for the requester.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OrderFailure {
    /// An authorization is not valid any more.
    #[error("{detail}")]
    Unauthorized {
        /// Which, and why.
        detail: String,
    },
    /// Policy refuses a name.
    #[error("{detail}")]
    RejectedIdentifier {
        /// Which, and why.
        detail: String,
    },
    /// The CSR or its key is not acceptable.
    #[error("{detail}")]
    BadCsr {
        /// Why.
        detail: String,
    },
    /// The profile is not offered any more.
    #[error("{detail}")]
    InvalidProfile {
        /// Which.
        detail: String,
    },
    /// The dates asked for can't be kept any more.
    #[error("{detail}")]
    Validity {
        /// Why.
        detail: String,
    },
    /// The CA could not issue.
    #[error("{detail}")]
    Internal {
        /// What the requester may know of it.
        detail: String,
    },
}

/// An order's status at a point in time, RFC 8555 §7.1.6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderStatus {
    /// An authorization is open; the subscriber acts next.
    Pending,
    /// Every authorization is valid; the subscriber may finalize.
    Ready,
    /// A CSR was accepted; the CA acts next.
    Processing,
    /// The certificate is there.
    Valid(CertificateId),
    /// This certificate is there, and others follow it, RFC 8739.
    Renewing(CertificateId),
    /// The account ended its automatic renewal.
    Canceled,
    /// It will never be issued, or no more of them will be.
    Invalid(Option<OrderFailure>),
}

impl OrderStatus {
    /// The status as RFC 8555 writes it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Valid(_) | Self::Renewing(_) => "valid",
            Self::Canceled => "canceled",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// What a client asks for in newOrder, parsed.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// The identifiers, as asked for, each parsed.
    pub identifiers: Vec<Identifier>,
    /// The domains above some of them that the client can prove instead, RFC 9444 §4.3.
    pub ancestors: HashMap<Identifier, DnsName>,
    /// What the account holds that may serve for them.
    pub held: Vec<Authorization>,
    /// The profile asked for.
    pub profile: Option<ProfileName>,
    /// The dates asked for.
    pub validity: RequestedValidity,
    /// The automatic renewal asked for.
    pub auto_renewal: Option<AskedAutoRenewal>,
}

/// Why an order was not taken; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OrderRejected {
    /// There is no identifier.
    #[error("an order needs at least one identifier")]
    Empty,
    /// There are too many identifiers.
    #[error("an order has at most {0} identifiers")]
    TooMany(usize),
    /// Policy refuses identifiers: all of them with their reasons.
    #[error("{} of the identifiers can't be ordered here", .0.len())]
    Refused(Vec<(Identifier, NameRefused)>),
    /// The domain to be proven instead is not above the name.
    #[error("'{1}' is no ancestor of '{0}'")]
    NotAncestor(Identifier, DnsName),
    /// The profile is not offered.
    #[error("the profile '{0}' is not offered here")]
    UnknownProfile(ProfileName),
    /// None of the profiles that the account may use is configured any more.
    #[error("no profile is left that this account may use; ask the operator of this CA")]
    NoProfile,
    /// notBefore and notAfter are set by the profile.
    #[error("notBefore and notAfter can't be chosen here; leave them out")]
    ValidityNotOffered,
    /// The profile does not admit the dates.
    #[error(transparent)]
    Validity(#[from] ValidityRefused),
    /// It can't be renewed as it asks for.
    #[error(transparent)]
    AutoRenewal(#[from] AutoRenewalRefused),
    /// It can't replace what it is to replace.
    #[error(transparent)]
    Replaces(#[from] ReplacesRejected),
}

/// Why a CSR was not accepted; the order stays `ready`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FinalizeError {
    /// The order is in another status.
    #[error("the order is {0}, not ready")]
    NotReady(&'static str),
    /// The operator withdrew the profile since the order was placed.
    #[error("the profile '{0}' is not offered any more; place a new order with another one")]
    ProfileWithdrawn(ProfileName),
    /// The CSR is at fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
}

/// Why an order was not canceled; the subscriber acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CancelError {
    /// It is not renewed automatically.
    #[error("only orders with auto-renewal can be canceled")]
    NotRenewed,
    /// RFC 8739 §3.1.2: only a valid order can be.
    #[error("the order is {0}, not valid, so that it can't be canceled")]
    NotValid(&'static str),
}

/// The domain above `identifier` that is to be proven instead, if the client named one and policy lets it serve. A name
/// that the account is trusted with needs no proof.
fn provable(
    identifier: &Identifier,
    ancestors: &HashMap<Identifier, DnsName>,
    admission: &Admission<'_>,
) -> Result<Option<Identifier>, OrderRejected> {
    let Some(ancestor) = ancestors.get(identifier) else { return Ok(None) };
    let is_above = |name: &DnsName| name.is_within(ancestor) && !ancestor.is_wildcard();
    if !matches!(identifier, Identifier::Dns(name) if is_above(name)) {
        return Err(OrderRejected::NotAncestor(identifier.clone(), ancestor.clone()));
    }
    let possible = admission.policy().subdomains
        && admission.challenges().iter().any(|kind| kind.is_dns())
        && admission.trusts(identifier).is_none();
    Ok(possible.then(|| Identifier::Dns(ancestor.clone())))
}

/// How long orders and their authorizations can be worked on, and how many names they take.
#[derive(Clone, Copy, Debug)]
pub struct OrderLimits {
    /// Until when an order can be finalized.
    pub order_lifetime: Duration,
    /// Until when an authorization can be used.
    pub authorization_lifetime: Duration,
    /// The most identifiers in one order.
    pub max_identifiers: usize,
}

impl Order {
    /// Places an order: checks every name against what the account may order and makes an authorization for each.
    ///
    /// Repeated identifiers count once.
    ///
    /// # Errors
    /// See [`OrderRejected`].
    pub fn place(
        request: NewOrder,
        account: AccountId,
        admission: &Admission<'_>,
        now: Timestamp,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Self, Vec<Authorization>), OrderRejected> {
        let limits = admission.policy().limits;
        let mut identifiers: Vec<Identifier> = Vec::with_capacity(request.identifiers.len());
        let mut seen = std::collections::HashSet::with_capacity(request.identifiers.len());
        identifiers
            .extend(request.identifiers.into_iter().filter(|identifier| seen.insert(identifier.clone())));
        if identifiers.is_empty() {
            return Err(OrderRejected::Empty);
        }
        if identifiers.len() > limits.max_identifiers {
            return Err(OrderRejected::TooMany(limits.max_identifiers));
        }
        let auto_renewal = match (&request.auto_renewal, &admission.policy().star) {
            (None, _) => None,
            (Some(_), None) => return Err(AutoRenewalRefused::NotOffered.into()),
            (Some(_), Some(_)) if !request.validity.is_empty() => {
                return Err(AutoRenewalRefused::WithValidity.into());
            }
            (Some(asked), Some(offered)) => Some(offered.accept(asked, now)?),
        };
        if !request.validity.is_empty() && !admission.policy().client_validity {
            return Err(OrderRejected::ValidityNotOffered);
        }
        let profile = match request.profile {
            Some(name) if admission.profiles().any(|offered| *offered == name) => name,
            Some(name) => return Err(OrderRejected::UnknownProfile(name)),
            None => admission.profiles().next().ok_or(OrderRejected::NoProfile)?.clone(),
        };
        let refused: Vec<_> = identifiers
            .iter()
            .filter_map(|identifier| admission.permits(identifier).err().map(|why| (identifier.clone(), why)))
            .collect();
        if !refused.is_empty() {
            return Err(OrderRejected::Refused(refused));
        }
        let mut authorizations: Vec<Authorization> = Vec::with_capacity(identifiers.len());
        for identifier in &identifiers {
            let ancestor = provable(identifier, &request.ancestors, admission)?;
            if authorizations.iter().any(|chosen| chosen.covers(identifier)) {
                continue;
            }
            let reused = request.held.iter().find(|held| admission.reuses(held, identifier, now));
            let expires_at = now.plus(limits.authorization_lifetime);
            authorizations.push(match (reused, ancestor) {
                (Some(held), _) => held.clone(),
                (None, Some(domain)) => {
                    Authorization::for_subdomains(account, &domain, admission, now, expires_at, rng)
                }
                (None, None) => Authorization::generate(account, identifier, admission, now, expires_at, rng),
            });
        }
        // What is reused may end before the order would.
        let reused = authorizations.iter().filter(|held| held.version != Version::NEW);
        let expires_at =
            reused.map(|held| held.expires_at).fold(now.plus(limits.order_lifetime), Timestamp::min);
        let order = Self {
            id: OrderId::generate(now, rng),
            account,
            directory: admission.policy().directory.clone(),
            identifiers,
            authorizations: authorizations.iter().map(|authorization| authorization.id).collect(),
            profile,
            validity: request.validity,
            replaces: None,
            auto_renewal,
            annotations: None,
            created_at: now,
            expires_at,
            state: OrderState::Open,
            version: Version::NEW,
        };
        Ok((order, authorizations))
    }

    /// Whether its certificates can be fetched without a signature, RFC 8739 §3.4: who can't sign for the account may know
    /// the order's id then.
    #[must_use]
    pub fn lets_anybody_fetch(&self) -> bool {
        self.auto_renewal.is_some_and(|agreed| agreed.certificate_get)
    }

    /// Checks the automatic renewal that was agreed on against the order's profile.
    ///
    /// # Errors
    /// [`AutoRenewalRefused::OutsideProfile`].
    pub fn require_renewable(
        &self,
        profile: &Profile,
        admission: &Admission<'_>,
    ) -> Result<(), AutoRenewalRefused> {
        self.auto_renewal.map_or(Ok(()), |agreed| agreed.require_within(admission.validity(profile)))
    }

    /// Ends the automatic renewal, RFC 8739 §3.1.2: from now on, nothing is issued for it.
    ///
    /// # Errors
    /// See [`CancelError`].
    pub fn cancel(&self, authorizations: &[Authorization], now: Timestamp) -> Result<Self, CancelError> {
        match &self.state {
            OrderState::Renewing(renewing) => {
                let state = OrderState::Canceled { certificate: renewing.certificate.clone(), at: now };
                Ok(Self { state, expires_at: now, ..self.clone() })
            }
            _ if self.auto_renewal.is_none() => Err(CancelError::NotRenewed),
            _ => Err(CancelError::NotValid(self.status(authorizations, now).name())),
        }
    }

    /// The order once this certificate was issued for it. One with automatic renewal lasts until its end-date.
    #[must_use]
    pub fn certified(self, record: &CertificateRecord) -> Self {
        let certificate = record.id.clone();
        let Some(agreed) = self.auto_renewal else {
            return Self { state: OrderState::Valid { certificate }, ..self };
        };
        let renewing = match self.state {
            OrderState::Processing { csr } => {
                Renewing::issued(&agreed, csr, certificate, agreed.first(record.reserved_at), 0)
            }
            OrderState::Renewing(renewing) => {
                let index = renewing.next_index(&agreed, record.reserved_at);
                Renewing::issued(&agreed, renewing.csr, certificate, renewing.first, index)
            }
            state => return Self { state, ..self },
        };
        Self { state: OrderState::Renewing(Box::new(renewing)), expires_at: agreed.end, ..self }
    }

    /// The order once it failed for good, or once no more certificates are issued for it.
    #[must_use]
    pub fn failed(self, failure: OrderFailure) -> Self {
        let state = match self.state {
            OrderState::Renewing(renewing) => {
                OrderState::Stopped { certificate: renewing.certificate, failure }
            }
            _ => OrderState::Failed { failure },
        };
        Self { state, ..self }
    }

    /// Whether the CA acts next: a CSR was accepted, or a further certificate was asked for and is still due.
    #[must_use]
    pub fn awaits_certificate(&self, now: Timestamp) -> bool {
        matches!(self.state, OrderState::Processing { .. }) || star::awaits(self, now)
    }

    /// Checks the dates that were asked for against the order's profile.
    ///
    /// # Errors
    /// See [`ValidityRefused`].
    pub fn require_validity(
        &self,
        profile: &Profile,
        admission: &Admission<'_>,
        now: Timestamp,
    ) -> Result<(), ValidityRefused> {
        profile.period(self.validity, admission.validity(profile), Duration::ZERO, now).map(drop)
    }

    /// The status at `now`, given the order's authorizations.
    #[must_use]
    pub fn status(&self, authorizations: &[Authorization], now: Timestamp) -> OrderStatus {
        match &self.state {
            OrderState::Processing { .. } => OrderStatus::Processing,
            OrderState::Valid { certificate } => OrderStatus::Valid(certificate.clone()),
            OrderState::Renewing(renewing) => OrderStatus::Renewing(renewing.certificate.clone()),
            OrderState::Canceled { .. } => OrderStatus::Canceled,
            OrderState::Stopped { failure, .. } => OrderStatus::Invalid(Some(failure.clone())),
            OrderState::Failed { failure } => OrderStatus::Invalid(Some(failure.clone())),
            OrderState::Open if self.expires_at <= now => OrderStatus::Invalid(None),
            OrderState::Open => {
                let mut ready = true;
                for identifier in &self.identifiers {
                    match authorizations.iter().find(|a| a.covers(identifier)).map(|a| a.status(now)) {
                        Some(AuthorizationStatus::Valid) => {}
                        Some(AuthorizationStatus::Pending) => ready = false,
                        _ => return OrderStatus::Invalid(None),
                    }
                }
                if ready { OrderStatus::Ready } else { OrderStatus::Pending }
            }
        }
    }

    /// Accepts a CSR, RFC 8555 §7.4: the order must be ready, and the CSR ask for exactly its names.
    ///
    /// # Errors
    /// See [`FinalizeError`].
    pub fn finalize(
        &self,
        authorizations: &[Authorization],
        csr: &Csr,
        policy: &DirectoryPolicy,
        now: Timestamp,
    ) -> Result<Self, FinalizeError> {
        match self.status(authorizations, now) {
            OrderStatus::Ready => {}
            other => return Err(FinalizeError::NotReady(other.name())),
        }
        if !policy.profiles.contains(&self.profile) {
            return Err(FinalizeError::ProfileWithdrawn(self.profile.clone()));
        }
        csr.require_names(&self.identifiers)?;
        require_attested_key(authorizations, csr.public_key())?;
        policy.subscriber_keys.require(csr.public_key())?;
        Ok(Self { state: OrderState::Processing { csr: csr.der().to_vec() }, ..self.clone() })
    }
}
