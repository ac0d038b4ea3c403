//! The prober that looks at the real network: resolves, vets every address, and connects to the address that it vetted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::acme::challenge::{FailureKind, Observed, Probe, ValidationFailure};
use ca_core::pkix::identifier::Identifier;
use hickory_resolver::net::NetError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::egress::{Denied, Egress};
use super::race::{self, Pace};
use super::redirect::Ports;
use super::resolver::{Addresses, Resolver};
use super::{Prober, caa, dns01, http01, tls, tls_alpn01};

/// So many addresses of each family are tried.
const MAX_PER_FAMILY: usize = 4;
/// So many addresses that may not be tried are named to the requester.
const MAX_DENIED_SHOWN: usize = 4;

/// Where to look.
#[derive(Clone, Debug)]
pub struct ProberConfig {
    /// The resolvers to ask (`acme.dns_servers`); none for the system's. They are exempt from `egress`.
    pub dns_servers: Vec<SocketAddr>,
    /// The port of http-01 (`acme.http01_port`), normally 80.
    pub http01_port: u16,
    /// The port of tls-alpn-01 (`acme.tls_alpn01_port`), normally 443.
    pub tls_alpn01_port: u16,
    /// Which addresses may be connected to (`acme.validation.allow_networks`, `acme.validation.deny_networks`).
    pub egress: Egress,
}

/// How far an attempt goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it lasts. The default of 8 s leaves room for three attempts within 30 s.
    pub attempt: Duration,
    /// How long a DNS look-up lasts.
    pub dns: Duration,
    /// How long an address is waited for before the next one is tried beside it.
    pub stagger: Duration,
    /// How many redirects are followed.
    pub redirects: usize,
    /// The port of https, the only one to which a redirect may lead beside the http-01 port.
    pub https_port: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(8),
            dns: Duration::from_secs(4),
            stagger: Duration::from_millis(500),
            redirects: 10,
            https_port: 443,
        }
    }
}

/// Why there is no prober. For the operator.
#[derive(Debug, Error)]
pub enum ProberError {
    /// The resolver can't be set up.
    #[error("the DNS resolver for validation can't be set up; check acme.dns_servers")]
    Resolver(#[source] NetError),
    /// TLS can't be set up.
    #[error("TLS for validation can't be set up")]
    Tls(#[source] rustls::Error),
}

/// Fetches what challenges ask for from the network.
pub struct NetworkProber {
    resolver: Resolver,
    egress: Egress,
    pub(super) ports: Ports,
    pub(super) tls_alpn01_port: u16,
    pub(super) limits: Limits,
    pub(super) acme_tls: Arc<ClientConfig>,
    pub(super) https: Arc<ClientConfig>,
}

impl NetworkProber {
    /// A prober with the default [`Limits`]. Reads the system's resolver configuration if `config` names no resolver.
    ///
    /// # Errors
    /// See [`ProberError`].
    pub fn new(config: ProberConfig) -> Result<Self, ProberError> {
        Self::with_limits(config, Limits::default())
    }

    /// A prober with other limits.
    ///
    /// # Errors
    /// See [`ProberError`].
    pub fn with_limits(config: ProberConfig, limits: Limits) -> Result<Self, ProberError> {
        Ok(Self {
            resolver: Resolver::new(&config.dns_servers, limits.dns).map_err(ProberError::Resolver)?,
            egress: config.egress,
            ports: Ports { http: config.http01_port, https: limits.https_port },
            tls_alpn01_port: config.tls_alpn01_port,
            limits,
            acme_tls: tls::client_config(tls_alpn01::PROTOCOL).map_err(ProberError::Tls)?,
            https: tls::client_config(b"http/1.1").map_err(ProberError::Tls)?,
        })
    }

    /// The addresses of `host` that may be connected to. `label` is how the host is called in sentences.
    ///
    /// # Errors
    /// If it has none.
    pub(super) async fn targets(
        &self,
        run: &Run,
        host: &Identifier,
        label: &str,
        port: u16,
    ) -> Result<Targets, ValidationFailure> {
        let Addresses { found, problem } = match host {
            Identifier::Ip(address) => Addresses { found: vec![*address], problem: None },
            Identifier::Dns(name) => self.resolver.addresses(name, label, run.deadline).await?,
            Identifier::PermanentIdentifier(_) | Identifier::HardwareModule(_) => {
                let detail = format!("'{host}' is no host that can be looked for");
                return Err(ValidationFailure::new(FailureKind::RejectedIdentifier, detail));
            }
        };
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut denied = Vec::new();
        for address in found {
            let others = addresses.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).count();
            match self.egress.vet(address) {
                Ok(()) if others < MAX_PER_FAMILY => addresses.push(SocketAddr::new(address, port)),
                Ok(()) => {}
                Err(reason) if denied.len() < MAX_DENIED_SHOWN => denied.push(describe(address, reason)),
                Err(_) => {}
            }
        }
        if addresses.is_empty() {
            let detail = format!("no address of {label} may be connected to: {}", denied.join("; "));
            return refuse(FailureKind::RejectedIdentifier, detail);
        }
        let mut notes: Vec<String> = problem.into_iter().collect();
        notes.extend(denied.into_iter().map(|reason| format!("not tried: {reason}")));
        Ok(Targets { addresses, notes })
    }

    /// Tries each address until one result is `enough`.
    ///
    /// # Errors
    /// Why each address that was tried failed, in one sentence.
    pub(super) async fn first<T, F>(
        &self,
        run: &Run,
        targets: Targets,
        attempt: impl Fn(SocketAddr) -> F,
        enough: impl Fn(&T) -> bool,
    ) -> Result<T, ValidationFailure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ValidationFailure>> + Send + 'static,
    {
        let pace = Pace { stagger: self.limits.stagger, deadline: run.deadline };
        let recorded = |address: SocketAddr| {
            run.record(address);
            attempt(address)
        };
        race::first(&targets.addresses, pace, recorded, enough)
            .await
            .map_err(|failures| summary(failures, targets.notes, run.limit))
    }
}

impl Prober for NetworkProber {
    fn probe(&self, probe: Probe) -> BoxFuture<'_, Observed> {
        Box::pin(async move {
            let run = Run::start(self.limits.attempt);
            let answer = match probe {
                Probe::Http { host, path } => http01::fetch(self, &run, host, &path).await,
                Probe::Txt { name } => dns01::fetch(&self.resolver, &name, run.deadline).await,
                Probe::TlsAlpn { host, server_name } => {
                    tls_alpn01::fetch(self, &run, &host, &server_name).await
                }
                Probe::Caa { name } => caa::fetch(&self.resolver, &name, run.deadline).await,
            };
            Observed { addresses: run.addresses(), answer }
        })
    }
}

/// Where to connect to.
#[derive(Debug)]
pub(super) struct Targets {
    addresses: Vec<SocketAddr>,
    /// What the requester should know beside that if no address works.
    notes: Vec<String>,
}

/// One attempt under way: when it has to end, and the addresses tried so far.
#[derive(Clone, Debug)]
pub(super) struct Run {
    limit: Duration,
    deadline: Instant,
    tried: Arc<Mutex<Vec<String>>>,
}

impl Run {
    fn start(limit: Duration) -> Self {
        Self { limit, deadline: Instant::now() + limit, tried: Arc::default() }
    }

    fn record(&self, address: SocketAddr) {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).push(address.to_string());
    }

    fn addresses(&self) -> Vec<String> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for `step` as long as the attempt lasts. `missing` says what did not happen: "accepted no connection".
    ///
    /// # Errors
    /// If the attempt's time is over.
    pub(super) async fn within<T>(
        &self,
        address: SocketAddr,
        missing: &str,
        step: impl Future<Output = T>,
    ) -> Result<T, ValidationFailure> {
        timeout_at(self.deadline, step).await.map_err(|_| {
            let detail = format!("{address} {missing} within {}", seconds(self.limit));
            ValidationFailure::new(FailureKind::Connection, detail)
        })
    }

    /// Connects to exactly this address.
    ///
    /// # Errors
    /// Why that failed.
    pub(super) async fn connect(&self, address: SocketAddr) -> Result<TcpStream, ValidationFailure> {
        let stream = self.within(address, "accepted no connection", TcpStream::connect(address)).await?;
        stream.map_err(|error| broken(address, "while connecting", error.kind()))
    }

    /// Makes the TLS handshake on a connection.
    ///
    /// # Errors
    /// Why that failed.
    pub(super) async fn handshake(
        &self,
        address: SocketAddr,
        connector: &TlsConnector,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, ValidationFailure> {
        self.within(address, "did not complete the TLS handshake", connector.connect(name, stream))
            .await?
            .map_err(|error| tls::handshake_failure(address, &error))
    }
}

/// A failure of this kind.
pub(super) fn refuse<T>(kind: FailureKind, detail: String) -> Result<T, ValidationFailure> {
    Err(ValidationFailure::new(kind, detail))
}

/// What it means that a connection can't be made or breaks.
pub(super) fn broken(address: SocketAddr, when: &str, kind: io::ErrorKind) -> ValidationFailure {
    use io::ErrorKind as Kind;
    let detail = match kind {
        Kind::ConnectionRefused => format!("{address} refused the connection"),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::AddrNotAvailable => {
            format!("there is no route to {address}")
        }
        Kind::TimedOut => format!("{address} accepted no connection in time"),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
            format!("{address} reset the connection {when}")
        }
        Kind::UnexpectedEof => format!("{address} closed the connection {when}"),
        other => format!("the connection to {address} failed {when}: {other}"),
    };
    ValidationFailure::new(FailureKind::Connection, detail)
}

fn describe(address: IpAddr, denied: Denied) -> String {
    let (inner, reason) = match denied {
        Denied::Listed { address } => (address, "is in acme.validation.deny_networks"),
        Denied::NotGlobal { address } => {
            (address, "is not a global address and not in acme.validation.allow_networks")
        }
    };
    if inner == address {
        format!("{address} {reason}")
    } else {
        format!("{address} stands for {inner}, which {reason}")
    }
}

fn summary(failures: Vec<ValidationFailure>, notes: Vec<String>, limit: Duration) -> ValidationFailure {
    // A place that answered, but wrongly, says more than one that could not be reached.
    let kind = failures
        .iter()
        .find(|failure| !failure.is_transient())
        .map_or(FailureKind::Connection, |failure| failure.kind);
    let mut details: Vec<String> = failures.into_iter().map(|failure| failure.detail).collect();
    if details.is_empty() {
        details.push(format!("the time of {} was over before a connection could be made", seconds(limit)));
    }
    details.extend(notes);
    ValidationFailure::new(kind, details.join("; "))
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_secs_f32())
}
