//! Audit events: what happened, by whose hand, in entries whose bytes and hashes can stand in a Merkle log.

use serde::{Deserialize, Serialize};

use aws_lc_rs::digest;

use crate::id::{
    AccountId, AuthorizationId, CredentialId, ExternalAccountId, IssuerId, OrderId, RenewalPullId,
};
use crate::pkix::public_key::KeyHash;
use crate::policy_hook::Annotations;
use crate::revocation::RevocationReason;
use crate::store::{CertificateId, Role};
use crate::time::Timestamp;

/// One entry of the audit log.
///
/// The store encodes it once, as JSON with the fields in this order, and keeps exactly those bytes with their
/// [`leaf_hash`]; its index is its place in the log and given inside the writing transaction. A stored type: fields
/// and variants may be added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When it was decided.
    pub at: Timestamp,
    /// By whose hand.
    pub actor: Actor,
    /// What happened.
    #[serde(flatten)]
    pub action: Action,
}

/// By whose hand something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// An ACME account.
    Account(AccountId),
    /// Whoever proved possession of a certificate's private key.
    CertificateKey(KeyHash),
    /// A person at this machine, by user id.
    Operator {
        /// The Unix user id.
        uid: u32,
    },
    /// The CA itself: timers, recovery, renewal of its own certificates.
    Authority,
    /// Somebody not yet known: a new account being created.
    Stranger,
}

/// What happened. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are the things the variants name")]
pub enum Action {
    /// An ACME account came to be.
    AccountCreated { account: AccountId, directory: String, contacts: Vec<String> },
    /// Its contacts or its agreement to the terms changed.
    AccountUpdated { account: AccountId, contacts: Vec<String> },
    /// It was deactivated.
    AccountDeactivated { account: AccountId },
    /// Its key was replaced.
    AccountKeyChanged { account: AccountId, thumbprint: String },
    /// An order was placed.
    OrderCreated { order: OrderId, account: AccountId, identifiers: Vec<String> },
    /// A challenge was decided.
    ChallengeDecided {
        authorization: AuthorizationId,
        identifier: String,
        challenge: String,
        valid: bool,
        detail: String,
    },
    /// An account asked to prove a name, or with `subdomains` a domain and all below it, ahead of any order.
    AuthorizationCreated { authorization: AuthorizationId, identifier: String, subdomains: bool },
    /// An authorization was deactivated by its account.
    AuthorizationDeactivated { authorization: AuthorizationId },
    /// A CSR was accepted.
    OrderFinalized { order: OrderId, key: KeyHash },
    /// The policy service judged an order: `allow`, `enrich` or `refuse`, with its reason for a refusal and what it
    /// adds; logged with what follows from it.
    PolicyJudged {
        order: OrderId,
        verdict: String,
        detail: Option<String>,
        annotations: Annotations,
        lifetime_seconds: Option<u64>,
    },
    /// The policy service gave no verdict, and the order went on without one, as the operator configured.
    PolicyBypassed { order: OrderId, detail: String },
    /// An account ended the automatic renewal of an order.
    OrderCanceled { order: OrderId },
    /// An order failed for good.
    OrderFailed { order: OrderId, detail: String },
    /// A certificate is about to be signed: log before sign.
    CertificateReserved {
        certificate: CertificateId,
        profile: String,
        names: Vec<String>,
        key: KeyHash,
        tbs_sha256: String,
    },
    /// It was signed.
    CertificateIssued { certificate: CertificateId, sha256: String },
    /// It was given up; a signature may exist, so it counts as revoked.
    CertificateAbandoned { certificate: CertificateId, detail: String },
    /// It was revoked.
    CertificateRevoked { certificate: CertificateId, reason: RevocationReason },
    /// A CRL is about to be signed.
    CrlReserved { issuer: IssuerId, shard: u32, number: u64, entries: u64, tbs_sha256: String },
    /// It was published.
    CrlPublished { issuer: IssuerId, shard: u32, number: u64, sha256: String },
    /// An issuer came to be.
    IssuerCreated { issuer: IssuerId, subject: String, key: KeyHash },
    /// A role asked for a certificate for a key of its own.
    CredentialRequested { credential: CredentialId, role: String, key: KeyHash },
    /// An operator made a key that accounts can be bound to.
    ExternalAccountCreated {
        external_account: ExternalAccountId,
        directory: String,
        owner: String,
        names: Option<Vec<String>>,
        trusted: bool,
        single_use: bool,
        expires_at: Option<Timestamp>,
    },
    /// A new account was bound to it.
    ExternalAccountBound { external_account: ExternalAccountId, account: AccountId },
    /// An operator took it back.
    ExternalAccountRevoked { external_account: ExternalAccountId },
    /// Authorizations that it vouched for were taken away.
    TrustWithdrawn { external_account: ExternalAccountId, account: AccountId, authorizations: u64 },
    /// An order's names were admitted without a challenge, by trust in the external account: logged by role acme when
    /// the order is placed, and by role ca before its certificate is signed.
    OrderTrusted { order: OrderId, external_account: ExternalAccountId, identifiers: Vec<String> },
    /// A role published the key that secrets for it are sealed to.
    SealingKeyPublished { role: Role, key: KeyHash },
    /// An operator let a role publish another one.
    SealingKeyForgotten { role: Role, key: KeyHash },
    /// An account got a limit of its own, or its directory's again.
    AccountLimited { account: AccountId, limit: String, value: String },
    /// A name failed so often for an account that the account can't order it any more.
    NamePaused { account: AccountId, name: String, failures: u32, detail: String },
    /// It can order it again.
    NameUnpaused { account: AccountId, name: String },
    /// Rows that nobody could use any more were deleted; never certificates, revocations or entries of this log.
    RowsPruned { kind: String, count: u64, first: String, last: String },
    /// A key was blocked for ever.
    KeyBlocked { key: KeyHash, detail: String },
    /// Certificates are to be renewed sooner than their lifetimes ask for.
    RenewalPulled {
        pull: RenewalPullId,
        scope: String,
        issued_before: Timestamp,
        start: Timestamp,
        end: Timestamp,
    },
    /// That was taken back.
    RenewalPullRemoved { pull: RenewalPullId },
}

/// The Merkle leaf hash of an entry: SHA-256(0x00 ‖ entry), [RFC 6962 §2.1].
///
/// [RFC 6962 §2.1]: https://www.rfc-editor.org/rfc/rfc6962#section-2.1
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(entry);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
