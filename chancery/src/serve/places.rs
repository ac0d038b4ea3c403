//! Looks after what a running CA stands on in its data directory: `ca.lock` and the sockets in `run/`, which somebody
//! who tidies up may remove. The kernel goes on serving the removed files, so only looking at the paths tells.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use store::lock::{CaLock, LockError};
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers};
use store::sqlite::SqliteStore;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::execute::Administration;
use crate::admin::socket as admin_socket;
use crate::data::DataDir;

/// How often the paths are looked at: a few calls of stat(2).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The file that a path leads to: its device and inode.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A path that was ours at one time.
struct Place {
    path: PathBuf,
    ours: Option<Identity>,
    /// Already told of.
    told: bool,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Ours,
    Gone,
    Another,
}

impl Place {
    fn new(path: PathBuf) -> Self {
        let mut place = Self { path, ours: None, told: false };
        place.take();
        place
    }

    /// Takes what is there now for ours.
    fn take(&mut self) {
        self.ours = identity(&self.path).ok().flatten();
        self.told = false;
    }

    fn look(&self) -> Found {
        match identity(&self.path) {
            Ok(None) => Found::Gone,
            Ok(found) if found != self.ours => Found::Another,
            // What can't be looked at is not known to be wrong.
            Ok(_) | Err(_) => Found::Ours,
        }
    }
}

/// The lock of the process that writes, for as long as this lives.
pub(super) struct HeldLock {
    data: DataDir,
    state: Mutex<LockState>,
}

struct LockState {
    place: Place,
    /// The first, and those that were taken after somebody removed its file.
    held: Vec<CaLock>,
    problem: Option<String>,
}

impl HeldLock {
    /// Looks after a lock that was just taken.
    pub(super) fn new(data: &DataDir, lock: CaLock) -> Self {
        let place = Place::new(data.path().join("ca.lock"));
        Self { data: data.clone(), state: Mutex::new(LockState { place, held: vec![lock], problem: None }) }
    }

    /// Why another process may be writing the same store, if so.
    pub(super) fn problem(&self) -> Option<String> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Looks at the file, and takes the lock again if it is gone; blocks for a moment.
    fn look(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = state.place.look();
        if state.problem.is_some() || found == Found::Ours {
            return;
        }
        let path = state.place.path.display().to_string();
        let problem = if found == Found::Another {
            format!(
                "{path} was replaced while this process served, so another one may have written the store"
            )
        } else {
            match CaLock::acquire(self.data.path()) {
                Ok(lock) => {
                    tracing::error!(
                        path,
                        "the lock's file was removed while this process serves; it is locked again: leave it where it is"
                    );
                    state.held.push(lock);
                    state.place.take();
                    return;
                }
                // Nothing is known yet; the next look tries again.
                Err(LockError::Io { .. }) if state.place.told => return,
                Err(error @ LockError::Io { .. }) => {
                    tracing::error!(path, %error, "the lock's file was removed, and can't be made again; it is tried again");
                    state.place.told = true;
                    return;
                }
                Err(LockError::Held { pid }) => {
                    let other =
                        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                    format!(
                        "{path} was removed while this process served, and {other} holds it now: two write one store"
                    )
                }
            }
        };
        let problem = format!("{problem}; stop all of them, run `chancery doctor`, and start one");
        tracing::error!(problem, "the lock of this data directory is not ours any more");
        state.problem = Some(problem);
    }
}

/// What is needed to bind the sockets again.
pub(super) struct Places {
    pub(super) data: DataDir,
    pub(super) lock: Arc<HeldLock>,
    pub(super) store: Arc<SqliteStore>,
    pub(super) peers: Peers,
    pub(super) administration: Arc<Administration>,
    pub(super) requests: watch::Receiver<bool>,
    pub(super) work: watch::Receiver<bool>,
}

impl Places {
    /// Looks after them until `work` is to stop; the sockets are bound when it is called.
    pub(super) async fn look_after(mut self) {
        let mut commits = Place::new(self.data.path().join("run/store.sock"));
        let mut administrators = Place::new(self.data.admin_socket());
        let mut servers = JoinSet::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = self.work.wait_for(|stop| *stop) => break,
            }
            let lock = Arc::clone(&self.lock);
            let looked = tokio::task::spawn_blocking(move || {
                lock.look();
                let found = [commits.look(), administrators.look()];
                (commits, administrators, found)
            });
            let Ok(looked) = looked.await else { return };
            let found;
            (commits, administrators, found) = looked;
            // Without the lock, what is there now may be another process's.
            let may_bind = self.lock.problem().is_none();
            for (place, found) in [&mut commits, &mut administrators].into_iter().zip(found) {
                match found {
                    Found::Ours => {}
                    Found::Gone if may_bind => {
                        let bound = if place.path.ends_with("store.sock") {
                            self.serve_commits(&mut servers)
                        } else {
                            self.serve_administrators(&mut servers)
                        };
                        self.tell(place, bound);
                    }
                    Found::Gone | Found::Another if !place.told => {
                        place.told = true;
                        tracing::error!(
                            path = %place.path.display(),
                            "the socket was taken away or replaced while this process serves, and nobody reaches it there; \
                             remove what is in its place, or restart this process"
                        );
                    }
                    Found::Gone | Found::Another => {}
                }
            }
        }
        while servers.join_next().await.is_some() {}
    }

    fn tell(&self, place: &mut Place, bound: io::Result<()>) {
        let path = place.path.display().to_string();
        match bound {
            Ok(()) => {
                tracing::error!(
                    path,
                    "the socket was removed while this process serves; it is bound again: leave it where it is"
                );
                place.take();
            }
            Err(error) if !place.told => {
                tracing::error!(path, %error, "the socket was removed while this process serves, and can't be bound again; check the modes of run/");
                place.told = true;
            }
            Err(_) => {}
        }
    }

    /// Beside the server whose path is gone, which goes on with the clients that it has.
    fn serve_commits(&self, servers: &mut JoinSet<()>) -> io::Result<()> {
        let server = CommitServer::bind(self.data.path(), Sharing::detect(), self.peers.clone())?;
        let mut stopping = self.work.clone();
        servers.spawn(server.serve(Arc::clone(&self.store), async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }));
        Ok(())
    }

    fn serve_administrators(&self, servers: &mut JoinSet<()>) -> io::Result<()> {
        let listener = admin_socket::bind(&self.data.admin_socket())?;
        servers.spawn(admin_socket::serve(listener, Arc::clone(&self.administration), self.requests.clone()));
        Ok(())
    }
}
