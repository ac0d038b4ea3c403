//! Randomness from aws-lc-rs, for those who pass it down as `&mut impl CryptoRng`.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};

/// The operating system's randomness through aws-lc's DRBG.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    #[allow(
        clippy::expect_used,
        reason = "aws-lc aborts rather than return weak randomness; it never reports failure"
    )]
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        aws_lc_rs::rand::fill(bytes).expect("aws-lc's generator never fails");
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}
