//! One HTTP/1.1 connection that is kept open, over TLS or plain TCP (RFC 9112, RFC 9110).

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one exchange may take, connecting included; a good server's own limits are shorter.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// The largest body that is read, in octets.
const MAX_BODY: usize = 1 << 20;

/// Where a server is and how it is spoken to; cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    /// `host:port`, to connect to and to resolve.
    authority: Arc<str>,
    host: HeaderValue,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Endpoint {
    /// The server of an `http://` or `https://` URL; for the latter, the roots (a PEM file) that vouch for it.
    ///
    /// # Errors
    /// If the URL has another scheme or no host, or if there are no roots for TLS.
    pub fn new(url: &str, roots: Option<&Path>) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let authority = uri.authority().with_context(|| format!("{url} names no host"))?;
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let roots = roots
                    .with_context(|| format!("{url} needs roots to trust: name their file by --roots"))?;
                let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                (Some((connector(roots)?, ServerName::try_from(name)?)), 443)
            }
            _ => bail!("{url} is neither an http nor an https URL"),
        };
        Ok(Self {
            authority: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port)).into(),
            host: HeaderValue::from_str(authority.as_str())?,
            tls,
        })
    }

    /// Goes on only if the server is on this machine: load is for those who asked for it.
    ///
    /// # Errors
    /// If any of its addresses is another.
    pub async fn require_loopback(&self) -> Result<()> {
        let addresses = lookup_host(&*self.authority)
            .await
            .with_context(|| format!("cannot find the address of {}", self.authority))?;
        for address in addresses {
            ensure!(
                address.ip().to_canonical().is_loopback(),
                "{} is not this machine: load may hurt others, so it takes --allow-remote, and their consent",
                self.authority
            );
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&*self.authority)
            .await
            .with_context(|| format!("cannot connect to {}", self.authority))?;
        // Requests are written whole: waiting for more would only delay them.
        stream.set_nodelay(true)?;
        match &self.tls {
            None => start(stream).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                start(stream.with_context(|| format!("no TLS with {}", self.authority))?).await
            }
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority, if self.tls.is_some() { " over TLS" } else { "" })
    }
}

/// The connection; it is opened at the first request, and again after it was lost.
#[derive(Debug)]
pub struct Connection {
    endpoint: Endpoint,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// To this server, not yet open.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, sender: None }
    }

    /// Sends a request to an absolute URL of this server and reads its answer to the end.
    ///
    /// # Errors
    /// If the URL is another server's, or there is no complete answer in time; the connection is given up then. Any
    /// status is an answer.
    pub async fn exchange(
        &mut self,
        method: Method,
        url: &str,
        content_type: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Response<Bytes>> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        ensure!(
            uri.authority().is_some_and(|authority| *authority.as_str() == self.endpoint.host),
            "{url} is on another server than the directory"
        );
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // Origin servers are sent the path and the query alone.
        *request.uri_mut() = uri.into_parts().path_and_query.map(Uri::from).unwrap_or_default();
        request.headers_mut().insert(HOST, self.endpoint.host.clone());
        if let Some(content_type) = content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        let answered = timeout(ANSWER_WITHIN, self.answer(request)).await;
        let answer = answered.unwrap_or_else(|_| bail!("no answer within {} s", ANSWER_WITHIN.as_secs()));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn answer(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.endpoint.connect().await?,
        };
        sender.ready().await?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body =
            Limited::new(body, MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        self.sender = Some(sender);
        Ok(Response::from_parts(parts, body))
    }
}

async fn start(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The request in flight gets the error too.
        let _ = connection.await;
    });
    Ok(sender)
}

fn connector(roots: &Path) -> Result<TlsConnector> {
    let read = || format!("cannot read the roots in {}", roots.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots).with_context(read)? {
        store.add(certificate.with_context(read)?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
