//! The configuration: `chancery.toml` in the data directory, every key of which an environment variable can override.

pub mod nearest;
pub mod read;
pub mod template;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use ca_core::authority::{AuthorityConfig, CrlValidity};
use ca_core::issuance::PkiUrls;
use ca_core::pkix::identifier::Identifier;
use ca_core::profile::{Profile, ProfileConfig, ProfileName, Usage};
use ca_core::store::{IssuerKind, Role};
use serde::{Deserialize, Serialize};

use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::listen::connections::Bounds;
use crate::policy_hook::PolicySection;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[listen]`: addresses.
    pub listen: Listen,
    /// `[acme]`: what directories admit, and validation.
    pub acme: acme_server::Config,
    /// `[pki]`: the URLs that certificates carry.
    pub pki: Pki,
    /// `[keys]`: where the CA's keys live.
    pub keys: hsm::KeysConfig,
    /// `[profiles.NAME]`: what certificates contain.
    pub profiles: Profiles,
    /// `[store]`: who may commit, and how much disk must stay free.
    pub store: StoreSection,
    /// `[ocsp]`: the responder.
    pub ocsp: ocsp_responder::Config,
    /// `[crl]`: the publisher.
    pub crl: crl_publisher::Config,
    /// `[ca]`: how much is done at a time.
    pub ca: CaSection,
    /// `[policy]`: who else is asked before a certificate is issued.
    pub policy: PolicySection,
    /// `[log]`: the log's form.
    pub log: LogSection,
}

/// The section `[listen]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// ACME.
    pub acme: SocketAddr,
    /// Whether the ACME listener speaks TLS itself; `false` behind a proxy that does.
    pub acme_tls: bool,
    /// OCSP, CRLs and CA certificates, plain HTTP.
    pub pki: SocketAddr,
    /// OCSP, where role `ocsp` runs in a process of its own; `pki` unless set.
    pub ocsp: Option<SocketAddr>,
    /// CRLs and CA certificates, where role `crl` runs in a process of its own; `pki` unless set.
    pub crl: Option<SocketAddr>,
    /// Metrics and health.
    pub metrics: SocketAddr,
    /// How many connections a listener holds at a time; one more takes the place of the one that has been idle, or slow
    /// to send its request, for longest.
    pub max_connections: NonZeroU32,
    /// How long a TLS handshake or a request's header may take, and an idle connection is kept.
    pub header_timeout_seconds: NonZeroU32,
    /// How long a request may take, its body's arrival included.
    pub request_timeout_seconds: NonZeroU32,
    /// How long a client may take not one byte of an answer that is on its way.
    pub stall_timeout_seconds: NonZeroU32,
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            acme: loopback(8443),
            acme_tls: true,
            pki: loopback(8080),
            ocsp: None,
            crl: None,
            metrics: loopback(9464),
            max_connections: const { NonZeroU32::new(4096).unwrap() },
            header_timeout_seconds: const { NonZeroU32::new(10).unwrap() },
            request_timeout_seconds: const { NonZeroU32::new(60).unwrap() },
            stall_timeout_seconds: const { NonZeroU32::new(30).unwrap() },
        }
    }
}

impl Listen {
    /// The bounds of every listener.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            connections: usize::try_from(self.max_connections.get()).unwrap_or(usize::MAX),
            header: Duration::from_secs(self.header_timeout_seconds.get().into()),
            request: Duration::from_secs(self.request_timeout_seconds.get().into()),
            stall: Duration::from_secs(self.stall_timeout_seconds.get().into()),
        }
    }
}

/// The section `[pki]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pki {
    /// The base of AIA and CRL distribution point URLs, as relying parties reach it.
    pub public_url: String,
    /// The base of OCSP URLs; `public_url` unless set.
    pub ocsp_url: Option<String>,
    /// The base of CRL and CA certificate URLs; `public_url` unless set.
    pub crl_url: Option<String>,
}

impl Default for Pki {
    fn default() -> Self {
        Self { public_url: "http://127.0.0.1:8080".to_owned(), ocsp_url: None, crl_url: None }
    }
}

/// The sections `[profiles.NAME]`; `tls-server` and `tls-client` are there unless configured otherwise.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Profiles(pub BTreeMap<ProfileName, ProfileConfig>);

/// The section `[store]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// The user of each role that runs in a process of its own, by name or number.
    pub role_users: HashMap<Role, UserRef>,
    /// Below this much free space on the store's disk nothing is issued; revocation goes on.
    pub min_free_bytes: u64,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { role_users: HashMap::new(), min_free_bytes: 64 * 1024 * 1024 }
    }
}

/// A Unix user, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserRef {
    /// By number.
    Uid(u32),
    /// By name, or a number in quotes.
    Name(String),
}

/// The section `[ca]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaSection {
    /// How many effects of each kind (issuances, own certificates, revocations, CRLs) are carried out at a time.
    pub effects_at_once: NonZeroUsize,
}

impl Default for CaSection {
    fn default() -> Self {
        Self { effects_at_once: const { NonZeroUsize::new(64).unwrap() } }
    }
}

/// The section `[log]`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// Its form.
    pub format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads the data directory's file and the environment, and checks what can be checked without looking around.
    ///
    /// # Errors
    /// [`Code::NotInitialised`] if there is no file; [`Code::Configuration`] with the key at fault and what to write.
    pub fn load(data: &DataDir) -> Result<Self, Failure> {
        let path = data.configuration();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::new(
                    Code::NotInitialised,
                    format!("{} holds no CA: there is no chancery.toml", data.path().display()),
                    "run `chancery up` for a first look or `chancery init --public-url URL` for service, or pass --data DIR",
                ));
            }
            Err(e) => return Err(data.unusable("read", &path, &e)),
        };
        Self::parse(&path.display().to_string(), &text, environment()?)
    }

    /// As [`Config::load`], from a text.
    ///
    /// # Errors
    /// As there.
    pub fn parse(
        name: &str,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Failure> {
        let mut config: Self = read::read((name, text), variables)?;
        config.check().map_err(|problem| {
            Failure::new(
                Code::Configuration,
                problem,
                format!("correct it in {name}, or the CHANCERY__ variable that sets it"),
            )
        })?;
        if config.profiles.0.is_empty() {
            config.profiles.0 = default_profiles();
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.acme.directories().map_err(|e| e.to_string())?;
        self.ocsp.check().map_err(|e| e.to_string())?;
        self.crl.check().map_err(|e| e.to_string())?;
        if let Some(webhook) = &self.policy.webhook {
            webhook.check()?;
        }
        let ocsp_and_crl = [("pki.ocsp_url", &self.pki.ocsp_url), ("pki.crl_url", &self.pki.crl_url)];
        let urls = ocsp_and_crl.into_iter().filter_map(|(key, url)| url.as_ref().map(|url| (key, url)));
        for (key, url) in urls.chain([("pki.public_url", &self.pki.public_url)]) {
            let uri: http::Uri =
                url.parse().map_err(|_| format!("{key}: '{url}' is no URL; write http://HOST:PORT"))?;
            if uri.scheme_str() != Some("http")
                || uri.host().is_none_or(str::is_empty)
                || uri.query().is_some()
            {
                return Err(format!(
                    "{key}: '{url}' can't stand in certificates; write http://HOST:PORT (OCSP and CRLs are signed themselves, \
                     and fetching them over https would need the certificate that is being checked)"
                ));
            }
        }
        let profiles = self.profiles()?;
        for directory in self.acme.directories().map_err(|e| e.to_string())? {
            for name in &directory.policy.profiles {
                if !profiles.iter().any(|profile| profile.name == *name) {
                    let known: Vec<&str> = profiles.iter().map(|profile| profile.name.as_str()).collect();
                    return Err(format!(
                        "acme.profiles of directory '{}' names '{name}', but there is no [profiles.{name}]; known: {}",
                        directory.policy.directory,
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(())
    }

    fn profiles(&self) -> Result<Vec<Profile>, String> {
        let configured =
            if self.profiles.0.is_empty() { default_profiles() } else { self.profiles.0.clone() };
        configured
            .into_iter()
            .map(|(name, config)| Profile::new(name, &config).map_err(|e| e.to_string()))
            .collect()
    }

    /// What the authority judges by.
    ///
    /// # Errors
    /// [`Code::Configuration`] for the key at fault.
    pub fn authority(&self) -> Result<AuthorityConfig, Failure> {
        let failed =
            |problem: String| Failure::new(Code::Configuration, problem, "correct it in chancery.toml");
        Ok(AuthorityConfig {
            directories: self
                .acme
                .directories()
                .map_err(|e| failed(e.to_string()))?
                .into_iter()
                .map(|directory| directory.policy)
                .collect(),
            profiles: self.profiles().map_err(failed)?,
            urls: self.urls(),
            crl_validity: CrlValidity {
                issuing: self.crl.validity(IssuerKind::Issuing),
                root: self.crl.validity(IssuerKind::Root),
            },
            listener_names: self.listener_names(),
        })
    }

    /// The bases of what certificates carry.
    #[must_use]
    pub fn urls(&self) -> PkiUrls {
        let base = |url: &Option<String>| {
            url.as_ref().unwrap_or(&self.pki.public_url).trim_end_matches('/').to_owned()
        };
        PkiUrls { crl: base(&self.pki.crl_url), ocsp: base(&self.pki.ocsp_url) }
    }

    /// The names of our own listeners: this machine, and the public hosts.
    #[must_use]
    pub fn listener_names(&self) -> Vec<Identifier> {
        let own = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned);
        let urls = [Some(&self.acme.public_url), Some(&self.pki.public_url)];
        let public = urls.into_iter().flatten().filter_map(|url| host(url));
        let mut names = Vec::new();
        for name in own.chain(public).filter_map(|name| Identifier::from_text(&name).ok()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The URL of the first ACME directory.
    ///
    /// # Errors
    /// [`Code::Configuration`] for the key at fault.
    pub fn acme_directory(&self) -> Result<String, Failure> {
        let failed =
            |e: acme_server::ConfigError| Failure::new(Code::Configuration, e, "correct it in chancery.toml");
        let directories = self.acme.directories().map_err(failed)?;
        let base = self.acme.base_url().map_err(failed)?;
        let first = directories.first().map_or("default", |directory| directory.policy.directory.as_str());
        Ok(format!("{base}/acme/{first}/directory"))
    }
}

/// The host of a URL: a name, or an address without brackets.
#[must_use]
pub fn host(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// The profiles that are there when none is configured.
#[must_use]
pub fn default_profiles() -> BTreeMap<ProfileName, ProfileConfig> {
    [("tls-server", Usage::TlsServer), ("tls-client", Usage::TlsClient)]
        .into_iter()
        .filter_map(|(name, usage)| {
            let name = ProfileName::try_from(name.to_owned()).ok()?;
            Some((name, ProfileConfig { usage, validity_days: 90, backdate_minutes: 5, description: None }))
        })
        .collect()
}

/// The environment's variables that are text.
///
/// # Errors
/// [`Code::Configuration`] if one of ours is not.
pub fn environment() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) if name.starts_with(read::PREFIX) => {
                return Err(Failure::new(
                    Code::Configuration,
                    format!("{name} is not text in UTF-8"),
                    "set it to text",
                ));
            }
            Err(_) => {}
        }
    }
    Ok(variables)
}
