//! An ACME client for load (RFC 8555): one kept connection, http-01 orders as fast as the server answers.
//!
//! It does what a good client does: nonces come from the answer before (§6.5), an answer that says `valid` is believed,
//! anything still open is polled by POST-as-GET no sooner than Retry-After allows (§7.5.1, §7.4).

use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ca_core::time::Stopwatch;
use http::header::{HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connection::{Connection, Endpoint};
use super::http01::Http01;
use super::jose::AccountKey;
use super::latency::Latencies;

/// How long an authorization or order may stay undecided.
const DECIDED_WITHIN: Duration = Duration::from_secs(40);
/// The first pause before polling where the server names none; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause that the server did not name.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a request is sent again because its nonce was refused.
const NONCE_TRIES: usize = 3;

/// An ACME directory: where its server is and the resources that a load uses.
#[derive(Clone, Debug)]
pub struct Directory {
    endpoint: Endpoint,
    resources: Resources,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resources {
    new_nonce: String,
    new_account: String,
    new_order: String,
}

/// An account with its key.
#[derive(Debug)]
pub struct Account {
    key: AccountKey,
    kid: Option<String>,
}

/// A client of an account.
#[derive(Debug)]
pub struct Client {
    directory: Directory,
    connection: Connection,
    account: Rc<Account>,
    nonce: Option<HeaderValue>,
    signed: u64,
}

/// How long the steps of orders took, polls included.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// newOrder.
    pub new_order: Latencies,
    /// Reading the authorization.
    pub authorization: Latencies,
    /// From the answer to the challenge to its outcome.
    pub challenge: Latencies,
    /// From the CSR to the order's end.
    pub finalize: Latencies,
    /// The download.
    pub certificate: Latencies,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Ready,
    Processing,
    Valid,
    #[serde(other)]
    Failed,
}

#[derive(Deserialize)]
struct Order {
    status: Status,
    authorizations: Vec<String>,
    finalize: String,
    certificate: Option<String>,
}

#[derive(Deserialize)]
struct Authorization<'a> {
    status: Status,
    #[serde(borrow)]
    challenges: Vec<Challenge<'a>>,
}

#[derive(Deserialize)]
struct Challenge<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    url: String,
    status: Status,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    detail: Cow<'a, str>,
}

impl Directory {
    /// Reads the directory at this URL, whose TLS certificate these roots (a PEM file) vouch for.
    ///
    /// # Errors
    /// If there is none, or it is not on this machine and need be.
    pub async fn read(url: &str, roots: Option<&Path>, allow_remote: bool) -> Result<Self> {
        let endpoint = Endpoint::new(url, roots)?;
        if !allow_remote {
            endpoint.require_loopback().await?;
        }
        let answer = Connection::new(endpoint.clone()).exchange(Method::GET, url, None, Bytes::new()).await?;
        let resources = json(&answer).with_context(|| format!("no ACME directory at {url}"))?;
        Ok(Self { endpoint, resources })
    }
}

impl Client {
    /// Connects and creates an account with a new key.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn register(directory: &Directory) -> Result<Self> {
        let account = Account { key: AccountKey::generate()?, kid: None };
        let mut client = Self::of(directory, Rc::new(account));
        let url = directory.resources.new_account.clone();
        let answer = client.post(&url, br#"{"termsOfServiceAgreed":true}"#).await.context("newAccount")?;
        let kid = Some(location(&answer)?);
        if let Some(account) = Rc::get_mut(&mut client.account) {
            account.kid = kid;
        }
        client.signed = 0;
        Ok(client)
    }

    /// Another client of the same account, with a connection of its own.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(&self.directory, Rc::clone(&self.account))
    }

    fn of(directory: &Directory, account: Rc<Account>) -> Self {
        let connection = Connection::new(directory.endpoint.clone());
        Self { directory: directory.clone(), connection, account, nonce: None, signed: 0 }
    }

    /// How many signed requests it has sent since its account was created.
    #[must_use]
    pub fn signed(&self) -> u64 {
        self.signed
    }

    /// Gets a certificate for one dns name, for which `http01` must be what the server finds, by a CSR (DER) for that
    /// name.
    ///
    /// # Errors
    /// If any step fails or the server says `invalid`; the error names the step.
    pub async fn issue(&mut self, name: &str, csr: &[u8], http01: &Http01, steps: &mut Steps) -> Result<()> {
        let watch = Stopwatch::start();
        let url = self.directory.resources.new_order.clone();
        let payload = format!(r#"{{"identifiers":[{{"type":"dns","value":"{name}"}}]}}"#);
        let answer = self.post(&url, payload.as_bytes()).await.context("newOrder")?;
        let order_url = location(&answer)?;
        let order: Order = json(&answer)?;
        steps.new_order.add(watch.elapsed());
        for authorization in &order.authorizations {
            self.authorize(authorization, http01, steps).await?;
        }

        let watch = Stopwatch::start();
        let payload = format!(r#"{{"csr":"{}"}}"#, URL_SAFE_NO_PAD.encode(csr));
        let mut answer = self.post(&order.finalize, payload.as_bytes()).await.context("finalize")?;
        let mut poll = Poll::start();
        let certificate = loop {
            let order: Order = json(&answer)?;
            match order.status {
                Status::Valid => break order.certificate.context("a valid order without a certificate")?,
                Status::Processing => {}
                Status::Pending | Status::Ready | Status::Failed => bail!("finalize: {}", shown(&answer)),
            }
            poll.pause(&answer).await.context("finalize")?;
            answer = self.post(&order_url, b"").await.context("order")?;
        };
        steps.finalize.add(watch.elapsed());

        let watch = Stopwatch::start();
        let chain = self.post(&certificate, b"").await.context("certificate")?.into_body();
        ensure!(chain.starts_with(b"-----BEGIN CERTIFICATE-----"), "certificate: it is not PEM");
        steps.certificate.add(watch.elapsed());
        Ok(())
    }

    async fn authorize(&mut self, url: &str, http01: &Http01, steps: &mut Steps) -> Result<()> {
        let watch = Stopwatch::start();
        let answer = self.post(url, b"").await.context("authorization")?;
        let authorization: Authorization<'_> = json_borrowed(&answer)?;
        steps.authorization.add(watch.elapsed());
        if matches!(authorization.status, Status::Valid) {
            return Ok(());
        }
        let watch = Stopwatch::start();
        let mut challenges = authorization.challenges.into_iter();
        let challenge =
            challenges.find(|challenge| challenge.kind == "http-01").context("no http-01 challenge")?;
        let token = challenge.token.context("an http-01 challenge without a token")?;
        http01.add(&token, self.account.key.key_authorization(&token));
        let decided = self.validate(url, &challenge.url).await;
        http01.remove(&token);
        decided.context("challenge")?;
        steps.challenge.add(watch.elapsed());
        Ok(())
    }

    async fn validate(&mut self, url: &str, challenge_url: &str) -> Result<()> {
        let mut answer = self.post(challenge_url, b"{}").await?;
        let challenge: Challenge<'_> = json_borrowed(&answer)?;
        // One valid challenge makes its authorization valid (§7.1.6): nothing is left to ask.
        if matches!(challenge.status, Status::Valid) {
            return Ok(());
        }
        let mut poll = Poll::start();
        loop {
            poll.pause(&answer).await?;
            answer = self.post(url, b"").await?;
            let authorization: Authorization<'_> = json_borrowed(&answer)?;
            match authorization.status {
                Status::Valid => return Ok(()),
                Status::Pending => {}
                Status::Processing | Status::Ready | Status::Failed => bail!("{}", shown(&answer)),
            }
        }
    }

    /// Sends a payload, or none for POST-as-GET, and returns an answer that is no problem document.
    async fn post(&mut self, url: &str, payload: &[u8]) -> Result<Response<Bytes>> {
        for _ in 0..NONCE_TRIES {
            let nonce = match self.nonce.take() {
                Some(nonce) => nonce,
                None => self.new_nonce().await?,
            };
            let account = &self.account;
            let body = account.key.jws(url, nonce.to_str()?, account.kid.as_deref(), payload)?;
            self.signed += 1;
            let answer = self.exchange(Method::POST, url, body).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let problem: Option<Problem<'_>> = serde_json::from_slice(answer.body()).ok();
            if problem.is_none_or(|problem| problem.kind != "urn:ietf:params:acme:error:badNonce") {
                bail!("{}", shown(&answer));
            }
        }
        bail!("the nonce was refused {NONCE_TRIES} times")
    }

    async fn new_nonce(&mut self) -> Result<HeaderValue> {
        let url = self.directory.resources.new_nonce.clone();
        let answer = self.exchange(Method::HEAD, &url, Bytes::new()).await?;
        ensure!(answer.status() == StatusCode::OK, "newNonce: {}", answer.status());
        self.nonce.take().context("newNonce gave no nonce")
    }

    /// Sends one request and keeps the nonce of its answer.
    async fn exchange(&mut self, method: Method, url: &str, body: Bytes) -> Result<Response<Bytes>> {
        let kind = (method == Method::POST).then(|| HeaderValue::from_static("application/jose+json"));
        let mut answer = self.connection.exchange(method, url, kind, body).await?;
        self.nonce = answer.headers_mut().remove("replay-nonce");
        Ok(answer)
    }
}

/// The pauses of one wait.
struct Poll {
    watch: Stopwatch,
    pause: Duration,
}

impl Poll {
    fn start() -> Self {
        Self { watch: Stopwatch::start(), pause: FIRST_PAUSE }
    }

    /// Waits as long as the answer before asks for, in whole seconds (RFC 9110 §10.2.3 knows dates too, which no ACME
    /// server sends), or a little.
    async fn pause(&mut self, before: &Response<Bytes>) -> Result<()> {
        ensure!(self.watch.elapsed() < DECIDED_WITHIN, "undecided after {} s", DECIDED_WITHIN.as_secs());
        let seconds = before.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let pause = seconds.map_or(self.pause, Duration::from_secs).min(DECIDED_WITHIN);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn location(answer: &Response<Bytes>) -> Result<String> {
    let location = answer.headers().get(LOCATION).context("the answer has no Location")?;
    Ok(location.to_str().context("the Location is not text")?.to_owned())
}

fn json<T: DeserializeOwned>(answer: &Response<Bytes>) -> Result<T> {
    json_borrowed(answer)
}

fn json_borrowed<'a, T: Deserialize<'a>>(answer: &'a Response<Bytes>) -> Result<T> {
    serde_json::from_slice(answer.body())
        .with_context(|| format!("an answer of another form: {}", shown(answer)))
}

/// Status and problem, or the first of the body, for an error.
fn shown(answer: &Response<Bytes>) -> String {
    let body = answer.body();
    match serde_json::from_slice::<Problem<'_>>(body) {
        Ok(problem) if !problem.kind.is_empty() => {
            format!("{} {}: {}", answer.status(), problem.kind, problem.detail)
        }
        _ => format!("{} {}", answer.status(), String::from_utf8_lossy(&body[..body.len().min(300)])),
    }
}
