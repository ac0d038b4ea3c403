//! Certificate profiles: what a certificate of a kind contains. [`ProfileConfig`] is what the operator wrote,
//! [`Profile`] what was checked.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names a profile: 1 to 64 characters of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProfileName(String);

impl ProfileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no profile name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no profile name: use 1 to 64 characters of a-z, 0-9 and '-'")]
pub struct InvalidProfileName(String);

impl TryFrom<String> for ProfileName {
    type Error = InvalidProfileName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine { Ok(Self(text)) } else { Err(InvalidProfileName(text)) }
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A section `[profiles.NAME]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// How the certificate will be used.
    pub usage: Usage,
    /// How long a certificate is valid, from its notBefore, in days.
    #[serde(default = "default_validity_days")]
    pub validity_days: u32,
    /// How far notBefore lies in the past, for subscribers whose clocks are behind, in minutes.
    #[serde(default = "default_backdate_minutes")]
    pub backdate_minutes: u32,
}

fn default_validity_days() -> u32 {
    90
}

fn default_backdate_minutes() -> u32 {
    5
}

/// How a certificate will be used; decides its extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// id-kp-serverAuth.
    TlsServer,
    /// id-kp-clientAuth.
    TlsClient,
}

/// Why a profile can't be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// Zero, or longer than the notAfter of any CA allows.
    #[error("profiles.{profile}.validity_days must be from 1 to 3650, not {found}")]
    Validity {
        /// The profile.
        profile: ProfileName,
        /// What was configured.
        found: u32,
    },
    /// More than a day.
    #[error("profiles.{profile}.backdate_minutes must be at most 1440, not {found}")]
    Backdate {
        /// The profile.
        profile: ProfileName,
        /// What was configured.
        found: u32,
    },
}

/// A checked profile for subscribers' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// How the certificate will be used.
    pub usage: Usage,
    /// From notBefore to notAfter.
    pub validity: Duration,
    /// From notBefore to the time of issuance.
    pub backdate: Duration,
}

impl Profile {
    /// Checks what the operator wrote.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn new(name: ProfileName, config: &ProfileConfig) -> Result<Self, ProfileError> {
        if !(1..=3650).contains(&config.validity_days) {
            return Err(ProfileError::Validity { profile: name, found: config.validity_days });
        }
        if config.backdate_minutes > 1440 {
            return Err(ProfileError::Backdate { profile: name, found: config.backdate_minutes });
        }
        Ok(Self {
            name,
            usage: config.usage,
            validity: Duration::from_hours(24 * u64::from(config.validity_days)),
            backdate: Duration::from_mins(u64::from(config.backdate_minutes)),
        })
    }
}
