//! The configuration section `[crl]`.

use std::time::Duration;

use ca_core::store::IssuerKind;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const HOUR: u64 = 60 * 60;

/// The section `[crl]`: how long CRLs are valid, when the next one is made, and how long caches may keep them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// From thisUpdate to nextUpdate of an issuing CA's CRL, in seconds.
    pub validity_seconds: u64,
    /// From thisUpdate to nextUpdate of a root's CRL, in seconds.
    pub root_validity_seconds: u64,
    /// The next CRL is asked for when this part of the time from thisUpdate to nextUpdate is over, in percent. A
    /// revocation brings one at once, whatever this says.
    pub refresh_percent: u8,
    /// The longest `max-age` that HTTP caches are told, in seconds; nextUpdate cuts it short. A revocation may stay
    /// unseen for so long behind a shared cache.
    pub http_max_age_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            validity_seconds: 7 * 24 * HOUR,
            root_validity_seconds: 30 * 24 * HOUR,
            refresh_percent: 50,
            http_max_age_seconds: HOUR,
        }
    }
}

/// Why the section can't be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("crl.{key} must be from {min} to {max}, not {found}")]
pub struct ConfigError {
    key: &'static str,
    min: u64,
    max: u64,
    found: u64,
}

impl Config {
    /// Checks that every number is one that can be worked with.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key, found: u64, min, max| {
            if (min..=max).contains(&found) { Ok(()) } else { Err(ConfigError { key, min, max, found }) }
        };
        within("validity_seconds", self.validity_seconds, 60, 366 * 24 * HOUR)?;
        within("root_validity_seconds", self.root_validity_seconds, 60, 366 * 24 * HOUR)?;
        within("refresh_percent", self.refresh_percent.into(), 1, 95)?;
        within("http_max_age_seconds", self.http_max_age_seconds, 0, 30 * 24 * HOUR)
    }

    /// From thisUpdate to nextUpdate of the CRLs of such an issuer; the `ca` role, which signs, uses it.
    #[must_use]
    pub const fn validity(&self, kind: IssuerKind) -> Duration {
        match kind {
            IssuerKind::Root => Duration::from_secs(self.root_validity_seconds),
            IssuerKind::Issuing => Duration::from_secs(self.validity_seconds),
        }
    }

    pub(crate) const fn http_max_age(&self) -> Duration {
        Duration::from_secs(self.http_max_age_seconds)
    }
}
