//! The ACME directory promises nothing that nobody answers, and hides nothing that clients need.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use e2e::acme::{self, Client, JOSE};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::dns::{Data, Dns};
use serde_json::{Value, json};

#[test]
fn everything_that_the_directory_advertises_has_a_handler() {
    let dns = Dns::start().unwrap();
    dns.add("www.example.test", Data::A(Ipv4Addr::LOCALHOST));
    let directories = r#"{
        default = {},
        clients = {
            profiles = ["tls-client"], challenges = ["dns-01"], issuer = "issuing-1", client_validity = true,
            terms_of_service = "https://ca.example.test/terms", website = "https://ca.example.test/"
        }
    }"#;
    let settings = Settings::with(Keys::Software).dns(dns.address());
    let settings = settings.set("CHANCERY__ACME__DIRECTORIES", &directories.replace('\n', " "));
    let chancery = Chancery::start(&settings).unwrap();
    let ready = chancery.ready().unwrap();
    let url = |name: &str| ready.acme_directory.replace("/clients/", &format!("/{name}/"));
    walk(&url("default"), &ready.roots_pem, &["profiles"], &["http-01", "dns-01", "tls-alpn-01"]);
    walk(&url("clients"), &ready.roots_pem, &["profiles", "termsOfService", "website"], &["dns-01"]);
}

/// Follows every URL of one directory, whose meta and challenges are these.
fn walk(directory: &str, roots: &Path, meta_keys: &[&str], challenges: &[&str]) {
    let client = Client::registered(directory, roots).unwrap();
    let resources: BTreeMap<_, _> = client
        .directory
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "meta")
        .map(|(name, url)| (name.as_str(), url.as_str().unwrap()))
        .collect();
    let names: Vec<_> = resources.keys().copied().collect();
    assert_eq!(names, ["keyChange", "newAccount", "newNonce", "newOrder", "renewalInfo", "revokeCert"]);
    for (name, url) in &resources {
        if *name == "newNonce" {
            for (method, status) in [("HEAD", 200), ("GET", 204)] {
                let response = client.https.request(method, url, &[], &[]).unwrap();
                assert_eq!(response.status, status);
                assert_eq!(response.header("cache-control"), Some("no-store"));
                assert!(response.header("replay-nonce").is_some_and(|nonce| !nonce.is_empty()));
            }
            continue;
        }
        if *name == "renewalInfo" {
            // Anybody may ask, for a certificate: there is none yet, and alone the URL names none.
            let response = client.https.request("GET", url, &[], &[]).unwrap();
            assert_eq!((response.status, acme::kind(&response).as_deref()), (400, Some("malformed")));
            let of_the_rfc = format!("{url}/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
            let response = client.https.request("GET", &of_the_rfc, &[], &[]).unwrap();
            let detail = acme::body(&response, 404).unwrap()["detail"].clone();
            assert_eq!(detail, "there is no such certificate");
            assert_eq!(client.post(url, "").unwrap().status, 405);
            continue;
        }
        // Each reads what it is sent: an array is wrong for all of them, and each says so.
        let response = client.post(url, "[]").unwrap();
        assert!((400..500).contains(&response.status) && ![404, 405].contains(&response.status), "{name}");
        assert!(acme::kind(&response).is_some(), "{name}: {}", String::from_utf8_lossy(&response.body));
        assert!(response.header("replay-nonce").is_some(), "{name}");
        let index = format!("<{directory}>;rel=\"index\"");
        assert_eq!(response.header("link"), Some(index.as_str()), "{name}");
        // And says of the wrong method that it is wrong, not that there is nothing.
        let response = client.https.request("GET", url, &[], &[]).unwrap();
        assert_eq!(response.status, 405, "{name}");
        assert_eq!(acme::kind(&response).as_deref(), Some("malformed"), "{name}");
        let response = client.post_raw(url, "application/json", b"{}").unwrap();
        assert_eq!(response.status, 415, "{name}");
    }

    let meta = client.directory["meta"].as_object().unwrap();
    assert_eq!(meta.keys().collect::<Vec<_>>(), meta_keys, "what was configured: {meta:?}");
    for (profile, description) in meta["profiles"].as_object().unwrap() {
        assert!(description.as_str().unwrap().starts_with("certificates for TLS "), "{description}");
        let payload =
            json!({ "identifiers": [{ "type": "dns", "value": "www.example.test" }], "profile": profile });
        let response = client.post(&client.resource("newOrder").unwrap(), &payload.to_string()).unwrap();
        assert_eq!(acme::body(&response, 201).unwrap()["profile"], **profile);
    }

    // The same for every URL in the objects that it leads to.
    let account = client.read(&client.account().unwrap()).unwrap();
    let orders = client.read(account["orders"].as_str().unwrap()).unwrap();
    for url in orders["orders"].as_array().unwrap() {
        let order = client.read(url.as_str().unwrap()).unwrap();
        assert_eq!(order["status"], "pending");
        for url in order["authorizations"].as_array().unwrap() {
            let authorization = client.read(url.as_str().unwrap()).unwrap();
            let kinds: Vec<_> = authorization["challenges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|challenge| challenge["type"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(kinds, challenges);
            for challenge in authorization["challenges"].as_array().unwrap() {
                let shown: Value = client.read(challenge["url"].as_str().unwrap()).unwrap();
                assert_eq!(shown["status"], "pending");
            }
        }
        let response = client.post_raw(order["finalize"].as_str().unwrap(), JOSE, b"{}").unwrap();
        assert_eq!(acme::kind(&response).as_deref(), Some("malformed"));
    }
    assert_eq!(orders["orders"].as_array().unwrap().len(), meta["profiles"].as_object().unwrap().len());

    let response = client.https.request("GET", &format!("{directory}/nothing"), &[], &[]).unwrap();
    assert_eq!((response.status, acme::kind(&response).as_deref()), (404, Some("malformed")));
}
