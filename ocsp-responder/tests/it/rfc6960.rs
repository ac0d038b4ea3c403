//! RFC 6960, by section.

use ca_core::pkix::ocsp::{CertIdHash, CertStatus, Request, ResponderId, ResponseStatus};
use ca_core::pkix::serial::SerialNumber;
use ca_core::revocation::RevocationReason;
use ca_core::signing::KeyAlgorithm;
use ca_core::store::CertificateId;
use ca_core::time::Clock;
use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5912, rfc6960};
use der::asn1::{Int, Null, OctetString};
use der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::CrlReason;

use crate::pki::{DAY, Pki, post, send};

/// §2.2, §4.2.1: the three statuses.
#[tokio::test]
async fn section_2_2_good_then_revoked_and_never_issued_is_unknown() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));

    let stranger = CertificateId { serial: SerialNumber::from_be_bytes(&[0x55; 20]).unwrap(), ..id.clone() };
    assert_eq!(
        pki.status(&responder, &stranger).await,
        CertStatus::Unknown(Null),
        "unknown serial is not good"
    );

    let at = pki.clock.now();
    pki.revoke(&id, RevocationReason::KeyCompromise).await;
    let CertStatus::Revoked(info) = pki.status(&responder, &id).await else { panic!("not revoked") };
    assert_eq!(info.revocation_time, at.to_generalized());
    assert_eq!(info.revocation_reason, Some(CrlReason::KeyCompromise));
}

#[tokio::test]
async fn section_2_2_reserved_is_unknown_and_abandoned_is_revoked_without_a_reason() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.reserve().await;
    let reply = post(&responder, pki.request(&[&id], None)).await;
    assert_eq!(reply.answer().tbs_response_data.responses[0].cert_status, CertStatus::Unknown(Null));
    assert_eq!(reply.header("cache-control"), "no-store");
    pki.abandon(&id).await;
    let CertStatus::Revoked(info) = pki.status(&responder, &id).await else { panic!("not revoked") };
    assert_eq!(info.revocation_reason, None);
}

#[tokio::test]
async fn section_2_2_a_serial_becomes_good_when_its_certificate_is_issued() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    // Asked before: the answer to one serial never stands for another's, nor an old one for a new one's.
    let other = pki.reserve().await;
    assert_eq!(pki.status(&responder, &other).await, CertStatus::Unknown(Null));
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));
}

/// §2.3: the error statuses, of which `sigRequired` is never said.
#[tokio::test]
async fn section_2_3_an_issuer_of_others_is_unauthorized() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let other = Pki::new().await;
    let reply = post(&responder, other.request(&[&id], None)).await;
    assert_eq!(reply.ocsp_status(), ResponseStatus::Unauthorized);
    assert_eq!(reply.body[..], [0x30, 3, 10, 1, 6]);
    // The root signs no responder certificates: its certificates are covered by its CRL.
    let root = ca_core::pkix::ocsp::OcspIssuer::new(&pki.root.subject, &pki.root.public_key).unwrap();
    let cert_ids = vec![root.cert_id(CertIdHash::Sha1, id.serial).unwrap()];
    let der = Request { cert_ids, nonce: None }.to_der().unwrap();
    assert_eq!(post(&responder, der).await.ocsp_status(), ResponseStatus::Unauthorized);
}

#[tokio::test]
async fn section_2_3_try_later_before_there_is_a_responder_certificate() {
    let pki = Pki::new().await;
    let id = pki.issue().await;
    let responder = pki.responder_with(Default::default(), &Default::default());
    assert_eq!(post(&responder, pki.request(&[&id], None)).await.ocsp_status(), ResponseStatus::TryLater);
    responder.maintain().await.unwrap();
    assert_eq!(post(&responder, pki.request(&[&id], None)).await.ocsp_status(), ResponseStatus::TryLater);
    assert!(responder.readiness().unwrap_err().contains("issuing-1"));
    pki.make_ready(&responder).await;
    assert_eq!(pki.status(&responder, &id).await, CertStatus::Good(Null));
}

/// §2.4, §4.2.2.1: times in whole seconds, and none past the responder certificate's end.
#[tokio::test]
async fn section_2_4_times_are_whole_seconds_and_end_with_the_responder_certificate() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let data = post(&responder, pki.request(&[&id], None)).await.answer().tbs_response_data;
    let now = pki.clock.now();
    assert_eq!(data.produced_at, now.to_generalized());
    assert_eq!(data.responses[0].this_update, now.to_generalized());
    assert_eq!(data.responses[0].next_update, Some(now.plus(DAY).to_generalized()));

    // Nobody renews the responder certificate: its last answers end with it, and then there are none.
    let certificate = post(&responder, pki.request(&[&id], None)).await.answer().certs.unwrap().remove(0);
    let end = ca_core::time::Timestamp::from_x509(certificate.tbs_certificate().validity().not_after);
    pki.clock.advance(end.since(now) - DAY / 2);
    let data = post(&responder, pki.request(&[&id], None)).await.answer().tbs_response_data;
    assert_eq!(data.responses[0].next_update, Some(end.to_generalized()));
    pki.clock.advance(DAY);
    assert_eq!(post(&responder, pki.request(&[&id], None)).await.ocsp_status(), ResponseStatus::TryLater);
    assert!(responder.readiness().is_err());
}

/// §4.1.1: CertIDs by SHA-1 and SHA-256, returned as they came.
#[tokio::test]
async fn section_4_1_1_cert_ids_are_echoed_octet_by_octet() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
        for with_null in [true, false] {
            let mut cert_id = pki.cert_id(hash, id.serial);
            if !with_null {
                cert_id.hash_algorithm.parameters = None;
            }
            // Twice: the second comes from memory.
            for _ in 0..2 {
                let der = Request { cert_ids: vec![cert_id.clone()], nonce: None }.to_der().unwrap();
                let single = post(&responder, der).await.answer().tbs_response_data.responses.remove(0);
                assert_eq!(single.cert_id.to_der().unwrap(), cert_id.to_der().unwrap());
                assert_eq!(single.cert_status, CertStatus::Good(Null));
            }
        }
    }
    let mut cert_id = pki.cert_id(CertIdHash::Sha256, id.serial);
    cert_id.hash_algorithm.oid = rfc5912::ID_SHA_512;
    let der = Request { cert_ids: vec![cert_id], nonce: None }.to_der().unwrap();
    assert_eq!(post(&responder, der).await.ocsp_status(), ResponseStatus::Unauthorized);
}

#[tokio::test]
async fn section_4_1_1_the_key_hash_counts_as_well_as_the_name_hash() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let good = pki.cert_id(CertIdHash::Sha1, id.serial);
    let (mut name, mut key) = (good.clone(), good.clone());
    name.issuer_name_hash = OctetString::new([7; 20]).unwrap();
    key.issuer_key_hash = OctetString::new([7; 20]).unwrap();
    for cert_id in [name, key] {
        let der = Request { cert_ids: vec![cert_id], nonce: None }.to_der().unwrap();
        assert_eq!(post(&responder, der).await.ocsp_status(), ResponseStatus::Unauthorized);
    }
}

#[tokio::test]
async fn section_4_1_1_serials_that_no_certificate_can_have_are_unknown() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    for serial in [&[0u8][..], &[0x80], &[0xff], &[0x11; 21], &[0x7f; 300]] {
        let mut cert_id = pki.cert_id(CertIdHash::Sha1, id.serial);
        cert_id.serial_number = Int::new(serial).unwrap();
        let der = Request { cert_ids: vec![cert_id.clone()], nonce: None }.to_der().unwrap();
        let single = post(&responder, der).await.answer().tbs_response_data.responses.remove(0);
        assert_eq!((single.cert_status, single.cert_id), (CertStatus::Unknown(Null), cert_id));
    }
}

#[tokio::test]
async fn section_4_1_1_several_cert_ids_are_answered_in_their_order() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let (good, revoked, reserved) = (pki.issue().await, pki.issue().await, pki.reserve().await);
    pki.revoke(&revoked, RevocationReason::Unspecified).await;
    let reply = post(&responder, pki.request(&[&revoked, &good, &reserved, &good], None)).await;
    let responses = reply.answer().tbs_response_data.responses;
    let names = responses.iter().map(|single| match single.cert_status {
        CertStatus::Good(_) => "good",
        CertStatus::Revoked(_) => "revoked",
        CertStatus::Unknown(_) => "unknown",
    });
    assert_eq!(names.collect::<Vec<_>>(), ["revoked", "good", "unknown", "good"]);
    assert_eq!(reply.header("cache-control"), "no-store", "an unknown is in it");
    let cacheable = post(&responder, pki.request(&[&revoked, &good], None)).await;
    assert!(cacheable.header("cache-control").starts_with("max-age="));
}

#[tokio::test]
async fn section_4_1_1_cert_ids_of_different_issuers_are_unauthorized() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let (id, other) = (pki.issue().await, Pki::new().await);
    let cert_ids = vec![pki.cert_id(CertIdHash::Sha1, id.serial), other.cert_id(CertIdHash::Sha1, id.serial)];
    let der = Request { cert_ids, nonce: None }.to_der().unwrap();
    assert_eq!(post(&responder, der).await.ocsp_status(), ResponseStatus::Unauthorized);
}

/// The OCSPRequest of one CertID with one request extension and, if asked, a signature.
fn request_with(pki: &Pki, id: &CertificateId, extension: Option<Extension>, signed: bool) -> Vec<u8> {
    let cert_id = pki.cert_id(CertIdHash::Sha1, id.serial).to_der().unwrap();
    let list = wrap(0x30, &wrap(0x30, &cert_id));
    let extensions = extension.map_or(Vec::new(), |e| wrap(0xa2, &vec![e].to_der().unwrap()));
    let tbs = wrap(0x30, &[list, extensions].concat());
    let signature = if signed {
        let algorithm = KeyAlgorithm::EcP256.default_signature().identifier().to_der().unwrap();
        wrap(0xa0, &wrap(0x30, &[algorithm, wrap(3, &[0, 1, 2, 3])].concat()))
    } else {
        Vec::new()
    };
    wrap(0x30, &[tbs, signature].concat())
}

/// One DER value around others.
pub fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        0..128 => vec![tag, length[1]],
        128..256 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [header, content.to_vec()].concat()
}

/// §4.1.2: signed requests are answered, their signatures not looked at.
#[tokio::test]
async fn section_4_1_2_a_signed_request_is_answered() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let reply = post(&responder, request_with(&pki, &id, None, true)).await;
    assert_eq!(reply.answer().tbs_response_data.responses[0].cert_status, CertStatus::Good(Null));
}

/// §4.1.2: unknown extensions are ignored unless critical.
#[tokio::test]
async fn section_4_1_2_only_critical_unknown_extensions_are_errors() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let extension = |critical| Extension {
        extn_id: ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.1"),
        critical,
        extn_value: OctetString::new(Null.to_der().unwrap()).unwrap(),
    };
    let reply = post(&responder, request_with(&pki, &id, Some(extension(false)), false)).await;
    assert_eq!(reply.ocsp_status(), ResponseStatus::Successful);
    let reply = post(&responder, request_with(&pki, &id, Some(extension(true)), false)).await;
    assert_eq!(reply.ocsp_status(), ResponseStatus::MalformedRequest);
}

/// §4.2.1: the structure; §4.2.2.2: the delegated responder.
#[tokio::test]
async fn section_4_2_1_the_response_names_its_signer_by_key_and_brings_its_certificate() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let reply = post(&responder, pki.request(&[&id], None)).await;
    let basic = reply.answer();
    let certificates = basic.certs.clone().unwrap();
    assert_eq!(certificates.len(), 1);
    let tbs = certificates[0].tbs_certificate();
    let key = tbs.subject_public_key_info().subject_public_key.as_bytes().unwrap();
    let digest = {
        // SHA-1 by way of a CertID, which hashes the issuer's key in the same way.
        let spki = tbs.subject_public_key_info().to_der().unwrap();
        let as_issuer = ca_core::pkix::ocsp::OcspIssuer::new(&[], &spki).unwrap();
        as_issuer.cert_id(CertIdHash::Sha1, id.serial).unwrap().issuer_key_hash
    };
    assert!(!key.is_empty());
    assert_eq!(basic.tbs_response_data.responder_id, ResponderId::ByKey(digest));
    let usage: x509_cert::ext::pkix::ExtendedKeyUsage = tbs.get_extension().unwrap().unwrap().1;
    assert_eq!(usage.0, [const_oid::db::rfc5280::ID_KP_OCSP_SIGNING]);
    let extensions = tbs.extensions().unwrap();
    assert!(extensions.iter().any(|e| e.extn_id == rfc6960::ID_PKIX_OCSP_NOCHECK), "§4.2.2.2.1");
    // What we write is what we read: DER has one encoding.
    assert_eq!(reply.ocsp().to_der().unwrap(), reply.body);
    let again = ca_core::pkix::ocsp::BasicOcspResponse::from_der(&basic.to_der().unwrap()).unwrap();
    assert_eq!(again, basic);
}

/// §4.3: every algorithm that a responder key can have.
#[tokio::test]
async fn section_4_3_responder_keys_of_every_quick_kind_sign() {
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384, KeyAlgorithm::Ed25519] {
        let pki = Pki::with(algorithm).await;
        let config = ocsp_responder::Config { key_algorithm: algorithm, ..Default::default() };
        let responder = pki.responder_with(config, &Default::default());
        pki.make_ready(&responder).await;
        let id = pki.issue().await;
        let answer = post(&responder, pki.request(&[&id], None)).await.answer();
        assert_eq!(answer.signature_algorithm, algorithm.default_signature().identifier());
    }
}

/// §4.4.3: acceptable response types.
#[tokio::test]
async fn section_4_4_3_a_client_that_insists_on_another_response_type_is_told() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let extension = |critical, accepted: Vec<ObjectIdentifier>| Extension {
        extn_id: rfc6960::ID_PKIX_OCSP_RESPONSE,
        critical,
        extn_value: OctetString::new(accepted.to_der().unwrap()).unwrap(),
    };
    let other = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.2");
    for (given, expected) in [
        (extension(true, vec![rfc6960::ID_PKIX_OCSP_BASIC]), ResponseStatus::Successful),
        (extension(false, vec![other]), ResponseStatus::Successful),
        (extension(true, vec![other]), ResponseStatus::MalformedRequest),
    ] {
        let reply = post(&responder, request_with(&pki, &id, Some(given), false)).await;
        assert_eq!(reply.ocsp_status(), expected);
    }
}

/// Appendix A.1: whatever content type a client sends.
#[tokio::test]
async fn appendix_a_1_the_content_type_is_not_held_against_anybody() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    for content_type in ["application/ocsp-request", "application/octet-stream", "text/plain"] {
        let request = http::Request::post("/ocsp").header("content-type", content_type);
        let reply = send(&responder, request, pki.request(&[&id], None)).await;
        assert_eq!(reply.ocsp_status(), ResponseStatus::Successful);
    }
    let path = format!("/issuer/{}/ocsp", pki.issuing_id());
    let reply = send(&responder, http::Request::post(path), pki.request(&[&id], None)).await;
    assert_eq!(reply.ocsp_status(), ResponseStatus::Successful);
    let reply = send(&responder, http::Request::post("/issuer/nobody/ocsp"), pki.request(&[&id], None)).await;
    assert_eq!(reply.status, 404);
    let reply = send(&responder, http::Request::put("/ocsp"), Vec::new()).await;
    assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "GET, HEAD, POST"));
}
