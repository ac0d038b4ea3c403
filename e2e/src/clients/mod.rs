//! Real ACME clients, run as their users run them, each with a directory of its own, so an account of its own.

mod acme_tiny;
mod apache;
mod caddy;
mod certbot;
mod dehydrated;
mod lego;
mod library;
mod served;
mod uacme;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub use acme_tiny::AcmeTiny;
pub use apache::Apache;
pub use caddy::{Caddy, Challenge, Site};
pub use certbot::Certbot;
pub use dehydrated::Dehydrated;
pub use lego::{Lego, LegoChallenge};
pub use library::{Library, Order, RenewalInfo};
pub use served::{Served, served};
pub use uacme::Uacme;

use crate::pem;

/// The key that a client makes for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// P-256.
    Ec256,
    /// P-384.
    Ec384,
    /// RSA with 2048 bits.
    Rsa2048,
}

impl KeyType {
    /// The algorithm as OpenSSL names it in a certificate.
    #[must_use]
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Ec256 | Self::Ec384 => "id-ecPublicKey",
            Self::Rsa2048 => "rsaEncryption",
        }
    }
}

/// A certificate as a client keeps it on disk.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The end-entity certificate alone, PEM.
    pub certificate: PathBuf,
    /// The certificates between it and the root, PEM.
    pub chain: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// What the client printed.
    pub output: String,
}

impl Issued {
    /// Copies of what a client left in two files, the certificate with its chain and the key: a renewal overwrites the
    /// client's own.
    ///
    /// # Errors
    /// If a file can't be read, or there is no chain.
    fn keep(directory: &Path, bundle: &Path, key: &Path, output: String) -> Result<Self> {
        let read = |file: &Path| {
            fs::read_to_string(file).with_context(|| format!("no {}: {output}", file.display()))
        };
        let certificates = pem::decode(&read(bundle)?, "CERTIFICATE")?;
        let [leaf, chain @ ..] = certificates.as_slice() else { bail!("no certificate: {output}") };
        if chain.is_empty() {
            bail!("no chain in {}: {output}", bundle.display());
        }
        let kept = tempfile::Builder::new().prefix("kept-").disable_cleanup(true).tempdir_in(directory)?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = kept.path().join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(file)
        };
        let above: String = chain.iter().map(|der| pem::encode(der, "CERTIFICATE")).collect();
        Ok(Self {
            certificate: write("certificate.pem", &pem::encode(leaf, "CERTIFICATE"))?,
            chain: write("chain.pem", &above)?,
            key: write("key.pem", &read(key)?)?,
            output,
        })
    }
}

/// What `chancery eab create` gave a client to bind its account with.
#[derive(Clone, Debug)]
pub struct Eab {
    /// The key identifier.
    pub kid: String,
    /// The MAC key in base64url.
    pub hmac_key: String,
}

/// Where `cargo xtask tools` puts what no package manager of the system installs.
fn tools() -> Result<PathBuf> {
    let home = std::env::home_dir().context("there is no home directory")?;
    Ok(home.join(".cache/chancery-tools"))
}

/// A name that can be a file's: without the asterisk of a wildcard.
fn file_name(name: &str) -> String {
    name.replace("*.", "wildcard.")
}

/// Writes a script that only its owner may run.
fn write_script(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o700))?;
    Ok(())
}
