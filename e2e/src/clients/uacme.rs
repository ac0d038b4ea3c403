//! uacme: one program in C on GnuTLS and libcurl, with a hook for every challenge.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::geteuid;
use tempfile::TempDir;

use super::{Eab, Issued, KeyType, write_script};
use crate::dns::Dns;
use crate::program::{Finished, command, succeed, system_tool};

/// The system's roots, which are the only ones that uacme knows.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// uacme with its own configuration directory, so its own account.
#[derive(Debug)]
pub struct Uacme {
    directory: TempDir,
    server: String,
    roots: PathBuf,
    webroot: PathBuf,
    eab: Option<Eab>,
}

impl Uacme {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for; http-01 is answered by the
    /// web server that serves `webroot`.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path, webroot: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-uacme-").tempdir()?;
        Ok(Self {
            directory,
            server: directory_url.to_owned(),
            roots: roots.to_owned(),
            webroot: webroot.to_owned(),
            eab: None,
        })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        Self { eab: Some(eab.clone()), ..self }
    }

    /// Makes the account, which uacme does not do by itself.
    ///
    /// # Errors
    /// If uacme fails; the error has its output.
    pub fn register(&self) -> Result<Finished> {
        let mut command = self.command()?;
        if let Some(Eab { kid, hmac_key }) = &self.eab {
            command.args(["--eab", &format!("{kid}:{hmac_key}")]);
        }
        succeed(command.args(["--yes", "new", "operator@example.com"]))
    }

    /// Gets a certificate over http-01 for names or addresses, or renews it although it is not due; a renewal keeps the
    /// key.
    ///
    /// # Errors
    /// As [`Uacme::register`].
    pub fn http01(&self, names: &[&str], key: KeyType) -> Result<Issued> {
        // The hook that comes with it.
        let mut command = self.command()?;
        command.args(["--hook", "/usr/share/uacme/uacme.sh"]).env("UACME_CHALLENGE_PATH", &self.webroot);
        self.issue(command, names, key)
    }

    /// The same over dns-01, with a hook that writes the zone of `dns`; names may be wildcards.
    ///
    /// # Errors
    /// As [`Uacme::register`].
    pub fn dns01(&self, names: &[&str], key: KeyType, dns: &Dns) -> Result<Issued> {
        let (add, remove) = dns.certbot_hooks(self.directory.path())?;
        // It sees METHOD TYPE IDENTIFIER TOKEN AUTH, and declines a type of challenge by failing at `begin`.
        let script = format!(
            "#!/bin/sh\n\
             [ \"$2\" = dns-01 ] || exit 1\n\
             export CERTBOT_DOMAIN=\"$3\" CERTBOT_VALIDATION=\"$5\"\n\
             if [ \"$1\" = begin ]; then exec {}; else exec {}; fi\n",
            add.display(),
            remove.display()
        );
        let hook = self.directory.path().join("hook.sh");
        write_script(&hook, &script)?;
        let mut command = self.command()?;
        command.arg("--hook").arg(hook);
        self.issue(command, names, key)
    }

    /// Gives the account a new key (RFC 8555 §7.3.5).
    ///
    /// # Errors
    /// As [`Uacme::register`].
    pub fn change_key(&self) -> Result<Finished> {
        succeed(self.command()?.arg("newkey"))
    }

    /// Revokes a certificate, signed by the account's key, for a reason code of RFC 5280.
    ///
    /// # Errors
    /// As [`Uacme::register`].
    pub fn revoke(&self, issued: &Issued, reason: u8) -> Result<Finished> {
        // uacme renames what it revoked.
        let copy = self.directory.path().join("revoke.pem");
        std::fs::copy(&issued.certificate, &copy)?;
        succeed(self.command()?.args(["--reason", &reason.to_string(), "revoke"]).arg(copy))
    }

    /// Deactivates the account.
    ///
    /// # Errors
    /// As [`Uacme::register`].
    pub fn deactivate(&self) -> Result<Finished> {
        succeed(self.command()?.arg("deactivate"))
    }

    fn issue(&self, mut command: Command, names: &[&str], key: KeyType) -> Result<Issued> {
        let first = names.first().context("a certificate needs a name")?;
        command.arg("--force");
        command.args(match key {
            KeyType::Ec256 => ["--type", "EC", "--bits", "256"],
            KeyType::Ec384 => ["--type", "EC", "--bits", "384"],
            KeyType::Rsa2048 => ["--type", "RSA", "--bits", "2048"],
        });
        let finished = succeed(command.arg("issue").args(names))?;
        let files = self.directory.path();
        let name = first.trim_start_matches("*.");
        Issued::keep(
            files,
            &files.join(name).join("cert.pem"),
            &files.join("private").join(name).join("key.pem"),
            finished.to_string(),
        )
    }

    /// uacme trusts the system's roots only, so it runs where ours have their place: in a mount namespace of its own, and
    /// in a user namespace that allows this to those who are not root.
    fn command(&self) -> Result<Command> {
        let mut command = command(system_tool("unshare")?);
        command.arg("--mount");
        if !geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["/bin/sh", "-ec", "mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"", "sh"]);
        command.arg(&self.roots).arg(SYSTEM_ROOTS);
        command.arg(system_tool("uacme")?).args(["--verbose", "--acme-url", &self.server, "--confdir"]);
        command.arg(self.directory.path()).env("HOME", self.directory.path());
        Ok(command)
    }
}
