//! Revocation: on a request that a front end took, and by an operator.

use thiserror::Error;

use crate::acme::Admission;
use crate::audit::{Action, Actor, AuditEvent};
use crate::id::{AccountId, EffectId, IssuerId};
use crate::revocation::{RevocationReason, authorizable, authorized_for_all};
use crate::store::{
    CertificateId, CertificateRecord, CertificateState, Change, Commit, EffectKind, IssuerKind, IssuerRecord,
    IssuerState, Origin, Revocation, RevocationRequester, StoreError,
};
use crate::time::Timestamp;

use super::{ATTEMPTS, Authority, AuthorityError};

/// Why a certificate was not revoked.
#[derive(Clone, Debug, Error)]
pub enum RevokeError {
    /// There is no such certificate.
    #[error("there is no certificate '{0}'")]
    NotFound(CertificateId),
    /// It is revoked, or was given up, already.
    #[error("the certificate '{0}' is revoked already")]
    AlreadyRevoked(CertificateId),
    /// It is not signed yet.
    #[error("the certificate '{0}' is being issued: try again in a moment")]
    NotIssued(CertificateId),
    /// It is a root's own certificate: relying parties trust it until they remove it.
    #[error(
        "'{certificate}' is the certificate of the root '{issuer}': relying parties must stop trusting it instead"
    )]
    OfRoot {
        /// Which certificate.
        certificate: CertificateId,
        /// Whose.
        issuer: IssuerId,
    },
    /// The store or the clock stands in the way.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl From<StoreError> for RevokeError {
    fn from(error: StoreError) -> Self {
        Self::Authority(error.into())
    }
}

impl Authority {
    /// Revokes a certificate and asks for its shard's CRL; OCSP says so as soon as this returns.
    ///
    /// A key that was compromised is blocked for ever.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub async fn revoke(
        &self,
        id: CertificateId,
        reason: RevocationReason,
        actor: Actor,
    ) -> Result<(), RevokeError> {
        self.revoke_and(id, reason, actor, None).await
    }

    async fn revoke_and(
        &self,
        id: CertificateId,
        reason: RevocationReason,
        actor: Actor,
        done: Option<EffectId>,
    ) -> Result<(), RevokeError> {
        for _ in 0..ATTEMPTS {
            // A clock that is behind may still revoke: the revocation must not wait for it.
            let now = self.clock.now();
            let record =
                self.store.certificate(id.clone()).await?.ok_or_else(|| RevokeError::NotFound(id.clone()))?;
            match record.state {
                CertificateState::Issued { .. } => {}
                CertificateState::Reserved => return Err(RevokeError::NotIssued(id)),
                CertificateState::Revoked { .. } | CertificateState::Abandoned { .. } => {
                    if blocks_key(&record, reason, &actor) {
                        self.block_key(&record, &actor, now).await?;
                    }
                    return Err(RevokeError::AlreadyRevoked(id));
                }
            }
            let mut commit = self.revocation(&record, reason, actor.clone(), done, now);
            commit.changes.extend(self.retirement(&record).await?);
            let revoked = self.store.commit(commit).await;
            if matches!(record.origin, Origin::Issuer(_)) {
                self.forget_issuers();
            }
            match revoked {
                Err(StoreError::Conflict) => {}
                other => return Ok(other?),
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// The certificate of an issuing CA takes its issuer out of service; a root's can't be revoked, since nobody who
    /// trusts it would learn of that.
    async fn retirement(&self, record: &CertificateRecord) -> Result<Option<Change>, RevokeError> {
        let Origin::Issuer(id) = &record.origin else { return Ok(None) };
        let issuer = self.store.issuers().await?.into_iter().find(|issuer| issuer.id == *id);
        match issuer {
            Some(issuer) if issuer.kind == IssuerKind::Issuing => {
                let retired = IssuerRecord { state: IssuerState::Retired, ..issuer };
                Ok(Some(Change::PutIssuer(Box::new(retired))))
            }
            _ => Err(RevokeError::OfRoot { certificate: record.id.clone(), issuer: id.clone() }),
        }
    }

    /// Blocks the key of a certificate that was revoked for another reason before its key was known as compromised.
    async fn block_key(
        &self,
        record: &CertificateRecord,
        actor: &Actor,
        now: Timestamp,
    ) -> Result<(), RevokeError> {
        if self.store.is_key_blocked(record.key).await? {
            return Ok(());
        }
        let commit = Commit {
            changes: vec![compromised(record, now)],
            audit: vec![blocked(record, actor, now)],
            ..Commit::default()
        };
        Ok(self.store.commit(commit).await?)
    }

    fn revocation(
        &self,
        record: &CertificateRecord,
        reason: RevocationReason,
        actor: Actor,
        done: Option<EffectId>,
        now: Timestamp,
    ) -> Commit {
        let event = |action| AuditEvent { at: now, actor: actor.clone(), action };
        let id = record.id.clone();
        let revocation = Revocation { at: now, reason };
        let mut changes = vec![Change::RevokeCertificate { id: id.clone(), revocation }];
        let mut audit = vec![event(Action::CertificateRevoked { certificate: id.clone(), reason })];
        if blocks_key(record, reason, &actor) {
            changes.push(compromised(record, now));
            audit.push(blocked(record, &actor, now));
        }
        changes.extend(done.map(Change::EffectDone));
        let publish = EffectKind::PublishCrl { issuer: id.issuer, shard: record.shard };
        Commit { changes, effects: vec![self.effect(publish, now)], audit, ..Commit::default() }
    }

    /// Carries out a revocation that a front end authenticated; whether the requester may is judged here again.
    pub(super) async fn revoke_on_request(
        &self,
        effect: EffectId,
        id: CertificateId,
        reason: RevocationReason,
        requester: RevocationRequester,
    ) -> Result<(), AuthorityError> {
        let Some(record) = self.store.certificate(id.clone()).await? else {
            return self.drop_effect(effect).await;
        };
        let actor = match requester {
            RevocationRequester::Account(account) => Actor::Account(account),
            RevocationRequester::CertificateKey(key) => Actor::CertificateKey(key),
        };
        if !self.may_revoke(&record, &requester).await? {
            tracing::warn!(certificate = %id, ?requester, "a revocation was asked for by somebody who may not");
            return self.drop_effect(effect).await;
        }
        match self.revoke_and(id, reason, actor, Some(effect)).await {
            Ok(()) => Ok(()),
            Err(RevokeError::NotFound(_) | RevokeError::AlreadyRevoked(_) | RevokeError::OfRoot { .. }) => {
                self.drop_effect(effect).await
            }
            Err(RevokeError::NotIssued(_)) => {
                Err(StoreError::Busy("the certificate is being issued".into()).into())
            }
            Err(RevokeError::Authority(error)) => Err(error),
        }
    }

    /// RFC 8555 §7.6: the account that it was issued to, an account with authorizations for all its names, or the
    /// holder of its key. Our own certificates are revoked by operators only.
    async fn may_revoke(
        &self,
        record: &CertificateRecord,
        requester: &RevocationRequester,
    ) -> Result<bool, AuthorityError> {
        let Origin::Order { account: owner, .. } = &record.origin else { return Ok(false) };
        match requester {
            RevocationRequester::CertificateKey(key) => Ok(*key == record.key),
            RevocationRequester::Account(account) if account == owner => Ok(true),
            RevocationRequester::Account(account) => self.is_authorized_for_all(*account, record).await,
        }
    }

    async fn is_authorized_for_all(
        &self,
        account: AccountId,
        record: &CertificateRecord,
    ) -> Result<bool, AuthorityError> {
        let now = self.clock.now();
        let Some(account) = self.store.account(account).await? else { return Ok(false) };
        let Ok(policy) = self.directory(&account.directory) else { return Ok(false) };
        let external = self.external_account_of(&account).await?;
        // Authorizations that rest on trust stand and fall with what vouches for them.
        let Ok(admission) = Admission::of(policy, &account, external.as_ref(), now) else { return Ok(false) };
        let mut held = Vec::new();
        for identifier in authorizable(&record.names, policy) {
            held.extend(self.store.valid_authorizations(account.id, identifier).await?);
        }
        Ok(authorized_for_all(&record.names, &held, &admission, now))
    }
}

/// keyCompromise blocks the key for ever, if somebody says so who answers for the key: its holder, the account that it
/// was certified for, or an operator; not whoever holds authorizations for the same names.
fn blocks_key(record: &CertificateRecord, reason: RevocationReason, actor: &Actor) -> bool {
    reason == RevocationReason::KeyCompromise
        && match (actor, &record.origin) {
            (Actor::Account(account), Origin::Order { account: owner, .. }) => account == owner,
            (Actor::Account(_), _) => false,
            _ => true,
        }
}

fn compromised(record: &CertificateRecord, at: Timestamp) -> Change {
    let detail = format!("certificate {} was reported for keyCompromise", record.id);
    Change::BlockKey { key: record.key, at, detail }
}

fn blocked(record: &CertificateRecord, actor: &Actor, at: Timestamp) -> AuditEvent {
    let detail = format!("certificate {} was reported for keyCompromise", record.id);
    AuditEvent { at, actor: actor.clone(), action: Action::KeyBlocked { key: record.key, detail } }
}
