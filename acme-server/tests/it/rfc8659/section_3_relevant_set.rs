//! RFC 8659 §3 and §6: where records are looked for, and what is no answer, on a real resolver and a scripted server.

use acme_server::validation::Prober;
use ca_core::acme::DnsName;
use ca_core::acme::caa::RelevantSet;
use ca_core::acme::challenge::{Answer, FailureKind, Probe, ValidationFailure};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CAA, NS};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::validation::Setup;
use crate::validation::dns_server::{DnsServer, Reply, a, cname};

/// `issue "{value}"`.
fn issue(value: &str) -> RData {
    let mut caa = CAA::new_issue(false, None, Vec::new());
    caa.value = value.as_bytes().to_vec();
    RData::CAA(caa)
}

async fn look(dns: &DnsServer, name: &str) -> Result<Option<RelevantSet>, ValidationFailure> {
    look_with(Setup::new().dns(dns.address), name).await
}

async fn look_with(setup: Setup, name: &str) -> Result<Option<RelevantSet>, ValidationFailure> {
    let probe = Probe::Caa { name: DnsName::parse(name).unwrap() };
    let observed = setup.prober().probe(probe).await;
    assert!(observed.addresses.is_empty());
    match observed.answer? {
        Answer::Caa(found) => Ok(found),
        other => panic!("{other:?}"),
    }
}

/// The domain and the first value of what was found.
fn first(found: &Option<RelevantSet>) -> (&str, &str) {
    let set = found.as_ref().unwrap();
    (&set.domain, std::str::from_utf8(&set.records[0].value).unwrap())
}

/// The names whose CAA records were asked for, in order, without repetitions of the resolver's.
fn asked(dns: &DnsServer) -> Vec<String> {
    let mut names: Vec<String> = dns
        .queries()
        .into_iter()
        .filter(|query| query.kind == RecordType::CAA)
        .map(|query| query.name)
        .collect();
    names.dedup();
    names
}

#[tokio::test]
async fn the_search_climbs_to_the_top_level_domain_and_ends_at_the_first_records() {
    let dns = DnsServer::fixed(vec![("a.b.example.com", a([192, 0, 2, 1]))]).await;
    assert_eq!(look(&dns, "a.b.example.com").await, Ok(None));
    assert_eq!(asked(&dns), ["a.b.example.com", "b.example.com", "example.com", "com"]);

    let dns = DnsServer::fixed(vec![
        ("b.example.com", issue("near.example")),
        ("b.example.com", issue("also.example")),
        ("example.com", issue("far.example")),
    ])
    .await;
    let found = look(&dns, "a.b.example.com").await.unwrap();
    assert_eq!(first(&found), ("b.example.com", "near.example"));
    assert_eq!(found.unwrap().records.len(), 2);
    assert_eq!(asked(&dns), ["a.b.example.com", "b.example.com"]);

    let dns = DnsServer::fixed(vec![("com", issue("registry.example"))]).await;
    assert_eq!(first(&look(&dns, "a.example.com").await.unwrap()), ("com", "registry.example"));
}

#[tokio::test]
async fn a_wildcard_name_is_looked_for_without_its_star() {
    let dns = DnsServer::fixed(vec![("example.com", issue("ca.example.org"))]).await;
    assert_eq!(first(&look(&dns, "*.example.com").await.unwrap()), ("example.com", "ca.example.org"));
    assert_eq!(asked(&dns), ["example.com"]);
}

#[tokio::test]
async fn nodata_and_nxdomain_climb_on() {
    let strangers = || Reply::Records(vec![("x.test".to_owned(), issue("ca.example.org"))]);
    for reply in [|| Reply::Records(Vec::new()), || Reply::Code(ResponseCode::NXDomain), strangers] {
        let dns = DnsServer::start(move |query, _| match query.name.as_str() {
            "example.com" => Reply::Records(vec![(query.name.clone(), issue("ca.example.org"))]),
            _ => reply(),
        })
        .await;
        assert_eq!(first(&look(&dns, "www.example.com").await.unwrap()).0, "example.com");
    }
}

#[tokio::test]
async fn an_alias_is_followed_at_its_name_and_the_climb_goes_on_from_the_alias() {
    // The server gives the alias alone, or the alias with what it stands for.
    for chases in [false, true] {
        let dns = DnsServer::start(move |query, _| {
            let target = || ("target.example.net".to_owned(), issue("target.example"));
            let alias = |name: &str| (name.to_owned(), cname("target.example.net"));
            match (query.name.as_str(), query.kind) {
                ("www.example.com", _) if chases => Reply::Records(vec![alias("www.example.com"), target()]),
                ("www.example.com", _) => Reply::Records(vec![alias("www.example.com")]),
                ("target.example.net", RecordType::CAA) => Reply::Records(vec![target()]),
                _ => Reply::Records(Vec::new()),
            }
        })
        .await;
        assert_eq!(
            first(&look(&dns, "www.example.com").await.unwrap()),
            ("www.example.com", "target.example")
        );
    }

    let dns = DnsServer::fixed(vec![
        ("www.example.com", cname("target.example.net")),
        ("target.example.net", a([192, 0, 2, 1])),
        ("example.net", issue("of.the.target")),
        ("example.com", issue("of.the.alias")),
    ])
    .await;
    assert_eq!(first(&look(&dns, "www.example.com").await.unwrap()), ("example.com", "of.the.alias"));
    assert!(!asked(&dns).contains(&"example.net".to_owned()), "{:?}", asked(&dns));
}

#[tokio::test]
async fn an_alias_to_a_name_that_does_not_exist_climbs_on() {
    let dns = DnsServer::fixed(vec![
        ("www.example.com", cname("gone.example.net")),
        ("example.com", issue("of.the.alias")),
    ])
    .await;
    assert_eq!(first(&look(&dns, "www.example.com").await.unwrap()).0, "example.com");
}

#[tokio::test]
async fn aliases_without_an_end_are_a_failure_and_not_an_absence() {
    // Twenty aliases in a row, then a record that forbids to issue; and a circle.
    for circle in [false, true] {
        let dns = DnsServer::start(move |query, _| {
            let number =
                query.name.strip_suffix(".example.com").and_then(|n| n.strip_prefix('n')?.parse().ok());
            match number {
                Some(20) if !circle => Reply::Records(vec![(query.name.clone(), issue(";"))]),
                Some(n) => {
                    let next: u32 = if circle { (n + 1) % 2 } else { n + 1 };
                    Reply::Records(vec![(query.name.clone(), cname(&format!("n{next}.example.com")))])
                }
                None => Reply::Records(Vec::new()),
            }
        })
        .await;
        let failure = look(&dns, "n0.example.com").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Dns, "{failure:?}");
        assert!(
            failure.detail.starts_with("the look-up of CAA records at n0.example.com failed: "),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn section_6_a_look_up_that_fails_on_the_way_is_a_failure() {
    let garbage = || {
        let mut caa = CAA::new_issue(false, None, Vec::new());
        caa.tag = "no tag".to_owned();
        RData::CAA(caa)
    };
    type Script = Box<dyn Fn(&str) -> Reply + Send + Sync>;
    let replies: Vec<(&str, Script)> = vec![
        ("SERVFAIL", Box::new(|_| Reply::Code(ResponseCode::ServFail))),
        ("REFUSED", Box::new(|_| Reply::Code(ResponseCode::Refused))),
        ("NOTIMP", Box::new(|_| Reply::Code(ResponseCode::NotImp))),
        ("an unknown code", Box::new(|_| Reply::Code(ResponseCode::Unknown(12)))),
        ("silence", Box::new(|_| Reply::Silence)),
        (
            "a record that can't be read",
            Box::new(move |name| Reply::Records(vec![(name.to_owned(), garbage())])),
        ),
        (
            "a referral",
            Box::new(|_| {
                let server = Name::from_ascii("ns.example.com.").unwrap();
                Reply::Referral("com".to_owned(), RData::NS(NS(server)))
            }),
        ),
    ];
    for (what, reply) in replies {
        let dns = DnsServer::start(move |query, _| match query.name.as_str() {
            "www.example.com" => Reply::Records(Vec::new()),
            name => reply(name),
        })
        .await;
        let setup = Setup::new().dns(dns.address);
        let setup = if what == "silence" { setup.hasty(3000) } else { setup };
        let failure = look_with(setup, "www.example.com").await;
        let failure = failure.expect_err(what);
        assert_eq!(failure.kind, FailureKind::Dns, "{what}: {failure:?}");
        let beginning = "the look-up of CAA records at example.com failed: ";
        assert!(failure.detail.starts_with(beginning), "{what}: {failure:?}");
    }
}

#[tokio::test]
async fn names_below_localhost_are_never_asked_for() {
    let dns = DnsServer::start(|query, _| Reply::Records(vec![(query.name.clone(), issue(";"))])).await;
    assert_eq!(look(&dns, "a.localhost").await, Ok(None));
    assert!(dns.queries().is_empty());
}
