//! http-01: a GET at a well-known path, redirects followed within limits. RFC 8555 §8.3, RFC 9110, RFC 9112.

use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use ca_core::acme::challenge::{Answer, FailureKind, ValidationFailure};
use ca_core::pkix::identifier::Identifier;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::network::{NetworkProber, Run, broken, refuse};
use super::redirect::{Scheme, Url};

const USER_AGENT: &str = concat!("chancery/", env!("CARGO_PKG_VERSION"), " (ACME http-01 validation)");
/// The head of a response has at most so many octets and header fields.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;
/// So many octets of what the far side sent are shown.
const MAX_SHOWN: usize = 64;

/// Fetches `path` from `host`, over IPv4 or IPv6, through as many redirects as the limits admit.
///
/// # Errors
/// Why there is no response.
pub(super) async fn fetch(
    prober: &NetworkProber,
    run: &Run,
    host: Identifier,
    path: &str,
) -> Result<Answer, ValidationFailure> {
    let target: PathAndQuery = path.parse().map_err(|_| {
        ValidationFailure::new(FailureKind::IncorrectResponse, "the challenge's path is not valid")
    })?;
    let token = path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut url = Url { scheme: Scheme::Http, host, port: prober.ports.http, target };
    let mut visited = HashSet::from([url.clone()]);
    for hop in 0..=prober.limits.redirects {
        let response = get(prober, run, &url, hop, &token).await?;
        let Some(location) = response.location else {
            return Ok(Answer::Http {
                status: response.status.as_u16(),
                body: response.body,
                truncated: response.truncated,
                redirected: hop > 0,
                address: response.address.to_string(),
            });
        };
        let address = response.address;
        let next = url.follow(&location, prober.ports).map_err(|reason| {
            let detail =
                format!("the redirect by {address}{} can't be followed: {reason}", shown(&location, hop));
            ValidationFailure::new(FailureKind::IncorrectResponse, detail)
        })?;
        if !visited.insert(next.clone()) {
            let detail = format!("the redirect by {address}{} leads in a circle", shown(&location, hop));
            return refuse(FailureKind::IncorrectResponse, detail);
        }
        url = next;
    }
    let detail = format!("there are more than {} redirects", prober.limits.redirects);
    refuse(FailureKind::IncorrectResponse, detail)
}

/// A Location as the requester sees it: its beginning if it is in the first response, else nothing.
fn shown(location: &[u8], hop: usize) -> String {
    if hop > 0 {
        return String::new();
    }
    format!(" to \"{}\"", location.get(..MAX_SHOWN).unwrap_or(location).escape_ascii())
}

/// How the host of this hop is called in sentences, by the same rule.
fn label(host: &Identifier, hop: usize) -> String {
    match hop {
        0 => host.to_string(),
        1 => {
            format!("the redirect's target {}", host.to_string().chars().take(MAX_SHOWN).collect::<String>())
        }
        _ => format!("the target of redirect {hop}"),
    }
}

struct Response {
    address: SocketAddr,
    status: StatusCode,
    /// Where it redirects to, if it does; then there is no body.
    location: Option<Vec<u8>>,
    body: Vec<u8>,
    truncated: bool,
}

impl Response {
    /// Whether no other address of the host could do better: a redirect, or a body that begins like the answer. Where
    /// IPv4 and IPv6 lead to different servers, either may have it.
    fn is_promising(&self, token: &str) -> bool {
        self.location.is_some() || (self.status == StatusCode::OK && self.body.starts_with(token.as_bytes()))
    }
}

/// Resolves and vets the URL's host, and gets it from its addresses in turn.
async fn get(
    prober: &NetworkProber,
    run: &Run,
    url: &Url,
    hop: usize,
    token: &str,
) -> Result<Response, ValidationFailure> {
    let targets = prober.targets(run, &url.host, &label(&url.host, hop), url.port).await?;
    let https = match url.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(TlsConnector::from(Arc::clone(&prober.https))),
    };
    prober
        .first(
            run,
            targets,
            |address| get_from(run.clone(), address, url.clone(), https.clone()),
            |response| response.is_promising(token),
        )
        .await
}

async fn get_from(
    run: Run,
    address: SocketAddr,
    url: Url,
    https: Option<TlsConnector>,
) -> Result<Response, ValidationFailure> {
    let stream = run.connect(address).await?;
    let Some(connector) = https else { return exchange(&run, address, &url, stream).await };
    let name = match &url.host {
        Identifier::Dns(name) => ServerName::try_from(name.as_str().to_owned()).map_err(|_| {
            let detail = format!("the host of the redirect to {address} can't stand in SNI");
            ValidationFailure::new(FailureKind::IncorrectResponse, detail)
        })?,
        Identifier::Ip(host) => ServerName::from(*host),
        Identifier::PermanentIdentifier(_) | Identifier::HardwareModule(_) => {
            let detail = format!("'{}' is no host", url.host);
            return Err(ValidationFailure::new(FailureKind::IncorrectResponse, detail));
        }
    };
    let stream = run.handshake(address, &connector, name, stream).await?;
    exchange(&run, address, &url, stream).await
}

/// Sends the request and reads as much of the response as is of use. Nothing goes on after that: the connection is
/// driven by this future alone.
async fn exchange(
    run: &Run,
    address: SocketAddr,
    url: &Url,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Response, ValidationFailure> {
    let request = Request::get(url.target.as_str())
        .header(header::HOST, url.host_header())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| {
            let detail = format!("no request can be made for the redirect to {address}");
            ValidationFailure::new(FailureKind::IncorrectResponse, detail)
        })?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failure(address, &error))?;
    let mut conversation = pin!(async move {
        let response = run
            .within(address, "sent no response", sender.send_request(request))
            .await?
            .map_err(|error| failure(address, &error))?;
        read(run, address, response).await
    });
    tokio::select! {
        result = &mut conversation => result,
        // What went wrong, if anything did, reaches the conversation too; what has arrived is still read.
        _ = connection => conversation.await,
    }
}

async fn read(
    run: &Run,
    address: SocketAddr,
    response: http::Response<Incoming>,
) -> Result<Response, ValidationFailure> {
    let (head, mut body) = response.into_parts();
    let status = head.status;
    let location = redirect(status, &head.headers);
    let mut read = Vec::new();
    let mut truncated = false;
    while location.is_none() && !truncated {
        let frame = run.within(address, "did not send all of its response", body.frame()).await?;
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|error| failure(address, &error))?.into_data() {
            let room = Answer::MAX_BODY - read.len();
            truncated = data.len() > room;
            read.extend_from_slice(data.get(..room).unwrap_or(&data));
        }
    }
    Ok(Response { address, status, location, body: read, truncated })
}

/// RFC 9110 §15.4: these ask for the same request elsewhere. One without a Location is an answer like any other.
fn redirect(status: StatusCode, headers: &HeaderMap) -> Option<Vec<u8>> {
    let redirects = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    headers.get(header::LOCATION).filter(|_| redirects).map(|location| location.as_bytes().to_vec())
}

fn failure(address: SocketAddr, error: &hyper::Error) -> ValidationFailure {
    if error.is_parse_too_large() {
        let detail =
            format!("{address} answered with a header of more than {MAX_HEAD} bytes or {MAX_HEADERS} fields");
        return ValidationFailure::new(FailureKind::IncorrectResponse, detail);
    }
    if error.is_parse() {
        let detail = format!("{address} answered with something that is not HTTP/1.1");
        return ValidationFailure::new(FailureKind::IncorrectResponse, detail);
    }
    let kind = match error.source().and_then(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => cause.kind(),
        None => io::ErrorKind::UnexpectedEof,
    };
    broken(address, "before the response was complete", kind)
}
