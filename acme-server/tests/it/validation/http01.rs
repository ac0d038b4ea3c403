//! RFC 8555 §8.3: one request and its answer, good, bad and hostile.

use ca_core::acme::challenge::{Answer, ChallengeType, FailureKind};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::http_server::{HttpServer, Reply, both_families, response};
use super::{Setup, Subject, failure, status};

fn subject(identifier: &str) -> Subject {
    Subject::new(ChallengeType::Http01, identifier)
}

#[tokio::test]
async fn a_good_answer_proves_control_and_the_request_is_plain() {
    let subject = subject("127.0.0.1");
    let body = subject.body();
    let server = HttpServer::start(move |_| response("200 OK", &body)).await;
    let prober = Setup::new().http(server.port).prober();
    let observed = subject.observe(&prober).await;
    assert_eq!(observed.addresses, [server.address()]);
    assert_eq!(subject.validate(&prober).await, Ok(()));
    let head = server.heads().remove(0);
    assert!(head.starts_with(&format!("GET {} HTTP/1.1\r\n", subject.path())), "{head}");
    let lower = head.to_ascii_lowercase();
    for field in [
        format!("host: 127.0.0.1:{}", server.port),
        format!("user-agent: chancery/{} (acme http-01 validation)", env!("CARGO_PKG_VERSION")),
        "accept: */*".into(),
        "connection: close".into(),
    ] {
        assert!(lower.contains(&format!("\r\n{field}\r\n")), "{field} in {lower}");
    }
}

#[tokio::test]
async fn an_ipv6_address_is_reached_and_stands_in_brackets_in_host() {
    let subject = subject("::1");
    let body = subject.body();
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let server = HttpServer::on(listener, move |_| response("200 OK", &body));
    assert_eq!(subject.validate(&Setup::new().http(server.port).prober()).await, Ok(()));
    let head = server.heads().remove(0).to_ascii_lowercase();
    assert!(head.contains(&format!("\r\nhost: [::1]:{}\r\n", server.port)), "{head}");
}

#[tokio::test]
async fn names_below_localhost_are_loopback_without_a_resolver() {
    let subject = subject("first.localhost");
    let body = subject.body();
    let server = HttpServer::start(move |_| response("200 OK", &body)).await;
    let prober = Setup::new().http(server.port).prober();
    let observed = subject.observe(&prober).await;
    assert_eq!(observed.addresses, [format!("[::1]:{}", server.port), server.address()]);
    assert_eq!(subject.validate(&prober).await, Ok(()));
    assert!(server.heads()[0].to_ascii_lowercase().contains("\r\nhost: first.localhost:"));
}

#[tokio::test]
async fn another_status_or_body_is_unauthorized_and_says_what_was_seen() {
    for (reply, seen) in [
        (("404 Not Found", "no such file"), "status 404 and 12 bytes: \"no such file\""),
        (("200 OK", "something else"), "14 bytes: \"something else\""),
        (("204 No Content", ""), "status 204"),
        (("304 Not Modified", ""), "status 304"),
    ] {
        let subject = subject("127.0.0.1");
        let server = HttpServer::start(move |_| response(reply.0, reply.1)).await;
        let failure = subject.validate(&Setup::new().http(server.port).prober()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unauthorized);
        assert!(failure.detail.contains(seen), "{}", failure.detail);
        assert!(failure.detail.contains(&server.address()), "{}", failure.detail);
    }
}

#[tokio::test]
async fn only_the_first_512_bytes_of_a_body_are_read() {
    let subject = subject("127.0.0.1");
    let exact = subject.body() + &" ".repeat(512 - subject.body().len());
    for (body, truncated) in [(exact.clone(), false), (exact + " ", true)] {
        let server = HttpServer::start(move |_| response("200 OK", &body)).await;
        let observed = subject.observe(&Setup::new().http(server.port).prober()).await;
        let Ok(Answer::Http { body, truncated: cut, .. }) = &observed.answer else { panic!("{observed:?}") };
        assert_eq!((body.len(), *cut), (512, truncated));
    }
}

#[tokio::test]
async fn a_body_without_end_ends_for_us() {
    let subject = subject("127.0.0.1");
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"] {
        let server = HttpServer::start(move |_| Reply::Endless(head.into(), vec![b'x'; 64 * 1024])).await;
        let observed = subject.observe(&Setup::new().http(server.port).prober()).await;
        let Ok(Answer::Http { body, truncated, .. }) = &observed.answer else { panic!("{observed:?}") };
        assert_eq!((body.len(), *truncated), (512, true));
    }
}

#[tokio::test]
async fn a_slow_or_silent_server_is_given_up_in_time() {
    let subject = subject("127.0.0.1");
    for (bytes, missing) in [
        ("", "sent no response"),
        ("HTTP/1.1 200 OK\r\nContent-", "sent no response"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 87\r\n\r\nabc", "did not send all of its response"),
    ] {
        let server = HttpServer::start(move |_| Reply::Hold(bytes.into())).await;
        let started = Instant::now();
        let observed = subject.observe(&Setup::new().http(server.port).hasty(300).prober()).await;
        assert!(started.elapsed().as_millis() < 3000, "{:?}", started.elapsed());
        let failure = failure(&observed);
        assert_eq!(failure.kind, FailureKind::Connection);
        assert_eq!(failure.detail, format!("{} {missing} within 0.3 s", server.address()));
        assert_eq!(observed.addresses, [server.address()]);
    }
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let observed = subject("127.0.0.1").observe(&Setup::new().http(address.port()).prober()).await;
    let failure = failure(&observed);
    assert_eq!(failure.detail, format!("{address} refused the connection"));
    assert!(failure.is_transient());
    assert_eq!(observed.addresses, [address.to_string()]);
}

#[tokio::test]
async fn what_is_not_http_is_an_incorrect_response_and_is_not_quoted() {
    let subject = subject("127.0.0.1");
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "SECRET".repeat(20_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "SECRET: 1\r\n".repeat(200));
    let fields = "header of more than";
    for (bytes, kind, says) in [
        ("SSH-2.0-SECRET\r\n\r\n".to_owned(), FailureKind::IncorrectResponse, "not HTTP/1.1"),
        ("HTTP/1.1 SECRET\r\n\r\n".to_owned(), FailureKind::IncorrectResponse, "not HTTP/1.1"),
        (long, FailureKind::IncorrectResponse, fields),
        (many, FailureKind::IncorrectResponse, fields),
        (String::new(), FailureKind::Connection, "closed the connection before the response"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 87\r\n\r\nSECRET".to_owned(),
            FailureKind::Connection,
            "closed the connection before the response",
        ),
    ] {
        let reply = bytes.clone();
        let server = HttpServer::start(move |_| Reply::Close(reply.clone().into_bytes())).await;
        let failure = failure(&subject.observe(&Setup::new().http(server.port).prober()).await);
        assert_eq!(failure.kind, kind, "{} for {}", failure.detail, &bytes[..bytes.len().min(40)]);
        assert!(failure.detail.contains(says), "{}", failure.detail);
        assert!(!failure.detail.contains("SECRET"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let subject = subject("127.0.0.1");
    let body = subject.body();
    let server = HttpServer::start(move |_| {
        let length = body.len();
        Reply::Close(
            format!(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    })
    .await;
    assert_eq!(subject.validate(&Setup::new().http(server.port).prober()).await, Ok(()));
}

#[tokio::test]
async fn either_family_is_enough_when_the_other_answers_wrongly_or_not_at_all() {
    let replies: [fn() -> Reply; 3] = [
        || response("404 Not Found", ""),
        || response("200 OK", "a page for everyone"),
        || Reply::Hold(Vec::new()),
    ];
    for bad in replies {
        for good_is_v4 in [true, false] {
            let subject = subject("app.localhost");
            let body = subject.body();
            let (v6, v4) = both_families().await;
            let (good, other) = if good_is_v4 { (v4, v6) } else { (v6, v4) };
            let good = HttpServer::on(good, move |_| response("200 OK", &body));
            let _other = HttpServer::on(other, move |_| bad());
            let prober = Setup::new().http(good.port).prober();
            assert_eq!(subject.validate(&prober).await, Ok(()), "IPv4 good: {good_is_v4}");
        }
    }
}

#[tokio::test]
async fn if_no_family_has_the_answer_the_first_one_is_shown() {
    let (v6, v4) = both_families().await;
    let v6 = HttpServer::on(v6, |_| response("403 Forbidden", ""));
    let _v4 = HttpServer::on(v4, |_| response("404 Not Found", ""));
    let observed = subject("app.localhost").observe(&Setup::new().http(v6.port).prober()).await;
    assert_eq!(status(&observed), 403);
    assert_eq!(observed.addresses.len(), 2);
}
