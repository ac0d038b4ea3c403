//! From an approved request to a certificate that may be signed: `Approved → Tbs → CertificateRecord (reserved)`.
//!
//! Everything here is pure. Each step takes what the one before made, so that nothing can be signed that was not
//! approved, built by us, linted and reserved.

use std::sync::Arc;
use std::time::Duration;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280;
use der::Decode;
use der::flagset::FlagSet;
use thiserror::Error;
use x509_cert::ext::pkix::KeyUsages;
use x509_cert::name::Name;

use crate::acme::authorization::require_attested_key;
use crate::acme::order::OrderFailure;
use crate::acme::star::AutoRenewalRefused;
use crate::acme::{
    Admission, Authorization, AuthorizationState, AuthorizationStatus, AutoRenewal, Order, OrderState,
};
use crate::id::{ExternalAccountId, IssuerId, to_hex};
use crate::lint::{LintFindings, lint};
use crate::pkix::certificate::{CaCertificate, CaCertificateError, CertificateContent};
use crate::pkix::csr::Csr;
use crate::pkix::extensions;
use crate::pkix::identifier::Identifier;
use crate::pkix::name::{InvalidAttribute, MAX_ATTRIBUTE, distinguished_name};
use crate::pkix::public_key::{PublicKey, PublicKeyAlgorithm, sha256};
use crate::pkix::serial::SerialNumber;
use crate::policy::DirectoryPolicy;
use crate::profile::{Profile, ProfileName, Usage, ValidityPeriod};
use crate::signing::{SignatureAlgorithm, SigningKey};
use crate::store::{CertificateId, CertificateRecord, CertificateState, IssuerRecord, Origin};
use crate::time::Timestamp;

/// A CA with its key: the only thing that signs certificates and CRLs.
#[derive(Clone)]
pub struct Issuer {
    record: IssuerRecord,
    certificate: CaCertificate,
    key: Arc<dyn SigningKey>,
}

/// A record and a key do not make an issuer; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IssuerError {
    /// It has no certificate: its creation did not finish.
    #[error("the issuer '{0}' has no certificate")]
    NoCertificate(IssuerId),
    /// Its certificate is not a CA's.
    #[error("the issuer '{0}': {1}")]
    Certificate(IssuerId, CaCertificateError),
    /// The key in the backend is another one.
    #[error("the key '{label}' is not the key of the issuer '{issuer}': was the key backend replaced?")]
    OtherKey {
        /// The issuer.
        issuer: IssuerId,
        /// The key's label.
        label: String,
    },
}

impl Issuer {
    /// Checks that the newest certificate is a CA's and belongs to the key.
    ///
    /// # Errors
    /// See [`IssuerError`].
    pub fn new(record: IssuerRecord, key: Arc<dyn SigningKey>) -> Result<Self, IssuerError> {
        let newest =
            record.certificates.first().ok_or_else(|| IssuerError::NoCertificate(record.id.clone()))?;
        let certificate = CaCertificate::from_der(&newest.der)
            .map_err(|why| IssuerError::Certificate(record.id.clone(), why))?;
        if certificate.public_key != *key.public_key() {
            return Err(IssuerError::OtherKey { issuer: record.id.clone(), label: key.label().to_string() });
        }
        Ok(Self { record, certificate, key })
    }

    /// The issuer's row.
    #[must_use]
    pub fn record(&self) -> &IssuerRecord {
        &self.record
    }

    /// Its newest CA certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Arc<dyn SigningKey> {
        &self.key
    }
}

/// Where relying parties find CRLs, CA certificates and OCSP: bases without a trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiUrls {
    /// Base of `/crl/…` and `/ca/…`.
    pub crl: String,
    /// Base of `/ocsp`.
    pub ocsp: String,
}

impl PkiUrls {
    /// The URL of an issuer's CRL shard.
    #[must_use]
    pub fn crl(&self, issuer: &IssuerId, shard: u32) -> String {
        format!("{}/crl/{issuer}/{shard}.crl", self.crl)
    }

    /// The URL of an issuer's CA certificate.
    #[must_use]
    pub fn ca_certificate(&self, issuer: &IssuerId) -> String {
        format!("{}/ca/{issuer}.cer", self.crl)
    }

    /// The URL of the OCSP responder.
    #[must_use]
    pub fn ocsp(&self) -> String {
        format!("{}/ocsp", self.ocsp)
    }

    /// Whether a URL of ours leads to this machine only, so that no relying party elsewhere can follow it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        [&self.crl, &self.ocsp].into_iter().any(|url| is_loopback_url(url))
    }
}

/// Whether a URL's host is `localhost`, below `.localhost`, or a loopback address.
#[must_use]
pub fn is_loopback_url(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A request that policy admits: who is to be certified, with which key, as what.
#[derive(Clone, Debug)]
pub struct Approved {
    /// What kind of certificate.
    pub kind: Kind,
    /// The name of the profile, for the inventory.
    pub profile: ProfileName,
    /// The subject; may be empty if there are names.
    pub subject: Name,
    /// The subjectAltName entries.
    pub names: Vec<Identifier>,
    /// The subject's key.
    pub public_key: PublicKey,
    /// How long it is to be valid, from notBefore.
    pub validity: Duration,
    /// How far notBefore lies in the past.
    pub backdate: Duration,
    /// The dates that the client asked for and policy admits, in place of these two.
    pub exactly: Option<ValidityPeriod>,
    /// For whom.
    pub origin: Origin,
    /// On whose word names were admitted without a challenge.
    pub trusted: Option<Trusted>,
}

impl Approved {
    /// Cuts the dates of a short-term certificate, which are reckoned from the order's start, to those of the issuer.
    #[must_use]
    pub(crate) fn within(mut self, issuer: &Issuer, order: &Order) -> Self {
        let ca = issuer.certificate();
        if let (Some(exactly), Some(_)) = (&mut self.exactly, &order.auto_renewal) {
            exactly.not_before = exactly.not_before.max(ca.not_before);
            exactly.not_after = exactly.not_after.min(ca.not_after);
        }
        self
    }

    /// First and last second of the certificate that an issuer makes of it at `now`.
    ///
    /// # Errors
    /// [`BuildError::IssuerEnds`] and [`BuildError::OutsideIssuer`].
    pub fn period(&self, issuer: &Issuer, now: Timestamp) -> Result<ValidityPeriod, BuildError> {
        let ca = issuer.certificate();
        let id = &issuer.record().id;
        if ca.not_after <= now {
            return Err(BuildError::IssuerEnds { issuer: id.clone(), not_after: ca.not_after });
        }
        match self.exactly {
            Some(exactly) if exactly.not_before < ca.not_before || exactly.not_after > ca.not_after => {
                let (not_before, not_after) = (ca.not_before, ca.not_after);
                Err(BuildError::OutsideIssuer { issuer: id.clone(), not_before, not_after })
            }
            Some(exactly) => Ok(exactly),
            None => {
                let not_before = now.minus(self.backdate).whole_seconds().max(ca.not_before);
                let not_after = last_second(not_before, self.validity).min(ca.not_after);
                Ok(ValidityPeriod { not_before, not_after })
            }
        }
    }
}

/// Names that were admitted without a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    /// The external account that vouches for them.
    pub external_account: ExternalAccountId,
    /// The names.
    pub names: Vec<Identifier>,
}

/// The kinds of certificate that we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A self-signed root.
    Root,
    /// A CA below a root.
    IssuingCa,
    /// A delegated OCSP responder, RFC 6960 §4.2.2.2.
    Responder,
    /// A subscriber's, or one of our own listeners'.
    EndEntity(Usage),
}

/// Judges an order in `processing` once more, from fresh rows: authorizations, names, key, CSR.
///
/// An order that is renewed (RFC 8739 §2.2) is judged by present policy too, but for its authorizations: its names were
/// proven when its first certificate was issued, and need not be proven again while it lasts.
///
/// # Errors
/// Why the order fails for good.
pub fn approve_order(
    order: &Order,
    authorizations: &[Authorization],
    admission: &Admission<'_>,
    profile: &Profile,
    now: Timestamp,
) -> Result<Approved, OrderFailure> {
    let policy = admission.policy();
    let (csr, authorizations) = match &order.state {
        OrderState::Processing { csr } => (csr, Some(authorizations)),
        OrderState::Renewing(renewing) => (&renewing.csr, None),
        _ => return Err(OrderFailure::Internal { detail: "the order is not in processing".to_owned() }),
    };
    if !admission.profiles().any(|offered| *offered == order.profile) || profile.name != order.profile {
        return Err(OrderFailure::InvalidProfile {
            detail: format!("the profile '{}' is not offered to this account any more", order.profile),
        });
    }
    if order.identifiers.len() > policy.limits.max_identifiers {
        return Err(OrderFailure::RejectedIdentifier {
            detail: format!("an order has at most {} identifiers", policy.limits.max_identifiers),
        });
    }
    for identifier in &order.identifiers {
        admission
            .permits(identifier)
            .map_err(|refused| OrderFailure::RejectedIdentifier { detail: refused.to_string() })?;
        let Some(authorizations) = authorizations else { continue };
        let valid = authorizations.iter().any(|authorization| {
            authorization.account == order.account
                && authorization.covers(identifier)
                && authorization.status(now) == AuthorizationStatus::Valid
                && admission.upholds(authorization, identifier)
        });
        if !valid {
            return Err(OrderFailure::Unauthorized {
                detail: format!("the authorization for '{identifier}' is not valid any more"),
            });
        }
    }
    let bad_csr = |error: crate::pkix::csr::CsrError| OrderFailure::BadCsr { detail: error.to_string() };
    let csr = Csr::from_der(csr).map_err(bad_csr)?;
    let names = csr.require_names(&order.identifiers).map_err(bad_csr)?;
    require_attested_key(authorizations.unwrap_or_default(), csr.public_key()).map_err(bad_csr)?;
    policy.subscriber_keys.require(csr.public_key()).map_err(bad_csr)?;
    if !order.validity.is_empty() && !policy.client_validity {
        let detail = "notBefore and notAfter can't be chosen in this directory any more".to_owned();
        return Err(OrderFailure::Validity { detail });
    }
    let validity = admission.validity(profile);
    let exactly = match &order.auto_renewal {
        Some(agreed) => Some(short_term(order, agreed, policy, validity, now)?),
        None => profile
            .period(order.validity, validity, policy.limits.order_lifetime, now)
            .map_err(|refused| OrderFailure::Validity { detail: refused.to_string() })?,
    };
    // Some clients take every commonName for a dns name; without one the subject is empty.
    let named = names.iter().find(|name| !matches!(name, Identifier::Ip(_)));
    let common_name = named.map(Identifier::common_name).filter(|name| name.len() <= MAX_ATTRIBUTE);
    let subject = distinguished_name(None, common_name.as_deref())
        .map_err(|error| OrderFailure::Internal { detail: error.to_string() })?;
    Ok(Approved {
        kind: Kind::EndEntity(profile.usage),
        profile: profile.name.clone(),
        subject,
        names,
        public_key: csr.public_key().clone(),
        validity,
        backdate: profile.backdate,
        exactly,
        origin: Origin::Order { order: order.id, account: order.account },
        trusted: trusted(order, authorizations.unwrap_or_default()),
    })
}

/// The dates of an order's next short-term certificate, RFC 8739 §3.5.
fn short_term(
    order: &Order,
    agreed: &AutoRenewal,
    policy: &DirectoryPolicy,
    validity: Duration,
    now: Timestamp,
) -> Result<ValidityPeriod, OrderFailure> {
    let refused = |why: AutoRenewalRefused| OrderFailure::Validity { detail: why.to_string() };
    let offered = policy.star.ok_or(AutoRenewalRefused::NotOffered).map_err(refused)?;
    let (first, index) = match &order.state {
        OrderState::Renewing(renewing) => (renewing.first, renewing.next_index(agreed, now)),
        _ => (agreed.first(now), 0),
    };
    // By our own clock, not by what the row says of when it was made.
    agreed.require_start(first, now).map_err(refused)?;
    offered.require(agreed, first).map_err(refused)?;
    agreed.require_within(validity).map_err(refused)?;
    let period = agreed.period(first, index);
    if period.not_after <= period.not_before || period.not_after <= now {
        return Err(refused(AutoRenewalRefused::Ended));
    }
    Ok(period)
}

/// The names of an order that an external account vouches for.
fn trusted(order: &Order, authorizations: &[Authorization]) -> Option<Trusted> {
    let external_account = authorizations.iter().find_map(|authorization| match authorization.state {
        AuthorizationState::Trusted { external_account, .. } => Some(external_account),
        _ => None,
    })?;
    let names = order.identifiers.iter().filter(|name| {
        authorizations.iter().any(|authorization| authorization.is_trusted() && authorization.covers(name))
    });
    Some(Trusted { external_account, names: names.cloned().collect() })
}

/// Why no to-be-signed certificate came to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BuildError {
    /// The issuer's certificate has ended; a CA's end is known years before, and it needs a successor by then.
    #[error("the certificate of the issuer '{issuer}' ended at {not_after}: it can't sign any more")]
    IssuerEnds {
        /// The issuer.
        issuer: IssuerId,
        /// When its certificate ends.
        not_after: Timestamp,
    },
    /// The client's dates lie outside those of the issuer.
    #[error(
        "notBefore and notAfter must lie within the certificate of the issuer '{issuer}', from {not_before} to {not_after}"
    )]
    OutsideIssuer {
        /// The issuer.
        issuer: IssuerId,
        /// When its certificate begins.
        not_before: Timestamp,
        /// When its certificate ends.
        not_after: Timestamp,
    },
    /// A name can't stand in a subject.
    #[error(transparent)]
    Subject(#[from] InvalidAttribute),
    /// A URL or another part can't be encoded.
    #[error("the certificate can't be encoded: {0}")]
    Encoding(String),
    /// Lint refuses it.
    #[error(transparent)]
    Lint(#[from] LintFindings),
}

impl From<der::Error> for BuildError {
    fn from(error: der::Error) -> Self {
        Self::Encoding(error.to_string())
    }
}

/// Builds, lints and wraps what is to be signed into its inventory row, in state `reserved`.
///
/// Nothing outlives its issuer: usual dates are cut, those that a client asked for are refused. Key identifiers are those of RFC 7093 §2 method 1.
///
/// # Errors
/// See [`BuildError`].
pub fn build(
    approved: &Approved,
    issuer: &Issuer,
    serial: SerialNumber,
    urls: &PkiUrls,
    now: Timestamp,
) -> Result<CertificateRecord, BuildError> {
    let ca = issuer.certificate();
    let id = &issuer.record().id;
    let ValidityPeriod { not_before, not_after } = approved.period(issuer, now)?;
    let shard = shard(&serial, issuer.record().shards);
    let mut extensions = vec![
        extensions::authority_key_identifier(&ca.key_identifier)?,
        extensions::subject_key_identifier(&approved.public_key.key_identifier())?,
    ];
    match approved.kind {
        Kind::Root => return Err(BuildError::Encoding("a root has no issuer but itself".to_owned())),
        Kind::IssuingCa => {
            extensions.push(extensions::basic_constraints(true, Some(0))?);
            extensions.push(extensions::key_usage(KeyUsages::KeyCertSign | KeyUsages::CRLSign)?);
            extensions.push(extensions::crl_distribution_point(&urls.crl(id, shard))?);
            extensions.push(extensions::authority_info_access(None, &urls.ca_certificate(id))?);
        }
        Kind::Responder => {
            extensions.push(extensions::key_usage(KeyUsages::DigitalSignature)?);
            extensions.push(extensions::extended_key_usage(rfc5280::ID_KP_OCSP_SIGNING)?);
            extensions.push(extensions::ocsp_no_check()?);
        }
        Kind::EndEntity(usage) => {
            extensions.push(extensions::key_usage(subscriber_key_usage(&approved.public_key))?);
            extensions.push(extensions::extended_key_usage(purpose(usage))?);
            extensions.push(extensions::crl_distribution_point(&urls.crl(id, shard))?);
            extensions.push(extensions::authority_info_access(Some(&urls.ocsp()), &urls.ca_certificate(id))?);
        }
    }
    if !approved.names.is_empty() {
        extensions.push(extensions::subject_alt_name(&approved.names, approved.subject.is_empty())?);
    }
    let content = CertificateContent {
        serial,
        signature: issuer.key().algorithm(),
        issuer: ca.subject.clone(),
        not_before,
        not_after,
        subject: approved.subject.clone(),
        public_key: approved.public_key.clone(),
        extensions,
    };
    let tbs = content.to_tbs_der()?;
    lint(&tbs, Some(ca), approved.kind == Kind::IssuingCa)?;
    Ok(reserved(&content, tbs, approved, id.clone(), shard, now))
}

/// As [`build`], for a root's own certificate, which its own key signs.
///
/// # Errors
/// See [`BuildError`].
pub fn build_root(
    approved: &Approved,
    issuer: &IssuerId,
    signature: SignatureAlgorithm,
    serial: SerialNumber,
    now: Timestamp,
) -> Result<CertificateRecord, BuildError> {
    let not_before = now.minus(approved.backdate).whole_seconds();
    let content = CertificateContent {
        serial,
        signature,
        issuer: approved.subject.clone(),
        not_before,
        not_after: last_second(not_before, approved.validity),
        subject: approved.subject.clone(),
        public_key: approved.public_key.clone(),
        extensions: vec![
            extensions::subject_key_identifier(&approved.public_key.key_identifier())?,
            extensions::basic_constraints(true, None)?,
            extensions::key_usage(KeyUsages::KeyCertSign | KeyUsages::CRLSign)?,
        ],
    };
    let tbs = content.to_tbs_der()?;
    lint(&tbs, None, true)?;
    Ok(reserved(&content, tbs, approved, issuer.clone(), 0, now))
}

/// notAfter is the last second, so a certificate of n days covers exactly n days (RFC 5280 §4.1.2.5).
fn last_second(not_before: Timestamp, validity: Duration) -> Timestamp {
    not_before.plus(validity.saturating_sub(Duration::from_secs(1))).whole_seconds()
}

fn reserved(
    content: &CertificateContent,
    tbs: Vec<u8>,
    approved: &Approved,
    issuer: IssuerId,
    shard: u32,
    now: Timestamp,
) -> CertificateRecord {
    CertificateRecord {
        id: CertificateId { issuer, serial: content.serial },
        state: CertificateState::Reserved,
        tbs,
        der: None,
        profile: approved.profile.clone(),
        subject: approved.subject.to_string(),
        names: approved.names.clone(),
        key: approved.public_key.hash(),
        not_before: content.not_before,
        not_after: content.not_after,
        shard,
        origin: approved.origin.clone(),
        reserved_at: now,
        revision: 0,
    }
}

/// The shard of a new certificate: serials are random, so their last octets spread evenly.
fn shard(serial: &SerialNumber, shards: u32) -> u32 {
    let tail =
        serial.as_bytes().iter().rev().take(4).fold(0u32, |tail, octet| (tail << 8) | u32::from(*octet));
    tail % shards.max(1)
}

/// RSA keys may also be used for key transport, RFC 5280 §4.2.1.3, RFC 4055, RFC 8410.
fn subscriber_key_usage(key: &PublicKey) -> FlagSet<KeyUsages> {
    match key.algorithm() {
        PublicKeyAlgorithm::Rsa(_) => KeyUsages::DigitalSignature | KeyUsages::KeyEncipherment,
        _ => KeyUsages::DigitalSignature.into(),
    }
}

fn purpose(usage: Usage) -> ObjectIdentifier {
    match usage {
        Usage::TlsServer => rfc5280::ID_KP_SERVER_AUTH,
        Usage::TlsClient => rfc5280::ID_KP_CLIENT_AUTH,
    }
}

/// SHA-256 of what is to be signed, as the log shows it.
#[must_use]
pub fn tbs_sha256(tbs: &[u8]) -> String {
    to_hex(&sha256(tbs))
}

/// Reads a Name that was stored in DER.
///
/// # Errors
/// If it is none.
pub fn stored_name(der: &[u8]) -> Result<Name, der::Error> {
    Name::from_der(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_urls_are_told_from_others() {
        for url in [
            "http://127.0.0.1:8080",
            "http://localhost",
            "https://LOCALHOST.:8443/x",
            "http://pki.localhost:80",
            "http://[::1]:8080/",
            "http://127.1.2.3",
        ] {
            assert!(is_loopback_url(url), "{url}");
        }
        for url in [
            "http://pki.example.org",
            "http://localhost.example.org",
            "http://10.0.0.1:8080",
            "http://[fd00::1]",
        ] {
            assert!(!is_loopback_url(url), "{url}");
        }
    }

    #[test]
    fn shards_spread_serials_evenly_and_stay_in_range() {
        let mut counts = [0u32; 16];
        for i in 0..1600u32 {
            let digest = sha256(&i.to_be_bytes());
            let serial = SerialNumber::from_be_bytes(&digest[..20]).unwrap();
            counts[shard(&serial, 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }
}
