//! Opens what a process works on: the store, the keys, and the authority over both.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use ca_core::authority::{Authority, Observer, Unobserved};
use ca_core::policy_hook::PolicyGate;
use ca_core::signing::{KeyBackend, KeyError};
use ca_core::store::{AuthorityReads, Role, Store};
use ca_core::time::{Clock, SystemClock};
use hsm::KeysConfig;
use store::lock::CaLock;
use store::permissions::Sharing;
use store::socket::RemoteStore;
use store::sqlite::{OpenError, SqliteStore, Writer, WriterOptions};

use crate::admin::execute::store_failure;
use crate::config::Config;
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::policy_hook::{PolicyMetrics, Webhook};
use crate::setup::keys_failure;

/// What is measured; clones share the same numbers.
#[derive(Clone)]
pub struct Instruments {
    /// Of signing keys.
    pub keys: hsm::Metrics,
    /// Of issuance.
    pub observer: Arc<dyn Observer>,
    /// Of the policy webhook.
    pub policy: PolicyMetrics,
}

impl Default for Instruments {
    fn default() -> Self {
        let (keys, policy) = (hsm::Metrics::default(), PolicyMetrics::default());
        Self { keys, observer: Arc::new(Unobserved), policy }
    }
}

/// The authority with the store that it writes. The lock is held for as long as this lives.
pub struct Opened {
    /// The authority.
    pub authority: Arc<Authority>,
    /// The store.
    pub store: Arc<SqliteStore>,
    /// Says that no other process writes.
    pub lock: CaLock,
}

/// Opens the keys and the store for writing, and puts the authority over both.
///
/// The keys first: a wrong PIN leaves no new store behind.
///
/// # Errors
/// What is missing, and what to do.
pub async fn authority(
    data: &DataDir,
    config: &Config,
    lock: CaLock,
    instruments: &Instruments,
) -> Result<Opened, Failure> {
    assemble(data, config, lock, instruments, hsm::open).await
}

/// As [`authority`], for a process that has other work too: a token that is away is waited for in the background.
///
/// # Errors
/// What is missing, and what to do; a wrong PIN, if the token says so at once.
pub async fn waiting_authority(
    data: &DataDir,
    config: &Config,
    lock: CaLock,
    instruments: &Instruments,
) -> Result<Opened, Failure> {
    assemble(data, config, lock, instruments, hsm::open_or_wait).await
}

async fn assemble(
    data: &DataDir,
    config: &Config,
    lock: CaLock,
    instruments: &Instruments,
    open: OpenKeys,
) -> Result<Opened, Failure> {
    let authority_config = config.authority()?;
    data.refuse_lost_store()?;
    let keys = backend(open, config.keys.clone(), data.path(), &instruments.keys).await?;
    let store = writer(data, config).await?;
    if data.roots_pem().exists() && store.issuers().await.map_err(store_failure)?.is_empty() {
        return Err(data.lost_store("holds no CA"));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let policy = policy(data, config, &store, &clock, &instruments.policy).await?;
    let mut authority =
        Authority::new(authority_config, shared, keys, clock, Arc::clone(&instruments.observer));
    if let Some(gate) = policy {
        authority = authority.with_policy(gate);
    }
    Ok(Opened { authority: Arc::new(authority), store, lock })
}

/// The policy service, if one is configured.
async fn policy(
    data: &DataDir,
    config: &Config,
    store: &SqliteStore,
    clock: &Arc<dyn Clock>,
    metrics: &PolicyMetrics,
) -> Result<Option<PolicyGate>, Failure> {
    let Some(section) = &config.policy.webhook else { return Ok(None) };
    if section.is_plain() && store.issuers().await.map_err(store_failure)?.iter().any(|issuer| !issuer.trial)
    {
        return Err(Failure::new(
            Code::Configuration,
            format!("policy.webhook.url: '{}' has no TLS, and this CA is not a trial", section.url),
            "give the policy service a certificate, and write https://HOST[:PORT]/PATH",
        ));
    }
    let hook = Webhook::open(section, data.path(), Arc::clone(clock), metrics.clone())?;
    Ok(Some(PolicyGate { hook: Arc::new(hook), on_failure: section.on_failure() }))
}

/// Opens the CA's keys off the runtime's threads: passphrases are stretched, and tokens take their time.
///
/// # Errors
/// [`Code::Keys`] with what to do.
pub async fn keys(
    config: &Config,
    directory: &Path,
    metrics: &hsm::Metrics,
) -> Result<Arc<dyn KeyBackend>, Failure> {
    backend(hsm::open, config.keys.clone(), directory, metrics).await
}

/// Opens the software keys of a role in the role's own directory; makes their passphrase at the first start.
///
/// # Errors
/// [`Code::Keys`] with what to do.
pub async fn role_keys(directory: &Path, metrics: &hsm::Metrics) -> Result<Arc<dyn KeyBackend>, Failure> {
    let passphrase = directory.join("passphrase");
    if !passphrase.exists() {
        hsm::create_passphrase_file(&passphrase).map_err(|error| keys_failure(&error))?;
    }
    let section = KeysConfig { passphrase_file: Some(passphrase), ..KeysConfig::default() };
    backend(hsm::open, section, directory, metrics).await
}

/// One of the ways to open a key backend.
type OpenKeys = fn(&KeysConfig, &Path, &hsm::Metrics) -> Result<Arc<dyn KeyBackend>, KeyError>;

async fn backend(
    open: OpenKeys,
    section: KeysConfig,
    directory: &Path,
    metrics: &hsm::Metrics,
) -> Result<Arc<dyn KeyBackend>, Failure> {
    let (directory, metrics) = (directory.to_owned(), metrics.clone());
    tokio::task::spawn_blocking(move || open(&section, &directory, &metrics))
        .await
        .unwrap_or_else(|_| Err(KeyError::Failed("opening the keys failed".to_owned())))
        .map_err(|error| keys_failure(&error))
}

async fn writer(data: &DataDir, config: &Config) -> Result<Arc<SqliteStore>, Failure> {
    let options = WriterOptions {
        sharing: Sharing::detect(),
        min_free_bytes: config.store.min_free_bytes,
        ..WriterOptions::default()
    };
    let directory = data.path().to_owned();
    let opened = tokio::task::spawn_blocking(move || Writer::open(&directory, options)).await;
    match opened {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(open_failure(&error)),
        Err(_) => Err(Failure::new(Code::Store, "opening the store failed", "run `chancery doctor`")),
    }
}

/// The base of ACME URLs.
///
/// # Errors
/// If it is none.
pub fn acme_url(config: &Config) -> Result<String, Failure> {
    let url = config.acme.base_url();
    url.map(str::to_owned).map_err(|e| Failure::new(Code::Configuration, e, "correct it in chancery.toml"))
}

/// Opens the store for one role of a process that does not write it, or, as role `ca`, for looking only.
///
/// # Errors
/// If threads can't be started.
pub fn remote(data: &DataDir, role: Role) -> Result<Arc<RemoteStore>, Failure> {
    RemoteStore::connect(data.path(), role).map_err(|error| open_failure(&error))
}

fn open_failure(error: &OpenError) -> Failure {
    let mut detail = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        // Writing to a String can't fail.
        let _ = write!(detail, ": {cause}");
        source = cause.source();
    }
    Failure::new(
        Code::Store,
        detail,
        "check that this user owns the data directory and that its disk has room; `chancery doctor` looks closer",
    )
}
