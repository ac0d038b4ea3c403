//! Anti-replay nonces, [RFC 8555 §6.5](https://www.rfc-editor.org/rfc/rfc8555#section-6.5), in constant memory.
//!
//! A nonce is a node id, a counter, and a MAC over both under a key of this process. Which of the last
//! [`Nonces::WINDOW`] counters were used is one bit each; older ones count as used. Nothing is stored: after a restart
//! every nonce is refused, and the refusal carries a fresh one, with which clients try again by themselves.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::random::SystemRandom;
use rand_core::Rng;

/// Gives nonces out and takes each back once.
pub struct Nonces {
    node: [u8; 4],
    key: hmac::Key,
    window: Mutex<Window>,
}

struct Window {
    /// The next counter to give out.
    next: u64,
    /// Bit `counter % WINDOW`: whether that counter was used.
    used: Box<[u64]>,
}

/// A nonce was not given out by this process, is too old, or was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadNonce;

impl Nonces {
    /// How many nonces are good at a time: one million, in 128 KiB.
    pub const WINDOW: u64 = 1 << 20;

    const COUNTER: std::ops::Range<usize> = 4..12;
    const MAC: std::ops::Range<usize> = 12..28;

    /// With a new key and a new node id.
    #[must_use]
    pub fn new() -> Self {
        let mut seed = [0; 36];
        SystemRandom.fill_bytes(&mut seed);
        let (node, key) = seed.split_at(4);
        Self {
            node: [node[0], node[1], node[2], node[3]],
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            window: Mutex::new(Window { next: 0, used: vec![0; Self::WORDS].into_boxed_slice() }),
        }
    }

    const WORDS: usize = 1 << 14;

    /// A fresh nonce: 38 characters of base64url.
    #[must_use]
    pub fn issue(&self) -> String {
        let counter = self.window.lock().unwrap_or_else(PoisonError::into_inner).issue();
        let mut octets = [0; 28];
        octets[..4].copy_from_slice(&self.node);
        octets[Self::COUNTER].copy_from_slice(&counter.to_be_bytes());
        let mac = hmac::sign(&self.key, &octets[..Self::MAC.start]);
        octets[Self::MAC].copy_from_slice(&mac.as_ref()[..16]);
        BASE64_URL_SAFE_NO_PAD.encode(octets)
    }

    /// Takes a nonce back; it is good once.
    ///
    /// # Errors
    /// [`BadNonce`].
    pub fn redeem(&self, nonce: &str) -> Result<(), BadNonce> {
        let octets = BASE64_URL_SAFE_NO_PAD.decode(nonce).map_err(|_| BadNonce)?;
        let octets: [u8; 28] = octets.try_into().map_err(|_| BadNonce)?;
        let mac = hmac::sign(&self.key, &octets[..Self::MAC.start]);
        constant_time::verify_slices_are_equal(&mac.as_ref()[..16], &octets[Self::MAC])
            .map_err(|_| BadNonce)?;
        let counter = octets[Self::COUNTER].try_into().map(u64::from_be_bytes).map_err(|_| BadNonce)?;
        if self.window.lock().unwrap_or_else(PoisonError::into_inner).redeem(counter) {
            Ok(())
        } else {
            Err(BadNonce)
        }
    }
}

impl Default for Nonces {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").finish_non_exhaustive()
    }
}

impl Window {
    fn issue(&mut self) -> u64 {
        let counter = self.next;
        self.next = counter.wrapping_add(1);
        let (word, bit) = place(counter);
        if let Some(word) = self.used.get_mut(word) {
            *word &= !bit;
        }
        counter
    }

    fn redeem(&mut self, counter: u64) -> bool {
        // The MAC vouches that the counter was given out, so it is below `next`.
        if self.next.wrapping_sub(counter) > Nonces::WINDOW {
            return false;
        }
        let (word, bit) = place(counter);
        match self.used.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
}

/// The word and the bit of a counter.
fn place(counter: u64) -> (usize, u64) {
    let index = counter % Nonces::WINDOW;
    (usize::try_from(index / 64).unwrap_or(0), 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once() {
        let nonces = Nonces::new();
        let (a, b) = (nonces.issue(), nonces.issue());
        assert_eq!(nonces.redeem(&b), Ok(()));
        assert_eq!(nonces.redeem(&b), Err(BadNonce));
        assert_eq!(nonces.redeem(&a), Ok(()));
        assert_eq!(nonces.redeem(&a), Err(BadNonce));
    }

    #[test]
    fn nonces_of_others_and_altered_ones_are_refused() {
        let nonces = Nonces::new();
        assert_eq!(nonces.redeem(&Nonces::new().issue()), Err(BadNonce));
        let good = nonces.issue();
        for index in 0..good.len() {
            let mut altered = good.clone().into_bytes();
            altered[index] = if altered[index] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(nonces.redeem(&altered), Err(BadNonce), "{altered}");
        }
        for bad in ["", "A", &good[1..], &format!("{good}A"), &format!("{good}==")] {
            assert_eq!(nonces.redeem(bad), Err(BadNonce));
        }
        assert_eq!(nonces.redeem(&good), Ok(()));
    }

    #[test]
    fn the_oldest_nonce_of_the_window_is_good_and_the_one_before_it_is_not() {
        let nonces = Nonces::new();
        let (too_old, oldest) = (nonces.issue(), nonces.issue());
        for _ in 1..Nonces::WINDOW {
            nonces.window.lock().unwrap().issue();
        }
        assert_eq!(nonces.redeem(&too_old), Err(BadNonce));
        assert_eq!(nonces.redeem(&oldest), Ok(()));
        let newest = nonces.issue();
        assert_eq!(nonces.redeem(&oldest), Err(BadNonce));
        assert_eq!(nonces.redeem(&newest), Ok(()));
    }
}
