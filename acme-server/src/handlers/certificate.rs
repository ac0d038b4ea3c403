//! Certificates, downloaded with their chain as PEM,
//! [RFC 8555 §7.4.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.4.2) and §9.1.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ca_core::store::{CertificateDer, CertificateId, IssuerKind, IssuerRecord, Origin};
use der::Decode;
use der::Encode;
use der::pem::{LineEnding, encode_string};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use x509_cert::Certificate;

use super::ResponseExt;
use crate::problem::{Problem, ProblemType};
use crate::service::App;
use crate::verified::{Empty, Verified};

/// No chain of ours is longer.
const LONGEST_CHAIN: usize = 8;

/// The certificate and its chain without the root; the other chains are linked as `alternate`.
pub(crate) async fn download(State(app): State<App>, request: Verified<Empty>) -> Result<Response, Problem> {
    let id: CertificateId = request.path("certificate")?;
    let number: usize = request.optional_path("chain")?.unwrap_or(0);
    let not_found = || Problem::not_found("certificate");

    let record = app.store.certificate(id.clone()).await?.ok_or_else(not_found)?;
    let owner = request.signer.account.id;
    if !matches!(record.origin, Origin::Order { account, .. } if account == owner) {
        return Err(not_found());
    }
    let certificate = record.der.ok_or_else(not_found)?;
    let issuers = app.store.issuers().await?;
    let mut response = chain_response(&issuers, &id, &certificate, number)?;
    let links = &request.directory.links;
    for other in (0..chains(&issuers, &id).len()).filter(|other| *other != number) {
        let url = if other == 0 { links.certificate(&id) } else { links.certificate_chain(&id, other) };
        response = response.with_link(&url, "alternate");
    }
    Ok(response)
}

/// A certificate with one of its chains, §9.1.
pub(super) fn chain_response(
    issuers: &[IssuerRecord],
    id: &CertificateId,
    certificate: &CertificateDer,
    number: usize,
) -> Result<Response, Problem> {
    let chains = chains(issuers, id);
    let chain = chains.get(number).ok_or_else(|| Problem::not_found("certificate"))?;
    let blocks = std::iter::once(certificate).chain(chain).map(|certificate| certificate.der.as_slice());
    let mut response = Response::new(Body::from(pem(blocks)?));
    let media_type = HeaderValue::from_static("application/pem-certificate-chain");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

/// One chain for each CA certificate of the issuer, newest first: that certificate and those above it up to, and
/// without, a root. Never empty.
fn chains(issuers: &[IssuerRecord], id: &CertificateId) -> Vec<Vec<CertificateDer>> {
    let Some(issuer) = issuers.iter().find(|issuer| issuer.id == id.issuer) else { return vec![Vec::new()] };
    if issuer.kind == IssuerKind::Root || issuer.certificates.is_empty() {
        return vec![Vec::new()];
    }
    issuer.certificates.iter().map(|certificate| chain(issuers, certificate)).collect()
}

fn chain(issuers: &[IssuerRecord], first: &CertificateDer) -> Vec<CertificateDer> {
    let mut chain = vec![first.clone()];
    while chain.len() < LONGEST_CHAIN {
        let above = chain.last().and_then(|last| issuer_name(&last.der)).and_then(|name| {
            issuers.iter().find(|issuer| issuer.subject == name && issuer.kind == IssuerKind::Issuing)
        });
        match above.and_then(|issuer| issuer.certificates.first()) {
            Some(next) if !chain.contains(next) => chain.push(next.clone()),
            _ => break,
        }
    }
    chain
}

/// The issuer's Name in DER.
fn issuer_name(certificate: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(certificate).ok()?.tbs_certificate().issuer().to_der().ok()
}

/// PEM blocks, RFC 7468 §5, one after the other.
pub(super) fn pem<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> Result<String, Problem> {
    certificates
        .map(|der| {
            encode_string("CERTIFICATE", LineEnding::LF, der).map_err(|why| {
                Problem::new(ProblemType::ServerInternal, "the certificate can't be written as PEM")
                    .with_cause(why)
            })
        })
        .collect()
}
