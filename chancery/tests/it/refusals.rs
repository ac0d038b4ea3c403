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
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
    let log = server.log();
    assert!(log.contains(r#"{"error":{"code":"keys""#) && log.contains("passphrase"), "{log}");
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
    let error = up("/nonexistent/module.so", &path(&pin));
    assert_eq!(error["code"], "keys");
    assert!(field(&error, "detail").contains("/nonexistent/module.so"), "{error}");
    // The interrupted attempt is taken up again with what it wrote down.
    let error = site.error(&["up"]);
    assert!(field(&error, "detail").contains("/nonexistent/module.so"), "{error}");
}

#[test]
fn pkcs11_options_are_asked_for_together() {
    let site = Site::new();
    let error = site.error(&["up", "--key-backend", "pkcs11"]);
    assert_eq!(error["code"], "usage");
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
