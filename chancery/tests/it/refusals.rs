//! What keeps the program from starting is said in one message, with what to do.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::harness::{Site, binary, error_of, field, is_root, path, public_copy, text};

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let site = Site::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = site.command(&["up", "--json"]);
    let error = error_of(
        &command
            .env("CHANCERY__LISTEN__METRICS", &address)
            .env("CHANCERY__LISTEN__ACME", "127.0.0.1:0")
            .env("CHANCERY__LISTEN__PKI", "127.0.0.1:0")
            .output()
            .unwrap(),
    );
    assert_eq!(error["code"], "address");
    assert!(field(&error, "detail").contains("listen.metrics"), "{error}");
    assert!(field(&error, "detail").contains(&taken.local_addr().unwrap().port().to_string()), "{error}");
    assert!(field(&error, "fix").contains("CHANCERY__LISTEN__METRICS"), "{error}");
}

#[test]
fn an_address_of_another_machine_is_named() {
    let site = Site::new();
    let mut command = site.command(&["up", "--json"]);
    let error = error_of(&command.env("CHANCERY__LISTEN__ACME", "192.0.2.1:8443").output().unwrap());
    assert_eq!(error["code"], "address");
    assert!(field(&error, "detail").contains("192.0.2.1"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_its_user() {
    let place = tempfile::tempdir().unwrap();
    let program = public_copy(place.path());
    let locked = place.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    for data in [locked.clone(), locked.join("below")] {
        let mut command = std::process::Command::new(&program);
        command.env_clear().arg("--data").arg(&data).args(["up", "--json"]);
        if is_root() {
            // Modes mean nothing to root.
            command.uid(65534).gid(65534);
        }
        let error = error_of(&command.output().unwrap());
        assert_eq!(error["code"], "data_directory", "{error}");
        assert!(field(&error, "detail").contains(&path(&locked)), "{error}");
    }
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    let site = Site::new();
    fs::write(site.data(), "").unwrap();
    assert_eq!(site.error(&["up"])["code"], "data_directory");
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    let site = Site::new();
    fs::create_dir(site.data()).unwrap();
    fs::write(site.data().join("thesis.txt"), "mine").unwrap();
    let error = site.error(&["up"]);
    assert_eq!(error["code"], "data_directory");
    assert_eq!(fs::read_dir(site.data()).unwrap().count(), 1);
}

#[test]
fn a_second_server_names_the_first_ones_process() {
    let site = Site::new();
    let (mut server, _) = site.up();
    for command in ["serve", "up"] {
        let error = site.error(&[command]);
        assert_eq!(error["code"], "locked");
        assert!(field(&error, "detail").contains(&format!("process {}", server.child.id())), "{error}");
    }
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_wrong_passphrase_is_said_and_nothing_is_changed() {
    let site = Site::new();
    let (mut server, _) = site.up();
    server.stop();
    fs::write(site.data().join("passphrase"), "another\n").unwrap();
    let sockets = [("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")];
    let mut server = site.start(&["serve", "--json"], &sockets);
    assert_eq!(
        server.child.wait().unwrap().code(),
        Some(3),
        "a status of its own, so that no service manager tries it again"
    );
    let log = server.log();
    assert!(log.contains(r#"{"error":{"code":"pin""#) && log.contains("passphrase"), "{log}");
}

#[test]
fn a_missing_module_or_pin_file_is_said_by_init() {
    let site = Site::new();
    let pin = site.directory.path().join("pin");
    fs::write(&pin, "1234").unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    let up = |module: &str, pin: &str| {
        site.error(&[
            "up",
            "--key-backend",
            "pkcs11",
            "--pkcs11-module",
            module,
            "--pkcs11-token",
            "t",
            "--pkcs11-pin-file",
            pin,
        ])
    };
    for (module, pin, named) in [
        ("/nonexistent/module.so", path(&pin), "/nonexistent/module.so"),
        ("/bin/sh", "/nonexistent/pin".to_owned(), "/nonexistent/pin"),
    ] {
        let error = up(module, &pin);
        assert_eq!(error["code"], "keys");
        assert!(field(&error, "detail").contains(named), "{error}");
        assert!(!site.data().exists(), "nothing is written before the options are checked");
    }
    // What is seen only when the module is loaded leaves no store, and the next attempt takes its own options.
    let error = up("/bin/sh", &path(&pin));
    assert_eq!(error["code"], "keys");
    assert!(site.data().join("chancery.toml").exists() && !site.data().join("store.db").exists());
    site.json(&["init", "--trial", "--public-url", "https://ca.example.org:8443"]);
    let written = fs::read_to_string(site.data().join("chancery.toml")).unwrap();
    assert!(written.contains("https://ca.example.org:8443") && written.contains("\nbackend = \"software\""));
}

#[test]
fn a_half_made_ca_is_completed_with_the_same_options_only() {
    let site = Site::new();
    let init = |url: &'static str, name: &'static str| {
        ["init", "--trial", "--public-url", url, "--name", name, "--json"]
    };
    let (url, other) = ("https://ca.example.org:8443", "https://other.example.org:8443");
    assert!(site.run(&init(url, "Example")).status.success());
    // As if the power had gone before the last file.
    let roots = fs::read(site.data().join("roots.pem")).unwrap();
    fs::remove_file(site.data().join("roots.pem")).unwrap();
    for wrong in [init(other, "Example"), init(url, "Another")] {
        let error = error_of(&site.run(&wrong));
        assert_eq!(error["code"], "already_initialised");
        assert!(field(&error, "fix").contains("the same options"), "{error}");
        assert!(!site.data().join("roots.pem").exists());
    }
    assert!(site.run(&init(url, "Example")).status.success());
    assert_eq!(fs::read(site.data().join("roots.pem")).unwrap(), roots);
}

#[test]
fn an_edited_configuration_is_never_overwritten() {
    let site = Site::new();
    fs::create_dir(site.data()).unwrap();
    fs::write(site.data().join("chancery.toml"), "# mine\n").unwrap();
    let error = site.error(&["init", "--public-url", "https://ca.example.org:8443"]);
    assert_eq!(error["code"], "already_initialised");
    assert_eq!(fs::read_to_string(site.data().join("chancery.toml")).unwrap(), "# mine\n");
}

#[test]
fn a_name_that_does_not_fit_is_refused_before_anything_is_written() {
    let site = Site::new();
    let init = |name: &str| {
        site.run(&["init", "--trial", "--json", "--public-url", "https://ca.example.org", "--name", name])
    };
    for name in [&"a".repeat(45), "", "a\nb"] {
        assert_eq!(error_of(&init(name))["code"], "usage", "{name:?}");
        assert!(!site.data().exists());
    }
    // What an attempt leaves that ended early does not stand in the way, and the longest name fits.
    fs::create_dir_all(site.data().join("run")).unwrap();
    fs::write(site.data().join("ca.lock"), "1\n").unwrap();
    let made = init(&"a".repeat(44));
    assert!(made.status.success(), "{}", text(&made.stderr));
}

#[test]
fn a_lost_store_is_never_replaced_by_an_empty_one() {
    let site = Site::new();
    let (mut server, _) = site.up();
    server.stop();
    let store = site.data().join("store.db");
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        // Those beside the database may be gone already.
        let _ = fs::remove_file(site.data().join(file));
    }
    let refused = |said: &str| {
        for command in ["serve", "up"] {
            let sockets = [("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")];
            let mut server = site.start(&[command, "--json"], &sockets);
            assert_eq!(server.child.wait().unwrap().code(), Some(1));
            let log = server.log();
            assert!(log.contains(said) && log.contains("the store of this CA is gone"), "{log}");
        }
        let output = site.run(&["doctor", "--json"]);
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let check = checks.as_array().unwrap().iter().find(|check| check["id"] == "store").unwrap();
        assert_eq!(check["status"], "FAIL");
        assert!(field(check, "detail").contains(said) && field(check, "fix").contains("backup"), "{check}");
    };
    refused("is missing");
    assert!(!store.exists());
    fs::write(&store, "").unwrap();
    refused("is empty");
    assert_eq!(fs::metadata(&store).unwrap().len(), 0);
    fs::remove_file(&store).unwrap();
    drop(store::sqlite::Writer::open(&site.data(), store::sqlite::WriterOptions::default()).unwrap());
    refused("holds no CA");
}

#[test]
fn pkcs11_options_are_asked_for_together() {
    let site = Site::new();
    let error = site.error(&["up", "--key-backend", "pkcs11"]);
    assert_eq!(error["code"], "usage");
    for command in [&["up"][..], &["init", "--public-url", "https://ca.example.org"]] {
        for option in ["--pkcs11-module", "--pkcs11-token", "--pkcs11-pin-file"] {
            let error = site.error(&[command, &[option, "x"]].concat());
            assert_eq!(error["code"], "usage");
            assert!(field(&error, "detail").contains("--key-backend pkcs11"), "{error}");
            assert!(!site.data().exists());
        }
    }
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let site = Site::new();
    site.json(&["init", "--trial", "--public-url", "https://ca.example.org"]);
    for command in [&["root", "export"][..], &["issuer", "list", "--json"], &["completions", "bash"]] {
        let output = site.command(command).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(text(&output.stderr).contains("can't be written"), "{}", text(&output.stderr));
    }
    assert_eq!(binary().arg("--help").stdout(full()).status().unwrap().code(), Some(1));
    // A reader that left wants no more.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(site.command(&["root", "export"]).stdout(writer).status().unwrap().success());
}

#[test]
fn init_asks_for_the_public_url() {
    let output = binary().args(["init"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--public-url"));
}

#[test]
fn root_does_not_work_on_what_another_user_owns() {
    if !is_root() {
        // Only root can be refused for being root.
        return;
    }
    let site = Site::new();
    let (mut server, _) = site.up();
    server.stop();
    std::os::unix::fs::chown(site.data(), Some(65534), None).unwrap();
    for command in [&["serve"][..], &["up"], &["certificate", "list"]] {
        let error = site.error(command);
        assert_eq!(error["code"], "data_directory");
        assert!(field(&error, "fix").contains("sudo -u"), "{error}");
    }
}
