//! OCSP requests for load (RFC 6960 §4.1, appendix A.1): made once, then sent over and over on kept connections.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use der::asn1::{Null, ObjectIdentifier, OctetString};
use der::{Any, Decode, Encode, Sequence};
use http::header::HeaderValue;
use http::{Method, StatusCode, Uri};
use x509_cert::Certificate;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::connection::{Connection, target};

const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");

/// One question, ready to be sent either way.
#[derive(Clone, Debug)]
pub struct Question {
    der: Bytes,
    post: Uri,
    get: Uri,
}

/// ```text
/// CertID ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, issuerNameHash OCTET STRING,
///                       issuerKeyHash OCTET STRING, serialNumber CertificateSerialNumber }
/// ```
#[derive(Sequence)]
struct CertId {
    hash_algorithm: AlgorithmIdentifierOwned,
    issuer_name_hash: OctetString,
    issuer_key_hash: OctetString,
    serial_number: SerialNumber,
}

/// `Request ::= SEQUENCE { reqCert CertID, … }`
#[derive(Sequence)]
struct Request {
    req_cert: CertId,
}

/// `TBSRequest ::= SEQUENCE { …, requestList SEQUENCE OF Request, … }`
#[derive(Sequence)]
struct TbsRequest {
    request_list: Vec<Request>,
}

/// `OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, … }`
#[derive(Sequence)]
struct OcspRequest {
    tbs_request: TbsRequest,
}

impl Question {
    /// About the first certificate of a chain, whose issuer is the second, to the responder at this URL; with the SHA-1
    /// CertID and without nonce, as nearly every client asks.
    ///
    /// # Errors
    /// If there are not two certificates, or the URL is none.
    pub fn new(chain_pem: &str, responder: &str) -> Result<Self> {
        let chain = crate::pem::decode(chain_pem, "CERTIFICATE")?;
        let [certificate, issuer, ..] = chain.as_slice() else {
            anyhow::bail!("a chain of {} certificates: the issuer is missing", chain.len());
        };
        let (certificate, issuer) = (Certificate::from_der(certificate)?, Certificate::from_der(issuer)?);
        let issuer = issuer.tbs_certificate();
        let sha1 = |octets: &[u8]| OctetString::new(digest(&SHA1_FOR_LEGACY_USE_ONLY, octets).as_ref());
        let key = issuer.subject_public_key_info().subject_public_key.raw_bytes();
        let cert_id = CertId {
            hash_algorithm: AlgorithmIdentifierOwned { oid: ID_SHA1, parameters: Some(Any::from(Null)) },
            issuer_name_hash: sha1(&issuer.subject().to_der()?)?,
            issuer_key_hash: sha1(key)?,
            serial_number: certificate.tbs_certificate().serial_number().clone(),
        };
        let request = Request { req_cert: cert_id };
        let der = OcspRequest { tbs_request: TbsRequest { request_list: vec![request] } }.to_der()?;
        let encoded = STANDARD.encode(&der).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        Ok(Self {
            post: target(responder)?,
            get: target(&format!("{responder}/{encoded}"))?,
            der: der.into(),
        })
    }

    /// Asks by GET or POST and looks at the answer: it must be a successful OCSP response.
    ///
    /// # Errors
    /// If it is not.
    pub async fn ask(&self, connection: &mut Connection, method: &Method) -> Result<()> {
        let answer = if *method == Method::GET {
            connection.exchange(Method::GET, self.get.clone(), None, Bytes::new()).await
        } else {
            let kind = HeaderValue::from_static("application/ocsp-request");
            connection.exchange(Method::POST, self.post.clone(), Some(kind), self.der.clone()).await
        }?;
        ensure!(answer.status() == StatusCode::OK, "OCSP: {}", answer.status());
        let status = response_status(answer.body()).context("OCSP: the body is no OCSPResponse")?;
        ensure!(status == 0, "OCSP: responseStatus {status}");
        Ok(())
    }
}

/// `OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, … }`: the status alone, since reading all of it would cost
/// the generator more than the server.
fn response_status(der: &[u8]) -> Option<u8> {
    let (&[0x30, length], rest) = der.split_first_chunk()? else { return None };
    let long = if length < 0x80 { 0 } else { usize::from(length & 0x7f) };
    match rest.get(long..long + 3)? {
        [0x0a, 1, status] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::response_status;

    #[test]
    fn the_response_status_is_found_behind_short_and_long_lengths() {
        // tryLater has no responseBytes.
        assert_eq!(response_status(&[0x30, 3, 0x0a, 1, 3]), Some(3));
        assert_eq!(response_status(&[0x30, 0x82, 1, 4, 0x0a, 1, 0, 0xa0]), Some(0));
        assert_eq!(response_status(&[0x30, 0x82, 1]), None);
        assert_eq!(response_status(b"<html>"), None);
    }
}
