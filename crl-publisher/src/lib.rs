//! Says when a CRL is due, and serves CRLs and CA certificates. RFC 5280 §4.2.1.13, §4.2.2.1, §5; RFC 2585.
//!
//! [`due`] decides (pure), [`Publisher::tick`] asks the `ca` role to sign, [`Publisher::refresh`] takes up what was
//! signed, and [`Publisher::handle`] serves it from memory. It holds no key, and goes on serving while `ca` is away.

#![forbid(unsafe_code)]

mod config;
mod document;
mod files;
mod metrics;
mod publisher;
mod schedule;
mod serve;

pub use config::{Config, ConfigError};
pub use metrics::Metrics;
pub use publisher::{PublishError, Publisher};
pub use schedule::due;
pub use serve::serves;
