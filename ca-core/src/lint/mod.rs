//! Lint before sign: rules over the to-be-signed certificate, one rule a file. Nothing that fails a rule reaches a key.

mod authority_key;
mod names;
mod serial;
mod usage;
mod validity;

use der::Decode;
use thiserror::Error;
use x509_cert::TbsCertificate;

use crate::pkix::certificate::CaCertificate;

/// What a rule looks at.
pub struct Subject<'a> {
    /// The to-be-signed certificate as it will be signed.
    pub tbs: &'a TbsCertificate,
    /// The CA certificate of the issuer; `None` for a root's own.
    pub issuer: Option<&'a CaCertificate>,
    /// Whether it is to be a CA certificate.
    pub ca: bool,
}

/// One rule: its name, and what it finds wrong.
struct Rule {
    name: &'static str,
    check: fn(&Subject<'_>) -> Result<(), String>,
}

const RULES: [Rule; 5] = [
    Rule { name: "serial", check: serial::check },
    Rule { name: "validity", check: validity::check },
    Rule { name: "authority-key", check: authority_key::check },
    Rule { name: "usage", check: usage::check },
    Rule { name: "names", check: names::check },
];

/// What lint found: our own mistake, or a configuration that can't work. Nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the certificate was not signed, lint refuses it: {}", .0.join("; "))]
pub struct LintFindings(pub Vec<String>);

/// Judges a TBSCertificate in DER by every rule.
///
/// # Errors
/// All findings, each with its rule's name.
pub fn lint(tbs: &[u8], issuer: Option<&CaCertificate>, ca: bool) -> Result<(), LintFindings> {
    let tbs = TbsCertificate::from_der(tbs).map_err(|error| {
        LintFindings(vec![format!("der: the TBSCertificate can't be read back: {error}")])
    })?;
    let subject = Subject { tbs: &tbs, issuer, ca };
    let findings: Vec<String> = RULES
        .iter()
        .filter_map(|rule| (rule.check)(&subject).err().map(|finding| format!("{}: {finding}", rule.name)))
        .collect();
    if findings.is_empty() { Ok(()) } else { Err(LintFindings(findings)) }
}

/// Fixtures: certificates of our own making, with one thing changed.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::time::Duration;

    use x509_cert::ext::pkix::KeyUsages;

    use crate::pkix::certificate::{CaCertificate, CertificateContent};
    use crate::pkix::extensions;
    use crate::pkix::identifier::Identifier;
    use crate::pkix::name::distinguished_name;
    use crate::pkix::public_key::{PublicKey, spki_from_octets};
    use crate::pkix::serial::SerialNumber;
    use crate::signing::{KeyAlgorithm, SignatureAlgorithm};
    use crate::time::Timestamp;

    /// A public key; whose does not matter.
    pub fn key() -> PublicKey {
        spki_from_octets(KeyAlgorithm::Ed25519, &[9; 32]).unwrap()
    }

    /// The CA that the good certificate is from.
    pub fn issuer() -> CaCertificate {
        CaCertificate {
            subject: distinguished_name(Some("Example"), Some("Example CA")).unwrap(),
            serial: SerialNumber::from_be_bytes(&[7; 20]).unwrap(),
            public_key: key(),
            key_identifier: vec![5; 20],
            not_before: Timestamp::from_seconds(1_700_000_000),
            not_after: Timestamp::from_seconds(2_000_000_000),
            path_length: Some(0),
        }
    }

    /// A certificate that every rule accepts.
    pub fn good() -> CertificateContent {
        let not_before = Timestamp::from_seconds(1_800_000_000);
        let names = [Identifier::from_text("www.example.org").unwrap()];
        CertificateContent {
            serial: SerialNumber::from_be_bytes(&[0x42; 20]).unwrap(),
            signature: SignatureAlgorithm::Ed25519,
            issuer: issuer().subject,
            not_before,
            not_after: not_before.plus(Duration::from_hours(24)),
            subject: distinguished_name(None, Some("www.example.org")).unwrap(),
            public_key: key(),
            extensions: vec![
                extensions::authority_key_identifier(&[5; 20]).unwrap(),
                extensions::subject_key_identifier(&key().key_identifier()).unwrap(),
                extensions::key_usage(KeyUsages::DigitalSignature).unwrap(),
                extensions::extended_key_usage(const_oid::db::rfc5280::ID_KP_SERVER_AUTH).unwrap(),
                extensions::subject_alt_name(&names, false).unwrap(),
            ],
        }
    }

    /// What lint says of a certificate from the fixture's issuer.
    pub fn findings(content: &CertificateContent) -> Vec<String> {
        let tbs = content.to_tbs_der().unwrap();
        super::lint(&tbs, Some(&issuer()), false).err().map(|findings| findings.0).unwrap_or_default()
    }

    /// Asserts that exactly one rule objects.
    pub fn assert_only(content: &CertificateContent, rule: &str) {
        let findings = findings(content);
        assert!(findings.len() == 1 && findings[0].starts_with(&format!("{rule}: ")), "{findings:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_certificate_has_no_findings() {
        assert_eq!(fixtures::findings(&fixtures::good()), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_tbs_certificate_is_refused() {
        assert!(lint(&[0x30, 0], None, false).is_err());
    }
}
