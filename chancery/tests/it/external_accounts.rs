//! `chancery eab`: made, listed, revoked, with a server and without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Site, text};

fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_else(|| panic!("no {name} in {object}"))
}

#[test]
fn an_external_account_is_made_listed_shown_and_revoked() {
    let site = Site::new();
    let (mut server, ready) = site.up();
    let made = site.json(&[
        "eab",
        "create",
        "--owner",
        "web team",
        "--name",
        ".example.test,10.0.0.0/8",
        "--wildcards",
        "--profile",
        "tls-server",
        "--max-days",
        "30",
        "--challenge",
        "dns-01",
        "--single-use",
        "--expires",
        "2100-01-01T00:00:00Z",
    ]);
    let (id, key) = (field(&made, "id").to_owned(), field(&made, "hmac_key").to_owned());
    assert_eq!((id.len(), key.len()), (26, 86), "64 octets in base64url");
    assert_eq!(made["acme_directory"], ready["acme_directory"]);
    for line in ["certbot", "lego"] {
        let line = field(&made, line);
        assert!(line.contains(&id) && line.contains(&key) && line.contains(field(&ready, "acme_directory")));
    }
    let expected = [
        ("owner", json!("web team")),
        ("directory", json!("default")),
        ("status", json!("valid")),
        ("names", json!([".example.test", "10.0.0.0/8"])),
        ("wildcards", json!(true)),
        ("profiles", json!(["tls-server"])),
        ("max_days", json!(30)),
        ("challenges", json!(["dns-01"])),
        ("trusted", json!(false)),
        ("single_use", json!(true)),
        ("used_by", Value::Null),
        ("expires_at", json!("2100-01-01T00:00:00Z")),
        ("revoked_at", Value::Null),
        ("openable", json!(true)),
    ];
    let shown = site.json(&["eab", "show", &id]);
    for (name, value) in &expected {
        assert_eq!((&made[name], &shown[name]), (value, value), "{name}");
    }
    assert_eq!(shown["accounts"], json!([]));

    // The second is listed first, and neither shows its key.
    let second = site.json(&["eab", "create", "--owner", "b", "--name", "a.example.test", "--trusted"]);
    let listed = site.json(&["eab", "list"]);
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|row| field(row, "id")).collect();
    assert_eq!(ids, [field(&second, "id"), &id]);
    assert!(!listed.to_string().contains("hmac") && !listed.to_string().contains(&key));
    assert_eq!(site.json(&["eab", "list", "--limit", "1"]).as_array().unwrap().len(), 1);
    let table = text(&site.run(&["eab", "list"]).stdout);
    assert!(table.contains("web team") && table.contains(&id), "{table}");

    let revoked = site.json(&["eab", "revoke", &id]);
    assert_eq!(revoked["status"], "revoked");
    let again = site.json(&["eab", "revoke", &id, "--accounts"]);
    assert_eq!((&again["revoked_at"], &again["accounts_deactivated"]), (&revoked["revoked_at"], &json!(0)));
    assert_eq!(site.error(&["eab", "revoke", "nothing"])["code"], "not_found");
    assert_eq!(site.error(&["eab", "show", &"0".repeat(26)])["code"], "not_found");
    server.stop();

    // Without a server the command line does the same itself.
    let third = site.json(&["eab", "create", "--owner", "c"]);
    assert_eq!(site.json(&["eab", "list"]).as_array().unwrap().len(), 3);
    assert_eq!(site.json(&["eab", "revoke", field(&third, "id")])["status"], "revoked");
    for file in ["store.db", "store.db-wal"] {
        let stored = fs::read(site.data().join(file)).unwrap_or_default();
        assert!(!stored.windows(key.len()).any(|window| window == key.as_bytes()), "{file}");
    }
}

#[test]
fn what_can_t_be_granted_is_said_when_it_is_asked_for() {
    let mut site = Site::new();
    site.set("CHANCERY__ACME__ALLOWED_NAMES", "[\".example.test\"]");
    site.set("CHANCERY__ACME__WILDCARDS", "false");
    site.set("CHANCERY__ACME__CHALLENGES", "[\"http-01\"]");
    let (mut server, _) = site.up();
    for (arguments, said) in [
        (&["--owner", ""][..], "an owner is named"),
        (&["--owner", "x", "--name", "*"], "is no name rule"),
        (&["--owner", "x", "--name", "example.org"], "grants nothing"),
        (&["--owner", "x", "--wildcards"], "admits no wildcard names"),
        (&["--owner", "x", "--profile", "none"], "it offers tls-server, tls-client"),
        (&["--owner", "x", "--challenge", "dns-01"], "it offers http-01"),
        (&["--owner", "x", "--max-days", "0"], "from 1 to 3650"),
        (&["--owner", "x", "--expires", "2001-01-01T00:00:00Z"], "in the past"),
        (&["--owner", "x", "--expires", "soon"], "is no time"),
        (&["--owner", "x", "--directory", "lab"], "there is no directory 'lab'"),
        (&["--owner", "x", "--trusted"], "--name"),
    ] {
        let error = site.error(&[&["eab", "create"], arguments].concat());
        assert_eq!(error["code"], "usage", "{arguments:?}: {error}");
        assert!(field(&error, "detail").contains(said), "{arguments:?}: {error}");
    }
    assert_eq!(site.json(&["eab", "list"]), json!([]));
    server.stop();
}

#[test]
fn nothing_is_sealed_before_role_acme_has_published_its_key_and_another_key_waits_for_the_operator() {
    let site = Site::new();
    site.json(&["init", "--trial", "--public-url", "https://127.0.0.1:8443"]);
    let error = site.error(&["eab", "create", "--owner", "x"]);
    assert_eq!(error["code"], "conflict", "{error}");
    assert!(field(&error, "fix").contains("serve"), "{error}");
    assert_eq!(site.error(&["eab", "forget-sealing-key"])["code"], "not_found");

    let (mut server, _) = site.up();
    let first = site.json(&["eab", "create", "--owner", "x"]);
    server.stop();
    let path = site.data().join("acme/sealing.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().len(), 64);

    // A file that was lost is made anew, and does not take the published key's place by itself.
    fs::remove_file(&path).unwrap();
    let (mut server, _) = site.up();
    assert_eq!(site.json(&["eab", "show", field(&first, "id")])["openable"], true);
    server.stop();
    site.json(&["eab", "forget-sealing-key"]);
    let (mut server, _) = site.up();
    let second = site.json(&["eab", "create", "--owner", "y"]);
    assert_eq!(second["openable"], true);
    assert_eq!(site.json(&["eab", "show", field(&first, "id")])["openable"], false);
    server.stop();

    fs::write(&path, b"short").unwrap();
    let sockets = [("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")];
    let mut server = site.start(&["serve", "--json"], &sockets);
    assert!(!server.child.wait().unwrap().success());
    let log = server.log();
    assert!(log.contains("acme/sealing.key: the sealing key can't be read"), "{log}");
}
