//! What a running CA stands on in its data directory is removed by somebody who tidies up.

use std::fs;
use std::time::Duration;

use ca_core::time::Stopwatch;

use crate::harness::{Server, Site, field};

/// Waits until it is so, at most 20 s.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let clock = Stopwatch::start();
    while !is_so() {
        assert!(clock.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

/// What it logs at level ERROR until it is asked to stop.
fn errors(mut server: Server) -> Vec<String> {
    assert!(server.stop().success());
    server.log().lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect()
}

#[test]
fn sockets_that_are_removed_are_bound_again() {
    let site = Site::new();
    let (server, _) = site.up();
    let run = site.data().join("run");
    fs::remove_dir_all(&run).unwrap();
    until("the sockets are not there again", || {
        run.join("store.sock").exists() && run.join("admin.sock").exists()
    });
    assert_eq!(site.json(&["issuer", "list"])[0]["id"], "issuing-1");
    assert_eq!(site.ready_report("metrics")["ready"], true);
    let errors = errors(server);
    for socket in ["store.sock", "admin.sock"] {
        let told = errors.iter().filter(|line| line.contains(socket) && line.contains("bound again"));
        assert_eq!(told.count(), 1, "{errors:?}");
    }
}

#[test]
fn a_lock_that_is_removed_is_taken_again() {
    let site = Site::new();
    let (server, _) = site.up();
    let lock = site.data().join("ca.lock");
    fs::remove_file(&lock).unwrap();
    until("the lock is not there again", || lock.exists());
    // A second server is refused as before.
    until("the second is not refused", || field(&site.error(&["serve"]), "code") == "locked");
    assert_eq!(site.ready_report("metrics")["ready"], true);
    assert!(errors(server).iter().any(|line| line.contains("ca.lock") && line.contains("removed")));
}

#[test]
fn a_lock_that_another_file_replaces_makes_the_ca_unready() {
    let site = Site::new();
    let (server, _) = site.up();
    let lock = site.data().join("ca.lock");
    let other = site.data().join("other");
    fs::write(&other, "").unwrap();
    fs::rename(&other, &lock).unwrap();
    until("it is still ready", || {
        let report = site.ready_report("metrics");
        let missing = report["roles"]["ca"]["missing"].as_str().unwrap_or_default().to_owned();
        missing.contains("ca.lock") && missing.contains("chancery doctor")
    });
    assert!(errors(server).iter().any(|line| line.contains("ca.lock")));
}
