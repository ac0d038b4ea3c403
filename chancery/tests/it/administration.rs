//! Looking at and changing what the CA holds, with a server and without one.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::harness::{Site, field, text};

/// Checks every list and every object, and gives the listener's certificate.
fn shapes(site: &Site) -> Value {
    for list in [
        &["root", "list"][..],
        &["issuer", "list"],
        &["certificate", "list"],
        &["account", "list"],
        &["order", "list"],
    ] {
        let rows = site.json(list);
        for row in rows.as_array().unwrap_or_else(|| panic!("{list:?} is no array: {rows}")) {
            assert!(row["id"].is_string(), "{list:?}: {row}");
        }
    }
    let roots = site.json(&["root", "list"]);
    assert_eq!((roots.as_array().unwrap().len(), &roots[0]["kind"]), (1, &Value::from("root")));
    let issuers = site.json(&["issuer", "list"]);
    assert_eq!((issuers.as_array().unwrap().len(), &issuers[0]["state"]), (1, &Value::from("active")));
    let root = site.json(&["root", "show", &field(&roots[0], "sha256")]);
    assert_eq!(root["id"], roots[0]["id"]);

    let certificates = site.json(&["certificate", "list", "--name", "localhost", "--state", "issued"]);
    let listener = certificates[0].clone();
    assert_eq!(listener["profile"], "listener");
    let shown = site.json(&["certificate", "show", &field(&listener, "id")]);
    assert_eq!((&shown["id"], &shown["serial"]), (&listener["id"], &listener["serial"]));
    // The serial alone will do, also as openssl prints it.
    let serial = field(&listener, "serial").to_ascii_uppercase();
    let pairs: Vec<&str> =
        serial.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    assert_eq!(site.json(&["certificate", "show", &pairs.join(":")])["id"], listener["id"]);
    listener
}

fn listed_in_crl(site: &Site, certificate: &Value) -> bool {
    let url = format!("/crl/{}/{}.crl", field(certificate, "issuer"), certificate["shard"]);
    let (status, der) = site.get("pki", &url);
    assert_eq!(status, 200);
    let serial = field(certificate, "serial");
    let bytes: Vec<u8> =
        (0..serial.len()).step_by(2).map(|i| u8::from_str_radix(&serial[i..i + 2], 16).unwrap()).collect();
    der.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn json_has_the_same_shapes_with_a_server_and_without() {
    let site = Site::new();
    let (mut server, _) = site.up();
    let with = shapes(&site);
    server.stop();
    assert_eq!(shapes(&site), with);
}

#[test]
fn a_revocation_is_in_the_crl_when_the_command_returns() {
    let site = Site::new();
    let (_server, _) = site.up();
    let listener = shapes(&site);
    assert!(!listed_in_crl(&site, &listener));
    let revoked = site.json(&["certificate", "revoke", &field(&listener, "id"), "--reason", "superseded"]);
    assert_eq!((&revoked["state"], &revoked["reason"]), (&"revoked".into(), &"superseded".into()));
    // The publisher is told of it in the moment in which the command is.
    let waited = ca_core::time::Stopwatch::start();
    while !listed_in_crl(&site, &listener) {
        assert!(waited.elapsed() < std::time::Duration::from_secs(1));
    }
    let again = site.error(&["certificate", "revoke", &field(&listener, "id")]);
    assert_eq!(again["code"], "conflict");
}

#[test]
fn without_a_server_the_command_line_revokes_and_publishes_itself() {
    let site = Site::new();
    let (mut server, _) = site.up();
    let listener = shapes(&site);
    server.stop();
    let number = |site: &Site| site.json(&["issuer", "list"])[0]["crls"].clone();
    let before = number(&site);
    site.json(&["certificate", "revoke", &field(&listener, "id")]);
    assert_ne!(number(&site), before);
    let (_server, _) = site.up();
    assert!(listed_in_crl(&site, &listener));
}

#[test]
fn what_is_not_there_is_said() {
    let site = Site::new();
    let (_server, _) = site.up();
    for command in [
        &["certificate", "show", "issuing-1-0a"][..],
        &["certificate", "show", "nonsense"],
        &["certificate", "revoke", "0a0b0c"],
        &["account", "show", "nonsense"],
        &["account", "deactivate", "06pk6og0u8b4f8t2v1q3c9d5r0"],
        &["order", "show", "06pk6og0u8b4f8t2v1q3c9d5r0"],
        &["root", "show", "issuing-1"],
    ] {
        assert_eq!(site.error(command)["code"], "not_found", "{command:?}");
    }
    assert_eq!(site.error(&["certificate", "list", "--name", "-bad-"])["code"], "usage");
    assert_eq!(site.error(&["certificate", "revoke", "0a", "--reason", "boredom"])["code"], "usage");
    assert_eq!(site.error(&["certificate", "list", "--issuer", "nope"])["code"], "not_found");
    for issuer in ["issuing-1", "root-1"] {
        assert!(!site.json(&["certificate", "list", "--issuer", issuer]).as_array().unwrap().is_empty());
    }
    for list in ["certificate", "account", "order"] {
        assert_eq!(site.error(&[list, "list", "--limit", "0"])["code"], "usage");
    }
}

#[test]
fn exports_are_pem() {
    let site = Site::new();
    let (_server, _) = site.up();
    let roots = site.run(&["root", "export"]);
    assert_eq!(roots.stdout, std::fs::read(site.data().join("roots.pem")).unwrap());
    let listener = shapes(&site);
    let out = site.directory.path().join("chain.pem");
    let id = field(&listener, "id");
    let output = site.run(&["certificate", "export", &id, "--chain", "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(out).unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(site.json(&["certificate", "export", &id])["id"], listener["id"]);
}

#[test]
fn the_admin_socket_bounds_what_it_reads() {
    let site = Site::new();
    let (_server, _) = site.up();
    let mut stream = UnixStream::connect(site.data().join("run/admin.sock")).unwrap();
    stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the connection is closed");
    // What is no request is answered.
    let mut stream = UnixStream::connect(site.data().join("run/admin.sock")).unwrap();
    stream.write_all(&2u32.to_be_bytes()).unwrap();
    stream.write_all(b"{}").unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut answer).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["failed"]["code"], "usage", "{answer}");
}

#[test]
fn doctor_finds_a_healthy_ca_healthy_and_a_broken_one_broken() {
    let site = Site::new();
    let (mut server, _) = site.up();
    let failed = |checks: &Value| -> Vec<String> {
        let bad = checks.as_array().unwrap().iter().filter(|check| check["status"] == "FAIL");
        bad.map(|check| field(check, "id")).collect()
    };
    let checks = site.json(&["doctor"]);
    assert_eq!(failed(&checks), Vec::<String>::new(), "{checks}");
    for check in [
        "configuration",
        "permissions",
        "server",
        "store",
        "clock",
        "disk",
        "crls",
        "keys",
        "urls",
        "ports",
        "ready",
    ] {
        assert!(checks.as_array().unwrap().iter().any(|row| row["id"] == check), "{check} is missing");
    }
    server.stop();

    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(site.data().join("passphrase"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = site.run(&["doctor", "--json"]);
    assert!(!output.status.success());
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(failed(&checks).contains(&"permissions".to_owned()), "{checks}");
    let human = text(&site.run(&["doctor"]).stdout);
    assert!(human.contains("fix: chmod 0600"), "{human}");
}

#[test]
fn doctor_names_what_is_open_and_makes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    site.json(&["init", "--trial", "--public-url", "https://ca.example.org"]);
    let doctor = || -> Vec<Value> {
        let output = site.run(&["doctor", "--json"]);
        let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        checks.into_iter().filter(|check| check["status"] == "FAIL").collect()
    };
    let of = |checks: &[Value], id: &str| -> Vec<String> {
        checks.iter().filter(|check| check["id"] == id).map(|check| field(check, "detail")).collect()
    };
    assert_eq!(of(&doctor(), "permissions"), Vec::<String>::new());
    let keys = std::fs::read_dir(site.data().join("keys")).unwrap().map(|file| file.unwrap().path());
    let key = keys.into_iter().find(|path| path.extension().is_some_and(|e| e == "key")).unwrap();
    for (path, open, closed) in [
        (site.data(), 0o770, 0o700),
        (site.data(), 0o701, 0o700),
        (site.data().join("run"), 0o702, 0o700),
        (key, 0o640, 0o600),
        // The last: the files that SQLite makes beside it take its mode.
        (site.data().join("store.db"), 0o604, 0o600),
    ] {
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(open);
        let said = of(&doctor(), "permissions");
        assert!(said.len() == 1 && said[0].contains(path.to_str().unwrap()), "{path:?}: {said:?}");
        set(closed);
    }
    // Without its keys and its lock: neither is made anew.
    for gone in ["keys", "ca.lock"] {
        std::fs::rename(site.data().join(gone), site.directory.path().join(gone)).unwrap();
    }
    assert!(of(&doctor(), "keys")[0].contains("missing"));
    assert!(!site.data().join("keys").exists() && !site.data().join("ca.lock").exists());
}

#[test]
fn roots_and_issuing_cas_are_created_with_a_server_and_without() {
    let site = Site::new();
    let (mut server, _) = site.up();
    let issuing = site.json(&["issuer", "create", "--key-algorithm", "ec-p384"]);
    assert_eq!((&issuing["id"], &issuing["parent"]), (&"issuing-2".into(), &"root-1".into()));
    assert_eq!(issuing["crls"].as_array().unwrap().len(), 16);
    let subject = field(&site.json(&["issuer", "show", "issuing-1"]), "subject");
    let organisation = subject.split_once("O=").unwrap().1;
    assert!(field(&issuing, "subject").ends_with(&format!("O={organisation}")), "{issuing} {subject}");
    let root = site.json(&["root", "create", "--name", "Second Ltd"]);
    assert_eq!((&root["id"], &root["trial"]), (&"root-2".into(), &true.into()));
    let roots = std::fs::read_to_string(site.data().join("roots.pem")).unwrap();
    assert_eq!(roots, field(&root, "pem") + &field(&site.json(&["root", "show", "root-1"]), "pem"));
    server.stop();

    let below = site.json(&["issuer", "create", "--root", "root-2"]);
    assert_eq!((&below["id"], &below["parent"]), (&"issuing-3".into(), &"root-2".into()));
    let error = site.error(&["issuer", "create", "--root", "root-9"]);
    assert_eq!(error["code"], "not_found");
    let error = site.error(&["root", "create", "--signature-algorithm", "rsa-pss-sha256"]);
    assert_eq!(error["code"], "usage");
    let error = site.error(&["root", "create", "--name", &"x".repeat(60)]);
    assert_eq!(error["code"], "usage");
    assert_eq!(site.json(&["issuer", "list"])[0]["id"], "issuing-3", "active and newest first");
}
