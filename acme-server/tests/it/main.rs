//! Tests of the ACME service over its router and, for validation, over loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod config;
mod fuzz;
mod rfc8555;
mod rfc8738;
mod service;
mod support;
mod validation;
