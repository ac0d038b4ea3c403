//! Reader threads, each with a read-only connection that it opens when it first can.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ca_core::store::StoreError;
use ca_core::time::Stopwatch;
use rusqlite::{Connection, FileControl};
use tokio::sync::{mpsc, oneshot};

use super::connection::{FILE, open_reader};
use super::row::{Failure, Outcome};
use crate::Metrics;

/// How many reads may wait; further ones wait for a place.
const QUEUE: usize = 1024;

/// How often a connection looks whether its file was replaced, as by a restore.
const MOVED_CHECK: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce(&mut Source) + Send>;

/// Counts how often a writer came. What a connection saw while nobody wrote need not hold beside one: it is opened anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached(Arc<AtomicU64>);

impl Attached {
    /// A writer is there, and stays: connections that are opened from now on see what it writes.
    pub(crate) fn writer_came(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The readers of one process.
#[derive(Debug)]
pub(crate) struct ReadPool {
    queue: mpsc::Sender<Job>,
    directory: PathBuf,
    metrics: Metrics,
}

impl ReadPool {
    /// Starts the threads; the database need not exist yet.
    pub(crate) fn start(
        directory: &Path,
        threads: usize,
        metrics: Metrics,
        attached: &Attached,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            let mut source = Source {
                path: directory.join(FILE),
                connection: None,
                looked: Stopwatch::start(),
                attached: attached.clone(),
                opened_at: 0,
            };
            thread::Builder::new().name(format!("store-read-{number}")).spawn(move || {
                loop {
                    // Held while waiting: the others queue up behind the lock, and one job wakes one thread.
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    match job {
                        Some(job) => job(&mut source),
                        None => break,
                    }
                }
            })?;
        }
        Ok(Self { queue, directory: directory.to_owned(), metrics })
    }

    /// Where the database is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs a read in one read transaction on a reader thread.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |source| {
            // Whoever asked may have gone while the read waited.
            if !answer.is_closed() {
                let _ = answer.send(source.read(read));
            }
        });
        let ended = || StoreError::Busy("the store's reader has ended".to_owned());
        self.queue.send(job).await.map_err(|_| ended())?;
        let result = result.await.unwrap_or_else(|_| Err(ended()));
        self.metrics.read(result.is_err());
        result
    }
}

/// One thread's connection.
struct Source {
    path: PathBuf,
    connection: Option<Connection>,
    looked: Stopwatch,
    attached: Attached,
    /// How often a writer had come when the connection was opened.
    opened_at: u64,
}

impl Source {
    fn read<T>(&mut self, read: impl FnOnce(&Connection) -> Outcome<T>) -> Result<T, StoreError> {
        if self.looked.elapsed() >= MOVED_CHECK {
            self.looked = Stopwatch::start();
            if self.connection.as_ref().is_some_and(was_replaced) {
                self.connection = None;
            }
        }
        // Read before anything is opened: a writer that comes meanwhile has it opened once more.
        let attached = self.attached.count();
        let connection = match self.connection.take().filter(|_| self.opened_at == attached) {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        self.opened_at = attached;
        let result = in_transaction(&connection, read);
        // After a failure of the engine the connection is opened anew: the file may have been replaced.
        if !matches!(result, Err(Failure::Engine(_))) {
            self.connection = Some(connection);
        }
        result.map_err(StoreError::from)
    }
}

fn was_replaced(connection: &Connection) -> bool {
    let mut moved = 0;
    let asked = connection.file_control(Some(rusqlite::MAIN_DB), FileControl::HasMoved(&mut moved));
    asked.is_err() || moved != 0
}

fn in_transaction<T>(connection: &Connection, read: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
    // Prepared once for each connection, which rusqlite's own transactions are not.
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    run("BEGIN")?;
    let result = read(connection);
    // It ends a read transaction as well as a commit does.
    run("ROLLBACK")?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{Writer, WriterOptions};

    #[tokio::test]
    async fn a_connection_from_before_a_writer_came_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
        let _writer = Writer::open(dir.path(), options).unwrap();
        let attached = Attached::default();
        let pool = ReadPool::start(dir.path(), 1, Metrics::default(), &attached).unwrap();
        let mark = |connection: &Connection| Ok(connection.pragma_update(None, "cache_size", -77)?);
        let marked = |connection: &Connection| {
            Ok(connection.pragma_query_value(None, "cache_size", |row| row.get::<_, i64>(0))? == -77)
        };
        pool.run(mark).await.unwrap();
        assert!(pool.run(marked).await.unwrap(), "the same connection");
        attached.writer_came();
        assert!(!pool.run(marked).await.unwrap(), "another one");
        pool.run(mark).await.unwrap();
        assert!(pool.run(marked).await.unwrap());
    }
}
