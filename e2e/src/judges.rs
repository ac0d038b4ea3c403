//! Outside judges of what a CA signs: OpenSSL and GnuTLS.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::clients::Issued;
use crate::program::{command, succeed, system_tool};
use crate::{http, pem};

/// Everything that a judgement of one certificate needs, as PEM files of its own.
#[derive(Debug)]
pub struct Case {
    directory: TempDir,
    roots: PathBuf,
    issued: Issued,
}

/// What an OCSP responder says of a certificate, after the judge has verified the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked.
    Revoked,
    /// Nothing known.
    Unknown,
}

/// Which hash the CertID of an OCSP request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertIdHash {
    /// What most clients send.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// The OCSP status with the response that carried it.
#[derive(Debug)]
pub struct Answer {
    /// What the judge read in it.
    pub status: Status,
    /// The DER of the OCSPResponse.
    pub response: PathBuf,
    /// What the judge printed.
    pub output: String,
}

impl Case {
    /// About a certificate, with the roots that are to be trusted (PEM).
    ///
    /// # Errors
    /// If there is no room for files.
    pub fn new(roots: &Path, issued: &Issued) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-judge-").tempdir()?;
        Ok(Self { directory, roots: roots.to_owned(), issued: issued.clone() })
    }

    /// `openssl verify -x509_strict -crl_check_all` with these CRLs (DER).
    ///
    /// # Errors
    /// What OpenSSL found.
    pub fn openssl_verify(&self, crls: &[Vec<u8>]) -> Result<()> {
        let crls = self.write_crls(crls)?;
        let mut command = command(system_tool("openssl")?);
        command.args(["verify", "-x509_strict", "-crl_check_all", "-CAfile"]).arg(&self.roots);
        command
            .arg("-untrusted")
            .arg(&self.issued.chain)
            .arg("-CRLfile")
            .arg(crls)
            .arg(&self.issued.certificate);
        succeed(&mut command).map(drop)
    }

    /// `certtool --verify` with these CRLs (DER), and for this host name.
    ///
    /// # Errors
    /// What GnuTLS found.
    pub fn gnutls_verify(&self, crls: &[Vec<u8>], host: Option<&str>) -> Result<()> {
        let crls = self.write_crls(crls)?;
        let bundle = self.directory.path().join("bundle.pem");
        let text = fs::read_to_string(&self.issued.certificate)? + &fs::read_to_string(&self.issued.chain)?;
        fs::write(&bundle, text)?;
        let mut command = command(system_tool("certtool")?);
        command.args(["--verify", "--verify-profile", "medium", "--load-ca-certificate"]).arg(&self.roots);
        command.arg("--load-crl").arg(crls).arg("--infile").arg(bundle);
        if let Some(host) = host {
            command.args(["--verify-hostname", host]);
        }
        succeed(&mut command).map(drop)
    }

    /// `openssl ocsp` against the responder at `url`, its response verified up to the roots.
    ///
    /// # Errors
    /// If there is no response, or OpenSSL does not accept it.
    pub fn openssl_ocsp(&self, url: &str, hash: CertIdHash, nonce: bool) -> Result<Answer> {
        let response = self.directory.path().join("openssl-ocsp.der");
        let mut command = command(system_tool("openssl")?);
        command.args(["ocsp", "-url", url, "-timeout", "10"]);
        command.arg(if nonce { "-nonce" } else { "-no_nonce" });
        command.arg(match hash {
            CertIdHash::Sha1 => "-sha1",
            CertIdHash::Sha256 => "-sha256",
        });
        command.arg("-issuer").arg(self.issuer()?).arg("-cert").arg(&self.issued.certificate);
        command.arg("-CAfile").arg(&self.roots).arg("-verify_other").arg(&self.issued.chain);
        command.arg("-respout").arg(&response);
        let finished = succeed(&mut command)?;
        if nonce && finished.stderr.contains("no nonce in response") {
            bail!("the response does not echo the nonce: {finished}");
        }
        let subject = format!("{}: ", self.issued.certificate.display());
        let status = match finished.stdout.lines().find_map(|line| line.strip_prefix(&subject)) {
            Some("good") => Status::Good,
            Some("revoked") => Status::Revoked,
            Some("unknown") => Status::Unknown,
            _ => bail!("`openssl ocsp` named no status: {finished}"),
        };
        Ok(Answer { status, response, output: finished.stdout + &finished.stderr })
    }

    /// `ocsptool --ask` against the responder at `url`.
    ///
    /// # Errors
    /// If there is no response, or GnuTLS does not accept it.
    pub fn gnutls_ocsp(&self, url: &str, nonce: bool) -> Result<Answer> {
        let response = self.directory.path().join("gnutls-ocsp.der");
        let mut command = command(system_tool("ocsptool")?);
        command.arg(format!("--ask={url}")).arg(if nonce { "--nonce" } else { "--no-nonce" });
        command.arg("--load-cert").arg(&self.issued.certificate).arg("--load-issuer").arg(self.issuer()?);
        command.arg("--outder").arg("--outfile").arg(&response);
        let finished = succeed(&mut command)?;
        let line = |start: &str| {
            finished.stdout.lines().find_map(|line| line.trim().strip_prefix(start)?.strip_prefix(' '))
        };
        if line("Verifying OCSP Response:") != Some("Success.") {
            bail!("GnuTLS does not accept the response: {finished}");
        }
        let status = match line("Certificate Status:") {
            Some("good") => Status::Good,
            Some("revoked") => Status::Revoked,
            Some("unknown") => Status::Unknown,
            _ => bail!("`ocsptool` named no status: {finished}"),
        };
        Ok(Answer { status, response, output: finished.stdout + &finished.stderr })
    }

    /// The serial number as OpenSSL prints it: upper-case hexadecimal.
    ///
    /// # Errors
    /// If the certificate can't be read.
    pub fn serial(&self) -> Result<String> {
        let text = openssl_text(&self.issued.certificate, &["x509", "-noout", "-serial"])?;
        let serial = text.trim().strip_prefix("serial=").context("OpenSSL printed no serial number")?;
        Ok(serial.to_owned())
    }

    /// The OCSP responder that the certificate names in its AIA extension.
    ///
    /// # Errors
    /// If it names none or several.
    pub fn ocsp_url(&self) -> Result<String> {
        let text = openssl_text(&self.issued.certificate, &["x509", "-noout", "-ocsp_uri"])?;
        match text.lines().collect::<Vec<_>>().as_slice() {
            [url] => Ok((*url).to_owned()),
            urls => bail!("one OCSP URL expected, found {urls:?}"),
        }
    }

    /// Fetches the CRLs (DER) that the certificate and each certificate of its chain name, in that order.
    ///
    /// # Errors
    /// If a certificate names none, or one can't be fetched.
    pub fn fetch_crls(&self) -> Result<Vec<Vec<u8>>> {
        let mut certificates = vec![self.issued.certificate.clone()];
        for (number, der) in self.chain()?.iter().enumerate() {
            let file = self.directory.path().join(format!("chain-{number}.pem"));
            fs::write(&file, pem::encode(der, "CERTIFICATE"))?;
            certificates.push(file);
        }
        let mut crls = Vec::new();
        for certificate in certificates {
            let text = openssl_text(&certificate, &["x509", "-noout", "-ext", "crlDistributionPoints"])?;
            let url = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("URI:"))
                .with_context(|| format!("no CRL distribution point: {text}"))?;
            let response = http::get(url)?;
            if response.status != 200 {
                bail!("GET {url} answered {}", response.status);
            }
            crls.push(response.body);
        }
        Ok(crls)
    }

    /// The certificates between the leaf and the root, DER.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn chain(&self) -> Result<Vec<Vec<u8>>> {
        pem::decode(&fs::read_to_string(&self.issued.chain)?, "CERTIFICATE")
    }

    /// The certificate that issued the leaf, PEM.
    fn issuer(&self) -> Result<PathBuf> {
        let chain = self.chain()?;
        let issuer = chain.first().context("the chain is empty")?;
        let file = self.directory.path().join("issuer.pem");
        fs::write(&file, pem::encode(issuer, "CERTIFICATE"))?;
        Ok(file)
    }

    fn write_crls(&self, crls: &[Vec<u8>]) -> Result<PathBuf> {
        let file = self.directory.path().join("crls.pem");
        fs::write(&file, crls.iter().map(|der| pem::encode(der, "X509 CRL")).collect::<String>())?;
        Ok(file)
    }
}

/// The serial numbers in a CRL (DER), as OpenSSL prints them: upper-case hexadecimal.
///
/// # Errors
/// If OpenSSL can't read it.
pub fn revoked_serials(crl: &[u8]) -> Result<Vec<String>> {
    let file = tempfile::Builder::new().suffix(".crl").tempfile()?;
    fs::write(file.path(), crl)?;
    let text = openssl_text(file.path(), &["crl", "-inform", "DER", "-noout", "-text"])?;
    Ok(text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Serial Number: "))
        .map(str::to_owned)
        .collect())
}

/// A certificate as OpenSSL shows it to people.
///
/// # Errors
/// If it can't be read.
pub fn certificate_text(certificate: &Path) -> Result<String> {
    openssl_text(certificate, &["x509", "-noout", "-text"])
}

/// The SHA-256 fingerprint of a certificate: upper-case hexadecimal, its octets apart by colons.
///
/// # Errors
/// If it can't be read.
pub fn fingerprint(certificate: &Path) -> Result<String> {
    let text = openssl_text(certificate, &["x509", "-noout", "-fingerprint", "-sha256"])?;
    let (_, fingerprint) = text.trim().split_once('=').context("OpenSSL printed no fingerprint")?;
    Ok(fingerprint.to_owned())
}

fn openssl_text(file: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = command(system_tool("openssl")?);
    Ok(succeed(command.args(arguments).arg("-in").arg(file))?.stdout)
}
