//! An OCSP responder with a delegated key of its own. RFC 6960, RFC 5019, RFC 9654.
//!
//! [`Responder`] reads a certificate's status with one point read, signs the answer with a short-lived key that the
//! issuer delegated to, and keeps signed answers until the status changes. It never touches an issuing key, and goes
//! on answering while the `ca` role is away.

#![forbid(unsafe_code)]

mod cache;
mod config;
mod credential;
mod message;
mod metrics;
mod responder;
mod state;

pub use config::{Config, ConfigError};
pub use credential::MaintainError;
pub use message::{decode_get, serves};
pub use metrics::Metrics;
pub use responder::Responder;
