//! What every judge must say of a certificate, in one place for all tests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::Deadline;
use e2e::clients::Issued;
use e2e::judges::{self, Case, CertIdHash, Status};
use e2e::pem;
use e2e::pkilint::{Document, pkilint};
use tempfile::TempDir;

/// How soon OCSP and CRL must show a revocation after the client's call returned.
const VISIBLE_WITHIN: Duration = Duration::from_secs(1);

/// What pkilint is to find.
pub const NO_FINDINGS: Vec<String> = Vec::new();

/// Chain, CRLs and OCSP as OpenSSL and GnuTLS see them, and nothing at error level from pkilint.
pub fn expect_good(case: &Case, issued: &Issued, host: Option<&str>) {
    let crls = case.fetch_crls().unwrap();
    case.openssl_verify(&crls).unwrap();
    case.gnutls_verify(&crls, host).unwrap();
    let url = case.ocsp_url().unwrap();
    let answer = case.openssl_ocsp(&url, CertIdHash::Sha1, true).unwrap();
    assert_eq!(answer.status, Status::Good, "{}", answer.output);
    let mut findings = pkilint(&[
        (Document::Certificate, fs::read(&issued.certificate).unwrap()),
        (Document::Crl, crls[0].clone()),
        (Document::AuthorityCrl, crls[1].clone()),
        (Document::OcspResponse, fs::read(&answer.response).unwrap()),
    ])
    .unwrap();
    // RFC 5280 §4.2.1.6 leaves names with wildcards to those who use them (RFC 9525 §6.3); its linter knows none.
    findings
        .retain(|finding| !(finding.contains("pkix.invalid_domain_name_syntax") && finding.contains("\"*.")));
    assert_eq!(findings, NO_FINDINGS);
    assert_eq!(case.gnutls_ocsp(&url, false).unwrap().status, Status::Good);
}

/// Waits until OCSP says revoked for this reason, or for none, and the CRL has the serial, both within
/// [`VISIBLE_WITHIN`].
pub fn expect_revoked<'a>(case: &Case, reason: impl Into<Option<&'a str>>) {
    let reason = reason.into();
    let deadline = Deadline::after(VISIBLE_WITHIN);
    let url = case.ocsp_url().unwrap();
    let serial = case.serial().unwrap();
    // Whether it is late is asked before the look: one that began in time counts however long the judge takes.
    loop {
        let late = deadline.has_passed();
        let answer = case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap();
        let crls = case.fetch_crls().unwrap();
        let listed = judges::revoked_serials(&crls[0]).unwrap().contains(&serial);
        if answer.status == Status::Revoked && listed {
            let told = answer.output.lines().find_map(|line| line.trim().strip_prefix("Reason: "));
            assert_eq!(told, reason, "{}", answer.output);
            let error = case.openssl_verify(&crls).unwrap_err().to_string();
            assert!(error.contains("certificate revoked"), "{error}");
            break;
        }
        assert!(!late, "after {VISIBLE_WITHIN:?}: in the CRL: {listed}; OCSP: {}", answer.output);
    }
    assert_eq!(case.gnutls_ocsp(&url, false).unwrap().status, Status::Revoked);
}

/// A certificate that a client inside the test got, as files for the judges; they go away with this value.
pub struct Kept {
    pub issued: Issued,
    pub case: Case,
    _directory: TempDir,
}

impl Kept {
    /// From a chain in DER, the end-entity certificate first, without the root.
    pub fn new(roots: &Path, chain: &[Vec<u8>], key: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            file
        };
        let above: String = chain[1..].iter().map(|der| pem::encode(der, "CERTIFICATE")).collect();
        let issued = Issued {
            certificate: write("certificate.pem", &pem::encode(&chain[0], "CERTIFICATE")),
            chain: write("chain.pem", &above),
            key: write("key.pem", key),
            output: String::new(),
        };
        let case = Case::new(roots, &issued).unwrap();
        Self { issued, case, _directory: directory }
    }

    /// What OCSP says now.
    pub fn status(&self) -> Status {
        let url = self.case.ocsp_url().unwrap();
        self.case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap().status
    }
}
