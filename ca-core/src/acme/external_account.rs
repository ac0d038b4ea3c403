//! External accounts: keys that an operator hands out and that new ACME accounts are bound to,
//! [RFC 8555 §7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4), with what each grants.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::{ChallengeType, DirectoryName};
use crate::id::{AccountId, ExternalAccountId, serde_base64url};
use crate::pkix::public_key::KeyHash;
use crate::policy::{AllowedNames, DirectoryPolicy, InvalidNameRule, NameRule};
use crate::profile::ProfileName;
use crate::store::{Role, Version};
use crate::time::Timestamp;

/// The longest validity that a grant can name, in days; as for profiles.
const MAX_DAYS: u32 = 3650;

/// The most name rules in a grant.
const MAX_NAMES: usize = 1000;

/// A key that new accounts of a directory can be bound to, and what they may do then. A stored type: changing it needs
/// a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// The key identifier that clients send as `kid`.
    pub id: ExternalAccountId,
    /// The directory that it is for.
    pub directory: DirectoryName,
    /// Whose it is, in the operator's words.
    pub owner: Owner,
    /// The MAC key, which only role acme can open.
    pub mac_key: SealedKey,
    /// How many accounts can be bound to it.
    pub uses: Uses,
    /// Until when it can be used; `None`: until it is revoked.
    pub expires_at: Option<Timestamp>,
    /// What accounts bound to it may do.
    pub grant: Grant,
    /// Whether it was revoked.
    pub state: ExternalAccountState,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// Whose an external account is: 1 to 200 characters on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

impl Owner {
    /// The owner as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text names no owner.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("an owner is named by 1 to 200 characters on one line, such as 'web team'")]
pub struct InvalidOwner;

impl TryFrom<String> for Owner {
    type Error = InvalidOwner;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=200).contains(&text.chars().count())
            && !text.chars().any(char::is_control)
            && !text.trim().is_empty();
        if fine { Ok(Self(text)) } else { Err(InvalidOwner) }
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A secret that was encrypted to a role's public key, RFC 9180 §6.1. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    /// SHA-256 of the public key that it was sealed to.
    pub sealed_to: KeyHash,
    /// The encapsulated key, `enc`.
    #[serde(with = "serde_base64url")]
    pub encapsulated: Vec<u8>,
    /// The ciphertext.
    #[serde(with = "serde_base64url")]
    pub ciphertext: Vec<u8>,
}

/// The public key that a role publishes, so that secrets for it can be stored. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingKeyRecord {
    /// Whose private half it belongs to.
    pub role: Role,
    /// The public key as RFC 9180 §4.1 encodes it.
    #[serde(with = "serde_base64url")]
    pub public_key: Vec<u8>,
    /// When it was published.
    pub created_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// How many accounts can be bound to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "uses", rename_all = "lowercase")]
pub enum Uses {
    /// Any number.
    Many,
    /// One.
    Once {
        /// The one that was bound.
        account: Option<AccountId>,
    },
}

/// Whether an external account was revoked; expiry is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ExternalAccountState {
    /// It was not.
    Valid,
    /// An operator took it back.
    Revoked {
        /// When.
        at: Timestamp,
    },
}

/// Why an external account can't be used; its owner asks the operator for another one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExternalAccountEnded {
    /// An operator took it back.
    #[error("the external account '{0}' was revoked")]
    Revoked(ExternalAccountId),
    /// Its time is over.
    #[error("the external account '{id}' expired at {at}")]
    Expired {
        /// Which.
        id: ExternalAccountId,
        /// When.
        at: Timestamp,
    },
    /// It was for one account, which is bound to it.
    #[error("the external account '{0}' was for one ACME account and has been used")]
    Used(ExternalAccountId),
}

impl ExternalAccount {
    /// Whether the accounts that are bound to it may order.
    ///
    /// # Errors
    /// See [`ExternalAccountEnded`].
    pub fn require_valid(&self, now: Timestamp) -> Result<(), ExternalAccountEnded> {
        if matches!(self.state, ExternalAccountState::Revoked { .. }) {
            return Err(ExternalAccountEnded::Revoked(self.id));
        }
        match self.expires_at {
            Some(at) if at <= now => Err(ExternalAccountEnded::Expired { id: self.id, at }),
            _ => Ok(()),
        }
    }

    /// Whether a new account can be bound to it.
    ///
    /// # Errors
    /// See [`ExternalAccountEnded`].
    pub fn require_bindable(&self, now: Timestamp) -> Result<(), ExternalAccountEnded> {
        self.require_valid(now)?;
        match self.uses {
            Uses::Once { account: Some(_) } => Err(ExternalAccountEnded::Used(self.id)),
            Uses::Once { account: None } | Uses::Many => Ok(()),
        }
    }

    /// The status at `now` in one word: `valid`, `used`, `expired` or `revoked`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> &'static str {
        match self.require_bindable(now) {
            Ok(()) => "valid",
            Err(ExternalAccountEnded::Used(_)) => "used",
            Err(ExternalAccountEnded::Expired { .. }) => "expired",
            Err(ExternalAccountEnded::Revoked(_)) => "revoked",
        }
    }

    /// The external account after an operator took it back. One that was revoked before stays as it is.
    #[must_use]
    pub fn revoked(&self, now: Timestamp) -> Self {
        match self.state {
            ExternalAccountState::Valid => {
                Self { state: ExternalAccountState::Revoked { at: now }, ..self.clone() }
            }
            ExternalAccountState::Revoked { .. } => self.clone(),
        }
    }
}

/// What accounts that are bound to an external account may do, within what their directory admits. By default all of it
/// but wildcard names, by challenges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The names that they may order; `None`: those of the directory. Never empty.
    pub names: Option<Vec<NameRule>>,
    /// Whether they may order wildcard names.
    pub wildcards: bool,
    /// The profiles that they may use; `None`: those of the directory. Never empty.
    pub profiles: Option<Vec<ProfileName>>,
    /// The longest validity of their certificates, in days; `None`: as the profile says.
    pub max_days: Option<u32>,
    /// The challenges that they may answer; `None`: those of the directory. Never empty.
    pub challenges: Option<Vec<ChallengeType>>,
    /// Whether they need no challenge for `names`, which are given then.
    pub trusted: bool,
}

/// A grant as an operator writes it; empty lists mean what the directory admits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Rules as in `acme.allowed_names`.
    pub names: Vec<String>,
    /// Whether wildcard names are granted.
    pub wildcards: bool,
    /// Names of profiles.
    pub profiles: Vec<String>,
    /// The longest validity, in days.
    pub max_days: Option<u32>,
    /// Names of challenges.
    pub challenges: Vec<String>,
    /// Whether no challenge is needed.
    pub trusted: bool,
}

/// Why a grant can't be made; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrantError {
    /// A text is no rule.
    #[error(transparent)]
    Name(#[from] InvalidNameRule),
    /// There are too many rules.
    #[error("a grant has at most {MAX_NAMES} names")]
    TooManyNames,
    /// The directory admits none of a rule's names.
    #[error("'{rule}' grants nothing: acme.allowed_names of the directory '{directory}' admits none of it")]
    NameOutside {
        /// The rule.
        rule: NameRule,
        /// The directory.
        directory: DirectoryName,
    },
    /// The directory admits no wildcard names.
    #[error("the directory '{0}' admits no wildcard names (acme.wildcards)")]
    Wildcards(DirectoryName),
    /// The directory has no such profile.
    #[error("the directory '{directory}' does not offer the profile '{profile}'; it offers {offered}")]
    Profile {
        /// What was asked for.
        profile: String,
        /// The directory.
        directory: DirectoryName,
        /// What there is.
        offered: String,
    },
    /// The directory has no such challenge.
    #[error("the directory '{directory}' does not offer the challenge '{challenge}'; it offers {offered}")]
    Challenge {
        /// What was asked for.
        challenge: String,
        /// The directory.
        directory: DirectoryName,
        /// What there is.
        offered: String,
    },
    /// No certificate could be valid for so long.
    #[error("the longest validity must be from 1 to {MAX_DAYS} days, not {0}")]
    Days(u32),
    /// Trust without names would admit whatever the directory admits.
    #[error("a trusted external account needs its names: each of them is certified without a challenge")]
    TrustedWithoutNames,
}

impl Grant {
    /// Checks what the operator wrote against the directory that it is for.
    ///
    /// # Errors
    /// See [`GrantError`].
    pub fn new(config: &GrantConfig, policy: &DirectoryPolicy) -> Result<Self, GrantError> {
        let directory = || policy.directory.clone();
        if config.names.len() > MAX_NAMES {
            return Err(GrantError::TooManyNames);
        }
        let names: Vec<NameRule> = config.names.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        if let AllowedNames::List(admitted) = &policy.names
            && let Some(rule) = names.iter().find(|rule| !admitted.iter().any(|other| rule.overlaps(other)))
        {
            return Err(GrantError::NameOutside { rule: rule.clone(), directory: directory() });
        }
        if config.wildcards && !policy.wildcards {
            return Err(GrantError::Wildcards(directory()));
        }
        let profile = |text: &String| {
            policy.profiles.iter().find(|profile| profile.as_str() == text).cloned().ok_or_else(|| {
                GrantError::Profile {
                    profile: text.clone(),
                    directory: directory(),
                    offered: listed(&policy.profiles),
                }
            })
        };
        let challenge = |text: &String| {
            ChallengeType::from_str(text).ok().filter(|kind| policy.challenges.contains(kind)).ok_or_else(
                || GrantError::Challenge {
                    challenge: text.clone(),
                    directory: directory(),
                    offered: listed(&policy.challenges),
                },
            )
        };
        let profiles: Vec<ProfileName> = config.profiles.iter().map(profile).collect::<Result<_, _>>()?;
        let challenges: Vec<ChallengeType> =
            config.challenges.iter().map(challenge).collect::<Result<_, _>>()?;
        if let Some(days) = config.max_days.filter(|days| !(1..=MAX_DAYS).contains(days)) {
            return Err(GrantError::Days(days));
        }
        if config.trusted && names.is_empty() {
            return Err(GrantError::TrustedWithoutNames);
        }
        let given = |list: bool| list.then_some(());
        Ok(Self {
            names: given(!names.is_empty()).map(|()| names),
            wildcards: config.wildcards,
            profiles: given(!profiles.is_empty()).map(|()| profiles),
            max_days: config.max_days,
            challenges: given(!challenges.is_empty()).map(|()| challenges),
            trusted: config.trusted,
        })
    }

    /// The longest validity of a certificate.
    #[must_use]
    pub fn max_validity(&self) -> Option<Duration> {
        self.max_days.map(|days| Duration::from_hours(24 * u64::from(days)))
    }
}

fn listed(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
