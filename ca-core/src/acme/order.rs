//! Orders, RFC 8555 §7.1.3 and §7.4.

use std::time::Duration;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::DirectoryName;
use crate::acme::authorization::{Authorization, AuthorizationStatus};
use crate::id::{AccountId, AuthorizationId, OrderId};
use crate::pkix::csr::{Csr, CsrError};
use crate::pkix::identifier::Identifier;
use crate::policy::{DirectoryPolicy, NameRefused};
use crate::profile::ProfileName;
use crate::store::{CertificateId, Version};
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
    /// One authorization for each identifier, in the same order.
    pub authorizations: Vec<AuthorizationId>,
    /// The profile the certificate is made by.
    pub profile: ProfileName,
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
    /// It failed for good.
    Failed {
        /// Why.
        failure: OrderFailure,
    },
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
    /// It will never be issued.
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
            Self::Valid(_) => "valid",
            Self::Invalid(_) => "invalid",
        }
    }
}

/// What a client asks for in newOrder, parsed.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// The identifiers, as asked for, each parsed.
    pub identifiers: Vec<Identifier>,
    /// The profile asked for.
    pub profile: Option<ProfileName>,
    /// Whether notBefore or notAfter was asked for.
    pub validity_asked: bool,
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
    /// The profile is not offered.
    #[error("the profile '{0}' is not offered here")]
    UnknownProfile(ProfileName),
    /// notBefore and notAfter are set by the profile.
    #[error("notBefore and notAfter can't be chosen here; leave them out")]
    ValidityNotOffered,
}

/// Why a CSR was not accepted; the order stays `ready`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FinalizeError {
    /// The order is in another status.
    #[error("the order is {0}, not ready")]
    NotReady(&'static str),
    /// The CSR is at fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
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
    /// Places an order: checks every name against the directory's policy and makes an authorization for each.
    ///
    /// Repeated identifiers count once.
    ///
    /// # Errors
    /// See [`OrderRejected`].
    pub fn place(
        request: NewOrder,
        account: AccountId,
        policy: &DirectoryPolicy,
        now: Timestamp,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<(Self, Vec<Authorization>), OrderRejected> {
        let limits = policy.limits;
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
        if request.validity_asked {
            return Err(OrderRejected::ValidityNotOffered);
        }
        let profile = match request.profile {
            Some(name) if policy.profiles.contains(&name) => name,
            Some(name) => return Err(OrderRejected::UnknownProfile(name)),
            None => policy.default_profile().clone(),
        };
        let refused: Vec<_> = identifiers
            .iter()
            .filter_map(|identifier| policy.permits(identifier).err().map(|why| (identifier.clone(), why)))
            .collect();
        if !refused.is_empty() {
            return Err(OrderRejected::Refused(refused));
        }
        let authorizations: Vec<Authorization> = identifiers
            .iter()
            .map(|identifier| {
                let expires_at = now.plus(limits.authorization_lifetime);
                Authorization::generate(account, identifier, &policy.challenges, now, expires_at, rng)
            })
            .collect();
        let order = Self {
            id: OrderId::generate(now, rng),
            account,
            directory: policy.directory.clone(),
            identifiers,
            authorizations: authorizations.iter().map(|authorization| authorization.id).collect(),
            profile,
            created_at: now,
            expires_at: now.plus(limits.order_lifetime),
            state: OrderState::Open,
            version: Version::NEW,
        };
        Ok((order, authorizations))
    }

    /// The status at `now`, given the order's authorizations.
    #[must_use]
    pub fn status(&self, authorizations: &[Authorization], now: Timestamp) -> OrderStatus {
        match &self.state {
            OrderState::Processing { .. } => OrderStatus::Processing,
            OrderState::Valid { certificate } => OrderStatus::Valid(certificate.clone()),
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
        csr.require_names(&self.identifiers)?;
        policy.subscriber_keys.require(csr.public_key())?;
        Ok(Self { state: OrderState::Processing { csr: csr.der().to_vec() }, ..self.clone() })
    }
}
