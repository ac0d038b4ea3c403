//! Renewal as clients are asked to do it: windows, incidents that pull them forward, and orders that replace
//! certificates (RFC 9773).

use std::time::Duration;

use e2e::acme::{self, Client, Https, base64url};
use e2e::chancery::Keys;
use e2e::clients::{Issued, KeyType};
use e2e::deployment::Layout;
use e2e::eventually;
use e2e::http01::Http01;
use e2e::judges;
use instant_acme::{Account, Identifier, NewAccount, NewOrder};
use serde_json::Value;

use crate::scene::Scene;
use crate::verdicts::expect_good;

tests_with!(
    one_process(e2e::deployment::Layout::OneProcess, e2e::chancery::Keys::Software),
    certbot_renews_at_once_what_was_pulled_forward_and_nothing_else,
    instant_acme_says_what_it_replaces
);
tests_with!(
    roles_apart(e2e::deployment::Layout::RolesApart, e2e::chancery::Keys::Software),
    certbot_renews_at_once_what_was_pulled_forward_and_nothing_else
);

/// How soon clients hear of what an administrator does.
const HEARD_WITHIN: Duration = Duration::from_secs(15);

fn certbot_renews_at_once_what_was_pulled_forward_and_nothing_else(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let certbot = scene.certbot();
    let names = ["www.example.test", "alias.example.test"];
    let [pulled, other] = names.map(|name| certbot.http01(&[name], KeyType::Ec256, scene.ca.http01).unwrap());
    let (start, _) = window(&scene, &pulled);
    assert!(start.as_str() > "2026", "{start}");

    let id = certificate_id(&scene, names[0]);
    let made = scene
        .ca
        .cli(&[
            "renewal",
            "pull",
            "--certificate",
            &id,
            "--start",
            "2026-01-01T00:00:00Z",
            "--end",
            "2026-01-02T00:00:00Z",
            "--explanation-url",
            "https://ca.example.test/incident",
        ])
        .unwrap();
    assert_eq!(made["certificate"], id, "{made}");
    assert_eq!(scene.ca.cli(&["renewal", "list"]).unwrap(), serde_json::json!([made]));
    eventually("the window to be pulled forward", HEARD_WITHIN, || {
        Ok((window(&scene, &pulled).0.as_str() < "2026-01-02").then_some(()))
    })
    .unwrap();

    let said = certbot.renew_due().unwrap();
    let renewed = certbot.current(names[0]).unwrap();
    let (old, new) = (scene.case(&pulled), scene.case(&renewed));
    assert_ne!(old.serial().unwrap(), new.serial().unwrap(), "{said}");
    expect_good(&new, &renewed, Some(names[0]));
    let kept = certbot.current(names[1]).unwrap();
    assert_eq!(scene.case(&kept).serial().unwrap(), scene.case(&other).serial().unwrap(), "{said}");

    // What replaced it is not meant, so nothing is due any more.
    let again = certbot.renew_due().unwrap();
    let still = certbot.current(names[0]).unwrap();
    assert_eq!(scene.case(&still).serial().unwrap(), new.serial().unwrap(), "{again}");

    let pull = made["id"].as_str().unwrap();
    assert_eq!(scene.ca.cli(&["renewal", "remove", pull]).unwrap()["id"], pull);
    assert_eq!(scene.ca.cli(&["renewal", "list"]).unwrap(), serde_json::json!([]));
    eventually("the window to be as it was", HEARD_WITHIN, || {
        Ok((window(&scene, &pulled).0 == start).then_some(()))
    })
    .unwrap();
    for wrong in [
        ["renewal", "remove", pull].as_slice(),
        ["renewal", "pull", "--issuer", "issuing-9"].as_slice(),
        ["renewal", "pull", "--certificate", "0a1b2c"].as_slice(),
    ] {
        let error = scene.ca.cli(wrong).unwrap_err().to_string();
        assert!(error.contains("not_found") || error.contains("there is no"), "{error}");
    }
}

fn instant_acme_says_what_it_replaces(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_root(&scene.ca.roots_pem).unwrap();
        let (account, _) = builder.create(&new, scene.ca.acme_directory.clone(), None).await.unwrap();
        let names = [Identifier::Dns("www.example.test".into())];
        let first = crate::clients::issue(&scene, &account, &names, &http01).await;

        let identifier = Value::String(identifier(&first.issued)).to_string();
        let replaced = || serde_json::from_str(&identifier).unwrap();
        // It checks itself that the order tells it back.
        let order = account.new_order(&NewOrder::new(&names).replaces(replaced())).await.unwrap();
        let error = account.new_order(&NewOrder::new(&names).replaces(replaced())).await.err().unwrap();
        assert!(error.to_string().contains("alreadyReplaced"), "{error}");
        let shown = scene.ca.cli(&["order", "list"]).unwrap();
        let mut found = shown.as_array().unwrap().iter().filter(|order| !order["replaces"].is_null());
        let marked = found.next().unwrap();
        assert!(order.url().ends_with(marked["id"].as_str().unwrap()), "{marked}");
        assert_eq!(marked["replaces"], certificate_id(&scene, "www.example.test"));
        assert!(found.next().is_none(), "{shown}");
    });
}

/// The window that anybody is told who asks for a certificate.
fn window(scene: &Scene, issued: &Issued) -> (String, String) {
    let https = Https::new(&scene.ca.acme_directory, &scene.ca.roots_pem).unwrap();
    let client = Client::new(&scene.ca.acme_directory, &scene.ca.roots_pem).unwrap();
    let url = format!("{}/{}", client.resource("renewalInfo").unwrap(), identifier(issued));
    let info = acme::body(&https.request("GET", &url, &[], &[]).unwrap(), 200).unwrap();
    let time = |member: &str| info["suggestedWindow"][member].as_str().unwrap().to_owned();
    (time("start"), time("end"))
}

/// The identifier of RFC 9773 §4.1, from what OpenSSL reads in the certificate.
fn identifier(issued: &Issued) -> String {
    let text = judges::certificate_text(&issued.certificate).unwrap();
    let after = |heading: &str| {
        let mut lines = text.lines().skip_while(|line| !line.contains(heading));
        lines.nth(1).unwrap_or_else(|| panic!("no {heading} in {text}")).trim().to_owned()
    };
    let octets = |text: &str| -> Vec<u8> {
        text.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect()
    };
    let key = after("X509v3 Authority Key Identifier");
    let key = octets(key.trim_start_matches("keyid:"));
    let mut serial = octets(&after("Serial Number"));
    if serial[0] & 0x80 != 0 {
        serial.insert(0, 0);
    }
    format!("{}.{}", base64url(&key), base64url(&serial))
}

/// The id of the newest certificate that a client got for a name.
fn certificate_id(scene: &Scene, name: &str) -> String {
    let listed = scene.ca.cli(&["certificate", "list", "--name", name]).unwrap();
    listed[0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned()
}
