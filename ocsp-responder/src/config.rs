//! The configuration section `[ocsp]`.

use std::time::Duration;

use ca_core::pkix::ocsp::RequestLimits;
use ca_core::signing::KeyAlgorithm;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The section `[ocsp]`: how responses are made and kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// From thisUpdate to nextUpdate, in seconds; the responder certificate's notAfter cuts it short.
    pub response_validity_seconds: u64,
    /// The longest `max-age` that HTTP caches are told, in seconds; nextUpdate cuts it short. A revocation may stay
    /// unseen for so long behind a shared cache.
    pub http_max_age_seconds: u64,
    /// The kind of the responder's own keys.
    pub key_algorithm: KeyAlgorithm,
    /// The longest request that is read, in bytes.
    pub max_request_bytes: usize,
    /// The most CertIDs that one request may have.
    pub max_cert_ids: usize,
    /// How many signed responses are kept in memory, about 1.5 kB each; 0 keeps none.
    pub cache_entries: usize,
    /// How many responses may wait for their signature; more are answered with tryLater.
    pub signing_queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            response_validity_seconds: 24 * 60 * 60,
            http_max_age_seconds: 60 * 60,
            key_algorithm: KeyAlgorithm::EcP256,
            max_request_bytes: RequestLimits::default().max_bytes,
            max_cert_ids: RequestLimits::default().max_cert_ids,
            cache_entries: 20_000,
            signing_queue: 256,
        }
    }
}

/// Why the section can't be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("ocsp.{key} must be from {min} to {max}, not {found}")]
pub struct ConfigError {
    key: &'static str,
    min: u64,
    max: u64,
    found: u64,
}

impl Config {
    /// Checks that every number is one that the responder can work with.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |key, found: u64, min, max| {
            if (min..=max).contains(&found) { Ok(()) } else { Err(ConfigError { key, min, max, found }) }
        };
        let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        within("response_validity_seconds", self.response_validity_seconds, 60, 30 * 24 * 60 * 60)?;
        within("http_max_age_seconds", self.http_max_age_seconds, 0, 30 * 24 * 60 * 60)?;
        within("max_request_bytes", number(self.max_request_bytes), 256, 64 * 1024)?;
        within("max_cert_ids", number(self.max_cert_ids), 1, 500)?;
        within("cache_entries", number(self.cache_entries), 0, 10_000_000)?;
        within("signing_queue", number(self.signing_queue), 1, 65_536)
    }

    pub(crate) const fn response_validity(&self) -> Duration {
        Duration::from_secs(self.response_validity_seconds)
    }

    pub(crate) const fn http_max_age(&self) -> Duration {
        Duration::from_secs(self.http_max_age_seconds)
    }

    pub(crate) const fn limits(&self) -> RequestLimits {
        RequestLimits { max_bytes: self.max_request_bytes, max_cert_ids: self.max_cert_ids }
    }
}
