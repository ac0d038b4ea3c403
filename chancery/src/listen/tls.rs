//! TLS of our own listener: a certificate from our own CA for a key of our own, renewed at half its life or once it is
//! revoked, and swapped without a restart. Key and chain are kept in the role's directory and reused while the CA is
//! away.

use std::fmt;
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use ca_core::BoxFuture;
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{CredentialId, EffectId, serde_base64url};
use ca_core::pkix::identifier::Identifier;
use ca_core::pkix::public_key::{PublicKey, spki_from_octets};
use ca_core::random::SystemRandom;
use ca_core::signing::KeyAlgorithm;
use ca_core::store::{
    CertificateId, CertificateState, CertificateStatus, Change, Commit, Credential, CredentialKind, Effect,
    EffectKind, IssuerRecord, Role, Store, StoreError, Topic, Version,
};
use ca_core::time::{Clock, Timestamp};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::data::replace;

/// How long to wait for the CA before looking again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often the certificate's age and state are looked at without being woken.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// The certificate in use with its key.
const KEPT: &str = "tls.json";
/// The wish for the next one.
const WISH: &str = "tls-wish.json";

/// Accepts TLS with whatever certificate is current.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("present", &self.current.is_present()).finish_non_exhaustive()
    }
}

/// The certificate that handshakes use now; none until the first one is there.
#[derive(Debug, Default)]
pub struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    fn set(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tls {
    /// TLS 1.2 and 1.3 for HTTP/1.1, no client certificates.
    ///
    /// # Errors
    /// If the provider lacks the protocol versions.
    pub fn new(current: Arc<Current>) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current })
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// If the far side does not, or there is no certificate yet.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// What is kept on disk: the certificate in use with its key. A stored type; the file has mode 0600.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(with = "serde_base64url")]
    pkcs8: Vec<u8>,
    /// The end-entity certificate and the CAs below the root, in DER.
    chain: Vec<Encoded>,
    names: Vec<Identifier>,
    not_before: Timestamp,
    not_after: Timestamp,
    /// The certificate in the inventory; files of the first versions don't name it.
    #[serde(default)]
    certificate: Option<CertificateId>,
}

#[derive(Serialize, Deserialize)]
struct Encoded(#[serde(with = "serde_base64url")] Vec<u8>);

/// A wish for a certificate that is not fulfilled yet, with its key. A stored type; the file has mode 0600.
#[derive(Serialize, Deserialize)]
struct Wish {
    id: CredentialId,
    #[serde(with = "serde_base64url")]
    pkcs8: Vec<u8>,
}

/// Why there is no new certificate yet; tried again.
#[derive(Debug, Error)]
pub enum RenewError {
    /// The files in the role's directory can't be read or written.
    #[error("{}: {source}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store did not take the wish, or can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Making or loading a key failed.
    #[error("the listener's key can't be used: {0}")]
    Key(String),
    /// The CA has not answered yet.
    #[error("the CA has not issued the listener's certificate yet")]
    Waiting,
}

/// Keeps a role's listener in certificates.
pub struct Keeper {
    /// The role.
    pub role: Role,
    /// The role's own directory.
    pub directory: PathBuf,
    /// Where wishes go.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The names that a certificate must have; the CA decides which it gives.
    pub names: Vec<Identifier>,
    /// What handshakes use.
    pub current: Arc<Current>,
}

impl Keeper {
    /// Takes the certificate that was kept into use, if it is still valid.
    ///
    /// # Errors
    /// If the file is there and can't be used.
    pub fn load(&self) -> Result<(), RenewError> {
        if let Some(kept) = read::<Kept>(&self.directory, KEPT)?
            && self.clock.now() < kept.not_after
        {
            self.current.set(certified(&kept)?);
        }
        Ok(())
    }

    /// Keeps the certificate fresh until `stop` says so.
    pub async fn keep(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = match self.renew_if_due().await {
                Ok(pause) => pause,
                Err(RenewError::Waiting) => Box::pin(ready(())),
                Err(error) => {
                    tracing::warn!(role = %self.role, %error, "no new listener certificate yet");
                    after(LOOK_AGAIN)
                }
            };
            tokio::select! {
                () = pause => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Gives when to look again.
    async fn renew_if_due(&self) -> Result<BoxFuture<'static, ()>, RenewError> {
        let now = self.clock.now();
        if let Some(kept) = self.blocking(|directory| read::<Kept>(directory, KEPT)).await? {
            let half = kept.not_after.since(kept.not_before) / 2;
            let covers = self.names.iter().all(|name| kept.names.contains(name));
            if covers
                && now < kept.not_before.plus(half)
                && let Some(pause) = self.while_it_stands(kept.certificate).await
            {
                return Ok(pause);
            }
        }
        let wish = match self.blocking(|directory| read::<Wish>(directory, WISH)).await? {
            Some(wish) => wish,
            None => {
                let wish = Wish { id: CredentialId::generate(now, &mut SystemRandom), pkcs8: new_key()? };
                let bytes = encode(&wish)?;
                self.blocking(move |directory| write(directory, WISH, &bytes)).await?;
                wish
            }
        };
        // Registered before it is read, so that no change is missed.
        let changed = self.store.watch(&Topic::Credential(wish.id));
        let certificate = match self.store.credential(wish.id).await? {
            None => {
                self.ask(&wish, now).await?;
                None
            }
            Some(credential) => credential.certificate,
        };
        let Some(certificate) = certificate else {
            // Either outcome means to look again.
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
            return Err(RenewError::Waiting);
        };
        let record = self.store.certificate(certificate).await?.ok_or(RenewError::Waiting)?;
        let der = record.der.ok_or(RenewError::Waiting)?;
        let mut chain = vec![Encoded(der.der)];
        chain.extend(self.chain(&record.id.issuer).await?);
        let kept = Kept {
            pkcs8: wish.pkcs8,
            chain,
            // What was asked for counts as given, or a CA that gives less would be asked for ever.
            names: record.names.iter().chain(&self.names).cloned().collect(),
            not_before: record.not_before,
            not_after: record.not_after,
            certificate: Some(record.id.clone()),
        };
        let certified = certified(&kept)?;
        let bytes = encode(&kept)?;
        self.blocking(move |directory| write(directory, KEPT, &bytes)).await?;
        self.current.set(certified);
        self.blocking(|directory| remove(directory, WISH)).await?;
        tracing::info!(role = %self.role, certificate = %record.id, not_after = %kept.not_after, "listener certificate in use");
        Ok(Box::pin(ready(())))
    }

    /// When to look again at a certificate that the inventory says is good; `None` if it is not.
    async fn while_it_stands(&self, certificate: Option<CertificateId>) -> Option<BoxFuture<'static, ()>> {
        let Some(id) = certificate else { return Some(after(CHECK_EVERY)) };
        // Registered before it is read, so that no change is missed.
        let changed = self.store.watch(&Topic::Certificate(id.clone()));
        match self.store.certificate_status(id.clone()).await {
            Ok(Some(CertificateStatus { state: CertificateState::Issued { .. }, .. })) => {
                // Either outcome means to look again.
                Some(Box::pin(async { drop(tokio::time::timeout(CHECK_EVERY, changed).await) }))
            }
            Ok(_) => {
                tracing::warn!(role = %self.role, certificate = %id, "the listener's certificate is revoked or unknown; a new one is asked for");
                None
            }
            Err(error) => {
                tracing::debug!(role = %self.role, %error, "the state of the listener's certificate can't be read");
                Some(after(LOOK_AGAIN))
            }
        }
    }

    async fn ask(&self, wish: &Wish, now: Timestamp) -> Result<(), RenewError> {
        let public_key = public_key(&wish.pkcs8)?;
        let credential = Credential {
            id: wish.id,
            kind: CredentialKind::Listener { role: self.role },
            public_key: public_key.spki_der().to_vec(),
            certificate: None,
            requested_at: now,
            version: Version::NEW,
        };
        let requested = Action::CredentialRequested {
            credential: wish.id,
            role: self.role.to_string(),
            key: public_key.hash(),
        };
        let effect = Effect {
            id: EffectId::generate(now, &mut SystemRandom),
            kind: EffectKind::IssueCredential { credential: wish.id },
        };
        let commit = Commit {
            changes: vec![Change::PutCredential(credential)],
            effects: vec![effect],
            audit: vec![AuditEvent { at: now, actor: Actor::Authority, action: requested }],
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            // Somebody, most likely we before a crash, asked already.
            Ok(()) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The certificates of the issuer and those above it, without the root's.
    async fn chain(&self, issuer: &ca_core::id::IssuerId) -> Result<Vec<Encoded>, RenewError> {
        let issuers = self.store.issuers().await?;
        let find = |id: &ca_core::id::IssuerId| issuers.iter().find(|record| record.id == *id);
        let mut chain = Vec::new();
        let mut next: Option<&IssuerRecord> = find(issuer);
        while let Some(record) = next
            && let Some(parent) = &record.parent
            && chain.len() < issuers.len()
        {
            chain.extend(record.certificates.first().map(|certificate| Encoded(certificate.der.clone())));
            next = find(parent);
        }
        Ok(chain)
    }

    /// Works on the role's directory off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, RenewError> + Send + 'static,
    ) -> Result<T, RenewError> {
        let directory = self.directory.clone();
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        done.unwrap_or_else(|e| {
            Err(RenewError::Files { path: self.directory.clone(), source: io::Error::other(e) })
        })
    }
}

fn after(pause: Duration) -> BoxFuture<'static, ()> {
    Box::pin(tokio::time::sleep(pause))
}

fn read<T: for<'a> Deserialize<'a>>(directory: &Path, name: &str) -> Result<Option<T>, RenewError> {
    let path = directory.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RenewError::Files { path, source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            // A cache that can't be read is made anew.
            tracing::warn!(path = %path.display(), %error, "unreadable; it is replaced");
            Ok(None)
        }
    }
}

fn encode(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, RenewError> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|e| RenewError::Key(e.to_string()))
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), RenewError> {
    let path = directory.join(name);
    replace(&path, bytes, 0o600).map_err(|source| RenewError::Files { path, source })
}

fn remove(directory: &Path, name: &str) -> Result<(), RenewError> {
    let path = directory.join(name);
    std::fs::remove_file(&path).map_err(|source| RenewError::Files { path, source })
}

fn new_key() -> Result<Vec<u8>, RenewError> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|key| key.to_pkcs8v1())
        .map_err(|_| RenewError::Key("a P-256 key can't be generated".to_owned()))?;
    Ok(key.as_ref().to_vec())
}

fn public_key(pkcs8: &[u8]) -> Result<PublicKey, RenewError> {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
        .map_err(|e| RenewError::Key(e.to_string()))?;
    spki_from_octets(KeyAlgorithm::EcP256, key.public_key().as_ref())
        .map_err(|e| RenewError::Key(e.to_string()))
}

fn certified(kept: &Kept) -> Result<CertifiedKey, RenewError> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(kept.pkcs8.clone()));
    let key = provider().key_provider.load_private_key(key).map_err(|e| RenewError::Key(e.to_string()))?;
    let chain = kept.chain.iter().map(|encoded| CertificateDer::from(encoded.0.clone())).collect();
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|e| RenewError::Key(e.to_string()))?;
    Ok(certified)
}
