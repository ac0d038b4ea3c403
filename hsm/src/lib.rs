//! Signing keys behind the traits of [`ca_core::signing`]: files encrypted at rest, or a PKCS#11 token.
//!
//! Both backends own their threads: a signature never runs on a runtime thread, requests wait in a bounded queue, and
//! a full queue or a token that is away is answered at once with [`SigningError::Unavailable`].
//!
//! [`SigningError::Unavailable`]: ca_core::signing::SigningError::Unavailable

#![forbid(unsafe_code)]

mod config;
mod metrics;
pub mod pkcs11;
mod queue;
pub mod software;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ca_core::signing::{KeyBackend, KeyError};

pub use config::{BackendKind, KeysConfig, create_passphrase_file, read_secret_file};
pub use metrics::Metrics;

use pkcs11::{Pkcs11Config, Pkcs11Keys};
use software::{SoftwareConfig, SoftwareKeys};

/// How long [`open_or_wait`] waits for a token's first answer: a login over a network takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the backend that the section `[keys]` describes; relative paths are below `data_dir`.
///
/// Blocks while the passphrase is stretched or the token is logged in to, so call it at start-up or on a blocking
/// thread. Only [`KeyError::Unavailable`] is worth another try later: above all, a wrong PIN must not be tried again
/// by a loop, or the token locks itself.
///
/// # Errors
/// [`KeyError::Failed`] for a configuration or a file at fault, [`KeyError::WrongPin`], and [`KeyError::Unavailable`]
/// if the token is not there now.
pub fn open(
    config: &KeysConfig,
    data_dir: &Path,
    metrics: &Metrics,
) -> Result<Arc<dyn KeyBackend>, KeyError> {
    match config.backend {
        BackendKind::Software => software(config, data_dir, metrics),
        BackendKind::Pkcs11 => Ok(Pkcs11Keys::open(pkcs11(config, data_dir)?, metrics)?),
    }
}

/// As [`open`], for a process that has other work too: a token that is away or gives no answer within 5 s is looked
/// for in the background until it comes, and what needs it is answered with [`KeyError::Unavailable`] or
/// [`SigningError::Unavailable`] meanwhile.
///
/// A PIN that the token refuses later is not tried again either, and told as [`KeyError::WrongPin`] from then on.
///
/// # Errors
/// [`KeyError::Failed`] and [`KeyError::WrongPin`], if the token said so by then.
///
/// [`SigningError::Unavailable`]: ca_core::signing::SigningError::Unavailable
pub fn open_or_wait(
    config: &KeysConfig,
    data_dir: &Path,
    metrics: &Metrics,
) -> Result<Arc<dyn KeyBackend>, KeyError> {
    match config.backend {
        BackendKind::Software => software(config, data_dir, metrics),
        BackendKind::Pkcs11 => Ok(Pkcs11Keys::open_or_wait(pkcs11(config, data_dir)?, metrics, PATIENCE)?),
    }
}

fn software(
    config: &KeysConfig,
    data_dir: &Path,
    metrics: &Metrics,
) -> Result<Arc<dyn KeyBackend>, KeyError> {
    let passphrase = read_secret_file(&config.passphrase_file(), data_dir)?;
    let software = SoftwareConfig::new(data_dir.join("keys"), passphrase);
    Ok(SoftwareKeys::open(software, metrics)?)
}

fn pkcs11(config: &KeysConfig, data_dir: &Path) -> Result<Pkcs11Config, KeyError> {
    let (module, token, pin_file) = config.pkcs11()?;
    let pin = read_secret_file(pin_file, data_dir)?;
    let mut pkcs11 = Pkcs11Config::new(module.to_owned(), token.to_owned(), pin);
    if let Some(sessions) = config.sessions {
        pkcs11.sessions = sessions.get();
    }
    Ok(pkcs11)
}
