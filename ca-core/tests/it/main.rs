//! Tests of ca-core through its public interface, on the real store and software keys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test reports by panicking, also in its helper functions"
)]

mod authority;
mod ca;
mod caa;
mod csr;
mod external_accounts;
mod hierarchy;
mod limits;
mod orders;
mod policy_hook;
mod renewal;
mod star;
