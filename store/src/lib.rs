//! The shared store: SQLite with one writing process and group commit, read-only readers in other processes, and the
//! socket through which those commit.
//!
//! [`sqlite::Writer`] opens it in the process that has role `ca`, [`socket::RemoteStore`] in every other one; both
//! are a [`ca_core::store::Store`].

#![forbid(unsafe_code)]

pub mod lock;
pub mod metrics;
pub mod permissions;
pub mod socket;
pub mod sqlite;
mod waiters;

pub use metrics::Metrics;
