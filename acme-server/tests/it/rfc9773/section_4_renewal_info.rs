//! RFC 9773 §4: renewal information.

use std::time::Duration;

use acme_server::config::{Config, DirectoryConfig, RenewalConfig};
use ca_core::acme::renewal::PullScope;
use ca_core::store::{CertificateFilter, Change, Commit};
use ca_core::time::{Clock, Timestamp};
use http::Method;

use super::{Issued, identifier, pull};
use crate::support::client::send;
use crate::support::{Ca, Client, Key, PUBLIC_URL, open_config};

#[tokio::test]
async fn section_3_the_directory_names_the_resource() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    assert_eq!(client.resource("renewalInfo"), format!("{PUBLIC_URL}/acme/default/renewal-info"));
    client.get(&client.resource("renewalInfo")).await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn section_4_1_anybody_may_ask_and_caches_may_keep_it() {
    let ca = Ca::with(Config {
        renewal: RenewalConfig {
            explanation_url: Some("https://ca.test/renewal".to_owned()),
            ..RenewalConfig::default()
        },
        ..open_config()
    })
    .await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let url = issued.info_url(&client);
    let answer = send(&ca.router(), Method::GET, &url, "", Vec::new()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "public, max-age=300");
    assert!(answer.headers.get("replay-nonce").is_none());
    assert_eq!(answer.text("explanationURL"), "https://ca.test/renewal");
    let members: Vec<_> = answer.json.as_object().unwrap().keys().collect();
    assert_eq!(members, ["explanationURL", "suggestedWindow"]);
    let again = send(&ca.router(), Method::GET, &url, "", Vec::new()).await;
    assert_eq!(again.json, answer.json, "the same for every request");
    let head = send(&ca.router(), Method::HEAD, &url, "", Vec::new()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    client.read(&url).await.assert_problem(405, "malformed");
}

#[tokio::test]
async fn section_4_2_the_window_lies_in_the_last_third_of_the_validity() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let mut starts = std::collections::BTreeSet::new();
    for name in ["a.example", "b.example", "c.example"] {
        let issued = Issued::new(&ca, &client, name).await;
        let (start, end) = issued.window(&client).await;
        let (not_before, not_after) = issued.validity();
        let lifetime = not_after.since(not_before);
        assert!(not_before.plus(lifetime / 100 * 66) <= start && start < end, "{start} {end}");
        assert!(end <= not_before.plus(lifetime / 100 * 80), "{end}");
        starts.insert(start);
    }
    assert_eq!(starts.len(), 3, "each at another time");
}

#[tokio::test]
async fn section_4_1_what_is_no_identifier_is_malformed_and_what_is_not_ours_is_not_there() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let base = client.resource("renewalInfo");
    let ask = |id: String| {
        let (client, base) = (&client, &base);
        async move { client.get(&format!("{base}/{id}")).await }
    };
    let (issuer, serial) = issued.id.split_once('.').unwrap();
    for bad in [
        "x".to_owned(),
        issuer.to_owned(),
        format!("{issuer}."),
        format!("{issuer}.{serial}="),
        format!("{issuer}.{serial}.x"),
        format!("{issuer}.AA{serial}"),
        format!("{}.{serial}", "A".repeat(2000)),
    ] {
        ask(bad).await.assert_problem(400, "malformed");
    }
    let not_there = ask(format!("{issuer}.AQ")).await;
    not_there.assert_problem(404, "malformed");
    assert_eq!(not_there.header("cache-control"), "no-store", "it may come to be");
    // The RFC's own example, from a CA that is not this one.
    ask("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE".to_owned()).await.assert_problem(404, "malformed");

    // A CA certificate of ours is no subscriber's.
    let page = ca.store.certificates(CertificateFilter::default(), None, 10).await.unwrap();
    let of_ca = page.rows.iter().find(|record| record.id.issuer.as_str() == "root-1").unwrap();
    if let Some(der) =
        page.rows.iter().filter(|record| record.profile.as_str() == "issuing-ca").find_map(|r| r.der.as_ref())
    {
        ask(identifier(&der.der)).await.assert_problem(404, "malformed");
    } else {
        panic!("{} has no issuing CA below it", of_ca.id);
    }
}

#[tokio::test]
async fn section_4_3_1_retry_after_is_in_whole_seconds_and_configured_by_directory() {
    let renewal = |seconds| RenewalConfig { retry_after_seconds: seconds, ..RenewalConfig::default() };
    let own = DirectoryConfig { renewal: Some(renewal(120)), ..DirectoryConfig::default() };
    let directories = [("default".to_owned(), DirectoryConfig::default()), ("lab".to_owned(), own)];
    let ca =
        Ca::with(Config { directories: directories.into(), renewal: renewal(7200), ..open_config() }).await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let answer = client.get(&issued.info_url(&client)).await;
    assert_eq!(answer.header("retry-after"), "7200");

    let mut lab = Client::new(ca.router(), Key::p256(), "lab").await;
    lab.register().await;
    let issued = Issued::new(&ca, &lab, "a.example").await;
    let answer = lab.get(&issued.info_url(&lab)).await;
    assert_eq!(
        (answer.header("retry-after"), answer.header("cache-control")),
        ("120", "public, max-age=120")
    );
}

#[tokio::test]
async fn a_revoked_certificate_s_window_is_over() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    assert!(issued.window(&client).await.0 > ca.clock.now());
    assert_eq!(client.revoke(&issued.der, Some(1)).await.status, 200);
    let (start, end) = issued.window(&client).await;
    assert!(start < end && end < ca.clock.now(), "{start} {end}");
}

#[tokio::test]
async fn busy_hours_have_no_windows() {
    let renewal =
        RenewalConfig { busy_hours: vec!["Mon-Fri 06:00-24:00".to_owned()], ..RenewalConfig::default() };
    let ca = Ca::with(Config { renewal, ..open_config() }).await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let (start, end) = issued.window(&client).await;
    let busy = "Mon-Fri 06:00-24:00".parse::<ca_core::acme::busy::BusyRule>().unwrap();
    let busy: ca_core::acme::busy::BusyHours = [busy].into_iter().collect();
    assert_eq!(busy.free(start, end), [(start, end)]);
}

#[tokio::test]
async fn a_pull_is_heard_of_and_so_is_its_end() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let issued = Issued::new(&ca, &client, "a.example").await;
    let other = Issued::new(&ca, &client, "b.example").await;
    let usual = issued.window(&client).await;
    let others = other.window(&client).await;

    let now = ca.clock.now();
    let window = (now.minus(Duration::from_hours(2)), now.minus(Duration::from_hours(1)));
    let record = record(&ca, "a.example").await;
    let id = pull(&ca, PullScope::Certificate(record), window).await;
    let (start, end) = other_than(usual, &issued, &client).await;
    assert!(window.0 <= start && start < end && end <= window.1, "{start} {end}");
    let answer = client.get(&issued.info_url(&client)).await;
    assert_eq!(answer.text("explanationURL"), "https://ca.test/incident");
    assert_eq!(other.window(&client).await, others);

    let changes = vec![Change::RemoveRenewalPull(id)];
    ca.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
    assert_eq!(other_than((start, end), &issued, &client).await, usual);
}

/// The window once it is another one: sooner than by the look that is taken in any case every ten seconds.
async fn other_than(
    before: (Timestamp, Timestamp),
    issued: &Issued,
    client: &Client,
) -> (Timestamp, Timestamp) {
    let changed = async {
        loop {
            let window = issued.window(client).await;
            if window != before {
                return window;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), changed).await.unwrap()
}

async fn record(ca: &Ca, name: &str) -> ca_core::store::CertificateId {
    let name = ca_core::acme::Identifier::from_text(name).unwrap();
    let filter = CertificateFilter { name: Some(name), ..CertificateFilter::default() };
    ca.store.certificates(filter, None, 2).await.unwrap().rows.remove(0).id
}
