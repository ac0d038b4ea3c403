//! RFC 8555 §7.3.4: new accounts are bound to external accounts, by clause.

use acme_server::config::{Config, DirectoryConfig};
use acme_server::sealing::{SealingKey, seal};
use ca_core::acme::external_account::Uses;
use ca_core::time::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::support::external::anything;
use crate::support::{Ca, Client, Key, open_config};

/// A CA that wants bindings.
async fn strict() -> Ca {
    Ca::with(Config { external_account_required: true, ..open_config() }).await
}

#[tokio::test]
async fn where_a_binding_is_required_the_directory_says_so_and_a_request_without_it_is_told() {
    let ca = strict().await;
    let client = ca.stranger(Key::p256()).await;
    assert_eq!(client.directory["meta"]["externalAccountRequired"], true);
    for payload in [json!({}), json!({"externalAccountBinding": null})] {
        let answer = client.post(&client.resource("newAccount"), &payload).await;
        answer.assert_problem(403, "externalAccountRequired");
        assert!(answer.text("detail").contains("chancery eab create"), "{answer:?}");
    }
    let open = Ca::new().await;
    let client = open.stranger(Key::p256()).await;
    assert!(client.directory["meta"].get("externalAccountRequired").is_none());
}

#[tokio::test]
async fn a_binding_is_accepted_with_each_mac_algorithm_and_account_key_and_shown_as_it_was_sent() {
    let ca = strict().await;
    let eab = ca.external(anything(), |_| {}).await;
    for (alg, key) in [("HS256", Key::p256()), ("HS384", Key::rsa("RS256")), ("HS512", Key::ed25519())] {
        let mut client = ca.stranger(key).await;
        let mut header = eab.header(&client);
        header["alg"] = json!(alg);
        let binding = eab.jws(&header, client.key.jwk().to_string().as_bytes());
        let created = client.bind(&binding).await;
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(created.json["externalAccountBinding"], binding, "§7.3.4: the same value");
        client.kid = Some(created.location().to_owned());
        let read = client.read(created.location()).await;
        assert_eq!(read.json["externalAccountBinding"], binding);
    }
}

#[tokio::test]
async fn a_binding_is_checked_also_where_none_is_required() {
    let ca = Ca::new().await;
    let eab = ca.external(anything(), |_| {}).await;
    let client = ca.stranger(Key::p256()).await;
    let mut bad = eab.binding(&client);
    bad["signature"] = json!("AAAA");
    client.bind(&bad).await.assert_problem(403, "unauthorized");
    assert_eq!(client.bind(&eab.binding(&client)).await.status, 201);
    // Without one the account is bound to nothing, and shows nothing.
    let mut other = ca.stranger(Key::p256()).await;
    assert!(other.register().await.json.get("externalAccountBinding").is_none());
}

/// What is wrong with a binding, by the protected header.
#[tokio::test]
async fn a_protected_header_that_the_rfc_forbids_is_malformed() {
    let ca = strict().await;
    let eab = ca.external(anything(), |_| {}).await;
    let client = ca.stranger(Key::p256()).await;
    let jwk = client.key.jwk().to_string();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = eab.header(&client);
        change(&mut header);
        eab.jws(&header, jwk.as_bytes())
    };
    let elsewhere = client.resource("newOrder");
    for (binding, said) in [
        (with(&|h| h["alg"] = json!("none")), "'none'"),
        (with(&|h| h["alg"] = json!("ES256")), "'ES256'"),
        (with(&|h| h["alg"] = json!("hs256")), "'hs256'"),
        (with(&|h| h["alg"] = json!(null)), "header"),
        (with(&|h| h["nonce"] = json!("x")), "nonce"),
        (with(&|h| h["nonce"] = json!(null)), "nonce"),
        (with(&|h| h["jwk"] = client.key.jwk()), "jwk"),
        (with(&|h| h["url"] = json!(elsewhere)), "url"),
        (with(&|h| h["url"] = json!(null)), "header"),
        (with(&|h| h["crit"] = json!(["b64"])), "crit"),
        (with(&|h| h["b64"] = json!(false)), "b64"),
        (with(&|h| drop(h.as_object_mut().unwrap().remove("kid"))), "kid"),
    ] {
        let answer = client.bind(&binding).await;
        answer.assert_problem(400, "malformed");
        assert!(answer.text("detail").contains(said), "{said}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_flattened_jws_is_malformed() {
    let ca = strict().await;
    let eab = ca.external(anything(), |_| {}).await;
    let client = ca.stranger(Key::p256()).await;
    let good = eab.binding(&client);
    let with = |name: &str, value: Value| {
        let mut binding = good.clone();
        binding[name] = value;
        binding
    };
    for bad in [
        json!({}),
        json!([good]),
        json!("x"),
        with("signature", json!(7)),
        with("signature", json!("A=")),
        with("payload", json!("*")),
        with("protected", json!("e30")),
        with("header", json!({})),
        with("signatures", json!([])),
        with("padding", json!("x".repeat(9000))),
    ] {
        client.bind(&bad).await.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn the_payload_must_be_the_key_of_the_account() {
    let ca = strict().await;
    let eab = ca.external(anything(), |_| {}).await;
    let (client, other) = (ca.stranger(Key::p256()).await, Key::p256());
    for payload in [other.jwk().to_string(), "{}".to_owned(), "[]".to_owned(), String::new()] {
        let binding = eab.jws(&eab.header(&client), payload.as_bytes());
        client.bind(&binding).await.assert_problem(400, "malformed");
    }
    // Further members of the JWK are no part of the key.
    let mut jwk = client.key.jwk();
    jwk["use"] = json!("sig");
    let binding = eab.jws(&eab.header(&client), jwk.to_string().as_bytes());
    assert_eq!(client.bind(&binding).await.status, 201);
}

#[tokio::test]
async fn a_mac_that_does_not_verify_is_refused_in_the_same_words_as_a_key_that_is_not_known() {
    let ca = strict().await;
    let (eab, other) = (ca.external(anything(), |_| {}).await, ca.external(anything(), |_| {}).await);
    let client = ca.stranger(Key::p256()).await;
    let jwk = client.key.jwk().to_string();
    let with_kid = |kid: &str| {
        let mut header = eab.header(&client);
        header["kid"] = json!(kid);
        eab.jws(&header, jwk.as_bytes())
    };
    let mut changed = eab.binding(&client);
    changed["signature"] = eab.jws(&eab.header(&client), b"{}")["signature"].clone();
    let mut short = eab.binding(&client);
    short["signature"] = json!(&short["signature"].as_str().unwrap()[..20]);
    let mut details = Vec::new();
    for binding in [
        with_kid(&other.id.to_string()),
        with_kid(&"0".repeat(26)),
        with_kid("kid-1"),
        with_kid(""),
        changed,
        short,
    ] {
        let answer = client.bind(&binding).await;
        answer.assert_problem(403, "unauthorized");
        details.push(answer.text("detail").to_owned());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "{details:?}");
    assert!(!details[0].contains(&eab.id.to_string()));
}

#[tokio::test]
async fn a_key_of_another_directory_does_not_verify() {
    let other = ("lab".to_owned(), DirectoryConfig::default());
    let default = ("default".to_owned(), DirectoryConfig::default());
    let config =
        Config { external_account_required: true, directories: [other, default].into(), ..open_config() };
    let ca = Ca::with(config).await;
    let eab = ca.external(anything(), |_| {}).await;
    let lab = Client::new(ca.router(), Key::p256(), "lab").await;
    lab.bind(&eab.binding(&lab)).await.assert_problem(403, "unauthorized");
    let client = ca.stranger(Key::p256()).await;
    assert_eq!(client.bind(&eab.binding(&client)).await.status, 201);
}

#[tokio::test]
async fn revoked_and_expired_keys_bind_nothing_and_say_so_to_whoever_has_them() {
    let ca = strict().await;
    let soon = Timestamp::from_millis(ca.clock.now().as_millis() + 60_000);
    let (revoked, expiring) = (
        ca.external(anything(), |_| {}).await,
        ca.external(anything(), |external| external.expires_at = Some(soon)).await,
    );
    let client = ca.stranger(Key::p256()).await;
    assert_eq!(ca.stranger(Key::p256()).await.bind(&expiring.binding(&client)).await.status, 400);
    ca.revoke_external(&revoked).await;
    ca.clock.advance(std::time::Duration::from_secs(60));
    for (eab, said) in [(&revoked, "was revoked"), (&expiring, "expired at")] {
        let answer = client.bind(&eab.binding(&client)).await;
        answer.assert_problem(403, "unauthorized");
        assert!(answer.text("detail").contains(said), "{answer:?}");
        let mut guess = eab.binding(&client);
        guess["signature"] = json!("AAAA");
        assert!(client.bind(&guess).await.text("detail").contains("does not verify"));
    }
}

#[tokio::test]
async fn of_two_accounts_that_race_for_a_single_use_key_one_wins() {
    let ca = strict().await;
    for _ in 0..5 {
        let once = |external: &mut ca_core::acme::ExternalAccount| {
            external.uses = Uses::Once { account: None };
        };
        let eab = ca.external(anything(), once).await;
        let (one, other) = (ca.stranger(Key::p256()).await, ca.stranger(Key::p256()).await);
        let (first, second) = (eab.binding(&one), eab.binding(&other));
        let (a, b) = tokio::join!(one.bind(&first), other.bind(&second));
        let (winner, loser) = if a.status == 201 { (a, b) } else { (b, a) };
        assert_eq!(winner.status, 201, "{winner:?}");
        loser.assert_problem(403, "unauthorized");
        assert!(loser.text("detail").contains("has been used"), "{loser:?}");
        let Uses::Once { account: Some(account) } = ca.external_row(&eab).await.uses else { panic!() };
        assert!(winner.location().ends_with(&account.to_string()));
    }
}

#[tokio::test]
async fn an_account_that_exists_is_returned_as_usual_and_uses_nothing_up() {
    let ca = strict().await;
    let once = |external: &mut ca_core::acme::ExternalAccount| {
        external.uses = Uses::Once { account: None };
    };
    let (first, second) = (ca.external(anything(), once).await, ca.external(anything(), once).await);
    let client = ca.stranger(Key::p256()).await;
    let created = client.bind(&first.binding(&client)).await;
    assert_eq!(created.status, 201, "{created:?}");
    // Its client may have lost the answer and ask again with the same binding, or with another.
    for eab in [&first, &second] {
        let found = client.bind(&eab.binding(&client)).await;
        assert_eq!((found.status, found.location()), (200, created.location()));
        assert_eq!(found.json["externalAccountBinding"], created.json["externalAccountBinding"]);
    }
    assert_eq!(ca.external_row(&second).await.uses, Uses::Once { account: None });
    let url = client.resource("newAccount");
    let found = client.post(&url, &json!({"onlyReturnExisting": true})).await;
    assert_eq!((found.status, found.location()), (200, created.location()));
    let stranger = ca.stranger(Key::p256()).await;
    let asked = json!({"onlyReturnExisting": true});
    stranger.post(&url, &asked).await.assert_problem(400, "accountDoesNotExist");
}

#[tokio::test]
async fn a_request_that_is_refused_for_its_contacts_uses_no_key_up() {
    let ca = strict().await;
    let eab = ca.external(anything(), |external| external.uses = Uses::Once { account: None }).await;
    let client = ca.stranger(Key::p256()).await;
    let payload = json!({"contact": ["tel:+1"], "externalAccountBinding": eab.binding(&client)});
    let answer = client.post(&client.resource("newAccount"), &payload).await;
    answer.assert_problem(400, "unsupportedContact");
    assert_eq!(client.bind(&eab.binding(&client)).await.status, 201);
}

#[tokio::test]
async fn a_mac_key_that_was_sealed_to_another_key_is_an_error_of_the_ca() {
    let ca = strict().await;
    let eab = ca
        .external(anything(), |external| {
            let stranger = SealingKey::generate().unwrap();
            let key = acme_server::sealing::MacKey::generate(&mut ca_core::random::SystemRandom);
            external.mac_key = seal(stranger.public_key(), &external.directory, external.id, &key).unwrap();
        })
        .await;
    let client = ca.stranger(Key::p256()).await;
    client.bind(&eab.binding(&client)).await.assert_problem(500, "serverInternal");
}

#[tokio::test]
async fn the_sealing_key_is_published_once_and_another_one_does_not_take_its_place() {
    let ca = Ca::new().await;
    assert_eq!(ca.service.publish_sealing_key().await, Ok(true));
    assert_eq!(ca.restarted().publish_sealing_key().await, Ok(true), "the same key after a restart");
    let other = Ca::new().await;
    let published = ca.store.sealing_key(ca_core::store::Role::Acme).await.unwrap().unwrap();
    other
        .put(ca_core::store::Change::PutSealingKey(ca_core::acme::external_account::SealingKeyRecord {
            version: ca_core::store::Version::NEW,
            ..published
        }))
        .await;
    assert_eq!(other.service.publish_sealing_key().await, Ok(false));
}
