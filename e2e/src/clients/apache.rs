//! Apache with mod_md: a web server that gets its own certificates, and takes each into use when it is told to reload.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::{Eab, Issued, KeyType};
use crate::eventually;
use crate::process::{Log, Process};
use crate::program::{command, system_tool};

/// How long mod_md may take for what it does by itself.
const WITHIN: Duration = Duration::from_secs(30);

const MODULES: &str = "/usr/lib/apache2/modules";

/// An Apache with its own store, so its own account. Dropping it stops the process.
#[derive(Debug)]
pub struct Apache {
    directory: TempDir,
    server: String,
    http: SocketAddr,
    https: SocketAddr,
    /// More directives of mod_md.
    directives: Vec<String>,
    domains: String,
    log: Log,
    process: Option<Process>,
}

impl Apache {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for. Apache is to listen on these
    /// two addresses.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path, http: SocketAddr, https: SocketAddr) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-apache-").tempdir()?;
        let file = |name: &str| directory.path().join(name);
        // Read, and written, by the user that Apache becomes where it was started by root.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::copy(roots, file("roots.pem"))?;
        fs::set_permissions(file("roots.pem"), fs::Permissions::from_mode(0o644))?;
        fs::write(file("events"), "")?;
        fs::set_permissions(file("events"), fs::Permissions::from_mode(0o666))?;
        let script = format!("#!/bin/sh\nexec echo \"$*\" >> '{}'\n", file("events").display());
        fs::write(file("event.sh"), script)?;
        fs::set_permissions(file("event.sh"), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            directory,
            server: directory_url.to_owned(),
            http,
            https,
            directives: Vec::new(),
            domains: String::new(),
            log: Log::default(),
            process: None,
        })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        self.with(&format!("MDExternalAccountBinding {} {}", eab.kid, eab.hmac_key))
    }

    /// The same with one more directive of mod_md for all its domains.
    #[must_use]
    pub fn with(mut self, directive: &str) -> Self {
        self.directives.push(directive.to_owned());
        self
    }

    /// Adds a certificate for these names with keys of these types, answered by this type of challenge.
    pub fn add(&mut self, names: &[&str], keys: &[KeyType], challenge: &str) {
        let keys: Vec<_> = keys
            .iter()
            .map(|key| match key {
                KeyType::Ec256 => "secp256r1",
                KeyType::Ec384 => "secp384r1",
                KeyType::Rsa2048 => "RSA",
            })
            .collect();
        let (keys, names) = (keys.join(" "), names.join(" "));
        self.domains.push_str(&format!(
            "<MDomain {names}>\n\
             MDPrivateKeys {}\n\
             MDCAChallenges {challenge}\n\
             </MDomain>\n\
             <VirtualHost {}>\n\
             MDPrivateKeys {}\n\
             ServerName {}\n\
             Protocols http/1.1 acme-tls/1\n\
             SSLEngine on\n\
             </VirtualHost>\n",
            keys,
            self.https,
            // To be told here too: the answer to tls-alpn-01 is looked for by what the virtual host says.
            keys,
            names.replacen(' ', "\nServerAlias ", 1),
        ));
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(&mut self) -> Result<()> {
        let config = self.write_config("")?;
        let mut command = command(system_tool("apache2")?);
        command.arg("-DFOREGROUND").arg("-f").arg(config);
        command.env("HOME", self.directory.path()).current_dir(self.directory.path());
        self.process = Some(Process::start(&mut command, &self.log, "")?);
        Ok(())
    }

    /// Reloads, so that certificates that came since are taken into use.
    ///
    /// # Errors
    /// If it is not running.
    pub fn reload(&self) -> Result<()> {
        let process = self.process.as_ref().context("Apache is not running")?;
        Ok(kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGUSR1)?)
    }

    /// Reloads, with one more directive: `MDRenewWindow 2400h` makes every certificate due.
    ///
    /// # Errors
    /// If it is not running.
    pub fn reload_with(&self, directive: &str) -> Result<()> {
        self.write_config(directive)?;
        self.reload()
    }

    /// Waits until mod_md has told `event`, such as `renewed first.example.test`, so many times.
    ///
    /// # Errors
    /// If it does not in time; the error has its log.
    pub fn wait_for(&self, event: &str, times: usize) -> Result<()> {
        eventually(event, WITHIN, || {
            let events = fs::read_to_string(self.directory.path().join("events"))?;
            Ok((events.lines().filter(|line| *line == event).count() >= times).then_some(()))
        })
        .with_context(|| {
            let read = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            format!(
                "Apache's log:\n{}{}\nits events:\n{}",
                self.log.text(),
                read("error.log"),
                read("events")
            )
        })
    }

    /// The certificate for the domain with this first name and a key of this type that is in use.
    ///
    /// # Errors
    /// If there is none.
    pub fn certificate(&self, name: &str, key: KeyType) -> Result<Issued> {
        let files = self.directory.path().join("md/domains").join(name);
        let of = match key {
            KeyType::Ec256 => ".secp256r1",
            KeyType::Ec384 => ".secp384r1",
            KeyType::Rsa2048 => "",
        };
        Issued::keep(
            self.directory.path(),
            &files.join(format!("pubcert{of}.pem")),
            &files.join(format!("privkey{of}.pem")),
            String::new(),
        )
    }

    /// Stops it.
    ///
    /// # Errors
    /// If it does not stop in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().context("Apache is not running")?.stop()
    }

    fn write_config(&self, more: &str) -> Result<PathBuf> {
        let directory = self.directory.path().display();
        let mut text = format!(
            "ServerRoot {directory}\n\
             ServerName localhost\n\
             PidFile {directory}/pid\n\
             DefaultRuntimeDir {directory}\n\
             Mutex file:{directory} default\n\
             ErrorLog {directory}/error.log\n\
             LogLevel warn md:info\n\
             Listen {}\n\
             Listen {}\n",
            self.http, self.https
        );
        for module in ["mpm_event", "authz_core", "socache_shmcb", "ssl", "md"] {
            text.push_str(&format!("LoadModule {module}_module {MODULES}/mod_{module}.so\n"));
        }
        if geteuid().is_root() {
            // nobody, of the group nogroup.
            text.push_str("User #65534\nGroup #65534\n");
        }
        text.push_str(&format!(
            "MDStoreDir {directory}/md\n\
             MDCertificateAuthority {}\n\
             MDCACertificateFile {directory}/roots.pem\n\
             MDCertificateAgreement accepted\n\
             MDContactEmail operator@example.com\n\
             MDPortMap http:{} https:{}\n\
             MDStapling on\n\
             MDMessageCmd {directory}/event.sh\n",
            self.server,
            self.http.port(),
            self.https.port(),
        ));
        for line in self.directives.iter().map(String::as_str).chain([more]) {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&self.domains);
        let file = self.directory.path().join("httpd.conf");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // SIGKILL would leave its children; a test that failed has its own words for it.
            let _ = process.stop();
        }
    }
}
