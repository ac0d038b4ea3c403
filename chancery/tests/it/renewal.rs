//! `chancery renewal`: wishes that certificates be renewed sooner, with a server and without one.

use serde_json::{Value, json};

use crate::harness::{Site, field, text};

#[test]
fn wishes_are_made_listed_and_removed_with_a_server_and_without() {
    let site = Site::new();
    let (mut server, _) = site.up();
    let listener = site.json(&["certificate", "list", "--name", "localhost"])[0].clone();
    let serial = field(&listener, "serial");
    let one = site.json(&[
        "renewal",
        "pull",
        "--certificate",
        &serial,
        "--start",
        "2027-01-01T00:00:00Z",
        "--end",
        "2027-01-01T06:00:00Z",
        "--explanation-url",
        "https://ca.example.org/why",
    ]);
    assert_eq!(one["certificate"], listener["id"], "by its serial");
    assert_eq!(
        (&one["start"], &one["end"]),
        (&"2027-01-01T00:00:00Z".into(), &"2027-01-01T06:00:00Z".into())
    );
    assert_eq!(one["explanation_url"], "https://ca.example.org/why");
    server.stop();

    let two = site.json(&["renewal", "pull", "--issuer", "issuing-1"]);
    assert_eq!((&two["issuer"], &two["explanation_url"]), (&"issuing-1".into(), &Value::Null));
    let three = site.json(&["renewal", "pull", "--profile", "tls-server"]);
    assert_eq!(three["scope"], "profile tls-server");
    assert_eq!(site.json(&["renewal", "list"]), json!([three, two, one]));
    let table = text(&site.run(&["renewal", "list"]).stdout);
    assert!(table.contains("issuer issuing-1") && table.contains("ISSUED BEFORE"), "{table}");

    let (_server, _) = site.up();
    assert_eq!(site.json(&["renewal", "list"]), json!([three, two, one]));
    for pull in [&one, &two, &three] {
        assert_eq!(site.json(&["renewal", "remove", &field(pull, "id")])["id"], pull["id"]);
    }
    assert_eq!(site.json(&["renewal", "list"]), json!([]));
    let gone = site.error(&["renewal", "remove", &field(&one, "id")]);
    assert_eq!(gone["code"], "not_found");
}

#[test]
fn what_names_nothing_is_refused() {
    let site = Site::new();
    let (_server, _) = site.up();
    for (arguments, code) in [
        (&["renewal", "pull", "--issuer", "issuing-7"][..], "not_found"),
        (&["renewal", "pull", "--certificate", "0a1b2c"], "not_found"),
        (&["renewal", "pull", "--account", "06pk6og0u8b4f8t2v1q3c9d5ro"], "not_found"),
        (&["renewal", "pull", "--profile", "Not A Name"], "usage"),
        (&["renewal", "pull"], "usage"),
        (&["renewal", "pull", "--issuer", "issuing-1", "--profile", "tls-server"], "usage"),
        (&["renewal", "pull", "--issuer", "issuing-1", "--start", "tomorrow"], "usage"),
        (&["renewal", "pull", "--issuer", "issuing-1", "--end", "2020-01-01T00:00:00Z"], "usage"),
        (&["renewal", "pull", "--issuer", "issuing-1", "--explanation-url", "because"], "usage"),
    ] {
        let error = site.error(arguments);
        assert_eq!(error["code"], code, "{arguments:?}: {error}");
    }
    assert_eq!(site.json(&["renewal", "list"]), json!([]));
}
