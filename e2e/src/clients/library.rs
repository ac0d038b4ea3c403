//! Two libraries that other people's programs use, each driven by a small program of ours: `acme` from PyPI, on which
//! certbot stands, and `acme-client` from npm.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Eab, Issued, KeyType, tools};
use crate::program::{command, python_tool, succeed, system_tool};

/// A program on a library, with its own account.
#[derive(Debug)]
pub struct Library {
    language: Language,
    directory: TempDir,
    server: String,
    roots: PathBuf,
    webroot: PathBuf,
    account_key: KeyType,
    eab: Option<Eab>,
}

#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    JavaScript,
}

/// What is ordered.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Names and addresses.
    pub names: &'a [&'a str],
    /// The key that the certificate is for.
    pub key: KeyType,
    /// A profile by name, of those that the ACME directory offers.
    pub profile: Option<&'a str>,
}

/// When a library would renew a certificate, asked for by RFC 9773, in seconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct RenewalInfo {
    /// A moment within the window, if the server told one.
    pub when: Option<f64>,
    /// When to ask again.
    pub again: f64,
}

impl Library {
    /// On the PyPI library `acme`, for the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for,
    /// with an account key of this type; http-01 is answered by the web server that serves `webroot`.
    ///
    /// # Errors
    /// If there is no room for its files.
    pub fn acme(directory_url: &str, roots: &Path, webroot: &Path, account_key: KeyType) -> Result<Self> {
        Self::new(Language::Python, directory_url, roots, webroot, account_key)
    }

    /// The same on the npm package `acme-client`.
    ///
    /// # Errors
    /// As [`Library::acme`].
    pub fn acme_client(
        directory_url: &str,
        roots: &Path,
        webroot: &Path,
        account_key: KeyType,
    ) -> Result<Self> {
        Self::new(Language::JavaScript, directory_url, roots, webroot, account_key)
    }

    fn new(
        language: Language,
        directory_url: &str,
        roots: &Path,
        webroot: &Path,
        account_key: KeyType,
    ) -> Result<Self> {
        Ok(Self {
            language,
            directory: tempfile::Builder::new().prefix("chancery-library-").tempdir()?,
            server: directory_url.to_owned(),
            roots: roots.to_owned(),
            webroot: webroot.to_owned(),
            account_key,
            eab: None,
        })
    }

    /// The same, which binds its account.
    #[must_use]
    pub fn bound(self, eab: &Eab) -> Self {
        Self { eab: Some(eab.clone()), ..self }
    }

    /// Gets a certificate over http-01. A renewal is the same again.
    ///
    /// # Errors
    /// If the library fails; the error has what it said.
    pub fn obtain(&self, order: &Order<'_>) -> Result<Issued> {
        let out = tempfile::tempdir_in(self.directory.path())?;
        let found = self.act(
            "obtain",
            json!({
                "names": order.names,
                "key": name(order.key),
                "profile": order.profile,
                "out": out.path(),
            }),
        )?;
        let file = |name: &str| out.path().join(name);
        Issued::keep(self.directory.path(), &file("bundle.pem"), &file("key.pem"), found.to_string())
    }

    /// Revokes a certificate, signed by the account's key, for a reason code of RFC 5280.
    ///
    /// # Errors
    /// As [`Library::obtain`].
    pub fn revoke(&self, issued: &Issued, reason: u8) -> Result<()> {
        let what = json!({ "certificate": issued.certificate, "reason": reason });
        self.act("revoke", what).map(drop)
    }

    /// Asks when to renew a certificate (RFC 9773); `acme` alone can.
    ///
    /// # Errors
    /// As [`Library::obtain`].
    pub fn renewal_info(&self, issued: &Issued) -> Result<RenewalInfo> {
        let found = self.act("renewal_info", json!({ "certificate": issued.certificate }))?;
        Ok(serde_json::from_value(found)?)
    }

    /// Gives the account a new key (RFC 8555 §7.3.5); `acme-client` alone can.
    ///
    /// # Errors
    /// As [`Library::obtain`].
    pub fn change_key(&self) -> Result<()> {
        self.act("change_key", json!({})).map(drop)
    }

    /// Deactivates the account.
    ///
    /// # Errors
    /// As [`Library::obtain`].
    pub fn deactivate(&self) -> Result<()> {
        self.act("deactivate", json!({})).map(drop)
    }

    fn act(&self, action: &str, mut request: Value) -> Result<Value> {
        let common = [
            ("action", json!(action)),
            ("directory", json!(self.server)),
            ("webroot", json!(self.webroot)),
            ("account", json!(self.directory.path().join("account.pem"))),
            ("account_key", json!(name(self.account_key))),
            ("eab", json!(self.eab.as_ref().map(|eab| json!({ "kid": eab.kid, "hmac_key": eab.hmac_key })))),
        ];
        for (member, value) in common {
            request[member] = value;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/clients");
        let mut command = match self.language {
            Language::Python => {
                let mut command = command(python_tool("python3")?);
                command.arg(sources.join("acme_library.py")).env("REQUESTS_CA_BUNDLE", &self.roots);
                command
            }
            Language::JavaScript => {
                let mut command = command(system_tool("node")?);
                command.arg(sources.join("acme_client/client.js")).env("NODE_EXTRA_CA_CERTS", &self.roots);
                command.env("NODE_PATH", tools()?.join("node/node_modules"));
                command
            }
        };
        let finished = succeed(command.arg(request.to_string()).env("HOME", self.directory.path()))?;
        serde_json::from_str(&finished.stdout).with_context(|| format!("no JSON: {finished}"))
    }
}

const fn name(key: KeyType) -> &'static str {
    match key {
        KeyType::Ec256 => "ec256",
        KeyType::Ec384 => "ec384",
        KeyType::Rsa2048 => "rsa2048",
    }
}
