//! RFC 8555 §7.3: accounts.

use acme_server::config::Config;
use serde_json::json;

use crate::support::{Ca, Key, open_config};

#[tokio::test]
async fn a_new_account_is_created_and_found_again_by_its_key() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    let payload = json!({
        "contact": ["mailto:admin@example.org"],
        "termsOfServiceAgreed": true,
        "orders": "https://elsewhere.test/orders",
        "status": "deactivated",
        "unknown": 1,
    });
    let created = client.post(&url, &payload).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.text("status"), "valid");
    assert_eq!(created.list("contact"), ["mailto:admin@example.org"]);
    assert_eq!(created.json["termsOfServiceAgreed"], true);
    assert_eq!(created.text("orders"), format!("{}/orders", created.location()));

    let found = client.post(&url, &json!({"contact": ["mailto:other@example.org"]})).await;
    assert_eq!((found.status, found.location()), (200, created.location()));
    assert_eq!(found.list("contact"), ["mailto:admin@example.org"], "newAccount changes nothing");
    let found = client.post(&url, &json!({"onlyReturnExisting": true})).await;
    assert_eq!((found.status, found.location()), (200, created.location()));
}

#[tokio::test]
async fn section_7_3_1_only_return_existing_creates_nothing() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    for _ in 0..2 {
        let answer = client.post(&url, &json!({"onlyReturnExisting": true})).await;
        answer.assert_problem(400, "accountDoesNotExist");
    }
}

#[tokio::test]
async fn contacts_are_checked() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    let many: Vec<String> = (0..11).map(|n| format!("mailto:a{n}@example.org")).collect();
    for (contact, kind) in [
        (json!(["mailto:a@example.org?subject=x"]), "invalidContact"),
        (json!(["mailto:a@example.org,b@example.org"]), "invalidContact"),
        (json!(["mailto:a@example.org", "mailto:"]), "invalidContact"),
        (json!(many), "invalidContact"),
        (json!(["tel:+12025551212"]), "unsupportedContact"),
        (json!("mailto:a@example.org"), "malformed"),
    ] {
        client.post(&url, &json!({"contact": contact})).await.assert_problem(400, kind);
    }
    client.post(&url, &json!({"onlyReturnExisting": true})).await.assert_problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn terms_of_service_must_be_agreed_to_where_there_are_any() {
    let terms = "https://ca.test/terms";
    let ca = Ca::with(Config { terms_of_service: Some(terms.to_owned()), ..open_config() }).await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    for payload in [json!({}), json!({"termsOfServiceAgreed": false})] {
        let answer = client.post(&url, &payload).await;
        answer.assert_problem(403, "userActionRequired");
        assert_eq!(answer.links("terms-of-service"), [terms]);
    }
    assert_eq!(client.post(&url, &json!({"termsOfServiceAgreed": true})).await.status, 201);
}

#[tokio::test]
async fn one_key_asking_twice_at_once_gets_one_account() {
    let ca = Ca::new().await;
    let client = ca.stranger(Key::p256()).await;
    let url = client.resource("newAccount");
    let payload = json!({});
    let (a, b) = tokio::join!(client.post(&url, &payload), client.post(&url, &payload));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201]);
    assert_eq!(a.location(), b.location());
}

#[tokio::test]
async fn section_7_3_2_contacts_change_and_the_rest_is_ignored() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let changed = client
        .post(
            &url,
            &json!({"contact": ["mailto:new@example.org"], "orders": "x", "termsOfServiceAgreed": false}),
        )
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(client.read(&url).await.list("contact"), ["mailto:new@example.org"]);
    client.post(&url, &json!({"contact": ["x"]})).await.assert_problem(400, "invalidContact");
    client.post(&url, &json!({"status": "revoked"})).await.assert_problem(400, "malformed");
    let emptied = client.post(&url, &json!({"contact": []})).await;
    assert!(emptied.list("contact").is_empty());
    assert_eq!(emptied.text("status"), "valid");
}

#[tokio::test]
async fn section_7_3_6_a_deactivated_account_is_unauthorized_everywhere() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let url = client.kid.clone().unwrap();
    let order = client.new_order(&["a.example"]).await;
    let ended = client.post(&url, &json!({"status": "deactivated"})).await;
    assert_eq!((ended.status, ended.text("status")), (200, "deactivated"));

    client.read(&url).await.assert_problem(401, "unauthorized");
    client.read(order.location()).await.assert_problem(401, "unauthorized");
    client.new_order(&["a.example"]).await.assert_problem(401, "unauthorized");
    let mut stranger = client;
    stranger.kid = None;
    let new_account = stranger.resource("newAccount");
    stranger.post(&new_account, &json!({})).await.assert_problem(401, "unauthorized");
}

#[tokio::test]
async fn another_account_is_not_seen_and_whether_it_exists_is_not_told() {
    let ca = Ca::new().await;
    let (one, other) = (ca.client().await, ca.client().await);
    let there = other.kid.clone().unwrap();
    let nowhere = format!("{}{}", &there[..there.len() - 26], "0".repeat(26));
    for url in [&there, &nowhere] {
        for url in [url.clone(), format!("{url}/orders")] {
            let answer = one.read(&url).await;
            answer.assert_problem(403, "unauthorized");
            assert_eq!(answer.text("detail"), "the request is signed by another account");
        }
        let answer = one.post(url, &json!({"status": "deactivated"})).await;
        answer.assert_problem(403, "unauthorized");
    }
    assert_eq!(other.read(&there).await.text("status"), "valid");
}
