//! The section `[policy.webhook]`: where the policy service is, and what its silence means.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use acme_server::validation::Egress;
use ca_core::issuance::is_loopback_url;
use ca_core::policy::Network;
use ca_core::policy_hook::OnFailure;
use http::Uri;
use serde::Deserialize;

/// The longest that one call may take: it holds one of the places of `ca.effects_at_once`.
const LONGEST_TIMEOUT: Duration = Duration::from_mins(1);

/// The section `[policy]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicySection {
    /// A policy service; none unless configured.
    pub webhook: Option<WebhookConfig>,
}

/// The section `[policy.webhook]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where questions are posted to: `https://…`, or `http://…` on loopback for a CA that is a trial.
    pub url: String,
    /// The file with the secret that signs questions and answers, or the name of a systemd credential.
    pub secret_file: PathBuf,
    /// How long one call may take.
    #[serde(default = "timeout_milliseconds")]
    pub timeout_milliseconds: NonZeroU32,
    /// What no verdict means.
    #[serde(default)]
    pub on_failure: Silence,
    /// With `on_failure = "refuse"`: how long an order waits for a verdict before it fails.
    #[serde(default = "give_up_seconds")]
    pub give_up_seconds: u32,
    /// The roots, in PEM, that vouch for the service's TLS certificate.
    #[serde(default)]
    pub roots_file: Option<PathBuf>,
    /// Networks that may be connected to beside global addresses.
    #[serde(default = "allow_networks")]
    pub allow_networks: Vec<String>,
    /// Networks that must not be; they beat those.
    #[serde(default = "deny_networks")]
    pub deny_networks: Vec<String>,
}

/// What no verdict means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Silence {
    /// Fail closed.
    #[default]
    Refuse,
    /// Fail open.
    Allow,
}

fn timeout_milliseconds() -> NonZeroU32 {
    const { NonZeroU32::new(5000).unwrap() }
}

fn give_up_seconds() -> u32 {
    300
}

/// The operator names the service, which is usually a neighbour.
fn allow_networks() -> Vec<String> {
    ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
        .map(str::to_owned)
        .to_vec()
}

/// Link-local addresses, and where clouds keep their metadata.
fn deny_networks() -> Vec<String> {
    ["169.254.0.0/16", "fe80::/10", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"]
        .map(str::to_owned)
        .to_vec()
}

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    /// What goes into the Host header.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

impl WebhookConfig {
    /// Checks what can be checked without looking around.
    ///
    /// # Errors
    /// The key at fault and what to write.
    pub fn check(&self) -> Result<(), String> {
        let target = self.target()?;
        self.egress()?;
        if target.tls && self.roots_file.is_none() {
            return Err("policy.webhook.roots_file is not set: name the file with the roots, in PEM, that vouch for the policy service".to_owned());
        }
        if self.timeout() > LONGEST_TIMEOUT {
            return Err(format!(
                "policy.webhook.timeout_milliseconds is at most {}",
                LONGEST_TIMEOUT.as_millis()
            ));
        }
        Ok(())
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_milliseconds.get().into())
    }

    /// What no verdict means for an order.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        match self.on_failure {
            Silence::Refuse => OnFailure::Refuse { after: Duration::from_secs(self.give_up_seconds.into()) },
            Silence::Allow => OnFailure::Allow,
        }
    }

    /// Whether the service is spoken to without TLS, which only a trial may do.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.target().is_ok_and(|target| !target.tls)
    }

    pub(super) fn target(&self) -> Result<Target, String> {
        let url = &self.url;
        let wrong =
            |what: &str| format!("policy.webhook.url: '{url}' {what}; write https://HOST[:PORT]/PATH");
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback_url(url) => false,
            Some("http") => {
                return Err(wrong("has no TLS, which is left out on loopback only, for a first look"));
            }
            _ => return Err(wrong("is neither https nor http")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has user information, which is not sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("names no host"));
        }
        Ok(Target {
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    pub(super) fn egress(&self) -> Result<Egress, String> {
        let parse = |key: &str, list: &[String]| {
            list.iter()
                .map(|text| {
                    let network: Result<Network, _> = text.parse();
                    network.map_err(|_| {
                        format!(
                            "policy.webhook.{key}: '{text}' is no network; write ADDRESS or ADDRESS/PREFIX"
                        )
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Egress {
            allow: parse("allow_networks", &self.allow_networks)?,
            deny: parse("deny_networks", &self.deny_networks)?,
        })
    }
}

impl Target {
    /// The address that stands in the URL in place of a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}
