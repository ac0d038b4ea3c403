//! The store as the roles see it: rows, narrow reads, one write, and being told of changes.
//!
//! Nothing here knows an engine. A [`Commit`] is one transaction: row changes, the versions they were decided on,
//! effects for the `ca` role, and audit events. Rows are requests, never authority: `ca` re-reads and decides again.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::BoxFuture;
use crate::acme::account::Thumbprint;
use crate::acme::{Account, Authorization, DirectoryName, Identifier, Order, OrderState};
use crate::audit::{Action, Actor, AuditEvent};
use crate::id::{AccountId, AuthorizationId, CredentialId, EffectId, IssuerId, OrderId, serde_base64url};
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

/// Work for the `ca` role: stored with the change that asks for it, removed with the change that carries it out.
/// Safe to repeat. A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Its name; effects are carried out in this order where order matters.
    pub id: EffectId,
    /// What to do.
    pub kind: EffectKind,
}

/// What `ca` is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum EffectKind {
    /// Issue the certificate of an order in `processing`.
    Issue {
        /// The order.
        order: OrderId,
    },
    /// Issue a role's own certificate.
    IssueCredential {
        /// The wish.
        credential: CredentialId,
    },
    /// Revoke a certificate.
    Revoke {
        /// Which.
        certificate: CertificateId,
        /// Why.
        reason: RevocationReason,
        /// Who asked, as the front end authenticated them.
        requested_by: RevocationRequester,
    },
    /// Build, sign and publish a shard's CRL.
    PublishCrl {
        /// The issuer.
        issuer: IssuerId,
        /// The shard.
        shard: u32,
    },
}

/// Who asked for a revocation, RFC 8555 §7.6.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationRequester {
    /// An account: the one that it was issued to, or one that holds authorizations for all its names. `ca` checks it.
    Account(AccountId),
    /// The holder of the certificate's own private key. `ca` checks that it is the certificate's key.
    CertificateKey(KeyHash),
}

/// One row change. An engine implements the whole enum once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Inserts or updates an account. A second valid account with the key of another in its directory is a conflict.
    PutAccount(Account),
    /// Inserts or updates an order.
    PutOrder(Order),
    /// Inserts or updates an authorization.
    PutAuthorization(Authorization),
    /// Inserts a certificate in state `reserved`; a serial that the issuer has used is a conflict.
    ReserveCertificate(Box<CertificateRecord>),
    /// `reserved` → `issued`; any other state is a conflict.
    IssueCertificate {
        /// Which.
        id: CertificateId,
        /// The signed certificate.
        der: CertificateDer,
        /// When.
        at: Timestamp,
    },
    /// `reserved` → `abandoned`; any other state is a conflict.
    AbandonCertificate {
        /// Which.
        id: CertificateId,
        /// When.
        at: Timestamp,
    },
    /// `issued` → `revoked`; any other state is a conflict.
    RevokeCertificate {
        /// Which.
        id: CertificateId,
        /// When and why.
        revocation: Revocation,
    },
    /// Inserts or updates an issuer.
    PutIssuer(Box<IssuerRecord>),
    /// Records that a CRL with this number is about to be signed; a number that is not higher is a conflict.
    ReserveCrl {
        /// The issuer.
        issuer: IssuerId,
        /// The shard.
        shard: u32,
        /// cRLNumber.
        number: u64,
    },
    /// Replaces a shard's CRL; one that is not newer is a conflict.
    PublishCrl(CrlRecord),
    /// Inserts or updates a role's wish for a certificate.
    PutCredential(Credential),
    /// Blocks a key for ever; no error if it is blocked already.
    BlockKey {
        /// SHA-256 of its SubjectPublicKeyInfo.
        key: KeyHash,
        /// When.
        at: Timestamp,
        /// Why, for the operator.
        detail: String,
    },
    /// Removes an effect that was carried out; a conflict if it is not there, so that none is carried out twice.
    EffectDone(EffectId),
}

/// One transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Row changes, applied in order.
    pub changes: Vec<Change>,
    /// Rows that were only read, with the versions on which this was decided.
    pub expected_versions: Vec<(Row, Version)>,
    /// Work for `ca`.
    pub effects: Vec<Effect>,
    /// What to log.
    pub audit: Vec<AuditEvent>,
}

/// Names a row that carries a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// An account.
    Account(AccountId),
    /// An order.
    Order(OrderId),
    /// An authorization.
    Authorization(AuthorizationId),
    /// An issuer.
    Issuer(IssuerId),
    /// A role's wish for a certificate.
    Credential(CredentialId),
}

/// Why a read or a commit did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "detail", rename_all = "snake_case")]
pub enum StoreError {
    /// Another commit came first: read again and decide again.
    #[error("the data changed meanwhile")]
    Conflict,
    /// A row that the commit needs is not there.
    #[error("there is no such row: {0}")]
    NotFound(String),
    /// The store can't take this now: retry later.
    #[error("the store is not available: {0}")]
    Busy(String),
    /// The disk is full, or nearly: only revocation goes on.
    #[error("the store's disk is full: {0}")]
    Full(String),
    /// A row does not match its hash, or a count its rows: the operator acts.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The role may not make this commit.
    #[error("not permitted: {0}")]
    Refused(String),
}

/// How far a role's clock may be ahead of the one that judges its events.
const AHEAD: Duration = Duration::from_mins(1);

/// Whether a role may make a commit at `now`. Only `ca` issues, revokes, and writes issuers and CRLs; no other role
/// may log an event of the future, since signing stops until the clock has reached the newest event.
///
/// # Errors
/// What is not permitted.
pub fn permits(role: Role, commit: &Commit, now: Timestamp) -> Result<(), StoreError> {
    let refuse = |what: &str| Err(StoreError::Refused(format!("role '{role}' may not {what}")));
    if role == Role::Ca {
        return Ok(());
    }
    for change in &commit.changes {
        let fine = match (role, change) {
            (Role::Acme, Change::PutAccount(_) | Change::PutAuthorization(_)) => true,
            (Role::Acme, Change::PutOrder(order)) => {
                matches!(order.state, OrderState::Open | OrderState::Processing { .. })
            }
            (_, Change::PutCredential(credential)) => {
                credential.certificate.is_none()
                    && match credential.kind {
                        CredentialKind::Responder { .. } => role == Role::Ocsp,
                        CredentialKind::Listener { role: holder } => role == holder,
                    }
            }
            _ => false,
        };
        if !fine {
            return refuse("make this change");
        }
    }
    for effect in &commit.effects {
        let fine = match effect.kind {
            EffectKind::Issue { .. } | EffectKind::Revoke { .. } => role == Role::Acme,
            EffectKind::IssueCredential { .. } => true,
            EffectKind::PublishCrl { .. } => role == Role::Crl,
        };
        if !fine {
            return refuse("ask for this effect");
        }
    }
    for event in &commit.audit {
        let fine = match event.action {
            Action::CredentialRequested { .. } => true,
            Action::AccountCreated { .. }
            | Action::AccountUpdated { .. }
            | Action::AccountDeactivated { .. }
            | Action::AccountKeyChanged { .. }
            | Action::OrderCreated { .. }
            | Action::ChallengeDecided { .. }
            | Action::AuthorizationDeactivated { .. }
            | Action::OrderFinalized { .. } => role == Role::Acme,
            _ => false,
        };
        let own_name = match event.actor {
            Actor::Operator { .. } => false,
            Actor::Authority => matches!(event.action, Action::CredentialRequested { .. }),
            Actor::Account(_) | Actor::CertificateKey(_) | Actor::Stranger => role == Role::Acme,
        };
        if !fine || !own_name {
            return refuse("log this event");
        }
        if event.at > now.plus(AHEAD) {
            return refuse(&format!("log an event of {}, which is still to come: check its clock", event.at));
        }
    }
    Ok(())
}

/// Something that a role can wait for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// An order changed.
    Order(OrderId),
    /// An authorization changed.
    Authorization(AuthorizationId),
    /// A certificate was issued, revoked or abandoned.
    Certificate(CertificateId),
    /// A role's wish for a certificate changed.
    Credential(CredentialId),
    /// An effect was added.
    Effects,
    /// A CRL was published.
    Crls,
    /// An issuer changed.
    Issuers,
}

impl Commit {
    /// What this commit wakes.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<TopicKey> {
        let mut topics = BTreeSet::new();
        let mut add = |topic: Topic| {
            topics.insert(TopicKey::from(&topic));
        };
        for change in &self.changes {
            match change {
                Change::PutOrder(order) => add(Topic::Order(order.id)),
                Change::PutAuthorization(authorization) => add(Topic::Authorization(authorization.id)),
                Change::IssueCertificate { id, .. }
                | Change::AbandonCertificate { id, .. }
                | Change::RevokeCertificate { id, .. } => add(Topic::Certificate(id.clone())),
                Change::PutCredential(credential) => add(Topic::Credential(credential.id)),
                Change::PublishCrl(_) => add(Topic::Crls),
                Change::PutIssuer(_) => add(Topic::Issuers),
                Change::PutAccount(_)
                | Change::ReserveCertificate(_)
                | Change::ReserveCrl { .. }
                | Change::BlockKey { .. }
                | Change::EffectDone(_) => {}
            }
        }
        if !self.effects.is_empty() {
            add(Topic::Effects);
        }
        topics
    }
}

/// A [`Topic`] as a short text, for maps and for the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicKey(pub String);

impl From<&Topic> for TopicKey {
    fn from(topic: &Topic) -> Self {
        Self(match topic {
            Topic::Order(id) => format!("order:{id}"),
            Topic::Authorization(id) => format!("authorization:{id}"),
            Topic::Certificate(id) => format!("certificate:{id}"),
            Topic::Credential(id) => format!("credential:{id}"),
            Topic::Effects => "effects".to_owned(),
            Topic::Crls => "crls".to_owned(),
            Topic::Issuers => "issuers".to_owned(),
        })
    }
}

/// Which certificates to list; all conditions hold together. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateFilter {
    /// With this subjectAltName, exactly.
    pub name: Option<Identifier>,
    /// Of this account.
    pub account: Option<AccountId>,
    /// Of this issuer.
    pub issuer: Option<IssuerId>,
    /// With this serial.
    pub serial: Option<SerialNumber>,
    /// With this key.
    pub key: Option<KeyHash>,
    /// In this state, by [`CertificateState::name`].
    pub state: Option<String>,
    /// With notAfter before this time.
    pub expires_before: Option<Timestamp>,
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, K> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<K>,
}

/// The result of a read or a commit.
pub type StoreResult<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Reads of accounts, orders and authorizations.
pub trait AcmeReads: Send + Sync {
    /// An account.
    fn account(&self, id: AccountId) -> StoreResult<'_, Option<Account>>;
    /// The account of a key in a directory, whatever its state.
    fn account_by_key(&self, directory: DirectoryName, key: Thumbprint) -> StoreResult<'_, Option<Account>>;
    /// Accounts, newest first.
    fn accounts(&self, after: Option<AccountId>, limit: u32) -> StoreResult<'_, Page<Account, AccountId>>;
    /// An order with its authorizations in the order of its identifiers, read in one transaction.
    fn order(&self, id: OrderId) -> StoreResult<'_, Option<(Order, Vec<Authorization>)>>;
    /// An account's orders, newest first.
    fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<'_, Page<OrderId, OrderId>>;
    /// Orders of all accounts, newest first.
    fn orders(&self, after: Option<OrderId>, limit: u32) -> StoreResult<'_, Page<Order, OrderId>>;
    /// How many orders are stored in each state, by the name of [`OrderState`]'s variants.
    fn order_counts(&self) -> StoreResult<'_, Vec<(String, u64)>>;
    /// An authorization.
    fn authorization(&self, id: AuthorizationId) -> StoreResult<'_, Option<Authorization>>;
    /// Authorizations with a challenge in `processing`, oldest first.
    fn authorizations_processing(&self, limit: u32) -> StoreResult<'_, Vec<Authorization>>;
    /// Those of an account's authorizations that are stored as valid for an identifier as ordered (a wildcard name
    /// finds wildcard authorizations only), newest first.
    fn valid_authorizations(
        &self,
        account: AccountId,
        identifier: Identifier,
    ) -> StoreResult<'_, Vec<Authorization>>;
}

/// Reads of the inventory.
pub trait CertificateReads: Send + Sync {
    /// A certificate.
    fn certificate(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateRecord>>;
    /// What OCSP needs of a certificate; one point read.
    fn certificate_status(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateStatus>>;
    /// A listing; `after` is the `revision`-independent row number that the page before gave.
    fn certificates(
        &self,
        filter: CertificateFilter,
        after: Option<u64>,
        limit: u32,
    ) -> StoreResult<'_, Page<CertificateRecord, u64>>;
    /// Certificates in state `reserved`, oldest first.
    fn reserved_certificates(&self, limit: u32) -> StoreResult<'_, Vec<CertificateRecord>>;
    /// The certificate in state `reserved` that was made for an origin.
    fn reserved_for(&self, origin: Origin) -> StoreResult<'_, Option<CertificateRecord>>;
    /// Whether a key was blocked.
    fn is_key_blocked(&self, key: KeyHash) -> StoreResult<'_, bool>;
    /// What an issuer's next CRL of a shard is made from; entries whose notAfter is before `not_after_from` are left out.
    fn shard_revocations(
        &self,
        issuer: IssuerId,
        shard: u32,
        not_after_from: Timestamp,
    ) -> StoreResult<'_, ShardRevocations>;
    /// An issuer's certificates whose revision is above `revision`, by revision.
    fn changes_since(
        &self,
        issuer: IssuerId,
        revision: u64,
        limit: u32,
    ) -> StoreResult<'_, Vec<(SerialNumber, CertificateStatus)>>;
}

/// Reads of issuers, CRLs, wishes, effects and the log.
pub trait AuthorityReads: Send + Sync {
    /// Every issuer: roots first, then issuing CAs, active before retired, newest first.
    fn issuers(&self) -> StoreResult<'_, Vec<IssuerRecord>>;
    /// The newest CRL of each shard, without its DER.
    fn crl_summaries(&self) -> StoreResult<'_, Vec<CrlSummary>>;
    /// The newest CRL of a shard.
    fn crl(&self, issuer: IssuerId, shard: u32) -> StoreResult<'_, Option<CrlRecord>>;
    /// A role's wish for a certificate.
    fn credential(&self, id: CredentialId) -> StoreResult<'_, Option<Credential>>;
    /// Effects that wait, oldest first.
    fn effects(&self, limit: u32) -> StoreResult<'_, Vec<Effect>>;
    /// When the newest audit event happened; a clock behind it must not sign.
    fn newest_event_at(&self) -> StoreResult<'_, Option<Timestamp>>;
    /// Audit entries from an index on: index and exact bytes.
    fn audit(&self, from: u64, limit: u32) -> StoreResult<'_, Vec<(u64, Vec<u8>)>>;
    /// The size of what the engine has not yet merged into its main file, in bytes, and of the store as a whole.
    fn sizes(&self) -> StoreResult<'_, StoreSizes>;
}

/// How large the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSizes {
    /// The write-ahead log.
    pub wal_bytes: u64,
    /// Everything else.
    pub store_bytes: u64,
}

/// The one write, and being told of changes.
pub trait Commits: Send + Sync {
    /// Carries out one transaction, durably, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a version is not the one expected.
    fn commit(&self, commit: Commit) -> StoreResult<'_, ()>;

    /// Resolves when a topic changes after this call: register, then read, then await. It may resolve without a
    /// change, and another process's store may miss one, so a waiter also has a timer.
    fn watch(&self, topic: &Topic) -> BoxFuture<'static, ()>;
}

/// The whole store.
pub trait Store: AcmeReads + CertificateReads + AuthorityReads + Commits {}

impl<T: AcmeReads + CertificateReads + AuthorityReads + Commits> Store for T {}
