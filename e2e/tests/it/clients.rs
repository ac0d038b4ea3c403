//! Real ACME clients beyond the first certificate: every challenge, every way to revoke, accounts and their keys.

use std::net::{IpAddr, Ipv4Addr};

use e2e::acme::{Client, csr};
use e2e::chancery::Keys;
use e2e::clients::{KeyType, LegoChallenge};
use e2e::deployment::Layout;
use e2e::dns::Data;
use e2e::http01::Http01;
use e2e::{judges, pem};
use instant_acme::{
    Account, AccountBuilder, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
    RevocationReason, RevocationRequest,
};

use crate::scene::{Scene, at_once};
use crate::verdicts::{Kept, expect_good, expect_revoked};

in_every_deployment! {
    certbot_gets_renews_and_revokes_a_wildcard_by_dns,
    lego_answers_on_http_and_in_the_tls_handshake,
    instant_acme_goes_through_an_account_s_life,
    thirty_two_orders_at_once_on_one_account_all_succeed,
}

fn certbot_gets_renews_and_revokes_a_wildcard_by_dns(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let cases = [
        (["*.example.test", "example.test"], KeyType::Ec384, "id-ecPublicKey"),
        (["*.rsa.example.test", "rsa.example.test"], KeyType::Rsa2048, "rsaEncryption"),
    ];
    let [certbot, _] = at_once(cases, |(names, key, algorithm)| {
        let certbot = scene.certbot();
        let issued = certbot.dns01(&names, key, &scene.dns).unwrap();
        let case = scene.case(&issued);
        let text = judges::certificate_text(&issued.certificate).unwrap();
        assert!(text.contains(&format!("Public Key Algorithm: {algorithm}")), "{text}");
        assert!(names.iter().all(|name| text.contains(&format!("DNS:{name}"))), "{text}");
        let below = names[0].replace('*', "anything");
        expect_good(&case, &issued, Some(&below));
        case.gnutls_verify(&case.fetch_crls().unwrap(), Some(&format!("two.{below}"))).unwrap_err();

        let renewed = certbot.renew(names[0]).unwrap();
        let renewed_case = scene.case(&renewed);
        assert_ne!(renewed_case.serial().unwrap(), case.serial().unwrap());

        certbot.revoke_by_account(&issued, "superseded").unwrap();
        expect_revoked(&case, "superseded");
        let stranger = scene.certbot();
        stranger.revoke_by_account(&renewed, "unspecified").unwrap_err();
        stranger.revoke_by_certificate_key(&renewed, "keycompromise").unwrap();
        expect_revoked(&renewed_case, "keyCompromise");
        certbot
    });

    let account = || {
        let accounts = scene.ca.cli(&["account", "list"]).unwrap();
        let contacts = serde_json::json!(["mailto:security@example.com"]);
        let found = accounts.as_array().unwrap().iter().find(|account| account["contacts"] == contacts);
        found.unwrap_or_else(|| panic!("nobody has the new contact: {accounts}")).clone()
    };
    certbot.update_account("security@example.com").unwrap();
    assert_eq!(account()["status"], "valid");
    certbot.unregister().unwrap();
    assert_eq!(account()["status"], "deactivated");
    // All names were asked of our resolver, CAA too.
    let queries = scene.dns.queries();
    assert!(
        queries
            .iter()
            .any(|query| query.name == "_acme-challenge.rsa.example.test" && query.record_type == "TXT")
    );
}

fn lego_answers_on_http_and_in_the_tls_handshake(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let (http, tls) = (LegoChallenge::Http(scene.ca.http01), LegoChallenge::Tls(scene.ca.tls_alpn01));
    let cases = [
        (["www.example.test", "alias.example.test"], KeyType::Rsa2048, http),
        (["www.example.test", "first.localhost"], KeyType::Ec256, tls),
    ];
    at_once(cases, |(names, key, challenge)| {
        let lego = scene.lego();
        let issued = lego.run(&names, key, challenge).unwrap();
        let case = scene.case(&issued);
        for name in names {
            expect_good(&case, &issued, Some(name));
        }
        let renewed = lego.renew(&names, key, challenge).unwrap();
        let renewed_case = scene.case(&renewed);
        assert_ne!(renewed_case.serial().unwrap(), case.serial().unwrap());
        // lego keeps, and so revokes, the newer one.
        lego.revoke(names[0], 4).unwrap();
        expect_revoked(&renewed_case, "superseded");
        expect_good(&case, &issued, Some(names[0]));
    });
}

fn instant_acme_goes_through_an_account_s_life(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    runtime().block_on(async {
        let contact = ["mailto:operator@example.com"];
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (mut account, credentials) =
            builder(&scene).create(&new, scene.ca.acme_directory.clone(), None).await.unwrap();
        let old_key = credentials.private_key().secret_pkcs8_der().to_vec();

        // An address and a name over http-01, a wildcard over dns-01, in one order.
        let identifiers = [
            Identifier::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Identifier::Dns("www.example.test".into()),
            Identifier::Dns("*.example.test".into()),
        ];
        let kept = issue(&scene, &account, &identifiers, &http01).await;
        let text = judges::certificate_text(&kept.issued.certificate).unwrap();
        for name in ["IP Address:127.0.0.1", "DNS:www.example.test", "DNS:*.example.test"] {
            assert!(text.contains(name), "{name} in {text}");
        }
        expect_good(&kept.case, &kept.issued, Some("www.example.test"));

        account.update_contacts(&["mailto:security@example.com"]).await.unwrap();
        let id = account.id().to_owned();
        // What it returns is for a later process.
        let _ = account.update_key().await.unwrap();
        assert_eq!(account.id(), id);
        // The new key works; the old one is nobody's.
        let again = issue(&scene, &account, &identifiers[1..2], &http01).await;
        let (old, pkcs8) =
            (instant_acme::Key::from_pkcs8_der(old_key.as_slice().into()).unwrap(), old_key.into());
        let error = builder(&scene)
            .from_key((old, rustls::pki_types::PrivateKeyDer::Pkcs8(pkcs8)), scene.ca.acme_directory.clone())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("accountDoesNotExist"), "{error}");

        let der =
            pem::decode(&std::fs::read_to_string(&again.issued.certificate).unwrap(), "CERTIFICATE").unwrap();
        let request = RevocationRequest {
            certificate: &der[0].as_slice().into(),
            reason: Some(RevocationReason::CessationOfOperation),
        };
        account.revoke(&request).await.unwrap();
        expect_revoked(&again.case, "cessationOfOperation");
        let error = account.revoke(&request).await.unwrap_err().to_string();
        assert!(error.contains("alreadyRevoked"), "{error}");

        let ended = account.clone();
        account.deactivate().await.unwrap();
        let error = ended.new_order(&NewOrder::new(&identifiers)).await.err().unwrap().to_string();
        assert!(error.contains("unauthorized"), "{error}");
        // What it got stays valid.
        expect_good(&kept.case, &kept.issued, None);
    });
}

/// Gets a certificate with instant-acme: wildcards by dns-01, everything else by http-01.
pub(crate) async fn issue(
    scene: &Scene,
    account: &Account,
    identifiers: &[Identifier],
    http01: &Http01,
) -> Kept {
    let mut order = account.new_order(&NewOrder::new(identifiers)).await.unwrap();
    let mut names = Vec::new();
    let mut records = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.unwrap();
        let wildcard = authorization.wildcard;
        names.push(authorization.identifier().to_string());
        let kind = if wildcard { ChallengeType::Dns01 } else { ChallengeType::Http01 };
        let mut challenge = authorization.challenge(kind).unwrap();
        if wildcard {
            let name = challenge.identifier().to_string().replacen("*.", "_acme-challenge.", 1);
            let record = (name, Data::Txt(challenge.key_authorization().dns_value()));
            scene.dns.add(&record.0, record.1.clone());
            records.push(record);
        } else {
            http01.add(&challenge.token, challenge.key_authorization().as_str());
        }
        challenge.set_ready().await.unwrap();
    }
    assert_eq!(order.poll_ready(&RetryPolicy::default()).await.unwrap(), OrderStatus::Ready);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (csr, key) = csr(&names).unwrap();
    order.finalize_csr(&csr).await.unwrap();
    let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
    for (name, record) in records {
        scene.dns.remove(&name, &record);
    }
    Kept::new(&scene.ca.roots_pem, &pem::decode(&chain, "CERTIFICATE").unwrap(), &key)
}

fn thirty_two_orders_at_once_on_one_account_all_succeed(layout: Layout, keys: Keys) {
    const ORDERS: usize = 32;
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let client = Client::registered(&scene.ca.acme_directory, &scene.ca.roots_pem).unwrap();
    let chains: [_; ORDERS] = at_once(std::array::from_fn(|number| number), |number: usize| {
        let name = format!("host-{number}.localhost");
        let order = client.order(&[("dns", &name)]).unwrap();
        for challenge in client.challenges(&order, "http-01").unwrap() {
            http01.add(&challenge.token, &challenge.key_authorization);
            client.respond(&challenge).unwrap();
        }
        let order = client.settled(&order, &["ready"]).unwrap();
        let (csr, key) = csr(&[&name]).unwrap();
        client.finalize(&order, &csr).unwrap();
        let order = client.settled(&order, &["valid"]).unwrap();
        (client.download(&order).unwrap(), key)
    });
    let listed = scene.ca.cli(&["certificate", "list", "--state", "issued"]).unwrap();
    let of_orders = listed.as_array().unwrap().iter().filter(|row| !row["order"].is_null()).count();
    assert_eq!(of_orders, ORDERS);
    let (chain, key) = &chains[0];
    let kept = Kept::new(&scene.ca.roots_pem, chain, key);
    expect_good(&kept.case, &kept.issued, None);
}

fn builder(scene: &Scene) -> AccountBuilder {
    Account::builder_with_root(&scene.ca.roots_pem).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}
