//! RFC 5019: the lightweight profile, its GET requests and its caching.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ca_core::pkix::ocsp::{CertStatus, ResponseStatus};
use ca_core::pkix::serial::SerialNumber;
use ca_core::revocation::RevocationReason;
use ca_core::store::CertificateId;
use ca_core::time::{Clock, Timestamp};
use der::asn1::Null;

use crate::pki::{DAY, Pki, get, post, send};

fn date(at: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_seconds()).unwrap()))
}

/// §5: GET with base64, as clients spell it.
#[tokio::test]
async fn section_5_get_requests_are_read_in_every_spelling() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let der = pki.request(&[&id], None);
    let plain = BASE64_STANDARD.encode(&der);
    let escaped = plain.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let mut paths = vec![
        format!("/ocsp/{plain}"),
        format!("/ocsp//{plain}"),
        format!("/ocsp/{escaped}"),
        format!("/ocsp/{}", escaped.replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d")),
        format!("/ocsp/{}", plain.trim_end_matches('=')),
        format!("/ocsp/{}", BASE64_URL_SAFE_NO_PAD.encode(&der)),
        format!("/issuer/{}/ocsp/{plain}", pki.issuing_id()),
    ];
    paths.push(format!("/ocsp/{}", plain.replace('+', "%20")));
    for path in paths {
        let reply = get(&responder, &path).await;
        assert_eq!(
            reply.answer().tbs_response_data.responses[0].cert_status,
            CertStatus::Good(Null),
            "{path}"
        );
    }
    for path in ["/ocsp/%", "/ocsp/!!!!", "/ocsp/MA", "/ocsp/AAAA", "/ocsp/MIIB"] {
        assert_eq!(get(&responder, path).await.ocsp_status(), ResponseStatus::MalformedRequest, "{path}");
    }
    for path in ["/ocsp", "/ocsp/"] {
        assert_eq!(get(&responder, path).await.status, 400, "{path}");
    }
    assert_eq!(get(&responder, "/other").await.status, 404);
}

/// §6.2: the headers of a response that caches may keep.
#[tokio::test]
async fn section_6_2_headers_follow_this_update_and_next_update() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let path = format!("/ocsp/{}", BASE64_STANDARD.encode(pki.request(&[&id], None)));
    let now = pki.clock.now();
    for reply in [get(&responder, &path).await, post(&responder, pki.request(&[&id], None)).await] {
        assert_eq!(reply.header("last-modified"), date(now));
        assert_eq!(reply.header("expires"), date(now.plus(DAY)));
        assert_eq!(reply.header("cache-control"), "max-age=3600, public, no-transform, must-revalidate");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        assert_eq!(reply.header("etag").len(), 66);
    }
}

#[tokio::test]
async fn section_6_2_max_age_never_passes_next_update() {
    let pki = Pki::new().await;
    let config = ocsp_responder::Config {
        response_validity_seconds: 600,
        http_max_age_seconds: 3600,
        ..ocsp_responder::Config::default()
    };
    let responder = pki.responder_with(config, &Default::default());
    pki.make_ready(&responder).await;
    let id = pki.issue().await;
    let reply = post(&responder, pki.request(&[&id], None)).await;
    // The clock stands between two seconds: what is left is less than the whole window.
    let max_age: u64 = reply.header("cache-control")[8..].split(',').next().unwrap().parse().unwrap();
    assert!((598..=600).contains(&max_age), "{max_age}");
    pki.clock.advance(Duration::from_secs(200));
    let reply = post(&responder, pki.request(&[&id], None)).await;
    let max_age: u64 = reply.header("cache-control")[8..].split(',').next().unwrap().parse().unwrap();
    assert!((398..=400).contains(&max_age), "{max_age}");
}

/// §6.2: 304 for a client that has it; HEAD like GET without the body.
#[tokio::test]
async fn section_6_2_if_none_match_and_head() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let path = format!("/ocsp/{}", BASE64_STANDARD.encode(pki.request(&[&id], None)));
    let first = get(&responder, &path).await;
    let etag = first.header("etag").to_owned();
    let ask = async |tags: String| {
        send(&responder, http::Request::get(&path).header("if-none-match", tags), Vec::new()).await
    };
    for tags in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        let reply = ask(tags).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0));
        assert_eq!(reply.header("etag"), etag);
    }
    assert_eq!(ask("\"x\"".to_owned()).await.status, 200);
    let head = send(&responder, http::Request::head(&path), Vec::new()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), first.body.len().to_string());
    assert_eq!(head.header("etag"), etag);

    pki.revoke(&id, RevocationReason::Superseded).await;
    let reply = ask(etag.clone()).await;
    assert_eq!(reply.status, 200, "the response that the client has is no longer the truth");
    assert_ne!(reply.header("etag"), etag);
}

/// §6: what may not be kept.
#[tokio::test]
async fn section_6_unknown_and_errors_are_never_stored() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let stranger = CertificateId { serial: SerialNumber::from_be_bytes(&[9; 16]).unwrap(), ..id };
    for reply in [post(&responder, pki.request(&[&stranger], None)).await, post(&responder, vec![0x30]).await]
    {
        assert_eq!(reply.header("cache-control"), "no-store");
        assert_eq!(reply.header("expires"), "");
        assert_eq!(reply.header("etag"), "");
    }
}

/// §2.2.3: `unauthorized` is what a responder says that does not know the issuer.
#[tokio::test]
async fn section_2_2_3_unauthorized_for_an_unknown_issuer_under_an_issuers_own_path() {
    let (pki, other) = (Pki::new().await, Pki::new().await);
    let responder = pki.responder().await;
    let id = pki.issue().await;
    let path =
        format!("/issuer/{}/ocsp/{}", pki.issuing_id(), BASE64_STANDARD.encode(other.request(&[&id], None)));
    assert_eq!(get(&responder, &path).await.ocsp_status(), ResponseStatus::Unauthorized);
}

/// §2.2.4: every answer has a nextUpdate.
#[tokio::test]
async fn section_2_2_4_next_update_is_always_there() {
    let pki = Pki::new().await;
    let responder = pki.responder().await;
    let (good, reserved) = (pki.issue().await, pki.reserve().await);
    let data = post(&responder, pki.request(&[&good, &reserved], None)).await.answer().tbs_response_data;
    let now = pki.clock.now();
    assert_eq!(data.responses[0].next_update, Some(now.plus(DAY).to_generalized()));
    let soon = now.plus(ca_core::pkix::ocsp::UNKNOWN_VALIDITY).to_generalized();
    assert_eq!(data.responses[1].next_update, Some(soon));
}
