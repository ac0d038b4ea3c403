//! What every command answers when it could not do its work: a stable code, what happened, and what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failed command, as `--json` prints it and as the admin socket carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Names the kind of failure; stable, for programs.
    pub code: Code,
    /// What happened, for people.
    pub detail: String,
    /// What to do next.
    pub fix: String,
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The command line asks for something that can't be.
    Usage,
    /// The configuration is wrong.
    Configuration,
    /// The data directory holds no CA yet.
    NotInitialised,
    /// The data directory holds one already.
    AlreadyInitialised,
    /// The data directory can't be used by this user.
    DataDirectory,
    /// Another process serves this data directory.
    Locked,
    /// A listener's address can't be had.
    Address,
    /// A key or its token.
    Keys,
    /// A wrong PIN or passphrase.
    Pin,
    /// The store.
    Store,
    /// There is no such row.
    NotFound,
    /// The thing's state does not allow it.
    Conflict,
    /// The CA refused or failed.
    Authority,
    /// The server did not answer as expected.
    Server,
    /// A check of `doctor` failed.
    Unhealthy,
    /// The operating system refused something else.
    System,
}

impl Code {
    /// The code's name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Configuration => "configuration",
            Self::NotInitialised => "not_initialised",
            Self::AlreadyInitialised => "already_initialised",
            Self::DataDirectory => "data_directory",
            Self::Locked => "locked",
            Self::Address => "address",
            Self::Keys => "keys",
            Self::Pin => "pin",
            Self::Store => "store",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Authority => "authority",
            Self::Server => "server",
            Self::Unhealthy => "unhealthy",
            Self::System => "system",
        }
    }
}

impl Code {
    /// What the process ends with. A wrong PIN has a status of its own, so that a service manager does not try it
    /// again until the token locks itself.
    #[must_use]
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Pin => 3,
            _ => 1,
        }
    }
}

impl Failure {
    /// A failure with what happened and what to do next.
    #[must_use]
    pub fn new(code: Code, detail: impl fmt::Display, fix: impl Into<String>) -> Self {
        Self { code, detail: detail.to_string(), fix: fix.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Failure {}
