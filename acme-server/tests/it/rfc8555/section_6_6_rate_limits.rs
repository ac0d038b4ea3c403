//! RFC 8555 §6.6: rate limits, bounds and pauses.

use std::net::SocketAddr;
use std::time::Duration;

use acme_server::client_address::Peer;
use acme_server::config::Config;
use acme_server::limits::LimitsConfig;
use axum::{Extension, Router};
use ca_core::acme::pause::PairId;
use ca_core::acme::rate_limit::{Allowance, Limit};
use ca_core::acme::{Account, Identifier};
use ca_core::id::AccountId;
use ca_core::store::{Change, Commit};
use serde_json::{Value, json};

use crate::rfc9773::identifier;
use crate::support::client::{from_pem, identifiers};
use crate::support::{Answer, Ca, Client, Key, key, open_config};

const HOUR: Duration = Duration::from_hours(1);

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

async fn limited(limits: LimitsConfig) -> Ca {
    Ca::with(Config { limits, ..open_config() }).await
}

/// Asserts that this is the refusal of a limit, and gives its Retry-After and detail.
#[track_caller]
fn refusal<'a>(answer: &'a Answer, limit: &str) -> (u64, &'a str) {
    answer.assert_problem(429, "rateLimited");
    let detail = answer.text("detail");
    assert!(detail.contains(limit), "{detail}");
    (answer.header("retry-after").parse().unwrap(), detail)
}

async fn account_of(ca: &Ca, client: &Client) -> Account {
    let id: AccountId = client.kid.as_ref().unwrap().rsplit('/').next().unwrap().parse().unwrap();
    ca.store.account(id).await.unwrap().unwrap()
}

async fn limit(ca: &Ca, client: &Client, limit: Limit, allowance: &str) {
    let account = account_of(ca, client).await;
    let allowance: Allowance = allowance.parse().unwrap();
    let changes = vec![Change::PutAccount(account.with_limit(limit, Some(allowance)))];
    ca.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
}

/// Orders a name and lets its validation fail.
async fn fail(ca: &Ca, client: &Client, name: &str) -> Answer {
    let order = client.new_order(&[name]).await;
    if order.status != 201 {
        return order;
    }
    let authorization = client.read(&order.list("authorizations")[0]).await;
    ca.prober.put_txt(&format!("_acme-challenge.{name}"), "something else");
    let url = authorization.challenge("dns-01")["url"].as_str().unwrap().to_owned();
    let failed = client.post(&url, &json!({})).await;
    assert_eq!(failed.text("status"), "invalid", "{failed:?}");
    order
}

async fn actions(ca: &Ca) -> Vec<Value> {
    let entries = ca.store.audit(0, 10_000).await.unwrap();
    entries.iter().map(|(_, entry)| serde_json::from_slice(entry).unwrap()).collect()
}

fn count(actions: &[Value], action: &str) -> usize {
    actions.iter().filter(|entry| entry["action"] == action).count()
}

#[tokio::test]
async fn orders_of_an_account_are_limited_and_the_refusal_says_everything() {
    let help = "https://wiki.example/limits";
    let limits = LimitsConfig {
        new_orders_per_account: some("3/1h"),
        help_url: some(help),
        ..LimitsConfig::default()
    };
    let ca = limited(limits).await;
    let (client, other) = (ca.client().await, ca.client().await);
    for name in ["a.example", "b.example", "c.example"] {
        assert_eq!(client.new_order(&[name]).await.status, 201);
    }
    let refused = client.new_order(&["d.example"]).await;
    let (seconds, detail) = refusal(&refused, "new_orders_per_account is 3/1h");
    assert!((1190..=1200).contains(&seconds), "one of three an hour: {seconds}");
    for part in [
        format!("in {seconds} seconds, at 20"),
        "acme.limits.new_orders_per_account".to_owned(),
        help.to_owned(),
    ] {
        assert!(detail.contains(&part), "{detail}");
    }
    assert_eq!(refused.links("help"), [help]);
    assert_eq!(other.new_order(&["d.example"]).await.status, 201, "another account is not concerned");
    assert_eq!(ca.metric("acme_limited_total{limit=\"new_orders_per_account\"}"), 1.0);
    // A refused order is none.
    assert_eq!(count(&actions(&ca).await, "order_created"), 4);

    ca.clock.advance(Duration::from_secs(seconds - 5));
    refusal(&client.new_order(&["d.example"]).await, "new_orders_per_account");
    ca.clock.advance(Duration::from_secs(5));
    assert_eq!(client.new_order(&["d.example"]).await.status, 201, "as soon as Retry-After said");
    refusal(&client.new_order(&["e.example"]).await, "new_orders_per_account");
}

#[tokio::test]
async fn what_was_counted_outlives_a_restart() {
    let ca = limited(LimitsConfig { new_orders_per_account: some("2/1h"), ..LimitsConfig::default() }).await;
    let client = ca.client().await;
    for _ in 0..2 {
        assert_eq!(client.new_order(&["a.example"]).await.status, 201);
    }
    let client = client.on(ca.restarted().router());
    refusal(&client.new_order(&["a.example"]).await, "new_orders_per_account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_at_once_do_not_share_the_last_place() {
    let limits = LimitsConfig { new_orders_per_directory: some("20/1h"), ..LimitsConfig::default() };
    let ca = limited(limits).await;
    let clients = [ca.client().await, ca.client().await];
    let orders = (0..60).map(|index| {
        let client = &clients[index % 2];
        async move { client.new_order(&[&format!("host-{index}.example")]).await }
    });
    let answers = futures_join(orders).await;
    let placed = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(placed, 20);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refusal(refused, "new_orders_per_directory");
    }
    assert_eq!(count(&actions(&ca).await, "order_created"), 20);
}

/// Polls all of them together.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut done = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn orders_for_a_name_are_counted_over_accounts_with_its_wildcard() {
    let ca = limited(LimitsConfig { new_orders_per_name: some("2/1d"), ..LimitsConfig::default() }).await;
    let (client, other) = (ca.client().await, ca.client().await);
    assert_eq!(client.new_order(&["a.example", "*.a.example", "b.example"]).await.status, 201, "counts once");
    assert_eq!(other.new_order(&["*.a.example"]).await.status, 201);
    let refused = client.new_order(&["c.example", "a.example"]).await;
    let (_, detail) = refusal(&refused, "new_orders_per_name");
    assert!(detail.contains("'a.example'"), "{detail}");
    // Nothing was counted for the other name.
    for _ in 0..2 {
        assert_eq!(client.new_order(&["c.example"]).await.status, 201);
    }
    assert_eq!(client.new_order(&["sub.a.example"]).await.status, 201, "a name below is another name");
}

#[tokio::test]
async fn certificates_for_the_same_names_are_limited_where_they_are_asked_for() {
    let ca =
        limited(LimitsConfig { certificates_per_name_set: some("2/7d"), ..LimitsConfig::default() }).await;
    let (client, other) = (ca.client().await, ca.client().await);
    // Orders alone don't count.
    let mut orders = Vec::new();
    for _ in 0..4 {
        let order = client.new_order(&["a.example", "b.example"]).await;
        assert_eq!(order.status, 201);
        orders.push(order);
    }
    let csr = || key::csr(&key::subscriber_key(), &["a.example", "b.example"]);
    for order in &orders[..3] {
        ca.authorize(&client, order).await;
    }
    for order in &orders[..2] {
        assert_eq!(client.finalize(order, &csr()).await.text("status"), "valid");
    }
    let late = client.finalize(&orders[2], &csr()).await;
    refusal(&late, "certificates_per_name_set");
    assert_eq!(client.read(orders[2].location()).await.text("status"), "ready", "it can be finalized later");
    // In any order, by any account.
    refusal(&other.new_order(&["b.example", "a.example"]).await, "certificates_per_name_set");
    assert_eq!(other.new_order(&["a.example"]).await.status, 201);
    // Half the time frees one of two.
    ca.clock.advance(HOUR * 84);
    assert_eq!(client.finalize(&orders[2], &csr()).await.text("status"), "valid");
}

#[tokio::test]
async fn rfc9773_5_a_renewal_in_its_window_is_not_counted() {
    let limits = LimitsConfig {
        certificates_per_name_set: some("1/366d"),
        new_orders_per_account: some("1/366d"),
        new_orders_per_directory: some("1/366d"),
        new_orders_per_name: some("1/366d"),
        ..LimitsConfig::default()
    };
    let ca = limited(limits).await;
    let client = ca.client().await;
    let issued = ca.issue(&client, &["a.example"]).await;
    let der = from_pem(&client.read(issued.text("certificate")).await.body).remove(0);
    let replacing = json!({"identifiers": identifiers(&["a.example"]), "replaces": identifier(&der)});
    let url = client.resource("newOrder");
    refusal(&client.post(&url, &replacing).await, "new_orders_per_account");
    ca.clock.advance(HOUR * 24 * 80);
    let renewal = client.post(&url, &replacing).await;
    assert_eq!(renewal.status, 201, "{renewal:?}");
    ca.authorize(&client, &renewal).await;
    let csr = key::csr(&key::subscriber_key(), &["a.example"]);
    assert_eq!(client.finalize(&renewal, &csr).await.text("status"), "valid");
    refusal(&client.new_order(&["a.example"]).await, "new_orders_per_account");
}

#[tokio::test]
async fn rfc9773_5_who_revokes_a_certificate_is_counted_when_it_is_replaced() {
    let ca = limited(LimitsConfig { new_orders_per_account: some("1/1h"), ..LimitsConfig::default() }).await;
    let client = ca.client().await;
    let issued = ca.issue(&client, &["a.example"]).await;
    let der = from_pem(&client.read(issued.text("certificate")).await.body).remove(0);
    assert_eq!(client.revoke(&der, Some(4)).await.status, 200);
    let replacing = json!({"identifiers": identifiers(&["a.example"]), "replaces": identifier(&der)});
    refusal(&client.post(&client.resource("newOrder"), &replacing).await, "new_orders_per_account");
}

#[tokio::test]
async fn an_order_of_an_account_that_is_known_to_have_used_up_its_limit_is_not_looked_into() {
    let ca = limited(LimitsConfig { new_orders_per_account: some("1/1h"), ..LimitsConfig::default() }).await;
    let client = ca.client().await;
    let url = client.resource("newOrder");
    let unplaceable = json!({"identifiers": identifiers(&["a.example"]), "profile": "none"});
    client.post(&url, &unplaceable).await.assert_problem(400, "invalidProfile");
    assert_eq!(client.new_order(&["a.example"]).await.status, 201);
    refusal(&client.new_order(&["a.example"]).await, "new_orders_per_account");
    refusal(&client.post(&url, &unplaceable).await, "new_orders_per_account");
}

#[tokio::test]
async fn failed_validations_of_a_name_close_it_to_that_account_for_a_while() {
    let ca =
        limited(LimitsConfig { failed_validations_per_name: some("2/1h"), ..LimitsConfig::default() }).await;
    let (client, other) = (ca.client().await, ca.client().await);
    for _ in 0..2 {
        assert_eq!(fail(&ca, &client, "a.example").await.status, 201);
    }
    let refused = client.new_order(&["b.example", "a.example"]).await;
    let (seconds, detail) = refusal(&refused, "failed_validations_per_name");
    assert!(detail.contains("'a.example'"), "{detail}");
    assert!(seconds <= 1800);
    assert_eq!(client.new_order(&["b.example"]).await.status, 201);
    assert_eq!(other.new_order(&["a.example"]).await.status, 201);
    ca.clock.advance(HOUR / 2);
    assert_eq!(client.new_order(&["a.example"]).await.status, 201);
}

#[tokio::test]
async fn an_account_can_have_limits_of_its_own() {
    let ca = limited(LimitsConfig { new_orders_per_account: some("1/1h"), ..LimitsConfig::default() }).await;
    let (wide, free, other) = (ca.client().await, ca.client().await, ca.client().await);
    assert_eq!(wide.new_order(&["a.example"]).await.status, 201);
    refusal(&wide.new_order(&["a.example"]).await, "new_orders_per_account");
    // At once, also where the refusal is remembered.
    limit(&ca, &wide, Limit::NewOrdersPerAccount, "3/1h").await;
    limit(&ca, &free, Limit::NewOrdersPerAccount, "off").await;
    for _ in 0..3 {
        assert_eq!(wide.new_order(&["a.example"]).await.status, 201);
    }
    let refused = wide.new_order(&["a.example"]).await;
    let (_, detail) = refusal(&refused, "is 3/1h");
    assert!(detail.contains("this account's own"), "{detail}");
    for _ in 0..5 {
        assert_eq!(free.new_order(&["a.example"]).await.status, 201);
    }
    assert_eq!(other.new_order(&["a.example"]).await.status, 201);
    refusal(&other.new_order(&["a.example"]).await, "is 1/1h");
}

#[tokio::test]
async fn a_directory_has_limits_of_its_own() {
    let own = acme_server::config::DirectoryConfig {
        limits: Some(LimitsConfig { new_orders_per_account: some("1/1h"), ..LimitsConfig::default() }),
        ..Default::default()
    };
    let config = Config {
        limits: LimitsConfig { new_orders_per_account: some("off"), ..LimitsConfig::default() },
        directories: [("default".to_owned(), Default::default()), ("lab".to_owned(), own)].into(),
        ..open_config()
    };
    let ca = Ca::with(config).await;
    let client = ca.client().await;
    let mut lab = Client::new(ca.router(), Key::p256(), "lab").await;
    lab.register().await;
    for _ in 0..3 {
        assert_eq!(client.new_order(&["a.example"]).await.status, 201);
    }
    assert_eq!(lab.new_order(&["a.example"]).await.status, 201);
    refusal(&lab.new_order(&["a.example"]).await, "acme.directories.lab.limits.new_orders_per_account");
}

/// The router as a listener calls it for a client at an address.
fn from(ca: &Ca, address: &str) -> Router {
    let address: SocketAddr = format!("{address}:4711").parse().unwrap();
    ca.router().layer(Extension(Peer(address)))
}

async fn new_account(router: Router) -> Answer {
    let client = Client::new(router, Key::p256(), "default").await;
    client.post(&client.resource("newAccount"), &json!({})).await
}

#[tokio::test]
async fn new_accounts_are_limited_by_the_network_that_they_come_from() {
    let limits = LimitsConfig { new_accounts_per_address: some("2/3h"), ..LimitsConfig::default() };
    let config = Config { limits, trusted_proxies: vec!["10.0.0.0/8".to_owned()], ..open_config() };
    let ca = Ca::with(config).await;
    for _ in 0..2 {
        assert_eq!(new_account(from(&ca, "192.0.2.1")).await.status, 201);
    }
    refusal(&new_account(from(&ca, "192.0.2.1")).await, "new_accounts_per_address");
    assert_eq!(new_account(from(&ca, "192.0.2.2")).await.status, 201);
    for address in ["[2001:db8:1:2::1]", "[2001:db8:1:2:ffff::]"] {
        assert_eq!(new_account(from(&ca, address)).await.status, 201);
    }
    refusal(&new_account(from(&ca, "[2001:db8:1:2:1::]")).await, "new_accounts_per_address");
    assert_eq!(new_account(from(&ca, "[2001:db8:1:3::1]")).await.status, 201);

    // The key's own account is found at any time.
    let client = Client::new(from(&ca, "192.0.2.3"), Key::p256(), "default").await;
    for status in [201, 200, 200, 200] {
        assert_eq!(client.post(&client.resource("newAccount"), &json!({})).await.status, status);
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_it_is_the_client_that_counts() {
    let limits = LimitsConfig { new_accounts_per_address: some("1/3h"), ..LimitsConfig::default() };
    let config = Config { limits, trusted_proxies: vec!["10.0.0.0/8".to_owned()], ..open_config() };
    let ca = Ca::with(config).await;
    let through = |peer: &str, forwarded: &'static str| {
        let set = move |mut request: http::Request<axum::body::Body>| {
            request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
            request
        };
        from(&ca, peer).layer(tower::util::MapRequestLayer::new(set))
    };
    assert_eq!(new_account(through("10.0.0.1", "192.0.2.1")).await.status, 201);
    assert_eq!(new_account(through("10.0.0.1", "192.0.2.2")).await.status, 201);
    refusal(&new_account(through("10.0.0.2", "198.51.100.7, 192.0.2.1")).await, "new_accounts_per_address");
    // A stranger may write what it likes.
    assert_eq!(new_account(through("203.0.113.1", "192.0.2.3")).await.status, 201);
    refusal(&new_account(through("203.0.113.1", "192.0.2.4")).await, "new_accounts_per_address");
}

#[tokio::test]
async fn accounts_that_order_nothing_are_bounded() {
    let ca = limited(LimitsConfig { max_unused_accounts: Some(2), ..LimitsConfig::default() }).await;
    let first = ca.client().await;
    ca.client().await;
    let refused = new_account(ca.router()).await;
    refusal(&refused, "acme.limits.max_unused_accounts");
    assert_eq!(ca.metric("acme_limited_total{limit=\"max_unused_accounts\"}"), 1.0);
    assert_eq!(first.new_order(&["a.example"]).await.status, 201);
    assert_eq!(new_account(ca.router()).await.status, 201);
    refusal(&new_account(ca.router()).await, "max_unused_accounts");
}

#[tokio::test]
async fn pending_authorizations_are_bounded() {
    let ca = limited(LimitsConfig { max_pending_authorizations: Some(3), ..LimitsConfig::default() }).await;
    let (client, other) = (ca.client().await, ca.client().await);
    let order = client.new_order(&["a.example", "b.example"]).await;
    refusal(&client.new_order(&["c.example", "d.example"]).await, "max_pending_authorizations");
    assert_eq!(client.new_order(&["c.example"]).await.status, 201);
    refusal(&client.new_order(&["d.example"]).await, "max_pending_authorizations");
    assert_eq!(other.new_order(&["d.example"]).await.status, 201);
    ca.authorize(&client, &order).await;
    assert_eq!(client.new_order(&["d.example", "e.example"]).await.status, 201);
    refusal(&client.new_order(&["f.example"]).await, "max_pending_authorizations");
    ca.clock.advance(HOUR * 24 * 8);
    assert_eq!(client.new_order(&["f.example"]).await.status, 201, "those have expired");
}

#[tokio::test]
async fn a_name_that_fails_for_ever_is_paused_until_an_operator_lifts_it() {
    let ca = limited(LimitsConfig { pause_after_failures: Some(3), ..LimitsConfig::default() }).await;
    let client = ca.client().await;
    // A success ends the count.
    fail(&ca, &client, "a.example").await;
    fail(&ca, &client, "a.example").await;
    let order = client.new_order(&["a.example"]).await;
    ca.authorize(&client, &order).await;
    for _ in 0..3 {
        assert_eq!(fail(&ca, &client, "a.example").await.status, 201);
    }
    let refused = client.new_order(&["b.example", "*.a.example"]).await;
    let (_, detail) = refusal(&refused, "paused");
    let account = account_of(&ca, &client).await.id;
    for part in ["a.example", "failed 3 times", &format!("chancery account unpause {account} a.example")] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(ca.metric("acme_limited_total{limit=\"pause_after_failures\"}"), 1.0);
    assert_eq!(client.new_order(&["b.example"]).await.status, 201);
    assert_eq!(ca.client().await.new_order(&["a.example"]).await.status, 201, "another account may try");
    // Also after a restart, and however long it waits.
    ca.clock.advance(HOUR * 24 * 365);
    let client = client.on(ca.restarted().router());
    refusal(&client.new_order(&["a.example"]).await, "paused");
    let logged = actions(&ca).await;
    let paused = logged.iter().find(|entry| entry["action"] == "name_paused").unwrap();
    assert_eq!((&paused["name"], &paused["failures"]), (&json!("a.example"), &json!(3)));
    assert_eq!(count(&logged, "name_paused"), 1);

    let pair = PairId::new(account, &Identifier::from_text("a.example").unwrap());
    let failing = ca.store.failing(pair).await.unwrap().unwrap();
    let changes = vec![Change::PutFailing(Box::new(failing.unpaused()))];
    ca.store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
    assert_eq!(fail(&ca, &client, "a.example").await.status, 201);
    assert_eq!(client.new_order(&["a.example"]).await.status, 201, "all tries are there again");
}

#[tokio::test]
async fn without_limits_nothing_is_written_and_nothing_refused() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    for _ in 0..20 {
        assert_eq!(fail(&ca, &client, "a.example").await.status, 201);
    }
    let far = ca_core::acme::rate_limit::ArrivalTime(i64::MAX);
    assert!(ca.store.idle_buckets(far, None, 10).await.unwrap().rows.is_empty());
    assert!(ca.store.failing_pairs(None, false, None, 10).await.unwrap().rows.is_empty());
}
