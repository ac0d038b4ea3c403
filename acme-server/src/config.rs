//! The section `[acme]` of the configuration: what the operator wrote ([`Config`]) and what was checked
//! ([`DirectorySettings`], one for each ACME directory).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ca_core::acme::order::OrderLimits;
use ca_core::acme::{ChallengeType, DirectoryName};
use ca_core::policy::{AllowedNames, DirectoryPolicy, NameRule, Network, SubscriberKeys};
use ca_core::profile::ProfileName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::validation::{Egress, ProberConfig};

/// The section `[acme]`: the defaults of every directory, and `[acme.directories.NAME]`, which override them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The base of every ACME URL and of the `url` in every JWS, without a trailing slash.
    pub public_url: String,
    /// The largest request body that is read, in octets; at most 1,000,000.
    pub max_body_bytes: usize,
    /// The names that can be ordered: `host.example.org`, `.example.org` for a domain and all below it, `10.0.0.0/8`
    /// for addresses, or `*` alone for any. Empty: none.
    pub allowed_names: Vec<String>,
    /// Whether wildcard names can be ordered.
    pub wildcards: bool,
    /// The certificate profiles offered; the first is used when an order asks for none.
    pub profiles: Vec<String>,
    /// The challenges offered, in this order.
    pub challenges: Vec<String>,
    /// The URL of the terms of service, which new accounts must agree to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    /// The URL of a page about this CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// Whether new accounts need an external account binding. Not offered in this version: only `false` is accepted.
    pub external_account_required: bool,
    /// Until when an order can be finalized, in seconds.
    pub order_lifetime_seconds: u64,
    /// Until when an authorization can be used, in seconds.
    pub authorization_lifetime_seconds: u64,
    /// The most identifiers in one order.
    pub max_identifiers: usize,
    /// Whether subscribers may have EC keys, on P-256 and P-384.
    pub ec_keys: bool,
    /// Whether subscribers may have Ed25519 keys.
    pub ed25519_keys: bool,
    /// Whether subscribers may have RSA keys.
    pub rsa_keys: bool,
    /// The smallest RSA key, in bits.
    pub rsa_min_bits: u32,
    /// The largest RSA key, in bits.
    pub rsa_max_bits: u32,
    /// The resolvers used for validation, `ADDRESS` or `ADDRESS:PORT`. Empty: those of the system.
    pub dns_servers: Vec<String>,
    /// The port that http-01 connects to.
    pub http01_port: u16,
    /// The port that tls-alpn-01 connects to.
    pub tls_alpn01_port: u16,
    /// Where validation may connect to.
    pub validation: ValidationConfig,
    /// Directories by name. `default` is there unless any is named here.
    pub directories: BTreeMap<String, DirectoryConfig>,
}

/// The section `[acme.validation]`: where validation may connect to. Deny beats allow; an address in neither list is
/// allowed if it is a global one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Networks that validation may connect to, such as `10.0.0.0/8`.
    pub allow_networks: Vec<String>,
    /// Networks that validation must not connect to.
    pub deny_networks: Vec<String>,
}

/// A section `[acme.directories.NAME]`: what is set here replaces the value in `[acme]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the fields are those of `Config`")]
pub struct DirectoryConfig {
    pub allowed_names: Option<Vec<String>>,
    pub wildcards: Option<bool>,
    pub profiles: Option<Vec<String>>,
    pub challenges: Option<Vec<String>>,
    pub terms_of_service: Option<String>,
    pub website: Option<String>,
    pub external_account_required: Option<bool>,
    pub order_lifetime_seconds: Option<u64>,
    pub authorization_lifetime_seconds: Option<u64>,
    pub max_identifiers: Option<usize>,
    pub ec_keys: Option<bool>,
    pub ed25519_keys: Option<bool>,
    pub rsa_keys: Option<bool>,
    pub rsa_min_bits: Option<u32>,
    pub rsa_max_bits: Option<u32>,
    pub dns_servers: Option<Vec<String>>,
    pub http01_port: Option<u16>,
    pub tls_alpn01_port: Option<u16>,
    pub validation: Option<ValidationConfig>,
}

impl Default for Config {
    fn default() -> Self {
        let week = 7 * 24 * 3600;
        Self {
            public_url: "https://127.0.0.1:8443".to_owned(),
            max_body_bytes: 64 * 1024,
            allowed_names: Vec::new(),
            wildcards: false,
            profiles: vec!["tls-server".to_owned(), "tls-client".to_owned()],
            challenges: ChallengeType::ALL.iter().map(|kind| kind.name().to_owned()).collect(),
            terms_of_service: None,
            website: None,
            external_account_required: false,
            order_lifetime_seconds: week,
            authorization_lifetime_seconds: week,
            max_identifiers: 100,
            ec_keys: true,
            ed25519_keys: true,
            rsa_keys: true,
            rsa_min_bits: 2048,
            rsa_max_bits: 4096,
            dns_servers: Vec::new(),
            http01_port: 80,
            tls_alpn01_port: 443,
            validation: ValidationConfig::default(),
            directories: BTreeMap::new(),
        }
    }
}

/// A value in `[acme]` can't be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, from the root of the configuration file.
    pub key: String,
    /// What is wrong with its value, and what to write instead.
    pub problem: String,
}

/// The checked settings of one ACME directory.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// What it admits.
    pub policy: DirectoryPolicy,
    /// The URL of the terms of service.
    pub terms_of_service: Option<String>,
    /// The URL of a page about this CA.
    pub website: Option<String>,
    /// How validation reaches out.
    pub prober: ProberConfig,
}

impl Config {
    /// The most octets that [`Config::max_body_bytes`] can be set to.
    pub const MAX_BODY_BYTES: usize = 1_000_000;

    /// Checks everything and gives the settings of each directory, in the order of their names.
    ///
    /// # Errors
    /// The first key at fault.
    pub fn directories(&self) -> Result<Vec<DirectorySettings>, ConfigError> {
        if !(1024..=Self::MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            let problem =
                format!("must be from 1024 to {}, not {}", Self::MAX_BODY_BYTES, self.max_body_bytes);
            return Err(ConfigError { key: "acme.max_body_bytes".to_owned(), problem });
        }
        self.base_url()?;
        if self.directories.is_empty() {
            return Ok(vec![self.directory("default", &DirectoryConfig::default())?]);
        }
        self.directories.iter().map(|(name, overrides)| self.directory(name, overrides)).collect()
    }

    /// [`Config::public_url`] without a trailing slash.
    ///
    /// # Errors
    /// If it is no http or https URL with a host and without query or fragment.
    pub fn base_url(&self) -> Result<&str, ConfigError> {
        let error = |problem: &str| ConfigError {
            key: "acme.public_url".to_owned(),
            problem: format!("{problem}: '{}'", self.public_url),
        };
        let uri: http::Uri = self.public_url.parse().map_err(|_| error("this is no URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(error("an http or https URL is needed, such as https://ca.example.org:8443"));
        }
        if uri.query().is_some() || self.public_url.contains('#') {
            return Err(error("the URL must have neither query nor fragment"));
        }
        Ok(self.public_url.trim_end_matches('/'))
    }

    fn directory(&self, name: &str, own: &DirectoryConfig) -> Result<DirectorySettings, ConfigError> {
        let key = |field: &str, overridden: bool| {
            if overridden { format!("acme.directories.{name}.{field}") } else { format!("acme.{field}") }
        };
        /// The directory's own value of a field or else the default, with the key that it stands under.
        macro_rules! value {
            ($field:ident) => {
                (own.$field.as_ref().unwrap_or(&self.$field), key(stringify!($field), own.$field.is_some()))
            };
        }
        let directory = DirectoryName::try_from(name.to_owned()).map_err(|why| ConfigError {
            key: format!("acme.directories.{name}"),
            problem: why.to_string(),
        })?;

        if let (true, key) = value!(external_account_required) {
            let problem = "external account binding is not offered in this version; set it to false and keep \
                           allowed_names narrow instead";
            return Err(ConfigError { key, problem: problem.to_owned() });
        }
        let (allowed_names, names_key) = value!(allowed_names);
        let (profiles, profiles_key) = value!(profiles);
        let profiles: Vec<ProfileName> = each(profiles, &profiles_key, |text| text.clone().try_into())?;
        if profiles.is_empty() {
            let problem = "at least one profile is needed, such as \"tls-server\"".to_owned();
            return Err(ConfigError { key: profiles_key, problem });
        }
        let (challenges, challenges_key) = value!(challenges);
        let challenges: Vec<ChallengeType> = each(challenges, &challenges_key, |text| {
            text.parse().map_err(|()| format!("'{text}' is no challenge; use http-01, dns-01 or tls-alpn-01"))
        })?;
        if challenges.is_empty() || challenges.iter().collect::<BTreeSet<_>>().len() != challenges.len() {
            let problem = "name at least one challenge, and each once".to_owned();
            return Err(ConfigError { key: challenges_key, problem });
        }
        let (max_identifiers, identifiers_key) = value!(max_identifiers);
        if !(1..=1000).contains(max_identifiers) {
            let problem = format!("must be from 1 to 1000, not {max_identifiers}");
            return Err(ConfigError { key: identifiers_key, problem });
        }
        let limits = OrderLimits {
            order_lifetime: lifetime(value!(order_lifetime_seconds))?,
            authorization_lifetime: lifetime(value!(authorization_lifetime_seconds))?,
            max_identifiers: *max_identifiers,
        };
        let subscriber_keys = SubscriberKeys {
            ec: *value!(ec_keys).0,
            ed25519: *value!(ed25519_keys).0,
            rsa_bits: value!(rsa_keys)
                .0
                .then(|| rsa_bits(value!(rsa_min_bits), value!(rsa_max_bits)))
                .transpose()?,
        };
        if !subscriber_keys.ec && !subscriber_keys.ed25519 && subscriber_keys.rsa_bits.is_none() {
            let problem =
                "ec_keys, ed25519_keys and rsa_keys are all false, so no key could be certified".to_owned();
            return Err(ConfigError { key: value!(rsa_keys).1, problem });
        }
        let url = |(given, key): (Option<&String>, String)| match given {
            Some(text) if text.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some()) => {
                Ok(Some(text.clone()))
            }
            Some(text) => Err(ConfigError { key, problem: format!("'{text}' is no absolute URL") }),
            None => Ok(None),
        };
        let terms = own.terms_of_service.as_ref().or(self.terms_of_service.as_ref());
        let website = own.website.as_ref().or(self.website.as_ref());
        let (validation, validation_key) = value!(validation);
        let networks = |list: &[String], field: &str| {
            each(list, &format!("{validation_key}.{field}"), |text| {
                text.parse::<Network>().map_err(|_| {
                    format!("'{text}' is no network; write an address or ADDRESS/PREFIX, as 10.0.0.0/8")
                })
            })
        };
        let (dns_servers, dns_key) = value!(dns_servers);
        let prober = ProberConfig {
            dns_servers: each(dns_servers, &dns_key, resolver)?,
            http01_port: port(value!(http01_port))?,
            tls_alpn01_port: port(value!(tls_alpn01_port))?,
            egress: Egress {
                allow: networks(&validation.allow_networks, "allow_networks")?,
                deny: networks(&validation.deny_networks, "deny_networks")?,
            },
        };
        Ok(DirectorySettings {
            policy: DirectoryPolicy {
                directory,
                names: names(allowed_names, names_key)?,
                wildcards: *value!(wildcards).0,
                challenges,
                profiles,
                subscriber_keys,
                limits,
            },
            terms_of_service: url((terms, key("terms_of_service", own.terms_of_service.is_some())))?,
            website: url((website, key("website", own.website.is_some())))?,
            prober,
        })
    }
}

/// Reads each entry of a list; an error names the key.
fn each<T, E: ToString>(
    list: &[String],
    key: &str,
    read: impl Fn(&String) -> Result<T, E>,
) -> Result<Vec<T>, ConfigError> {
    list.iter()
        .map(|text| read(text).map_err(|why| ConfigError { key: key.to_owned(), problem: why.to_string() }))
        .collect()
}

fn names(rules: &[String], key: String) -> Result<AllowedNames, ConfigError> {
    match rules {
        [any] if any == "*" => Ok(AllowedNames::Any),
        rules if rules.iter().any(|rule| rule == "*") => {
            let problem = "'*' admits every name and must stand alone".to_owned();
            Err(ConfigError { key, problem })
        }
        rules => each(rules, &key, |text| text.parse::<NameRule>()).map(AllowedNames::List),
    }
}

fn lifetime((seconds, key): (&u64, String)) -> Result<Duration, ConfigError> {
    if (60..=365 * 24 * 3600).contains(seconds) {
        return Ok(Duration::from_secs(*seconds));
    }
    Err(ConfigError { key, problem: format!("must be from 60 to 31536000 seconds, not {seconds}") })
}

fn rsa_bits(
    (min, min_key): (&u32, String),
    (max, max_key): (&u32, String),
) -> Result<(u32, u32), ConfigError> {
    if !(2048..=8192).contains(min) {
        return Err(ConfigError { key: min_key, problem: format!("must be from 2048 to 8192, not {min}") });
    }
    if !(*min..=8192).contains(max) {
        return Err(ConfigError { key: max_key, problem: format!("must be from {min} to 8192, not {max}") });
    }
    Ok((*min, *max))
}

fn port((port, key): (&u16, String)) -> Result<u16, ConfigError> {
    if *port == 0 {
        return Err(ConfigError { key, problem: "must be from 1 to 65535, not 0".to_owned() });
    }
    Ok(*port)
}

fn resolver(text: &String) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)))
        .map_err(|_| {
            format!("'{text}' is no address; write 192.0.2.53, 192.0.2.53:8053 or [2001:db8::53]:53")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Result<Vec<DirectorySettings>, ConfigError> {
        let mut config = Config::default();
        change(&mut config);
        config.directories()
    }

    #[test]
    fn the_default_admits_no_name() {
        let directories = Config::default().directories().unwrap();
        assert_eq!(directories.len(), 1);
        assert_eq!(directories[0].policy.directory.as_str(), "default");
        assert_eq!(directories[0].policy.names, AllowedNames::List(Vec::new()));
        assert!(!directories[0].policy.wildcards);
    }

    #[test]
    fn a_directory_overrides_the_defaults() {
        let own = DirectoryConfig { http01_port: Some(5002), wildcards: Some(true), ..Default::default() };
        let directories = with(|config| {
            config.allowed_names = vec!["*".to_owned()];
            config.directories = [("lab".to_owned(), own)].into();
        })
        .unwrap();
        assert_eq!(directories.len(), 1);
        let lab = &directories[0];
        assert_eq!((lab.prober.http01_port, lab.prober.tls_alpn01_port), (5002, 443));
        assert_eq!((&lab.policy.names, lab.policy.wildcards), (&AllowedNames::Any, true));
    }

    #[test]
    fn errors_name_the_key() {
        let key = |result: Result<Vec<DirectorySettings>, ConfigError>| result.unwrap_err().key;
        assert_eq!(key(with(|c| c.http01_port = 0)), "acme.http01_port");
        assert_eq!(key(with(|c| c.public_url = "127.0.0.1:8443".into())), "acme.public_url");
        assert_eq!(key(with(|c| c.external_account_required = true)), "acme.external_account_required");
        assert_eq!(key(with(|c| c.allowed_names = vec!["*".into(), "a.b".into()])), "acme.allowed_names");
        assert_eq!(key(with(|c| c.dns_servers = vec!["ns.example".into()])), "acme.dns_servers");
        assert_eq!(key(with(|c| c.max_body_bytes = 2_000_000)), "acme.max_body_bytes");
        assert_eq!(key(with(|c| c.rsa_min_bits = 1024)), "acme.rsa_min_bits");
        assert_eq!(
            key(with(|c| c.validation.deny_networks = vec!["10.0.0.0/40".into()])),
            "acme.validation.deny_networks"
        );
        let own = DirectoryConfig { challenges: Some(vec!["dns-02".into()]), ..Default::default() };
        assert_eq!(
            key(with(|c| c.directories = [("lab".to_owned(), own)].into())),
            "acme.directories.lab.challenges"
        );
        assert_eq!(
            key(with(|c| c.directories = [("Lab!".to_owned(), DirectoryConfig::default())].into())),
            "acme.directories.Lab!"
        );
    }
}
