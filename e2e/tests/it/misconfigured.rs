//! What an operator can get wrong before the program serves: each ends at once, with what is wrong and what to do. A
//! token that is away or hangs is no mistake, and stops signing only.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::eventually;
use e2e::http;
use e2e::program::{Finished, command, succeed, system_tool};
use e2e::softhsm::{MODULE, Token};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::geteuid;
use serde_json::Value;

/// The one error that a failed command prints in JSON.
struct Refusal {
    code: String,
    detail: String,
    fix: String,
}

impl Refusal {
    fn of(finished: &Finished) -> Self {
        assert!(finished.stdout.is_empty() && !finished.stderr.contains("panicked"), "{finished}");
        let line = finished.stderr.lines().last().unwrap();
        let document: Value = serde_json::from_str(line).unwrap();
        let text = |field: &str| document["error"][field].as_str().unwrap().to_owned();
        let refusal = Self { code: text("code"), detail: text("detail"), fix: text("fix") };
        assert!(!refusal.fix.is_empty());
        // A wrong PIN ends with a status of its own, so that no service manager tries it again.
        let status = if refusal.code == "pin" { 3 } else { 1 };
        assert_eq!(finished.status.code(), Some(status), "{finished}");
        refusal
    }

    fn expect(&self, code: &str, details: &[&str]) {
        assert_eq!(self.code, code, "{}", self.detail);
        for detail in details {
            let said = format!("{}\n{}", self.detail, self.fix);
            assert!(said.contains(detail), "{detail:?} is not in: {said}");
        }
    }
}

fn up(chancery: &Chancery) -> Refusal {
    Refusal::of(&chancery.cli_finished(&["up", "--json"]).unwrap())
}

#[test]
fn wrong_configuration_is_named_with_what_to_write_instead() {
    let mut chancery = Chancery::start(&Settings::with(Keys::Software)).unwrap();
    chancery.stop().unwrap();
    for (variable, value, details) in [
        ("CHANCERY__ACME__HTTP01_PROT", "5002", ["http01_prot", "http01_port"]),
        ("CHANCERY__ACMEE__HTTP01_PORT", "5002", ["acmee", "acme"]),
        ("CHANCERY__ACME__HTTP01_PORT", "eighty", ["CHANCERY__ACME__HTTP01_PORT", "http01_port"]),
        ("CHANCERY__ACME__PUBLIC_URL", "ca.example.org", ["acme.public_url", "https://"]),
        ("CHANCERY__PKI__OCSP_URL", "https://ca.example.org", ["pki.ocsp_url", "http://HOST:PORT"]),
        ("CHANCERY__ACME__DNS_SERVERS", "[\"resolver\"]", ["acme.dns_servers", "resolver"]),
        ("CHANCERY__ACME__VALIDATION__DENY_NETWORKS", "[\"10.0.0.0/33\"]", ["deny_networks", "10.0.0.0/33"]),
        (
            "CHANCERY__ACME__CHALLENGES",
            "[\"device-attest-01\"]",
            ["acme.attestation", "[acme.attestation.tpm]"],
        ),
        (
            "CHANCERY__ACME__ATTESTATION__TPM__ROOTS",
            "no.pem",
            ["acme.attestation.tpm.roots", "no.pem: No such file"],
        ),
        (
            "CHANCERY__ACME__ATTESTATION__TPM__ROOTS",
            "chancery.toml",
            ["acme.attestation.tpm.roots", "there is no certificate in PEM"],
        ),
        ("CHANCERY__PROFILES__TLS_SERVER__VALIDITY_DAYS", "0", ["tls-server", "validity"]),
    ] {
        chancery.set(variable, value);
        let refusal = up(&chancery);
        refusal.expect("configuration", &details);
        chancery.unset(variable);
    }

    let file = chancery.data().join("chancery.toml");
    let right = fs::read_to_string(&file).unwrap();
    for (wrong, details) in [
        (right.replace("wildcards = true", "wildcrads = true"), ["wildcrads", "wildcards"]),
        (right.replace("[pki]", "[pki"), ["chancery.toml", "line"]),
        (right.replace("wildcards = true", "wildcards = 3"), ["wildcards", "line"]),
    ] {
        assert_ne!(wrong, right);
        fs::write(&file, wrong).unwrap();
        up(&chancery).expect("configuration", &details);
    }
    fs::write(&file, right).unwrap();
    chancery.restart().unwrap();
}

#[test]
fn a_data_directory_that_can_t_be_used_is_named() {
    let chancery = Chancery::prepare(&Settings::with(Keys::Software)).unwrap();
    let data = chancery.data();
    fs::create_dir(&data).unwrap();
    // Somebody else's files are not ours to write among.
    fs::write(data.join("holiday.jpg"), "x").unwrap();
    up(&chancery).expect("data_directory", &[data.to_str().unwrap(), "not empty"]);
    fs::remove_file(data.join("holiday.jpg")).unwrap();

    // Modes don't stop root, a read-only file system does.
    let mount = geteuid().is_root().then(|| Mount::tmpfs(&data, "ro"));
    let parent = data.parent().unwrap();
    if mount.is_none() {
        fs::remove_dir(&data).unwrap();
        fs::set_permissions(parent, Permissions::from_mode(0o555)).unwrap();
    }
    let refusal = up(&chancery);
    if mount.is_none() {
        fs::set_permissions(parent, Permissions::from_mode(0o700)).unwrap();
    }
    refusal.expect("data_directory", &[data.to_str().unwrap()]);
    assert!(
        ["Permission denied", "Read-only"].iter().any(|cause| refusal.detail.contains(cause)),
        "{}",
        refusal.detail
    );
}

#[test]
fn a_port_in_use_and_a_data_directory_in_use_are_told_apart() {
    let mut chancery = Chancery::start(&Settings::with(Keys::Software)).unwrap();
    let process = chancery.process_id().unwrap().to_string();
    // The running server's data: its lock is asked for before its ports.
    up(&chancery).expect("locked", &[chancery.data().to_str().unwrap(), &process]);
    chancery.stop().unwrap();

    // The test holds the sockets that the program was given: without them they are in use.
    let port = chancery.addresses().unwrap()[0].port().to_string();
    up(&chancery).expect("address", &["in use", &port, "listen.acme", "CHANCERY__LISTEN__ACME"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    chancery.set("CHANCERY__LISTEN__ACME", &free);
    up(&chancery).expect("address", &["in use", "listen.pki"]);
}

#[test]
fn a_wrong_pin_and_a_missing_token_are_named_and_do_no_harm() {
    let mut chancery = Chancery::prepare(&Settings::with(Keys::SoftHsm)).unwrap();
    let (pin_file, tokens) = {
        let token = chancery.token().unwrap();
        (token.pin_file(), token.tokens())
    };
    let up = |chancery: &Chancery, module: &str, label: &str| {
        let pin = pin_file.to_str().unwrap();
        let arguments = ["up", "--key-backend", "pkcs11", "--pkcs11-module", module, "--pkcs11-token", label];
        let arguments = [arguments.as_slice(), &["--pkcs11-pin-file", pin, "--json"]].concat();
        Refusal::of(&chancery.cli_finished(&arguments).unwrap())
    };
    let wrong = "0000000";
    for _ in 0..2 {
        // Also a second time, over what the first attempt left.
        fs::write(&pin_file, wrong).unwrap();
        let refusal = up(&chancery, MODULE, Token::LABEL);
        refusal.expect("pin", &["PIN"]);
        assert!(!refusal.detail.contains(wrong) && !refusal.fix.contains(wrong), "a PIN is a secret");
        fs::write(&pin_file, Token::PIN).unwrap();
        let away = tokens.with_file_name("away");
        fs::rename(&tokens, &away).unwrap();
        fs::create_dir(&tokens).unwrap();
        up(&chancery, MODULE, Token::LABEL).expect("keys", &[Token::LABEL]);
        fs::remove_dir(&tokens).unwrap();
        fs::rename(&away, &tokens).unwrap();
    }
    fs::write(&pin_file, "").unwrap();
    up(&chancery, MODULE, Token::LABEL).expect("keys", &[pin_file.to_str().unwrap()]);
    fs::remove_file(&pin_file).unwrap();
    up(&chancery, MODULE, Token::LABEL).expect("keys", &[pin_file.to_str().unwrap()]);

    // The token is not locked, and what was begun is finished.
    write_secret(&pin_file, Token::PIN);
    chancery.restart().unwrap();
    let root = chancery.ready().unwrap().root_sha256.clone();
    chancery.stop().unwrap();
    fs::write(&pin_file, wrong).unwrap();
    let error = chancery.restart().unwrap_err().to_string();
    assert!(error.contains("\"code\":\"pin\"") && error.contains("PIN"), "{error}");
    fs::write(&pin_file, Token::PIN).unwrap();
    chancery.restart().unwrap();
    assert_eq!(chancery.ready().unwrap().root_sha256, root);
    chancery.stop().unwrap();

    // A module that is none, for a CA that is to be made elsewhere.
    let other = Chancery::prepare(&Settings::with(Keys::Software)).unwrap();
    up(&other, "/nonexistent/module.so", Token::LABEL).expect("keys", &["/nonexistent/module.so"]);
}

/// Waits until `/readyz` tells of what is wanted.
fn until_readyz(chancery: &Chancery, wanted: impl Fn(&Value) -> bool) {
    let url = format!("{}/readyz", chancery.metrics_url().unwrap());
    let found = eventually("/readyz to tell of it", Duration::from_secs(30), || {
        let response = http::get(&url)?;
        let report: Value = serde_json::from_slice(&response.body)?;
        assert_eq!(response.status == 200, report["ready"] == true, "{report}");
        if wanted(&report) { Ok(Some(())) } else { bail!("it says: {report}") }
    });
    found.map_err(|error| format!("{error:#}\n{}", chancery.log())).unwrap();
}

fn ca_lacks(report: &Value, text: &str) -> bool {
    report["roles"]["ca"]["missing"].as_str().is_some_and(|lacks| lacks.contains(text))
}

#[test]
fn a_token_that_is_away_at_the_start_stops_signing_only_and_is_used_when_it_comes() {
    let mut chancery = Chancery::start(&Settings::with(Keys::SoftHsm)).unwrap();
    chancery.stop().unwrap();
    let (pin_file, tokens) = {
        let token = chancery.token().unwrap();
        (token.pin_file(), token.tokens())
    };
    let token = fs::read_dir(&tokens).unwrap().next().unwrap().unwrap().path();
    let away = tokens.with_file_name("away");
    fs::rename(&token, &away).unwrap();
    chancery.launch().unwrap();
    // Everything else is there: the other roles, the sockets of administrators and of other processes.
    until_readyz(&chancery, |report| {
        let others = ["acme", "ocsp", "crl"].map(|role| report["roles"][role]["ready"] == true);
        ca_lacks(report, Token::LABEL) && others == [true; 3]
    });
    let crl = format!("{}/crl/issuing-1/0.crl", chancery.pki_url().unwrap());
    assert_eq!(http::get(&crl).unwrap().status, 200);
    assert!(chancery.data().join("run/store.sock").exists());
    assert_eq!(chancery.cli(&["issuer", "list"]).unwrap()[0]["id"], "issuing-1");
    fs::rename(&away, &token).unwrap();
    until_readyz(&chancery, |report| report["ready"] == true);
    chancery.stop().unwrap();

    // Stopping does not wait for it.
    fs::rename(&token, &away).unwrap();
    chancery.launch().unwrap();
    until_readyz(&chancery, |report| ca_lacks(report, Token::LABEL));
    chancery.stop().unwrap();

    // A PIN that turns out to be wrong when the token comes is said, and not tried again.
    fs::write(&pin_file, "0000000").unwrap();
    chancery.launch().unwrap();
    until_readyz(&chancery, |report| ca_lacks(report, Token::LABEL));
    fs::rename(&away, &token).unwrap();
    until_readyz(&chancery, |report| ca_lacks(report, "CKR_PIN_INCORRECT"));
    chancery.stop().unwrap();
    let said = chancery.log();
    assert_eq!(said.matches("the token refused the PIN").count(), 1, "{said}");
    assert!(!said.contains("0000000"), "a PIN is a secret");
    fs::write(&pin_file, Token::PIN).unwrap();
    chancery.restart().unwrap();
}

#[test]
fn a_token_that_hangs_does_not_keep_the_process_from_ending() {
    let mut chancery = Chancery::start(&Settings::with(Keys::SoftHsm)).unwrap();
    let token = fs::read_dir(chancery.token().unwrap().tokens()).unwrap().next().unwrap().unwrap().path();
    // The module waits for these locks within its calls, for ever.
    let mut locked = Vec::new();
    for file in fs::read_dir(&token).unwrap() {
        let file = OpenOptions::new().read(true).write(true).open(file.unwrap().path()).unwrap();
        let whole = libc::flock {
            l_type: libc::F_WRLCK.try_into().unwrap(),
            l_whence: libc::SEEK_SET.try_into().unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&whole)).unwrap();
        locked.push(file);
    }
    until_readyz(&chancery, |report| ca_lacks(report, "took too long"));
    // A request that waits for a signature, taken before the one that is answered after it.
    let [.., metrics] = chancery.addresses().unwrap();
    let mut asking = TcpStream::connect(metrics).unwrap();
    write!(asking, "GET /readyz HTTP/1.1\r\nHost: {metrics}\r\n\r\n").unwrap();
    assert_eq!(http::get(&format!("http://{metrics}/healthz")).unwrap().status, 200);
    chancery.stop().unwrap();
}

#[test]
fn an_init_for_service_admits_nothing_until_it_is_told_what() {
    let chancery = Chancery::prepare(&Settings::with(Keys::Software)).unwrap();
    let finished = chancery.cli_finished(&["init", "--json"]).unwrap();
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("--public-url"), "{finished}");
    let made = chancery.cli(&["init", "--public-url", "https://ca.example.org:8443"]).unwrap();
    assert_eq!(made["trial"], false);
    let written = fs::read_to_string(chancery.data().join("chancery.toml")).unwrap();
    for line in ["allowed_names = []", "external_account_required = true", "wildcards = false"] {
        assert!(written.contains(line), "{written}");
    }
    let again =
        chancery.cli_finished(&["init", "--public-url", "https://ca.example.org:8443", "--json"]).unwrap();
    Refusal::of(&again).expect("already_initialised", &[chancery.data().to_str().unwrap(), "serve"]);
    // No command is answered with silence or a panic when there is nothing to answer from.
    let empty = Chancery::prepare(&Settings::with(Keys::Software)).unwrap();
    for arguments in
        [["certificate", "list", "--json"], ["root", "list", "--json"], ["serve", "--json", "--only=ocsp"]]
    {
        let finished = empty.cli_finished(&arguments).unwrap();
        Refusal::of(&finished).expect("not_initialised", &["chancery up", "chancery init"]);
    }
}

/// A file system that goes away with this value.
pub struct Mount(PathBuf);

impl Mount {
    /// An empty one in memory; needs root.
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        let mut mount = command(system_tool("mount").unwrap());
        succeed(mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(at)).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that the test did not end yet may still hold files.
        let mut umount: Command = command(system_tool("umount").unwrap());
        succeed(umount.arg("--lazy").arg(&self.0)).unwrap();
    }
}

fn write_secret(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}
