//! Keys in a PKCS#11 token (OASIS PKCS #11 2.40 and later), which never leave it.
//!
//! One process may use several tokens of one module, and one token through several backends.

mod client;
mod failure;
mod module;
mod token;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::pkix::public_key::PublicKey;
use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyDescription, KeyError, KeyLabel, Signature, SignatureAlgorithm,
    SigningError, SigningKey,
};
use ca_core::time::Stopwatch;
use secrecy::SecretString;
use serde::Serialize;

use crate::Metrics;
use crate::metrics::ErrorKind;
use crate::queue::lock;
use client::Client;
use failure::Failure;
use module::ModuleUse;
use token::TokenKey;

const BACKEND: &str = "pkcs11";

/// Which token, and how to use it.
#[derive(Clone, Debug)]
pub struct Pkcs11Config {
    /// The module's shared library.
    pub module: PathBuf,
    /// The token's label.
    pub token_label: String,
    /// The user PIN.
    pub pin: SecretString,
    /// How many sessions, each with a thread; at least one is opened.
    pub sessions: usize,
    /// How many requests may wait for a session.
    pub queue: usize,
    /// How long a caller waits for a signature, or to open or list keys.
    pub request_timeout: Duration,
    /// How long a caller waits for a new key; RSA keys take tokens up to minutes. The token may still finish a key
    /// that nobody waits for any more.
    pub generate_timeout: Duration,
    /// The pause after the first failed attempt to bring a lost token back; it doubles with each further one.
    pub first_retry: Duration,
    /// The longest such pause.
    pub longest_retry: Duration,
}

impl Pkcs11Config {
    /// Four sessions, 256 waiting requests, 10 s for a request, 3 minutes for a new key, retries after 100 ms to 5 s.
    #[must_use]
    pub fn new(module: PathBuf, token_label: String, pin: SecretString) -> Self {
        Self {
            module,
            token_label,
            pin,
            sessions: 4,
            queue: 256,
            request_timeout: Duration::from_secs(10),
            generate_timeout: Duration::from_secs(180),
            first_retry: Duration::from_millis(100),
            longest_retry: Duration::from_secs(5),
        }
    }
}

/// What a module says of one of its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenDescription {
    /// The slot's number, which may change from start to start.
    pub slot: u64,
    /// The token's label, by which the configuration names it.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial_number: String,
}

impl fmt::Display for TokenDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' ({}, slot {})", self.label, self.model, self.slot)
    }
}

/// Every initialised token of a module. Blocks while the module starts.
///
/// # Errors
/// [`KeyError::Failed`] if `module` is no PKCS#11 module; [`KeyError::Unavailable`] if it does not start.
pub fn tokens(module: &Path) -> Result<Vec<TokenDescription>, KeyError> {
    Ok(ModuleUse::open(module)?.with(|loaded| loaded.describe_tokens())?)
}

/// A token, logged in, or waited for.
pub struct Pkcs11Keys {
    client: Arc<Client>,
    /// Held from looking for a label to making its key.
    generating: Arc<Mutex<()>>,
}

impl Pkcs11Keys {
    /// Loads the module, unless this process uses it already, finds the token and logs in once.
    ///
    /// Blocks for as long as the token takes to answer.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] if the token is not there, naming those that are; [`KeyError::WrongPin`], which must
    /// not be retried with the same PIN; [`KeyError::Failed`] if the module can't be used.
    pub fn open(config: Pkcs11Config, metrics: &Metrics) -> Result<Arc<Self>, KeyError> {
        Self::with(Client::open(config, metrics, None)?)
    }

    /// As [`Pkcs11Keys::open`], but a token that is away, or does not answer within `patience`, is looked for until it
    /// comes: until then everything is answered with [`KeyError::Unavailable`] and [`SigningError::Unavailable`].
    ///
    /// A PIN that the token refuses later is not tried again; it is told as [`KeyError::WrongPin`] from then on.
    ///
    /// # Errors
    /// [`KeyError::WrongPin`] and [`KeyError::Failed`] as of [`Pkcs11Keys::open`], if they are known by then.
    pub fn open_or_wait(
        config: Pkcs11Config,
        metrics: &Metrics,
        patience: Duration,
    ) -> Result<Arc<Self>, KeyError> {
        Self::with(Client::open(config, metrics, Some(patience))?)
    }

    fn with(client: Client) -> Result<Arc<Self>, KeyError> {
        Ok(Arc::new(Self { client: Arc::new(client), generating: Arc::default() }))
    }
}

impl KeyBackend for Pkcs11Keys {
    fn place(&self) -> String {
        self.client.place()
    }

    fn generate<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        Box::pin(async move {
            let (wanted, generating) = (label.clone(), Arc::clone(&self.generating));
            let made = self.client.run(self.client.config().generate_timeout, move |connection| {
                let _one_at_a_time = lock(&generating);
                connection.generate(&wanted, algorithm)
            });
            made.await.map_err(|failure| failure.into_key_error(Some(label), &self.place()))
        })
    }

    fn open<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, KeyError>> {
        Box::pin(async move {
            let wanted = label.clone();
            let limit = self.client.config().request_timeout;
            let opened = self.client.run(limit, move |connection| connection.open(&wanted, algorithm));
            let key = opened.await.map_err(|failure| failure.into_key_error(Some(label), &self.place()))?;
            self.client.remember(&key);
            let client = Arc::clone(&self.client);
            let key: Arc<dyn SigningKey> = Arc::new(Pkcs11Key { client, key: Arc::new(key) });
            Ok(key)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyDescription>, KeyError>> {
        Box::pin(async move {
            let limit = self.client.config().request_timeout;
            let listed = self.client.run(limit, |connection| connection.list());
            listed.await.map_err(|failure| failure.into_key_error(None, &self.place()))
        })
    }
}

/// One key of a token; it stays usable after its [`Pkcs11Keys`] is dropped.
struct Pkcs11Key {
    client: Arc<Client>,
    key: Arc<TokenKey>,
}

impl SigningKey for Pkcs11Key {
    fn label(&self) -> &KeyLabel {
        &self.key.label
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm
    }

    fn public_key(&self) -> &PublicKey {
        &self.key.public_key
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Signature, SigningError>> {
        Box::pin(async move {
            let clock = Stopwatch::start();
            let (key, octets) = (Arc::clone(&self.key), message.to_vec());
            let limit = self.client.config().request_timeout;
            let signed = self.client.run(limit, move |connection| connection.sign(&key, &octets)).await;
            let metrics = self.client.metrics();
            match &signed {
                Ok(_) => metrics.signed(BACKEND, self.key.algorithm, clock.elapsed()),
                Err(failure) => metrics.failed(
                    BACKEND,
                    match failure {
                        Failure::Lost(_) | Failure::NotFound | Failure::Doubtful(_) => ErrorKind::TokenLost,
                        Failure::Busy(_) => ErrorKind::QueueFull,
                        Failure::Timeout(_) => ErrorKind::Timeout,
                        Failure::WrongPin(_)
                        | Failure::Exists
                        | Failure::Unsuitable(_)
                        | Failure::Refused(_) => ErrorKind::Refused,
                    },
                ),
            }
            signed.map_err(|failure| failure.into_signing_error(&self.key.label))
        })
    }
}
