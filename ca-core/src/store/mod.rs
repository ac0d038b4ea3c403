//! The store as the roles see it: rows, narrow reads, one write, and being told of changes.
//!
//! Nothing here knows an engine. A [`Commit`] is one transaction: row changes, the versions they were decided on,
//! effects for the `ca` role, and audit events. Rows are requests, never authority: `ca` re-reads and decides again.

mod reads;
mod rows;

pub use reads::{
    AcmeReads, AuthorityReads, CertificateFilter, CertificateReads, Commits, Page, Store, StoreResult,
    StoreSizes, UpkeepReads,
};
pub use rows::*;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::external_account::{ExternalAccount, SealingKeyRecord};
use crate::acme::pause::{Failing, PairId};
use crate::acme::rate_limit::{ArrivalTime, Bound, Bucket, Claim, Refusal};
use crate::acme::{Account, Authorization, Order, OrderState, RenewalPull, Replacement};
use crate::audit::{Action, Actor, AuditEvent};
use crate::id::{
    AccountId, AuthorizationId, CredentialId, EffectId, ExternalAccountId, IssuerId, OrderId, RenewalPullId,
};
use crate::pkix::public_key::KeyHash;
use crate::revocation::RevocationReason;
use crate::time::Timestamp;

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
    /// What it is bound to is given when it is inserted, after [`Change::BindExternalAccount`], and never changes, nor
    /// does its directory; one that has ended is refused any other state.
    PutAccount(Account),
    /// Inserts or updates an order. Only its state, authorizations, annotations and expiry ever change; a state that its
    /// own may not become ([`crate::acme::OrderState::may_become`]) is refused.
    PutOrder(Order),
    /// Inserts or updates an authorization. Whose it is and what it is about never change; a state that its own may not
    /// become is refused.
    PutAuthorization(Authorization),
    /// Inserts or updates an external account.
    PutExternalAccount(Box<ExternalAccount>),
    /// Binds a new account to an external account; one that was revoked, or was for one account and has been used, is a
    /// conflict. Expiry is for who commits to judge.
    BindExternalAccount {
        /// To which.
        id: ExternalAccountId,
        /// The account, which the same commit inserts afterwards.
        account: AccountId,
    },
    /// Publishes a role's sealing key; a conflict if the role has one.
    PutSealingKey(SealingKeyRecord),
    /// Removes a role's sealing key, so that it can publish another one; no error if there is none.
    ForgetSealingKey(Role),
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
    /// Marks a certificate as replaced by an order.
    PutReplacement(Replacement),
    /// Inserts or updates an operator's wish that certificates be renewed sooner.
    PutRenewalPull(Box<RenewalPull>),
    /// Removes one; a conflict if it is not there.
    RemoveRenewalPull(RenewalPullId),
    /// Counts against a rate limit; [`StoreError::Limited`] if no place is left. It comes before what it is about.
    Claim(Claim),
    /// Goes on only within a bound on rows; [`StoreError::Bounded`] if it is reached.
    RequireBound(Bound),
    /// Goes on only if none of these pairs is paused; [`StoreError::Paused`] names the first that is.
    RequireUnpaused(Vec<PairId>),
    /// Inserts or updates the count of an account's failures with a name.
    PutFailing(Box<Failing>),
    /// Forgets them, and a pause with them; no error if there are none.
    ForgetFailing(PairId),
    /// Deletes dead rows.
    Prune(Prune),
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

/// Dead rows to delete, by kind. A version that is not the one expected is a conflict, a row that is gone is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prune {
    /// Orders; one that has a certificate is refused.
    Orders(Vec<(OrderId, Version)>),
    /// Authorizations, which no order names that can still be worked on.
    Authorizations(Vec<(AuthorizationId, Version)>),
    /// Accounts; one that ordered something is a conflict, one that holds authorizations is left alone.
    Accounts(Vec<(AccountId, Version)>),
    /// Counts of failures.
    Failing(Vec<(PairId, Version)>),
    /// Buckets of rate limits whose arrival time is not after `until`; others are left alone.
    Buckets {
        /// Which.
        buckets: Vec<Bucket>,
        /// The present time.
        until: ArrivalTime,
    },
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
    /// An external account.
    ExternalAccount(ExternalAccountId),
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
    /// A rate limit is used up.
    #[error("{0}")]
    Limited(Box<Refusal>),
    /// A bound on rows is reached.
    #[error("{0} is reached")]
    Bounded(String),
    /// A name is paused for the account.
    #[error("a name is paused")]
    Paused(PairId),
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
            (
                Role::Acme,
                Change::PutAccount(_)
                | Change::PutAuthorization(_)
                | Change::PutReplacement(_)
                | Change::BindExternalAccount { .. }
                | Change::Claim(_)
                | Change::RequireBound(_)
                | Change::RequireUnpaused(_)
                | Change::PutFailing(_)
                | Change::ForgetFailing(_),
            ) => true,
            // For itself only: what is sealed to another role's key is none of its business.
            (Role::Acme, Change::PutSealingKey(key)) => key.role == role,
            (Role::Acme, Change::PutOrder(order)) => {
                matches!(
                    order.state,
                    OrderState::Open | OrderState::Processing { .. } | OrderState::Canceled { .. }
                )
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
            | Action::AuthorizationCreated { .. }
            | Action::AuthorizationDeactivated { .. }
            | Action::OrderFinalized { .. }
            | Action::OrderCanceled { .. }
            | Action::OrderTrusted { .. }
            | Action::NamePaused { .. }
            | Action::ExternalAccountBound { .. } => role == Role::Acme,
            Action::SealingKeyPublished { role: whose, .. } => role == Role::Acme && role == whose,
            _ => false,
        };
        let own_name = match event.actor {
            Actor::Operator { .. } => false,
            Actor::Authority => matches!(
                event.action,
                Action::CredentialRequested { .. } | Action::SealingKeyPublished { .. }
            ),
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
    /// A wish that certificates be renewed sooner was made or removed.
    RenewalPulls,
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
                Change::PutRenewalPull(_) | Change::RemoveRenewalPull(_) => add(Topic::RenewalPulls),
                Change::PutAccount(_)
                | Change::PutExternalAccount(_)
                | Change::BindExternalAccount { .. }
                | Change::PutSealingKey(_)
                | Change::ForgetSealingKey(_)
                | Change::PutReplacement(_)
                | Change::ReserveCertificate(_)
                | Change::ReserveCrl { .. }
                | Change::Claim(_)
                | Change::RequireBound(_)
                | Change::RequireUnpaused(_)
                | Change::PutFailing(_)
                | Change::ForgetFailing(_)
                | Change::Prune(_)
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
            Topic::RenewalPulls => "renewal-pulls".to_owned(),
        })
    }
}
