//! Whatever is sent is answered with a status: garbage, truncation, size, and anything that looks like a request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ca_core::pkix::ocsp::{CertIdHash, Request, RequestLimits, ResponseStatus, fuzz_request};
use ca_core::pkix::serial::SerialNumber;
use proptest::prelude::*;

use crate::pki::{Pki, get, post};

#[tokio::test]
async fn every_truncation_and_every_flipped_octet_gets_a_status() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let whole = pki.request(&[&id], Some(&[7; 32]));
    for length in 0..whole.len() {
        let reply = post(&responder, whole[..length].to_vec()).await;
        assert_eq!(reply.ocsp_status(), ResponseStatus::MalformedRequest, "{length} octets");
    }
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 0xff;
        let status = post(&responder, changed).await.ocsp_status();
        use ResponseStatus::{MalformedRequest, Successful, Unauthorized};
        assert!([MalformedRequest, Successful, Unauthorized].contains(&status), "octet {index}: {status:?}");
    }
    let trailing = [whole, vec![0]].concat();
    assert_eq!(post(&responder, trailing).await.ocsp_status(), ResponseStatus::MalformedRequest);
}

#[tokio::test]
async fn size_and_number_are_bounded() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let of = |count| vec![&id; count];
    let reply = post(&responder, pki.request(&of(20), None)).await;
    assert_eq!(reply.answer().tbs_response_data.responses.len(), 20);
    assert_eq!(
        post(&responder, pki.request(&of(21), None)).await.ocsp_status(),
        ResponseStatus::MalformedRequest
    );
    let huge = vec![0x30; 1024 * 1024];
    assert_eq!(post(&responder, huge.clone()).await.ocsp_status(), ResponseStatus::MalformedRequest);
    let path = format!("/ocsp/{}", BASE64_STANDARD.encode(&huge[..40_000]));
    assert_eq!(get(&responder, &path).await.ocsp_status(), ResponseStatus::MalformedRequest);
    for empty in [vec![], vec![0x30, 0], vec![0x30, 4, 0x30, 2, 0x30, 0]] {
        assert_eq!(post(&responder, empty).await.ocsp_status(), ResponseStatus::MalformedRequest);
    }
}

/// The body is not read past its bound, also when it does not say how long it is.
#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    struct Endless;
    impl hyper::body::Body for Endless {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes::Bytes::from_static(
                &[0x30; 1000],
            )))))
        }
    }
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let response = responder.handle(http::Request::post("/ocsp").body(Endless).unwrap()).await;
    let reply = crate::pki::Reply::of(response).await;
    assert_eq!(reply.ocsp_status(), ResponseStatus::MalformedRequest);
}

proptest! {
    #[test]
    fn any_octets_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_request(&data);
    }

    #[test]
    fn a_changed_request_is_read_or_refused(
        index in 0usize..200, value in any::<u8>(), cut in 0usize..300, insert in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut data = sample();
        let index = index % data.len();
        data[index] = value;
        data.splice(index..index, insert);
        data.truncate(cut.max(1));
        fuzz_request(&data);
    }

    #[test]
    fn requests_survive_being_written(
        serials in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 1..20),
        nonce in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..128)),
    ) {
        let serials = serials.iter().filter_map(|octets| SerialNumber::from_be_bytes(octets).ok());
        let issuer = issuer();
        let cert_ids: Vec<_> = serials.map(|serial| issuer.cert_id(CertIdHash::Sha256, serial).unwrap()).collect();
        prop_assume!(!cert_ids.is_empty());
        let nonce = nonce.map(|octets| ca_core::pkix::ocsp::Nonce::new(&octets).unwrap());
        let request = Request { cert_ids, nonce };
        let der = request.to_der().unwrap();
        prop_assert_eq!(Request::parse(&der, RequestLimits::default()), Ok(request));
        fuzz_request(&der);
    }

    #[test]
    fn any_path_is_decoded_or_refused(path in "\\PC{0,80}") {
        let _ = ocsp_responder::decode_get(&path);
    }

    #[test]
    fn base64_comes_back_whole(data in proptest::collection::vec(any::<u8>(), 1..100)) {
        // A request is a SEQUENCE: its first octet keeps the text from beginning with a slash.
        let der = [vec![0x30], data].concat();
        let text = BASE64_STANDARD.encode(&der);
        let urlsafe = base64::prelude::BASE64_URL_SAFE.encode(&der);
        for text in [text, urlsafe] {
            prop_assert_eq!(ocsp_responder::decode_get(&text), Some(der.clone()));
        }
    }
}

fn issuer() -> ca_core::pkix::ocsp::OcspIssuer {
    // An Ed25519 SubjectPublicKeyInfo, RFC 8410 §10.1.
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], &[0x42; 32]].concat();
    ca_core::pkix::ocsp::OcspIssuer::new(&[0x30, 0], &spki).unwrap()
}

fn sample() -> Vec<u8> {
    let serial = SerialNumber::from_be_bytes(&[0x42; 20]).unwrap();
    let cert_ids = vec![issuer().cert_id(CertIdHash::Sha1, serial).unwrap()];
    let nonce = Some(ca_core::pkix::ocsp::Nonce::new(&[7; 32]).unwrap());
    Request { cert_ids, nonce }.to_der().unwrap()
}
