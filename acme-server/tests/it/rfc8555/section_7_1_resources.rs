//! RFC 8555 §7.1: the directory and the orders list.

use acme_server::config::{Config, DirectoryConfig};
use serde_json::{Value, json};

use crate::support::{Ca, Client, Key, PUBLIC_URL, open_config};

#[tokio::test]
async fn section_7_1_1_the_directory_names_the_resources_below_the_public_url() {
    let ca = Ca::new().await;
    let directory = ca.stranger(Key::p256()).await.directory;
    let base = format!("{PUBLIC_URL}/acme/default");
    assert_eq!(
        directory,
        json!({
            "newNonce": format!("{base}/new-nonce"),
            "newAccount": format!("{base}/new-account"),
            "newOrder": format!("{base}/new-order"),
            "revokeCert": format!("{base}/revoke-cert"),
            "keyChange": format!("{base}/key-change"),
            "renewalInfo": format!("{base}/renewal-info"),
            "meta": {"profiles": {
                "tls-server": "certificates for TLS servers, valid for 90 days",
                "tls-client": "certificates for TLS clients, valid for 90 days",
            }},
        }),
        "no newAuthz, and no externalAccountRequired when it is false"
    );
}

#[tokio::test]
async fn section_7_1_1_the_directory_tells_what_is_configured() {
    let ca = Ca::with(Config {
        terms_of_service: Some("https://ca.test/terms".to_owned()),
        website: Some("https://ca.test/".to_owned()),
        ..open_config()
    })
    .await;
    let meta = &ca.stranger(Key::p256()).await.directory["meta"];
    assert_eq!(meta["termsOfService"], "https://ca.test/terms");
    assert_eq!(meta["website"], "https://ca.test/");
    assert_eq!(meta["caaIdentities"], json!(null), "CAA records are not looked at");
}

#[tokio::test]
async fn directories_keep_accounts_and_policy_apart() {
    let lab = DirectoryConfig { allowed_names: Some(vec![".lab".to_owned()]), ..DirectoryConfig::default() };
    let directories = [("default".to_owned(), DirectoryConfig::default()), ("lab".to_owned(), lab)];
    let ca = Ca::with(Config { directories: directories.into(), ..open_config() }).await;
    let mut client = Client::new(ca.router(), Key::p256(), "lab").await;
    client.register().await;
    assert_eq!(client.new_order(&["a.lab"]).await.status, 201);
    client.new_order(&["a.example"]).await.assert_problem(400, "rejectedIdentifier");

    let elsewhere = client.resource("newOrder").replace("/lab/", "/default/");
    let payload = json!({"identifiers": [{"type": "dns", "value": "a.example"}]});
    let answer = client.post(&elsewhere, &payload).await;
    answer.assert_problem(400, "accountDoesNotExist");
    // The same row under the other directory's URL is no account there either.
    client.kid = client.kid.map(|kid| kid.replace("/lab/", "/default/"));
    client.post(&elsewhere, &payload).await.assert_problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn section_7_1_2_1_the_orders_list_is_paged_and_leaves_invalid_orders_out() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let mut placed = Vec::new();
    for number in 0..60 {
        placed.push(client.new_order(&[&format!("host-{number}.example")]).await.location().to_owned());
    }
    let given_up = client.read(&placed[30]).await.list("authorizations").remove(0);
    client.post(&given_up, &json!({"status": "deactivated"})).await;

    let account = client.read(client.kid.as_ref().unwrap()).await;
    let mut page = client.read(account.text("orders")).await;
    let mut listed = page.list("orders");
    let mut pages = 1;
    while let Some(next) = page.links("next").first() {
        page = client.read(next).await;
        listed.extend(page.list("orders"));
        pages += 1;
    }
    assert_eq!(pages, 2);
    placed.remove(30);
    // Orders of one millisecond have no order of their own.
    placed.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(listed, placed, "newest first");
}

#[tokio::test]
async fn an_account_without_orders_has_an_empty_list() {
    let ca = Ca::new().await;
    let client = ca.client().await;
    let answer = client.read(&format!("{}/orders", client.kid.as_ref().unwrap())).await;
    assert_eq!((answer.json["orders"].clone(), answer.links("next").len()), (Value::Array(Vec::new()), 0));
}
