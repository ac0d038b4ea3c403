//! Creating a root and an issuing CA, each step of which can be repeated after a crash.

use std::sync::Arc;
use std::time::Duration;

use der::Encode;
use x509_cert::name::Name;

use crate::audit::Action;
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

use super::{Authority, AuthorityError, event, internal_profile};

/// How long a root's and an issuing CA's certificate is valid.
const ROOT_VALIDITY: Duration = Duration::from_hours(20 * 365 * 24);
const ISSUING_VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);
/// CA certificates are backdated, for relying parties whose clocks are behind on the first day.
const CA_BACKDATE: Duration = Duration::from_hours(1);

/// What kind of hierarchy to create.
#[derive(Clone, Debug)]
pub struct NewHierarchy {
    /// The organizationName of both, and the beginning of their commonNames.
    pub organisation: String,
    /// The kind of both keys.
    pub key_algorithm: KeyAlgorithm,
    /// How both sign; must fit `key_algorithm`.
    pub signature_algorithm: SignatureAlgorithm,
    /// Whether the CA is for a first look: loopback URLs are accepted.
    pub trial: bool,
    /// Over how many CRL shards the issuing CA spreads its certificates.
    pub shards: u32,
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
    /// Creates a root `root-1`, an issuing CA `issuing-1`, and their first CRLs.
    ///
    /// Every step is stored before the next: a crash leaves a hierarchy that a second call completes with the same
    /// keys. Issuers that are complete are left alone.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] if both are complete already; else see [`AuthorityError`].
    pub async fn create_hierarchy(&self, new: &NewHierarchy) -> Result<Hierarchy, AuthorityError> {
        let existing = self.store.issuers().await?;
        let complete = |kind: IssuerKind| {
            existing.iter().find(|issuer| issuer.kind == kind && !issuer.certificates.is_empty()).cloned()
        };
        if complete(IssuerKind::Root).is_some() && complete(IssuerKind::Issuing).is_some() {
            return Err(AuthorityError::Exists);
        }
        let root = match complete(IssuerKind::Root) {
            Some(root) => root,
            None => self.create_root(new, &existing).await?,
        };
        let issuing = self.create_issuing(new, &root, &existing).await?;
        for issuer in [&root, &issuing] {
            for shard in 0..issuer.shards {
                self.publish_crl(&issuer.id, shard).await?;
            }
        }
        Ok(Hierarchy { root, issuing })
    }

    async fn create_root(
        &self,
        new: &NewHierarchy,
        existing: &[IssuerRecord],
    ) -> Result<IssuerRecord, AuthorityError> {
        let now = self.signing_time()?;
        let (id, label) = names("root-1");
        let draft = Draft { id: &id, label: &label, kind: IssuerKind::Root, parent: None, shards: 1 };
        let record = self.intend(new, &draft, existing, now).await?;
        let key = self.own_key(&label, new, &record).await?;
        let subject = ca_subject(new, "Root CA", key.public_key())?;
        let record = self.identify(record, &subject, &key, now).await?;
        let approved = approved_ca(Kind::Root, "root", subject, key.public_key(), ROOT_VALIDITY, &id);
        let reserved = match self.interrupted(&approved.origin).await? {
            Some(reserved) => reserved,
            None => {
                let serial = SerialNumber::generate(&mut SystemRandom);
                let reserved = build_root(&approved, &id, key.algorithm(), serial, now)?;
                self.commit_reservation(&reserved, None, now).await?;
                reserved
            }
        };
        let der = CertificateDer::new(sign_object(&key, &reserved.tbs).await?);
        self.complete(record, &reserved, der).await
    }

    async fn create_issuing(
        &self,
        new: &NewHierarchy,
        root: &IssuerRecord,
        existing: &[IssuerRecord],
    ) -> Result<IssuerRecord, AuthorityError> {
        let now = self.signing_time()?;
        let (id, label) = names("issuing-1");
        let draft = Draft {
            id: &id,
            label: &label,
            kind: IssuerKind::Issuing,
            parent: Some(root.id.clone()),
            shards: new.shards.max(1),
        };
        let record = self.intend(new, &draft, existing, now).await?;
        let key = self.own_key(&label, new, &record).await?;
        let subject = ca_subject(new, "Issuing CA", key.public_key())?;
        let record = self.identify(record, &subject, &key, now).await?;
        let approved =
            approved_ca(Kind::IssuingCa, "issuing-ca", subject, key.public_key(), ISSUING_VALIDITY, &id);
        let parent: Arc<Issuer> = self.issuer(&root.id).await?;
        let reserved = match self.interrupted(&approved.origin).await? {
            Some(reserved) => reserved,
            None => {
                let serial = SerialNumber::generate(&mut SystemRandom);
                let reserved = build(&approved, &parent, serial, &self.config.urls, now)?;
                self.commit_reservation(&reserved, None, now).await?;
                reserved
            }
        };
        let der = self.sign(&parent, &reserved).await?;
        self.complete(record, &reserved, der).await
    }

    /// Stores that an issuer is going to be made, before its key is; or finds that an interrupted attempt did.
    async fn intend(
        &self,
        new: &NewHierarchy,
        draft: &Draft<'_>,
        existing: &[IssuerRecord],
        now: Timestamp,
    ) -> Result<IssuerRecord, AuthorityError> {
        if let Some(interrupted) = existing.iter().find(|issuer| issuer.id == *draft.id) {
            return Ok(interrupted.clone());
        }
        if !new.signature_algorithm.fits(new.key_algorithm) {
            return Err(KeyError::Failed(format!(
                "a key of kind {} can't make signatures of kind {:?}",
                new.key_algorithm, new.signature_algorithm
            ))
            .into());
        }
        // Asked before the row that would make such a key ours: another CA's key must never be adopted, since a key
        // has one serial space and one set of CRLs.
        if self.keys.list().await?.iter().any(|key| key.label == *draft.label) {
            return Err(KeyError::Exists { label: draft.label.to_string(), place: self.keys.place() }.into());
        }
        let record = IssuerRecord {
            id: draft.id.clone(),
            kind: draft.kind,
            state: IssuerState::Active,
            subject: Vec::new(),
            subject_text: String::new(),
            key_label: draft.label.clone(),
            signature_algorithm: new.signature_algorithm,
            public_key: Vec::new(),
            certificates: Vec::new(),
            parent: draft.parent.clone(),
            shards: draft.shards,
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
        label: &KeyLabel,
        new: &NewHierarchy,
        record: &IssuerRecord,
    ) -> Result<Arc<dyn SigningKey>, AuthorityError> {
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
                audit: vec![event(now, created)],
                ..Commit::default()
            })
            .await?;
        Ok(IssuerRecord { version: record.version.next(), ..record })
    }

    async fn interrupted(&self, origin: &Origin) -> Result<Option<CertificateRecord>, AuthorityError> {
        Ok(self.store.reserved_for(origin.clone()).await?)
    }

    /// Stores a CA certificate and the issuer that has it, in one commit.
    async fn complete(
        &self,
        record: IssuerRecord,
        reserved: &CertificateRecord,
        der: CertificateDer,
    ) -> Result<IssuerRecord, AuthorityError> {
        let completed = IssuerRecord { certificates: vec![der.clone()], ..record };
        let done = vec![Change::PutIssuer(Box::new(completed.clone()))];
        self.commit_certificate(reserved, der, done).await?;
        Ok(IssuerRecord { version: completed.version.next(), ..completed })
    }
}

struct Draft<'a> {
    id: &'a IssuerId,
    label: &'a KeyLabel,
    kind: IssuerKind,
    parent: Option<IssuerId>,
    shards: u32,
}

fn approved_ca(
    kind: Kind,
    profile: &'static str,
    subject: Name,
    key: &PublicKey,
    validity: Duration,
    id: &IssuerId,
) -> Approved {
    Approved {
        kind,
        profile: internal_profile(profile),
        subject,
        names: Vec::new(),
        public_key: key.clone(),
        validity,
        backdate: CA_BACKDATE,
        origin: Origin::Issuer(id.clone()),
    }
}

/// A new key takes a new subject: the key's identifier is part of the commonName.
fn ca_subject(new: &NewHierarchy, what: &str, key: &PublicKey) -> Result<Name, AuthorityError> {
    let tag = crate::id::to_hex(&key.key_identifier()[..4]);
    let common_name = format!("{} {what} {tag}", new.organisation);
    Ok(distinguished_name(Some(&new.organisation), Some(&common_name)).map_err(BuildError::from)?)
}

#[allow(clippy::expect_used, reason = "only called with literals that are issuer ids and key labels")]
fn names(id: &'static str) -> (IssuerId, KeyLabel) {
    let issuer = IssuerId::try_from(id.to_owned()).expect("a literal issuer id");
    let label = KeyLabel::try_from(id.to_owned()).expect("a literal key label");
    (issuer, label)
}
