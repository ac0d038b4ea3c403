//! Issuing for orders and for our own roles: judge, reserve, sign, commit.

use crate::acme::order::OrderFailure;
use crate::acme::{Authorization, Order, OrderState};
use crate::audit::Action;
use crate::id::{CredentialId, EffectId, OrderId, to_hex};
use crate::issuance::{Approved, Issuer, Kind, approve_order, build, tbs_sha256};
use crate::pkix::identifier::Identifier;
use crate::pkix::name::{MAX_ATTRIBUTE, distinguished_name};
use crate::pkix::public_key::PublicKey;
use crate::pkix::serial::SerialNumber;
use crate::pkix::signed::{SignError, sign_object};
use crate::profile::Usage;
use crate::random::SystemRandom;
use crate::signing::SigningError;
use crate::store::{
    CertificateDer, CertificateRecord, Change, Commit, Credential, CredentialKind, EffectKind, Origin, Row,
    StoreError, Version,
};
use crate::time::{Stopwatch, Timestamp};

use std::sync::{Arc, PoisonError};
use std::time::Duration;

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
            return self.drop_effect(effect).await;
        };
        if !matches!(order.state, OrderState::Processing { .. }) {
            return self.drop_effect(effect).await;
        }
        let origin = Origin::Order { order: order.id, account: order.account };
        // Judged also when an earlier attempt has reserved: what was right then may not be now.
        let approved = match self.judge(&order, &authorizations, now).await? {
            Ok(approved) => approved,
            Err(failure) => {
                if let Some(record) = self.left_over(&origin) {
                    self.abandon(&record, "its order was refused when it was judged again").await?;
                }
                return self.fail_order(effect, order, failure, now).await;
            }
        };
        let issuer = self.issuing().await?;
        let record = match self.unfinished(&origin, &issuer, now).await? {
            Some(record) => record,
            None => {
                self.observer.stage(Stage::Policy, watch.elapsed());
                let version = (Row::Order(order.id), order.version);
                match self.reserve(&approved, &issuer, version, now).await {
                    Err(AuthorityError::Build(error)) => {
                        tracing::error!(order = %order.id, %error, "a certificate could not be built");
                        let detail = "the CA could not build the certificate; its log says why".to_owned();
                        return self.fail_order(effect, order, OrderFailure::Internal { detail }, now).await;
                    }
                    other => other?,
                }
            }
        };
        let der = match self.sign(&issuer, &record).await {
            Err(AuthorityError::Sign(
                error @ (SignError::Key(SigningError::Refused { .. }) | SignError::DoesNotVerify(_)),
            )) => {
                tracing::error!(order = %order.id, %error, "a certificate could not be signed");
                self.abandon(&record, "the key did not sign it").await?;
                let detail = "the CA could not sign; its log says why".to_owned();
                return self.fail_order(effect, order, OrderFailure::Internal { detail }, now).await;
            }
            other => other?,
        };
        let state = OrderState::Valid { certificate: record.id.clone() };
        let done = vec![Change::PutOrder(Order { state, ..order }), Change::EffectDone(effect)];
        self.commit_certificate(&record, der, done).await
    }

    /// Judges an order from fresh rows: its account, authorizations, names, key and profile.
    async fn judge(
        &self,
        order: &Order,
        authorizations: &[Authorization],
        now: Timestamp,
    ) -> Result<Result<Approved, OrderFailure>, AuthorityError> {
        let internal = |error: AuthorityError| OrderFailure::Internal { detail: error.to_string() };
        let (policy, profile) = match (self.directory(&order.directory), self.profile(&order.profile)) {
            (Ok(policy), Ok(profile)) => (policy, profile),
            (Err(error), _) | (_, Err(error)) => return Ok(Err(internal(error))),
        };
        let account = self.store.account(order.account).await?;
        if account.is_none_or(|account| account.require_valid().is_err()) {
            let detail = "the account is not valid any more".to_owned();
            return Ok(Err(OrderFailure::Unauthorized { detail }));
        }
        let approved = match approve_order(order, authorizations, policy, profile, now) {
            Ok(approved) => approved,
            Err(failure) => return Ok(Err(failure)),
        };
        if self.store.is_key_blocked(approved.public_key.hash()).await? {
            let detail = crate::pkix::csr::CsrError::BlockedKey.to_string();
            return Ok(Err(OrderFailure::BadCsr { detail }));
        }
        Ok(Ok(approved))
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
        let record = match self.unfinished(&Origin::Credential(id), &issuer, now).await? {
            Some(record) => record,
            None => {
                let approved = self.approve_role(&credential, &issuer, public_key)?;
                let version = (Row::Credential(id), credential.version);
                self.reserve(&approved, &issuer, version, now).await?
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
        let subject =
            |name: &str| distinguished_name(None, Some(name)).map_err(crate::issuance::BuildError::from);
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
                    origin,
                }
            }
            CredentialKind::Listener { .. } => {
                let names = self.config.listener_names.clone();
                let common_name =
                    names.first().map(Identifier::to_string).filter(|name| name.len() <= MAX_ATTRIBUTE);
                Approved {
                    kind: Kind::EndEntity(Usage::TlsServer),
                    profile: internal_profile("listener"),
                    subject: distinguished_name(None, common_name.as_deref())
                        .map_err(crate::issuance::BuildError::from)?,
                    names,
                    public_key,
                    validity: LISTENER_VALIDITY,
                    backdate: OWN_BACKDATE,
                    origin,
                }
            }
        })
    }

    fn left_over(&self, origin: &Origin) -> Option<CertificateRecord> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    /// The reservation that an earlier attempt left, if it may still be signed; one that is too old is abandoned.
    async fn unfinished(
        &self,
        origin: &Origin,
        issuer: &Issuer,
        now: Timestamp,
    ) -> Result<Option<CertificateRecord>, AuthorityError> {
        match self.left_over(origin) {
            Some(record)
                if record.id.issuer == issuer.record().id
                    && now.since(record.reserved_at) <= RESERVATION_LIFETIME =>
            {
                Ok(Some(record))
            }
            Some(record) => {
                self.abandon(&record, "its reservation is too old to be signed").await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Commits the reservation: serial, TBS and audit event, before any signature.
    pub(super) async fn reserve(
        &self,
        approved: &Approved,
        issuer: &Arc<Issuer>,
        decided_on: (Row, Version),
        now: Timestamp,
    ) -> Result<CertificateRecord, AuthorityError> {
        let watch = Stopwatch::start();
        let mut attempt = 0;
        loop {
            let serial = SerialNumber::generate(&mut SystemRandom);
            let record = build(approved, issuer, serial, &self.config.urls, now)?;
            match self.commit_reservation(&record, Some(decided_on.clone()), now).await {
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
        decided_on: Option<(Row, Version)>,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let action = Action::CertificateReserved {
            certificate: record.id.clone(),
            profile: record.profile.to_string(),
            names: record.names.iter().map(ToString::to_string).collect(),
            key: record.key,
            tbs_sha256: tbs_sha256(&record.tbs),
        };
        self.store
            .commit(Commit {
                changes: vec![Change::ReserveCertificate(Box::new(record.clone()))],
                expected_versions: decided_on.into_iter().collect(),
                effects: Vec::new(),
                audit: vec![event(now, action)],
            })
            .await?;
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

    async fn fail_order(
        &self,
        effect: EffectId,
        order: Order,
        failure: OrderFailure,
        now: Timestamp,
    ) -> Result<(), AuthorityError> {
        let action = Action::OrderFailed { order: order.id, detail: failure.to_string() };
        let state = OrderState::Failed { failure };
        let commit = Commit {
            changes: vec![Change::PutOrder(Order { state, ..order }), Change::EffectDone(effect)],
            audit: vec![event(now, action)],
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
