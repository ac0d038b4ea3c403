//! A disk that is full or nearly so.

use std::path::Path;
use std::process::Command;

use ca_core::acme::OrderState;
use ca_core::acme::order::OrderFailure;
use ca_core::pkix::public_key::KeyHash;
use ca_core::store::{AcmeReads, CertificateReads, Change, Commit, Commits, StoreError, Version};
use store::sqlite::{Writer, WriterOptions, check_copy};

use crate::fixtures::*;

#[tokio::test]
async fn below_the_watermark_only_revocation_goes_on() {
    let Direct { dir, store } = Direct::open();
    let account = account(NOW);
    let (mut order, authorizations) = order(account.id, &["a.example.org"], NOW);
    let waiting = effect(order.id, NOW);
    let (begun, issued, given_up) = (
        certificate("issuing-1", 0, &[]),
        certificate("issuing-1", 0, &[]),
        certificate("issuing-1", 0, &[]),
    );
    let mut first = put_order(&order, &authorizations);
    first.effects = vec![waiting.clone()];
    for commit in [first, reserve(&begun), reserve(&issued), issue(&issued), reserve(&given_up)] {
        store.commit(commit).await.unwrap();
    }
    store.close().await;
    let full = WriterOptions { min_free_bytes: u64::MAX, ..options() };
    let store = Writer::open(dir.path(), full).unwrap();

    order.version = Version(1);
    let mut half_open = order.clone();
    half_open.state = OrderState::Processing { csr: vec![1] };
    let mut mixed = revoke(&issued.id);
    mixed.changes.push(Change::PutAccount(account.clone()));
    for commit in [
        change(Change::PutAccount(account)),
        change(Change::PutOrder(half_open)),
        change(Change::PutAuthorization(authorizations[0].clone())),
        reserve(&certificate("issuing-1", 0, &[])),
        mixed,
        // The question whether new work is taken.
        Commit::default(),
    ] {
        assert!(matches!(store.commit(commit).await, Err(StoreError::Full(_))));
    }
    let authorized = order.id;
    order.state = OrderState::Failed { failure: OrderFailure::Internal { detail: "no".to_owned() } };
    let mut end = issue(&begun);
    end.changes.extend([Change::PutOrder(order), Change::EffectDone(waiting.id)]);
    let request = Commit { effects: vec![effect(authorized, NOW)], ..Commit::default() };
    for commit in [
        end,
        revoke(&issued.id),
        abandon(&given_up.id),
        change(Change::ReserveCrl { issuer: issuer_id("issuing-1"), shard: 0, number: 1 }),
        change(Change::PublishCrl(crl("issuing-1", 0, 1))),
        change(Change::BlockKey { key: KeyHash(random()), at: NOW, detail: String::new() }),
        request,
    ] {
        store.commit(commit).await.unwrap();
    }
    let revoked = store.shard_revocations(issuer_id("issuing-1"), 0, NOW).await.unwrap().revoked;
    assert_eq!(revoked.len(), 2);
}

/// A file system of 3 MiB, gone with the value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where we may not mount one.
    fn mount(at: &'a Path) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: reader threads may hold the file a moment longer.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Fills the store until it refuses, and looks that nothing acknowledged is lost and that it goes on afterwards.
async fn fill(directory: &Path, options: WriterOptions, make_room: impl FnOnce()) {
    let store = Writer::open(directory, options.clone()).unwrap();
    let mut kept = Vec::new();
    let refused = loop {
        let mut account = account(NOW);
        account.contacts = vec!["x".repeat(100_000)];
        match store.commit(change(Change::PutAccount(account.clone()))).await {
            Ok(()) => kept.push(account.id),
            Err(error) => break error,
        }
        assert!(kept.len() < 1000, "3 MiB never filled up");
    };
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    assert!(kept.len() > 5, "{}", kept.len());
    for id in &kept {
        assert!(store.account(*id).await.unwrap().is_some(), "reads go on, and nothing is lost");
    }
    store.close().await;
    make_room();
    let store = Writer::open(directory, WriterOptions { max_store_bytes: None, ..options }).unwrap();
    for id in &kept {
        assert!(store.account(*id).await.unwrap().is_some());
    }
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_store_at_its_limit_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), WriterOptions { max_store_bytes: Some(3 * 1024 * 1024), ..options() }, || ()).await;
}

/// With a file system of its own where this user may mount one; else the same by the engine's own limit.
#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    match SmallDisk::mount(dir.path()) {
        Some(disk) => {
            fill(&disk.0.join("data"), options(), || {
                let grow = ["-o", "remount,size=16m"];
                assert!(Command::new("mount").args(grow).arg(dir.path()).status().unwrap().success());
            })
            .await;
        }
        None => {
            eprintln!("no tmpfs can be mounted as this user: the engine's limit stands in for a full disk");
            fill(dir.path(), WriterOptions { max_store_bytes: Some(2 * 1024 * 1024), ..options() }, || ())
                .await;
        }
    }
}

/// Needs a file system of its own, so it says nothing where this user may mount none.
#[tokio::test]
async fn a_disk_too_full_for_the_copy_is_not_damage() {
    let Direct { dir, store } = Direct::open();
    for _ in 0..40 {
        let mut account = account(NOW);
        account.contacts = vec!["x".repeat(100_000)];
        store.commit(change(Change::PutAccount(account))).await.unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(scratch.path()) else {
        eprintln!("no tmpfs can be mounted as this user: not tested");
        return;
    };
    let result = check_copy(dir.path(), disk.0);
    assert!(matches!(&result, Err(StoreError::Full(why)) if why.contains("no copy")), "{result:?}");
    assert_eq!(std::fs::read_dir(disk.0).unwrap().count(), 0);
    drop(disk);
    assert_eq!(check_copy(dir.path(), scratch.path()), Ok(()));
}
