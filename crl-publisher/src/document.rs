//! What is served: octets with their type, age and name, in a snapshot that is replaced whole.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ca_core::id::{IssuerId, to_hex};
use ca_core::pkix::public_key::sha256;
use ca_core::store::{CrlRecord, IssuerKind, IssuerRecord};
use ca_core::time::Timestamp;
use der::pem::LineEnding;
use der::{Decode, Encode};
use x509_cert::Certificate;

use crate::schedule::has_ended;

/// One thing that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub body: Bytes,
    pub content_type: &'static str,
    pub etag: String,
    pub last_modified: Timestamp,
    /// Until when it may be relied on; `None` if nothing says so.
    pub next_update: Option<Timestamp>,
}

impl Document {
    fn new(body: Vec<u8>, content_type: &'static str, last_modified: Timestamp) -> Self {
        let etag = format!("\"{}\"", to_hex(&sha256(&body)));
        Self { body: body.into(), content_type, etag, last_modified, next_update: None }
    }

    /// CA certificates in DER, RFC 2585 §4.1.
    pub(crate) fn certificate(der: Vec<u8>) -> Self {
        let at = not_before(&der);
        Self::new(der, "application/pkix-cert", at)
    }

    /// Every root's newest certificate as PEM blocks and nothing else.
    pub(crate) fn roots(ders: &[&[u8]]) -> Option<Self> {
        let mut pem = String::new();
        for der in ders {
            pem.push_str(&der::pem::encode_string("CERTIFICATE", LineEnding::LF, der).ok()?);
        }
        let at = ders.iter().map(|der| not_before(der)).max()?;
        Some(Self::new(pem.into_bytes(), "application/pem-certificate-chain", at))
    }
}

/// A served CRL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crl {
    pub number: u64,
    pub this_update: Timestamp,
    pub next_update: Timestamp,
    pub document: Document,
}

impl Crl {
    pub(crate) fn new(number: u64, this_update: Timestamp, next_update: Timestamp, der: Vec<u8>) -> Self {
        let document = Document::new(der, "application/pkix-crl", this_update);
        let document = Document { next_update: Some(next_update), ..document };
        Self { number, this_update, next_update, document }
    }
}

impl From<CrlRecord> for Crl {
    fn from(record: CrlRecord) -> Self {
        Self::new(record.number, record.this_update, record.next_update, record.der)
    }
}

/// Everything that is served, as of one read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub crls: HashMap<IssuerId, HashMap<u32, Arc<Crl>>>,
    pub certificates: HashMap<IssuerId, Document>,
    pub roots: Option<Document>,
    /// How many shards each issuer that can still sign has; empty until the store was read.
    pub shards: Vec<(IssuerId, u32)>,
    /// When the store was last read; `None` until it was.
    pub read_at: Option<Timestamp>,
}

impl Snapshot {
    pub(crate) fn crl(&self, issuer: &IssuerId, shard: u32) -> Option<&Arc<Crl>> {
        self.crls.get(issuer)?.get(&shard)
    }

    /// Takes up the issuers' certificates.
    pub(crate) fn set_issuers(&mut self, issuers: &[IssuerRecord], now: Timestamp) {
        let issuers: Vec<_> = issuers.iter().filter(|issuer| !issuer.certificates.is_empty()).collect();
        let newest =
            |issuer: &IssuerRecord| issuer.certificates.first().map(|certificate| certificate.der.clone());
        self.certificates = issuers
            .iter()
            .filter_map(|issuer| Some((issuer.id.clone(), Document::certificate(newest(issuer)?))))
            .collect();
        let roots: Vec<_> =
            issuers.iter().filter(|i| i.kind == IssuerKind::Root).filter_map(|i| newest(i)).collect();
        self.roots = Document::roots(&roots.iter().map(Vec::as_slice).collect::<Vec<_>>());
        self.shards = issuers
            .iter()
            .filter(|issuer| !has_ended(issuer, now))
            .map(|issuer| (issuer.id.clone(), issuer.shards))
            .collect();
    }
}

/// A certificate's notBefore; the epoch if it can't be read.
fn not_before(der: &[u8]) -> Timestamp {
    Certificate::from_der(der).map_or(Timestamp::from_seconds(0), |c| {
        Timestamp::from_x509(c.tbs_certificate().validity().not_before)
    })
}

/// The certificates in a file that [`Document::roots`] made.
pub(crate) fn roots_from_pem(pem: &[u8]) -> Option<Document> {
    let certificates = Certificate::load_pem_chain(pem).ok()?;
    let ders: Vec<_> = certificates.iter().filter_map(|certificate| certificate.to_der().ok()).collect();
    Document::roots(&ders.iter().map(Vec::as_slice).collect::<Vec<_>>())
}
