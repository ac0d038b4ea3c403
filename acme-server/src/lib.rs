//! The ACME front end, [RFC 8555](https://www.rfc-editor.org/rfc/rfc8555): JOSE, wire JSON, handlers, validation and
//! problem documents.
//!
//! It authenticates requests, keeps accounts, orders and authorizations, and validates control over identifiers. It
//! holds no CA key and issues nothing: what it commits is a request, which the `ca` role judges again.

#![forbid(unsafe_code)]

pub mod client_address;
pub mod config;
mod eab;
pub mod fuzz;
mod handlers;
pub mod jose;
pub mod limits;
mod links;
mod metrics;
mod nonce;
mod problem;
mod renewals;
pub mod sealing;
mod service;
pub mod validation;
mod validations;
mod verified;
mod wire;

pub use config::{Config, ConfigError, DirectorySettings};
pub use metrics::Metrics;
pub use nonce::{BadNonce, Nonces};
pub use problem::{Problem, ProblemType, Subproblem};
pub use service::{Deps, Service};
pub use wire::IdentifierBody;
