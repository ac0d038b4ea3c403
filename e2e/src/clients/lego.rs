//! lego: its own directory, its own listeners for http-01 and tls-alpn-01.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Eab, Issued, KeyType};
use crate::program::{Finished, command, succeed, system_tool};

/// lego with its own directory, so its own account.
#[derive(Debug)]
pub struct Lego {
    directory: TempDir,
    server: String,
    roots: PathBuf,
    eab: Option<Eab>,
}

/// How lego answers challenges, with the address where its own server listens.
#[derive(Clone, Copy, Debug)]
pub enum LegoChallenge {
    /// http-01.
    Http(SocketAddr),
    /// tls-alpn-01.
    Tls(SocketAddr),
}

impl Lego {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-lego-").tempdir()?;
        Ok(Self { directory, server: directory_url.to_owned(), roots: roots.to_owned(), eab: None })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        Self { eab: Some(eab.clone()), ..self }
    }

    /// Gets a certificate.
    ///
    /// # Errors
    /// If lego fails; the error has its output.
    pub fn run(&self, names: &[&str], key: KeyType, challenge: LegoChallenge) -> Result<Issued> {
        self.obtain(names, key, challenge, &["run", "--no-bundle"])
    }

    /// Renews it although it is not due.
    ///
    /// # Errors
    /// As [`Lego::run`].
    pub fn renew(&self, names: &[&str], key: KeyType, challenge: LegoChallenge) -> Result<Issued> {
        self.obtain(names, key, challenge, &["renew", "--no-bundle", "--no-random-sleep", "--days", "36500"])
    }

    /// Revokes the certificate of this first name, signed by the account's key, for a reason code of RFC 5280.
    ///
    /// # Errors
    /// As [`Lego::run`].
    pub fn revoke(&self, name: &str, reason: u8) -> Result<Finished> {
        let mut command = self.command(&[name])?;
        succeed(command.args(["revoke", "--keep", "--reason", &reason.to_string()]))
    }

    fn obtain(
        &self,
        names: &[&str],
        key: KeyType,
        challenge: LegoChallenge,
        verb: &[&str],
    ) -> Result<Issued> {
        let first = names.first().context("a certificate needs a name")?;
        let mut command = self.command(names)?;
        match challenge {
            LegoChallenge::Http(address) => command.args(["--http", "--http.port", &address.to_string()]),
            LegoChallenge::Tls(address) => command.args(["--tls", "--tls.port", &address.to_string()]),
        };
        command.arg("--key-type").arg(match key {
            KeyType::Ec256 => "ec256",
            KeyType::Ec384 => "ec384",
            KeyType::Rsa2048 => "rsa2048",
        });
        let finished = succeed(command.args(verb))?;
        // Copies, since a renewal overwrites lego's own files.
        let kept = tempfile::Builder::new().disable_cleanup(true).tempdir_in(self.directory.path())?;
        let file = |extension: &str| -> Result<PathBuf> {
            let name = format!("{}.{extension}", first.replace('*', "_"));
            let copy = kept.path().join(&name);
            fs::copy(self.directory.path().join("certificates").join(&name), &copy)
                .with_context(|| format!("lego left no {name}: {finished}"))?;
            Ok(copy)
        };
        Ok(Issued {
            certificate: file("crt")?,
            chain: file("issuer.crt")?,
            key: file("key")?,
            output: finished.to_string(),
        })
    }

    fn command(&self, names: &[&str]) -> Result<Command> {
        let mut command = command(system_tool("lego")?);
        command.args(["--server", &self.server, "--email", "operator@example.com", "--accept-tos", "--path"]);
        command.arg(self.directory.path());
        if let Some(Eab { kid, hmac_key }) = &self.eab {
            command.args(["--eab", "--kid", kid, "--hmac", hmac_key]);
        }
        for name in names {
            command.args([OsStr::new("--domains"), OsStr::new(name)]);
        }
        command.env("LEGO_CA_CERTIFICATES", &self.roots).env("HOME", self.directory.path());
        Ok(command)
    }
}
