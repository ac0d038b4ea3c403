//! What can be read, written and waited for: the traits that an engine implements.
//!
//! A damaged row is [`StoreError::Corrupt`] where it is asked for by itself. A list of which each row stands for itself
//! leaves it out and logs it once, so that it does not hide those behind it; a list that is wrong without it (issuers,
//! an order's authorizations, a CRL's revocations, changes since a revision, the audit log) is `Corrupt` as a whole.

use serde::{Deserialize, Serialize};

use super::{
    CertificateFacts, CertificateId, CertificateRecord, CertificateStatus, Commit, Credential, CrlRecord,
    CrlSummary, Effect, IssuerRecord, Origin, Role, ShardRevocations, StoreError, Topic,
};
use crate::BoxFuture;
use crate::acme::account::Thumbprint;
use crate::acme::external_account::{ExternalAccount, SealingKeyRecord};
use crate::acme::pause::{Failing, PairId};
use crate::acme::rate_limit::{ArrivalTime, Bucket};
use crate::acme::{Account, Authorization, DirectoryName, Identifier, Order, RenewalPull, Replacement};
use crate::id::{AccountId, AuthorizationId, CredentialId, ExternalAccountId, IssuerId, OrderId};
use crate::pkix::public_key::KeyHash;
use crate::pkix::serial::SerialNumber;
use crate::time::Timestamp;

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
    /// In this state, by [`super::CertificateState::name`].
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
    /// An order with its authorizations in the order of its identifiers, read in one transaction. Those of an order that
    /// has ended may have been pruned.
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
    /// How many orders are stored in each state, by the name of [`crate::acme::OrderState`]'s variants.
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
    /// Those of an account's authorizations that are stored as trusted, oldest first.
    fn trusted_authorizations(&self, account: AccountId, limit: u32) -> StoreResult<'_, Vec<Authorization>>;
    /// An external account.
    fn external_account(&self, id: ExternalAccountId) -> StoreResult<'_, Option<ExternalAccount>>;
    /// External accounts, newest first.
    fn external_accounts(
        &self,
        after: Option<ExternalAccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<ExternalAccount, ExternalAccountId>>;
    /// The accounts that are bound to an external account, newest first.
    fn bound_accounts(
        &self,
        external_account: ExternalAccountId,
        after: Option<AccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Account, AccountId>>;
    /// The key that secrets for a role are sealed to, once the role has published it.
    fn sealing_key(&self, role: Role) -> StoreResult<'_, Option<SealingKeyRecord>>;
}

/// Reads of the inventory.
pub trait CertificateReads: Send + Sync {
    /// A certificate.
    fn certificate(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateRecord>>;
    /// What renewal is decided by; one point read.
    fn certificate_facts(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateFacts>>;
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
    /// Which order replaces a certificate, or the last one that did.
    fn replacement(&self, certificate: CertificateId) -> StoreResult<'_, Option<Replacement>>;
    /// Every wish that certificates be renewed sooner, newest first.
    fn renewal_pulls(&self) -> StoreResult<'_, Vec<RenewalPull>>;
    /// Orders with automatic renewal of which a certificate was due by a time, those due longest first.
    fn orders_to_renew(&self, due_by: Timestamp, limit: u32) -> StoreResult<'_, Vec<Order>>;
    /// Effects that wait, oldest first.
    fn effects(&self, limit: u32) -> StoreResult<'_, Vec<Effect>>;
    /// When the newest audit event happened; a clock behind it must not sign.
    fn newest_event_at(&self) -> StoreResult<'_, Option<Timestamp>>;
    /// Audit entries from an index on: index and exact bytes.
    fn audit(&self, from: u64, limit: u32) -> StoreResult<'_, Vec<(u64, Vec<u8>)>>;
    /// The size of what the engine has not yet merged into its main file, in bytes, and of the store as a whole.
    fn sizes(&self) -> StoreResult<'_, StoreSizes>;
}

/// Reads of what limits, pauses and pruning keep.
pub trait UpkeepReads: Send + Sync {
    /// The count of an account's failures with a name.
    fn failing(&self, id: PairId) -> StoreResult<'_, Option<Failing>>;
    /// Such counts, by id; only those that are paused, or all; of one account, or of all.
    fn failing_pairs(
        &self,
        account: Option<AccountId>,
        only_paused: bool,
        after: Option<PairId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Failing, PairId>>;
    /// Orders made before a time, oldest first, without those that have a certificate. The page's end counts rows that
    /// were looked at, so a page may be empty and not the last.
    fn orders_made_before(
        &self,
        time: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Order, OrderId>>;
    /// Authorizations made before a time, oldest first.
    fn authorizations_made_before(
        &self,
        time: Timestamp,
        after: Option<AuthorizationId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Authorization, AuthorizationId>>;
    /// Valid accounts made before a time that never placed an order and hold no authorization, oldest first.
    fn unused_accounts_made_before(
        &self,
        time: Timestamp,
        after: Option<AccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Account, AccountId>>;
    /// Buckets of rate limits whose arrival time is not after a time, by name.
    fn idle_buckets(
        &self,
        until: ArrivalTime,
        after: Option<Bucket>,
        limit: u32,
    ) -> StoreResult<'_, Page<Bucket, Bucket>>;
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
pub trait Store: AcmeReads + CertificateReads + AuthorityReads + UpkeepReads + Commits {}

impl<T: AcmeReads + CertificateReads + AuthorityReads + UpkeepReads + Commits> Store for T {}
