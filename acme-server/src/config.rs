//! The section `[acme]` of the configuration: what the operator wrote ([`Config`]) and what was checked
//! ([`DirectorySettings`], one for each ACME directory).

mod attestation;
mod renewal;
mod star;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use ca_core::acme::order::OrderLimits;
use ca_core::acme::{ChallengeType, DirectoryName, DnsName, RenewalPolicy};
use ca_core::id::IssuerId;
use ca_core::policy::{DirectoryPolicy, SubscriberKeys};
use ca_core::profile::ProfileName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::attestation::{AttestationConfig, AttestationRoots, FormatConfig};
pub use self::renewal::RenewalConfig;
pub use self::star::StarConfig;
use self::values::{caa, each, identities, lifetime, names, networks, port, resolver, reuse, rsa_bits};
use crate::client_address::{ForwardedHeader, TrustedProxies};
use crate::limits::{LimitSettings, LimitsConfig, PruningConfig};
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
    /// Whether new accounts must be bound to an external account, which `chancery eab create` makes. One that is given
    /// is checked in any case.
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
    /// Whether the CAA records of dns names are looked at: `off` or `check` (RFC 8659).
    pub caa: String,
    /// The issuer domain names by which CAA records can name this CA, such as `ca.example.org`.
    pub caa_identities: Vec<String>,
    /// The issuing CA that signs, by id, such as `issuing-1`. Unset: the newest active one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whether an order may choose notBefore and notAfter, within the lifetime of its profile.
    pub client_validity: bool,
    /// How long after its validation an authorization serves further orders, in seconds; 0: every order proves its
    /// names. Where it is not 0, names can be proven ahead of any order (newAuthz).
    pub authorization_reuse_seconds: u64,
    /// Whether an authorization for a domain can be had that serves every name below it, RFC 9444. It is proven in the
    /// DNS alone.
    pub subdomains: bool,
    /// Whether and how certificates are renewed automatically, RFC 8739.
    pub star: StarConfig,
    /// Where validation may connect to.
    pub validation: ValidationConfig,
    /// Whose attestations of devices are accepted.
    pub attestation: AttestationConfig,
    /// How much clients may ask for.
    pub limits: LimitsConfig,
    /// When rows are deleted that nobody can use any more; for all directories.
    pub pruning: PruningConfig,
    /// The networks of proxies that are believed when they say for whom they ask; for all directories.
    pub trusted_proxies: Vec<String>,
    /// The header in which they say it: `x-forwarded-for` or `forwarded`. The other one is never looked at.
    pub forwarded_header: String,
    /// When clients are asked to renew.
    pub renewal: RenewalConfig,
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
    pub caa: Option<String>,
    pub caa_identities: Option<Vec<String>>,
    pub issuer: Option<String>,
    pub client_validity: Option<bool>,
    pub authorization_reuse_seconds: Option<u64>,
    pub subdomains: Option<bool>,
    pub star: Option<StarConfig>,
    pub validation: Option<ValidationConfig>,
    pub attestation: Option<AttestationConfig>,
    pub limits: Option<LimitsConfig>,
    pub renewal: Option<RenewalConfig>,
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
            challenges: ChallengeType::USUAL.iter().map(|kind| kind.name().to_owned()).collect(),
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
            caa: "off".to_owned(),
            caa_identities: Vec::new(),
            issuer: None,
            client_validity: false,
            authorization_reuse_seconds: 0,
            subdomains: false,
            star: StarConfig::default(),
            validation: ValidationConfig::default(),
            attestation: AttestationConfig::default(),
            limits: LimitsConfig::default(),
            pruning: PruningConfig::default(),
            trusted_proxies: Vec::new(),
            forwarded_header: ForwardedHeader::default().name().to_owned(),
            renewal: RenewalConfig::default(),
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
    /// Whether new accounts must be bound to an external account.
    pub external_account_required: bool,
    /// The issuer domain names by which CAA records can name this CA; `None` where the records are not looked at.
    pub caa: Option<Vec<DnsName>>,
    /// The names by which a persistent DNS record can name this CA; at least one where dns-persist-01 is offered.
    pub issuer_domain_names: Vec<DnsName>,
    /// When its certificates should be renewed.
    pub renewal: RenewalPolicy,
    /// How much clients may ask for.
    pub limits: LimitSettings,
    /// How validation reaches out.
    pub prober: ProberConfig,
    /// The attestation formats of devices that are accepted, and where their roots are to be read.
    pub attestation: Vec<AttestationRoots>,
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
        self.proxies()?;
        self.pruning.ages()?;
        if self.directories.is_empty() {
            return Ok(vec![self.directory("default", &DirectoryConfig::default())?]);
        }
        self.directories.iter().map(|(name, overrides)| self.directory(name, overrides)).collect()
    }

    /// The proxies that are believed.
    ///
    /// # Errors
    /// The key at fault.
    pub fn proxies(&self) -> Result<TrustedProxies, ConfigError> {
        let header = ForwardedHeader::ALL.into_iter().find(|header| header.name() == self.forwarded_header);
        let header = header.ok_or_else(|| ConfigError {
            key: "acme.forwarded_header".to_owned(),
            problem: format!("must be \"x-forwarded-for\" or \"forwarded\", not '{}'", self.forwarded_header),
        })?;
        let networks = networks(&self.trusted_proxies, "acme.trusted_proxies")?;
        Ok(TrustedProxies { networks, header })
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

        let (allowed_names, names_key) = value!(allowed_names);
        let (profiles, profiles_key) = value!(profiles);
        let profiles: Vec<ProfileName> = each(profiles, &profiles_key, |text| text.clone().try_into())?;
        if profiles.is_empty() {
            let problem = "at least one profile is needed, such as \"tls-server\"".to_owned();
            return Err(ConfigError { key: profiles_key, problem });
        }
        let (challenges, challenges_key) = value!(challenges);
        let challenges: Vec<ChallengeType> = each(challenges, &challenges_key, |text| {
            text.parse().map_err(|()| {
                let kinds = ChallengeType::ALL.map(ChallengeType::name).join(", ");
                format!("'{text}' is no challenge; use {kinds}")
            })
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
        let networks = |list: &[String], field: &str| networks(list, &format!("{validation_key}.{field}"));
        let (renewal, renewal_section) = value!(renewal);
        let (star, star_section) = value!(star);
        let issuer_key = key("issuer", own.issuer.is_some());
        let issuer = own.issuer.as_ref().or(self.issuer.as_ref()).map(|text| {
            text.parse::<IssuerId>().map_err(|why| {
                let problem = format!("'{text}': {why}; see `chancery issuer list`");
                ConfigError { key: issuer_key, problem }
            })
        });
        let issuer = issuer.transpose()?;
        let (dns_servers, dns_key) = value!(dns_servers);
        let (given, identities_key) = value!(caa_identities);
        let identities = identities(given, &identities_key)?;
        let persistent = challenges.contains(&ChallengeType::DnsPersist01);
        if persistent && !(1..=10).contains(&identities.len()) {
            let problem = "dns-persist-01 is offered, so this CA needs one to ten names that its records can give, \
                           such as \"ca.example.org\"";
            return Err(ConfigError { key: identities_key, problem: problem.to_owned() });
        }
        let issuer_domain_names = if persistent { identities.clone() } else { Vec::new() };
        let caa = caa(value!(caa), identities, identities_key)?;
        let (attestation, attestation_key) = value!(attestation);
        let attests = challenges.contains(&ChallengeType::DeviceAttest01);
        let attestation = attestation::roots(attestation, &attestation_key, attests)?;
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
                client_validity: *value!(client_validity).0,
                reuse: reuse(value!(authorization_reuse_seconds))?,
                subdomains: *value!(subdomains).0,
                star: star.policy(&star_section)?,
                issuer,
            },
            renewal: renewal.policy(&renewal_section)?,
            terms_of_service: url((terms, key("terms_of_service", own.terms_of_service.is_some())))?,
            website: url((website, key("website", own.website.is_some())))?,
            external_account_required: *value!(external_account_required).0,
            caa,
            issuer_domain_names,
            limits: self.limits.settings(name, own.limits.as_ref())?,
            prober,
            attestation,
        })
    }
}

#[cfg(test)]
mod tests {
    use ca_core::policy::AllowedNames;

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
    fn caa_is_switched_on_for_all_directories_or_for_one() {
        let identity = DnsName::parse("ca.example.org").unwrap();
        assert_eq!(with(|_| ()).unwrap()[0].caa, None);
        let own = DirectoryConfig { caa: Some("check".to_owned()), ..Default::default() };
        let directories = with(|config| {
            config.caa_identities = vec!["CA.example.org".to_owned()];
            config.directories = [("a".to_owned(), own), ("b".to_owned(), Default::default())].into();
        })
        .unwrap();
        assert_eq!(directories[0].caa.as_deref(), Some(&[identity][..]));
        assert_eq!(directories[1].caa, None);
        let own = DirectoryConfig { caa: Some("off".to_owned()), ..Default::default() };
        let directories = with(|config| {
            config.caa = "check".to_owned();
            config.caa_identities = vec!["ca.example.org".to_owned()];
            config.directories = [("a".to_owned(), own)].into();
        });
        assert_eq!(directories.unwrap()[0].caa, None);
    }

    #[test]
    fn device_attest_01_needs_roots_for_a_format() {
        let with = |attestation: AttestationConfig, challenge: &str| {
            with(|config| {
                config.challenges = vec![challenge.to_owned()];
                config.attestation = attestation;
            })
        };
        let section = |roots: &str| Some(FormatConfig { roots: roots.to_owned() });
        let tpm = AttestationConfig { tpm: section("tpm.pem"), ..Default::default() };
        let directories = with(tpm.clone(), "device-attest-01").unwrap();
        let roots = &directories[0].attestation;
        assert_eq!((roots.len(), roots[0].key.as_str()), (1, "acme.attestation.tpm.roots"));
        assert_eq!((roots[0].format.name(), roots[0].file.to_str()), ("tpm", Some("tpm.pem")));
        assert!(with(tpm, "http-01").is_ok());
        let none = with(AttestationConfig::default(), "device-attest-01").unwrap_err();
        assert_eq!(none.key, "acme.attestation");
        let empty = AttestationConfig { android_key: section(""), ..Default::default() };
        assert_eq!(with(empty, "http-01").unwrap_err().key, "acme.attestation.android-key.roots");
        assert!(!Config::default().challenges.iter().any(|kind| kind == "device-attest-01"));
    }

    #[test]
    fn errors_name_the_key() {
        let key = |result: Result<Vec<DirectorySettings>, ConfigError>| result.unwrap_err().key;
        assert_eq!(key(with(|c| c.http01_port = 0)), "acme.http01_port");
        assert_eq!(key(with(|c| c.public_url = "127.0.0.1:8443".into())), "acme.public_url");
        assert_eq!(key(with(|c| c.allowed_names = vec!["*".into(), "a.b".into()])), "acme.allowed_names");
        assert_eq!(key(with(|c| c.dns_servers = vec!["ns.example".into()])), "acme.dns_servers");
        assert_eq!(key(with(|c| c.max_body_bytes = 2_000_000)), "acme.max_body_bytes");
        assert_eq!(key(with(|c| c.rsa_min_bits = 1024)), "acme.rsa_min_bits");
        assert_eq!(key(with(|c| c.trusted_proxies = vec!["proxy".into()])), "acme.trusted_proxies");
        assert_eq!(key(with(|c| c.forwarded_header = "via".into())), "acme.forwarded_header");
        assert_eq!(key(with(|c| c.pruning.every_seconds = 0)), "acme.pruning.every_seconds");
        let orders = Some("300 an hour".to_owned());
        assert_eq!(
            key(with(|c| c.limits.new_orders_per_account = orders)),
            "acme.limits.new_orders_per_account"
        );
        assert_eq!(
            key(with(|c| c.validation.deny_networks = vec!["10.0.0.0/40".into()])),
            "acme.validation.deny_networks"
        );
        assert_eq!(key(with(|c| c.caa = "on".into())), "acme.caa");
        assert_eq!(key(with(|c| c.caa = "check".into())), "acme.caa_identities");
        assert_eq!(key(with(|c| c.caa_identities = vec!["*.ca.example".into()])), "acme.caa_identities");
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
