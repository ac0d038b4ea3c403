//! RFC 8555 §8.4: TXT records, found, absent, too many, out of reach.

use ca_core::acme::challenge::{Answer, ChallengeType, FailureKind, Observed};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::dns_server::{DnsServer, Reply, cname, txt};
use super::{Setup, Subject, failure};

fn subject() -> Subject {
    Subject::new(ChallengeType::Dns01, "example.org")
}

const NAME: &str = "_acme-challenge.example.org";

fn values(observed: &Observed) -> Vec<Vec<u8>> {
    match &observed.answer {
        Ok(Answer::Txt { values }) => values.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_record_with_the_digest_proves_control_beside_others() {
    let subject = subject();
    let digest = subject.key_authorization().dns_value();
    let dns = DnsServer::fixed(vec![(NAME, txt(&["other"])), (NAME, txt(&[&digest]))]).await;
    let prober = Setup::new().dns(dns.address).prober();
    assert_eq!(subject.validate(&prober).await, Ok(()));
    assert!(subject.observe(&prober).await.addresses.is_empty());
}

#[tokio::test]
async fn the_strings_of_a_record_are_joined() {
    let subject = subject();
    let digest = subject.key_authorization().dns_value();
    let (head, tail) = digest.split_at(20);
    let dns = DnsServer::fixed(vec![(NAME, txt(&[head, tail]))]).await;
    assert_eq!(subject.validate(&Setup::new().dns(dns.address).prober()).await, Ok(()));
}

#[tokio::test]
async fn an_alias_leads_to_the_record() {
    let subject = subject();
    let digest = subject.key_authorization().dns_value();
    let target = "example-org.validation.example.net";
    let dns = DnsServer::fixed(vec![(NAME, cname(target)), (target, txt(&[&digest]))]).await;
    assert_eq!(subject.validate(&Setup::new().dns(dns.address).prober()).await, Ok(()));
}

#[tokio::test]
async fn no_record_and_no_name_are_answers_and_failures_are_not() {
    for reply in [|| Reply::Records(Vec::new()), || Reply::Code(ResponseCode::NXDomain)] {
        let dns = DnsServer::start(move |_, _| reply()).await;
        let prober = Setup::new().dns(dns.address).prober();
        let failure = subject().validate(&prober).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unauthorized);
        assert!(failure.detail.contains("there is no TXT record"), "{}", failure.detail);
    }
    for reply in [|| Reply::Code(ResponseCode::ServFail), || Reply::Silence] {
        let dns = DnsServer::start(move |_, _| reply()).await;
        let observed = subject().observe(&Setup::new().dns(dns.address).hasty(1000).prober()).await;
        let failure = failure(&observed);
        assert_eq!(failure.kind, FailureKind::Dns);
        assert!(failure.detail.starts_with(&format!("the look-up of TXT records at {NAME} failed: ")));
    }
}

#[tokio::test]
async fn a_large_set_comes_over_tcp_and_is_bounded() {
    let dns = DnsServer::start(|query, _| {
        Reply::Records(
            (0..150)
                .map(|number| (query.name.clone(), txt(&[&"x".repeat(255), &number.to_string()])))
                .collect(),
        )
    })
    .await;
    let found = values(&subject().observe(&Setup::new().dns(dns.address).prober()).await);
    assert_eq!(found.len(), 100);
    assert!(dns.queries().iter().any(|query| query.tcp));

    let long = "y".repeat(255);
    let dns = DnsServer::fixed(vec![(NAME, txt(&[&long, &long, &long]))]).await;
    let found = values(&subject().observe(&Setup::new().dns(dns.address).prober()).await);
    assert_eq!(found, [vec![b'y'; 512]]);
}

#[tokio::test]
async fn every_look_up_sees_fresh_data() {
    let dns = DnsServer::start(|query, before| {
        if before == 0 {
            Reply::Code(ResponseCode::NXDomain)
        } else {
            Reply::Records(vec![(query.name.clone(), txt(&[&before.to_string()]))])
        }
    })
    .await;
    let prober = Setup::new().dns(dns.address).prober();
    assert!(values(&subject().observe(&prober).await).is_empty());
    assert_eq!(values(&subject().observe(&prober).await), [b"1".to_vec()]);
    assert_eq!(values(&subject().observe(&prober).await), [b"2".to_vec()]);
}

#[tokio::test]
async fn names_below_localhost_are_never_asked_for() {
    let dns = DnsServer::start(|query, _| Reply::Records(vec![(query.name.clone(), txt(&["x"]))])).await;
    let prober = Setup::new().dns(dns.address).prober();
    let observed = Subject::new(ChallengeType::Dns01, "a.localhost").observe(&prober).await;
    assert!(values(&observed).is_empty());
    assert!(dns.queries().is_empty());
    // The server is there: another name reaches it.
    let _ = subject().observe(&prober).await;
    assert_eq!(dns.count(RecordType::TXT), 1);
}

#[tokio::test]
async fn a_dead_resolver_beside_a_live_one_does_no_harm() {
    let subject = subject();
    let digest = subject.key_authorization().dns_value();
    let dns = DnsServer::fixed(vec![(NAME, txt(&[&digest]))]).await;
    let dead = DnsServer::start(|_, _| Reply::Silence).await;
    let mut setup = Setup::new();
    setup.config.dns_servers = vec![dead.address, dns.address];
    assert_eq!(subject.validate(&setup.prober()).await, Ok(()));
}
