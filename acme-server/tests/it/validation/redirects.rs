//! RFC 8555 §8.3: redirects are followed, within limits, and vetted anew at each step.

use std::sync::{Arc, Mutex};

use ca_core::acme::challenge::{Answer, ChallengeType, FailureKind};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::dns_server::{DnsServer, Reply as DnsReply, a, cname};
use super::http_server::{HttpServer, redirect, response, serve, target};
use super::{Setup, Subject, failure};

fn subject() -> Subject {
    Subject::new(ChallengeType::Http01, "127.0.0.1")
}

/// A server that redirects to `/1`, `/2` and so on, `count` times, and then has `body`.
async fn chain(count: usize, body: String) -> HttpServer {
    HttpServer::start(move |head| {
        let step = target(head).trim_start_matches('/').parse().unwrap_or(0);
        if step < count { redirect(&format!("/{}", step + 1)) } else { response("200 OK", &body) }
    })
    .await
}

#[tokio::test]
async fn ten_redirects_are_followed_and_an_eleventh_is_not() {
    let subject = subject();
    let server = chain(10, subject.body()).await;
    let prober = Setup::new().http(server.port).prober();
    let observed = subject.observe(&prober).await;
    assert!(
        matches!(observed.answer, Ok(Answer::Http { redirected: true, status: 200, .. })),
        "{observed:?}"
    );
    assert_eq!(observed.addresses, vec![server.address(); 11]);
    assert_eq!(subject.validate(&prober).await, Ok(()));

    let server = chain(11, subject.body()).await;
    let failure = failure(&subject.observe(&Setup::new().http(server.port).prober()).await);
    assert_eq!(failure.kind, FailureKind::IncorrectResponse);
    assert_eq!(failure.detail, "there are more than 10 redirects");
    assert_eq!(server.heads().len(), 11);
}

#[tokio::test]
async fn every_redirecting_status_is_followed_and_no_other() {
    for (status, followed) in [
        ("301 Moved Permanently", true),
        ("302 Found", true),
        ("303 See Other", true),
        ("307 Temporary Redirect", true),
        ("308 Permanent Redirect", true),
        ("300 Multiple Choices", false),
        ("305 Use Proxy", false),
        ("201 Created", false),
    ] {
        let subject = subject();
        let body = subject.body();
        let server = HttpServer::start(move |head| match target(head) {
            "/next" => response("200 OK", &body),
            _ => response(&format!("{status}\r\nLocation: /next"), ""),
        })
        .await;
        let validated = subject.validate(&Setup::new().http(server.port).prober()).await;
        assert_eq!(validated.is_ok(), followed, "{status}: {validated:?}");
    }
}

#[tokio::test]
async fn a_circle_is_noticed() {
    let server = HttpServer::start(|head| redirect(if target(head) == "/a" { "/b" } else { "/a" })).await;
    let failure = failure(&subject().observe(&Setup::new().http(server.port).prober()).await);
    assert_eq!(failure.kind, FailureKind::IncorrectResponse);
    assert_eq!(failure.detail, format!("the redirect by {} leads in a circle", server.address()));
    assert_eq!(server.heads().len(), 3);
}

#[tokio::test]
async fn a_redirect_to_another_port_is_not_followed() {
    let other = HttpServer::start(|_| response("200 OK", "")).await;
    let location = format!("http://127.0.0.1:{}/admin", other.port);
    let server = HttpServer::start(move |_| redirect(&location)).await;
    let failure = failure(&subject().observe(&Setup::new().http(server.port).prober()).await);
    assert_eq!(failure.kind, FailureKind::IncorrectResponse);
    assert!(failure.detail.contains(&format!("it leads to port {}", other.port)), "{}", failure.detail);
    assert!(other.heads().is_empty());
}

#[tokio::test]
async fn of_a_location_at_most_64_bytes_are_shown_and_only_of_the_first() {
    let location = format!("ftp://{}", "S".repeat(200));
    let server = HttpServer::start(move |_| redirect(&location)).await;
    let detail = failure(&subject().observe(&Setup::new().http(server.port).prober()).await).detail;
    assert_eq!(detail.matches('S').count(), 64 - "ftp://".len(), "{detail}");

    let server = HttpServer::start(|head| {
        redirect(if target(head) == "/second" { "ftp://SECRET.example/" } else { "/second" })
    })
    .await;
    let detail = failure(&subject().observe(&Setup::new().http(server.port).prober()).await).detail;
    assert!(detail.contains("only http and https are followed"), "{detail}");
    assert!(!detail.contains("SECRET"), "{detail}");
}

#[tokio::test]
async fn a_redirect_to_a_denied_address_is_not_followed() {
    for (location, denied) in [
        ("http://10.0.0.1/", "10.0.0.1 is not a global address and not in acme.validation.allow_networks"),
        ("http://169.254.169.254/", "169.254.169.254 is in acme.validation.deny_networks"),
        (
            "http://[::ffff:169.254.169.254]/",
            "stands for 169.254.169.254, which is in acme.validation.deny_networks",
        ),
        (
            "http://[64:ff9b::a9fe:a9fe]/",
            "stands for 169.254.169.254, which is in acme.validation.deny_networks",
        ),
        ("http://internal.example/", "10.0.0.7 is not a global address"),
        ("http://alias.example/", "10.0.0.7 is not a global address"),
    ] {
        let dns = DnsServer::fixed(vec![
            ("internal.example", a([10, 0, 0, 7])),
            ("alias.example", cname("internal.example")),
        ])
        .await;
        let server = HttpServer::start(move |_| redirect(location)).await;
        let prober = Setup::new()
            .http(server.port)
            .dns(dns.address)
            .egress(&["127.0.0.0/8"], &["169.254.0.0/16"])
            .prober();
        let observed = subject().observe(&prober).await;
        let failure = failure(&observed);
        assert_eq!(failure.kind, FailureKind::RejectedIdentifier, "{location}");
        assert!(failure.detail.contains(denied), "{}", failure.detail);
        assert_eq!(observed.addresses, [server.address()], "{location}");
    }
}

#[tokio::test]
async fn a_redirect_back_to_the_same_name_is_resolved_and_vetted_anew() {
    let dns = DnsServer::start(|query, before| match (query.kind, before) {
        (hickory_proto::rr::RecordType::A, 0) => {
            DnsReply::Records(vec![(query.name.clone(), a([127, 0, 0, 1]))])
        }
        (hickory_proto::rr::RecordType::A, _) => {
            DnsReply::Records(vec![(query.name.clone(), a([127, 0, 0, 2]))])
        }
        _ => DnsReply::Records(Vec::new()),
    })
    .await;
    let server = HttpServer::start(|_| redirect("/again")).await;
    // Had the vetting been done once, 127.0.0.2 would be reached: it has a listener.
    let rebound = TcpListener::bind(("127.0.0.2", server.port)).await.unwrap();
    let rebound = HttpServer::on(rebound, |_| response("200 OK", ""));
    let prober =
        Setup::new().http(server.port).dns(dns.address).egress(&["127.0.0.1"], &["127.0.0.2"]).prober();
    let observed = Subject::new(ChallengeType::Http01, "rebind.example").observe(&prober).await;
    assert_eq!(failure(&observed).kind, FailureKind::RejectedIdentifier);
    assert!(failure(&observed).detail.contains("127.0.0.2 is in acme.validation.deny_networks"));
    assert_eq!(observed.addresses, [server.address()]);
    assert!(rebound.heads().is_empty());
}

#[tokio::test]
async fn https_is_followed_with_any_certificate_but_on_its_port_only() {
    let subject = subject();
    let body = subject.body();
    let certified = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let body = body.clone();
            serve(stream, Arc::new(move |_: &str| response("200 OK", &body)), Arc::clone(&seen)).await;
        }
    });
    let path = subject.path();
    let server =
        HttpServer::start(move |_| redirect(&format!("https://secure.localhost:{port}{path}"))).await;

    let observed = subject.observe(&Setup::new().http(server.port).prober()).await;
    let refused = failure(&observed).detail;
    assert!(refused.contains("https to port 443 only"), "{refused}");
    assert!(heads.lock().unwrap().is_empty());

    let prober = Setup::new().http(server.port).https(port).prober();
    assert_eq!(subject.validate(&prober).await, Ok(()));
    let head = heads.lock().unwrap().remove(0).to_ascii_lowercase();
    assert!(head.contains(&format!("\r\nhost: secure.localhost:{port}\r\n")), "{head}");
}
