//! Tests of the CRL publisher on the real store, keys and authority.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod http;
mod openssl;
mod pki;
mod publication;
mod schedule;
