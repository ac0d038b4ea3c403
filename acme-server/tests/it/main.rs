//! Tests of the ACME service over its router and, for validation, over loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod config;
mod device_attest;
mod directories;
mod drafts;
mod fuzz;
mod load;
mod objects;
mod profiles;
mod rfc8555;
mod rfc8657;
mod rfc8659;
mod rfc8738;
mod rfc8739;
mod rfc9444;
mod rfc9773;
mod service;
mod support;
mod validation;
mod validity;
