//! X.509 structures: DER in and out, no policy.

pub mod certificate;
pub mod crl;
pub mod csr;
pub mod device;
pub mod extensions;
pub mod identifier;
pub mod name;
pub mod ocsp;
pub mod public_key;
pub mod serial;
pub mod signed;
