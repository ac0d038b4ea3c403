//! acme-tiny: two hundred lines of Python that take keys and a CSR from OpenSSL and leave http-01 to a web server.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::{Issued, KeyType};
use crate::program::{command, python_tool, succeed, system_tool};

/// acme-tiny with its own account key.
#[derive(Debug)]
pub struct AcmeTiny {
    directory: TempDir,
    server: String,
    roots: PathBuf,
    webroot: PathBuf,
}

impl AcmeTiny {
    /// For the ACME directory at this URL, whose TLS certificate these roots (PEM) vouch for; http-01 is answered by the
    /// web server that serves `webroot`.
    ///
    /// # Errors
    /// If OpenSSL makes no account key, which must be RSA.
    pub fn new(directory_url: &str, roots: &Path, webroot: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-acme-tiny-").tempdir()?;
        let mut openssl = command(system_tool("openssl")?);
        succeed(openssl.args(["genrsa", "-out"]).arg(directory.path().join("account.key")).arg("2048"))?;
        Ok(Self {
            directory,
            server: directory_url.to_owned(),
            roots: roots.to_owned(),
            webroot: webroot.to_owned(),
        })
    }

    /// Gets a certificate for the key and CSR of these names, which are made the first time; later it is a renewal.
    ///
    /// # Errors
    /// If acme-tiny fails; the error has its output.
    pub fn run(&self, names: &[&str], key: KeyType) -> Result<Issued> {
        let first = names.first().context("a certificate needs a name")?;
        let file = |extension: &str| self.directory.path().join(format!("{first}.{extension}"));
        let (key_file, csr, bundle) = (file("key"), file("csr"), file("pem"));
        if !csr.exists() {
            let alternative: Vec<_> = names.iter().map(|name| general_name(name)).collect();
            let mut openssl = command(system_tool("openssl")?);
            openssl.args(["req", "-new", "-nodes", "-subj", "/", "-newkey"]);
            openssl.args(match key {
                KeyType::Ec256 => ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"].as_slice(),
                KeyType::Ec384 => &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
                KeyType::Rsa2048 => &["rsa:2048"],
            });
            openssl.args(["-addext", &format!("subjectAltName={}", alternative.join(","))]);
            succeed(openssl.arg("-keyout").arg(&key_file).arg("-out").arg(&csr))?;
        }
        let mut tiny = command(python_tool("acme-tiny")?);
        tiny.args(["--directory-url", &self.server, "--contact", "mailto:operator@example.com"]);
        tiny.arg("--account-key").arg(self.directory.path().join("account.key"));
        // It would fetch the challenge itself first, from port 80.
        tiny.arg("--csr").arg(csr).arg("--acme-dir").arg(&self.webroot).arg("--disable-check");
        tiny.env("SSL_CERT_FILE", &self.roots).env("HOME", self.directory.path());
        let finished = succeed(&mut tiny)?;
        fs::write(&bundle, &finished.stdout)?;
        Issued::keep(self.directory.path(), &bundle, &key_file, finished.to_string())
    }
}

/// A name or an address as OpenSSL's configuration has it.
fn general_name(name: &str) -> String {
    if name.parse::<IpAddr>().is_ok() { format!("IP:{name}") } else { format!("DNS:{name}") }
}
