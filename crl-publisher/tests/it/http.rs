//! What is served, and how it may be kept. RFC 2585, RFC 9110 §13, RFC 9111.

use std::time::{Duration, UNIX_EPOCH};

use ca_core::store::AuthorityReads;
use ca_core::time::{Clock, Timestamp};
use der::Encode;
use x509_cert::Certificate;

use crate::pki::{DAY, Pki, get, send};

fn date(at: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_seconds()).unwrap()))
}

#[tokio::test]
async fn a_crl_comes_with_its_type_and_its_times() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let record = pki.store.crl(pki.issuing.id.clone(), 0).await.unwrap().unwrap();
    let reply = get(&publisher, &pki.crl_path(0)).await;
    assert_eq!((reply.status, &reply.body[..]), (200, &record.der[..]));
    assert_eq!(reply.header("content-type"), "application/pkix-crl");
    assert_eq!(reply.header("content-length"), record.der.len().to_string());
    assert_eq!(reply.header("last-modified"), date(record.this_update));
    assert_eq!(reply.header("expires"), date(record.next_update));
    assert_eq!(reply.header("cache-control"), "max-age=3600, public, no-transform");
    // Near its end it may be kept no longer than it says, and then not at all.
    pki.clock.advance(record.next_update.since(pki.clock.now()) - Duration::from_secs(100));
    assert_eq!(
        get(&publisher, &pki.crl_path(0)).await.header("cache-control"),
        "max-age=100, public, no-transform"
    );
    pki.clock.advance(DAY);
    assert_eq!(
        get(&publisher, &pki.crl_path(0)).await.header("cache-control"),
        "max-age=0, public, no-transform"
    );
}

#[tokio::test]
async fn ca_certificates_are_der_and_roots_are_pem_blocks_only() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    for issuer in [&pki.root, &pki.issuing] {
        let reply = get(&publisher, &format!("/ca/{}.cer", issuer.id)).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &issuer.certificates[0].der[..]));
        assert_eq!(reply.header("content-type"), "application/pkix-cert");
        assert_eq!(reply.header("expires"), date(pki.clock.now().plus(Duration::from_hours(1))));
    }
    let reply = get(&publisher, "/roots.pem").await;
    assert_eq!(reply.header("content-type"), "application/pem-certificate-chain");
    let text = std::str::from_utf8(&reply.body).unwrap();
    assert!(
        text.starts_with("-----BEGIN CERTIFICATE-----\n") && text.ends_with("-----END CERTIFICATE-----\n")
    );
    let roots = Certificate::load_pem_chain(&reply.body).unwrap();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0].to_der().unwrap(), pki.root.certificates[0].der);
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so_until_it_changes() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (id, shard, _) = pki.issue().await;
    let path = pki.crl_path(shard);
    let first = get(&publisher, &path).await;
    let (etag, modified) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    let ask =
        async |name: &str, value: &str| send(&publisher, http::Request::get(&path).header(name, value)).await;
    for tags in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        let reply = ask("if-none-match", &tags).await;
        assert_eq!((reply.status, reply.body.len(), reply.header("etag")), (304, 0, &etag[..]), "{tags}");
    }
    assert_eq!(ask("if-none-match", "\"x\"").await.status, 200);
    assert_eq!(ask("if-modified-since", &modified).await.status, 304);
    assert_eq!(ask("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT").await.status, 200);
    assert_eq!(ask("if-modified-since", "yesterday").await.status, 200);
    let both =
        http::Request::get(&path).header("if-none-match", "\"x\"").header("if-modified-since", &modified);
    assert_eq!(send(&publisher, both).await.status, 200, "If-None-Match decides");

    pki.clock.advance(Duration::from_secs(5));
    pki.revoke(&id).await;
    publisher.refresh().await.unwrap();
    assert_eq!(ask("if-none-match", &etag).await.status, 200);
    assert_eq!(ask("if-modified-since", &modified).await.status, 200);
}

#[tokio::test]
async fn head_has_no_body_and_other_methods_and_paths_are_told() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (path, length) = (pki.crl_path(0), get(&publisher, &pki.crl_path(0)).await.body.len());
    let head = send(&publisher, http::Request::head(&path)).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), length.to_string());
    let post = send(&publisher, http::Request::post(&path)).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
    for other in [
        "/",
        "/crl/issuing-1/3.crl",
        "/crl/issuing-1/00.crl",
        "/crl/nobody/0.crl",
        "/ca/nobody.cer",
        "/roots",
    ] {
        let reply = get(&publisher, other).await;
        assert_eq!(reply.status, 404, "{other}");
        assert!(reply.header("content-type").starts_with("text/plain"));
        assert_eq!(reply.header("cache-control"), "no-store");
        assert!(reply.body.len() < 200);
    }
}
