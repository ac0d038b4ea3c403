//! Caddy: a web server that gets its own certificates, staples OCSP responses, and replaces what was revoked.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{Eab, Issued, KeyType, tools};
use crate::eventually;
use crate::process::{Log, Process};
use crate::program::{command, succeed, system_tool};

/// How long Caddy may take until a certificate is there.
const WITHIN: Duration = Duration::from_secs(30);

/// A Caddy with its own storage, so its own account. Dropping it kills the process.
#[derive(Debug)]
pub struct Caddy {
    directory: TempDir,
    server: String,
    roots: PathBuf,
    http: SocketAddr,
    https: SocketAddr,
    eab: Option<Eab>,
    log: Log,
    process: Option<Process>,
}

/// One name or address to serve.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The name or address.
    pub host: &'a str,
    /// The key that Caddy makes for its certificate: P-256 where the site says nothing of certificates.
    pub key: KeyType,
    /// Which challenge alone is answered; without, the site says nothing of certificates, and what holds for the whole
    /// server holds for it.
    pub challenge: Option<Challenge>,
}

/// A challenge that Caddy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// http-01.
    Http01,
    /// tls-alpn-01.
    TlsAlpn01,
}

impl Caddy {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for. Caddy is to listen on these
    /// two addresses.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn new(directory_url: &str, roots: &Path, http: SocketAddr, https: SocketAddr) -> Result<Self> {
        Ok(Self {
            directory: tempfile::Builder::new().prefix("chancery-caddy-").tempdir()?,
            server: directory_url.to_owned(),
            roots: roots.to_owned(),
            http,
            https,
            eab: None,
            log: Log::default(),
            process: None,
        })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        Self { eab: Some(eab.clone()), ..self }
    }

    /// Starts it with a Caddyfile for these sites.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(&mut self, sites: &[Site<'_>]) -> Result<()> {
        let file = self.write("Caddyfile", &self.caddyfile(sites))?;
        self.launch(&file)
    }

    /// As [`Caddy::start`], for a Caddy that takes a certificate as due for renewal that has lived a hundred thousandth of
    /// its time: a Caddyfile can't say this.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start_with_everything_due(&mut self, sites: &[Site<'_>]) -> Result<()> {
        let file = self.write("Caddyfile", &self.caddyfile(sites))?;
        let adapted = succeed(self.command()?.args(["adapt", "--config"]).arg(file))?.stdout;
        let mut config: Value = serde_json::from_str(&adapted).context("`caddy adapt` printed no JSON")?;
        let policies = config.pointer_mut("/apps/tls/automation/policies").and_then(Value::as_array_mut);
        for policy in policies.context("Caddy's configuration has no policies")? {
            policy["renewal_window_ratio"] = Value::from(0.999_99);
        }
        let file = self.write("caddy.json", &config.to_string())?;
        self.launch(&file)
    }

    /// Stops it, and forgets the OCSP responses that it has kept, as if they had got too old.
    ///
    /// # Errors
    /// If it does not stop in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().context("Caddy is not running")?.stop()?;
        let ocsp = self.directory.path().join("storage/ocsp");
        if ocsp.exists() {
            fs::remove_dir_all(ocsp)?;
        }
        Ok(())
    }

    /// The certificate for a host, once there is one that `wanted` accepts.
    ///
    /// # Errors
    /// If there is none in time; the error ends with Caddy's log.
    pub fn certificate(&self, host: &str, wanted: impl Fn(&Issued) -> Result<bool>) -> Result<Issued> {
        eventually("Caddy to get a certificate", WITHIN, || {
            let certificates = self.directory.path().join("storage/certificates");
            let Some(issuer) = fs::read_dir(&certificates).ok().and_then(|mut issuers| issuers.next()) else {
                return Ok(None);
            };
            let files = issuer?.path().join(host);
            let (bundle, key) = (files.join(format!("{host}.crt")), files.join(format!("{host}.key")));
            // Written last.
            if !files.join(format!("{host}.json")).exists() {
                return Ok(None);
            }
            let issued = Issued::keep(self.directory.path(), &bundle, &key, String::new())?;
            Ok(wanted(&issued)?.then_some(issued))
        })
        .with_context(|| format!("Caddy's log:\n{}", self.log.text()))
    }

    /// What Caddy logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn caddyfile(&self, sites: &[Site<'_>]) -> String {
        let Self { server, eab, .. } = self;
        let (roots, port) = (self.roots.display(), self.https.port());
        let mut text = format!(
            "{{\n\
             \tadmin off\n\
             \tstorage file_system {}\n\
             \thttp_port {}\n\
             \thttps_port {port}\n\
             \tdefault_bind {}\n\
             \tauto_https disable_redirects\n\
             \trenew_interval 1s\n\
             \temail operator@example.com\n\
             \tacme_ca {server}\n\
             \tacme_ca_root {roots}\n",
            self.directory.path().join("storage").display(),
            self.http.port(),
            self.https.ip(),
        );
        if let Some(Eab { kid, hmac_key }) = eab {
            text.push_str(&format!("\tacme_eab {{\n\t\tkey_id {kid}\n\t\tmac_key {hmac_key}\n\t}}\n"));
        }
        text.push_str("}\n");
        for Site { host, key, challenge } in sites {
            text.push_str(&format!("https://{host}:{port} {{\n\trespond \"hello\"\n"));
            let key = match key {
                KeyType::Ec256 => "p256",
                KeyType::Ec384 => "p384",
                KeyType::Rsa2048 => "rsa2048",
            };
            let other = match challenge {
                None => None,
                Some(Challenge::Http01) => Some("disable_tlsalpn_challenge"),
                Some(Challenge::TlsAlpn01) => Some("disable_http_challenge"),
            };
            if let Some(other) = other {
                let eab = eab.as_ref().map(|eab| format!("\t\t\teab {} {}\n", eab.kid, eab.hmac_key));
                text.push_str(&format!(
                    "\ttls {{\n\
                     \t\tkey_type {key}\n\
                     \t\tissuer acme {{\n\
                     \t\t\tdir {server}\n\
                     \t\t\ttrusted_roots {roots}\n\
                     \t\t\t{other}\n\
                     {}\
                     \t\t}}\n\
                     \t}}\n",
                    eab.unwrap_or_default(),
                ));
            }
            text.push_str("}\n");
        }
        text
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.path().join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    fn launch(&mut self, config: &Path) -> Result<()> {
        let mut command = self.command()?;
        command.args(["run", "--config"]).arg(config);
        self.process = Some(Process::start(&mut command, &self.log, "")?);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let unpacked = tools()?.join("debian/caddy/usr/bin/caddy");
        let program = if unpacked.is_file() { unpacked } else { system_tool("caddy")? };
        let mut command = command(program);
        command.env("HOME", self.directory.path()).current_dir(self.directory.path());
        Ok(command)
    }
}
