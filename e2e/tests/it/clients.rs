//! Real ACME clients beyond the first certificate: every challenge, every way to revoke, accounts and their keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use e2e::acme::{Client, csr};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::clients::{Certbot, KeyType, Lego, LegoChallenge};
use e2e::dns::{Data, Dns};
use e2e::http01::Http01;
use e2e::judges::Case;
use e2e::pem;
use e2e::program::{command, succeed, system_tool};
use instant_acme::{
    Account, AccountBuilder, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
    RevocationReason, RevocationRequest,
};

use crate::verdicts::{Kept, expect_good, expect_revoked};

on_both_key_backends! {
    certbot_gets_renews_and_revokes_a_wildcard_by_dns,
    lego_answers_on_http_and_in_the_tls_handshake,
    instant_acme_goes_through_an_account_s_life,
}

/// A running Chancery and a DNS zone for its validation.
struct Scene {
    chancery: Chancery,
    dns: Dns,
}

impl Scene {
    fn new(keys: Keys) -> Self {
        let dns = Dns::start().unwrap();
        dns.add("www.example.test", Data::A(Ipv4Addr::LOCALHOST));
        // Nobody listens on ::1: one family that answers is enough.
        dns.add("www.example.test", Data::Aaaa(Ipv6Addr::LOCALHOST));
        dns.add("alias.example.test", Data::Cname("www.example.test".into()));
        // Says nothing about who may issue (RFC 8659 §4.1).
        dns.add(
            "www.example.test",
            Data::Caa(false, "contactemail".into(), "hostmaster@example.test".into()),
        );
        let chancery = Chancery::start(&Settings::with(keys).dns(dns.address())).unwrap();
        Self { chancery, dns }
    }

    fn directory(&self) -> &str {
        &self.chancery.ready().unwrap().acme_directory
    }

    fn roots(&self) -> &Path {
        &self.chancery.ready().unwrap().roots_pem
    }
}

fn certbot_gets_renews_and_revokes_a_wildcard_by_dns(keys: Keys) {
    let scene = Scene::new(keys);
    let certbot = Certbot::new(scene.directory(), scene.roots()).unwrap();
    for (names, key, algorithm) in [
        (["*.example.test", "example.test"], KeyType::Ec384, "id-ecPublicKey"),
        (["*.rsa.example.test", "rsa.example.test"], KeyType::Rsa2048, "rsaEncryption"),
    ] {
        let issued = certbot.dns01(&names, key, &scene.dns).unwrap();
        let case = Case::new(scene.roots(), &issued).unwrap();
        let text = openssl_text(&issued.certificate);
        assert!(text.contains(&format!("Public Key Algorithm: {algorithm}")), "{text}");
        assert!(names.iter().all(|name| text.contains(&format!("DNS:{name}"))), "{text}");
        let below = names[0].replace('*', "anything");
        expect_good(&case, &issued, Some(&below));
        case.gnutls_verify(&case.fetch_crls().unwrap(), Some(&format!("two.{below}"))).unwrap_err();

        let renewed = certbot.renew(names[0]).unwrap();
        let renewed_case = Case::new(scene.roots(), &renewed).unwrap();
        assert_ne!(renewed_case.serial().unwrap(), case.serial().unwrap());

        certbot.revoke_by_account(&issued, "superseded").unwrap();
        expect_revoked(&case, "superseded");
        let stranger = Certbot::new(scene.directory(), scene.roots()).unwrap();
        stranger.revoke_by_account(&renewed, "unspecified").unwrap_err();
        stranger.revoke_by_certificate_key(&renewed, "keycompromise").unwrap();
        expect_revoked(&renewed_case, "keyCompromise");
    }

    certbot.update_account("security@example.com").unwrap();
    let accounts = scene.chancery.cli(&["account", "list"]).unwrap();
    let contacts: Vec<_> = accounts.as_array().unwrap().iter().map(|account| &account["contacts"]).collect();
    assert!(contacts.contains(&&serde_json::json!(["mailto:security@example.com"])), "{accounts}");
    certbot.unregister().unwrap();
    let accounts = scene.chancery.cli(&["account", "list"]).unwrap();
    let ended = accounts.as_array().unwrap().iter().find(|account| account["status"] == "deactivated");
    assert_eq!(ended.unwrap()["contacts"], serde_json::json!(["mailto:security@example.com"]));
    // All names were asked of our resolver, CAA too.
    let queries = scene.dns.queries();
    assert!(
        queries
            .iter()
            .any(|query| query.name == "_acme-challenge.rsa.example.test" && query.record_type == "TXT")
    );
}

fn lego_answers_on_http_and_in_the_tls_handshake(keys: Keys) {
    let scene = Scene::new(keys);
    let (http, tls) =
        (LegoChallenge::Http(scene.chancery.http01()), LegoChallenge::Tls(scene.chancery.tls_alpn01()));
    for (names, key, challenge) in [
        (["www.example.test", "alias.example.test"].as_slice(), KeyType::Rsa2048, http),
        (["www.example.test", "first.localhost"].as_slice(), KeyType::Ec256, tls),
    ] {
        let lego = Lego::new(scene.directory(), scene.roots()).unwrap();
        let issued = lego.run(names, key, challenge).unwrap();
        let case = Case::new(scene.roots(), &issued).unwrap();
        for name in names {
            expect_good(&case, &issued, Some(name));
        }
        let renewed = lego.renew(names, key, challenge).unwrap();
        let renewed_case = Case::new(scene.roots(), &renewed).unwrap();
        assert_ne!(renewed_case.serial().unwrap(), case.serial().unwrap());
        // lego keeps, and so revokes, the newer one.
        lego.revoke(names[0], 4).unwrap();
        expect_revoked(&renewed_case, "superseded");
        expect_good(&case, &issued, Some(names[0]));
    }
}

fn instant_acme_goes_through_an_account_s_life(keys: Keys) {
    let scene = Scene::new(keys);
    let http01 = Http01::start(scene.chancery.http01()).unwrap();
    runtime().block_on(async {
        let contact = ["mailto:operator@example.com"];
        let new =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (mut account, credentials) =
            builder(&scene).create(&new, scene.directory().to_owned(), None).await.unwrap();
        let old_key = credentials.private_key().secret_pkcs8_der().to_vec();

        // An address and a name over http-01, a wildcard over dns-01, in one order.
        let identifiers = [
            Identifier::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Identifier::Dns("www.example.test".into()),
            Identifier::Dns("*.example.test".into()),
        ];
        let kept = issue(&scene, &account, &identifiers, &http01).await;
        let text = openssl_text(&kept.issued.certificate);
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
            .from_key((old, rustls::pki_types::PrivateKeyDer::Pkcs8(pkcs8)), scene.directory().to_owned())
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
async fn issue(scene: &Scene, account: &Account, identifiers: &[Identifier], http01: &Http01) -> Kept {
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
    Kept::new(scene.roots(), &pem::decode(&chain, "CERTIFICATE").unwrap(), &key)
}

#[test]
fn thirty_two_orders_at_once_on_one_account_all_succeed() {
    const ORDERS: usize = 32;
    let scene = Scene::new(Keys::Software);
    let http01 = Http01::start(scene.chancery.http01()).unwrap();
    let client = Client::registered(scene.directory(), scene.roots()).unwrap();
    let chains: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..ORDERS)
            .map(|number| {
                let (client, http01) = (&client, &http01);
                scope.spawn(move || {
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
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let listed = scene.chancery.cli(&["certificate", "list", "--state", "issued"]).unwrap();
    let of_orders = listed.as_array().unwrap().iter().filter(|row| !row["order"].is_null()).count();
    assert_eq!(of_orders, ORDERS);
    let (chain, key) = &chains[0];
    let kept = Kept::new(scene.roots(), chain, key);
    expect_good(&kept.case, &kept.issued, None);
}

fn builder(scene: &Scene) -> AccountBuilder {
    Account::builder_with_root(scene.roots()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn openssl_text(certificate: &Path) -> String {
    let mut command = command(system_tool("openssl").unwrap());
    succeed(command.args(["x509", "-noout", "-text", "-in"]).arg(certificate)).unwrap().stdout
}
