//! Listening sockets and the connections on them.

pub mod connections;
pub mod metrics;
pub mod pki;
pub mod places;
pub mod progress;
pub mod sockets;
pub mod tls;
