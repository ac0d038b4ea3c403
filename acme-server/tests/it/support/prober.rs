//! A prober whose network is a table that tests fill.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use acme_server::validation::Prober;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::BoxFuture;
use ca_core::acme::DnsName;
use ca_core::acme::caa::{CaaRecord, RelevantSet, climb};
use ca_core::acme::challenge::{Answer, FailureKind, Observed, Probe, ValidationFailure};
use ca_core::pkix::public_key::sha256;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Answer as Response, Client, Key};

/// Answers probes from what tests put in; what is not there is not found.
pub struct ScriptedProber {
    answers: Mutex<HashMap<String, Result<Answer, ValidationFailure>>>,
    gate: Semaphore,
    /// Names whose probes wait until the end.
    stuck: Mutex<Option<String>>,
    probes: AtomicUsize,
    waiting: AtomicUsize,
}

impl Default for ScriptedProber {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            stuck: Mutex::default(),
            probes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl ScriptedProber {
    /// Provides what a challenge of an authorization asks for.
    pub fn provide(&self, authorization: &Response, challenge: &Value, key: &Key) {
        let name = authorization.json["identifier"]["value"].as_str().unwrap();
        let authorization = format!("{}.{}", challenge["token"].as_str().unwrap(), key.thumbprint());
        match challenge["type"].as_str().unwrap() {
            "http-01" => self.put_http(
                &format!("{name}/.well-known/acme-challenge/{}", challenge["token"].as_str().unwrap()),
                200,
                &authorization,
            ),
            "dns-01" => {
                let digest = BASE64_URL_SAFE_NO_PAD.encode(sha256(authorization.as_bytes()));
                self.put_txt(&format!("_acme-challenge.{name}"), &digest);
            }
            other => panic!("no script for {other}"),
        }
    }

    /// Provides what a dns-account-01 challenge asks for, at the name that is the account's own.
    pub fn provide_dns_account(&self, authorization: &Response, challenge: &Value, client: &Client) {
        let name = authorization.json["identifier"]["value"].as_str().unwrap();
        let hash = sha256(client.kid.as_ref().unwrap().as_bytes());
        let label = base32(&hash[..10]);
        let answer = format!("{}.{}", challenge["token"].as_str().unwrap(), client.key.thumbprint());
        let digest = BASE64_URL_SAFE_NO_PAD.encode(sha256(answer.as_bytes()));
        self.put_txt(&format!("_{label}._acme-challenge.{name}"), &digest);
    }

    /// `url` is the host and the path.
    pub fn put_http(&self, url: &str, status: u16, body: &str) {
        let address = "192.0.2.1:80".to_owned();
        let body = body.as_bytes().to_vec();
        self.put(url, Ok(Answer::Http { status, body, truncated: false, redirected: false, address }));
    }

    /// Adds a value.
    pub fn put_txt(&self, name: &str, value: &str) {
        let mut answers = self.answers.lock().unwrap();
        let entry = answers.entry(name.to_owned()).or_insert_with(|| Ok(Answer::Txt { values: Vec::new() }));
        if let Ok(Answer::Txt { values }) = entry {
            values.push(value.as_bytes().to_vec());
        }
    }

    pub fn put(&self, target: &str, answer: Result<Answer, ValidationFailure>) {
        self.answers.lock().unwrap().insert(target.to_owned(), answer);
    }

    /// From now on probes wait.
    pub fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets every waiting probe go on.
    pub fn release(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS);
    }

    /// From now on probes whose target has this in it wait until the test is over.
    pub fn hold_those_with(&self, part: &str) {
        *self.stuck.lock().unwrap() = Some(part.to_owned());
    }

    /// How many probes wait because of [`ScriptedProber::hold_those_with`].
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Publishes CAA records at a domain: flags, tag and value each.
    pub fn put_caa(&self, domain: &str, records: &[(u8, &str, &str)]) {
        let record = |(flags, tag, value): &(u8, &str, &str)| CaaRecord {
            flags: *flags,
            tag: (*tag).to_owned(),
            value: value.as_bytes().to_vec(),
        };
        let records = records.iter().map(record).collect();
        self.put(&caa_at(domain), Ok(Answer::Caa(Some(RelevantSet { domain: domain.to_owned(), records }))));
    }

    /// Breaks the look-up of CAA records at a domain.
    pub fn break_caa(&self, domain: &str) {
        let failure = ValidationFailure::new(FailureKind::Dns, "the look-up of CAA records failed");
        self.put(&caa_at(domain), Err(failure));
    }

    /// What stands first on the way from a name to the root.
    fn relevant(&self, name: &DnsName) -> Result<Answer, ValidationFailure> {
        let answers = self.answers.lock().unwrap();
        let first = climb(name).find_map(|domain| answers.get(&caa_at(domain)).cloned());
        first.unwrap_or(Ok(Answer::Caa(None)))
    }

    /// How many probes were begun.
    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }
}

/// RFC 4648 §6 in lower case, for whole groups of five octets.
fn base32(octets: &[u8]) -> String {
    let bits: Vec<u8> =
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1)).collect();
    let group = |bits: &[u8]| bits.iter().fold(0_usize, |value, bit| value * 2 + usize::from(*bit));
    bits.chunks(5).map(|bits| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[group(bits)])).collect()
}

fn caa_at(domain: &str) -> String {
    format!("CAA {domain}")
}

impl Prober for ScriptedProber {
    fn probe(&self, probe: Probe) -> BoxFuture<'_, Observed> {
        Box::pin(async move {
            self.probes.fetch_add(1, Ordering::SeqCst);
            let _permit = self.gate.acquire().await.unwrap();
            if let Probe::Caa { name } = &probe {
                return Observed { addresses: Vec::new(), answer: self.relevant(name) };
            }
            let target = match &probe {
                Probe::Http { host, path } => format!("{host}{path}"),
                Probe::Txt { name } => name.clone(),
                Probe::TlsAlpn { server_name, .. } => server_name.clone(),
                Probe::Caa { name } => caa_at(name.as_str()),
            };
            let stuck = self.stuck.lock().unwrap().as_ref().is_some_and(|part| target.contains(part));
            if stuck {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            let answer = self.answers.lock().unwrap().get(&target).cloned();
            let answer = answer.unwrap_or_else(|| match probe {
                Probe::Txt { .. } => Ok(Answer::Txt { values: Vec::new() }),
                _ => Err(ValidationFailure::new(
                    FailureKind::IncorrectResponse,
                    format!("nothing at {target}"),
                )),
            });
            Observed { addresses: vec!["192.0.2.1:80".to_owned()], answer }
        })
    }
}
