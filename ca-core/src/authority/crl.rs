//! Publishing a shard's CRL: read, check, log the number, sign, commit.

use std::collections::HashSet;

use crate::audit::Action;
use crate::id::{EffectId, IssuerId, to_hex};
use crate::issuance::tbs_sha256;
use crate::pkix::crl::{CrlContent, listed_serials};
use crate::pkix::public_key::sha256;
use crate::pkix::serial::SerialNumber;
use crate::pkix::signed::sign_object;
use crate::store::{
    CertificateId, Change, Commit, CrlRecord, EffectKind, IssuerKind, ShardRevocations, StoreError,
};
use crate::time::Timestamp;

use super::{ATTEMPTS, Authority, AuthorityError, event, require_alive};

/// How many waiting effects one publication looks through for others that it answers as well.
const EFFECTS_READ: u32 = 1000;

impl Authority {
    /// Builds, signs and publishes the CRL of a shard, and ends every effect that asked for it before.
    ///
    /// The number is the larger of the last one plus one and thisUpdate in milliseconds, so it grows also after a
    /// restore from an old copy. Entries stay until one CRL after their certificate's notAfter (RFC 5280 §3.3).
    ///
    /// # Errors
    /// [`AuthorityError::CrlShrinks`] if unexpired serials of the CRL before would be missing; others may pass.
    pub async fn publish_crl(&self, issuer: &IssuerId, shard: u32) -> Result<(), AuthorityError> {
        self.publish_crl_for(None, issuer, shard).await
    }

    /// As [`Authority::publish_crl`], for an effect, which it ends in any case.
    pub(super) async fn publish_crl_for(
        &self,
        effect: Option<EffectId>,
        issuer: &IssuerId,
        shard: u32,
    ) -> Result<(), AuthorityError> {
        let mut attempt = 0;
        loop {
            match self.try_publish_crl(effect, issuer, shard).await {
                Err(AuthorityError::Store(StoreError::Conflict)) if attempt + 1 < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    async fn try_publish_crl(
        &self,
        effect: Option<EffectId>,
        id: &IssuerId,
        shard: u32,
    ) -> Result<(), AuthorityError> {
        let now = self.signing_time()?;
        let issuer = self.issuer(id).await?;
        require_alive(&issuer, now)?;
        // Read before the rows, so that no effect is ended whose revocation was not seen.
        let mut answered = self.waiting_for(id, shard).await?;
        answered.extend(effect.filter(|effect| !answered.contains(effect)));
        let before = self.store.crl(id.clone(), shard).await?;
        let not_after_from = before.as_ref().map_or(now, |crl| crl.this_update.min(now));
        let rows = self.store.shard_revocations(id.clone(), shard, not_after_from).await?;
        self.require_superset(id, shard, &rows, not_after_from).await?;

        let this_update = now.whole_seconds();
        let number = rows.last_number.saturating_add(1).max(u64::try_from(now.as_millis()).unwrap_or(0));
        let validity = match issuer.record().kind {
            IssuerKind::Root => self.config.crl_validity.root,
            IssuerKind::Issuing => self.config.crl_validity.issuing,
        };
        let next_update = this_update.plus(validity).min(issuer.certificate().not_after).whole_seconds();
        let url = self.config.urls.crl(id, shard);
        let content = CrlContent {
            signature: issuer.key().algorithm(),
            issuer: issuer.certificate().subject.clone(),
            key_identifier: &issuer.certificate().key_identifier,
            number,
            this_update,
            next_update,
            distribution_point: (issuer.record().shards > 1).then_some(url.as_str()),
            revoked: &rows.revoked,
        };
        let tbs = content.to_tbs_der().map_err(crate::issuance::BuildError::from)?;
        let entries = u64::try_from(rows.revoked.len()).unwrap_or(u64::MAX);
        let reserved =
            Action::CrlReserved { issuer: id.clone(), shard, number, entries, tbs_sha256: tbs_sha256(&tbs) };
        self.store
            .commit(Commit {
                changes: vec![Change::ReserveCrl { issuer: id.clone(), shard, number }],
                audit: vec![event(now, reserved)],
                ..Commit::default()
            })
            .await?;
        let der = sign_object(issuer.key(), &tbs).await?;
        let published =
            Action::CrlPublished { issuer: id.clone(), shard, number, sha256: to_hex(&sha256(&der)) };
        let record = CrlRecord { issuer: id.clone(), shard, number, this_update, next_update, entries, der };
        let mut changes = vec![Change::PublishCrl(record)];
        changes.extend(answered.into_iter().map(Change::EffectDone));
        self.store
            .commit(Commit { changes, audit: vec![event(self.clock.now(), published)], ..Commit::default() })
            .await?;
        self.observer.crl_published(id, shard, entries);
        Ok(())
    }

    async fn waiting_for(&self, id: &IssuerId, shard: u32) -> Result<Vec<EffectId>, AuthorityError> {
        let wanted = EffectKind::PublishCrl { issuer: id.clone(), shard };
        let waiting = self.store.effects(EFFECTS_READ).await?;
        Ok(waiting.into_iter().filter(|effect| effect.kind == wanted).map(|effect| effect.id).collect())
    }

    /// Every serial of the CRL before must be in the new one, unless its certificate has expired meanwhile: a store
    /// that lost a revocation must not take it back in public.
    async fn require_superset(
        &self,
        issuer: &IssuerId,
        shard: u32,
        rows: &ShardRevocations,
        not_after_from: Timestamp,
    ) -> Result<(), AuthorityError> {
        let Some(previous) = &rows.previous else { return Ok(()) };
        let listed = listed_serials(&previous.der).map_err(|error| AuthorityError::UnreadableCrl {
            issuer: issuer.clone(),
            shard,
            detail: error.to_string(),
        })?;
        let kept: HashSet<SerialNumber> = rows.revoked.iter().map(|revoked| revoked.serial).collect();
        let mut missing = 0;
        for serial in listed.into_iter().filter(|serial| !kept.contains(serial)) {
            let id = CertificateId { issuer: issuer.clone(), serial };
            let expired = self.store.certificate_status(id).await?.is_some_and(|status| {
                status.state.revocation().is_some() && status.not_after < not_after_from
            });
            missing += usize::from(!expired);
        }
        if missing == 0 {
            Ok(())
        } else {
            Err(AuthorityError::CrlShrinks { issuer: issuer.clone(), shard, missing })
        }
    }
}
