//! Listening sockets and the connections on them.

pub mod connections;
pub mod metrics;
pub mod pki;
pub mod sockets;
pub mod tls;
