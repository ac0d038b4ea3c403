//! A prober whose network is a table that tests fill.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use acme_server::validation::Prober;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::BoxFuture;
use ca_core::acme::challenge::{Answer, FailureKind, Observed, Probe, ValidationFailure};
use ca_core::pkix::public_key::sha256;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Answer as Response, Key};

/// Answers probes from what tests put in; what is not there is not found.
pub struct ScriptedProber {
    answers: Mutex<HashMap<String, Result<Answer, ValidationFailure>>>,
    gate: Semaphore,
    probes: AtomicUsize,
}

impl Default for ScriptedProber {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            probes: AtomicUsize::new(0),
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

    /// How many probes were begun.
    pub fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }
}

impl Prober for ScriptedProber {
    fn probe(&self, probe: Probe) -> BoxFuture<'_, Observed> {
        Box::pin(async move {
            self.probes.fetch_add(1, Ordering::SeqCst);
            let _permit = self.gate.acquire().await.unwrap();
            let target = match &probe {
                Probe::Http { host, path } => format!("{host}{path}"),
                Probe::Txt { name } => name.clone(),
                Probe::TlsAlpn { server_name, .. } => server_name.clone(),
            };
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
