//! Real ACME clients, run as their users run them: certbot and lego, each with a directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::dns::Dns;
use crate::program::{Finished, command, python_tool, succeed, system_tool};

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

/// certbot with its own configuration directory, so its own account.
#[derive(Debug)]
pub struct Certbot {
    directory: TempDir,
    server: String,
    roots: PathBuf,
}

impl Certbot {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-certbot-").tempdir()?;
        Ok(Self { directory, server: directory_url.to_owned(), roots: roots.to_owned() })
    }

    /// Gets a certificate over http-01; certbot's own server listens on `address`.
    ///
    /// # Errors
    /// If certbot fails; the error has its output and its log.
    pub fn http01(&self, names: &[&str], key: KeyType, address: SocketAddr) -> Result<Issued> {
        let mut command = self.command("certonly")?;
        command.args(["--standalone", "--preferred-challenges", "http"]);
        command.args(["--http-01-address", &address.ip().to_string()]);
        command.args(["--http-01-port", &address.port().to_string()]);
        self.certonly(command, names, key)
    }

    /// Gets a certificate over dns-01, with hooks that write the zone of `dns`; names may be wildcards.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn dns01(&self, names: &[&str], key: KeyType, dns: &Dns) -> Result<Issued> {
        let (auth, cleanup) = dns.certbot_hooks(self.directory.path())?;
        let mut command = self.command("certonly")?;
        command.args(["--manual", "--preferred-challenges", "dns"]);
        command.arg("--manual-auth-hook").arg(auth).arg("--manual-cleanup-hook").arg(cleanup);
        self.certonly(command, names, key)
    }

    /// Renews the certificate of this first name although it is not due, in the way it was got.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn renew(&self, name: &str) -> Result<Issued> {
        let mut command = self.command("renew")?;
        command.args(["--force-renewal", "--no-random-sleep-on-renew", "--cert-name", &lineage(name)]);
        let finished = self.run(&mut command)?;
        self.issued(name, finished)
    }

    /// Revokes a certificate, signed by the account's key, for a reason such as `superseded`.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn revoke_by_account(&self, issued: &Issued, reason: &str) -> Result<Finished> {
        let mut command = self.command("revoke")?;
        command
            .args(["--no-delete-after-revoke", "--reason", reason])
            .arg("--cert-path")
            .arg(&issued.certificate);
        self.run(&mut command)
    }

    /// Revokes a certificate, signed by its own key.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn revoke_by_certificate_key(&self, issued: &Issued, reason: &str) -> Result<Finished> {
        let mut command = self.command("revoke")?;
        command
            .args(["--no-delete-after-revoke", "--reason", reason])
            .arg("--cert-path")
            .arg(&issued.certificate);
        command.arg("--key-path").arg(&issued.key);
        self.run(&mut command)
    }

    /// Changes the account's contact.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn update_account(&self, email: &str) -> Result<Finished> {
        let mut command = self.command("update_account")?;
        command.args(["--email", email, "--no-eff-email"]);
        self.run(&mut command)
    }

    /// Deactivates the account.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn unregister(&self) -> Result<Finished> {
        self.run(&mut self.command("unregister")?)
    }

    fn certonly(&self, mut command: Command, names: &[&str], key: KeyType) -> Result<Issued> {
        let first = names.first().context("a certificate needs a name")?;
        command.args(["--agree-tos", "--email", "operator@example.com", "--no-eff-email"]);
        command.args(["--cert-name", &lineage(first)]);
        for name in names {
            command.args(["--domain", name]);
        }
        command.args(match key {
            KeyType::Ec256 => ["--key-type", "ecdsa", "--elliptic-curve", "secp256r1"],
            KeyType::Ec384 => ["--key-type", "ecdsa", "--elliptic-curve", "secp384r1"],
            KeyType::Rsa2048 => ["--key-type", "rsa", "--rsa-key-size", "2048"],
        });
        let finished = self.run(&mut command)?;
        self.issued(first, finished)
    }

    /// The files behind certbot's links, which stay as they are when the certificate is renewed.
    fn issued(&self, name: &str, finished: Finished) -> Result<Issued> {
        let live = self.directory.path().join("config/live").join(lineage(name));
        let file = |name: &str| {
            fs::canonicalize(live.join(name)).with_context(|| format!("certbot left no {name}: {finished}"))
        };
        Ok(Issued {
            certificate: file("cert.pem")?,
            chain: file("chain.pem")?,
            key: file("privkey.pem")?,
            output: finished.to_string(),
        })
    }

    fn command(&self, verb: &str) -> Result<Command> {
        let mut command = command(python_tool("certbot")?);
        command.args([verb, "--non-interactive", "--server", &self.server]);
        for kind in ["config", "work", "logs"] {
            command.arg(format!("--{kind}-dir")).arg(self.directory.path().join(kind));
        }
        command.env("REQUESTS_CA_BUNDLE", &self.roots).env("HOME", self.directory.path());
        Ok(command)
    }

    fn run(&self, command: &mut Command) -> Result<Finished> {
        succeed(command).with_context(|| {
            let log = self.directory.path().join("logs/letsencrypt.log");
            format!("certbot; its log:\n{}", fs::read_to_string(log).unwrap_or_default())
        })
    }
}

/// certbot's name for a certificate, which becomes a directory: without the asterisk of a wildcard.
fn lineage(name: &str) -> String {
    name.replace("*.", "wildcard.")
}

/// lego with its own directory, so its own account.
#[derive(Debug)]
pub struct Lego {
    directory: TempDir,
    server: String,
    roots: PathBuf,
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
        Ok(Self { directory, server: directory_url.to_owned(), roots: roots.to_owned() })
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
        for name in names {
            command.args([OsStr::new("--domains"), OsStr::new(name)]);
        }
        command.env("LEGO_CA_CERTIFICATES", &self.roots).env("HOME", self.directory.path());
        Ok(command)
    }
}
