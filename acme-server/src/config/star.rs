//! The section `[acme.star]`: certificates that are renewed automatically, [RFC 8739](https://www.rfc-editor.org/rfc/rfc8739).

use std::time::Duration;

use ca_core::acme::StarPolicy;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The section `[acme.star]`: short-term certificates that are renewed for clients that ask for it (RFC 8739).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StarConfig {
    /// Whether orders can ask for it.
    pub enabled: bool,
    /// The shortest lifetime of a certificate, in seconds.
    pub min_lifetime_seconds: u64,
    /// The longest lifetime of a certificate, in seconds.
    pub max_lifetime_seconds: u64,
    /// The longest time over which an order's certificates are renewed, in seconds.
    pub max_duration_seconds: u64,
    /// Whether a client can have its certificates downloaded by everybody who knows their URL.
    pub allow_certificate_get: bool,
}

const HOUR: u64 = 3600;

impl Default for StarConfig {
    /// Off; from a day to a week, for up to a year.
    fn default() -> Self {
        Self {
            enabled: false,
            min_lifetime_seconds: 24 * HOUR,
            max_lifetime_seconds: 7 * 24 * HOUR,
            max_duration_seconds: 365 * 24 * HOUR,
            allow_certificate_get: false,
        }
    }
}

/// The shortest lifetime that can be configured: renewal comes at half of it, and takes a moment.
const SHORTEST_SECONDS: u64 = 10;
/// The longest that can be configured for a lifetime, as for a profile, and for an order.
const LONGEST_SECONDS: u64 = 3650 * 24 * HOUR;

impl StarConfig {
    /// Checks the section, whose name is `section`; `None` if it is off.
    pub(super) fn policy(&self, section: &str) -> Result<Option<StarPolicy>, ConfigError> {
        let within = |field: &str, value: u64, from: u64| {
            if (from..=LONGEST_SECONDS).contains(&value) {
                return Ok(Duration::from_secs(value));
            }
            let problem = format!("must be from {from} to {LONGEST_SECONDS} seconds, not {value}");
            Err(ConfigError { key: format!("{section}.{field}"), problem })
        };
        let min = within("min_lifetime_seconds", self.min_lifetime_seconds, SHORTEST_SECONDS)?;
        let max = within("max_lifetime_seconds", self.max_lifetime_seconds, self.min_lifetime_seconds)?;
        let duration = within("max_duration_seconds", self.max_duration_seconds, self.min_lifetime_seconds)?;
        Ok(self.enabled.then_some(StarPolicy {
            min_lifetime: min,
            max_lifetime: max,
            max_duration: duration,
            certificate_get: self.allow_certificate_get,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_off_and_errors_name_the_key() {
        assert_eq!(StarConfig::default().policy("acme.star"), Ok(None));
        let on = StarConfig { enabled: true, ..StarConfig::default() };
        let offered = on.policy("acme.star").unwrap().unwrap();
        assert_eq!(offered.min_lifetime, Duration::from_hours(24));
        let key = |change: fn(&mut StarConfig)| {
            let mut config = on.clone();
            change(&mut config);
            config.policy("acme.star").unwrap_err().key
        };
        assert_eq!(key(|c| c.min_lifetime_seconds = 9), "acme.star.min_lifetime_seconds");
        assert_eq!(key(|c| c.max_lifetime_seconds = 86_399), "acme.star.max_lifetime_seconds");
        assert_eq!(key(|c| c.max_duration_seconds = 86_399), "acme.star.max_duration_seconds");
    }
}
