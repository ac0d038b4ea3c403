//! The whole chain for the first time: a certificate by an unmodified client, its check by every judge, its revocation.

use std::fs;

use e2e::chancery::{Chancery, Keys, Settings};
use e2e::clients::{Certbot, KeyType};
use e2e::deployment::Layout;
use e2e::judges::{self, Case, CertIdHash, Status};
use e2e::pkilint::{Document, pkilint};
use e2e::{http, pem};

use crate::scene::Scene;
use crate::verdicts::{NO_FINDINGS, expect_revoked};

in_every_deployment! {
    certbot_gets_a_certificate_that_every_judge_accepts,
    a_revocation_is_seen_by_every_judge_within_a_second,
}

on_both_key_backends! {
    the_same_ca_goes_on_after_a_stop_and_after_a_crash,
}

fn certbot_gets_a_certificate_that_every_judge_accepts(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let certbot = scene.certbot();
    for (names, key, algorithm) in [
        (["first.localhost"].as_slice(), KeyType::Ec256, "id-ecPublicKey"),
        (["www.example.test", "example.test"].as_slice(), KeyType::Rsa2048, "rsaEncryption"),
    ] {
        let issued = certbot.http01(names, key, scene.ca.http01).unwrap();
        let case = scene.case(&issued);
        let text = judges::certificate_text(&issued.certificate).unwrap();
        assert!(text.contains(&format!("Public Key Algorithm: {algorithm}")), "{text}");
        for name in names {
            assert!(text.contains(&format!("DNS:{name}")), "{name} in {text}");
        }

        let crls = case.fetch_crls().unwrap();
        case.openssl_verify(&crls).unwrap();
        for name in names {
            case.gnutls_verify(&crls, Some(name)).unwrap();
        }
        assert_eq!(case.ocsp_url().unwrap(), scene.ca.ocsp_url);
        let mut documents = vec![
            (Document::Certificate, fs::read(&issued.certificate).unwrap()),
            (Document::Crl, crls[0].clone()),
            (Document::AuthorityCrl, crls[1].clone()),
        ];
        documents.extend(case.chain().unwrap().into_iter().map(|der| (Document::Certificate, der)));
        documents.extend(expect_every_ocsp_answer(&case, Status::Good));
        assert_eq!(pkilint(&documents).unwrap(), NO_FINDINGS);
    }

    let roots = fs::read_to_string(&scene.ca.roots_pem).unwrap();
    let served = http::get(&format!("{}/roots.pem", scene.ca.pki_url)).unwrap();
    assert_eq!((served.status, String::from_utf8(served.body).unwrap()), (200, roots.clone()));
    let [root] = pem::decode(&roots, "CERTIFICATE").unwrap().try_into().unwrap();
    assert_eq!(pkilint(&[(Document::Certificate, root)]).unwrap(), NO_FINDINGS);
    let listed = scene.ca.cli(&["root", "list"]).unwrap();
    let fingerprint = judges::fingerprint(&scene.ca.roots_pem).unwrap();
    assert_eq!(hexadecimal(listed[0]["sha256"].as_str().unwrap()), hexadecimal(&fingerprint));
    scene.ca.stop().unwrap();
}

fn a_revocation_is_seen_by_every_judge_within_a_second(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let certbot = scene.certbot();
    for (name, key, by_account) in
        [("first.localhost", KeyType::Ec256, false), ("example.test", KeyType::Rsa2048, true)]
    {
        let issued = certbot.http01(&[name], key, scene.ca.http01).unwrap();
        let case = scene.case(&issued);
        let url = case.ocsp_url().unwrap();
        // Asked before, so that an answer which was kept would be seen.
        assert_eq!(case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap().status, Status::Good);
        assert_eq!(case.gnutls_ocsp(&url, false).unwrap().status, Status::Good);
        let serial = case.serial().unwrap();
        assert!(!judges::revoked_serials(&case.fetch_crls().unwrap()[0]).unwrap().contains(&serial));

        if by_account {
            certbot.revoke_by_account(&issued, "superseded").unwrap();
            expect_revoked(&case, "superseded");
        } else {
            // An account that never saw the certificate.
            scene.certbot().revoke_by_certificate_key(&issued, "keycompromise").unwrap();
            expect_revoked(&case, "keyCompromise");
        }

        let crls = case.fetch_crls().unwrap();
        let error = case.openssl_verify(&crls).unwrap_err().to_string();
        assert!(error.contains("certificate revoked"), "{error}");
        let error = case.gnutls_verify(&crls, None).unwrap_err().to_string();
        assert!(error.contains("revoked"), "{error}");
        let mut documents = vec![(Document::Crl, crls[0].clone())];
        documents.extend(expect_every_ocsp_answer(&case, Status::Revoked));
        assert_eq!(pkilint(&documents).unwrap(), NO_FINDINGS);
    }
}

fn the_same_ca_goes_on_after_a_stop_and_after_a_crash(keys: Keys) {
    let mut chancery = Chancery::start(&Settings::with(keys)).unwrap();
    let ready = chancery.ready().unwrap().clone();
    let root = judges::fingerprint(&ready.roots_pem).unwrap();
    assert_eq!(hexadecimal(&ready.root_sha256), hexadecimal(&root));
    let certbot = Certbot::new(&ready.acme_directory, &ready.roots_pem).unwrap();
    let issue = |name| {
        let issued = certbot.http01(&[name], KeyType::Ec256, chancery.http01()).unwrap();
        (Case::new(&ready.roots_pem, &issued).unwrap(), issued)
    };
    let (first, _) = issue("first.localhost");
    let (revoked, revoked_issued) = issue("second.localhost");
    certbot.revoke_by_account(&revoked_issued, "cessationofoperation").unwrap();

    for crash in [false, true] {
        if crash {
            chancery.kill().unwrap();
        } else {
            chancery.stop().unwrap();
        }
        chancery.restart().unwrap();
        assert_eq!(chancery.ready().unwrap().root_sha256, ready.root_sha256);
        let url = first.ocsp_url().unwrap();
        assert_eq!(first.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap().status, Status::Good);
        first.openssl_verify(&first.fetch_crls().unwrap()).unwrap();
        expect_revoked(&revoked, "cessationOfOperation");
        // The account is known, and the next certificate is another one.
        let renewed = certbot.renew("first.localhost").unwrap();
        let renewed = Case::new(&ready.roots_pem, &renewed).unwrap();
        renewed.openssl_verify(&renewed.fetch_crls().unwrap()).unwrap();
        assert_ne!(renewed.serial().unwrap(), first.serial().unwrap());
    }
}

/// Asks the responder in every way that the judges know, which must all hear this, and returns what OpenSSL was sent.
fn expect_every_ocsp_answer(case: &Case, status: Status) -> Vec<(Document, Vec<u8>)> {
    let url = case.ocsp_url().unwrap();
    let mut responses = Vec::new();
    for nonce in [false, true] {
        for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
            let answer = case.openssl_ocsp(&url, hash, nonce).unwrap();
            assert_eq!(answer.status, status, "{hash:?} {nonce}: {}", answer.output);
            responses.push((Document::OcspResponse, fs::read(&answer.response).unwrap()));
        }
        assert_eq!(case.gnutls_ocsp(&url, nonce).unwrap().status, status);
    }
    responses
}

/// A fingerprint without the punctuation that its printers disagree on.
fn hexadecimal(fingerprint: &str) -> String {
    fingerprint.chars().filter(char::is_ascii_hexdigit).map(|digit| digit.to_ascii_lowercase()).collect()
}
