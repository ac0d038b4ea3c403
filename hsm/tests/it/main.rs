//! Tests of the key backends: one battery on both, and what only one of them has.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod battery;
mod config;
mod openssl;
mod pkcs11;
mod softhsm;
mod software;
