//! RFC 9654: nonces.

use ca_core::pkix::ocsp::{CertIdHash, ResponseStatus};
use const_oid::db::rfc6960::ID_PKIX_OCSP_NONCE;
use der::Encode;
use der::asn1::OctetString;
use x509_cert::ext::Extension;

use crate::pki::{Pki, post};
use crate::rfc6960::wrap;

/// A request with these extensions, well formed or not.
fn request(pki: &Pki, serial: ca_core::pkix::serial::SerialNumber, extensions: &[Extension]) -> Vec<u8> {
    let list = wrap(0x30, &wrap(0x30, &pki.cert_id(CertIdHash::Sha1, serial).to_der().unwrap()));
    let extensions = wrap(0xa2, &extensions.to_vec().to_der().unwrap());
    wrap(0x30, &wrap(0x30, &[list, extensions].concat()))
}

fn nonce(value: &[u8]) -> Extension {
    Extension { extn_id: ID_PKIX_OCSP_NONCE, critical: false, extn_value: OctetString::new(value).unwrap() }
}

/// §2.1: 1 to 32 octets are returned, 33 to 128 too, none and more are malformed.
#[tokio::test]
async fn section_2_1_nonces_of_1_to_128_octets_are_returned_and_others_refused() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    for length in [1, 16, 32, 33, 128] {
        let octets: Vec<u8> = (0..length).collect();
        let extension = nonce(&OctetString::new(octets).unwrap().to_der().unwrap());
        let reply = post(&responder, request(&pki, id.serial, std::slice::from_ref(&extension))).await;
        let returned = reply.answer().tbs_response_data.response_extensions.unwrap();
        assert_eq!(returned, [extension], "{length}");
        assert_eq!(reply.header("cache-control"), "no-store", "nobody else asks with this nonce");
        assert_eq!(reply.header("etag"), "");
    }
    for length in [0, 129, 1000] {
        let extension = nonce(&OctetString::new(vec![7; length]).unwrap().to_der().unwrap());
        let reply = post(&responder, request(&pki, id.serial, &[extension])).await;
        assert_eq!(reply.ocsp_status(), ResponseStatus::MalformedRequest, "{length}");
    }
}

/// §2.1: the value is an OCTET STRING, once.
#[tokio::test]
async fn section_2_1_a_nonce_in_another_form_or_twice_is_malformed() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let fine = nonce(&[4, 2, 1, 2]);
    for extensions in
        [vec![nonce(&[1, 2, 3])], vec![nonce(&[])], vec![nonce(&[4, 2, 1])], vec![fine.clone(), fine]]
    {
        let reply = post(&responder, request(&pki, id.serial, &extensions)).await;
        assert_eq!(reply.ocsp_status(), ResponseStatus::MalformedRequest);
    }
}

#[tokio::test]
async fn section_2_1_without_a_nonce_there_is_none_in_the_response() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let data = post(&responder, pki.request(&[&id], None)).await.answer().tbs_response_data;
    assert_eq!(data.response_extensions, None);
}

/// A nonce is answered now, never from memory.
#[tokio::test]
async fn an_answer_with_a_nonce_is_made_for_it() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let ask = async |nonce: &[u8]| post(&responder, pki.request(&[&id], Some(nonce))).await.answer();
    let (one, two) = (ask(&[1; 32]).await, ask(&[2; 32]).await);
    assert_ne!(one.tbs_response_data.response_extensions, two.tbs_response_data.response_extensions);
}
