//! The configuration section `[keys]`, and secrets read from files or systemd credentials.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ca_core::signing::KeyError;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A PIN or passphrase longer than this is a wrong file, not a secret.
const LONGEST_SECRET_BYTES: usize = 4096;

/// Which kind of backend keeps the keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Files under `DATA/keys`, encrypted under a passphrase.
    #[default]
    Software,
    /// A PKCS#11 token.
    Pkcs11,
}

/// The section `[keys]`: where the CA's keys live.
///
/// Keys of the backend that is not chosen may stay in the file, so that switching is one line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeysConfig {
    /// `software` or `pkcs11`.
    pub backend: BackendKind,
    /// Software: the file with the passphrase; relative to the systemd credentials or the data directory, and
    /// `passphrase` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// PKCS#11: the module's shared library, as `/usr/lib/softhsm/libsofthsm2.so`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<PathBuf>,
    /// PKCS#11: the label of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// PKCS#11: the file with the user PIN; relative to the systemd credentials or the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin_file: Option<PathBuf>,
    /// PKCS#11: how many sessions sign at a time; 4 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<NonZeroUsize>,
}

impl KeysConfig {
    /// The passphrase's file as configured, or its default.
    #[must_use]
    pub fn passphrase_file(&self) -> PathBuf {
        self.passphrase_file.clone().unwrap_or_else(|| PathBuf::from("passphrase"))
    }

    /// Module, token label and PIN file.
    pub(crate) fn pkcs11(&self) -> Result<(&Path, &str, &Path), KeyError> {
        fn needed<'a, T: ?Sized>(value: Option<&'a T>, key: &str) -> Result<&'a T, KeyError> {
            value.ok_or_else(|| {
                KeyError::Failed(format!("keys.{key} is not set, and keys.backend = \"pkcs11\" needs it"))
            })
        }
        Ok((
            needed(self.module.as_deref(), "module")?,
            needed(self.token.as_deref(), "token")?,
            needed(self.pin_file.as_deref(), "pin_file")?,
        ))
    }
}

/// Reads a PIN or passphrase from a file, without the newline that ends it.
///
/// A relative `path` that exists in `$CREDENTIALS_DIRECTORY` is a systemd credential; other relative paths are below
/// `data_dir`.
///
/// # Errors
/// [`KeyError::Failed`] if the file is missing, empty, longer than 4096 octets, not text, or open to other users; the
/// message names the file and the fix, never the content.
pub fn read_secret_file(path: &Path, data_dir: &Path) -> Result<SecretString, KeyError> {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    read_secret(&locate(path, data_dir, credentials.as_deref()))
}

/// Writes a new random passphrase of 256 bits to `path`, for one user only, and never over another file.
///
/// # Errors
/// [`KeyError::Failed`] if the file exists or can't be written.
pub fn create_passphrase_file(path: &Path) -> Result<(), KeyError> {
    let failed = |e: &dyn std::fmt::Display| {
        KeyError::Failed(format!("can't write the passphrase file {}: {e}", path.display()))
    };
    let mut random = Zeroizing::new([0; 32]);
    rand::fill(random.as_mut_slice()).map_err(|_| failed(&"the system gives no random numbers"))?;
    let text = Zeroizing::new(format!("{}\n", URL_SAFE_NO_PAD.encode(random.as_slice())));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| failed(&e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| failed(&e))?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| failed(&e))
}

fn locate(path: &Path, data_dir: &Path, credentials: Option<&Path>) -> PathBuf {
    let credential = credentials.filter(|_| path.is_relative()).map(|directory| directory.join(path));
    credential.filter(|file| fs::exists(file).unwrap_or(false)).unwrap_or_else(|| data_dir.join(path))
}

fn read_secret(path: &Path) -> Result<SecretString, KeyError> {
    let shown = path.display();
    let failed = |e: std::io::Error| KeyError::Failed(format!("can't read the secret file {shown}: {e}"));
    // Before it is opened: a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(KeyError::Failed(format!("the secret file {shown} is not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // Group read is allowed: credentials and mounted secrets arrive as 0440.
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err(KeyError::Failed(format!(
            "the secret file {shown} is open to other users (mode {mode:04o}): run `chmod 600 {shown}`, \
             and change the secret if others may have read it"
        )));
    }
    // One allocation of the largest size, so that no grown buffer leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_SECRET_BYTES + 1));
    file.take(LONGEST_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > LONGEST_SECRET_BYTES {
        return Err(KeyError::Failed(format!(
            "the secret file {shown} is longer than {LONGEST_SECRET_BYTES} octets: is it the right file?"
        )));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| KeyError::Failed(format!("the secret file {shown} is not text in UTF-8")))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(KeyError::Failed(format!("the secret file {shown} is empty: write the secret into it")));
    }
    Ok(SecretString::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_preferred_to_a_file_of_the_data_directory() {
        let (data, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let found = |name: &str| locate(Path::new(name), data.path(), Some(credentials.path()));
        assert_eq!(found("pin"), data.path().join("pin"));
        fs::write(credentials.path().join("pin"), "1").unwrap();
        assert_eq!(found("pin"), credentials.path().join("pin"));
        assert_eq!(found("/etc/pin"), Path::new("/etc/pin"));
    }
}
