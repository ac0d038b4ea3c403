//! The responder's own keys and certificates: asked for, found again, renewed at half-life. RFC 6960 §4.2.2.2.
//!
//! One key per issuer, in this role's own backend. The certificate is asked for by a row and an effect that the `ca`
//! role carries out; while `ca` is away, the certificate that is there goes on serving until its notAfter.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{CredentialId, EffectId, IssuerId};
use ca_core::pkix::certificate::CaCertificate;
use ca_core::pkix::ocsp::{OcspIssuer, OcspSigner, ResponderError};
use ca_core::pkix::public_key::{PublicKey, PublicKeyError, sha256};
use ca_core::random::SystemRandom;
use ca_core::signing::{KeyError, KeyLabel, SigningKey};
use ca_core::store::{
    CertificateId, Change, Commit, Credential, CredentialKind, Effect, EffectKind, IssuerKind, IssuerRecord,
    Role, StoreError, Topic, Version,
};
use ca_core::time::Timestamp;
use thiserror::Error;

use crate::responder::Responder;
use crate::state::{self, Current, Pending, State};

/// Why an issuer's responder certificate could not be looked after; tried again at the next call.
#[derive(Debug, Error)]
pub enum MaintainError {
    /// The store could not be read or written.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The responder's key could not be made or opened.
    #[error("the responder's key: {0}")]
    Key(#[from] KeyError),
    /// The certificate in use or the one that was issued does not fit.
    #[error("the responder's certificate for {issuer}: {why}")]
    Certificate {
        /// Of which issuer.
        issuer: IssuerId,
        /// What is wrong.
        why: ResponderError,
    },
    /// The issuer's key is of no kind that we know.
    #[error("the issuer's key: {0}")]
    Issuer(#[from] PublicKeyError),
    /// The state file could not be read or written.
    #[error("the responder's state in {directory}: {why}")]
    State {
        /// Where it is.
        directory: String,
        /// What the system said.
        why: io::Error,
    },
}

/// The issuers that are answered for, as of the last read of the store.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub entries: HashMap<IssuerId, Entry>,
    /// When the issuers were last read; `None` until they were.
    pub read_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub id: IssuerId,
    pub issuer: Arc<OcspIssuer>,
    /// When the newest of the issuer's certificates ends; no responder certificate outlives it.
    pub ends: Timestamp,
    pub signer: Option<Numbered>,
}

/// A signer with a number of its own, so that what another one signed is not served in its name.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub number: u64,
    pub signer: Arc<OcspSigner>,
}

impl Responder {
    /// Reads the issuers, and sees to a responder certificate for each: asks for one that is missing or past half of
    /// its life, takes up one that was issued, drops one that was revoked.
    ///
    /// Called at start, when issuers or a wish for a certificate changed, and by a timer; [`Responder::run`] does
    /// that. What is in use goes on serving if this fails.
    ///
    /// # Errors
    /// The last failure; the other issuers were looked after all the same.
    pub async fn maintain(&self) -> Result<(), MaintainError> {
        let mut held = self.state.lock().await;
        let state = match held.as_mut() {
            Some(state) => state,
            None => held.insert(self.read_state().await?),
        };
        let now = self.clock.now();
        let records = self.store.issuers().await?;
        let before = self.roster();
        let mut roster = Roster { entries: HashMap::new(), read_at: Some(now) };
        let mut outcome = Ok(());
        for record in &records {
            let Some(ends) = answers_until(record).filter(|ends| now.whole_seconds() <= *ends) else {
                continue;
            };
            let entry = match before.entries.get(&record.id) {
                Some(entry) => Ok(Entry { ends, ..entry.clone() }),
                None => OcspIssuer::new(&record.subject, &record.public_key).map(|issuer| Entry {
                    id: record.id.clone(),
                    issuer: Arc::new(issuer),
                    ends,
                    signer: None,
                }),
            };
            match entry {
                Ok(mut entry) => {
                    if let Err(why) = self.look_after(state, &mut entry, now).await {
                        tracing::debug!(issuer = %record.id, %why, "the responder certificate needs attention");
                        outcome = Err(why);
                    }
                    let validity =
                        entry.signer.as_ref().map(|s| (s.signer.not_before(), s.signer.not_after()));
                    self.metrics.certificate(&record.id, validity, now);
                    roster.entries.insert(record.id.clone(), entry);
                }
                Err(why) => outcome = Err(why.into()),
            }
        }
        self.install(roster);
        outcome
    }

    /// Calls [`Responder::maintain`] now, whenever issuers or a wish for a certificate changed, and every minute
    /// (every two seconds while a certificate is missing). Never returns; drop the future to stop it.
    pub async fn run(&self) {
        let (mut complaint, mut again) = (String::new(), false);
        loop {
            let issuers = self.store.watch(&Topic::Issuers);
            let said = self.maintain().await.err().map(|why| why.to_string()).unwrap_or_default();
            // Said once, not at every attempt.
            if said != complaint && !said.is_empty() {
                tracing::warn!(why = %said, "the OCSP responder needs attention; it serves what it has");
            }
            complaint = said;
            // Registered before the next read, which comes at once if one of them was answered meanwhile.
            let wishes = self.pending_credentials().await;
            let mut changed: Vec<_> = vec![issuers];
            changed.extend(wishes.iter().map(|wish| self.store.watch(&Topic::Credential(*wish))));
            // Only once in a row: what could not be taken up just now can wait for the timer.
            again = !again && self.any_was_answered(&wishes).await;
            if again {
                continue;
            }
            let seconds = if self.readiness().is_ok() { 60 } else { 2 };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(seconds), first(changed)).await;
        }
    }

    async fn pending_credentials(&self) -> Vec<CredentialId> {
        let held = self.state.lock().await;
        let issuers = held.iter().flat_map(|state| state.issuers.values());
        issuers.filter_map(|held| held.pending.as_ref().map(|pending| pending.credential)).collect()
    }

    async fn any_was_answered(&self, wishes: &[CredentialId]) -> bool {
        for wish in wishes {
            if matches!(self.store.credential(*wish).await, Ok(Some(Credential { certificate: Some(_), .. })))
            {
                return true;
            }
        }
        false
    }

    /// One issuer's part of [`Responder::maintain`].
    async fn look_after(
        &self,
        state: &mut State,
        entry: &mut Entry,
        now: Timestamp,
    ) -> Result<(), MaintainError> {
        let mut outcome = self.check_current(state, entry, now).await;
        let held = state.issuers.entry(entry.id.clone()).or_default();
        if let Some(pending) = held.pending.clone() {
            match self.take_up(state, entry, &pending).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(why) => outcome = Err(why),
            }
        }
        let held = state.issuers.entry(entry.id.clone()).or_default();
        // One that ends with its issuer can't be followed by a longer one.
        let needed = entry
            .signer
            .as_ref()
            .is_none_or(|held| past_half_life(&held.signer, now) && held.signer.not_after() < entry.ends);
        // A key backend that is away says nothing about the certificate: no new key is asked for because of it.
        let unreachable =
            matches!(outcome, Err(MaintainError::Key(KeyError::Unavailable(_) | KeyError::WrongPin(_))));
        match &held.pending {
            Some(pending) => {
                let pending = pending.clone();
                self.ask_again(entry, &pending, now).await?;
            }
            None if needed && !unreachable => self.ask(state, entry, now).await?,
            None => {}
        }
        outcome
    }

    /// Opens the key and certificate of the state file, unless they are in use; drops what can't be used any more.
    async fn check_current(
        &self,
        state: &mut State,
        entry: &mut Entry,
        now: Timestamp,
    ) -> Result<(), MaintainError> {
        let mut outcome = Ok(());
        let held = state.issuers.entry(entry.id.clone()).or_default();
        if entry.signer.is_none()
            && let Some(current) = &held.current
        {
            match self.open(entry, &current.key_label, &current.certificate).await {
                Ok(signer) => entry.signer = Some(signer),
                Err(why) => {
                    if matches!(
                        why,
                        MaintainError::Certificate { .. } | MaintainError::Key(KeyError::NotFound { .. })
                    ) {
                        held.current = None;
                    }
                    outcome = Err(why);
                }
            }
        }
        let Some(numbered) = &entry.signer else { return outcome };
        let expired = numbered.signer.not_after() < now.whole_seconds();
        let revoked = match numbered.signer.serial() {
            Some(serial) => {
                let id = CertificateId { issuer: entry.id.clone(), serial };
                match self.store.certificate_status(id).await {
                    Ok(status) => status.is_some_and(|status| status.state.revocation().is_some()),
                    Err(why) => {
                        outcome = Err(why.into());
                        false
                    }
                }
            }
            None => false,
        };
        if expired || revoked {
            tracing::warn!(issuer = %entry.id, expired, revoked, "the responder certificate is no longer used");
            entry.signer = None;
            held.current = None;
            self.write_state(state).await?;
        }
        outcome
    }

    /// Puts the certificate that was asked for to use, if it was issued.
    async fn take_up(
        &self,
        state: &mut State,
        entry: &mut Entry,
        pending: &Pending,
    ) -> Result<bool, MaintainError> {
        let Some(credential) = self.store.credential(pending.credential).await? else { return Ok(false) };
        let Some(id) = credential.certificate else { return Ok(false) };
        let Some(der) = self.store.certificate(id).await?.and_then(|record| record.der) else {
            return Ok(false);
        };
        let opened = self.open(entry, &pending.key_label, &der.der).await;
        let held = state.issuers.entry(entry.id.clone()).or_default();
        match opened {
            Ok(signer) => {
                tracing::info!(issuer = %entry.id, not_after = %signer.signer.not_after(), "new responder certificate");
                held.current = Some(Current { key_label: pending.key_label.clone(), certificate: der.der });
                held.pending = None;
                entry.signer = Some(signer);
            }
            // One that does not fit never will: the next call asks for another.
            Err(
                why @ (MaintainError::Certificate { .. } | MaintainError::Key(KeyError::NotFound { .. })),
            ) => {
                held.pending = None;
                self.write_state(state).await?;
                return Err(why);
            }
            Err(why) => return Err(why),
        }
        self.write_state(state).await?;
        Ok(true)
    }

    /// Makes a key, remembers it, and asks for its certificate.
    async fn ask(&self, state: &mut State, entry: &Entry, now: Timestamp) -> Result<(), MaintainError> {
        let label = self.next_label(&entry.id).await?;
        let public_key = self.keys.generate(&label, self.config.key_algorithm).await?;
        let credential = CredentialId::generate(now, &mut SystemRandom);
        let held = state.issuers.entry(entry.id.clone()).or_default();
        held.pending = Some(Pending { key_label: label, credential });
        // The file first: a row that is asked for and forgotten would leave a key without use.
        self.write_state(state).await?;
        self.commit_wish(entry, credential, &public_key, now).await
    }

    /// Repeats a wish that never reached the store, or whose effect is gone without a certificate.
    async fn ask_again(&self, entry: &Entry, pending: &Pending, now: Timestamp) -> Result<(), MaintainError> {
        let id = pending.credential;
        match self.store.credential(id).await? {
            None => {
                let key = self.open_key(&pending.key_label).await?;
                self.commit_wish(entry, id, key.public_key(), now).await
            }
            Some(Credential { certificate: None, requested_at, .. })
                if now.since(requested_at) > std::time::Duration::from_mins(1) =>
            {
                let asked = EffectKind::IssueCredential { credential: id };
                if self.store.effects(10_000).await?.iter().any(|effect| effect.kind == asked) {
                    return Ok(());
                }
                let effect = Effect { id: EffectId::generate(now, &mut SystemRandom), kind: asked };
                self.store.commit(Commit { effects: vec![effect], ..Commit::default() }).await?;
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    async fn commit_wish(
        &self,
        entry: &Entry,
        id: CredentialId,
        public_key: &PublicKey,
        now: Timestamp,
    ) -> Result<(), MaintainError> {
        let credential = Credential {
            id,
            kind: CredentialKind::Responder { issuer: entry.id.clone() },
            public_key: public_key.spki_der().to_vec(),
            certificate: None,
            requested_at: now,
            version: Version::NEW,
        };
        let effect = Effect {
            id: EffectId::generate(now, &mut SystemRandom),
            kind: EffectKind::IssueCredential { credential: id },
        };
        let action = Action::CredentialRequested {
            credential: id,
            role: Role::Ocsp.name().to_owned(),
            key: public_key.hash(),
        };
        let commit = Commit {
            changes: vec![Change::PutCredential(credential)],
            effects: vec![effect],
            audit: vec![AuditEvent { at: now, actor: Actor::Authority, action }],
            ..Commit::default()
        };
        tracing::info!(issuer = %entry.id, credential = %id, "asked for a responder certificate");
        Ok(self.store.commit(commit).await?)
    }

    /// The first label `ocsp-ISSUER-N` above all that the backend holds.
    async fn next_label(&self, issuer: &IssuerId) -> Result<KeyLabel, MaintainError> {
        // A label has at most 64 characters: a long issuer id is cut, and a hash keeps it apart from others.
        let prefix = match issuer.as_str() {
            short if short.len() <= 48 => format!("ocsp-{short}-"),
            long => {
                let hash = ca_core::id::to_hex(&sha256(long.as_bytes())[..8]);
                format!("ocsp-{}-{hash}-", long.get(..31).unwrap_or_default())
            }
        };
        let held = self.keys.list().await?;
        let numbers =
            held.iter().filter_map(|key| key.label.as_str().strip_prefix(&prefix)?.parse::<u64>().ok());
        let next = numbers.max().unwrap_or(0).saturating_add(1);
        KeyLabel::try_from(format!("{prefix}{next}")).map_err(|why| KeyError::Failed(why.to_string()).into())
    }

    async fn open(
        &self,
        entry: &Entry,
        label: &KeyLabel,
        certificate: &[u8],
    ) -> Result<Numbered, MaintainError> {
        let key = self.open_key(label).await?;
        let signer = OcspSigner::new(certificate, key, &entry.issuer)
            .map_err(|why| MaintainError::Certificate { issuer: entry.id.clone(), why })?;
        Ok(Numbered { number: self.next_number(), signer: Arc::new(signer) })
    }

    /// Opens a key of the kind that the backend says it is, which may not be the one configured now.
    async fn open_key(&self, label: &KeyLabel) -> Result<Arc<dyn SigningKey>, KeyError> {
        let held = self.keys.list().await?;
        let kind = held.iter().find(|key| key.label == *label).map(|key| key.algorithm);
        let signature = kind.unwrap_or(self.config.key_algorithm).default_signature();
        self.keys.open(label, signature).await
    }

    async fn read_state(&self) -> Result<State, MaintainError> {
        let directory = self.directory.clone();
        let read = tokio::task::spawn_blocking(move || state::read(&directory)).await;
        read.unwrap_or_else(|why| Err(io::Error::other(why))).map_err(|why| self.state_error(why))
    }

    async fn write_state(&self, state: &State) -> Result<(), MaintainError> {
        let (directory, state) = (self.directory.clone(), state.clone());
        let written = tokio::task::spawn_blocking(move || state::write(&directory, &state)).await;
        written.unwrap_or_else(|why| Err(io::Error::other(why))).map_err(|why| self.state_error(why))
    }

    fn state_error(&self, why: io::Error) -> MaintainError {
        MaintainError::State { directory: self.directory.display().to_string(), why }
    }
}

/// Until when an issuer has a CA certificate; `None` if it is not answered for. Roots sign no responder certificates:
/// what they issued is covered by their CRL.
fn answers_until(record: &IssuerRecord) -> Option<Timestamp> {
    if record.kind != IssuerKind::Issuing {
        return None;
    }
    let certificates = record.certificates.iter().filter_map(|held| CaCertificate::from_der(&held.der).ok());
    certificates.map(|certificate| certificate.not_after).max()
}

fn past_half_life(signer: &OcspSigner, now: Timestamp) -> bool {
    let life = signer.not_after().since(signer.not_before());
    now >= signer.not_before().plus(life / 2)
}

/// Resolves when the first of the futures does.
async fn first(mut futures: Vec<ca_core::BoxFuture<'static, ()>>) {
    std::future::poll_fn(|context| {
        let ready = futures.iter_mut().any(|future| future.as_mut().poll(context).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
