//! Orders of devices, from newOrder to the certificate, and what is refused on the way.

use acme_server::config::{AttestationConfig, Config, FormatConfig};
use ca_core::acme::{AuthorizationState, Identifier};
use ca_core::store::CertificateFilter;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::devices::encode::{permanent_identifier, sequence, tlv};
use super::devices::{Apple, Manufacturer, YubiKey};
use crate::support::client::from_pem;
use crate::support::key::base64url;
use crate::support::{Answer, Ca, Client, open_config};

/// A CA that trusts one manufacturer of YubiKeys and one of Apple's devices.
struct Scene {
    ca: Ca,
    client: Client,
    yubico: Manufacturer,
    apple: Manufacturer,
    _roots: TempDir,
}

async fn scene(change: impl FnOnce(&mut Config)) -> Scene {
    let (yubico, apple) = (Manufacturer::new("Yubico"), Manufacturer::new("Apple"));
    let roots = tempfile::tempdir().unwrap();
    let file = |maker: &Manufacturer, name: &str| {
        let path = roots.path().join(name);
        std::fs::write(&path, maker.roots()).unwrap();
        Some(FormatConfig { roots: path.to_str().unwrap().to_owned() })
    };
    let mut config = Config {
        challenges: vec!["dns-01".to_owned(), "device-attest-01".to_owned()],
        attestation: AttestationConfig {
            step: file(&yubico, "yubico.pem"),
            apple: file(&apple, "apple.pem"),
            ..Default::default()
        },
        ..open_config()
    };
    change(&mut config);
    let ca = Ca::with(config).await;
    let client = ca.client().await;
    Scene { ca, client, yubico, apple, _roots: roots }
}

impl Scene {
    async fn order(&self, identifiers: &Value) -> Answer {
        self.client.post(&self.client.resource("newOrder"), &json!({"identifiers": identifiers})).await
    }

    /// The URL, the token and the key authorization of the device challenge of an order's authorization.
    async fn challenge(&self, order: &Answer, index: usize) -> (String, String, String) {
        let authorization = self.client.read(&order.list("authorizations")[index]).await;
        let challenges = authorization.json["challenges"].as_array().unwrap();
        assert_eq!(challenges.len(), 1, "{authorization:?}");
        let challenge = authorization.challenge("device-attest-01");
        let token = challenge["token"].as_str().unwrap().to_owned();
        let key_authorization = format!("{token}.{}", self.client.key.thumbprint());
        (challenge["url"].as_str().unwrap().to_owned(), token, key_authorization)
    }

    /// Answers a challenge.
    async fn respond(&self, url: &str, object: &[u8]) -> Answer {
        self.client.post(url, &json!({"attObj": base64url(object), "more": 1})).await
    }

    /// Orders a YubiKey's serial number and proves it.
    async fn proven(&self, device: &YubiKey) -> Answer {
        let order = self.order(&json!([permanent(&device.serial.to_string())])).await;
        let (url, _, key_authorization) = self.challenge(&order, 0).await;
        let answer = self.respond(&url, &device.attest(&self.yubico, &key_authorization)).await;
        assert_eq!(answer.json["status"], "valid", "{answer:?}");
        order
    }
}

fn permanent(value: &str) -> Value {
    json!({"type": "permanent-identifier", "value": value})
}

/// A CSR with these entries of subjectAltName, in DER, and this commonName.
fn csr(key: &impl SigningKey, names: &[Vec<u8>], common_name: Option<&str>) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(common_name) = common_name {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    if !names.is_empty() {
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence(names))];
    }
    params.serialize_request(key).unwrap().der().to_vec()
}

fn dns_name(name: &str) -> Vec<u8> {
    tlv(&[0x82], name.as_bytes())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn a_device_gets_a_certificate_for_the_key_that_it_attested() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(12_345_678);
    let order = scene.proven(&device).await;
    let other_name = permanent_identifier("12345678");
    let answer =
        scene.client.finalize(&order, &csr(&device.key, std::slice::from_ref(&other_name), None)).await;
    assert_eq!((answer.status, answer.text("status")), (200, "valid"), "{answer:?}");
    assert_eq!(answer.json["identifiers"], json!([permanent("12345678")]));
    let chain = scene.client.read(answer.text("certificate")).await;
    let certificate = from_pem(&chain.body).remove(0);
    assert!(contains(&certificate, &other_name), "the name stands in the certificate as the CSR had it");
    assert!(contains(&certificate, b"12345678"));

    let name = Identifier::from_text("permanent-identifier:12345678").unwrap();
    let filter = CertificateFilter { name: Some(name.clone()), ..Default::default() };
    let found = scene.ca.store.certificates(filter, None, 10).await.unwrap().rows;
    assert_eq!(found.len(), 1, "the inventory finds it by its name");
    assert_eq!(found[0].names, [name]);
    assert_eq!(found[0].subject, "CN=12345678");
}

#[tokio::test]
async fn apples_devices_are_bound_by_the_token_and_named_by_common_name() {
    let scene = scene(|_| ()).await;
    // Reads as a DNS name, too.
    let device = Apple::new("C02XL0GYJGH5");
    let order = scene.order(&json!([permanent("C02XL0GYJGH5")])).await;
    let (url, token, _) = scene.challenge(&order, 0).await;
    let answer = scene.respond(&url, &device.attest(&scene.apple, &token)).await;
    assert_eq!(answer.json["status"], "valid", "{answer:?}");
    let answer = scene.client.finalize(&order, &csr(&device.key, &[], Some("C02XL0GYJGH5"))).await;
    assert_eq!(answer.json["status"], "valid", "{answer:?}");
    let chain = scene.client.read(answer.text("certificate")).await;
    assert!(contains(&from_pem(&chain.body)[0], &permanent_identifier("C02XL0GYJGH5")));
}

#[tokio::test]
async fn an_attestation_of_another_challenge_account_device_or_maker_makes_the_challenge_invalid() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(7);
    let cases: [(&str, &str); 5] = [
        ("another authorization", "does not verify"),
        ("another device", "the attestation is of 'permanent-identifier:8', not of 'permanent-identifier:7'"),
        ("another maker", "does not lead to a root"),
        ("another format", "'tpm' are not accepted here; accepted are: apple, step"),
        ("nothing", "the response has no 'attObj'"),
    ];
    for (case, why) in cases {
        let order = scene.order(&json!([permanent("7")])).await;
        let (url, token, key_authorization) = scene.challenge(&order, 0).await;
        let object = match case {
            "another authorization" => device.attest(&scene.yubico, &format!("{token}.other")),
            "another device" => YubiKey::new(8).attest(&scene.yubico, &key_authorization),
            "another maker" => device.attest(&Manufacturer::new("Yubico"), &key_authorization),
            "another format" => super::devices::attestation_object("tpm", vec![]),
            _ => Vec::new(),
        };
        let answer = scene.respond(&url, &object).await;
        assert_eq!((answer.status, answer.text("status")), (200, "invalid"), "{case}: {answer:?}");
        let error = &answer.json["error"];
        assert_eq!(error["type"], "urn:ietf:params:acme:error:badAttestationStatement", "{case}");
        assert!(error["detail"].as_str().unwrap().contains(why), "{case}: {error}");
        assert_eq!(scene.client.read(order.location()).await.json["status"], "invalid");
        // It stays invalid.
        let again = scene.respond(&url, &device.attest(&scene.yubico, &key_authorization)).await;
        assert_eq!(again.json["status"], "invalid", "{case}");
    }
}

#[tokio::test]
async fn a_response_whose_attestation_can_not_be_read_is_invalid() {
    let scene = scene(|_| ()).await;
    let large = json!(base64url(&[0xa1; 33_000]));
    for att_obj in [json!(7), json!("***"), json!(""), json!("AAAA=="), Value::Null, large] {
        let order = scene.order(&json!([permanent("7")])).await;
        let (url, ..) = scene.challenge(&order, 0).await;
        let answer = scene.client.post(&url, &json!({"attObj": att_obj})).await;
        assert_eq!((answer.status, answer.text("status")), (200, "invalid"), "{answer:?}");
    }
    let order = scene.order(&json!([permanent("7")])).await;
    let (url, ..) = scene.challenge(&order, 0).await;
    assert_eq!(scene.client.post(&url, &json!({})).await.json["status"], "invalid");
}

#[tokio::test]
async fn another_key_than_the_attested_one_is_not_certified() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(7);
    let order = scene.proven(&device).await;
    let other = YubiKey::new(7);
    let names = [permanent_identifier("7")];
    let answer = scene.client.finalize(&order, &csr(&other.key, &names, None)).await;
    answer.assert_problem(400, "badCSR");
}

#[tokio::test]
async fn the_authority_refuses_another_key_by_itself() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(7);
    let order = scene.proven(&device).await;
    scene.ca.stop_authority();
    let names = [permanent_identifier("7")];
    // What a front end that was taken over could write: a CSR with another key.
    let id = order.location().rsplit('/').next().unwrap().parse().unwrap();
    let (mut stored, authorizations) = scene.ca.store.order(id).await.unwrap().unwrap();
    assert!(matches!(authorizations[0].state, AuthorizationState::Valid { .. }));
    assert!(authorizations[0].attested_key().is_some());
    stored.state = ca_core::acme::OrderState::Processing { csr: csr(&YubiKey::new(7).key, &names, None) };
    let changes = vec![ca_core::store::Change::PutOrder(stored)];
    let effects = vec![ca_core::store::Effect {
        id: ca_core::id::EffectId::generate(
            ca_core::time::Clock::now(&*scene.ca.clock),
            &mut ca_core::random::SystemRandom,
        ),
        kind: ca_core::store::EffectKind::Issue { order: id },
    }];
    scene.ca.store.commit(ca_core::store::Commit { changes, effects, ..Default::default() }).await.unwrap();
    scene.ca.start_authority();
    let decided = loop {
        let answer = scene.client.read(order.location()).await;
        if answer.json["status"] != "processing" {
            break answer;
        }
    };
    assert_eq!(decided.json["status"], "invalid", "{decided:?}");
    let detail = decided.json["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("not the key that the device attested"), "{detail}");
}

#[tokio::test]
async fn devices_and_hosts_are_ordered_together_and_a_csr_may_leave_the_device_out() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(7);
    let order = scene.order(&json!([{"type": "dns", "value": "a.example"}, permanent("7")])).await;
    let host = scene.client.read(&order.list("authorizations")[0]).await;
    let challenge = host.challenge("dns-01");
    scene.ca.prober.provide(&host, &challenge, &scene.client.key);
    scene.client.post(challenge["url"].as_str().unwrap(), &json!({})).await;
    let (url, _, key_authorization) = scene.challenge(&order, 1).await;
    scene.respond(&url, &device.attest(&scene.yubico, &key_authorization)).await;
    assert_eq!(scene.client.read(order.location()).await.json["status"], "ready");

    let refused = scene.client.finalize(&order, &csr(&device.key, &[permanent_identifier("7")], None)).await;
    refused.assert_problem(400, "badCSR");
    assert!(refused.text("detail").contains("missing: [a.example]"), "{refused:?}");
    let more = [dns_name("a.example"), permanent_identifier("8")];
    let refused = scene.client.finalize(&order, &csr(&device.key, &more, None)).await;
    assert!(refused.text("detail").contains("not ordered: [permanent-identifier:8]"), "{refused:?}");

    let answer = scene.client.finalize(&order, &csr(&device.key, &[dns_name("a.example")], None)).await;
    assert_eq!(answer.json["status"], "valid", "{answer:?}");
    let chain = scene.client.read(answer.text("certificate")).await;
    let certificate = from_pem(&chain.body).remove(0);
    assert!(contains(&certificate, b"a.example") && !contains(&certificate, &permanent_identifier("7")));
}

#[tokio::test]
async fn a_certificate_that_would_name_nobody_is_not_made() {
    let scene = scene(|_| ()).await;
    let device = YubiKey::new(7);
    let order = scene.proven(&device).await;
    let answer = scene.client.finalize(&order, &csr(&device.key, &[], None)).await;
    answer.assert_problem(400, "badCSR");
    assert!(answer.text("detail").contains("would name nobody"), "{answer:?}");
}

#[tokio::test]
async fn a_renewal_attests_its_new_key_also_where_authorizations_are_reused() {
    let scene = scene(|config| config.authorization_reuse_seconds = 3600).await;
    for device in [YubiKey::new(7), YubiKey::new(7)] {
        let order = scene.proven(&device).await;
        let answer =
            scene.client.finalize(&order, &csr(&device.key, &[permanent_identifier("7")], None)).await;
        assert_eq!(answer.json["status"], "valid", "{answer:?}");
    }
}

#[tokio::test]
async fn a_hundred_devices_are_one_order() {
    let scene = scene(|_| ()).await;
    let identifiers: Vec<_> = (0..100).map(|number| permanent(&format!("SN-{number}"))).collect();
    assert_eq!(scene.order(&json!(identifiers)).await.status, 201);
    let more: Vec<_> = (0..101).map(|number| permanent(&format!("SN-{number}"))).collect();
    scene.order(&json!(more)).await.assert_problem(400, "malformed");
}

#[tokio::test]
async fn values_that_do_not_follow_the_grammar_are_malformed() {
    let scene = scene(|_| ()).await;
    for value in ["", "/1.2.3", "a/", "a/b", "a/1.2/3"] {
        scene.order(&json!([permanent(value)])).await.assert_problem(400, "malformed");
    }
    for value in ["", "ABCD", "ABCD/", "ABCD/x"] {
        let order = scene.order(&json!([{"type": "hardware-module", "value": value}])).await;
        order.assert_problem(400, "malformed");
    }
}

#[tokio::test]
async fn devices_are_ordered_only_where_they_are_offered_and_allowed() {
    let usual = scene(|config| config.challenges = Config::default().challenges).await;
    usual.order(&json!([permanent("7")])).await.assert_problem(400, "rejectedIdentifier");
    let names = ["permanent-identifier:A*", "hardware-module:*/1.2.3.4"].map(str::to_owned);
    let listed = scene(|config| config.allowed_names = names.to_vec()).await;
    listed.order(&json!([permanent("7")])).await.assert_problem(400, "rejectedIdentifier");
    assert_eq!(listed.order(&json!([permanent("A7")])).await.status, 201);
    let module = |value| json!([{"type": "hardware-module", "value": value}]);
    assert_eq!(listed.order(&module("7/1.2.3.4")).await.status, 201);
    listed.order(&module("7/1.2.3.5")).await.assert_problem(400, "rejectedIdentifier");
}
