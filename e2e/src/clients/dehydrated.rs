//! dehydrated: one bash script with a configuration file; a web server's directory for http-01, a hook for dns-01.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Eab, Issued, KeyType, file_name, write_script};
use crate::dns::Dns;
use crate::program::{Finished, command, succeed, system_tool};

/// dehydrated with its own directory, so its own account.
#[derive(Debug)]
pub struct Dehydrated {
    directory: TempDir,
}

impl Dehydrated {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for; http-01 is answered by the
    /// web server that serves `webroot`.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path, webroot: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-dehydrated-").tempdir()?;
        // Shell syntax; none of these has a quote in it.
        let config = format!(
            "CA='{directory_url}'\n\
             CURL_OPTS='--cacert {}'\n\
             WELLKNOWN='{}'\n\
             CONTACT_EMAIL=operator@example.com\n\
             KEYSIZE=2048\n",
            roots.display(),
            webroot.display()
        );
        fs::write(directory.path().join("config"), config)?;
        Ok(Self { directory })
    }

    /// The same, which binds its account.
    ///
    /// # Errors
    /// If its configuration can't be written.
    pub fn bound(self, eab: &Eab) -> Result<Self> {
        let mut config = OpenOptions::new().append(true).open(self.directory.path().join("config"))?;
        writeln!(config, "EAB_KID='{}'\nEAB_HMAC_KEY='{}'", eab.kid, eab.hmac_key)?;
        Ok(self)
    }

    /// Registers the account, which dehydrated does not do by itself.
    ///
    /// # Errors
    /// If dehydrated fails; the error has its output.
    pub fn register(&self) -> Result<Finished> {
        succeed(self.command()?.args(["--register", "--accept-terms"]))
    }

    /// Gets a certificate over http-01, or renews it although it is not due.
    ///
    /// # Errors
    /// As [`Dehydrated::register`].
    pub fn http01(&self, names: &[&str], key: KeyType) -> Result<Issued> {
        let mut command = self.command()?;
        command.args(["--challenge", "http-01"]);
        self.cron(command, names, key)
    }

    /// The same over dns-01, with a hook that writes the zone of `dns`; names may be wildcards.
    ///
    /// # Errors
    /// As [`Dehydrated::register`].
    pub fn dns01(&self, names: &[&str], key: KeyType, dns: &Dns) -> Result<Issued> {
        let (add, remove) = dns.certbot_hooks(self.directory.path())?;
        let hook = self.directory.path().join("hook.sh");
        let script = format!(
            "#!/bin/sh\nexport CERTBOT_DOMAIN=\"$2\" CERTBOT_VALIDATION=\"$4\"\n\
             case $1 in\n deploy_challenge) exec {} ;;\n clean_challenge) exec {} ;;\nesac\n",
            add.display(),
            remove.display()
        );
        write_script(&hook, &script)?;
        let mut command = self.command()?;
        command.args(["--challenge", "dns-01", "--hook"]).arg(hook);
        self.cron(command, names, key)
    }

    /// Revokes a certificate, signed by the account's key; dehydrated gives no reason.
    ///
    /// # Errors
    /// As [`Dehydrated::register`].
    pub fn revoke(&self, issued: &Issued) -> Result<Finished> {
        // dehydrated renames what it revoked.
        let copy = self.directory.path().join("revoke.pem");
        fs::copy(&issued.certificate, &copy)?;
        succeed(self.command()?.arg("--revoke").arg(copy))
    }

    /// Deactivates the account.
    ///
    /// # Errors
    /// As [`Dehydrated::register`].
    pub fn deactivate(&self) -> Result<Finished> {
        succeed(self.command()?.arg("--deactivate"))
    }

    fn cron(&self, mut command: Command, names: &[&str], key: KeyType) -> Result<Issued> {
        let first = names.first().context("a certificate needs a name")?;
        let alias = file_name(first);
        command.args(["--cron", "--force", "--alias", &alias]);
        for name in names {
            command.args(["--domain", name]);
        }
        command.args([
            "--algo",
            match key {
                KeyType::Ec256 => "prime256v1",
                KeyType::Ec384 => "secp384r1",
                KeyType::Rsa2048 => "rsa",
            },
        ]);
        let finished = succeed(&mut command)?;
        let files = self.directory.path().join("certs").join(alias);
        Issued::keep(
            self.directory.path(),
            &files.join("fullchain.pem"),
            &files.join("privkey.pem"),
            finished.to_string(),
        )
    }

    fn command(&self) -> Result<Command> {
        let mut command = command(system_tool("dehydrated")?);
        command.arg("--config").arg(self.directory.path().join("config"));
        command.env("HOME", self.directory.path());
        Ok(command)
    }
}
