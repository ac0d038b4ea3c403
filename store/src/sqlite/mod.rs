//! The embedded engine: SQLite in WAL mode with `synchronous=FULL`, one writer thread, read-only reader threads.
//!
//! A stored row is covered by a hash; the audit log is dense; certificates are never deleted. Schema changes are
//! numbered migrations under `migrations/`.

mod apply;
mod audit;
mod certificates;
mod connection;
mod damage;
mod external_accounts;
mod integrity;
mod read_pool;
mod reads;
mod recent;
mod renewals;
mod row;
mod upkeep;
mod upkeep_reads;
mod verify;
mod writer;

use std::path::Path;
use std::sync::Arc;

use ca_core::BoxFuture;
use ca_core::store::{Commit, Commits, StoreResult, Topic};

use crate::Metrics;
use crate::permissions::Sharing;
pub use connection::OpenError;
pub use integrity::check_copy;
pub(crate) use read_pool::Attached;
use read_pool::ReadPool;
use recent::Recent;
pub use writer::LocalCommits;

/// A store that reads SQLite itself and commits through `C`.
#[derive(Debug)]
pub struct SharedStore<C> {
    reads: ReadPool,
    commits: C,
    /// What was written last, if this process writes: another's rows change without its being told.
    recent: Option<Arc<Recent>>,
    metrics: Metrics,
    damage: Arc<damage::Damage>,
}

/// The store of the one process that writes.
pub type SqliteStore = SharedStore<LocalCommits>;

impl<C: Commits> SharedStore<C> {
    /// The counters and histograms of this store.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) const fn commits(&self) -> &C {
        &self.commits
    }
}

impl<C: Commits> Commits for SharedStore<C> {
    fn commit(&self, commit: Commit) -> StoreResult<'_, ()> {
        self.commits.commit(commit)
    }

    fn watch(&self, topic: &Topic) -> BoxFuture<'static, ()> {
        self.commits.watch(topic)
    }
}

/// How the writing process opens the store.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Who may read the files.
    pub sharing: Sharing,
    /// How many threads read.
    pub readers: usize,
    /// Below this many free bytes on the disk only revocation, and the end of what was begun, is taken; 0 switches
    /// the check off.
    pub min_free_bytes: u64,
    /// About how many accounts, orders, authorizations and certificates each are kept in memory as they were written
    /// last; 0 has every read read the file.
    pub recent_rows: usize,
    /// How large the main file may grow; further commits are [`ca_core::store::StoreError::Full`].
    pub max_store_bytes: Option<u64>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            sharing: Sharing::Private,
            readers: READERS,
            min_free_bytes: 64 * 1024 * 1024,
            recent_rows: RECENT_ROWS,
            max_store_bytes: None,
        }
    }
}

const READERS: usize = 4;

/// The orders under way, at any rate at which one machine can finish them, in some twenty megabytes.
const RECENT_ROWS: usize = 4096;

/// Opens the store for the one process that writes; the caller holds [`crate::lock::CaLock`].
#[derive(Debug)]
pub enum Writer {}

impl Writer {
    /// Opens the store in a data directory, creates what is missing, and brings the schema up to date.
    ///
    /// Blocks on the disk, so it belongs before the runtime's work or on a blocking thread.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, options: WriterOptions) -> Result<Arc<SqliteStore>, OpenError> {
        let connection = connection::open_writer(directory, options.sharing, options.max_store_bytes)?;
        let metrics = Metrics::default();
        let recent = Arc::new(Recent::new(options.recent_rows, &connection));
        let min_free = options.min_free_bytes;
        let commits =
            LocalCommits::start(connection, directory, min_free, Arc::clone(&recent), metrics.clone())
                .map_err(OpenError::Thread)?;
        let reads = ReadPool::start(directory, options.readers, metrics.clone(), &Attached::default())
            .map_err(OpenError::Thread)?;
        Ok(Arc::new(SharedStore { reads, commits, recent: Some(recent), metrics, damage: Arc::default() }))
    }
}

impl SqliteStore {
    /// Finishes the commits that were asked for, refuses further ones, and closes the writing connection. Reads go on.
    ///
    /// Without it the connection closes when the last reference is dropped, at a time nobody waits for; nothing that
    /// was answered is lost either way.
    pub async fn close(&self) {
        self.commits.close().await;
    }
}

impl<C: Commits> SharedStore<C> {
    /// Reads the store in a data directory without ever writing it, and commits through `commits`.
    ///
    /// The database need not exist yet: reads answer [`ca_core::store::StoreError::Busy`] until it does. `attached` is
    /// told whenever a writer came.
    pub(crate) fn reading(
        directory: &Path,
        commits: C,
        metrics: Metrics,
        attached: &Attached,
    ) -> Result<Self, OpenError> {
        let reads =
            ReadPool::start(directory, READERS, metrics.clone(), attached).map_err(OpenError::Thread)?;
        Ok(Self { reads, commits, recent: None, metrics, damage: Arc::default() })
    }
}
