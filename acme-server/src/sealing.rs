//! Secrets that only role acme can open: MAC keys of external accounts, sealed by hybrid public-key encryption,
//! [RFC 9180](https://www.rfc-editor.org/rfc/rfc9180), to a key whose private half never leaves this role.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::acme::DirectoryName;
use ca_core::acme::external_account::SealedKey;
use ca_core::id::ExternalAccountId;
use ca_core::pkix::public_key::{KeyHash, sha256};
use rand_core::CryptoRng;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

/// What the encryption is for, RFC 9180 §5.1.
const INFO: &[u8] = b"chancery external account MAC key, version 1";

/// The octets of a private key, and of a public key, RFC 9180 §7.1.
const KEY_OCTETS: usize = 32;

/// A secret could not be sealed or opened; the operator acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealingError {
    /// What was read is no pair of keys.
    #[error("the sealing key can't be read: it must be {} octets, a private and its public key", 2 * KEY_OCTETS)]
    NoKey,
    /// The public key is none.
    #[error("nothing can be sealed to the published key: it is no X25519 key")]
    NoPublicKey,
    /// It was sealed to another key.
    #[error("the secret was sealed to another key than this role has")]
    OtherKey,
    /// It was changed, or belongs to another row.
    #[error("the sealed secret does not open: it was changed, or taken from another row")]
    Damaged,
}

/// A MAC key in the clear: shown once to the operator, opened to verify a binding. Never stored or logged.
pub struct MacKey(Zeroizing<Vec<u8>>);

impl MacKey {
    /// 64 octets: as long as the longest hash that it will be used with, RFC 7518 §3.2.
    const OCTETS: usize = 64;

    /// A new key.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut octets = Zeroizing::new(vec![0; Self::OCTETS]);
        rng.fill_bytes(&mut octets);
        Self(octets)
    }

    /// In base64url without padding, as clients take it.
    #[must_use]
    pub fn to_base64url(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(&*self.0))
    }

    /// The octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// The pair of keys that secrets are sealed to and opened with.
pub struct SealingKey {
    private: HpkePrivateKey,
    public: Vec<u8>,
}

impl SealingKey {
    /// A new pair.
    ///
    /// # Errors
    /// [`SealingError::NoKey`] if none could be made.
    pub fn generate() -> Result<Self, SealingError> {
        let (HpkePublicKey(public), private) = SUITE.generate_key_pair().map_err(|_| SealingError::NoKey)?;
        Ok(Self { private, public })
    }

    /// Reads [`SealingKey::to_octets`], and checks that the two belong together.
    ///
    /// # Errors
    /// [`SealingError::NoKey`].
    pub fn from_octets(octets: &[u8]) -> Result<Self, SealingError> {
        let (private, public) = octets.split_at_checked(KEY_OCTETS).ok_or(SealingError::NoKey)?;
        if public.len() != KEY_OCTETS {
            return Err(SealingError::NoKey);
        }
        let key = Self { private: private.to_vec().into(), public: public.to_vec() };
        let probe = SUITE.seal(INFO, b"", b"probe", &HpkePublicKey(key.public.clone()));
        let (encapsulated, ciphertext) = probe.map_err(|_| SealingError::NoKey)?;
        let opened = SUITE.open(&encapsulated, INFO, b"", &ciphertext, &key.private);
        opened.map_err(|_| SealingError::NoKey)?;
        Ok(key)
    }

    /// The private key, then the public key: for a file that only this role can read.
    #[must_use]
    pub fn to_octets(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.private.secret_bytes(), &self.public].concat())
    }

    /// The public key, to be published.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// Opens the MAC key of an external account of a directory.
    ///
    /// # Errors
    /// [`SealingError::OtherKey`], [`SealingError::Damaged`].
    pub fn open(
        &self,
        sealed: &SealedKey,
        directory: &DirectoryName,
        id: ExternalAccountId,
    ) -> Result<MacKey, SealingError> {
        if sealed.sealed_to != key_hash(&self.public) {
            return Err(SealingError::OtherKey);
        }
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.clone());
        SUITE
            .open(&encapsulated, INFO, &associated(directory, id), &sealed.ciphertext, &self.private)
            .map(|octets| MacKey(Zeroizing::new(octets)))
            .map_err(|_| SealingError::Damaged)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("public", &key_hash(&self.public)).finish_non_exhaustive()
    }
}

/// Seals the MAC key of an external account of a directory to a published key.
///
/// # Errors
/// [`SealingError::NoPublicKey`].
pub fn seal(
    public_key: &[u8],
    directory: &DirectoryName,
    id: ExternalAccountId,
    key: &MacKey,
) -> Result<SealedKey, SealingError> {
    let recipient = HpkePublicKey(public_key.to_vec());
    let (EncapsulatedSecret(encapsulated), ciphertext) = SUITE
        .seal(INFO, &associated(directory, id), key.octets(), &recipient)
        .map_err(|_| SealingError::NoPublicKey)?;
    Ok(SealedKey { sealed_to: key_hash(public_key), encapsulated, ciphertext })
}

/// SHA-256 of a public key, by which a sealed secret names it.
#[must_use]
pub fn key_hash(public_key: &[u8]) -> KeyHash {
    KeyHash(sha256(public_key))
}

/// Ties a secret to its row: a directory's name has no colon.
fn associated(directory: &DirectoryName, id: ExternalAccountId) -> Vec<u8> {
    format!("{directory}:{id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ca_core::random::SystemRandom;
    use ca_core::time::Timestamp;

    fn id() -> ExternalAccountId {
        ExternalAccountId::generate(Timestamp::from_millis(0), &mut SystemRandom)
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_and_for_its_row_only() {
        let (directory, other): (DirectoryName, DirectoryName) =
            ("default".to_owned().try_into().unwrap(), "lab".to_owned().try_into().unwrap());
        let key = SealingKey::generate().unwrap();
        let key = SealingKey::from_octets(&key.to_octets()).unwrap();
        let (row, secret) = (id(), MacKey::generate(&mut SystemRandom));
        let sealed = seal(key.public_key(), &directory, row, &secret).unwrap();
        assert_eq!(key.open(&sealed, &directory, row).unwrap().octets(), secret.octets());
        assert_eq!(secret.octets().len(), 64);

        assert_eq!(key.open(&sealed, &other, row).unwrap_err(), SealingError::Damaged);
        assert_eq!(key.open(&sealed, &directory, id()).unwrap_err(), SealingError::Damaged);
        let mut changed = sealed.clone();
        changed.ciphertext[0] ^= 1;
        assert_eq!(key.open(&changed, &directory, row).unwrap_err(), SealingError::Damaged);
        let stranger = SealingKey::generate().unwrap();
        assert_eq!(stranger.open(&sealed, &directory, row).unwrap_err(), SealingError::OtherKey);
    }

    #[test]
    fn halves_of_two_pairs_are_no_key_and_secrets_are_not_shown() {
        let (one, other) = (SealingKey::generate().unwrap(), SealingKey::generate().unwrap());
        let mixed = [&one.to_octets()[..32], other.public_key()].concat();
        assert_eq!(SealingKey::from_octets(&mixed).unwrap_err(), SealingError::NoKey);
        assert_eq!(SealingKey::from_octets(&mixed[..63]).unwrap_err(), SealingError::NoKey);
        let shown = format!("{:?} {one:?}", MacKey(Zeroizing::new(vec![7; 64])));
        assert!(!shown.contains('7') || shown.starts_with("MacKey(…)"), "{shown}");
        let id = id();
        let directory = "default".to_owned().try_into().unwrap();
        let key = MacKey::generate(&mut SystemRandom);
        assert_eq!(seal(&[0; 31], &directory, id, &key).unwrap_err(), SealingError::NoPublicKey);
    }
}
