//! The authority carries effects out: it re-reads, decides, reserves, signs and commits. It alone holds issuers' keys.
//!
//! Order of issuance: judge → build and lint → commit the reservation (log before sign) → sign and verify → commit the
//! certificate. After a crash, [`Authority::recover`] and a repeated [`Authority::carry_out`] sign exactly the logged
//! bytes again or abandon the serial for ever.

mod crl;
mod hierarchy;
mod issue;
mod policy;
mod recover;
mod renew;
mod revoke;

pub use hierarchy::{Hierarchy, NewCa};
pub use recover::Recovered;
pub use revoke::RevokeError;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use thiserror::Error;

use crate::acme::DirectoryName;
use crate::audit::{Action, Actor, AuditEvent};
use crate::id::{EffectId, IssuerId, OrderId};
use crate::issuance::{BuildError, Issuer, IssuerError, PkiUrls};
use crate::pkix::identifier::Identifier;
use crate::pkix::signed::{SignError, sign_verified};
use crate::policy::DirectoryPolicy;
use crate::policy_hook::{HookFailure, PolicyGate};
use crate::profile::{Profile, ProfileName};
use crate::random::SystemRandom;
use crate::signing::{KeyBackend, KeyError, SignatureAlgorithm};
use crate::store::{
    CertificateRecord, Effect, EffectKind, IssuerKind, IssuerRecord, IssuerState, Origin, Store, StoreError,
};
use crate::time::{Clock, Timestamp};

/// What the authority judges by: the operator's configuration, which no front end can write.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// The rules of each ACME directory.
    pub directories: Vec<DirectoryPolicy>,
    /// The profiles of subscribers' certificates.
    pub profiles: Vec<Profile>,
    /// What certificates carry as AIA and CRL DP.
    pub urls: PkiUrls,
    /// How long CRLs are valid.
    pub crl_validity: CrlValidity,
    /// The names in the certificates of our own listeners.
    pub listener_names: Vec<Identifier>,
}

/// How long CRLs are valid, from thisUpdate to nextUpdate.
#[derive(Clone, Copy, Debug)]
pub struct CrlValidity {
    /// Those of issuing CAs.
    pub issuing: Duration,
    /// Those of roots.
    pub root: Duration,
}

/// The parts of an issuance that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading and judging the request.
    Policy,
    /// Committing the reservation.
    Reserve,
    /// Signing and verifying.
    Sign,
    /// Committing the certificate.
    Store,
}

impl Stage {
    /// The stage's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Reserve => "reserve",
            Self::Sign => "sign",
            Self::Store => "store",
        }
    }
}

/// Is told what the authority does, for metrics.
pub trait Observer: Send + Sync {
    /// A stage of an issuance ended well.
    fn stage(&self, stage: Stage, elapsed: Duration);
    /// A CRL was published.
    fn crl_published(&self, issuer: &IssuerId, shard: u32, entries: u64);
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn stage(&self, _: Stage, _: Duration) {}
    fn crl_published(&self, _: &IssuerId, _: u32, _: u64) {}
}

/// Why an effect was not carried out. It stays, and is tried again, unless the error says that it ended.
#[derive(Clone, Debug, Error)]
pub enum AuthorityError {
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key could not be opened.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nothing was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// An issuer's record and key do not fit.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// What was to be signed could not be built, or lint refused it.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The policy service gave no verdict, and the order waits for one.
    #[error(transparent)]
    Policy(#[from] HookFailure),
    /// There is no active issuing CA.
    #[error("there is no active issuing CA: run 'chancery init'")]
    NoIssuer,
    /// There is no such issuer.
    #[error("there is no issuer '{0}'")]
    UnknownIssuer(IssuerId),
    /// The issuing CA that a directory is to issue from is not there, or issues no more.
    #[error(
        "acme.directories.{directory}.issuer (or acme.issuer) is '{issuer}', and there is no active issuing CA of that id: see `chancery issuer list`"
    )]
    UnusableIssuer {
        /// The directory.
        directory: DirectoryName,
        /// What is configured.
        issuer: IssuerId,
    },
    /// The directory of an order is not configured any more.
    #[error("the directory '{0}' is not configured")]
    UnknownDirectory(DirectoryName),
    /// The profile of an order is not configured any more.
    #[error("the profile '{0}' is not configured")]
    UnknownProfile(ProfileName),
    /// The clock is behind the newest row.
    #[error(
        "the clock says {now}, but the store holds an event of {newest}: nothing is signed until the clock is right; check time synchronisation"
    )]
    ClockBehind {
        /// What the clock says.
        now: Timestamp,
        /// When the newest event happened.
        newest: Timestamp,
    },
    /// Certificates would carry URLs that lead nowhere.
    #[error(
        "pki.public_url leads to this machine only, and this CA is not marked as a trial: nothing is issued until pki.public_url names a host that relying parties can reach"
    )]
    LoopbackUrl,
    /// A new CRL would lack serials that the one before lists: the operator acts, the old one stays.
    #[error(
        "the CRL {issuer}/{shard} was not published: {missing} serials of the one before would be missing"
    )]
    CrlShrinks {
        /// The issuer.
        issuer: IssuerId,
        /// The shard.
        shard: u32,
        /// How many serials.
        missing: usize,
    },
    /// A CA exists already.
    #[error("this store has a CA already")]
    Exists,
    /// Another one is being created.
    #[error("another CA is being created")]
    Creating,
    /// An interrupted attempt left another one half made.
    #[error("an interrupted attempt left '{issuer}' half made, which is of another kind")]
    HalfMade {
        /// Which.
        issuer: IssuerId,
        /// How it is to sign.
        signature_algorithm: SignatureAlgorithm,
        /// Below which root.
        parent: Option<IssuerId>,
    },
    /// The next certificate of an order with automatic renewal can't be issued now.
    #[error("the next certificate of order {order} can't be issued now: {detail}")]
    NotRenewed {
        /// The order.
        order: OrderId,
        /// Why.
        detail: String,
    },
    /// The CRL before could not be read back.
    #[error("the CRL {issuer}/{shard} in the store can't be read: {detail}")]
    UnreadableCrl {
        /// The issuer.
        issuer: IssuerId,
        /// The shard.
        shard: u32,
        /// Why.
        detail: String,
    },
}

/// How far the clock may be behind the newest event before signing stops: events of one moment come from several
/// threads and processes, each with its own reading.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// How often a commit is decided again after a conflict.
const ATTEMPTS: usize = 5;

/// The certificate authority.
pub struct Authority {
    config: AuthorityConfig,
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyBackend>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    /// Issuers whose key was opened: on first use, never before.
    issuers: RwLock<HashMap<IssuerId, Arc<Issuer>>>,
    /// The newest active issuing CA, once looked up.
    issuing: RwLock<Option<IssuerId>>,
    /// Reservations that a crash or an unavailable key left without a certificate.
    unfinished: Mutex<HashMap<Origin, CertificateRecord>>,
    /// The newest time known to be logged, in milliseconds.
    newest: AtomicI64,
    /// Whether a CA is being created.
    creating: AtomicBool,
    /// The policy service, if there is one.
    policy: Option<policy::Policy>,
}

impl Authority {
    /// An authority over a store and a key backend. Opens nothing yet.
    #[must_use]
    pub fn new(
        config: AuthorityConfig,
        store: Arc<dyn Store>,
        keys: Arc<dyn KeyBackend>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            config,
            store,
            keys,
            clock,
            observer,
            issuers: RwLock::default(),
            issuing: RwLock::default(),
            unfinished: Mutex::default(),
            newest: AtomicI64::new(i64::MIN),
            creating: AtomicBool::new(false),
            policy: None,
        }
    }

    /// Asks a policy service about every order from now on.
    #[must_use]
    pub fn with_policy(self, gate: PolicyGate) -> Self {
        Self { policy: Some(policy::Policy::new(gate)), ..self }
    }

    /// Carries one effect out. Safe to repeat; an effect that is gone is no error.
    ///
    /// # Errors
    /// Why it could not be carried out now. The effect stays.
    pub async fn carry_out(&self, effect: Effect) -> Result<(), AuthorityError> {
        match effect.kind {
            EffectKind::Issue { order } => self.issue_for_order(effect.id, order).await,
            EffectKind::IssueCredential { credential } => self.issue_for_role(effect.id, credential).await,
            EffectKind::Revoke { certificate, reason, requested_by } => {
                self.revoke_on_request(effect.id, certificate, reason, requested_by).await
            }
            EffectKind::PublishCrl { issuer, shard } => {
                self.publish_crl_for(Some(effect.id), &issuer, shard).await
            }
        }
    }

    /// Makes a signature with the key of every active issuing CA and verifies it.
    ///
    /// # Errors
    /// The first issuer whose key does not sign.
    pub async fn health(&self) -> Result<(), AuthorityError> {
        let now = self.signing_time()?;
        if let Some(issuer) =
            self.store.issuers().await?.iter().find(|issuer| issuer.kind == IssuerKind::Issuing)
            && !issuer.trial
            && self.config.urls.is_loopback()
        {
            return Err(AuthorityError::LoopbackUrl);
        }
        let mut checked = 0;
        let records = self.store.issuers().await?;
        for policy in &self.config.directories {
            require_issuer(policy, &records)?;
        }
        for record in records {
            if issues(&record) {
                let issuer = self.issuer(&record.id).await?;
                require_alive(&issuer, now)?;
                // Can't be mistaken for anything signed: no DER structure begins so.
                sign_verified(issuer.key(), b"chancery readiness").await?;
                checked += 1;
            }
        }
        if checked == 0 { Err(AuthorityError::NoIssuer) } else { Ok(()) }
    }

    /// The present time, for signing.
    ///
    /// # Errors
    /// [`AuthorityError::ClockBehind`] if the store has seen a later time.
    fn signing_time(&self) -> Result<Timestamp, AuthorityError> {
        let now = self.clock.now();
        let newest = Timestamp::from_millis(self.newest.load(Ordering::Relaxed));
        if now < newest.minus(CLOCK_TOLERANCE) {
            return Err(AuthorityError::ClockBehind { now, newest });
        }
        self.newest.fetch_max(now.as_millis(), Ordering::Relaxed);
        Ok(now)
    }

    /// An issuer with its key, opened on first use.
    async fn issuer(&self, id: &IssuerId) -> Result<Arc<Issuer>, AuthorityError> {
        if let Some(issuer) = self.issuers.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Arc::clone(issuer));
        }
        let record = self
            .store
            .issuers()
            .await?
            .into_iter()
            .find(|record| record.id == *id)
            .ok_or_else(|| AuthorityError::UnknownIssuer(id.clone()))?;
        let key = self.keys.open(&record.key_label, record.signature_algorithm).await?;
        let issuer = Arc::new(Issuer::new(record, key)?);
        let mut issuers = self.issuers.write().unwrap_or_else(PoisonError::into_inner);
        issuers.insert(id.clone(), Arc::clone(&issuer));
        Ok(issuer)
    }

    /// The newest active issuing CA.
    async fn issuing(&self) -> Result<Arc<Issuer>, AuthorityError> {
        let known = self.issuing.read().unwrap_or_else(PoisonError::into_inner).clone();
        let id = match known {
            Some(id) => id,
            None => {
                let issuers = self.store.issuers().await?;
                let newest = issuers.into_iter().find(issues).ok_or(AuthorityError::NoIssuer)?;
                *self.issuing.write().unwrap_or_else(PoisonError::into_inner) = Some(newest.id.clone());
                newest.id
            }
        };
        self.fit_to_issue(&id).await
    }

    /// The issuing CA of a directory: the one that its policy names, or else the newest active one.
    async fn issuing_in(&self, directory: &DirectoryName) -> Result<Arc<Issuer>, AuthorityError> {
        let policy = self.directory(directory)?;
        let Some(id) = &policy.issuer else { return self.issuing().await };
        let known = self.issuers.read().unwrap_or_else(PoisonError::into_inner).contains_key(id);
        if !known {
            require_issuer(policy, &self.store.issuers().await?)?;
        }
        let issuer = self.fit_to_issue(id).await?;
        require_issuer(policy, std::slice::from_ref(issuer.record()))?;
        Ok(issuer)
    }

    async fn fit_to_issue(&self, id: &IssuerId) -> Result<Arc<Issuer>, AuthorityError> {
        let issuer = self.issuer(id).await?;
        if !issuer.record().trial && self.config.urls.is_loopback() {
            return Err(AuthorityError::LoopbackUrl);
        }
        Ok(issuer)
    }

    /// Reads issuers anew when they are next needed: one changed.
    fn forget_issuers(&self) {
        self.issuers.write().unwrap_or_else(PoisonError::into_inner).clear();
        *self.issuing.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The rules of each ACME directory.
    #[must_use]
    pub fn directories(&self) -> &[DirectoryPolicy] {
        &self.config.directories
    }

    fn directory(&self, name: &DirectoryName) -> Result<&DirectoryPolicy, AuthorityError> {
        self.config
            .directories
            .iter()
            .find(|policy| policy.directory == *name)
            .ok_or_else(|| AuthorityError::UnknownDirectory(name.clone()))
    }

    fn profile(&self, name: &ProfileName) -> Result<&Profile, AuthorityError> {
        self.config
            .profiles
            .iter()
            .find(|profile| profile.name == *name)
            .ok_or_else(|| AuthorityError::UnknownProfile(name.clone()))
    }

    fn effect(&self, kind: EffectKind, now: Timestamp) -> Effect {
        Effect { id: EffectId::generate(now, &mut SystemRandom), kind }
    }
}

/// Whether certificates can come from an issuer. One that is being made has no certificate yet.
fn issues(record: &IssuerRecord) -> bool {
    record.kind == IssuerKind::Issuing
        && record.state == IssuerState::Active
        && !record.certificates.is_empty()
}

/// Whether the issuing CA that a directory names, if it names one, is there and issues.
///
/// # Errors
/// [`AuthorityError::UnusableIssuer`] if not.
pub fn require_issuer(policy: &DirectoryPolicy, issuers: &[IssuerRecord]) -> Result<(), AuthorityError> {
    match &policy.issuer {
        Some(id) if !issuers.iter().any(|record| record.id == *id && issues(record)) => {
            let (directory, issuer) = (policy.directory.clone(), id.clone());
            Err(AuthorityError::UnusableIssuer { directory, issuer })
        }
        _ => Ok(()),
    }
}

/// An event of the CA itself.
fn event(now: Timestamp, action: Action) -> AuditEvent {
    AuditEvent { at: now, actor: Actor::Authority, action }
}

/// An issuer whose certificate has ended signs nothing: relying parties would not accept it.
fn require_alive(issuer: &Issuer, now: Timestamp) -> Result<(), BuildError> {
    let not_after = issuer.certificate().not_after;
    if not_after > now {
        return Ok(());
    }
    Err(BuildError::IssuerEnds { issuer: issuer.record().id.clone(), not_after })
}

/// A profile name that is known to be one.
#[allow(clippy::expect_used, reason = "only called with literals that are profile names")]
fn internal_profile(name: &'static str) -> ProfileName {
    ProfileName::try_from(name.to_owned()).expect("a literal profile name")
}
