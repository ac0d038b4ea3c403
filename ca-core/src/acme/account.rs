//! ACME accounts, RFC 8555 §7.1.2 and §7.3.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::DirectoryName;
use crate::acme::rate_limit::{Allowance, Limit};
use crate::id::{AccountId, ExternalAccountId};
use crate::store::Version;
use crate::time::Timestamp;

/// The JWK thumbprint of an account key: SHA-256, RFC 7638.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Thumbprint(pub [u8; 32]);

impl fmt::Display for Thumbprint {
    /// base64url without padding, as key authorizations carry it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use base64::Engine;
        f.write_str(&base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

impl TryFrom<String> for Thumbprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        use base64::Engine;
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD
            .decode(text.as_bytes())
            .map_err(|_| "a thumbprint is 43 characters of base64url")?;
        Ok(Self(bytes.try_into().map_err(|_| "a thumbprint is 43 characters of base64url")?))
    }
}

impl From<Thumbprint> for String {
    fn from(thumbprint: Thumbprint) -> Self {
        thumbprint.to_string()
    }
}

/// An ACME account. A stored type: changing it needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name in URLs.
    pub id: AccountId,
    /// The directory it belongs to; one key may have an account in each.
    pub directory: DirectoryName,
    /// Names its key; unique within the directory.
    pub thumbprint: Thumbprint,
    /// The keys that it had before, the oldest first: a persistent DNS record may still be made with one. At most
    /// [`Account::FORMER_KEYS`] of them, the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_keys: Vec<Thumbprint>,
    /// Its public key as a JWK in JSON, with only the members that RFC 7638 requires.
    pub jwk: String,
    /// Contact URLs, `mailto:` or others that the directory admits.
    pub contacts: Vec<String>,
    /// When it agreed to the terms of service.
    pub terms_agreed_at: Option<Timestamp>,
    /// What it was bound to when it was created; never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<ExternalAccountBinding>,
    /// What it is limited to where that is not what its directory says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<Limit, Allowance>,
    /// Valid, or ended.
    pub state: AccountState,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// The external account that an account is bound to, RFC 8555 §7.3.4. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccountBinding {
    /// Which.
    pub id: ExternalAccountId,
    /// The binding as the client sent it, a JWS in JSON, since account objects show it.
    pub jws: String,
}

/// Whether an account can be used, RFC 8555 §7.1.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum AccountState {
    /// In use.
    Valid,
    /// Ended by its holder.
    Deactivated {
        /// When.
        at: Timestamp,
    },
    /// Ended by an administrator.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

impl AccountState {
    /// The status as RFC 8555 writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Deactivated { .. } => "deactivated",
            Self::Revoked { .. } => "revoked",
        }
    }

    /// Whether an account may go from this state to `next`, whoever writes it: one that has ended stays as it is.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        self == Self::Valid || self == next
    }
}

/// The account can't be used any more; the subscriber needs a new one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the account is {0}")]
pub struct AccountEnded(pub &'static str);

impl Account {
    /// How many former keys are remembered: every validation of a persistent record compares with each.
    pub const FORMER_KEYS: usize = 8;

    /// Whether requests signed by this account are accepted.
    ///
    /// # Errors
    /// If the account was deactivated or revoked.
    pub fn require_valid(&self) -> Result<(), AccountEnded> {
        match self.state {
            AccountState::Valid => Ok(()),
            ended => Err(AccountEnded(ended.name())),
        }
    }

    /// The account with other contacts, RFC 8555 §7.3.2.
    #[must_use]
    pub fn with_contacts(&self, contacts: Vec<String>) -> Self {
        Self { contacts, ..self.clone() }
    }

    /// The account under another key, RFC 8555 §7.3.5. What its oldest former key made serves no longer where there are
    /// more than [`Account::FORMER_KEYS`].
    #[must_use]
    pub fn with_key(&self, jwk: String, thumbprint: Thumbprint) -> Self {
        let mut former_keys = self.former_keys.clone();
        former_keys.retain(|former| *former != thumbprint && *former != self.thumbprint);
        former_keys.push(self.thumbprint);
        // Also what was stored when there was no bound.
        former_keys.drain(..former_keys.len().saturating_sub(Self::FORMER_KEYS));
        Self { jwk, thumbprint, former_keys, ..self.clone() }
    }

    /// The account with a limit of its own, or with its directory's again.
    #[must_use]
    pub fn with_limit(&self, limit: Limit, allowance: Option<Allowance>) -> Self {
        let mut limits = self.limits.clone();
        match allowance {
            Some(allowance) => limits.insert(limit, allowance),
            None => limits.remove(&limit),
        };
        Self { limits, ..self.clone() }
    }

    /// The account, ended by its holder, RFC 8555 §7.3.6. An account that has ended stays as it is.
    #[must_use]
    pub fn deactivated(&self, now: Timestamp) -> Self {
        match self.state {
            AccountState::Valid => Self { state: AccountState::Deactivated { at: now }, ..self.clone() },
            _ => self.clone(),
        }
    }
}
