//! Software keys: one encrypted file each, decrypted into memory when opened, signing on the backend's own threads.

mod file;
mod key;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ca_core::BoxFuture;
use ca_core::pkix::public_key::PublicKey;
use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyDescription, KeyError, KeyLabel, Signature, SignatureAlgorithm,
    SigningError, SigningKey,
};
use ca_core::time::Stopwatch;
use secrecy::SecretString;
use tokio::sync::oneshot;

use crate::Metrics;
use crate::metrics::ErrorKind;
use crate::queue::{PushError, Queue, lock};
use file::{Directory, WriteError};
use key::PrivateKey;

const BACKEND: &str = "software";

/// How software keys are kept.
#[derive(Clone, Debug)]
pub struct SoftwareConfig {
    /// The directory of the key files, made with mode 0700 if there is none.
    pub directory: PathBuf,
    /// What the files are encrypted under.
    pub passphrase: SecretString,
    /// How many threads sign; at least one is started.
    pub threads: usize,
    /// How many requests may wait for a thread.
    pub queue: usize,
    /// PBKDF2 iterations for a new directory; an existing one keeps its own.
    pub iterations: NonZeroU32,
}

impl SoftwareConfig {
    /// One thread per CPU, 1024 waiting requests and 600,000 iterations.
    #[must_use]
    pub fn new(directory: PathBuf, passphrase: SecretString) -> Self {
        Self {
            directory,
            passphrase,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            queue: 1024,
            iterations: const { NonZeroU32::new(600_000).unwrap() },
        }
    }
}

/// A directory of software keys.
pub struct SoftwareKeys {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Directory,
    opened: Mutex<HashMap<KeyLabel, Arc<PrivateKey>>>,
    pool: Pool,
    metrics: Metrics,
}

/// The signing threads; they end when this is dropped.
struct Pool(Arc<Queue<Job>>);

struct Job {
    key: Arc<PrivateKey>,
    algorithm: SignatureAlgorithm,
    message: Vec<u8>,
    reply: oneshot::Sender<Option<Signature>>,
}

impl SoftwareKeys {
    /// Opens the directory, or makes it; stretches the passphrase, which takes a part of a second.
    ///
    /// # Errors
    /// [`KeyError::WrongPin`] for a wrong passphrase; [`KeyError::Failed`] if the directory or its `master.json` can't
    /// be used, with what to do.
    pub fn open(config: SoftwareConfig, metrics: &Metrics) -> Result<Arc<Self>, KeyError> {
        let directory = Directory::open(&config.directory, &config.passphrase, config.iterations)?;
        let pool = Pool::start(config.threads.max(1), config.queue.max(1))?;
        let shared = Shared { directory, opened: Mutex::default(), pool, metrics: metrics.clone() };
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }
}

impl KeyBackend for SoftwareKeys {
    fn place(&self) -> String {
        place(self.shared.directory.path())
    }

    fn generate<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        let (shared, label) = (Arc::clone(&self.shared), label.clone());
        Box::pin(on_own_thread(move || {
            let exists =
                || KeyError::Exists { label: label.to_string(), place: place(shared.directory.path()) };
            if shared.directory.contains(&label)? {
                return Err(exists());
            }
            let (key, pkcs8) = PrivateKey::generate(algorithm)
                .map_err(|_| KeyError::Failed(format!("generating a key of kind {algorithm} failed")))?;
            let public_key = key.public_key().clone();
            match shared.directory.write(&label, algorithm, &public_key, pkcs8) {
                Ok(()) => Ok(public_key),
                Err(WriteError::Exists) => Err(exists()),
                Err(WriteError::Io(e)) => {
                    Err(file::io_error("write a key into", shared.directory.path(), &e))
                }
            }
        }))
    }

    fn open<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, KeyError>> {
        let (shared, label) = (Arc::clone(&self.shared), label.clone());
        Box::pin(on_own_thread(move || {
            let key = shared.key(&label)?;
            if !algorithm.fits(key.algorithm()) {
                return Err(KeyError::Unsuitable {
                    label: label.to_string(),
                    reason: format!("a key of kind {} does not sign with {algorithm:?}", key.algorithm()),
                });
            }
            let key: Arc<dyn SigningKey> = Arc::new(SoftwareKey { shared, key, label, algorithm });
            Ok(key)
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyDescription>, KeyError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(on_own_thread(move || {
            let describe = |label: KeyLabel| {
                let algorithm = shared.directory.algorithm(&label)?;
                Ok(KeyDescription { label, algorithm, sensitive: true, extractable: false })
            };
            shared.directory.labels()?.into_iter().map(describe).collect()
        }))
    }
}

impl Shared {
    /// The key from memory, or decrypted now.
    fn key(&self, label: &KeyLabel) -> Result<Arc<PrivateKey>, KeyError> {
        if let Some(key) = lock(&self.opened).get(label) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(self.directory.read(label)?);
        Ok(Arc::clone(lock(&self.opened).entry(label.clone()).or_insert(key)))
    }
}

/// One opened key; it stays usable after its [`SoftwareKeys`] is dropped.
struct SoftwareKey {
    shared: Arc<Shared>,
    key: Arc<PrivateKey>,
    label: KeyLabel,
    algorithm: SignatureAlgorithm,
}

impl SigningKey for SoftwareKey {
    fn label(&self) -> &KeyLabel {
        &self.label
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Signature, SigningError>> {
        Box::pin(async move {
            let clock = Stopwatch::start();
            let (label, metrics) = (self.label.to_string(), &self.shared.metrics);
            let (reply, signature) = oneshot::channel();
            let job = Job {
                key: Arc::clone(&self.key),
                algorithm: self.algorithm,
                message: message.to_vec(),
                reply,
            };
            let queue = &self.shared.pool.0;
            if let Err(PushError::Full | PushError::Closed) = queue.push(job) {
                metrics.failed(BACKEND, ErrorKind::QueueFull);
                let detail = format!(
                    "{} signatures wait already, and no more are taken: try again later",
                    queue.capacity()
                );
                return Err(SigningError::Unavailable { label, detail });
            }
            match signature.await {
                Ok(Some(signature)) => {
                    metrics.signed(BACKEND, self.algorithm, clock.elapsed());
                    Ok(signature)
                }
                Ok(None) => {
                    metrics.failed(BACKEND, ErrorKind::Refused);
                    Err(SigningError::Refused {
                        label,
                        detail: "the cryptographic library failed".to_owned(),
                    })
                }
                Err(_) => {
                    metrics.failed(BACKEND, ErrorKind::Refused);
                    let detail = "the signing thread ended: restart the program".to_owned();
                    Err(SigningError::Unavailable { label, detail })
                }
            }
        })
    }
}

impl Pool {
    fn start(threads: usize, queue: usize) -> Result<Self, KeyError> {
        let pool = Self(Arc::new(Queue::new(queue)));
        for index in 0..threads {
            let queue = Arc::clone(&pool.0);
            let work = move || {
                while let Some(job) = queue.pop() {
                    // Nobody waits any more: the caller gave up.
                    if !job.reply.is_closed() {
                        let _ = job.reply.send(job.key.sign(job.algorithm, &job.message).ok());
                    }
                }
            };
            spawn(format!("sign-{index}"), work)?;
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn place(directory: &Path) -> String {
    format!("software keys in {}", directory.display())
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), KeyError> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map(drop)
        .map_err(|e| KeyError::Failed(format!("can't start a thread for keys: {e}")))
}

/// Runs what reads files or makes keys on a thread of its own: an RSA key of 4096 bits takes seconds, for which no
/// runtime thread and no signing thread may be held.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeyError> + Send + 'static,
) -> Result<T, KeyError> {
    let (reply, answer) = oneshot::channel();
    spawn("key-files".to_owned(), move || {
        let _ = reply.send(work());
    })?;
    answer.await.unwrap_or_else(|_| Err(KeyError::Failed("the thread for key files ended".to_owned())))
}
