//! Validation against real servers on loopback: http-01, dns-01, tls-alpn-01, and the policy on where to look.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test server or fixture that fails ends the test; clippy knows only test functions"
)]

mod addresses;
mod dns01;
pub mod dns_server;
mod http01;
mod http_server;
mod redirects;
mod tls_alpn01;
mod validator;

use std::net::SocketAddr;
use std::time::Duration;

use acme_server::validation::{Egress, Limits, NetworkProber, Prober, ProberConfig, Validation};
use ca_core::acme::account::Thumbprint;
use ca_core::acme::challenge::{
    Answer, Challenge, ChallengeType, Claimant, KeyAuthorization, Observed, ValidationFailure,
};
use ca_core::pkix::identifier::Identifier;
use ca_core::random::SystemRandom;
use ca_core::time::Timestamp;

const THUMBPRINT: Thumbprint = Thumbprint([7; 32]);

fn claimant() -> Claimant {
    Claimant {
        thumbprint: THUMBPRINT,
        former: Vec::new(),
        account_url: "https://ca.example/account/1".to_owned(),
        account_hash_prefix: "https://ca.example/account-hash/".to_owned(),
        issuer_domain_names: Vec::new(),
    }
}

/// A challenge with the answer to it, and whom it is about.
struct Subject {
    challenge: Challenge,
    identifier: Identifier,
}

impl Subject {
    fn new(kind: ChallengeType, identifier: &str) -> Self {
        Self {
            challenge: Challenge::generate(kind, &mut SystemRandom),
            identifier: Identifier::from_text(identifier).unwrap(),
        }
    }

    fn key_authorization(&self) -> KeyAuthorization {
        KeyAuthorization::new(&self.challenge.token, &THUMBPRINT)
    }

    fn body(&self) -> String {
        self.key_authorization().as_str().to_owned()
    }

    fn path(&self) -> String {
        format!("/.well-known/acme-challenge/{}", self.challenge.token.as_str())
    }

    async fn observe(&self, prober: &NetworkProber) -> Observed {
        prober.probe(self.challenge.probe(&self.identifier, &claimant()).unwrap()).await
    }

    fn validation(&self) -> Validation {
        Validation {
            challenge: self.challenge.clone(),
            identifier: self.identifier.clone(),
            wildcard: false,
            claimant: claimant(),
            caa: None,
        }
    }

    /// Probes and judges.
    async fn validate(&self, prober: &NetworkProber) -> Result<(), ValidationFailure> {
        let observed = self.observe(prober).await;
        let now = Timestamp::from_millis(0);
        self.challenge.judge(&self.identifier, false, &claimant(), &observed, now).map(|_| ())
    }
}

/// A prober under construction: loopback allowed, the system's resolvers never asked, patient.
pub struct Setup {
    config: ProberConfig,
    limits: Limits,
}

impl Setup {
    pub fn new() -> Self {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let egress = Egress { allow: networks(&["127.0.0.0/8", "::1"]), deny: Vec::new() };
        Self {
            config: ProberConfig { dns_servers: vec![nobody], http01_port: 9, tls_alpn01_port: 9, egress },
            limits: Limits { stagger: Duration::from_millis(100), ..Limits::default() },
        }
    }

    fn http(mut self, port: u16) -> Self {
        self.config.http01_port = port;
        self
    }

    fn tls(mut self, port: u16) -> Self {
        self.config.tls_alpn01_port = port;
        self
    }

    pub fn dns(mut self, server: SocketAddr) -> Self {
        self.config.dns_servers = vec![server];
        self
    }

    fn egress(mut self, allow: &[&str], deny: &[&str]) -> Self {
        self.config.egress = Egress { allow: networks(allow), deny: networks(deny) };
        self
    }

    /// An attempt ends after so many milliseconds, a look-up after half of that.
    pub fn hasty(mut self, millis: u64) -> Self {
        self.limits.attempt = Duration::from_millis(millis);
        self.limits.dns = Duration::from_millis(millis / 2);
        self
    }

    fn https(mut self, port: u16) -> Self {
        self.limits.https_port = port;
        self
    }

    pub fn prober(self) -> NetworkProber {
        NetworkProber::with_limits(self.config, self.limits).unwrap()
    }
}

fn networks(list: &[&str]) -> Vec<ca_core::policy::Network> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn status(observed: &Observed) -> u16 {
    match &observed.answer {
        Ok(Answer::Http { status, .. }) => *status,
        other => panic!("{other:?}"),
    }
}

fn failure(observed: &Observed) -> ValidationFailure {
    observed.answer.clone().unwrap_err()
}
