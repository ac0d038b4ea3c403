//! Validation of control over identifiers: fetches what a challenge asks for, within the egress policy and within
//! bounds of time and size, and has ca-core judge it. RFC 8555 §8, RFC 8659, RFC 8737, RFC 8738.
//!
//! [`Validator`] makes the attempts and retries, a [`Prober`] carries one attempt out, and
//! [`Challenge::judge`](ca_core::acme::challenge::Challenge::judge) decides. All that comes from the far side is
//! hostile: every address is vetted by [`Egress`] after it was resolved and the connection goes to that very address,
//! on every redirect anew; every read has an end; of what was read the requester sees at most 64 escaped bytes.

mod caa;
pub(crate) mod device_attest01;
mod dns01;
mod egress;
mod http01;
mod network;
mod race;
mod redirect;
mod resolver;
mod tls;
mod tls_alpn01;
mod validator;

use ca_core::BoxFuture;
use ca_core::acme::challenge::{Observed, Probe};

pub use egress::{Denied, Egress};
pub use network::{Limits, NetworkProber, ProberConfig, ProberError};
pub use validator::{Validated, Validation, Validator};

/// Carries out what a challenge asks to fetch.
pub trait Prober: Send + Sync {
    /// Makes one attempt. What went wrong is part of the result.
    fn probe(&self, probe: Probe) -> BoxFuture<'_, Observed>;
}
