//! Issuing for orders and for our own roles: judge, reserve, sign, commit.

use crate::acme::external_account::ExternalAccount;
use crate::acme::order::OrderFailure;
use crate::acme::{Account, Admission, Authorization, Order, OrderState};
use crate::audit::{Action, AuditEvent};
use crate::id::{CredentialId, EffectId, OrderId, to_hex};
use crate::issuance::{
    Approved, BuildError, Issuer, Kind, PkiUrls, Trusted, approve_order, build, tbs_sha256,
};
use crate::pkix::identifier::Identifier;
use crate::pkix::name::{MAX_ATTRIBUTE, distinguished_name};
use crate::pkix::public_key::PublicKey;
use crate::pkix::serial::SerialNumber;
use crate::pkix::signed::{SignError, sign_object};
use crate::profile::{Usage, ValidityPeriod};
use crate::random::SystemRandom;
use crate::signing::SigningError;
use crate::store::{
    CertificateDer, CertificateRecord, Change, Commit, Credential, CredentialKind, EffectKind, Origin, Row,
    StoreError,
};
use crate::time::{Stopwatch, Timestamp};

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::policy::{Basis, Consulted, Judged};
use super::{ATTEMPTS, Authority, AuthorityError, Stage, event, internal_profile};

/// How old a reservation may be and still be signed: after that its notBefore would lie too far in the past.
const RESERVATION_LIFETIME: Duration = Duration::from_hours(1);

/// How long our own responders' and listeners' certificates are valid; they are renewed at half of it.
const RESPONDER_VALIDITY: Duration = Duration::from_hours(14 * 24);
const LISTENER_VALIDITY: Duration = Duration::from_hours(30 * 24);
const OWN_BACKDATE: Duration = Duration::from_mins(5);

impl Authority {
    /// Issues the certificate of an order in `processing`.
    pub(super) async fn issue_for_order(&self, effect: EffectId, id: OrderId) -> Result<(), AuthorityError> {
        let watch = Stopwatch::start();
        let now = self.signing_time()?;
        let Some((order, authorizations)) = self.store.order(id).await? else {
            self.forget_policy(id);
            return self.drop_effect(effect).await;
        };
        let origin = Origin::Order { order: order.id, account: order.account };
        if !order.awaits_certificate(now) {
            self.forget_policy(id);
            if let Some(record) = self.left_over(&origin) {
                self.abandon(&record, "its order was canceled or has ended").await?;
            }
            return self.drop_effect(effect).await;
        }
        // Judged also when an earlier attempt has reserved: what was right then may not be now.
        let (approved, external) = match self.judge(&order, &authorizations, now).await? {
            Ok(judged) => judged,
            Err(failure) => {
                if let Some(record) = self.left_over(&origin) {
                    self.abandon(&record, "its order was refused when it was judged again").await?;
                }
                self.forget_policy(id);
                return self.fail_order(effect, order, failure, now).await;
            }
        };
        let issuer = match self.issuing_in(&order.directory).await {
            Err(error @ AuthorityError::UnusableIssuer { .. }) => {
                tracing::error!(order = %order.id, %error, "nothing can be issued in a directory");
                if let Some(record) = self.left_over(&origin) {
                    self.abandon(&record, "its directory has no issuer any more").await?;
                }
                let detail = "this directory's CA can't issue now; its operator must act".to_owned();
                return self.fail_order(effect, order, OrderFailure::Internal { detail }, now).await;
            }
            other => other?,
        };
        let approved = approved.within(&issuer, &order);
        let (order, record) = match self.unfinished(&origin, &approved, &issuer, now).await? {
            // What was reserved was judged by the policy service too: it is not asked again.
            Some(record) => (order, record),
            None => {
                self.observer.stage(Stage::Policy, watch.elapsed());
                let judged = Judged { order, approved, external };
                let Some(consulted) = self.consult(effect, judged, &issuer, now).await? else {
                    return Ok(());
                };
                let Consulted { judged: Judged { order, approved, .. }, basis, now } = consulted;
                match self.reserve(&approved, &issuer, basis.clone(), now).await {
                    Err(AuthorityError::Build(error)) => {
                        return self.fail_unbuildable(effect, order, error, now).await;
                    }
                    other => (basis.order_after(order), other?),
                }
            }
        };
        let der = match self.sign(&issuer, &record).await {
            Err(AuthorityError::Sign(
                error @ (SignError::Key(SigningError::Refused { .. }) | SignError::DoesNotVerify(_)),
            )) => {
                tracing::error!(order = %order.id, %error, "a certificate could not be signed");
                // A renewal is tried again: the same bytes then, not a new serial each time.
                if !matches!(order.state, OrderState::Renewing(_)) {
                    self.abandon(&record, "the key did not sign it").await?;
                }
                let detail = "the CA could not sign; its log says why".to_owned();
                return self.fail_order(effect, order, OrderFailure::Internal { detail }, now).await;
            }
            other => other?,
        };
        let done = vec![Change::PutOrder(order.certified(&record)), Change::EffectDone(effect)];
        self.commit_certificate(&record, der, done).await
    }

    /// Judges an order from fresh rows: its account, authorizations, names, key and profile.
    pub(super) async fn judge(
        &self,
        order: &Order,
        authorizations: &[Authorization],
        now: Timestamp,
    ) -> Result<Result<(Approved, Option<ExternalAccount>), OrderFailure>, AuthorityError> {
        let internal = |error: AuthorityError| OrderFailure::Internal { detail: error.to_string() };
        let (policy, profile) = match (self.directory(&order.directory), self.profile(&order.profile)) {
            (Ok(policy), Ok(profile)) => (policy, profile),
            (Err(error), _) => return Ok(Err(internal(error))),
            (_, Err(error)) => {
                return Ok(Err(OrderFailure::InvalidProfile { detail: error.to_string() }));
            }
        };
        let account = self.store.account(order.account).await?;
        let Some(account) = account.filter(|account| account.require_valid().is_ok()) else {
            let detail = "the account is not valid any more".to_owned();
            return Ok(Err(OrderFailure::Unauthorized { detail }));
        };
        let external = self.external_account_of(&account).await?;
        let admission = match Admission::of(policy, &account, external.as_ref(), now) {
            Ok(admission) => admission,
            Err(refused) => return Ok(Err(OrderFailure::Unauthorized { detail: refused.to_string() })),
        };
        let approved = match approve_order(order, authorizations, &admission, profile, now) {
            Ok(approved) => approved,
            Err(failure) => return Ok(Err(failure)),
        };
        if let OrderState::Renewing(renewing) = &order.state {
            let newest = self.store.certificate_status(renewing.certificate.clone()).await?;
            if newest.is_some_and(|newest| newest.state.revocation().is_some()) {
                let detail = "the certificate before was revoked".to_owned();
                return Ok(Err(OrderFailure::Unauthorized { detail }));
            }
        }
        if self.store.is_key_blocked(approved.public_key.hash()).await? {
            let detail = crate::pkix::csr::CsrError::BlockedKey.to_string();
            return Ok(Err(OrderFailure::BadCsr { detail }));
        }
        Ok(Ok((approved, external)))
    }

    /// The row of the external account that an account is bound to.
    pub(super) async fn external_account_of(
        &self,
        account: &Account,
    ) -> Result<Option<ExternalAccount>, AuthorityError> {
        match &account.external_account {
            Some(binding) => Ok(self.store.external_account(binding.id).await?),
            None => Ok(None),
        }
    }

    /// Issues a role's own certificate: the names and the profile are ours, the row gives the key.
    pub(super) async fn issue_for_role(
        &self,
        effect: EffectId,
        id: CredentialId,
    ) -> Result<(), AuthorityError> {
        let now = self.signing_time()?;
        let Some(credential) = self.store.credential(id).await? else {
            return self.drop_effect(effect).await;
        };
        if credential.certificate.is_some() {
            return self.drop_effect(effect).await;
        }
        let Ok(public_key) = PublicKey::from_spki_der(&credential.public_key) else {
            tracing::error!(credential = %id, "a role asked for a certificate for something that is no public key");
            return self.drop_effect(effect).await;
        };
        let issuer = match &credential.kind {
            CredentialKind::Responder { issuer } => self.issuer(issuer).await?,
            CredentialKind::Listener { .. } => self.issuing().await?,
        };
        let approved = self.approve_role(&credential, &issuer, public_key)?;
        let record = match self.unfinished(&Origin::Credential(id), &approved, &issuer, now).await? {
            Some(record) => record,
            None => {
                let basis = Basis::versions(vec![(Row::Credential(id), credential.version)]);
                self.reserve(&approved, &issuer, basis, now).await?
            }
        };
        let der = self.sign(&issuer, &record).await?;
        let certificate = Some(record.id.clone());
        let done =
            vec![Change::PutCredential(Credential { certificate, ..credential }), Change::EffectDone(effect)];
        self.commit_certificate(&record, der, done).await
    }

    fn approve_role(
        &self,
        credential: &Credential,
        issuer: &Issuer,
        public_key: PublicKey,
    ) -> Result<Approved, AuthorityError> {
        let origin = Origin::Credential(credential.id);
        let subject = |name: &str| distinguished_name(None, Some(name)).map_err(BuildError::from);
        Ok(match &credential.kind {
            CredentialKind::Responder { .. } => {
                // The key's identifier keeps responders of one issuer apart.
                let tag = to_hex(&public_key.key_identifier()[..4]);
                Approved {
                    kind: Kind::Responder,
                    profile: internal_profile("ocsp-responder"),
                    subject: subject(
                        &format!("OCSP responder {tag} of {}", issuer.record().id)
                            .chars()
                            .take(MAX_ATTRIBUTE)
                            .collect::<String>(),
                    )?,
                    names: Vec::new(),
                    public_key,
                    validity: RESPONDER_VALIDITY,
                    backdate: OWN_BACKDATE,
                    exactly: None,
                    origin,
                    trusted: None,
                }
            }
            CredentialKind::Listener { .. } => {
                let names = self.config.listener_names.clone();
                let common_name =
                    names.first().map(Identifier::to_string).filter(|name| name.len() <= MAX_ATTRIBUTE);
                Approved {
                    kind: Kind::EndEntity(Usage::TlsServer),
                    profile: internal_profile("listener"),
                    subject: distinguished_name(None, common_name.as_deref()).map_err(BuildError::from)?,
                    names,
                    public_key,
                    validity: LISTENER_VALIDITY,
                    backdate: OWN_BACKDATE,
                    exactly: None,
                    origin,
                    trusted: None,
                }
            }
        })
    }

    fn left_over(&self, origin: &Origin) -> Option<CertificateRecord> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    /// The reservation that an earlier attempt left, if it may still be signed; one that is too old, or says what is not
    /// approved any more, is abandoned.
    async fn unfinished(
        &self,
        origin: &Origin,
        approved: &Approved,
        issuer: &Issuer,
        now: Timestamp,
    ) -> Result<Option<CertificateRecord>, AuthorityError> {
        let Some(record) = self.left_over(origin) else { return Ok(None) };
        if now.since(record.reserved_at) > RESERVATION_LIFETIME || record.not_after <= now {
            self.abandon(&record, "its reservation is too old to be signed").await?;
            return Ok(None);
        }
        if !still_approved(&record, approved, issuer, &self.config.urls, now) {
            self.abandon(&record, "what was reserved is not what is approved now").await?;
            return Ok(None);
        }
        Ok(Some(record))
    }

    /// Commits the reservation: serial, TBS and audit event, before any signature.
    pub(super) async fn reserve(
        &self,
        approved: &Approved,
        issuer: &Arc<Issuer>,
        basis: Basis,
        now: Timestamp,
    ) -> Result<CertificateRecord, AuthorityError> {
        let watch = Stopwatch::start();
        let mut attempt = 0;
        loop {
            let serial = SerialNumber::generate(&mut SystemRandom);
            let record = build(approved, issuer, serial, &self.config.urls, now)?;
            match self.commit_reservation(&record, approved.trusted.as_ref(), basis.clone(), now).await {
                Err(AuthorityError::Store(StoreError::Conflict)) if attempt + 1 < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    self.observer.stage(Stage::Reserve, watch.elapsed());
                    return Ok(record);
                }
            }
        }
    }

    /// Commits one reservation and remembers it until its certificate is stored.
    pub(super) async fn commit_reservation(
        &self,
        record: &CertificateRecord,
        trusted: Option<&Trusted>,
        basis: Basis,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let action = Action::CertificateReserved {
            certificate: record.id.clone(),
            profile: record.profile.to_string(),
            names: record.names.iter().map(ToString::to_string).collect(),
            key: record.key,
            tbs_sha256: tbs_sha256(&record.tbs),
        };
        let Basis { versions: expected_versions, mut changes, mut audit } = basis;
        changes.push(Change::ReserveCertificate(Box::new(record.clone())));
        if let (Some(Trusted { external_account, names }), Origin::Order { order, .. }) =
            (trusted, &record.origin)
        {
            let identifiers = names.iter().map(ToString::to_string).collect();
            let external_account = *external_account;
            audit.push(event(now, Action::OrderTrusted { order: *order, external_account, identifiers }));
        }
        audit.push(event(now, action));
        self.store.commit(Commit { changes, expected_versions, effects: Vec::new(), audit }).await?;
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.insert(record.origin.clone(), record.clone());
        Ok(())
    }

    /// Signs exactly the reserved bytes, verifies, and assembles the certificate.
    pub(super) async fn sign(
        &self,
        issuer: &Issuer,
        record: &CertificateRecord,
    ) -> Result<CertificateDer, AuthorityError> {
        let watch = Stopwatch::start();
        let der = sign_object(issuer.key(), &record.tbs).await?;
        self.observer.stage(Stage::Sign, watch.elapsed());
        Ok(CertificateDer::new(der))
    }

    /// Commits the signed certificate together with what it completes.
    pub(super) async fn commit_certificate(
        &self,
        record: &CertificateRecord,
        der: CertificateDer,
        done: Vec<Change>,
    ) -> Result<(), AuthorityError> {
        let watch = Stopwatch::start();
        let now = self.clock.now();
        let action =
            Action::CertificateIssued { certificate: record.id.clone(), sha256: to_hex(&der.fingerprint) };
        let mut changes = vec![Change::IssueCertificate { id: record.id.clone(), der, at: now }];
        changes.extend(done);
        self.store.commit(Commit { changes, audit: vec![event(now, action)], ..Commit::default() }).await?;
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.origin);
        self.observer.stage(Stage::Store, watch.elapsed());
        Ok(())
    }

    /// Gives a reservation up for ever: it counts as revoked, since a signature may exist.
    pub(super) async fn abandon(&self, record: &CertificateRecord, why: &str) -> Result<(), AuthorityError> {
        let now = self.clock.now();
        let id = record.id.clone();
        let action = Action::CertificateAbandoned { certificate: id.clone(), detail: why.to_owned() };
        let publish = EffectKind::PublishCrl { issuer: id.issuer.clone(), shard: record.shard };
        let commit = Commit {
            changes: vec![Change::AbandonCertificate { id, at: now }],
            effects: vec![self.effect(publish, now)],
            audit: vec![event(now, action)],
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            // Another attempt finished or abandoned it meanwhile.
            Ok(()) | Err(StoreError::Conflict) => {
                self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.origin);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Fails an order of which no certificate can be built.
    pub(super) async fn fail_unbuildable(
        &self,
        effect: EffectId,
        order: Order,
        error: BuildError,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let failure = match error {
            BuildError::OutsideIssuer { .. } => OrderFailure::Validity { detail: error.to_string() },
            error => {
                tracing::error!(order = %order.id, %error, "a certificate could not be built");
                let detail = "the CA could not build the certificate; its log says why".to_owned();
                OrderFailure::Internal { detail }
            }
        };
        self.fail_order(effect, order, failure, now).await
    }

    pub(super) async fn fail_order(
        &self,
        effect: EffectId,
        order: Order,
        failure: OrderFailure,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        self.fail_order_with(effect, order, failure, Vec::new(), now).await
    }

    /// As [`Self::fail_order`], logging first what led to it.
    pub(super) async fn fail_order_with(
        &self,
        effect: EffectId,
        order: Order,
        failure: OrderFailure,
        mut audit: Vec<AuditEvent>,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        if let (OrderState::Renewing(_), OrderFailure::Internal { detail }) = (&order.state, &failure) {
            // What is ours to mend does not end a series of certificates: the effect stays, and is tried again.
            return Err(AuthorityError::NotRenewed { order: order.id, detail: detail.clone() });
        }
        audit.push(event(now, Action::OrderFailed { order: order.id, detail: failure.to_string() }));
        let commit = Commit {
            changes: vec![Change::PutOrder(order.failed(failure)), Change::EffectDone(effect)],
            audit,
            ..Commit::default()
        };
        Ok(self.store.commit(commit).await?)
    }

    /// Removes an effect that has nothing left to do.
    pub(super) async fn drop_effect(&self, effect: EffectId) -> Result<(), AuthorityError> {
        let commit = Commit { changes: vec![Change::EffectDone(effect)], ..Commit::default() };
        match self.store.commit(commit).await {
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a reservation is what would be reserved at `now`, but for its serial and for dates that admit no more.
///
/// A policy service may have made its life shorter, so that dates are compared; all else is built anew, octet for octet.
fn still_approved(
    record: &CertificateRecord,
    approved: &Approved,
    issuer: &Issuer,
    urls: &PkiUrls,
    now: Timestamp,
) -> bool {
    // The clock may be a little behind the one that the reservation was made by.
    let Ok(present) = approved.period(issuer, now.max(record.reserved_at)) else { return false };
    let (not_before, not_after) = (record.not_before, record.not_after);
    // A beginning that has passed moves on with the clock; one to come is as it was asked for.
    let begins = not_before >= present.not_before || present.not_before <= now;
    let lasts = not_after <= present.not_after && not_after.since(not_before) <= approved.validity;
    let same = Approved { exactly: Some(ValidityPeriod { not_before, not_after }), ..approved.clone() };
    let rebuilt = build(&same, issuer, record.id.serial, urls, record.reserved_at);
    begins
        && lasts
        && rebuilt.is_ok_and(|rebuilt| {
            rebuilt.id == record.id && rebuilt.profile == record.profile && rebuilt.tbs == record.tbs
        })
}
