//! The serving side of the commit socket, in the process with role `ca`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use ca_core::store::{Commits, Role, StoreError, TopicKey, permits};
use ca_core::time::{Clock, SystemClock};
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frame::{self, MAX_FRAME, MAX_HELLO};
use super::{Hello, HelloReply, PROTOCOL, Request, ServerMessage};
use crate::permissions::Sharing;
use crate::sqlite::SqliteStore;

/// How many clients may be connected.
const MAX_CLIENTS: usize = 64;
/// How many commits of one client may be under way.
const MAX_IN_FLIGHT: usize = 256;
/// How long a client may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client that leaves, or that we leave, has to take the answers to its last commits.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// How long to leave off accepting when the system can't (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which user may act as which role.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// The uid that owns the data: may act as any role that it names.
    pub owner: u32,
    /// Other uids with the roles they may act as.
    pub roles: Vec<(u32, Role)>,
}

impl Peers {
    /// Whether a peer may act as a role.
    ///
    /// # Errors
    /// A sentence for the operator.
    fn admit(&self, uid: u32, role: Role) -> Result<(), String> {
        if uid == self.owner || self.roles.contains(&(uid, role)) {
            return Ok(());
        }
        let own: Vec<&str> =
            self.roles.iter().filter(|(user, _)| *user == uid).map(|(_, role)| role.name()).collect();
        Err(if own.is_empty() {
            format!("uid {uid} has no role here: name its user under store.role_users")
        } else {
            format!("uid {uid} acts as {}, not as {role}: see store.role_users", own.join(", "))
        })
    }
}

/// A bound commit socket.
#[derive(Debug)]
pub struct CommitServer {
    listener: UnixListener,
    path: PathBuf,
    peers: Peers,
}

impl CommitServer {
    /// Binds `run/store.sock` in a data directory; creates `run/`, replaces a socket that a dead process left.
    ///
    /// The caller holds [`crate::lock::CaLock`], so no living process serves the socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn bind(data_dir: &Path, sharing: Sharing, peers: Peers) -> io::Result<Self> {
        let path = super::path(data_dir);
        sharing.directory(&data_dir.join("run"))?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Until here the directory alone keeps others out; whoever slips in is judged by uid all the same.
        sharing.socket(&path)?;
        Ok(Self { listener, path, peers })
    }

    /// Serves until `shutdown` resolves; then takes no further commits, and answers those under way.
    pub async fn serve(self, store: Arc<SqliteStore>, shutdown: impl Future<Output = ()>) {
        let (stop, stopping) = watch::channel(());
        let peers = Arc::new(self.peers);
        let mut clients = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            while clients.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept(), if clients.len() < MAX_CLIENTS => accepted,
                Some(_) = clients.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (store, peers, stopping) = (Arc::clone(&store), Arc::clone(&peers), stopping.clone());
                    clients.spawn(async move {
                        if let Err(error) = serve_client(stream, &store, &peers, stopping).await {
                            tracing::warn!(%error, "a client of the commit socket was cut off");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the commit socket can't accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        // Clients then see at once that nobody is there.
        let _ = fs::remove_file(&self.path);
        drop(stop);
        while clients.join_next().await.is_some() {}
    }
}

async fn serve_client(
    stream: UnixStream,
    store: &Arc<SqliteStore>,
    peers: &Peers,
    mut stopping: watch::Receiver<()>,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, write) = stream.into_split();
    let (mut read, mut write) = (BufReader::new(read), BufWriter::new(write));
    let hello = timeout(HELLO_TIMEOUT, frame::read::<Hello>(&mut read, MAX_HELLO)).await??;
    let Some(hello) = hello else {
        return Ok(());
    };
    let admitted = if hello.protocol == PROTOCOL {
        peers.admit(uid, hello.role)
    } else {
        let other = hello.protocol;
        Err(format!(
            "role 'ca' speaks version {PROTOCOL} of the commit protocol, not {other}: run one version of the program"
        ))
    };
    if let Err(reason) = admitted {
        tracing::warn!(uid, role = %hello.role, %reason, "a client of the commit socket was refused");
        return frame::write(&mut write, &HelloReply::Refused(reason)).await;
    }
    // From before the welcome on, so that the client misses nothing after it.
    let doorbell = store.commits().doorbell();
    frame::write(&mut write, &HelloReply::Welcome).await?;
    let (answers, to_send) = mpsc::channel(MAX_IN_FLIGHT);
    let sending = tokio::spawn(send(write, to_send, doorbell));
    let received = tokio::select! {
        received = receive(&mut read, hello.role, store, answers) => received,
        // The sender is never used: this resolves when it is dropped.
        _ = stopping.changed() => Ok(()),
    };
    // Ends when the last commit under way was answered, or the client does not take its answers.
    let abort = sending.abort_handle();
    let sent = match timeout(LAST_ANSWERS, sending).await {
        Ok(ended) => ended.unwrap_or(Ok(())),
        Err(elapsed) => {
            abort.abort();
            Err(elapsed.into())
        }
    };
    received.and(sent)
}

/// Takes commits until the client leaves.
async fn receive(
    read: &mut BufReader<OwnedReadHalf>,
    role: Role,
    store: &Arc<SqliteStore>,
    answers: mpsc::Sender<ServerMessage>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    while let Some(Request { id, commit }) = frame::read(read, MAX_FRAME).await? {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let (store, answers) = (Arc::clone(store), answers.clone());
        tokio::spawn(async move {
            let result = match permits(role, &commit, SystemClock.now()) {
                Ok(()) => store.commit(commit).await,
                Err(error) => Err(error),
            };
            if let Err(StoreError::Refused(reason)) = &result {
                tracing::warn!(%role, %reason, "a commit was refused");
            }
            // The client may have gone; the commit stands.
            let _ = answers.send(ServerMessage::Answer { id, error: result.err() }).await;
            drop(place);
        });
    }
    Ok(())
}

/// Sends answers and the doorbell until no further answer can come.
async fn send(
    mut write: BufWriter<OwnedWriteHalf>,
    mut answers: mpsc::Receiver<ServerMessage>,
    mut doorbell: broadcast::Receiver<Arc<BTreeSet<TopicKey>>>,
) -> io::Result<()> {
    loop {
        let message = tokio::select! {
            answer = answers.recv() => match answer {
                Some(answer) => answer,
                None => return write.flush().await,
            },
            rung = doorbell.recv() => match rung {
                Ok(topics) => ServerMessage::Changed(topics.iter().cloned().collect()),
                Err(broadcast::error::RecvError::Lagged(_)) => ServerMessage::ChangedAll,
                // The store's writer has ended; answers still come.
                Err(broadcast::error::RecvError::Closed) => match answers.recv().await {
                    Some(answer) => answer,
                    None => return write.flush().await,
                },
            },
        };
        write.write_all(&frame::encode(&message)?).await?;
        while let Ok(answer) = answers.try_recv() {
            write.write_all(&frame::encode(&answer)?).await?;
        }
        write.flush().await?;
    }
}
