//! device-attest-01: nothing is fetched; the attestation that came with the client's response is judged at once
//! ([draft-ietf-acme-device-attest-10 §5](https://datatracker.ietf.org/doc/html/draft-ietf-acme-device-attest-10#section-5))
//! and not kept, since it may say more of a device than its order does (§7.2).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::acme::attestation::{self, Trust};
use ca_core::acme::challenge::{Attempt, Proven, ValidationFailure};
use ca_core::time::Timestamp;
use serde_json::Value;

use super::Validation;

/// The attestation object in a response's `attObj`; `None` if there is none in base64url.
#[must_use]
pub(crate) fn attestation_object(att_obj: Option<&Value>) -> Option<Vec<u8>> {
    let text = att_obj?.as_str().filter(|text| !text.is_empty())?;
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}

/// The one attempt that there is.
pub(super) fn attempt(
    trust: &Trust,
    asked: &Validation,
    attestation: Option<&[u8]>,
    now: Timestamp,
) -> (Attempt, Result<Proven, ValidationFailure>) {
    let outcome =
        attestation::judge(&asked.challenge, &asked.identifier, &asked.claimant, attestation, trust, now);
    let attempt = Attempt { at: now, addresses: Vec::new(), failure: outcome.clone().err(), caa: None };
    (attempt, outcome)
}
