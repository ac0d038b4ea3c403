//! The sections `[acme.limits]`, `[acme.directories.NAME.limits]` and `[acme.pruning]`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use ca_core::acme::prune::PruneAges;
use ca_core::acme::rate_limit::{Allowance, Limit, Quota};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// The section `[acme.limits]`, and `[acme.directories.NAME.limits]`, each key of which replaces that of the former.
/// What is set in neither is off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// New accounts from one network of client addresses: `COUNT/PERIOD`, as `10/3h`, or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_accounts_per_address: Option<String>,
    /// Orders placed by one account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_orders_per_account: Option<String>,
    /// Orders placed in the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_orders_per_directory: Option<String>,
    /// Orders that contain one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_orders_per_name: Option<String>,
    /// Orders for exactly the same names that were finalized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates_per_name_set: Option<String>,
    /// Validations of one name that failed for one account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_validations_per_name: Option<String>,
    /// After how many validations of a name that failed one after the other an account can't order it any more, until
    /// an operator lifts the pause. 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_after_failures: Option<u32>,
    /// How many accounts without an external account binding there may be that never placed an order. 0: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unused_accounts: Option<u32>,
    /// How many pending authorizations an account may have. 0: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_authorizations: Option<u32>,
    /// How many bits of an IPv4 address name a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_prefix: Option<u8>,
    /// How many bits of an IPv6 address name a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<u8>,
    /// The URL of a page that says whom to ask for more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help_url: Option<String>,
}

/// The checked limits of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    quotas: BTreeMap<Limit, Quota>,
    /// Keys that the directory sets itself.
    own: Vec<&'static str>,
    directory: String,
    /// From which failure in a row on a name is paused.
    pub pause_after: Option<NonZeroU32>,
    /// How many accounts there may be that never placed an order.
    pub max_unused_accounts: Option<NonZeroU32>,
    /// How many pending authorizations an account may have.
    pub max_pending_authorizations: Option<NonZeroU32>,
    /// How many bits of an IPv4 address name a client.
    pub ipv4_prefix: u8,
    /// How many bits of an IPv6 address name a client.
    pub ipv6_prefix: u8,
    /// A page that says whom to ask for more.
    pub help_url: Option<String>,
}

impl LimitsConfig {
    fn quota_text(&self, limit: Limit) -> Option<&String> {
        match limit {
            Limit::NewAccountsPerAddress => self.new_accounts_per_address.as_ref(),
            Limit::NewOrdersPerAccount => self.new_orders_per_account.as_ref(),
            Limit::NewOrdersPerDirectory => self.new_orders_per_directory.as_ref(),
            Limit::NewOrdersPerName => self.new_orders_per_name.as_ref(),
            Limit::CertificatesPerNameSet => self.certificates_per_name_set.as_ref(),
            Limit::FailedValidationsPerName => self.failed_validations_per_name.as_ref(),
        }
    }

    /// The limits of a directory: its own where it has them, else these.
    ///
    /// # Errors
    /// The first key at fault.
    pub(crate) fn settings(&self, directory: &str, own: Option<&Self>) -> Result<LimitSettings, ConfigError> {
        let none = Self::default();
        let own = own.unwrap_or(&none);
        let mut settings = LimitSettings {
            quotas: BTreeMap::new(),
            own: Vec::new(),
            directory: directory.to_owned(),
            pause_after: None,
            max_unused_accounts: None,
            max_pending_authorizations: None,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            help_url: None,
        };
        for limit in Limit::ALL {
            if own.quota_text(limit).is_some() {
                settings.own.push(limit.name());
            }
            let Some(text) = own.quota_text(limit).or_else(|| self.quota_text(limit)) else { continue };
            let allowance: Allowance =
                text.parse().map_err(|why: ca_core::acme::rate_limit::InvalidQuota| ConfigError {
                    key: settings.key(limit.name()),
                    problem: format!("{why}; or \"off\""),
                })?;
            if let Some(quota) = allowance.quota() {
                settings.quotas.insert(limit, quota);
            }
        }
        /// A number of which the directory's own value goes first; 0 is off.
        macro_rules! number {
            ($field:ident) => {{
                if own.$field.is_some() {
                    settings.own.push(stringify!($field));
                }
                own.$field.or(self.$field)
            }};
        }
        settings.pause_after = number!(pause_after_failures).and_then(NonZeroU32::new);
        settings.max_unused_accounts = number!(max_unused_accounts).and_then(NonZeroU32::new);
        settings.max_pending_authorizations = number!(max_pending_authorizations).and_then(NonZeroU32::new);
        let (ipv4, ipv6) = (number!(ipv4_prefix), number!(ipv6_prefix));
        let prefix = |name: &'static str, bits: Option<u8>, usual: u8, most: u8| match bits {
            None => Ok(usual),
            Some(bits) if (1..=most).contains(&bits) => Ok(bits),
            Some(bits) => {
                let problem = format!("must be from 1 to {most}, not {bits}");
                Err(ConfigError { key: settings.key(name), problem })
            }
        };
        let (ipv4, ipv6) = (prefix("ipv4_prefix", ipv4, 32, 32)?, prefix("ipv6_prefix", ipv6, 64, 128)?);
        (settings.ipv4_prefix, settings.ipv6_prefix) = (ipv4, ipv6);
        if own.help_url.is_some() {
            settings.own.push("help_url");
        }
        if let Some(url) = own.help_url.as_ref().or(self.help_url.as_ref()) {
            // It becomes a Link in a header.
            let is_url = |uri: http::Uri| uri.scheme().is_some() && uri.host().is_some();
            let fine = url.parse().is_ok_and(is_url) && !url.contains('>');
            if !fine {
                let problem = format!("'{url}' is no absolute URL");
                return Err(ConfigError { key: settings.key("help_url"), problem });
            }
            settings.help_url = Some(url.clone());
        }
        Ok(settings)
    }
}

impl LimitSettings {
    /// The quota of a limit, if it is on.
    #[must_use]
    pub fn quota(&self, limit: Limit) -> Option<Quota> {
        self.quotas.get(&limit).copied()
    }

    /// Where a value is set, from the root of the configuration file.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        if self.own.contains(&name) {
            format!("acme.directories.{}.limits.{name}", self.directory)
        } else {
            format!("acme.limits.{name}")
        }
    }
}

/// The section `[acme.pruning]`: when rows are deleted that nobody can use any more. Certificates and the audit log
/// never are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PruningConfig {
    /// Whether anything is deleted.
    pub enabled: bool,
    /// How often dead rows are looked for, in seconds.
    pub every_seconds: u64,
    /// How long orders that never got a certificate are kept after they expired, in days.
    pub orders_after_days: u32,
    /// How long authorizations are kept after they ended, in days; at least as long as orders.
    pub authorizations_after_days: u32,
    /// How long accounts are kept that never placed an order and are bound to no external account, in days.
    pub unused_accounts_after_days: u32,
    /// How long the count of a name's failed validations is kept after the last of them, in days.
    pub failures_after_days: u32,
}

impl Default for PruningConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            every_seconds: 3600,
            orders_after_days: 90,
            authorizations_after_days: 90,
            unused_accounts_after_days: 365,
            failures_after_days: 30,
        }
    }
}

impl PruningConfig {
    /// How often dead rows are looked for.
    #[must_use]
    pub const fn every(&self) -> Duration {
        Duration::from_secs(self.every_seconds)
    }

    /// How long rows are kept; `None` if for ever.
    ///
    /// # Errors
    /// The first key at fault.
    pub fn ages(&self) -> Result<Option<PruneAges>, ConfigError> {
        let error =
            |field: &str, problem: String| Err(ConfigError { key: format!("acme.pruning.{field}"), problem });
        if !(1..=7 * 24 * 3600).contains(&self.every_seconds) {
            let problem = format!("must be from 1 to 604800 seconds, not {}", self.every_seconds);
            return error("every_seconds", problem);
        }
        let fields = [
            ("orders_after_days", self.orders_after_days),
            ("authorizations_after_days", self.authorizations_after_days),
            ("unused_accounts_after_days", self.unused_accounts_after_days),
            ("failures_after_days", self.failures_after_days),
        ];
        if let Some((field, days)) = fields.into_iter().find(|(_, days)| *days > 36_500) {
            return error(field, format!("must be at most 36500 days, not {days}"));
        }
        if self.authorizations_after_days < self.orders_after_days {
            let problem = format!("must be at least orders_after_days, which is {}", self.orders_after_days);
            return error("authorizations_after_days", problem);
        }
        let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3600);
        Ok(self.enabled.then(|| PruneAges {
            orders: days(self.orders_after_days),
            authorizations: days(self.authorizations_after_days),
            unused_accounts: days(self.unused_accounts_after_days),
            failures: days(self.failures_after_days),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_replaces_single_limits() {
        let text = |text: &str| Some(text.to_owned());
        let common = LimitsConfig {
            new_orders_per_account: text("300/3h"),
            certificates_per_name_set: text("5/7d"),
            pause_after_failures: Some(100),
            ..LimitsConfig::default()
        };
        let own = LimitsConfig {
            certificates_per_name_set: text("off"),
            new_orders_per_account: text("5/1m"),
            pause_after_failures: Some(0),
            ..LimitsConfig::default()
        };
        let settings = common.settings("lab", Some(&own)).unwrap();
        assert_eq!(settings.quota(Limit::NewOrdersPerAccount).unwrap().to_string(), "5/1m");
        assert_eq!(
            settings.key("new_orders_per_account"),
            "acme.directories.lab.limits.new_orders_per_account"
        );
        assert_eq!(settings.quota(Limit::CertificatesPerNameSet), None);
        assert_eq!(settings.pause_after, None);
        let settings = common.settings("lab", None).unwrap();
        assert_eq!(settings.quota(Limit::CertificatesPerNameSet).unwrap().to_string(), "5/7d");
        assert_eq!(settings.key("certificates_per_name_set"), "acme.limits.certificates_per_name_set");
        assert_eq!(settings.pause_after, NonZeroU32::new(100));
        let off = LimitsConfig::default().settings("lab", None).unwrap();
        assert!(Limit::ALL.into_iter().all(|limit| off.quota(limit).is_none()));
        assert_eq!(
            (off.max_unused_accounts, off.max_pending_authorizations, off.pause_after),
            (None, None, None)
        );
    }

    #[test]
    fn errors_name_the_key() {
        let key = |own: LimitsConfig| LimitsConfig::default().settings("lab", Some(&own)).unwrap_err().key;
        let all = LimitsConfig::default;
        let orders = LimitsConfig { new_orders_per_account: Some("many".to_owned()), ..all() };
        assert_eq!(key(orders), "acme.directories.lab.limits.new_orders_per_account");
        assert_eq!(
            key(LimitsConfig { ipv6_prefix: Some(129), ..all() }),
            "acme.directories.lab.limits.ipv6_prefix"
        );
        assert_eq!(
            key(LimitsConfig { help_url: Some("help".to_owned()), ..all() }),
            "acme.directories.lab.limits.help_url"
        );
        let key = |pruning: PruningConfig| pruning.ages().unwrap_err().key;
        let all = PruningConfig::default;
        assert_eq!(key(PruningConfig { every_seconds: 0, ..all() }), "acme.pruning.every_seconds");
        let short = PruningConfig { authorizations_after_days: 1, ..all() };
        assert_eq!(key(short), "acme.pruning.authorizations_after_days");
        assert_eq!(PruningConfig { enabled: false, ..all() }.ages(), Ok(None));
    }
}
