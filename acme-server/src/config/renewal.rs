//! The section `[acme.renewal]`: when clients are asked to renew, [RFC 9773](https://www.rfc-editor.org/rfc/rfc9773).

use std::time::Duration;

use ca_core::acme::RenewalPolicy;
use ca_core::acme::busy::{BusyHours, BusyRule};
use serde::{Deserialize, Serialize};

use super::{ConfigError, each};

/// The section `[acme.renewal]`: the windows that clients which ask are given (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenewalConfig {
    /// The part of its lifetime, in percent, after which a certificate may be renewed; half for a lifetime below ten
    /// days.
    pub from_percent: u8,
    /// The part of its lifetime, in percent, by which its window has ended.
    pub to_percent: u8,
    /// When nobody should renew, in UTC: `Mon-Fri 08:00-18:00`, `Sun 00:00-24:00`, or `08:00-18:00` for every day.
    pub busy_hours: Vec<String>,
    /// How long clients wait before they ask again, in seconds; less for short lifetimes.
    pub retry_after_seconds: u64,
    /// The URL of a page about the windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation_url: Option<String>,
}

impl Default for RenewalConfig {
    fn default() -> Self {
        Self {
            from_percent: RenewalPolicy::FROM_PERCENT,
            to_percent: RenewalPolicy::TO_PERCENT,
            busy_hours: Vec::new(),
            retry_after_seconds: RenewalPolicy::RETRY_AFTER.as_secs(),
            explanation_url: None,
        }
    }
}

/// The bounds of what clients do with Retry-After, RFC 9773 §4.3.2.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 60..=24 * 3600;

impl RenewalConfig {
    /// Checks the section, whose name is `section`.
    pub(super) fn policy(&self, section: &str) -> Result<RenewalPolicy, ConfigError> {
        let error = |field: &str, problem: String| ConfigError { key: format!("{section}.{field}"), problem };
        let (from, to) = (self.from_percent, self.to_percent);
        if !(1..=90).contains(&from) {
            return Err(error("from_percent", format!("must be from 1 to 90, not {from}")));
        }
        if !(from + 1..=95).contains(&to) {
            let problem = format!("must be from {} to 95, above from_percent, not {to}", from + 1);
            return Err(error("to_percent", problem));
        }
        let retry_after = self.retry_after_seconds;
        if !RETRY_AFTER_SECONDS.contains(&retry_after) {
            let problem = format!(
                "must be from {} to {}, between which clients keep, not {retry_after}",
                RETRY_AFTER_SECONDS.start(),
                RETRY_AFTER_SECONDS.end()
            );
            return Err(error("retry_after_seconds", problem));
        }
        if let Some(url) = &self.explanation_url
            && !is_page(url)
        {
            return Err(error("explanation_url", format!("'{url}' is no http or https URL")));
        }
        let rules: Vec<BusyRule> =
            each(&self.busy_hours, &format!("{section}.busy_hours"), |text| text.parse())?;
        Ok(RenewalPolicy {
            from_percent: from,
            to_percent: to,
            busy: rules.into_iter().collect::<BusyHours>(),
            retry_after: Duration::from_secs(retry_after),
            explanation_url: self.explanation_url.clone(),
        })
    }
}

/// Whether a text is the URL of a page that people can open.
fn is_page(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(change: impl FnOnce(&mut RenewalConfig)) -> String {
        let mut config = RenewalConfig::default();
        change(&mut config);
        config.policy("acme.renewal").unwrap_err().key
    }

    #[test]
    fn the_default_is_the_policys_default() {
        assert_eq!(RenewalConfig::default().policy("acme.renewal").unwrap(), RenewalPolicy::default());
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(key(|c| c.from_percent = 0), "acme.renewal.from_percent");
        assert_eq!(key(|c| c.to_percent = 66), "acme.renewal.to_percent");
        assert_eq!(key(|c| c.to_percent = 96), "acme.renewal.to_percent");
        assert_eq!(key(|c| c.busy_hours = vec!["9 to 5".to_owned()]), "acme.renewal.busy_hours");
        assert_eq!(key(|c| c.retry_after_seconds = 59), "acme.renewal.retry_after_seconds");
        assert_eq!(key(|c| c.retry_after_seconds = 86_401), "acme.renewal.retry_after_seconds");
        assert_eq!(key(|c| c.explanation_url = Some("/why".to_owned())), "acme.renewal.explanation_url");
    }
}
