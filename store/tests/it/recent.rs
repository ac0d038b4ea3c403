//! What is kept in memory is what stands in the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ca_core::acme::{AccountState, OrderState};
use ca_core::pkix::public_key::KeyHash;
use ca_core::store::{
    CertificateState, Change, Commit, IssuerKind, IssuerState, Prune, Store, StoreError, Version,
};
use store::sqlite::{Writer, WriterOptions};

use crate::fixtures::*;

/// A second look at the same rows, by a store that keeps nothing.
async fn from_the_file(direct: Direct) -> (tempfile::TempDir, Arc<dyn Store>) {
    let Direct { dir, store } = direct;
    store.close().await;
    let again = Writer::open(dir.path(), WriterOptions { recent_rows: 0, ..options() }).unwrap();
    (dir, again)
}

#[tokio::test]
async fn rows_from_memory_are_those_of_the_file() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example.org", "b.example.org"], NOW);
    let record = certificate("issuing-1", 2, &["a.example.org"]);
    let mut commit = put_order(&order, &authorizations);
    commit.changes.push(Change::PutAccount(account.clone()));
    for commit in [commit, reserve(&record), issue(&record)] {
        store.commit(commit).await.unwrap();
    }
    let read = async |store: &Arc<dyn Store>| {
        (
            store.account(account.id).await.unwrap().unwrap(),
            store.order(order.id).await.unwrap().unwrap(),
            store.authorization(authorizations[1].id).await.unwrap().unwrap(),
            store.certificate(record.id.clone()).await.unwrap().unwrap(),
        )
    };
    let before = read(&store).await;
    assert_eq!(before.0.version, Version(1));
    assert!(matches!(before.3.state, CertificateState::Issued { .. }), "{:?}", before.3);
    drop(store);
    let (_dir, file) = from_the_file(direct).await;
    assert_eq!(before, read(&file).await);
}

#[tokio::test]
async fn what_was_changed_is_found_changed_and_what_was_refused_is_not() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let mut stored = store.account(account.id).await.unwrap().unwrap();
    stored.state = AccountState::Deactivated { at: NOW };
    store.commit(change(Change::PutAccount(stored.clone()))).await.unwrap();
    // Decided on a version that is behind now.
    stored.state = AccountState::Valid;
    let refused = store.commit(change(Change::PutAccount(stored))).await;
    assert_eq!(refused, Err(StoreError::Conflict));
    let found = store.account(account.id).await.unwrap().unwrap();
    assert_eq!((found.state, found.version), (AccountState::Deactivated { at: NOW }, Version(2)));

    let record = certificate("issuing-1", 2, &["a.example.org"]);
    for commit in [reserve(&record), issue(&record), revoke(&record.id)] {
        store.commit(commit).await.unwrap();
        store.certificate(record.id.clone()).await.unwrap().unwrap();
    }
    let found = store.certificate(record.id).await.unwrap().unwrap();
    assert!(matches!(found.state, CertificateState::Revoked { .. }), "{found:?}");

    let named = |state| issuer("issuing-1", IssuerKind::Issuing, state, NOW);
    store.commit(change(Change::PutIssuer(Box::new(named(IssuerState::Active))))).await.unwrap();
    let mut retired = store.issuers().await.unwrap().remove(0);
    retired.state = IssuerState::Retired;
    store.commit(change(Change::PutIssuer(Box::new(retired)))).await.unwrap();
    assert_eq!(store.issuers().await.unwrap()[0].state, IssuerState::Retired);
}

#[tokio::test]
async fn what_was_deleted_is_gone() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example.org"], NOW);
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    for (prune, version) in [
        (Prune::Orders(vec![(order.id, Version(1))]), 1),
        (Prune::Authorizations(vec![(authorizations[0].id, Version(1))]), 1),
        (Prune::Accounts(vec![(account.id, Version(1))]), 1),
    ] {
        store.commit(change(Change::Prune(prune))).await.unwrap_or_else(|why| panic!("{version}: {why}"));
    }
    assert_eq!(store.order(order.id).await, Ok(None));
    assert_eq!(store.authorization(authorizations[0].id).await, Ok(None));
    assert_eq!(store.account(account.id).await, Ok(None));
}

#[tokio::test]
async fn keys_are_found_whether_they_were_there_at_the_start_or_came_later() {
    let direct = Direct::open();
    let (first, later) = (account(NOW), account(NOW));
    let (first_key, later_key) = (KeyHash(random()), KeyHash(random()));
    let block = |key| change(Change::BlockKey { key, at: NOW, detail: "weak".to_owned() });
    let put = |account: &ca_core::acme::Account| change(Change::PutAccount(account.clone()));
    let find = async |store: &Arc<dyn Store>, account: &ca_core::acme::Account| {
        store.account_by_key(account.directory.clone(), account.thumbprint).await.unwrap().is_some()
    };
    let store = direct.as_store();
    assert!(!find(&store, &first).await && !store.is_key_blocked(first_key).await.unwrap());
    for commit in [put(&first), block(first_key)] {
        store.commit(commit).await.unwrap();
    }
    drop(store);
    let Direct { dir, store } = direct;
    store.close().await;
    let store: Arc<dyn Store> = Writer::open(dir.path(), options()).unwrap();
    assert!(!find(&store, &later).await && !store.is_key_blocked(later_key).await.unwrap());
    for commit in [put(&later), block(later_key)] {
        store.commit(commit).await.unwrap();
    }
    for (account, key) in [(&first, first_key), (&later, later_key)] {
        assert!(find(&store, account).await && store.is_key_blocked(key).await.unwrap());
    }
}

/// An effect is read from the file, and then the order that it names: an order from before would end it for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_from_memory_is_never_older_than_one_from_the_file() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example.org"], NOW);
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, ended, mut order, mut account) =
            (store.clone(), ended.clone(), order.clone(), account.clone());
        async move {
            (order.version, account.version) = (Version(1), Version(1));
            for _ in 0..300 {
                let changes = vec![Change::PutOrder(order.clone()), Change::PutAccount(account.clone())];
                store.commit(Commit { changes, ..Commit::default() }).await.unwrap();
                (order.version, account.version) = (order.version.next(), account.version.next());
            }
            ended.store(true, Ordering::Relaxed);
        }
    });
    while !ended.load(Ordering::Relaxed) {
        let listed = store.orders(None, 1).await.unwrap().rows.remove(0);
        assert!(matches!(listed.state, OrderState::Open));
        let (read, _) = store.order(order.id).await.unwrap().unwrap();
        assert!(read.version >= listed.version, "{:?} after {:?}", read.version, listed.version);
        let listed = store.accounts(None, 1).await.unwrap().rows.remove(0);
        let read = store.account(account.id).await.unwrap().unwrap();
        assert!(read.version >= listed.version, "{:?} after {:?}", read.version, listed.version);
    }
    writer.await.unwrap();
}
