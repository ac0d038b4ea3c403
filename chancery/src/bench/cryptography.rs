//! How many P-256 signatures and verifications one core makes: what an order's CPU time is read against.

use std::time::Duration;

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use ca_core::time::Stopwatch;
use serde::Serialize;

use super::latency::rate;

/// How long each is measured.
const MEASURED_FOR: Duration = Duration::from_millis(300);

/// Operations a second on one core.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cryptography {
    /// Signatures.
    pub signs_per_second: f64,
    /// Verifications.
    pub verifies_per_second: f64,
}

impl Cryptography {
    /// Measures this core, now.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn measure() -> Result<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| anyhow!("cannot generate a P-256 key"))?;
        let sign =
            || key.sign(&random, b"what a certificate authority signs").map_err(|_| anyhow!("cannot sign"));
        let signature = sign()?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
        let signs_per_second = repeat(|| sign().map(drop))?;
        let verifies_per_second = repeat(|| {
            let verified = public.verify(b"what a certificate authority signs", signature.as_ref());
            verified.map_err(|_| anyhow!("a signature does not verify"))
        })?;
        Ok(Self { signs_per_second, verifies_per_second })
    }

    /// The faster of two measurements: what slowed the other was not the processor.
    #[must_use]
    pub fn best(self, other: Self) -> Self {
        Self {
            signs_per_second: self.signs_per_second.max(other.signs_per_second),
            verifies_per_second: self.verifies_per_second.max(other.verifies_per_second),
        }
    }

    /// The seconds that an order's own cryptography takes: its signed requests, the CSR and two checks of what was
    /// signed are verified; certificate and OCSP response are signed.
    #[must_use]
    pub fn of_order(self, requests: f64) -> f64 {
        (requests + 3.0) / self.verifies_per_second + 2.0 / self.signs_per_second
    }
}

fn repeat(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let watch = Stopwatch::start();
    let mut count = 0;
    while watch.elapsed() < MEASURED_FOR {
        work()?;
        count += 1;
    }
    Ok(rate(count, watch.elapsed()))
}
