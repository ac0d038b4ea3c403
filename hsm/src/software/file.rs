//! The files of a software key directory: their format, their encryption, and writing them so that none is ever lost
//! or overwritten.
//!
//! # Format, version 1
//!
//! All files are JSON objects with `version` (1) and `checksum`, base64 without padding, mode 0600. `checksum` is the
//! SHA-256 of every other value; it is no defence against an attacker, but tells a damaged file from a wrong
//! passphrase.
//!
//! `master.json`: `iterations`, `salt` (32 octets), `check` (32 octets).
//! The master key is PBKDF2-HMAC-SHA256 (RFC 8018) of the passphrase, 32 octets; `check` is
//! HKDF-SHA256 (RFC 5869) of it with `salt` and the info `chancery passphrase check`.
//!
//! `LABEL.key`: `label`, `algorithm`, `public_key` (a SubjectPublicKeyInfo), `salt` (32 octets), `nonce` (12 octets),
//! `ciphertext`. The ciphertext is the key's PKCS#8 under AES-256-GCM, its tag at the end. The key is HKDF-SHA256 of
//! the master key with `salt` and the info `chancery key file`; the associated data is
//! `chancery key file 1 LABEL ALGORITHM `, followed by `public_key`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hkdf, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ca_core::pkix::public_key::PublicKey;
use ca_core::signing::{KeyAlgorithm, KeyError, KeyLabel};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::key::PrivateKey;

const VERSION: u32 = 1;
const MASTER: &str = "master.json";
/// More would hold up a start by minutes: the file is damaged or hostile.
const MOST_ITERATIONS: u32 = 50_000_000;
/// An RSA-4096 key takes about 5 KB.
const LARGEST_FILE_BYTES: u64 = 64 * 1024;

/// Octets that JSON carries as base64.
#[derive(Clone)]
struct Octets(Vec<u8>);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// `master.json`; changing it needs a new version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MasterFile {
    version: u32,
    iterations: NonZeroU32,
    salt: Octets,
    check: Octets,
    checksum: Octets,
}

/// `LABEL.key`; changing it needs a new version.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    label: KeyLabel,
    algorithm: KeyAlgorithm,
    public_key: Octets,
    salt: Octets,
    nonce: Octets,
    ciphertext: Octets,
    checksum: Octets,
}

impl MasterFile {
    fn checksum(&self) -> Octets {
        checksum(&[
            &self.version.to_be_bytes(),
            &self.iterations.get().to_be_bytes(),
            &self.salt.0,
            &self.check.0,
        ])
    }
}

impl KeyFile {
    fn checksum(&self) -> Octets {
        checksum(&[
            &self.version.to_be_bytes(),
            self.label.as_str().as_bytes(),
            self.algorithm.name().as_bytes(),
            &self.public_key.0,
            &self.salt.0,
            &self.nonce.0,
            &self.ciphertext.0,
        ])
    }

    fn associated_data(label: &KeyLabel, algorithm: KeyAlgorithm, public_key: &[u8]) -> Vec<u8> {
        let mut data = format!("chancery key file {VERSION} {label} {algorithm} ").into_bytes();
        data.extend_from_slice(public_key);
        data
    }
}

/// SHA-256 over the parts, each after its length.
fn checksum(parts: &[&[u8]]) -> Octets {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    Octets(context.finish().as_ref().to_vec())
}

/// A key directory whose passphrase was right.
pub(super) struct Directory {
    path: PathBuf,
    master: Zeroizing<[u8; 32]>,
}

impl Directory {
    /// Opens the directory, or makes it if there is none; stretches the passphrase once.
    pub(super) fn open(
        path: &Path,
        passphrase: &SecretString,
        iterations: NonZeroU32,
    ) -> Result<Self, KeyError> {
        make_directory(path)?;
        let file = path.join(MASTER);
        if !fs::exists(&file).map_err(|e| io_error("read", &file, &e))? {
            if !labels(path)?.is_empty() {
                return Err(KeyError::Failed(format!(
                    "{} is missing, and the keys beside it can't be read without it: restore it from a backup",
                    file.display()
                )));
            }
            match create_master(path, passphrase, iterations) {
                // Another process was first; its file is the one that counts.
                Ok(()) | Err(WriteError::Exists) => {}
                Err(WriteError::Io(e)) => return Err(io_error("write", &file, &e)),
            }
        }
        let header: MasterFile = read_json(&file)?;
        if header.version != VERSION || header.checksum().0 != header.checksum.0 {
            return Err(damaged(&file, header.version));
        }
        if header.iterations.get() > MOST_ITERATIONS {
            return Err(KeyError::Failed(format!(
                "{} asks for {} iterations, and more than {MOST_ITERATIONS} are not taken: restore it from a backup",
                file.display(),
                header.iterations
            )));
        }
        let master = stretch(passphrase, &header.salt.0, header.iterations);
        verify_slices_are_equal(&check_value(&master, &header.salt.0)?, &header.check.0).map_err(|_| {
            KeyError::WrongPin(format!(
                "the passphrase is not the one that {} was made with: check keys.passphrase_file",
                path.display()
            ))
        })?;
        Ok(Self { path: path.to_owned(), master })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Every label in the directory, sorted.
    pub(super) fn labels(&self) -> Result<Vec<KeyLabel>, KeyError> {
        labels(&self.path)
    }

    /// A key's kind, without decrypting it.
    pub(super) fn algorithm(&self, label: &KeyLabel) -> Result<KeyAlgorithm, KeyError> {
        Ok(self.read_file(label)?.1.algorithm)
    }

    /// Whether a file holds this label.
    pub(super) fn contains(&self, label: &KeyLabel) -> Result<bool, KeyError> {
        let path = self.key_path(label);
        fs::exists(&path).map_err(|e| io_error("read", &path, &e))
    }

    /// Decrypts a key.
    pub(super) fn read(&self, label: &KeyLabel) -> Result<PrivateKey, KeyError> {
        let (path, mut file) = self.read_file(label)?;
        let damage = || damaged(&path, VERSION);
        let nonce = Nonce::try_assume_unique_for_key(&file.nonce.0).map_err(|_| damage())?;
        let data = KeyFile::associated_data(&file.label, file.algorithm, &file.public_key.0);
        let mut buffer = Zeroizing::new(std::mem::take(&mut file.ciphertext.0));
        let pkcs8 = self
            .file_key(&file.salt.0)
            .and_then(|key| key.open_in_place(nonce, Aad::from(data), &mut buffer).map_err(|_| Crypto))
            .map_err(|Crypto| damage())?;
        let key = PrivateKey::from_pkcs8(file.algorithm, pkcs8).map_err(|_| damage())?;
        if key.public_key().spki_der() != file.public_key.0 {
            return Err(damage());
        }
        Ok(key)
    }

    /// Encrypts and writes a key; when this returns, the key survives a power cut.
    pub(super) fn write(
        &self,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
        public_key: &PublicKey,
        mut pkcs8: Zeroizing<Vec<u8>>,
    ) -> Result<(), WriteError> {
        let public_key = public_key.spki_der();
        let (salt, nonce) = (random::<32>()?, random::<NONCE_LEN>()?);
        let data = KeyFile::associated_data(label, algorithm, public_key);
        let tag = self
            .file_key(&salt)?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(data), &mut pkcs8)
            .map_err(|_| Crypto)?;
        let mut ciphertext = pkcs8.to_vec();
        ciphertext.extend_from_slice(tag.as_ref());
        let mut file = KeyFile {
            version: VERSION,
            label: label.clone(),
            algorithm,
            public_key: Octets(public_key.to_vec()),
            salt: Octets(salt.to_vec()),
            nonce: Octets(nonce.to_vec()),
            ciphertext: Octets(ciphertext),
            checksum: Octets(Vec::new()),
        };
        file.checksum = file.checksum();
        write_new(&self.path, &format!("{label}.key"), &file)
    }

    fn key_path(&self, label: &KeyLabel) -> PathBuf {
        self.path.join(format!("{label}.key"))
    }

    fn read_file(&self, label: &KeyLabel) -> Result<(PathBuf, KeyFile), KeyError> {
        let path = self.key_path(label);
        if !self.contains(label)? {
            return Err(KeyError::NotFound { label: label.to_string(), place: super::place(&self.path) });
        }
        let file: KeyFile = read_json(&path)?;
        if file.version != VERSION || file.checksum().0 != file.checksum.0 || file.label != *label {
            return Err(damaged(&path, file.version));
        }
        Ok((path, file))
    }

    fn file_key(&self, salt: &[u8]) -> Result<LessSafeKey, Crypto> {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.master.as_slice());
        let key = secret.expand(&[b"chancery key file"], &AES_256_GCM).map_err(|_| Crypto)?;
        Ok(LessSafeKey::new(UnboundKey::from(key)))
    }
}

/// Why a file was not written.
pub(super) enum WriteError {
    Exists,
    Io(std::io::Error),
}

/// A cryptographic operation failed where only a broken machine lets it fail, or where a file is damaged.
#[derive(Debug)]
struct Crypto;

impl From<Crypto> for WriteError {
    fn from(Crypto: Crypto) -> Self {
        Self::Io(std::io::Error::other("encryption failed"))
    }
}

impl From<Crypto> for KeyError {
    fn from(Crypto: Crypto) -> Self {
        Self::Failed("deriving a key from the passphrase failed".to_owned())
    }
}

pub(super) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> KeyError {
    KeyError::Failed(format!("can't {what} {}: {error}", path.display()))
}

fn damaged(path: &Path, version: u32) -> KeyError {
    let path = path.display();
    KeyError::Failed(if version == VERSION {
        format!("the key file {path} is damaged: restore it from a backup")
    } else {
        format!("the key file {path} has version {version}, and this program reads version {VERSION}")
    })
}

fn random<const N: usize>() -> Result<[u8; N], Crypto> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Crypto)?;
    Ok(bytes)
}

fn stretch(passphrase: &SecretString, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<[u8; 32]> {
    let mut master = Zeroizing::new([0; 32]);
    let secret = passphrase.expose_secret().as_bytes();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, secret, master.as_mut_slice());
    master
}

fn check_value(master: &[u8; 32], salt: &[u8]) -> Result<[u8; 32], Crypto> {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(master);
    let mut check = [0; 32];
    secret
        .expand(&[b"chancery passphrase check"], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut check))
        .map_err(|_| Crypto)?;
    Ok(check)
}

fn create_master(
    directory: &Path,
    passphrase: &SecretString,
    iterations: NonZeroU32,
) -> Result<(), WriteError> {
    let salt = random::<32>()?;
    let master = stretch(passphrase, &salt, iterations);
    let check = check_value(&master, &salt)?;
    let mut file = MasterFile {
        version: VERSION,
        iterations,
        salt: Octets(salt.to_vec()),
        check: Octets(check.to_vec()),
        checksum: Octets(Vec::new()),
    };
    file.checksum = file.checksum();
    write_new(directory, MASTER, &file)
}

fn make_directory(path: &Path) -> Result<(), KeyError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_directory(path.parent().unwrap_or(path)).map_err(|e| io_error("write", path, &e)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path).map_err(|e| io_error("read", path, &e))?;
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 == 0 {
                return Ok(());
            }
            Err(KeyError::Failed(format!(
                "the key directory {path} is open to other users (mode {mode:04o}): run `chmod 700 {path}`",
                path = path.display()
            )))
        }
        Err(e) => Err(io_error("make the key directory", path, &e)),
    }
}

fn labels(directory: &Path) -> Result<Vec<KeyLabel>, KeyError> {
    let failed = |e: std::io::Error| io_error("list", directory, &e);
    let mut labels = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let label = name.to_str().and_then(|name| name.strip_suffix(".key"));
        labels.extend(label.and_then(|label| KeyLabel::try_from(label.to_owned()).ok()));
    }
    labels.sort();
    Ok(labels)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, KeyError> {
    let size = fs::metadata(path).map_err(|e| io_error("read", path, &e))?.len();
    if size > LARGEST_FILE_BYTES {
        return Err(damaged(path, VERSION));
    }
    let bytes = fs::read(path).map_err(|e| io_error("read", path, &e))?;
    serde_json::from_slice(&bytes).map_err(|_| damaged(path, VERSION))
}

/// Writes a whole file under a name that is still free: a temporary file, synced, then linked to its name.
///
/// A link, not a rename, since a rename would replace a file of that name.
fn write_new<T: Serialize>(directory: &Path, name: &str, content: &T) -> Result<(), WriteError> {
    let io = WriteError::Io;
    let mut text = serde_json::to_vec_pretty(content).map_err(|e| io(e.into()))?;
    text.push(b'\n');
    let suffix = u64::from_be_bytes(random::<8>()?);
    let temporary = directory.join(format!(".{name}.{suffix:016x}"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::hard_link(&temporary, directory.join(name))
    })();
    // Best effort: a temporary file that stays is encrypted and never read.
    let removed = fs::remove_file(&temporary);
    match written {
        Ok(()) => removed.and_then(|()| sync_directory(directory)).map_err(io),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(WriteError::Exists),
        Err(e) => Err(io(e)),
    }
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(directory)?.sync_all()
}
