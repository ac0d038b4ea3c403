//! The certificate authority itself, as values and functions.
//!
//! Here are certificates, CRLs, OCSP, profiles, policy, lint, the ACME state machines and the audit events, and
//! [`authority`], which carries effects out over the traits [`signing::KeyBackend`] and [`store::Store`].
//! The crate does no I/O, reads no clock, knows no HTTP, JSON or SQL, and has no unsafe code: whatever it needs of the
//! world comes in as an argument or stands behind a trait.

#![forbid(unsafe_code)]

pub mod acme;
pub mod audit;
pub mod authority;
pub mod fuzz;
pub mod id;
pub mod issuance;
pub mod lint;
pub mod pkix;
pub mod policy;
pub mod policy_hook;
pub mod profile;
pub mod random;
pub mod revocation;
pub mod signing;
pub mod store;
pub mod time;

/// A boxed future, so that the store and key traits can be used as `Arc<dyn …>`.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
