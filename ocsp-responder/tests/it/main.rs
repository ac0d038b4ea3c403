//! Tests of the OCSP responder on the real store and real keys, filed by RFC section, with openssl as a judge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod hostile;
mod openssl;
mod operation;
mod pki;
mod responder_certificate;
mod rfc5019;
mod rfc6960;
mod rfc9654;
