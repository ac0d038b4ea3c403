//! The one writer thread: many commits share one transaction and one sync, and are answered when it is on disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem, thread};

use ca_core::BoxFuture;
use ca_core::acme::{ExternalAccountState, OrderState};
use ca_core::store::{Change, Commit, Commits, StoreError, StoreResult, Topic, TopicKey};
use ca_core::time::Stopwatch;
use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::apply::{Transaction, apply};
use super::recent::Recent;
use super::row::{Counters, Failure, Outcome};
use crate::Metrics;
use crate::waiters::Waiters;

/// How many commits share a transaction at most.
const BATCH: usize = 256;
/// From how many commits in a batch on the next one waits for more, how long, and how many are enough: under load a
/// moment's patience shares syncs and pages among more commits, and nobody else ever waits.
const CROWDED: usize = 4;
const LINGER: Duration = Duration::from_micros(800);
const ENOUGH: usize = 32;
/// How many commits may wait; further ones wait for a place.
const QUEUE: usize = 1024;
/// How many batches' topics a slow client of the commit socket may be behind before it is told that all may differ.
const DOORBELL: usize = 1024;
/// From how many frames on (a page each) the write-ahead log is merged into the main file.
const CHECKPOINT_FRAMES: i64 = 2000;
/// From how many frames on readers are waited for, so that the log starts anew.
const LARGE_LOG_FRAMES: i64 = 16_384;
/// How often at most that is tried, and how long it waits: commits wait as long.
const LARGE_LOG_RETRY: Duration = Duration::from_secs(10);
const LARGE_LOG_WAIT: Duration = Duration::from_millis(100);
/// How long the last merge waits for readers of other processes.
const CLOSING_WAIT: Duration = Duration::from_millis(200);
/// How often at most the disk is asked for its free space.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// The way to the writer thread: what [`super::SqliteStore`] commits through.
#[derive(Debug)]
pub struct LocalCommits {
    queue: mpsc::Sender<Request>,
    waiters: Waiters,
    doorbell: broadcast::Sender<Arc<BTreeSet<TopicKey>>>,
    metrics: Metrics,
}

#[derive(Debug)]
enum Request {
    Commit(Member),
    Close(oneshot::Sender<()>),
}

/// One commit in a batch.
#[derive(Debug)]
struct Member {
    commit: Commit,
    topics: BTreeSet<TopicKey>,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// What the members of a batch are told.
type Answers = Vec<Result<(), StoreError>>;

impl LocalCommits {
    pub(super) fn start(
        connection: Connection,
        directory: &Path,
        min_free_bytes: u64,
        recent: Arc<Recent>,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let (queue, requests) = mpsc::channel(QUEUE);
        let waiters = Waiters::default();
        let (doorbell, _) = broadcast::channel(DOORBELL);
        let writer = Writer {
            connection,
            space: Space { directory: directory.to_owned(), min_free_bytes, last: None },
            waiters: waiters.clone(),
            doorbell: doorbell.clone(),
            recent,
            metrics: metrics.clone(),
            large_log_tried: None,
        };
        thread::Builder::new().name("store-write".to_owned()).spawn(move || writer.run(requests))?;
        Ok(Self { queue, waiters, doorbell, metrics })
    }

    /// The topics of every committed batch from now on.
    pub(crate) fn doorbell(&self) -> broadcast::Receiver<Arc<BTreeSet<TopicKey>>> {
        self.doorbell.subscribe()
    }

    pub(super) async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.queue.send(Request::Close(closed)).await.is_ok() {
            // An error means that the thread ended already.
            let _ = done.await;
        }
    }
}

fn closed() -> StoreError {
    StoreError::Busy("the store is closed".to_owned())
}

impl Commits for LocalCommits {
    fn commit(&self, commit: Commit) -> StoreResult<'_, ()> {
        let started = Stopwatch::start();
        Box::pin(async move {
            let (answer, result) = oneshot::channel();
            let topics = commit.topics();
            let result = match self.queue.send(Request::Commit(Member { commit, topics, answer })).await {
                Ok(()) => result.await.unwrap_or_else(|_| Err(closed())),
                Err(_) => Err(closed()),
            };
            self.metrics.committed(started.elapsed().as_secs_f64(), &result);
            result
        })
    }

    fn watch(&self, topic: &Topic) -> BoxFuture<'static, ()> {
        self.waiters.watch(topic.into())
    }
}

/// The state of the writer thread.
struct Writer {
    connection: Connection,
    space: Space,
    waiters: Waiters,
    doorbell: broadcast::Sender<Arc<BTreeSet<TopicKey>>>,
    recent: Arc<Recent>,
    metrics: Metrics,
    large_log_tried: Option<Stopwatch>,
}

impl Writer {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut received = Vec::with_capacity(BATCH);
        let mut closing = Vec::new();
        let mut crowded = false;
        while requests.blocking_recv_many(&mut received, BATCH) > 0 {
            if crowded && received.len() < ENOUGH {
                linger();
                while received.len() < BATCH
                    && let Ok(request) = requests.try_recv()
                {
                    received.push(request);
                }
            }
            crowded = received.len() >= CROWDED;
            let mut batch = Vec::with_capacity(received.len());
            for request in received.drain(..) {
                match request {
                    Request::Commit(member) => batch.push(member),
                    Request::Close(done) => {
                        // What is queued already is still carried out.
                        requests.close();
                        closing.push(done);
                    }
                }
            }
            if !batch.is_empty() {
                self.write(batch);
                self.checkpoint();
            }
        }
        self.merge_log();
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "the store did not close cleanly; nothing is lost, the next start recovers it");
        }
        for done in closing {
            let _ = done.send(());
        }
    }

    fn write(&mut self, mut batch: Vec<Member>) {
        #[allow(clippy::cast_precision_loss, reason = "at most BATCH")]
        self.metrics.batch_size.observe(batch.len() as f64);
        let low = self.space.low();
        let results = match self.transact(&mut batch, low.as_ref()) {
            Ok(results) => results,
            Err(failure) => {
                let error = StoreError::from(failure);
                tracing::error!(%error, commits = batch.len(), "a transaction failed as a whole");
                vec![Err(error); batch.len()]
            }
        };
        let mut topics = BTreeSet::new();
        for (member, result) in batch.into_iter().zip(results) {
            if result.is_ok() {
                topics.extend(member.topics);
            }
            // Whoever asked may have gone; the commit stands.
            let _ = member.answer.send(result);
        }
        if !topics.is_empty() {
            self.waiters.wake(&topics);
            // No receiver: no client is connected.
            let _ = self.doorbell.send(Arc::new(topics));
        }
    }

    /// Carries out a batch in one transaction. An error means that none of it was.
    fn transact(&self, batch: &mut [Member], low: Option<&StoreError>) -> Outcome<Answers> {
        let run = |sql: &str| -> Outcome<()> {
            self.connection.prepare_cached(sql)?.execute([])?;
            Ok(())
        };
        run("BEGIN IMMEDIATE")?;
        let members = || {
            let mut transaction = Transaction {
                connection: &self.connection,
                recent: &self.recent,
                counters: Counters::default(),
                written: Vec::new(),
            };
            let mut answers: Answers = Vec::with_capacity(batch.len());
            for member in batch {
                let commit = mem::take(&mut member.commit);
                if let Some(full) = low
                    && !goes_on_when_full(&commit)
                {
                    answers.push(Err(full.clone()));
                    continue;
                }
                run("SAVEPOINT member")?;
                let before = (transaction.counters.clone(), transaction.written.len());
                match apply(&mut transaction, commit) {
                    Ok(()) => answers.push(Ok(())),
                    Err(Failure::Store(error)) => {
                        run("ROLLBACK TO member")?;
                        transaction.counters = before.0;
                        transaction.written.truncate(before.1);
                        answers.push(Err(error));
                    }
                    Err(failure) => return Err(failure),
                }
                run("RELEASE member")?;
            }
            transaction.counters.save(&self.connection)?;
            Ok((answers, transaction.written))
        };
        let outcome = members().and_then(|(answers, written)| {
            self.recent.committing(&written);
            match run("COMMIT") {
                Ok(()) => self.recent.committed(written),
                Err(failure) => {
                    self.recent.failed(&written);
                    return Err(failure);
                }
            }
            Ok(answers)
        });
        // After some failures SQLite has rolled back by itself.
        if outcome.is_err() && !self.connection.is_autocommit() {
            run("ROLLBACK")?;
        }
        outcome
    }

    /// Merges the write-ahead log into the main file when it has grown, after the batch was answered.
    fn checkpoint(&mut self) {
        let frames = self.pragma_checkpoint("NOOP");
        if frames < CHECKPOINT_FRAMES {
            return;
        }
        self.metrics.checkpoints.inc();
        let may_wait = self.large_log_tried.is_none_or(|tried| tried.elapsed() >= LARGE_LOG_RETRY);
        if frames < LARGE_LOG_FRAMES || !may_wait {
            self.pragma_checkpoint("PASSIVE");
            return;
        }
        // Some reader always holds the log: wait for them, a moment, so that it can start anew.
        self.large_log_tried = Some(Stopwatch::start());
        let normal = super::connection::BUSY_TIMEOUT;
        if self.connection.busy_timeout(LARGE_LOG_WAIT).is_ok() {
            self.pragma_checkpoint("TRUNCATE");
        }
        if let Err(error) = self.connection.busy_timeout(normal) {
            tracing::warn!(%error, "the store's time to wait for locks can't be set");
        }
    }

    /// Merges the whole log into the main file before the end: SQLite does it by itself only when the last connection
    /// closes, and the readers' are open still. After it the main file alone is the store.
    fn merge_log(&self) {
        // What other processes' readers hold back the next start merges.
        if self.connection.busy_timeout(CLOSING_WAIT).is_err() || !self.truncated_log() {
            self.pragma_checkpoint("PASSIVE");
        }
    }

    /// Whether all of the log could be merged and cut off.
    fn truncated_log(&self) -> bool {
        let busy =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        matches!(busy, Ok(0))
    }

    /// Runs a checkpoint and returns how many frames the log has.
    fn pragma_checkpoint(&self, mode: &str) -> i64 {
        let run = || -> rusqlite::Result<i64> {
            self.connection
                .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?
                .query_row([], |row| row.get(1))
        };
        run().unwrap_or_else(|error| {
            // Commits are safe in the log; it grows until this works again.
            tracing::warn!(%error, mode, "the store's log can't be merged into its main file");
            0
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "commits that are on their way can't be waited for one by one")]
fn linger() {
    thread::sleep(LINGER);
}

/// The disk's free space, asked for at most once in [`SPACE_CHECK`].
struct Space {
    directory: PathBuf,
    min_free_bytes: u64,
    last: Option<(Stopwatch, u64)>,
}

impl Space {
    /// The error for whoever must stop now.
    fn low(&mut self) -> Option<StoreError> {
        if self.min_free_bytes == 0 {
            return None;
        }
        let known = self.last.filter(|(asked, _)| asked.elapsed() < SPACE_CHECK).map(|(_, free)| free);
        let free = match known {
            Some(free) => free,
            None => {
                // If the disk can't be asked, SQLite finds out itself.
                let free = nix::sys::statvfs::statvfs(&self.directory)
                    .map_or(u64::MAX, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
                self.last = Some((Stopwatch::start(), free));
                free
            }
        };
        (free < self.min_free_bytes).then(|| {
            let mib = |bytes: u64| bytes / (1024 * 1024);
            StoreError::Full(format!(
                "{} MiB are free in {}, and issuing stops below {} MiB so that revoking can go on",
                mib(free),
                self.directory.display(),
                mib(self.min_free_bytes)
            ))
        })
    }
}

/// Whether a commit is taken although the disk is nearly full: it revokes, or finishes what was begun before.
///
/// An empty commit asks whether the store takes new work, so it is refused.
fn goes_on_when_full(commit: &Commit) -> bool {
    let asks = commit.changes.is_empty() && commit.effects.is_empty() && commit.audit.is_empty();
    !asks
        && commit.changes.iter().all(|change| match change {
            Change::RevokeCertificate { .. }
            | Change::AbandonCertificate { .. }
            | Change::IssueCertificate { .. }
            | Change::ReserveCrl { .. }
            | Change::PublishCrl(_)
            | Change::EffectDone(_)
            | Change::BlockKey { .. } => true,
            Change::PutOrder(order) => match order.state {
                OrderState::Open | OrderState::Processing { .. } => false,
                // A further certificate was issued; that one was asked for is new work.
                OrderState::Renewing(_) => {
                    commit.changes.iter().any(|change| matches!(change, Change::IssueCertificate { .. }))
                }
                OrderState::Valid { .. }
                | OrderState::Canceled { .. }
                | OrderState::Stopped { .. }
                | OrderState::Failed { .. } => true,
            },
            // It gives space back.
            Change::Prune(_) => true,
            // The end of a reservation, as IssueCertificate is.
            Change::PutCredential(credential) => credential.certificate.is_some(),
            // Taking back what was granted.
            Change::PutExternalAccount(external) => {
                matches!(external.state, ExternalAccountState::Revoked { .. })
            }
            // An incident does not wait for room on the disk.
            Change::PutRenewalPull(_) | Change::RemoveRenewalPull(_) => true,
            Change::PutAccount(_)
            | Change::PutReplacement(_)
            | Change::BindExternalAccount { .. }
            | Change::PutSealingKey(_)
            | Change::ForgetSealingKey(_)
            | Change::PutAuthorization(_)
            | Change::Claim(_)
            | Change::RequireBound(_)
            | Change::RequireUnpaused(_)
            | Change::PutFailing(_)
            | Change::ForgetFailing(_)
            | Change::ReserveCertificate(_)
            | Change::PutIssuer(_) => false,
        })
}
