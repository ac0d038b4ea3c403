//! The ACME state machines of RFC 8555 as pure functions: accounts, orders, authorizations, challenges.
//!
//! A transition takes values and `now` and returns the next value; it touches nothing. Status that depends on time or
//! on other objects is derived, not stored.

pub mod account;
pub mod admission;
pub mod attestation;
pub mod authorization;
pub mod busy;
pub mod caa;
pub mod challenge;
pub mod external_account;
pub mod order;
pub mod pause;
pub mod persist;
pub mod prune;
pub mod rate_limit;
pub mod renewal;
pub mod star;

pub use crate::pkix::identifier::{DnsName, Identifier, InvalidName};
pub use account::{Account, AccountState, ExternalAccountBinding};
pub use admission::{Admission, AdmissionRefused};
pub use authorization::{Authorization, AuthorizationState, AuthorizationStatus};
pub use challenge::{Challenge, ChallengeState, ChallengeType};
pub use external_account::{ExternalAccount, ExternalAccountState, Grant};
pub use order::{Order, OrderState, OrderStatus};
pub use renewal::{Predecessor, RenewalId, RenewalPolicy, RenewalPull, Replacement};
pub use star::{AutoRenewal, StarPolicy};

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names an ACME directory in URLs and configuration: 1 to 32 characters of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryName(String);

impl DirectoryName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no directory name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is no directory name: use 1 to 32 characters of a-z, 0-9 and '-'")]
pub struct InvalidDirectoryName(String);

impl TryFrom<String> for DirectoryName {
    type Error = InvalidDirectoryName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine { Ok(Self(text)) } else { Err(InvalidDirectoryName(text)) }
    }
}

impl From<DirectoryName> for String {
    fn from(name: DirectoryName) -> Self {
        name.0
    }
}

impl fmt::Display for DirectoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
