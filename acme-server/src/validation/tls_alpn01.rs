//! tls-alpn-01: the certificate of a handshake that agreed on `acme-tls/1`. RFC 8737, RFC 8738 §6.

use std::net::SocketAddr;
use std::sync::Arc;

use ca_core::acme::challenge::{Answer, FailureKind, ValidationFailure};
use ca_core::pkix::identifier::Identifier;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::network::{NetworkProber, Run, refuse};

/// The protocol's name, RFC 8737 §6.2.
pub(super) const PROTOCOL: &[u8] = b"acme-tls/1";

/// Makes a handshake with `host`, with `server_name` in SNI, and takes the end-entity certificate.
///
/// # Errors
/// Why there is none.
pub(super) async fn fetch(
    prober: &NetworkProber,
    run: &Run,
    host: &Identifier,
    server_name: &str,
) -> Result<Answer, ValidationFailure> {
    let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
        ValidationFailure::new(FailureKind::RejectedIdentifier, format!("{host} can't stand in SNI"))
    })?;
    let targets = prober.targets(run, host, &host.to_string(), prober.tls_alpn01_port).await?;
    let connect = |address| {
        handshake(run.clone(), address, name.clone(), TlsConnector::from(Arc::clone(&prober.acme_tls)))
    };
    prober.first(run, targets, connect, |_| true).await
}

async fn handshake(
    run: Run,
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
) -> Result<Answer, ValidationFailure> {
    let stream = run.connect(address).await?;
    let stream = run.handshake(address, &connector, name, stream).await?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(PROTOCOL) {
        let detail = format!(
            "{address} completed a TLS handshake without agreeing on the application protocol acme-tls/1, so it is \
             not an answer to this challenge"
        );
        return refuse(FailureKind::Unauthorized, detail);
    }
    match session.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => {
            Ok(Answer::TlsAlpn { certificate: certificate.to_vec(), address: address.to_string() })
        }
        None => refuse(FailureKind::Tls, format!("{address} presented no certificate")),
    }
}
