//! The policy webhook: asks the operator's own service about each order, over HTTPS, signed in both directions.
//! docs/POLICY-WEBHOOK.md is its description for those who write such a service.

mod config;
mod wire;

pub use config::{PolicySection, Silence, WebhookConfig};

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use acme_server::validation::Egress;
use bytes::Bytes;
use ca_core::BoxFuture;
use ca_core::policy_hook::{Detail, HookFailure, OrderFacts, PolicyHook, Verdict};
use ca_core::time::{Clock, Stopwatch};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::failure::{Code, Failure};
use config::Target;
use wire::{SIGNATURE, Secret};

const USER_AGENT: &str = concat!("chancery/", env!("CARGO_PKG_VERSION"), " (policy webhook)");
/// The head of an answer has at most so many octets and header fields, its body so many octets.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
const MAX_BODY: usize = 64 * 1024;
/// So many addresses of the service are tried.
const MAX_ADDRESSES: usize = 4;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Calls in numbers; clones share them.
#[derive(Clone, Debug)]
pub struct PolicyMetrics {
    calls: Family<VerdictLabels, Counter>,
    failures: Family<ReasonLabels, Counter>,
    seconds: Histogram,
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            failures: Family::default(),
            // 1 ms to about 33 s.
            seconds: Histogram::new(exponential_buckets(1e-3, 2.0, 16)),
        }
    }
}

impl PolicyMetrics {
    /// Registers everything; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "policy_calls",
            "Calls of the policy webhook, by verdict: allow, enrich, refuse or none",
            self.calls.clone(),
        );
        registry.register(
            "policy_failures",
            "Calls of the policy webhook that gave no verdict, by reason",
            self.failures.clone(),
        );
        registry.register("policy_call_seconds", "Time of calls of the policy webhook", self.seconds.clone());
    }

    fn record(&self, elapsed: Duration, answer: &Result<Verdict, HookFailure>) {
        self.seconds.observe(elapsed.as_secs_f64());
        let verdict = answer.as_ref().map_or("none", Verdict::name);
        self.calls.get_or_create(&VerdictLabels { verdict }).inc();
        if let Err(failure) = answer {
            self.failures.get_or_create(&ReasonLabels { reason: failure.name() }).inc();
        }
    }
}

/// The policy service, as it is called.
pub struct Webhook {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    egress: Egress,
    secret: Secret,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    metrics: PolicyMetrics,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Reads the secret and the roots. Calls nobody yet.
    ///
    /// # Errors
    /// [`Code::Configuration`] with what is missing.
    pub fn open(
        config: &WebhookConfig,
        data_dir: &Path,
        clock: Arc<dyn Clock>,
        metrics: PolicyMetrics,
    ) -> Result<Self, Failure> {
        let wrong =
            |problem: String| Failure::new(Code::Configuration, problem, "correct it in chancery.toml");
        config.check().map_err(wrong)?;
        let target = config.target().map_err(wrong)?;
        let secret = hsm::read_secret_file(&config.secret_file, data_dir)
            .map_err(|error| wrong(format!("policy.webhook.secret_file: {error}")))?;
        let secret = Secret::new(&secret).ok_or_else(|| {
            Failure::new(
                Code::Configuration,
                "policy.webhook.secret_file holds fewer than 32 characters",
                "write a new secret, such as what `openssl rand -hex 32` prints, and give it to the policy service",
            )
        })?;
        let tls = match &config.roots_file {
            Some(roots) if target.tls => Some(connector(&data_dir.join(roots), &target.host).map_err(wrong)?),
            _ => None,
        };
        Ok(Self {
            tls,
            egress: config.egress().map_err(wrong)?,
            secret,
            timeout: config.timeout(),
            target,
            clock,
            metrics,
        })
    }

    /// Connects to the service, and makes the TLS handshake, without asking anything.
    ///
    /// # Errors
    /// Why it can't be reached.
    pub async fn reach(&self) -> Result<SocketAddr, HookFailure> {
        let reached = async {
            let (address, stream) = self.connect().await?;
            if let Some((connector, name)) = &self.tls {
                connector.connect(name.clone(), stream).await.map_err(|error| tls_failure(&error))?;
            }
            Ok(address)
        };
        timeout(self.timeout, reached).await.map_err(|_| HookFailure::Timeout(self.timeout))?
    }

    async fn call(&self, facts: &OrderFacts) -> Result<Verdict, HookFailure> {
        let now = self.clock.now();
        let question = wire::question(facts, now);
        let signed = self.secret.sign(&question, now);
        let request = Request::post(&self.target.path)
            .header(header::HOST, &self.target.authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .header("idempotency-key", facts.order.to_string())
            .header(SIGNATURE, &signed.header)
            .body(Full::new(Bytes::from(question)))
            .map_err(|error| HookFailure::Connection(error.to_string()))?;
        let (_, stream) = self.connect().await?;
        let (signature, body) = match &self.tls {
            None => exchange(stream, request).await?,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                exchange(stream.map_err(|error| tls_failure(&error))?, request).await?
            }
        };
        self.secret.verify(&signed, signature.as_deref(), &body)?;
        let verdict = wire::verdict(&body)?;
        if let Verdict::Allow(enrichment) = &verdict {
            enrichment.require_narrower(facts, self.clock.now())?;
        }
        Ok(verdict)
    }

    /// Connects to the first address of the service that takes the connection, of those that may be connected to.
    async fn connect(&self) -> Result<(SocketAddr, TcpStream), HookFailure> {
        let found: Vec<IpAddr> = match self.target.address() {
            Some(address) => vec![address],
            None => lookup_host((self.target.host.as_str(), self.target.port))
                .await
                .map_err(|error| HookFailure::Connection(format!("{}: {error}", self.target.host)))?
                .map(|address| address.ip())
                .collect(),
        };
        let mut seen = HashSet::new();
        let mut addresses = Vec::new();
        let mut problems = Vec::new();
        for address in found.into_iter().filter(|address| seen.insert(*address)) {
            match self.egress.vet(address) {
                Ok(()) => addresses.push(SocketAddr::new(address, self.target.port)),
                Err(denied) => {
                    problems.push(format!("{denied} (policy.webhook.allow_networks, deny_networks)"))
                }
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        // One that drops what it is sent leaves time for the others.
        let share = self.timeout / u32::try_from(addresses.len().max(1)).unwrap_or(1);
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((address, stream)),
                Ok(Err(error)) => problems.push(format!("{address}: {error}")),
                Err(_) => problems.push(format!("{address} accepted no connection in time")),
            }
        }
        problems.truncate(MAX_ADDRESSES);
        if problems.is_empty() {
            problems.push(format!("{} has no address", self.target.host));
        }
        Err(HookFailure::Connection(problems.join("; ")))
    }
}

impl PolicyHook for Webhook {
    fn judge<'a>(&'a self, facts: &'a OrderFacts) -> BoxFuture<'a, Result<Verdict, HookFailure>> {
        Box::pin(async move {
            let watch = Stopwatch::start();
            let answer = timeout(self.timeout, self.call(facts)).await;
            let answer = answer.unwrap_or(Err(HookFailure::Timeout(self.timeout)));
            self.metrics.record(watch.elapsed(), &answer);
            answer
        })
    }
}

fn connector(roots: &Path, host: &str) -> Result<(TlsConnector, ServerName<'static>), String> {
    let wrong =
        |problem: &dyn fmt::Display| format!("policy.webhook.roots_file {}: {problem}", roots.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots).map_err(|error| wrong(&error))? {
        store.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    }
    if store.is_empty() {
        return Err(wrong(&"it holds no certificate in PEM"));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("policy.webhook.url: '{host}' can't stand in a TLS certificate"))?;
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(store)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Sends the question and reads the answer's signature and body. The connection is driven by this future alone.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(Option<Vec<u8>>, Bytes), HookFailure> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let mut conversation = pin!(async move {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        read(response).await
    });
    tokio::select! {
        result = &mut conversation => result,
        // What went wrong, if anything did, reaches the conversation too; what has arrived is still read.
        _ = connection => conversation.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<(Option<Vec<u8>>, Bytes), HookFailure> {
    let (head, body) = response.into_parts();
    // Not even a redirect: whoever answers must be the one who was asked.
    if head.status != StatusCode::OK {
        return Err(HookFailure::Status(head.status.as_u16()));
    }
    let mut signatures = head.headers.get_all(SIGNATURE).iter();
    let signature = match (signatures.next(), signatures.next()) {
        (Some(only), None) => Some(only.as_bytes().to_vec()),
        _ => None,
    };
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            HookFailure::Answer(format!("it has more than {MAX_BODY} octets"))
        } else {
            HookFailure::Connection("it broke while the answer was read".to_owned())
        }
    })?;
    Ok((signature, body.to_bytes()))
}

fn broken(error: &hyper::Error) -> HookFailure {
    HookFailure::Connection(Detail::new(&error.to_string()).as_str().to_owned())
}

fn tls_failure(error: &io::Error) -> HookFailure {
    HookFailure::Tls(Detail::new(&error.to_string()).as_str().to_owned())
}
