//! Certificates that are renewed automatically (RFC 8739), with short lifetimes: while the program runs, over a crash,
//! and not after their order was canceled.

use std::time::Duration;

use e2e::acme::{self, Client, Order, body, kind};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::deployment::{Deployment, Layout};
use e2e::eventually;
use e2e::http::Response;
use e2e::http01::Http01;
use serde_json::json;

tests_with!(
    one_process(e2e::deployment::Layout::OneProcess, e2e::chancery::Keys::Software),
    an_orders_certificates_follow_each_other_until_it_is_canceled
);
tests_with!(
    roles_apart(e2e::deployment::Layout::RolesApart, e2e::chancery::Keys::Software),
    an_orders_certificates_follow_each_other_until_it_is_canceled
);

const NAME: &str = "star.localhost";

/// A certificate lives for ten seconds, and the next one is there after five.
const LIFETIME_SECONDS: u64 = 10;

/// How late the next certificate may be on a machine that is busy with other tests.
const WITHIN: Duration = Duration::from_secs(60);

fn settings(keys: Keys) -> Settings {
    let star = "{ enabled = true, min_lifetime_seconds = 10, allow_certificate_get = true }";
    Settings::with(keys).set("CHANCERY__ACME__STAR", star)
}

/// A valid order of some days, whose certificates anybody may fetch.
fn issued(client: &Client, http01: &Http01) -> Order {
    let meta = &client.directory["meta"]["auto-renewal"];
    assert_eq!((&meta["min-lifetime"], &meta["allow-certificate-get"]), (&json!(10), &json!(true)));
    // A date that lies some days ahead, without a calendar of our own.
    let plain = client.order(&[("dns", NAME)]).unwrap();
    let end = plain.body["expires"].clone();
    let payload = json!({
        "identifiers": [{ "type": "dns", "value": NAME }],
        "auto-renewal": { "end-date": end, "lifetime": LIFETIME_SECONDS, "allow-certificate-get": true },
    });
    let response = client.post(&client.resource("newOrder").unwrap(), &payload.to_string()).unwrap();
    let url = response.header("location").unwrap().to_owned();
    let order = Order { url, body: body(&response, 201).unwrap() };
    for challenge in client.challenges(&order, "http-01").unwrap() {
        http01.add(&challenge.token, &challenge.key_authorization);
        client.respond(&challenge).unwrap();
    }
    let ready = client.settled(&order, &["ready"]).unwrap();
    let (csr, _) = acme::csr(&[NAME]).unwrap();
    client.finalize(&ready, &csr).unwrap();
    client.settled(&order, &["valid"]).unwrap()
}

fn fetch(client: &Client, order: &Order) -> Response {
    let url = order.body["star-certificate"].as_str().unwrap();
    client.https.request("GET", url, &[], &[]).unwrap()
}

/// Another certificate than this one, from the same URL.
fn next(client: &Client, order: &Order, before: &Response) -> Response {
    eventually("the next certificate", WITHIN, || {
        let url = order.body["star-certificate"].as_str().unwrap();
        let now = client.https.request("GET", url, &[], &[])?;
        Ok((now.status == 200 && now.body != before.body).then_some(now))
    })
    .unwrap()
}

fn an_orders_certificates_follow_each_other_until_it_is_canceled(layout: Layout, keys: Keys) {
    let ca = Deployment::start(layout, &settings(keys)).unwrap();
    let http01 = Http01::start(ca.http01).unwrap();
    let client = Client::registered(&ca.acme_directory, &ca.roots_pem).unwrap();
    let order = issued(&client, &http01);
    assert!(order.body.get("certificate").is_none());
    let mut newest = fetch(&client, &order);
    assert_eq!(newest.status, 200);
    for _ in 0..2 {
        let following = next(&client, &order, &newest);
        assert_ne!(following.header("cert-not-after"), newest.header("cert-not-after"));
        newest = following;
    }
    let listed = ca.cli(&["certificate", "list"]).unwrap();
    let of_order = listed.as_array().unwrap().iter().filter(|row| row["names"] == json!([NAME])).count();
    assert!(of_order >= 3, "each is in the inventory: {listed}");

    let canceled = client.post(&order.url, &json!({ "status": "canceled" }).to_string()).unwrap();
    assert_eq!(body(&canceled, 200).unwrap()["status"], "canceled");
    let gone = fetch(&client, &order);
    assert_eq!((gone.status, kind(&gone).as_deref()), (403, Some("autoRenewalCanceled")));
    let shown = ca.cli(&["order", "list"]).unwrap();
    assert_eq!(shown[0]["status"], "canceled", "{shown}");
}

#[test]
fn renewal_goes_on_after_a_crash() {
    let mut ca = Chancery::start(&settings(Keys::Software)).unwrap();
    let http01 = Http01::start(ca.http01()).unwrap();
    let ready = ca.ready().unwrap();
    let client = Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap();
    let order = issued(&client, &http01);
    let first = fetch(&client, &order);
    ca.kill().unwrap();
    ca.restart().unwrap();
    let second = next(&client, &order, &first);
    next(&client, &order, &second);
    assert_eq!(client.read(&order.url).unwrap()["status"], "valid");
    let shown = ca.cli(&["order", "list"]).unwrap();
    assert_eq!(shown[0]["status"], "valid", "{shown}");
}
