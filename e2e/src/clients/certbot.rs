//! certbot: its own configuration directory, its own listener for http-01, hooks for dns-01.

use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Eab, Issued, KeyType, file_name};
use crate::dns::Dns;
use crate::program::{Finished, command, python_tool, succeed};

/// certbot with its own configuration directory, so its own account.
#[derive(Debug)]
pub struct Certbot {
    directory: TempDir,
    server: String,
    roots: PathBuf,
    eab: Option<Eab>,
    profile: Option<String>,
}

impl Certbot {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-certbot-").tempdir()?;
        Ok(Self {
            directory,
            server: directory_url.to_owned(),
            roots: roots.to_owned(),
            eab: None,
            profile: None,
        })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        Self { eab: Some(eab.clone()), ..self }
    }

    /// The same, which asks for a profile and takes no other.
    #[must_use]
    pub fn profile(self, profile: &str) -> Self {
        Self { profile: Some(profile.to_owned()), ..self }
    }

    /// Gets a certificate over http-01 for names and addresses; certbot's own server listens on `address`.
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
        command.args(["--force-renewal", "--no-random-sleep-on-renew", "--cert-name", &file_name(name)]);
        let finished = self.run(&mut command)?;
        self.issued(name, finished)
    }

    /// Renews what is due by the renewal information of its CA (RFC 9773), as a timer does.
    ///
    /// # Errors
    /// As [`Certbot::http01`].
    pub fn renew_due(&self) -> Result<Finished> {
        let mut command = self.command("renew")?;
        command.arg("--no-random-sleep-on-renew");
        self.run(&mut command)
    }

    /// The newest certificate of this first name.
    ///
    /// # Errors
    /// If certbot has none.
    pub fn current(&self, name: &str) -> Result<Issued> {
        self.issued(name, "nothing was run")
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
        command.args(["--cert-name", &file_name(first)]);
        if let Some(Eab { kid, hmac_key }) = &self.eab {
            command.args(["--eab-kid", kid, "--eab-hmac-key", hmac_key]);
        }
        if let Some(profile) = &self.profile {
            command.args(["--required-profile", profile]);
        }
        for name in names {
            let kind = if name.parse::<IpAddr>().is_ok() { "--ip-address" } else { "--domain" };
            command.args([kind, name]);
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
    fn issued(&self, name: &str, finished: impl Display) -> Result<Issued> {
        let live = self.directory.path().join("config/live").join(file_name(name));
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
