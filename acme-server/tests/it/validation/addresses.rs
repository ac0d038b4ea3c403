//! From a name to the addresses that are tried: look-ups, aliases, the egress policy, rebinding.

use ca_core::acme::challenge::{ChallengeType, FailureKind, ValidationFailure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::dns_server::{DnsServer, Query, Reply, a, aaaa, cname};
use super::http_server::{HttpServer, response};
use super::{Setup, Subject, failure};

fn subject() -> Subject {
    Subject::new(ChallengeType::Http01, "www.example.org")
}

async fn server(subject: &Subject) -> HttpServer {
    let body = subject.body();
    HttpServer::start(move |_| response("200 OK", &body)).await
}

fn none() -> Reply {
    Reply::Records(Vec::new())
}

fn one(query: &Query, data: hickory_proto::rr::RData) -> Reply {
    Reply::Records(vec![(query.name.clone(), data)])
}

async fn fails(script: impl Fn(&Query, usize) -> Reply + Send + Sync + 'static) -> ValidationFailure {
    let dns = DnsServer::start(script).await;
    let observed = subject().observe(&Setup::new().dns(dns.address).hasty(1200).prober()).await;
    assert!(observed.addresses.is_empty());
    failure(&observed)
}

#[tokio::test]
async fn a_name_is_resolved_through_the_configured_server() {
    let subject = subject();
    let server = server(&subject).await;
    let dns = DnsServer::fixed(vec![("www.example.org", a([127, 0, 0, 1]))]).await;
    let prober = Setup::new().http(server.port).dns(dns.address).prober();
    assert_eq!(subject.validate(&prober).await, Ok(()));
    assert_eq!((dns.count(RecordType::A), dns.count(RecordType::AAAA)), (1, 1));
    assert!(dns.queries().iter().all(|query| query.name == "www.example.org" && !query.tcp));
    assert_eq!(subject.validate(&prober).await, Ok(()));
    assert_eq!(dns.count(RecordType::A), 2, "nothing is remembered");
}

#[tokio::test]
async fn nodata_nxdomain_servfail_refused_and_silence_are_told_apart() {
    let nodata = fails(|_, _| none()).await;
    assert_eq!(nodata.detail, "www.example.org has neither an A nor an AAAA record");
    let nxdomain = fails(|_, _| Reply::Code(ResponseCode::NXDomain)).await;
    assert_eq!(nxdomain.detail, "www.example.org does not exist in the DNS (NXDOMAIN)");
    let servfail = fails(|_, _| Reply::Code(ResponseCode::ServFail)).await;
    assert!(servfail.detail.contains("no address of www.example.org was found"), "{}", servfail.detail);
    assert!(servfail.detail.to_lowercase().contains("server failure"), "{}", servfail.detail);
    let refused = fails(|_, _| Reply::Code(ResponseCode::Refused)).await;
    assert!(
        refused.detail.to_lowercase().contains("the resolver answered query refused"),
        "{}",
        refused.detail
    );
    let started = Instant::now();
    let silence = fails(|_, _| Reply::Silence).await;
    assert!(silence.detail.contains("no resolver answered in time"), "{}", silence.detail);
    assert!(started.elapsed().as_millis() < 1200, "twice the timeout, within the attempt");
    for failure in [nodata, nxdomain, servfail, refused, silence] {
        assert_eq!(failure.kind, FailureKind::Dns);
        assert!(failure.is_transient());
    }
}

#[tokio::test]
async fn one_family_is_enough_when_the_other_fails_or_is_silent() {
    for broken in [|| Reply::Code(ResponseCode::ServFail), || Reply::Silence] {
        let subject = subject();
        let server = server(&subject).await;
        let dns = DnsServer::start(move |query, _| match query.kind {
            RecordType::A => one(query, a([127, 0, 0, 1])),
            _ => broken(),
        })
        .await;
        let prober = Setup::new().http(server.port).dns(dns.address).prober();
        let started = Instant::now();
        assert_eq!(subject.validate(&prober).await, Ok(()));
        assert!(started.elapsed().as_secs() < 3, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_failed_look_up_of_one_family_is_told_if_the_other_does_not_help() {
    let dns = DnsServer::start(|query, _| match query.kind {
        RecordType::A => one(query, a([127, 0, 0, 1])),
        _ => Reply::Code(ResponseCode::ServFail),
    })
    .await;
    let failure = failure(&subject().observe(&Setup::new().dns(dns.address).prober()).await);
    assert_eq!(failure.kind, FailureKind::Connection);
    assert!(failure.detail.starts_with("127.0.0.1:9 refused the connection; "), "{}", failure.detail);
    assert!(failure.detail.contains("the look-up of its AAAA records failed"), "{}", failure.detail);
}

#[tokio::test]
async fn aliases_are_followed_in_one_answer_or_several() {
    for whole in [true, false] {
        let subject = subject();
        let server = server(&subject).await;
        let dns = DnsServer::start(move |query, _| match (query.name.as_str(), query.kind) {
            ("www.example.org", RecordType::A) if whole => Reply::Records(vec![
                ("www.example.org".into(), cname("alias.example.net")),
                ("alias.example.net".into(), cname("host.example.net")),
                ("host.example.net".into(), a([127, 0, 0, 1])),
            ]),
            ("www.example.org", _) => one(query, cname("alias.example.net")),
            ("alias.example.net", _) => one(query, cname("host.example.net")),
            ("host.example.net", RecordType::A) => one(query, a([127, 0, 0, 1])),
            _ => none(),
        })
        .await;
        let prober = Setup::new().http(server.port).dns(dns.address).prober();
        assert_eq!(subject.validate(&prober).await, Ok(()), "in one answer: {whole}");
    }
}

#[tokio::test]
async fn aliases_in_a_circle_end() {
    let failure = fails(|query, _| {
        one(query, cname(if query.name == "www.example.org" { "b.example" } else { "www.example.org" }))
    })
    .await;
    assert_eq!(failure.kind, FailureKind::Dns);
}

#[tokio::test]
async fn records_of_other_owners_in_an_answer_are_not_used() {
    let dns = DnsServer::start(|query, _| match query.kind {
        RecordType::A => Reply::Records(vec![
            ("elsewhere.example".into(), a([127, 0, 0, 1])),
            (query.name.clone(), a([127, 0, 0, 3])),
            ("elsewhere.example".into(), a([127, 0, 0, 2])),
        ]),
        _ => none(),
    })
    .await;
    let observed = subject().observe(&Setup::new().dns(dns.address).prober()).await;
    assert_eq!(observed.addresses, ["127.0.0.3:9"]);

    let failure = fails(|query, _| {
        Reply::Records(match query.kind {
            RecordType::A => vec![
                ("www.example.org".into(), cname("host.example.net")),
                ("elsewhere.example".into(), a([127, 0, 0, 1])),
            ],
            _ => Vec::new(),
        })
    })
    .await;
    assert_eq!(failure.kind, FailureKind::Dns);
}

#[tokio::test]
async fn an_alias_of_a_denied_address_is_rejected_without_a_connection() {
    let server = HttpServer::start(|_| response("200 OK", "")).await;
    let dns = DnsServer::fixed(vec![
        ("www.example.org", cname("host.example.net")),
        ("host.example.net", a([127, 0, 0, 1])),
    ])
    .await;
    let prober = Setup::new().http(server.port).dns(dns.address).egress(&[], &["127.0.0.0/8"]).prober();
    let observed = subject().observe(&prober).await;
    let failure = failure(&observed);
    assert_eq!(failure.kind, FailureKind::RejectedIdentifier);
    assert!(!failure.is_transient());
    assert_eq!(
        failure.detail,
        "no address of www.example.org may be connected to: 127.0.0.1 is in acme.validation.deny_networks"
    );
    assert!(observed.addresses.is_empty());
    assert!(server.heads().is_empty());
}

#[tokio::test]
async fn loopback_is_denied_in_every_spelling_when_it_is_not_allowed() {
    for identifier in
        ["127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "x.localhost"]
    {
        let server = HttpServer::start(|_| response("200 OK", "")).await;
        let prober = Setup::new().http(server.port).egress(&[], &[]).prober();
        let observed = Subject::new(ChallengeType::Http01, identifier).observe(&prober).await;
        let failure = failure(&observed);
        assert_eq!(failure.kind, FailureKind::RejectedIdentifier, "{identifier}");
        assert!(failure.detail.contains("acme.validation.allow_networks"), "{}", failure.detail);
        assert!(server.heads().is_empty(), "{identifier}");
    }
}

#[tokio::test]
async fn denied_addresses_beside_an_allowed_one_are_not_tried() {
    let subject = subject();
    let good = server(&subject).await;
    let records = vec![
        ("www.example.org", a([127, 0, 0, 2])),
        ("www.example.org", a([127, 0, 0, 1])),
        ("www.example.org", aaaa("::ffff:127.0.0.2")),
    ];
    let dns = DnsServer::fixed(records).await;
    let setup = |port| Setup::new().http(port).dns(dns.address).egress(&["127.0.0.1"], &[]).prober();
    let observed = subject.observe(&setup(good.port)).await;
    assert_eq!(observed.addresses, [good.address()]);
    assert_eq!(subject.validate(&setup(good.port)).await, Ok(()));
    let failure = failure(&subject.observe(&setup(9)).await);
    assert_eq!(failure.kind, FailureKind::Connection, "not all of them are denied");
    assert!(failure.detail.contains("127.0.0.1:9 refused the connection; not tried: "), "{}", failure.detail);
    assert!(failure.detail.contains("127.0.0.2 is not a global address"), "{}", failure.detail);
}

#[tokio::test]
async fn the_address_that_was_vetted_is_the_one_connected_to() {
    let subject = subject();
    let allowed = server(&subject).await;
    let rebound = tokio::net::TcpListener::bind(("127.0.0.2", allowed.port)).await.unwrap();
    let rebound = HttpServer::on(rebound, |_| response("200 OK", ""));
    // The first answer is allowed, every later one is not.
    let dns = DnsServer::start(|query, before| match (query.kind, before) {
        (RecordType::A, 0) => one(query, a([127, 0, 0, 1])),
        (RecordType::A, _) => one(query, a([127, 0, 0, 2])),
        _ => none(),
    })
    .await;
    let prober =
        Setup::new().http(allowed.port).dns(dns.address).egress(&["127.0.0.1"], &["127.0.0.2"]).prober();
    let observed = subject.observe(&prober).await;
    assert_eq!(observed.addresses, [allowed.address()]);
    assert_eq!(dns.count(RecordType::A), 1, "asked once, vetted, and connected to");
    assert_eq!(failure(&subject.observe(&prober).await).kind, FailureKind::RejectedIdentifier);
    assert!(rebound.heads().is_empty());
}

#[tokio::test]
async fn of_many_addresses_a_few_are_tried() {
    let records = (1..=50).map(|last| ("www.example.org", a([127, 0, 9, last]))).collect();
    let dns = DnsServer::fixed(records).await;
    let observed = subject().observe(&Setup::new().dns(dns.address).prober()).await;
    assert_eq!(observed.addresses.len(), 4);
}
