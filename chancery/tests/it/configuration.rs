//! `chancery.toml` and the variables over it.

use std::fs;

use crate::harness::{Site, error_of, field, path};

/// A site with this configuration, which nobody initialised.
fn site(text: &str) -> Site {
    let site = Site::new();
    fs::create_dir(site.data()).unwrap();
    fs::write(site.data().join("chancery.toml"), text).unwrap();
    site
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_nearest_key() {
    let site = site("# a comment\n[acme]\nhttp1_port = 80\n");
    let error = site.error(&["serve"]);
    assert_eq!(error["code"], "configuration");
    let file = path(&site.data().join("chancery.toml"));
    assert_eq!(field(&error, "detail"), format!("{file}, line 3: unknown key 'acme.http1_port'"));
    assert_eq!(field(&error, "fix"), "did you mean 'acme.http01_port'?");
}

#[test]
fn an_unknown_key_in_the_environment_is_named_with_its_variable() {
    let mut site = site("");
    site.set("CHANCERY__OCSP__RESPONSE_VALIDITY", "60");
    let error = site.error(&["serve"]);
    assert_eq!(
        field(&error, "detail"),
        "environment variable CHANCERY__OCSP__RESPONSE_VALIDITY: unknown key 'ocsp.response_validity'"
    );
    assert_eq!(field(&error, "fix"), "did you mean 'ocsp.response_validity_seconds'?");
}

#[test]
fn every_section_refuses_what_it_does_not_know() {
    let sections = [
        "listen",
        "acme",
        "acme.validation",
        "acme.directories.a",
        "pki",
        "keys",
        "store",
        "ca",
        "ocsp",
        "crl",
        "log",
    ];
    for section in sections {
        let error = site(&format!("[{section}]\nnonsense = 1\n")).error(&["serve"]);
        assert!(
            field(&error, "detail").contains(&format!("line 2: unknown key '{section}.nonsense'")),
            "{error}"
        );
    }
    let error = site("[profiles.tls-server]\nusage = \"tls-server\"\nnonsense = 1\n").error(&["serve"]);
    assert!(
        field(&error, "detail").contains("line 3: unknown key 'profiles.tls-server.nonsense'"),
        "{error}"
    );
    let error = site("[lsten]\nacme = 1\n").error(&["serve"]);
    assert!(field(&error, "detail").contains("line 1: unknown key 'lsten'"), "{error}");
    assert_eq!(field(&error, "fix"), "did you mean 'listen'?");
}

#[test]
fn wrong_values_are_named_with_their_key() {
    for (text, said) in [
        ("[acme]\nhttp01_port = \"eighty\"\n", "line 2: acme.http01_port"),
        ("[acme]\nhttp01_port = 70000\n", "line 2: acme.http01_port"),
        ("[listen]\npki = \"8080\"\n", "line 2: listen.pki"),
        ("[keys]\nbackend = \"hsm\"\n", "line 2: keys.backend can't be 'hsm'"),
        ("[acme\n", "line 1"),
        ("[acme]\nallowed_names = [\"*\", \"a.example\"]\n", "acme.allowed_names"),
        ("[acme]\nprofiles = [\"tls-sever\"]\n", "'tls-sever'"),
        ("[pki]\npublic_url = \"https://pki.example.org\"\n", "pki.public_url"),
        ("[pki]\ncrl_url = \"crl.example.org\"\n", "pki.crl_url"),
        (
            "[profiles.tls-server]\nusage = \"tls-server\"\nvalidity_days = 0\n",
            "profiles.tls-server.validity_days",
        ),
        ("[profiles.tls-server]\nvalidity_days = 9\n", "usage is not set"),
    ] {
        let mut site = site(text);
        // Overrides of the tests' own would hide the file's values.
        site.environment.clear();
        let error = site.error(&["serve"]);
        assert_eq!(error["code"], "configuration", "{text}: {error}");
        assert!(field(&error, "detail").contains(said), "{text}: {error}");
    }
}

#[test]
fn a_variable_overrides_the_file() {
    let mut site = site("[acme]\nhttp01_port = 80\n");
    site.environment.clear();
    site.set("CHANCERY__ACME__HTTP01_PORT", "0");
    assert!(field(&site.error(&["serve"]), "detail").contains("acme.http01_port"));
}

#[test]
fn a_directory_without_a_ca_is_told_from_a_broken_one() {
    let site = Site::new();
    for command in [&["serve"][..], &["certificate", "list"], &["root", "list"]] {
        let error = site.error(command);
        assert_eq!(error["code"], "not_initialised");
        assert!(field(&error, "fix").contains("chancery up"), "{error}");
    }
    // doctor reports it as a failed check.
    let output = site.run(&["doctor", "--json"]);
    assert!(!output.status.success());
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&checks[0]["id"], &checks[0]["status"]), (&"configuration".into(), &"FAIL".into()));
}

#[test]
fn init_writes_the_sample_and_never_again() {
    let site = Site::new();
    let init = ["init", "--public-url", "https://ca.example.org:8443"];
    let mut command = crate::harness::binary();
    let output = command.arg("--data").arg(site.data()).args(init).output().unwrap();
    assert!(output.status.success(), "{}", crate::harness::text(&output.stderr));
    let written = fs::read_to_string(site.data().join("chancery.toml")).unwrap();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/chancery.toml");
    assert_eq!(written, fs::read_to_string(sample).unwrap(), "deploy/chancery.toml is what `init` writes");

    fs::write(site.data().join("chancery.toml"), format!("{written}# mine\n")).unwrap();
    let output =
        crate::harness::binary().arg("--data").arg(site.data()).args(init).arg("--json").output().unwrap();
    assert_eq!(error_of(&output)["code"], "already_initialised");
    assert!(fs::read_to_string(site.data().join("chancery.toml")).unwrap().ends_with("# mine\n"));
}

#[test]
fn init_refuses_urls_that_are_none_before_it_writes_anything_but_the_directory() {
    let site = Site::new();
    for url in ["ca.example.org", "ftp://ca.example.org", "https://"] {
        let mut command = crate::harness::binary();
        let output = command
            .arg("--data")
            .arg(site.data())
            .args(["init", "--json", "--public-url", url])
            .output()
            .unwrap();
        error_of(&output);
        assert!(!site.data().join("chancery.toml").exists(), "{url}");
    }
}
