//! The rows that the store keeps beside those of ACME: certificates, issuers, CRLs, roles' credentials.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::Identifier;
use crate::id::{AccountId, CredentialId, IssuerId, OrderId, serde_base64url};
use crate::pkix::public_key::KeyHash;
use crate::pkix::serial::SerialNumber;
use crate::profile::ProfileName;
use crate::revocation::RevocationReason;
use crate::signing::{KeyLabel, SignatureAlgorithm};
use crate::time::Timestamp;

/// Counts the changes of one row. A change carries the version that it was decided on; the store writes the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// Of a row that is not stored yet: the change inserts it, and conflicts if it exists.
    pub const NEW: Self = Self(0);

    /// The version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names a certificate: its issuer and its serial. Text form `issuing-1-0a1b…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CertificateId {
    /// The issuer.
    pub issuer: IssuerId,
    /// The serial, unique within the issuer.
    pub serial: SerialNumber,
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.issuer, self.serial)
    }
}

/// A text is no certificate id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a certificate id: ISSUER-SERIAL is expected, such as issuing-1-0a1b2c")]
pub struct InvalidCertificateId;

impl FromStr for CertificateId {
    type Err = InvalidCertificateId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (issuer, serial) = text.rsplit_once('-').ok_or(InvalidCertificateId)?;
        Ok(Self {
            issuer: issuer.parse().map_err(|_| InvalidCertificateId)?,
            serial: serial.parse().map_err(|_| InvalidCertificateId)?,
        })
    }
}

impl TryFrom<String> for CertificateId {
    type Error = InvalidCertificateId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CertificateId> for String {
    fn from(id: CertificateId) -> Self {
        id.to_string()
    }
}

/// One certificate of the inventory, from before it was signed. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Issuer and serial.
    pub id: CertificateId,
    /// How far it got, and whether it may be trusted.
    pub state: CertificateState,
    /// The TBSCertificate in DER: what the key signs, and nothing else under this serial.
    #[serde(with = "serde_base64url")]
    pub tbs: Vec<u8>,
    /// The certificate in DER, once signed.
    pub der: Option<CertificateDer>,
    /// The profile it was made by: of the operator, or `root`, `issuing-ca`, `ocsp-responder`, `listener`.
    pub profile: ProfileName,
    /// The subject in RFC 4514 text; empty if the subject is.
    pub subject: String,
    /// The subjectAltName entries.
    pub names: Vec<Identifier>,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: KeyHash,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// The CRL shard that lists it when it is revoked.
    pub shard: u32,
    /// For whom it was made.
    pub origin: Origin,
    /// When it was reserved.
    pub reserved_at: Timestamp,
    /// When this row last changed, as a number that grows with each change of any certificate; given by the store.
    pub revision: u64,
}

/// A certificate in DER with the hash that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateDer {
    /// The DER.
    #[serde(with = "serde_base64url")]
    pub der: Vec<u8>,
    /// SHA-256 of the DER.
    #[serde(with = "serde_base64url")]
    pub fingerprint: [u8; 32],
}

impl CertificateDer {
    /// Takes a certificate and computes its fingerprint.
    #[must_use]
    pub fn new(der: Vec<u8>) -> Self {
        let fingerprint = crate::pkix::public_key::sha256(&der);
        Self { der, fingerprint }
    }
}

/// How far a certificate got, and whether it may be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CertificateState {
    /// The TBS is logged; a signature may exist or come to exist. OCSP says `unknown`.
    Reserved,
    /// Signed and released.
    Issued {
        /// When.
        at: Timestamp,
    },
    /// Signed, and revoked.
    Revoked {
        /// When it was issued.
        issued_at: Timestamp,
        /// When it was revoked.
        at: Timestamp,
        /// Why.
        reason: RevocationReason,
    },
    /// Given up before it was known to be signed; counts as revoked until its notAfter, since a signature may exist.
    Abandoned {
        /// When.
        at: Timestamp,
    },
}

impl CertificateState {
    /// When and why the certificate counts as revoked; `None` if it does not.
    #[must_use]
    pub const fn revocation(&self) -> Option<Revocation> {
        match *self {
            Self::Revoked { at, reason, .. } => Some(Revocation { at, reason }),
            Self::Abandoned { at } => Some(Revocation { at, reason: RevocationReason::Unspecified }),
            Self::Reserved | Self::Issued { .. } => None,
        }
    }

    /// The state's name in output.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Issued { .. } => "issued",
            Self::Revoked { .. } => "revoked",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}

/// When and why a certificate was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
}

/// For whom a certificate was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An ACME order.
    Order {
        /// The order.
        order: OrderId,
        /// Its account.
        account: AccountId,
    },
    /// A role's own key: an OCSP responder or a listener.
    Credential(CredentialId),
    /// A CA of ours.
    Issuer(IssuerId),
}

/// What renewal is decided by: an inventory row without its DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Issuer and serial.
    pub id: CertificateId,
    /// How far it got, and whether it may be trusted.
    pub state: CertificateState,
    /// The profile it was made by.
    pub profile: ProfileName,
    /// The subjectAltName entries.
    pub names: Vec<Identifier>,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// The ACME account that it was made for; `None` for those of our own.
    pub account: Option<AccountId>,
    /// When it was reserved.
    pub reserved_at: Timestamp,
}

/// What OCSP needs of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateStatus {
    /// How far it got.
    pub state: CertificateState,
    /// Last second of validity.
    pub not_after: Timestamp,
    /// See [`CertificateRecord::revision`].
    pub revision: u64,
}

/// An issuer: a subject with a key, RFC 5280's "CA". A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRecord {
    /// Its name in URLs.
    pub id: IssuerId,
    /// Root or issuing.
    pub kind: IssuerKind,
    /// Whether it issues.
    pub state: IssuerState,
    /// The subject Name in DER.
    #[serde(with = "serde_base64url")]
    pub subject: Vec<u8>,
    /// The subject in RFC 4514 text.
    pub subject_text: String,
    /// The key's name in its backend.
    pub key_label: KeyLabel,
    /// How it signs.
    pub signature_algorithm: SignatureAlgorithm,
    /// The SubjectPublicKeyInfo in DER.
    #[serde(with = "serde_base64url")]
    pub public_key: Vec<u8>,
    /// Its CA certificates in DER, newest first; empty only while it is being created.
    pub certificates: Vec<CertificateDer>,
    /// The issuer of its certificates; `None` for a root.
    pub parent: Option<IssuerId>,
    /// Over how many CRL shards its certificates are spread; never shrinks.
    pub shards: u32,
    /// Whether this CA was made for a first look, on loopback URLs.
    pub trial: bool,
    /// When it came to be.
    pub created_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// Root or issuing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerKind {
    /// Self-signed; signs CA certificates only.
    Root,
    /// Signs subscribers' certificates.
    Issuing,
}

/// Whether an issuer issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerState {
    /// It signs certificates, CRLs and responder certificates.
    Active,
    /// It signs CRLs and responder certificates only.
    Retired,
}

/// A published CRL. A stored type; the store keeps the newest of each shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrlRecord {
    /// The issuer.
    pub issuer: IssuerId,
    /// The shard, from 0.
    pub shard: u32,
    /// cRLNumber.
    pub number: u64,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Timestamp,
    /// How many entries it has.
    pub entries: u64,
    /// The CertificateList in DER.
    #[serde(with = "serde_base64url")]
    pub der: Vec<u8>,
}

/// When a shard's newest CRL was made, without its DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlSummary {
    /// The issuer.
    pub issuer: IssuerId,
    /// The shard, from 0.
    pub shard: u32,
    /// cRLNumber.
    pub number: u64,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Timestamp,
    /// How many entries it has.
    pub entries: u64,
}

/// What a shard's next CRL is made from, read in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRevocations {
    /// The highest cRLNumber reserved so far; 0 if none.
    pub last_number: u64,
    /// The newest published CRL.
    pub previous: Option<CrlRecord>,
    /// Every certificate of the shard that counts as revoked and whose notAfter is at or after the time asked for,
    /// by serial. The store has checked the count against its own.
    pub revoked: Vec<RevokedCertificate>,
}

/// One entry of a CRL to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// The serial.
    pub serial: SerialNumber,
    /// When and why.
    pub revocation: Revocation,
    /// Last second of validity.
    pub not_after: Timestamp,
}

/// A role's wish for a certificate for a key of its own. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name.
    pub id: CredentialId,
    /// What for.
    pub kind: CredentialKind,
    /// The SubjectPublicKeyInfo in DER.
    #[serde(with = "serde_base64url")]
    pub public_key: Vec<u8>,
    /// The certificate, once issued.
    pub certificate: Option<CertificateId>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Counts its changes.
    pub version: Version,
}

/// What a role's own certificate is for. The names in it come from the configuration of `ca`, never from the row.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CredentialKind {
    /// A delegated OCSP responder of an issuer, RFC 6960 §4.2.2.2.
    Responder {
        /// The issuer that it answers for.
        issuer: IssuerId,
    },
    /// The TLS listener of a role.
    Listener {
        /// The role.
        role: Role,
    },
}

/// The parts that the program can run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Decides, signs, and alone writes.
    Ca,
    /// RFC 8555 front end.
    Acme,
    /// OCSP responder.
    Ocsp,
    /// CRL publisher.
    Crl,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Ca, Self::Acme, Self::Ocsp, Self::Crl];

    /// The role's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Acme => "acme",
            Self::Ocsp => "ocsp",
            Self::Crl => "crl",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(())
    }
}
