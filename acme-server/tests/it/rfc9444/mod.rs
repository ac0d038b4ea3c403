//! RFC 9444: one authorization for a domain and every name below it.

use acme_server::config::Config;
use serde_json::{Value, json};

use crate::support::{Answer, Ca, Client, open_config};

fn offering() -> Config {
    Config { subdomains: true, authorization_reuse_seconds: 3600, ..open_config() }
}

async fn order(client: &Client, identifiers: Value) -> Answer {
    client.post(&client.resource("newOrder"), &json!({ "identifiers": identifiers })).await
}

/// Proves an authorization by dns-01.
async fn prove(ca: &Ca, client: &Client, url: &str) {
    let authorization = client.read(url).await;
    let challenge = authorization.challenge("dns-01");
    ca.prober.provide(&authorization, &challenge, &client.key);
    let answer = client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    assert_eq!(answer.text("status"), "valid", "{answer:?}");
}

#[tokio::test]
async fn section_4_2_a_domain_authorized_ahead_serves_every_name_below_it() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let identifier = json!({"type": "dns", "value": "example.org", "subdomainAuthAllowed": true});
    let made = client.post(&client.resource("newAuthz"), &json!({ "identifier": identifier })).await;
    assert_eq!((made.status, &made.json["subdomainAuthAllowed"]), (201, &json!(true)), "{made:?}");
    let kinds: Vec<_> =
        made.json["challenges"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["dns-01"], "a web server speaks for its own name alone");
    prove(&ca, &client, made.location()).await;

    let names = ["sub1.example.org", "deep.sub2.example.org", "*.sub3.example.org", "example.org"];
    let ready = client.new_order(&names).await;
    assert_eq!(ready.text("status"), "ready", "{ready:?}");
    assert_eq!(ready.list("authorizations"), [made.location()], "one for all of them");
    assert_eq!(ca.issue(&client, &names).await.text("status"), "valid");
    // Whole labels are compared.
    assert_eq!(client.new_order(&["xexample.org"]).await.text("status"), "pending");
    assert_eq!(ca.client().await.new_order(&["sub1.example.org"]).await.text("status"), "pending");
}

#[tokio::test]
async fn section_4_3_an_order_names_the_ancestor_that_is_proven_instead() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let placed = order(
        &client,
        json!([
            {"type": "dns", "value": "a.b.example.org", "ancestorDomain": "example.org"},
            {"type": "dns", "value": "c.example.org", "ancestorDomain": "example.org"},
        ]),
    )
    .await;
    let [url] = placed.list("authorizations").try_into().unwrap();
    assert_eq!(client.read(&url).await.json["identifier"]["value"], "example.org");
    prove(&ca, &client, &url).await;
    assert_eq!(client.read(placed.location()).await.text("status"), "ready");
}

#[tokio::test]
async fn section_4_3_what_is_no_ancestor_is_refused() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    for ancestor in ["example.com", "b.a.example.org", "ample.org", "*.example.org", "", "not a name"] {
        let identifier = json!({"type": "dns", "value": "a.example.org", "ancestorDomain": ancestor});
        order(&client, json!([identifier])).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn section_4_4_where_it_is_not_offered_each_name_is_proven_itself() {
    let ca = Ca::with(Config { subdomains: false, ..offering() }).await;
    let client = ca.client().await;
    assert_eq!(client.directory["meta"].get("subdomainAuthAllowed"), None);
    let identifier = json!({"type": "dns", "value": "a.example.org", "ancestorDomain": "example.org"});
    let placed = order(&client, json!([identifier])).await;
    let authorization = client.read(&placed.list("authorizations")[0]).await;
    assert_eq!(authorization.json["identifier"]["value"], "a.example.org");
    assert_eq!(authorization.json.get("subdomainAuthAllowed"), None);
    let offered = Ca::with(offering()).await.client().await;
    assert_eq!(offered.directory["meta"]["subdomainAuthAllowed"], json!(true));
}

#[tokio::test]
async fn section_4_1_a_held_authorization_is_looked_for_near_the_name_or_where_the_client_says() {
    let ca = Ca::with(offering()).await;
    let client = ca.client().await;
    let identifier = json!({"type": "dns", "value": "example.org", "subdomainAuthAllowed": true});
    let made = client.post(&client.resource("newAuthz"), &json!({ "identifier": identifier })).await;
    prove(&ca, &client, made.location()).await;
    let (near, far) = ("h.g.f.e.d.c.b.a.example.org", "i.h.g.f.e.d.c.b.a.example.org");
    assert_eq!(client.new_order(&[near]).await.text("status"), "ready");
    assert_eq!(client.new_order(&[far]).await.text("status"), "pending");
    let named = json!([{"type": "dns", "value": far, "ancestorDomain": "example.org"}]);
    assert_eq!(order(&client, named).await.text("status"), "ready");
}

#[tokio::test]
async fn who_is_authorized_for_a_domain_may_revoke_what_others_got_below_it() {
    let ca = Ca::with(offering()).await;
    let (owner, client) = (ca.client().await, ca.client().await);
    let issued = ca.issue(&owner, &["a.b.example.org", "*.example.org"]).await;
    let chain = owner.read(issued.text("certificate")).await;
    let certificate = crate::support::client::from_pem(&chain.body).remove(0);
    client.revoke(&certificate, None).await.assert_problem(403, "unauthorized");
    let identifier = json!({"type": "dns", "value": "example.org", "subdomainAuthAllowed": true});
    let made = client.post(&client.resource("newAuthz"), &json!({ "identifier": identifier })).await;
    prove(&ca, &client, made.location()).await;
    let revoked = client.revoke(&certificate, None).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
}
