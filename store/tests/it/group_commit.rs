//! Many commits in one transaction: each stands or falls alone, unless the engine fails them all.

use std::sync::Arc;

use ca_core::store::{AcmeReads, AuthorityReads, Change, Commit, Commits, StoreError, Version};
use prometheus_client::registry::Registry;
use store::permissions::Sharing;
use store::sqlite::{SqliteStore, Writer, WriterOptions};

use crate::fixtures::*;
use crate::sqlite::futures_all;

/// Holds the database's write lock, so that commits queue up and go into one batch once it is dropped.
pub struct Jam(rusqlite::Connection);

impl Jam {
    pub fn new(direct: &Direct) -> Self {
        let connection = rusqlite::Connection::open(direct.dir.path().join("store.db")).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    pub fn release(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// How many transactions the writer has begun.
pub fn batches(store: &SqliteStore) -> u64 {
    let mut registry = Registry::default();
    store.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("store_commit_batch_size_count ")).unwrap();
    line.parse().unwrap()
}

/// Runs commits so that they share one batch: the writer is stuck on another commit until all of them are queued.
async fn in_one_batch(direct: &Direct, commits: Vec<Commit>) -> Vec<Result<(), StoreError>> {
    let jam = Jam::new(direct);
    let before = batches(&direct.store);
    let store = Arc::clone(&direct.store);
    let stuck = tokio::spawn(async move { store.commit(Commit::default()).await });
    while batches(&direct.store) == before {
        tokio::task::yield_now().await;
    }
    let mut futures: Vec<_> = commits.into_iter().map(|commit| direct.store.commit(commit)).collect();
    // Polled last, when the others are in the queue.
    futures.push(Box::pin(async move {
        jam.release();
        Ok(())
    }));
    let mut results = futures_all(futures).await;
    results.pop();
    stuck.await.unwrap().unwrap();
    assert_eq!(batches(&direct.store) - before, 2, "they were to share a batch");
    results
}

#[tokio::test]
async fn a_conflict_in_a_batch_hurts_nobody_else() {
    let direct = Direct::open();
    let taken = account(NOW);
    direct.store.commit(change(Change::PutAccount(taken.clone()))).await.unwrap();
    let accounts: Vec<_> = (0..50).map(|_| account(NOW)).collect();
    let mut commits = Vec::new();
    for account in &accounts {
        // Each good commit between one that conflicts after it wrote something and one whose row is missing.
        let mut late = change(Change::PutAccount(self::account(NOW)));
        late.changes.push(Change::PutAccount(taken.clone()));
        late.audit = vec![event("lost", NOW)];
        let mut missing = self::account(NOW);
        missing.version = Version(4);
        let mut good = change(Change::PutAccount(account.clone()));
        good.audit = vec![event("kept", NOW)];
        commits.extend([late, good, change(Change::PutAccount(missing))]);
    }
    let results = in_one_batch(&direct, commits).await;
    for (index, result) in results.iter().enumerate() {
        match index % 3 {
            0 => assert_eq!(*result, Err(StoreError::Conflict)),
            1 => assert_eq!(*result, Ok(())),
            _ => assert!(matches!(result, Err(StoreError::NotFound(_))), "{result:?}"),
        }
    }
    assert_eq!(direct.store.accounts(None, 1000).await.unwrap().rows.len(), 51);
    assert_eq!(direct.store.audit(0, 1000).await.unwrap().len(), 50, "dense, and only of those that stand");
}

#[tokio::test]
async fn of_commits_on_one_version_exactly_one_wins() {
    let direct = Direct::open();
    let account = account(NOW);
    direct.store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let commits = (0..20).map(|n| {
        let mut next = account.clone();
        next.version = Version(1);
        next.contacts = vec![format!("mailto:{n}@example.org")];
        change(Change::PutAccount(next))
    });
    let results = in_one_batch(&direct, commits.collect()).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let winner = results.iter().position(Result::is_ok).unwrap();
    let stored = direct.store.account(account.id).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.contacts), (Version(2), vec![format!("mailto:{winner}@example.org")]));
}

#[tokio::test]
async fn when_the_engine_fails_no_member_of_the_batch_is_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        WriterOptions { max_store_bytes: Some(1024 * 1024), sharing: Sharing::Private, ..options() };
    let store = Writer::open(dir.path(), options).unwrap();
    let direct = Direct { dir, store };
    let good = account(NOW);
    let mut huge = account(NOW);
    huge.contacts = vec!["x".repeat(2 * 1024 * 1024)];
    let commits = vec![change(Change::PutAccount(good.clone())), change(Change::PutAccount(huge))];
    for result in in_one_batch(&direct, commits).await {
        assert!(matches!(result, Err(StoreError::Full(_))), "{result:?}");
    }
    assert_eq!(direct.store.accounts(None, 10).await.unwrap().rows, Vec::new());
    direct.store.commit(change(Change::PutAccount(good))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_committed_reads_it_under_load() {
    let direct = Direct::open();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let store = Arc::clone(&direct.store);
            tokio::spawn(async move {
                for version in 0..10 {
                    let mut account = account(NOW);
                    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
                    let read = store.account(account.id).await.unwrap().unwrap();
                    assert_eq!(read.version, Version(1), "{version}");
                    account.version = Version(1);
                    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
                    assert_eq!(store.account(account.id).await.unwrap().unwrap().version, Version(2));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(batches(&direct.store) < 640, "no two commits ever shared a sync");
}
