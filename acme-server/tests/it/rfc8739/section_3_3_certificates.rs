//! §3.3, §3.4 and §3.5: fetching the newest certificate, by its account and by everybody.

use std::time::Duration;

use acme_server::config::{Config, StarConfig};
use ca_core::store::Topic;
use ca_core::time::{Clock, Timestamp};
use der::Decode;
use http::Method;
use serde_json::{Value, json};
use x509_cert::Certificate;

use super::{asked, cancel, days, issued, offering, star};
use crate::support::client::from_pem;
use crate::support::{Answer, Ca, Client, open_config};

const HOUR: Duration = Duration::from_hours(1);

fn open_to_all(ca: &Ca) -> Value {
    json!({ "end-date": days(ca, 1).to_string(), "lifetime": 7200, "allow-certificate-get": true })
}

/// The end-entity certificate's dates, which are those of the headers.
fn dates(answer: &Answer) -> (Timestamp, Timestamp) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/pem-certificate-chain");
    let chain = from_pem(&answer.body);
    assert_eq!(chain.len(), 2, "with its issuer");
    let validity = *Certificate::from_der(&chain[0]).unwrap().tbs_certificate().validity();
    let dates = (Timestamp::from_x509(validity.not_before), Timestamp::from_x509(validity.not_after));
    for (header, date) in [("cert-not-before", dates.0), ("cert-not-after", dates.1)] {
        let value = answer.header(header);
        let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
        let read = httpdate::parse_http_date(inner).unwrap();
        let seconds = read.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(i64::try_from(seconds).unwrap(), date.as_seconds(), "{header}");
    }
    dates
}

/// What the program's loop does when a certificate is due.
async fn renew(ca: &Ca, client: &Client, order: &Answer, before: &Answer) -> Answer {
    assert_eq!(ca.effects.ask_for_renewals().await.unwrap(), 1);
    loop {
        let id = order.location().rsplit('/').next().unwrap().parse().unwrap();
        let changed = ca.store.watch(&Topic::Order(id));
        let now = client.read(order.text("star-certificate")).await;
        if now.body != before.body {
            return now;
        }
        changed.await;
    }
}

#[tokio::test]
async fn section_3_3_the_url_gives_the_next_certificate_halfway_through_the_one_before() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, asked(&ca)).await;
    let first = client.read(order.text("star-certificate")).await;
    let (from, to) = dates(&first);
    assert_eq!(to.since(from), 2 * HOUR);
    assert_eq!(ca.effects.ask_for_renewals().await.unwrap(), 0);
    ca.clock.advance(HOUR);
    let second = renew(&ca, &client, &order, &first).await;
    let (next_from, next_to) = dates(&second);
    assert!(next_from <= ca.clock.now(), "valid when it is published");
    assert_eq!((next_from, next_to), (from.plus(HOUR), to.plus(2 * HOUR)), "§3.5");
    assert_eq!(client.read(order.location()).await.text("status"), "valid");
}

#[tokio::test]
async fn section_3_3_after_the_end_date_there_is_none() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, open_to_all(&ca)).await;
    ca.clock.advance(25 * HOUR);
    let star = order.text("star-certificate");
    client.read(star).await.assert_problem(403, "autoRenewalExpired");
    client.get(star).await.assert_problem(403, "autoRenewalExpired");
    assert_eq!(client.read(order.location()).await.text("status"), "valid", "the state remains");
}

#[tokio::test]
async fn section_3_3_one_that_is_late_is_no_stale_one() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, asked(&ca)).await;
    ca.clock.advance(3 * HOUR);
    let answer = client.read(order.text("star-certificate")).await;
    answer.assert_problem(503, "serverInternal");
    assert_eq!(answer.header("retry-after"), "5");
}

#[tokio::test]
async fn section_3_4_everybody_may_get_it_where_both_sides_agreed() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = issued(&ca, &client, open_to_all(&ca)).await;
    assert_eq!(order.json["auto-renewal"]["allow-certificate-get"], true);
    let star = order.text("star-certificate");
    let public = client.get(star).await;
    dates(&public);
    assert_eq!(public.body, client.read(star).await.body);
    assert_eq!(public.header("cache-control"), "public, max-age=300");
    let head = client.send(Method::HEAD, star, "", Vec::new()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    cancel(&client, &order).await;
    client.get(star).await.assert_problem(403, "autoRenewalCanceled");
}

#[tokio::test]
async fn section_3_4_nobody_else_gets_it_where_one_side_did_not_agree() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let unasked = issued(&ca, &client, asked(&ca)).await;
    let url = unasked.text("star-certificate");
    client.get(url).await.assert_problem(404, "malformed");
    ca.client().await.read(url).await.assert_problem(404, "malformed");
    client.get(&format!("{url}x")).await.assert_problem(404, "malformed");

    let closed = StarConfig { allow_certificate_get: false, ..star() };
    let ca = Ca::with(Config { star: closed, ..open_config() }).await;
    let client = ca.client().await;
    let ungiven = issued(&ca, &client, open_to_all(&ca)).await;
    assert_eq!(ungiven.json["auto-renewal"].get("allow-certificate-get"), None, "not reflected");
    client.get(ungiven.text("star-certificate")).await.assert_problem(404, "malformed");
}

#[tokio::test]
async fn section_3_5_the_first_one_does_not_begin_before_the_start_date() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let start = days(&ca, 1).whole_seconds();
    let dated = json!({
        "start-date": start.to_string(), "end-date": days(&ca, 3).to_string(), "lifetime": 7200,
        "lifetime-adjust": 7200,
    });
    let order = issued(&ca, &client, dated).await;
    let (from, to) = dates(&client.read(order.text("star-certificate")).await);
    assert_eq!((from, to), (start, start.plus(2 * HOUR)));
}

#[tokio::test]
async fn a_plain_order_has_no_such_certificate() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let order = ca.issue(&client, &["plain.example.org"]).await;
    let star = order.location().replace("/order/", "/star-certificate/");
    client.read(&star).await.assert_problem(404, "malformed");
    client.get(&star).await.assert_problem(404, "malformed");
}

#[tokio::test]
async fn section_3_4_the_public_url_opens_no_page_about_the_order() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let page = |order: &Answer| {
        order.text("star-certificate").replace("/star-certificate/", "/order/") + "/explanation"
    };
    let own = issued(&ca, &client, asked(&ca)).await;
    assert_eq!(client.get(&page(&own)).await.status, 200);
    let public = issued(&ca, &client, open_to_all(&ca)).await;
    client.get(&page(&public)).await.assert_problem(404, "malformed");
}
