//! The whole chain for the first time: one command, a certificate by an unmodified client, its check, its revocation.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use e2e::chancery::{Chancery, Keys, Settings};
use e2e::clients::{Certbot, Issued, KeyType};
use e2e::dns::{Data, Dns};
use e2e::judges::{self, Case, CertIdHash, Document, Status};
use e2e::program::{command, succeed, system_tool};
use e2e::{http, pem};

use crate::verdicts::expect_revoked;

on_both_key_backends! {
    certbot_gets_a_certificate_that_every_judge_accepts,
    a_revocation_is_seen_by_every_judge_within_a_second,
    a_certificate_is_revoked_by_its_own_key,
    the_same_ca_goes_on_after_a_stop_and_after_a_crash,
}

/// A running Chancery, a DNS zone for its validation, and a certbot that knows it.
struct Scene {
    chancery: Chancery,
    certbot: Certbot,
    _dns: Dns,
}

impl Scene {
    fn new(keys: Keys) -> Self {
        let dns = Dns::start().unwrap();
        for name in ["www.example.test", "example.test"] {
            dns.add(name, Data::A(Ipv4Addr::LOCALHOST));
        }
        let chancery = Chancery::start(&Settings::with(keys).dns(dns.address())).unwrap();
        let ready = chancery.ready().unwrap();
        let certbot = Certbot::new(&ready.acme_directory, &ready.roots_pem).unwrap();
        Self { chancery, certbot, _dns: dns }
    }

    fn roots(&self) -> &Path {
        &self.chancery.ready().unwrap().roots_pem
    }

    fn issue(&self, names: &[&str], key: KeyType) -> (Issued, Case) {
        let issued = self.certbot.http01(names, key, self.chancery.http01()).unwrap();
        let case = Case::new(self.roots(), &issued).unwrap();
        (issued, case)
    }
}

fn certbot_gets_a_certificate_that_every_judge_accepts(keys: Keys) {
    let mut scene = Scene::new(keys);
    let no_findings = Vec::<String>::new();
    for (names, key, algorithm) in [
        (["first.localhost"].as_slice(), KeyType::Ec256, "id-ecPublicKey"),
        (["www.example.test", "example.test"].as_slice(), KeyType::Rsa2048, "rsaEncryption"),
    ] {
        let (issued, case) = scene.issue(names, key);
        let text = openssl_text(&issued.certificate);
        assert!(text.contains(&format!("Public Key Algorithm: {algorithm}")), "{text}");
        for name in names {
            assert!(text.contains(&format!("DNS:{name}")), "{name} in {text}");
        }

        let crls = case.fetch_crls().unwrap();
        case.openssl_verify(&crls).unwrap();
        for name in names {
            case.gnutls_verify(&crls, Some(name)).unwrap();
        }
        assert_eq!(judges::pkilint(Document::Certificate, &issued.certificate).unwrap(), no_findings);
        for der in case.chain().unwrap() {
            assert_eq!(judges::pkilint_der(Document::Certificate, &der).unwrap(), no_findings);
        }
        assert_eq!(judges::pkilint_der(Document::Crl, &crls[0]).unwrap(), no_findings);
        assert_eq!(judges::pkilint_der(Document::AuthorityCrl, &crls[1]).unwrap(), no_findings);

        let url = case.ocsp_url().unwrap();
        assert_eq!(url, format!("{}/ocsp", scene.chancery.pki_url().unwrap()));
        for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
            for nonce in [false, true] {
                let answer = case.openssl_ocsp(&url, hash, nonce).unwrap();
                assert_eq!(answer.status, Status::Good, "{hash:?} {nonce}: {}", answer.output);
                assert_eq!(judges::pkilint(Document::OcspResponse, &answer.response).unwrap(), no_findings);
            }
        }
        for nonce in [false, true] {
            assert_eq!(case.gnutls_ocsp(&url, nonce).unwrap().status, Status::Good);
        }
    }

    let ready = scene.chancery.ready().unwrap();
    let roots = fs::read_to_string(&ready.roots_pem).unwrap();
    let served = http::get(&format!("{}/roots.pem", scene.chancery.pki_url().unwrap())).unwrap();
    assert_eq!((served.status, String::from_utf8(served.body).unwrap()), (200, roots.clone()));
    let [root] = pem::decode(&roots, "CERTIFICATE").unwrap().try_into().unwrap();
    assert_eq!(judges::pkilint_der(Document::Certificate, &root).unwrap(), no_findings);
    assert_eq!(hexadecimal(&ready.root_sha256), hexadecimal(&fingerprint(&ready.roots_pem)));
    scene.chancery.stop().unwrap();
}

fn a_revocation_is_seen_by_every_judge_within_a_second(keys: Keys) {
    let scene = Scene::new(keys);
    for (name, key) in [("first.localhost", KeyType::Ec256), ("example.test", KeyType::Rsa2048)] {
        let (issued, case) = scene.issue(&[name], key);
        let url = case.ocsp_url().unwrap();
        // Asked before, so that an answer which was kept would be seen.
        assert_eq!(case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap().status, Status::Good);
        assert_eq!(case.gnutls_ocsp(&url, false).unwrap().status, Status::Good);
        let serial = case.serial().unwrap();
        assert!(!judges::revoked_serials(&case.fetch_crls().unwrap()[0]).unwrap().contains(&serial));

        scene.certbot.revoke_by_account(&issued, "superseded").unwrap();
        expect_revoked(&case, "superseded");

        let no_findings = Vec::<String>::new();
        let crls = case.fetch_crls().unwrap();
        assert_eq!(judges::pkilint_der(Document::Crl, &crls[0]).unwrap(), no_findings);
        let error = case.openssl_verify(&crls).unwrap_err().to_string();
        assert!(error.contains("certificate revoked"), "{error}");
        let error = case.gnutls_verify(&crls, None).unwrap_err().to_string();
        assert!(error.contains("revoked"), "{error}");
        for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
            for nonce in [false, true] {
                let answer = case.openssl_ocsp(&url, hash, nonce).unwrap();
                assert_eq!(answer.status, Status::Revoked, "{hash:?} {nonce}: {}", answer.output);
                assert_eq!(judges::pkilint(Document::OcspResponse, &answer.response).unwrap(), no_findings);
            }
        }
        assert_eq!(case.gnutls_ocsp(&url, true).unwrap().status, Status::Revoked);
    }
}

fn a_certificate_is_revoked_by_its_own_key(keys: Keys) {
    let scene = Scene::new(keys);
    let (issued, case) = scene.issue(&["first.localhost"], KeyType::Ec256);
    // An account that never saw the certificate.
    let stranger = Certbot::new(&scene.chancery.ready().unwrap().acme_directory, scene.roots()).unwrap();
    stranger.revoke_by_certificate_key(&issued, "keycompromise").unwrap();
    expect_revoked(&case, "keyCompromise");
}

fn the_same_ca_goes_on_after_a_stop_and_after_a_crash(keys: Keys) {
    let mut scene = Scene::new(keys);
    let root = scene.chancery.ready().unwrap().root_sha256.clone();
    let (_, first_case) = scene.issue(&["first.localhost"], KeyType::Ec256);
    let (revoked, revoked_case) = scene.issue(&["example.test"], KeyType::Ec256);
    scene.certbot.revoke_by_account(&revoked, "cessationofoperation").unwrap();

    for crash in [false, true] {
        if crash {
            scene.chancery.kill().unwrap();
        } else {
            scene.chancery.stop().unwrap();
        }
        scene.chancery.restart().unwrap();
        assert_eq!(scene.chancery.ready().unwrap().root_sha256, root);
        let url = first_case.ocsp_url().unwrap();
        assert_eq!(first_case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap().status, Status::Good);
        first_case.openssl_verify(&first_case.fetch_crls().unwrap()).unwrap();
        expect_revoked(&revoked_case, "cessationOfOperation");
        // The account is known, and the next certificate is another one.
        let renewed = scene.certbot.renew("first.localhost").unwrap();
        let renewed_case = Case::new(scene.roots(), &renewed).unwrap();
        renewed_case.openssl_verify(&renewed_case.fetch_crls().unwrap()).unwrap();
        assert_ne!(renewed_case.serial().unwrap(), first_case.serial().unwrap());
    }
}

fn openssl_text(certificate: &Path) -> String {
    let mut command = command(system_tool("openssl").unwrap());
    succeed(command.args(["x509", "-noout", "-text", "-in"]).arg(certificate)).unwrap().stdout
}

fn fingerprint(certificate: &Path) -> String {
    let mut command = command(system_tool("openssl").unwrap());
    let arguments = ["x509", "-noout", "-fingerprint", "-sha256", "-in"];
    let text = succeed(command.args(arguments).arg(certificate)).unwrap().stdout;
    text.trim().split_once('=').unwrap().1.to_owned()
}

/// A fingerprint without the punctuation that its printers disagree on.
fn hexadecimal(fingerprint: &str) -> String {
    fingerprint.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
}
