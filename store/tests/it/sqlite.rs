//! The battery on the writer itself, and what is SQLite's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use ca_core::store::{AcmeReads, AuthorityReads, Change, Commit, Commits, Store, StoreError};
use prometheus_client::registry::Registry;
use store::permissions::Sharing;
use store::sqlite::{OpenError, Writer, WriterOptions};

use crate::battery::run_battery;
use crate::fixtures::*;

impl Direct {
    pub fn store(&self) -> Arc<dyn Store> {
        self.as_store()
    }
}

run_battery!(Direct::open());

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let Direct { dir, store } = Direct::open();
    let account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    store.close().await;
    assert!(matches!(
        store.commit(change(Change::PutAccount(self::account(NOW)))).await,
        Err(StoreError::Busy(_))
    ));
    let again = Writer::open(dir.path(), options()).unwrap();
    assert!(again.account(account.id).await.unwrap().is_some());
}

#[tokio::test]
async fn the_newest_time_is_remembered_over_a_restart_with_the_clock_behind() {
    let Direct { dir, store } = Direct::open();
    let log = |at| Commit { audit: vec![event("at", after(at))], ..Commit::default() };
    store.commit(log(100)).await.unwrap();
    store.commit(log(50)).await.unwrap();
    store.close().await;
    let again = Writer::open(dir.path(), options()).unwrap();
    assert_eq!(again.newest_event_at().await, Ok(Some(after(100))));
    again.close().await;

    // As a store is that never counted it.
    let raw = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    assert_eq!(raw.execute("DELETE FROM counters WHERE name = 'audit.newest'", []), Ok(1));
    drop(raw);
    let again = Writer::open(dir.path(), options()).unwrap();
    assert_eq!(again.newest_event_at().await, Ok(Some(after(100))));
    again.commit(log(60)).await.unwrap();
    assert_eq!(again.newest_event_at().await, Ok(Some(after(100))));
    let raw = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let sql = "SELECT value FROM counters WHERE name = 'audit.newest'";
    assert_eq!(raw.query_row(sql, [], |row| row.get(0)), Ok(after(100).as_millis()));
}

/// Accounts in a copy of the main file alone.
fn accounts_in_main_file(directory: &std::path::Path) -> i64 {
    let alone = tempfile::tempdir().unwrap();
    let copy = alone.path().join("copy.db");
    fs::copy(directory.join("store.db"), &copy).unwrap();
    let raw = rusqlite::Connection::open(copy).unwrap();
    raw.query_row("SELECT COUNT(*) FROM accounts", [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn after_a_clean_stop_the_main_file_is_the_whole_store() {
    let Direct { dir, store } = Direct::open();
    for _ in 0..3 {
        store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
        // Its connection stays open, as those of a server's readers do.
        store.accounts(None, 9).await.unwrap();
    }
    store.close().await;
    assert_eq!(accounts_in_main_file(dir.path()), 3);
    assert_eq!(fs::metadata(dir.path().join("store.db-wal")).unwrap().len(), 0);
    assert_eq!(store.accounts(None, 9).await.unwrap().rows.len(), 3, "reads go on");
}

#[tokio::test]
async fn a_reader_that_holds_the_log_back_does_not_hold_back_the_stop() {
    let Direct { dir, store } = Direct::open();
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    let raw = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let held = raw.unchecked_transaction().unwrap();
    let count = || held.query_row("SELECT COUNT(*) FROM accounts", [], |row| row.get::<_, i64>(0));
    assert_eq!(count(), Ok(1));
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    store.close().await;
    assert_eq!(count(), Ok(1), "it goes on seeing what it saw");
    drop(held);
    let again = Writer::open(dir.path(), options()).unwrap();
    assert_eq!(again.accounts(None, 9).await.unwrap().rows.len(), 2);
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_database_are_refused() {
    let Direct { dir, store } = Direct::open();
    store.close().await;
    let path = dir.path().join("store.db");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = Writer::open(dir.path(), options()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer program"), "{error}");
    assert!(matches!(store.accounts(None, 1).await, Ok(_) | Err(StoreError::Busy(_))));

    let other = tempfile::tempdir().unwrap();
    let raw = rusqlite::Connection::open(other.path().join("store.db")).unwrap();
    raw.execute_batch("CREATE TABLE photographs (id INTEGER)").unwrap();
    drop(raw);
    assert!(matches!(Writer::open(other.path(), options()), Err(OpenError::Foreign { .. })));
}

#[tokio::test]
async fn the_log_stays_after_a_clean_stop_so_that_readers_can_open() {
    let Direct { dir, store } = Direct::open();
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    store.close().await;
    drop(store);
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn files_have_the_modes_of_their_sharing() {
    let gid = nix::unistd::getegid().as_raw();
    for (sharing, directory_mode, file_mode) in
        [(Sharing::Private, 0o700, 0o600), (Sharing::Group(gid), 0o2750, 0o640)]
    {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("data");
        let store = Writer::open(&dir, WriterOptions { sharing, ..options() }).unwrap();
        store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, directory_mode);
        for file in ["store.db", "store.db-wal", "store.db-shm"] {
            assert_eq!(fs::metadata(dir.join(file)).unwrap().mode() & 0o7777, file_mode, "{file}");
        }
    }
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_made_is_named() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Writer::open(&file.join("data"), options()).unwrap_err();
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[tokio::test]
async fn metrics_move_with_what_is_done() {
    let direct = Direct::open();
    let mut registry = Registry::default();
    direct.store.metrics().register(&mut registry);
    let account = account(NOW);
    direct.store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    direct.store.commit(change(Change::PutAccount(account.clone()))).await.unwrap_err();
    direct.store.order_counts().await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "store_commits_total{outcome=\"committed\"} 1",
        "store_commits_total{outcome=\"conflict\"} 1",
        "store_commit_duration_seconds_count 2",
        "store_commit_batch_size_count 2",
        "store_reads_total{failed=\"false\"} 1",
        "store_checkpoints_total 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn a_log_that_has_grown_is_merged_and_starts_anew() {
    let direct = Direct::open();
    let mut largest = 0;
    for round in 0..40 {
        let commits =
            (0..100).map(|_| direct.store.commit(reserve(&certificate("issuing-1", 0, &["a.example.org"]))));
        let commits: Vec<_> = commits.collect();
        for commit in futures_all(commits).await {
            commit.unwrap();
        }
        let sizes = direct.store.sizes().await.unwrap();
        largest = largest.max(sizes.wal_bytes);
        if round == 39 {
            assert!(sizes.store_bytes > 2 * 1024 * 1024, "{sizes:?}");
        }
    }
    assert!(largest < 12 * 1024 * 1024, "the log reached {largest} bytes");
    let mut registry = Registry::default();
    direct.store.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(!text.contains("store_checkpoints_total 0"), "{text}");
}

/// Polls futures together without another crate: each in a task would need `'static`.
pub async fn futures_all<T>(futures: Vec<std::pin::Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if let Some(pending) = future {
                match pending.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => {
                        *result = Some(value);
                        *future = None;
                    }
                    std::task::Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    results.into_iter().flatten().collect()
}
