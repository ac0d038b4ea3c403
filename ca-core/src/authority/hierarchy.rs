//! Creating roots and issuing CAs, each step of which can be repeated after a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use der::Encode;
use x509_cert::name::Name;

use crate::audit::{Action, Actor, AuditEvent};
use crate::id::IssuerId;
use crate::issuance::{Approved, BuildError, Issuer, IssuerError, Kind, build, build_root};
use crate::pkix::name::distinguished_name;
use crate::pkix::public_key::PublicKey;
use crate::pkix::serial::SerialNumber;
use crate::pkix::signed::sign_object;
use crate::random::SystemRandom;
use crate::signing::{KeyAlgorithm, KeyError, KeyLabel, SignatureAlgorithm, SigningKey};
use crate::store::{
    CertificateDer, CertificateRecord, Change, Commit, IssuerKind, IssuerRecord, IssuerState, Origin, Version,
};
use crate::time::Timestamp;

use super::policy::Basis;
use super::{Authority, AuthorityError, internal_profile};

/// How long a root's and an issuing CA's certificate is valid.
const ROOT_VALIDITY: Duration = Duration::from_hours(20 * 365 * 24);
const ISSUING_VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);
/// CA certificates are backdated, for relying parties whose clocks are behind on the first day.
const CA_BACKDATE: Duration = Duration::from_hours(1);

/// What kind of CA to create.
#[derive(Clone, Debug)]
pub struct NewCa {
    /// The organizationName, and the beginning of the commonName.
    pub organisation: String,
    /// The kind of its key.
    pub key_algorithm: KeyAlgorithm,
    /// How it signs; must fit `key_algorithm`.
    pub signature_algorithm: SignatureAlgorithm,
    /// Whether the CA is for a first look: loopback URLs are accepted.
    pub trial: bool,
    /// Over how many CRL shards an issuing CA spreads its certificates; a root has one.
    pub shards: u32,
    /// Who wants it.
    pub actor: Actor,
}

/// A root and an issuing CA below it.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// The root.
    pub root: IssuerRecord,
    /// The issuing CA.
    pub issuing: IssuerRecord,
}

impl Authority {
    /// Creates the first root, the first issuing CA, and their first CRLs.
    ///
    /// Every step is stored before the next: a crash leaves a hierarchy that a second call completes with the same
    /// keys. Issuers that are complete are left alone.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] if both are complete already; else see [`AuthorityError`].
    pub async fn create_hierarchy(&self, new: &NewCa) -> Result<Hierarchy, AuthorityError> {
        let existing = self.store.issuers().await?;
        let complete = |kind: IssuerKind| {
            existing.iter().find(|issuer| issuer.kind == kind && !issuer.certificates.is_empty()).cloned()
        };
        let root = match (complete(IssuerKind::Root), complete(IssuerKind::Issuing)) {
            (Some(_), Some(_)) => return Err(AuthorityError::Exists),
            (Some(root), None) => {
                self.publish_first_crls(&root).await?;
                root
            }
            (None, _) => self.create_root(new).await?,
        };
        let issuing = self.create_issuing(new, &root.id).await?;
        Ok(Hierarchy { root, issuing })
    }

    /// Creates a root and its first CRL, or completes the one that an interrupted call left.
    ///
    /// # Errors
    /// [`AuthorityError::HalfMade`] if that one was of another kind.
    pub async fn create_root(&self, new: &NewCa) -> Result<IssuerRecord, AuthorityError> {
        let _creating = self.creating()?;
        let now = self.signing_time()?;
        let record = self.intend(new, IssuerKind::Root, None, now).await?;
        let key = self.own_key(new, &record).await?;
        let subject = ca_subject(new, "Root CA", key.public_key())?;
        let record = self.identify(record, &subject, &key, new, now).await?;
        let approved = approved_ca(Kind::Root, subject, key.public_key(), &record.id);
        let reserved = match self.store.reserved_for(approved.origin.clone()).await? {
            Some(reserved) => reserved,
            None => {
                let serial = SerialNumber::generate(&mut SystemRandom);
                let reserved = build_root(&approved, &record.id, key.algorithm(), serial, now)?;
                self.commit_reservation(&reserved, None, Basis::default(), now).await?;
                reserved
            }
        };
        let der = CertificateDer::new(sign_object(&key, &reserved.tbs).await?);
        self.complete(record, &reserved, der).await
    }

    /// Creates an issuing CA below a root, and its first CRLs; or completes the one that an interrupted call left.
    /// Certificates come from it as soon as this returns.
    ///
    /// # Errors
    /// [`AuthorityError::HalfMade`] if that one was of another kind; [`AuthorityError::UnknownIssuer`] if there is no
    /// such root.
    pub async fn create_issuing(&self, new: &NewCa, root: &IssuerId) -> Result<IssuerRecord, AuthorityError> {
        let _creating = self.creating()?;
        let now = self.signing_time()?;
        let parent: Arc<Issuer> = self.issuer(root).await?;
        if parent.record().kind != IssuerKind::Root || parent.record().state != IssuerState::Active {
            return Err(AuthorityError::UnknownIssuer(root.clone()));
        }
        let record = self.intend(new, IssuerKind::Issuing, Some(root), now).await?;
        let key = self.own_key(new, &record).await?;
        let subject = ca_subject(new, "Issuing CA", key.public_key())?;
        let record = self.identify(record, &subject, &key, new, now).await?;
        let approved = approved_ca(Kind::IssuingCa, subject, key.public_key(), &record.id);
        let reserved = match self.store.reserved_for(approved.origin.clone()).await? {
            Some(reserved) => reserved,
            None => {
                let serial = SerialNumber::generate(&mut SystemRandom);
                let reserved = build(&approved, &parent, serial, &self.config.urls, now)?;
                self.commit_reservation(&reserved, None, Basis::default(), now).await?;
                reserved
            }
        };
        let der = self.sign(&parent, &reserved).await?;
        self.complete(record, &reserved, der).await
    }

    /// Only one CA is made at a time: a second call would take the first one's rows for those of a crash.
    fn creating(&self) -> Result<Turn<'_>, AuthorityError> {
        if self.creating.swap(true, Ordering::AcqRel) {
            return Err(AuthorityError::Creating);
        }
        Ok(Turn(&self.creating))
    }

    /// Stores that an issuer is going to be made, before its key is; or finds that an interrupted attempt did.
    async fn intend(
        &self,
        new: &NewCa,
        kind: IssuerKind,
        parent: Option<&IssuerId>,
        now: Timestamp,
    ) -> Result<IssuerRecord, AuthorityError> {
        let existing = self.store.issuers().await?;
        let half_made = existing.iter().find(|issuer| issuer.kind == kind && issuer.certificates.is_empty());
        if let Some(half_made) = half_made {
            if half_made.parent.as_ref() != parent || half_made.signature_algorithm != new.signature_algorithm
            {
                return Err(AuthorityError::HalfMade {
                    issuer: half_made.id.clone(),
                    signature_algorithm: half_made.signature_algorithm,
                    parent: half_made.parent.clone(),
                });
            }
            return Ok(half_made.clone());
        }
        if !new.signature_algorithm.fits(new.key_algorithm) {
            return Err(KeyError::Failed(format!(
                "a key of kind {} can't make signatures of kind {:?}",
                new.key_algorithm, new.signature_algorithm
            ))
            .into());
        }
        let (id, label) = next_names(kind, &existing)?;
        // Asked before the row that would make such a key ours: another CA's key must never be adopted, since a key
        // has one serial space and one set of CRLs.
        if self.keys.list().await?.iter().any(|key| key.label == label) {
            return Err(KeyError::Exists { label: label.to_string(), place: self.keys.place() }.into());
        }
        let record = IssuerRecord {
            id,
            kind,
            state: IssuerState::Active,
            subject: Vec::new(),
            subject_text: String::new(),
            key_label: label,
            signature_algorithm: new.signature_algorithm,
            public_key: Vec::new(),
            certificates: Vec::new(),
            parent: parent.cloned(),
            shards: if kind == IssuerKind::Root { 1 } else { new.shards.max(1) },
            trial: new.trial,
            created_at: now,
            version: Version::NEW,
        };
        let commit =
            Commit { changes: vec![Change::PutIssuer(Box::new(record.clone()))], ..Commit::default() };
        self.store.commit(commit).await?;
        Ok(IssuerRecord { version: record.version.next(), ..record })
    }

    /// The key of an issuer that was intended: made now, or by the attempt that was interrupted.
    async fn own_key(
        &self,
        new: &NewCa,
        record: &IssuerRecord,
    ) -> Result<Arc<dyn SigningKey>, AuthorityError> {
        let label = &record.key_label;
        match self.keys.generate(label, new.key_algorithm).await {
            Ok(_) | Err(KeyError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let key = self.keys.open(label, record.signature_algorithm).await?;
        if record.public_key.is_empty() || record.public_key == key.public_key().spki_der() {
            return Ok(key);
        }
        Err(IssuerError::OtherKey { issuer: record.id.clone(), label: label.to_string() }.into())
    }

    /// Stores an intended issuer's subject and key, unless the interrupted attempt did.
    async fn identify(
        &self,
        record: IssuerRecord,
        subject: &Name,
        key: &Arc<dyn SigningKey>,
        new: &NewCa,
        now: Timestamp,
    ) -> Result<IssuerRecord, AuthorityError> {
        if !record.public_key.is_empty() {
            return Ok(record);
        }
        let record = IssuerRecord {
            subject: subject.to_der().map_err(BuildError::from)?,
            subject_text: subject.to_string(),
            public_key: key.public_key().spki_der().to_vec(),
            ..record
        };
        let created = Action::IssuerCreated {
            issuer: record.id.clone(),
            subject: record.subject_text.clone(),
            key: key.public_key().hash(),
        };
        self.store
            .commit(Commit {
                changes: vec![Change::PutIssuer(Box::new(record.clone()))],
                audit: vec![AuditEvent { at: now, actor: new.actor.clone(), action: created }],
                ..Commit::default()
            })
            .await?;
        Ok(IssuerRecord { version: record.version.next(), ..record })
    }

    /// Stores a CA certificate and the issuer that has it, in one commit; then its first CRLs, before it issues anything.
    async fn complete(
        &self,
        record: IssuerRecord,
        reserved: &CertificateRecord,
        der: CertificateDer,
    ) -> Result<IssuerRecord, AuthorityError> {
        let completed = IssuerRecord { certificates: vec![der.clone()], ..record };
        let done = vec![Change::PutIssuer(Box::new(completed.clone()))];
        self.commit_certificate(reserved, der, done).await?;
        let completed = IssuerRecord { version: completed.version.next(), ..completed };
        self.publish_first_crls(&completed).await?;
        self.forget_issuers();
        Ok(completed)
    }

    async fn publish_first_crls(&self, issuer: &IssuerRecord) -> Result<(), AuthorityError> {
        for shard in 0..issuer.shards {
            self.publish_crl(&issuer.id, shard).await?;
        }
        Ok(())
    }
}

/// The turn to create a CA; given back when dropped.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn approved_ca(kind: Kind, subject: Name, key: &PublicKey, id: &IssuerId) -> Approved {
    let (profile, validity) = match kind {
        Kind::Root => ("root", ROOT_VALIDITY),
        _ => ("issuing-ca", ISSUING_VALIDITY),
    };
    Approved {
        kind,
        profile: internal_profile(profile),
        subject,
        names: Vec::new(),
        public_key: key.clone(),
        validity,
        backdate: CA_BACKDATE,
        exactly: None,
        origin: Origin::Issuer(id.clone()),
        trusted: None,
    }
}

/// A new key takes a new subject: the key's identifier is part of the commonName.
fn ca_subject(new: &NewCa, what: &str, key: &PublicKey) -> Result<Name, AuthorityError> {
    let tag = crate::id::to_hex(&key.key_identifier()[..4]);
    let common_name = format!("{} {what} {tag}", new.organisation);
    Ok(distinguished_name(Some(&new.organisation), Some(&common_name)).map_err(BuildError::from)?)
}

/// The id and key label of the next root or issuing CA: `root-1`, `issuing-2`. No number is used twice.
fn next_names(kind: IssuerKind, existing: &[IssuerRecord]) -> Result<(IssuerId, KeyLabel), AuthorityError> {
    let prefix = match kind {
        IssuerKind::Root => "root-",
        IssuerKind::Issuing => "issuing-",
    };
    let numbers = existing.iter().filter_map(|issuer| issuer.id.as_str().strip_prefix(prefix)?.parse().ok());
    let name = format!("{prefix}{}", numbers.max().unwrap_or(0_u32).saturating_add(1));
    let label = KeyLabel::try_from(name.clone()).map_err(|e| KeyError::Failed(e.to_string()))?;
    Ok((name.parse().map_err(|_| KeyError::Failed(format!("'{name}' is no issuer id")))?, label))
}
