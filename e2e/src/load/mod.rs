//! Load on an ACME server and an OCSP responder, and what it is measured against: orders and requests per second, their
//! latency and their CPU, beside the syncs and signatures that this machine can do.
//!
//! Nothing here knows how the server was started: [`acme`] and [`ocsp`] take URLs. One thread drives every client, so
//! that the generator takes at most one core from a server on the same machine; its own CPU is measured too.

pub mod acme;
pub mod clock;
pub mod connection;
pub mod http01;
pub mod jose;
pub mod latency;
pub mod level;
pub mod machine;
pub mod ocsp;
pub mod report;
