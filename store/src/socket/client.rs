//! The committing side of the commit socket, in processes without role `ca`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::store::{Commit, Commits, Role, StoreError, StoreResult, Topic};
use ca_core::time::Stopwatch;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::frame::{self, MAX_FRAME, MAX_HELLO};
use super::{Hello, HelloReply, PROTOCOL, RequestRef, ServerMessage};
use crate::Metrics;
use crate::sqlite::{Attached, OpenError, SharedStore};
use crate::waiters::Waiters;

/// How many commits may wait to be sent.
const QUEUE: usize = 1024;
/// Between attempts to connect; doubled after each that failed, up to the second.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);
/// How long the server may take to welcome us.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a commit waits for a connection that is not there.
const CONNECT_PATIENCE: Duration = Duration::from_millis(250);
/// How long answers are waited for when nothing more can be sent.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long a commit waits for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The store of a process without role `ca`: reads the database itself, commits through the socket.
pub type RemoteStore = SharedStore<CommitClient>;

impl RemoteStore {
    /// Opens the store in a data directory as one role. Neither database nor server need exist yet.
    ///
    /// Must be called within a tokio runtime, which keeps the connection up until the store is dropped.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub fn connect(data_dir: &Path, role: Role) -> Result<Arc<Self>, OpenError> {
        let metrics = Metrics::default();
        let attached = Attached::default();
        let client = CommitClient::start(super::path(data_dir), role, metrics.clone(), attached.clone());
        Self::reading(data_dir, client, metrics, &attached).map(Arc::new)
    }
}

/// A connection to the commit socket that comes back by itself.
#[derive(Debug)]
pub struct CommitClient {
    link: watch::Receiver<Link>,
    /// Asks for an attempt to connect now.
    hurry: Arc<Notify>,
    waiters: Waiters,
    metrics: Metrics,
    last_id: AtomicU64,
    task: AbortHandle,
}

impl Drop for CommitClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether commits can be sent.
#[derive(Clone, Debug)]
enum Link {
    Connecting,
    Up(mpsc::Sender<Outgoing>),
    Down(StoreError),
}

/// A commit on its way.
#[derive(Debug)]
struct Outgoing {
    id: u64,
    frame: Vec<u8>,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl CommitClient {
    fn start(path: PathBuf, role: Role, metrics: Metrics, attached: Attached) -> Self {
        let (link_state, link) = watch::channel(Link::Connecting);
        let hurry = Arc::new(Notify::new());
        let waiters = Waiters::default();
        let (hurried, woken) = (Arc::clone(&hurry), waiters.clone());
        let keeper = Keeper { path, role, link: link_state, hurry: hurried, waiters: woken, attached };
        let task = tokio::spawn(keeper.run()).abort_handle();
        Self { link, hurry, waiters, metrics, last_id: AtomicU64::new(0), task }
    }

    /// The way to a connected server, after at least one attempt to connect if there is none.
    async fn sender(&self) -> Result<mpsc::Sender<Outgoing>, StoreError> {
        let mut link = self.link.clone();
        let mut hurried = false;
        loop {
            match link.borrow_and_update().clone() {
                Link::Up(sender) => return Ok(sender),
                Link::Down(error) if hurried => return Err(error),
                Link::Down(_) => {
                    hurried = true;
                    self.hurry.notify_one();
                }
                Link::Connecting => hurried = true,
            }
            if link.changed().await.is_err() {
                return Err(StoreError::Busy("the store is closed".to_owned()));
            }
        }
    }

    async fn send(&self, commit: Commit) -> Result<(), StoreError> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed);
        let frame = frame::encode(&RequestRef { id, commit: &commit })
            .map_err(|error| StoreError::Refused(error.to_string()))?;
        let sender = timeout(CONNECT_PATIENCE, self.sender()).await.unwrap_or_else(|_| {
            Err(StoreError::Busy("role 'ca' does not answer on its commit socket".to_owned()))
        })?;
        let (answer, result) = oneshot::channel();
        let unknown =
            |what: &str| StoreError::Busy(format!("{what}; whether the commit was made is not known"));
        let exchange = async {
            if sender.send(Outgoing { id, frame, answer }).await.is_err() {
                return Err(StoreError::Busy("the connection to role 'ca' was lost".to_owned()));
            }
            result.await.unwrap_or_else(|_| Err(unknown("the connection to role 'ca' was lost")))
        };
        timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(unknown("role 'ca' does not answer")))
    }
}

impl Commits for CommitClient {
    /// As the trait says. A [`StoreError::Busy`] after the commit was sent leaves open whether it was made: a repeated
    /// one then conflicts.
    fn commit(&self, commit: Commit) -> StoreResult<'_, ()> {
        let started = Stopwatch::start();
        Box::pin(async move {
            let result = self.send(commit).await;
            self.metrics.committed(started.elapsed().as_secs_f64(), &result);
            result
        })
    }

    fn watch(&self, topic: &Topic) -> BoxFuture<'static, ()> {
        self.waiters.watch(topic.into())
    }
}

/// Keeps the connection up.
struct Keeper {
    path: PathBuf,
    role: Role,
    link: watch::Sender<Link>,
    hurry: Arc<Notify>,
    waiters: Waiters,
    attached: Attached,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            self.link.send_replace(Link::Connecting);
            let down = match self.connect().await {
                Ok((read, write)) => {
                    let (sender, outgoing) = mpsc::channel(QUEUE);
                    // Whoever answers here has the store open. Before the first commit can be sent.
                    self.attached.writer_came();
                    self.link.send_replace(Link::Up(sender));
                    // Changes may have been missed until now.
                    self.waiters.wake_all();
                    backoff = FIRST_BACKOFF;
                    let ended = self.exchange(read, write, outgoing).await;
                    StoreError::Busy(format!("the connection to role 'ca' was lost: {ended}"))
                }
                Err(error) => error,
            };
            tracing::debug!(error = %down, "no connection to the commit socket");
            self.link.send_replace(Link::Down(down));
            tokio::select! {
                () = sleep(backoff) => {}
                () = self.hurry.notified() => {}
            }
            backoff = (backoff * 2).min(LAST_BACKOFF);
        }
    }

    async fn connect(&self) -> Result<(BufReader<OwnedReadHalf>, BufWriter<OwnedWriteHalf>), StoreError> {
        let attempt = async {
            let (read, write) = UnixStream::connect(&self.path).await?.into_split();
            let (mut read, mut write) = (BufReader::new(read), BufWriter::new(write));
            frame::write(&mut write, &Hello { protocol: PROTOCOL, role: self.role }).await?;
            let reply: Option<HelloReply> = frame::read(&mut read, MAX_HELLO).await?;
            io::Result::Ok((reply, read, write))
        };
        let busy = |what: String| {
            StoreError::Busy(format!("role 'ca' can't be reached through {}: {what}", self.path.display()))
        };
        match timeout(HELLO_TIMEOUT, attempt).await {
            Ok(Ok((Some(HelloReply::Welcome), read, write))) => Ok((read, write)),
            Ok(Ok((Some(HelloReply::Refused(reason)), ..))) => Err(StoreError::Refused(reason)),
            Ok(Ok((None, ..))) => Err(busy("it closed the connection".to_owned())),
            Ok(Err(error)) => Err(busy(error.to_string())),
            Err(_) => Err(busy("it does not answer".to_owned())),
        }
    }

    /// Sends commits and takes answers until the connection ends; returns why it did.
    async fn exchange(
        &self,
        read: BufReader<OwnedReadHalf>,
        write: BufWriter<OwnedWriteHalf>,
        outgoing: mpsc::Receiver<Outgoing>,
    ) -> io::Error {
        let pending = Pending::default();
        let mut receiving = std::pin::pin!(self.receive(read, &pending));
        let ended = tokio::select! {
            ended = &mut receiving => ended,
            // A server that stops takes no further commits, and has answered those that it took: read that first.
            ended = send(write, outgoing, &pending) => {
                timeout(LAST_ANSWERS, receiving).await.unwrap_or(ended)
            }
        };
        ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn receive(&self, mut read: BufReader<OwnedReadHalf>, pending: &Pending) -> io::Result<()> {
        while let Some(message) = frame::read(&mut read, MAX_FRAME).await? {
            match message {
                ServerMessage::Answer { id, error } => {
                    let answer = pending.lock().remove(&id);
                    if let Some(answer) = answer {
                        // Whoever asked may have gone.
                        let _ = answer.send(error.map_or(Ok(()), Err));
                    }
                }
                ServerMessage::Changed(topics) => self.waiters.wake(&topics),
                ServerMessage::ChangedAll => self.waiters.wake_all(),
            }
        }
        Ok(())
    }
}

/// Commits that were sent and not answered.
#[derive(Default)]
struct Pending(Mutex<HashMap<u64, oneshot::Sender<Result<(), StoreError>>>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<(), StoreError>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(
    mut write: BufWriter<OwnedWriteHalf>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    pending: &Pending,
) -> io::Result<()> {
    while let Some(first) = outgoing.recv().await {
        let mut next = Some(first);
        while let Some(Outgoing { id, frame, answer }) = next {
            pending.lock().insert(id, answer);
            write.write_all(&frame).await?;
            next = outgoing.try_recv().ok();
        }
        write.flush().await?;
    }
    Ok(())
}
