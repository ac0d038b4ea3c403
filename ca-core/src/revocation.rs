//! Revocation: reasons, and whose authorizations suffice for it.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::caa::climb;
use crate::acme::{Admission, Authorization, AuthorizationStatus};
use crate::pkix::identifier::{DnsName, Identifier};
use crate::policy::DirectoryPolicy;
use crate::time::Timestamp;

/// How many domains above a name are looked at for authorizations that reach down to it.
const DOMAINS_ABOVE: usize = 10;

/// What an account's authorizations must be about to count in [`authorized_for_all`]: the certificate's names, and where
/// the directory takes authorizations for whole domains (RFC 9444), the nearest domains above them. Each once.
#[must_use]
pub fn authorizable(names: &[Identifier], policy: &DirectoryPolicy) -> Vec<Identifier> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for name in names {
        let above = match name {
            Identifier::Dns(name) if policy.subdomains => climb(name).take(1 + DOMAINS_ABOVE).collect(),
            _ => Vec::new(),
        };
        let above = above.into_iter().filter_map(|name| DnsName::parse(name).ok()).map(Identifier::Dns);
        wanted.extend(std::iter::once(name.clone()).chain(above).filter(|name| seen.insert(name.clone())));
    }
    wanted
}

/// Whether an account may revoke a certificate that was issued to another one, since it holds authorizations for all
/// its names ([RFC 8555 §7.6]): valid ones, that rest on what still stands. `held` are authorizations of this account.
///
/// [RFC 8555 §7.6]: https://www.rfc-editor.org/rfc/rfc8555#section-7.6
#[must_use]
pub fn authorized_for_all(
    names: &[Identifier],
    held: &[Authorization],
    admission: &Admission<'_>,
    now: Timestamp,
) -> bool {
    let covered = |name: &Identifier| {
        held.iter().any(|authorization| {
            authorization.covers(name)
                && authorization.status(now) == AuthorizationStatus::Valid
                && admission.upholds(authorization, name)
        })
    };
    !names.is_empty() && names.iter().all(covered)
}

/// Why a certificate was revoked, [RFC 5280 §5.3.1].
///
/// [RFC 5280 §5.3.1]: https://www.rfc-editor.org/rfc/rfc5280#section-5.3.1
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationReason {
    /// No reason given; never written into a CRL entry.
    Unspecified,
    /// The subject's private key is, or may be, in wrong hands.
    KeyCompromise,
    /// The issuer's key is, or may be, in wrong hands.
    CaCompromise,
    /// The subject's name or other data changed.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// It is no longer needed.
    CessationOfOperation,
    /// A privilege it vouched for was withdrawn.
    PrivilegeWithdrawn,
}

/// Not a reason that a certificate can be revoked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no revocation reason; use 0 unspecified, 1 keyCompromise, 2 cACompromise, 3 affiliationChanged, 4 superseded, 5 cessationOfOperation or 9 privilegeWithdrawn"
)]
pub struct InvalidReason(pub String);

impl RevocationReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The reason code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::CaCompromise => 2,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }

    /// From a reason code; `None` for removeFromCRL, certificateHold, aACompromise and codes that do not exist.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in RFC 5280.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::CaCompromise => "cACompromise",
            Self::AffiliationChanged => "affiliationChanged",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
            Self::PrivilegeWithdrawn => "privilegeWithdrawn",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RevocationReason {
    type Err = InvalidReason;

    /// The name in RFC 5280, in any case, or the code.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.name().eq_ignore_ascii_case(text) || reason.code().to_string() == text)
            .ok_or_else(|| InvalidReason(text.to_owned()))
    }
}
