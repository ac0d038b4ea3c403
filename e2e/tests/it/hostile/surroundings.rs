//! Unlucky surroundings: a full disk, a clock that went back, a token that went away.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::acme::{self, csr};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::dns::Dns;
use e2e::eventually;
use e2e::judges::{CertIdHash, Status};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use serde_json::json;

use super::{Scene, expect_problem};
use crate::misconfigured::Mount;
use crate::verdicts::expect_revoked;

#[test]
fn on_a_full_disk_nothing_is_issued_and_what_was_issued_can_be_revoked() {
    let dns = Dns::start().unwrap();
    let mut chancery = Chancery::prepare(&Settings::with(Keys::Software).dns(dns.address())).unwrap();
    let data = chancery.data();
    fs::create_dir(&data).unwrap();
    let root = geteuid().is_root();
    let watermark: u64 = 8 << 20;
    chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &watermark.to_string());
    let mount = root.then(|| Mount::tmpfs(&data, "size=40m"));
    chancery.restart().unwrap();
    let mut scene = Scene::with(chancery, dns);
    // To go before the scene, whose directory can't be removed while something is mounted in it.
    let _mount = mount;
    let (first, first_der) = scene.issue("first.example.test");
    let (second, second_der) = scene.issue("second.example.test");
    let order = scene.ready_order("third.example.test");
    let (request, key) = csr(&["third.example.test"]).unwrap();

    // Above zero, below the watermark.
    let filler = data.join("filler");
    if root {
        fill(&filler, free(&data) - watermark / 2);
    } else {
        eprintln!("not root: no disk can be filled, so only the watermark is tried");
        scene.chancery.stop().unwrap();
        scene.chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &(1_u64 << 60).to_string());
        // It can't become ready, and is not waited for.
        scene.chancery.launch().unwrap();
    }
    // The store asks now and then how much room there is.
    let new_order = json!({ "identifiers": [{ "type": "dns", "value": "a.test" }] }).to_string();
    let response = eventually("no order to be taken", Duration::from_secs(20), || {
        let response = scene.client.post(&scene.resource("newOrder"), &new_order)?;
        Ok((response.status != 201).then_some(response))
    })
    .unwrap();
    expect_problem("newOrder on a full disk", &response, 503, "serverInternal");
    let url = order.body["finalize"].as_str().unwrap().to_owned();
    let payload = json!({ "csr": acme::base64url(&request) }).to_string();
    let response = scene.client.post(&url, &payload).unwrap();
    expect_problem("finalize on a full disk", &response, 503, "serverInternal");
    assert!(response.header("retry-after").is_some());
    // What was found out a moment ago may be said again.
    eventually("the server to say that its disk is full", Duration::from_secs(10), || {
        let (status, report) = scene.readiness();
        Ok((status == 503 && report.contains("full")).then_some(()))
    })
    .unwrap();
    scene.client.revoke(&first_der, 4).unwrap();
    expect_revoked(&first.case, "superseded");

    if root {
        // To the last byte: even revoking may fail now, but clearly; and OCSP goes on.
        fill(&data.join("rest"), u64::MAX);
        let payload = json!({ "certificate": acme::base64url(&second_der), "reason": 4 }).to_string();
        let response = scene.client.post(&scene.resource("revokeCert"), &payload).unwrap();
        assert!([200, 503].contains(&response.status), "{}", String::from_utf8_lossy(&response.body));
        assert_ne!(second.status(), Status::Unknown);
        fs::remove_file(data.join("rest")).unwrap();
        fs::remove_file(&filler).unwrap();
    } else {
        scene.chancery.stop().unwrap();
        scene.chancery.set("CHANCERY__STORE__MIN_FREE_BYTES", &watermark.to_string());
        scene.chancery.restart().unwrap();
    }
    // It goes on by itself.
    let response = eventually("finalize to be taken again", Duration::from_secs(20), || {
        let response = scene.client.post(&url, &payload)?;
        Ok((response.status == 200).then_some(response))
    });
    response.unwrap();
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    assert!(!scene.chancery.log().contains("panicked"));
}

#[test]
fn a_clock_behind_the_newest_row_stops_signing_and_not_revoking() {
    let mut scene = Scene::new(Settings::with(Keys::Software));
    let (first, der) = scene.issue("first.example.test");
    let order = scene.ready_order("second.example.test");
    let (request, key) = csr(&["second.example.test"]).unwrap();
    scene.chancery.stop().unwrap();

    let library = fake_clock();
    // Certificates are backdated by five minutes: those that the server has are valid at this time too.
    for (variable, value) in [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", "-3m"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ] {
        scene.chancery.set(variable, value);
    }
    scene.chancery.launch().unwrap();
    let report = eventually("the server to say that its clock is behind", Duration::from_secs(30), || {
        let (status, report) = scene.readiness();
        Ok((status == 503 && report.contains("clock")).then_some(report))
    })
    .unwrap();
    assert!(report.contains("time synchronisation") || report.contains("clock says"), "{report}");

    // Accepted at most, and not carried out.
    let payload = json!({ "csr": acme::base64url(&request) }).to_string();
    let response = scene.client.post(order.body["finalize"].as_str().unwrap(), &payload).unwrap();
    match response.status {
        200 => assert_eq!(acme::body(&response, 200).unwrap()["status"], "processing"),
        _ => expect_problem("finalize with a clock behind", &response, 503, "serverInternal"),
    }
    scene.client.revoke(&der, 4).unwrap();
    let url = first.case.ocsp_url().unwrap();
    let answer = first.case.openssl_ocsp(&url, CertIdHash::Sha1, false).unwrap();
    assert_eq!(answer.status, Status::Revoked, "{}", answer.output);
    scene.chancery.stop().unwrap();

    for variable in ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"] {
        scene.chancery.unset(variable);
    }
    scene.chancery.restart().unwrap();
    let order = scene.client.settled(&order, &["ready", "processing", "valid"]).unwrap();
    if order.body["status"] == "ready" {
        scene.client.finalize(&order, &request).unwrap();
    }
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    expect_revoked(&first.case, "superseded");
}

#[test]
fn an_order_waits_for_a_token_that_went_away() {
    let scene = Scene::new(Settings::with(Keys::SoftHsm));
    let (first, der) = scene.issue("first.example.test");
    let order = scene.ready_order("second.example.test");
    let (request, key) = csr(&["second.example.test"]).unwrap();
    let tokens = scene.chancery.token().unwrap().tokens();
    let away = tokens.with_file_name("away");
    fs::rename(&tokens, &away).unwrap();
    fs::create_dir(&tokens).unwrap();
    eventually("the server to say that it can't sign", Duration::from_secs(30), || {
        Ok((scene.readiness().0 == 503).then_some(()))
    })
    .unwrap();
    let finalized = scene.client.finalize(&order, &request).unwrap();
    assert_eq!(finalized["status"], "processing");
    // What needs no signature of the CA's goes on.
    assert_eq!(first.status(), Status::Good);
    first.case.openssl_verify(&first.case.fetch_crls().unwrap()).unwrap();
    fs::remove_dir(&tokens).unwrap();
    fs::rename(&away, &tokens).unwrap();
    assert_eq!(scene.download(&order, &key).0.status(), Status::Good);
    scene.client.revoke(&der, 4).unwrap();
    expect_revoked(&first.case, "superseded");
    assert!(!scene.chancery.log().contains("panicked"));
}

/// What the user of a directory's disk can still write.
fn free(directory: &Path) -> u64 {
    let stat = statvfs(directory).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

/// Writes a file of this size, or as much of it as there is room for.
fn fill(path: &Path, size: u64) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        match file.write(&block[..length]) {
            Ok(written) => left -= u64::try_from(written).unwrap(),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The library of libfaketime that changes what time a program with threads sees.
fn fake_clock() -> PathBuf {
    let base = Path::new("/usr/lib");
    let places = fs::read_dir(base).unwrap().filter_map(Result::ok).map(|entry| entry.path());
    places
        .chain([base.to_owned()])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file())
        .expect("libfaketime is not installed: run `cargo xtask tools`")
}
