//! The commit socket `run/store.sock`: how a role in another process commits, and hears of what others committed.
//!
//! The process with role `ca` serves it ([`CommitServer`]); other processes read the database themselves and commit
//! through it ([`RemoteStore`]). The kernel tells the server the peer's uid, which fixes the roles it may act as;
//! [`ca_core::store::permits`] says what a role may commit.

mod client;
mod frame;
mod server;

use std::path::{Path, PathBuf};

use ca_core::store::{Commit, Role, StoreError, TopicKey};
use serde::{Deserialize, Serialize};

pub use client::{CommitClient, RemoteStore};
pub use server::{CommitServer, Peers};

/// The protocol's version; client and server must have the same.
const PROTOCOL: u32 = 1;

/// Where the socket stands in a data directory.
#[must_use]
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("store.sock")
}

/// The client's first frame.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    protocol: u32,
    role: Role,
}

/// The server's first frame.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HelloReply {
    Welcome,
    /// Why not, for the operator.
    Refused(String),
}

/// What a client sends after that. Answers come in any order.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    id: u64,
    commit: Commit,
}

/// As [`Request`], without taking the commit.
#[derive(Debug, Serialize)]
struct RequestRef<'a> {
    id: u64,
    commit: &'a Commit,
}

/// What the server sends after that.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ServerMessage {
    /// How a commit ended.
    Answer { id: u64, error: Option<StoreError> },
    /// The doorbell: these topics changed, by anybody's commit.
    Changed(Vec<TopicKey>),
    /// The client was too slow to be told of each: any topic may have changed.
    ChangedAll,
}
