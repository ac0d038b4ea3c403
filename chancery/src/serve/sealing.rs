//! The key that role acme opens secrets with: made at its first start, kept in its own directory, its public half
//! published in the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use acme_server::Service;
use acme_server::sealing::{SealingError, SealingKey};
use ca_core::store::Role;
use zeroize::Zeroizing;

use crate::data::{DataDir, replace};
use crate::failure::{Code, Failure};

/// The file in the directory of role acme.
const FILE: &str = "sealing.key";

/// How often publishing is tried while the store can't be reached.
const AGAIN: Duration = Duration::from_secs(2);
/// How often it is looked whether an operator had the published key forgotten.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Reads role acme's key, or makes it.
///
/// # Errors
/// If it can't be read or written, or is none.
pub(super) fn load_or_make(data: &DataDir) -> Result<SealingKey, Failure> {
    let path = data.role_directory(Role::Acme)?.join(FILE);
    let unusable = |error: SealingError| {
        Failure::new(
            Code::DataDirectory,
            format!("{}: {error}", path.display()),
            format!(
                "restore it from the backup; or move it away and run `chancery --data {} eab forget-sealing-key`: \
                 external accounts made so far can't be used for new ACME accounts then",
                data.path().display()
            ),
        )
    };
    match std::fs::read(&path).map(Zeroizing::new) {
        Ok(octets) => SealingKey::from_octets(&octets).map_err(unusable),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = SealingKey::generate().map_err(unusable)?;
            replace(&path, &key.to_octets(), 0o600).map_err(|e| data.unusable("write", &path, &e))?;
            Ok(key)
        }
        Err(e) => Err(data.unusable("read", &path, &e)),
    }
}

/// Publishes the key once the store takes it; never returns. `settled` is set when it is known which key is published.
pub(super) async fn publish(service: Service, settled: Arc<AtomicBool>) {
    let mut told = false;
    loop {
        match service.publish_sealing_key().await {
            Ok(true) => {
                settled.store(true, Ordering::Relaxed);
                told = false;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(false) => {
                settled.store(true, Ordering::Relaxed);
                if !told {
                    tracing::error!(
                        "the sealing key in acme/sealing.key is not the one that was published: new external accounts can't be used; restore the file, or run `chancery eab forget-sealing-key`"
                    );
                    told = true;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the sealing key can't be published yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
