//! Signing keys: what the CA asks of a key, wherever the key lives.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::BoxFuture;
use crate::pkix::public_key::PublicKey;

/// What a key is: its kind and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256.
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// Ed25519, RFC 8032.
    Ed25519,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

impl KeyAlgorithm {
    /// Every algorithm a key of ours can have.
    pub const ALL: [Self; 6] =
        [Self::EcP256, Self::EcP384, Self::Ed25519, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The signature algorithm that is used with such a key unless another is configured.
    #[must_use]
    pub const fn default_signature(self) -> SignatureAlgorithm {
        match self {
            Self::EcP256 => SignatureAlgorithm::EcdsaSha256,
            Self::EcP384 => SignatureAlgorithm::EcdsaSha384,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
        }
    }

    /// The algorithm's name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a key of ours signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256 (P-256).
    EcdsaSha256,
    /// ecdsa-with-SHA384 (P-384).
    EcdsaSha384,
    /// Ed25519, RFC 8410.
    Ed25519,
    /// sha256WithRSAEncryption, RSASSA-PKCS1-v1_5.
    RsaPkcs1Sha256,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt of 32 octets (RFC 4055).
    RsaPssSha256,
}

impl SignatureAlgorithm {
    /// Every way to sign.
    pub const ALL: [Self; 5] =
        [Self::EcdsaSha256, Self::EcdsaSha384, Self::Ed25519, Self::RsaPkcs1Sha256, Self::RsaPssSha256];

    /// The algorithm's name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaSha256 => "ecdsa-sha256",
            Self::EcdsaSha384 => "ecdsa-sha384",
            Self::Ed25519 => "ed25519",
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::RsaPssSha256 => "rsa-pss-sha256",
        }
    }

    /// Whether a key of this kind can make such signatures.
    #[must_use]
    pub const fn fits(self, key: KeyAlgorithm) -> bool {
        match self {
            Self::EcdsaSha256 => matches!(key, KeyAlgorithm::EcP256),
            Self::EcdsaSha384 => matches!(key, KeyAlgorithm::EcP384),
            Self::Ed25519 => matches!(key, KeyAlgorithm::Ed25519),
            Self::RsaPkcs1Sha256 | Self::RsaPssSha256 => {
                matches!(key, KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096)
            }
        }
    }
}

/// Names a key within its backend: 1 to 64 characters of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyLabel(String);

impl KeyLabel {
    /// The label as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no key label.
#[derive(Debug, Error)]
#[error("'{0}' is no key label: use 1 to 64 characters of a-z, 0-9 and '-'")]
pub struct InvalidKeyLabel(String);

impl TryFrom<String> for KeyLabel {
    type Error = InvalidKeyLabel;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine { Ok(Self(text)) } else { Err(InvalidKeyLabel(text)) }
    }
}

impl From<KeyLabel> for String {
    fn from(label: KeyLabel) -> Self {
        label.0
    }
}

impl fmt::Display for KeyLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The octets of a signature as X.509 carries them in its BIT STRING (ECDSA as a DER `ECDSA-Sig-Value`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(pub Vec<u8>);

/// Why a key did not sign.
#[derive(Clone, Debug, Error)]
pub enum SigningError {
    /// The key refused, and will refuse again: do not retry.
    #[error("the key '{label}' refused to sign: {detail}")]
    Refused {
        /// Which key.
        label: String,
        /// What the backend said and what to do about it.
        detail: String,
    },
    /// The key can't be reached now: retry later.
    #[error("the key '{label}' is not available: {detail}")]
    Unavailable {
        /// Which key.
        label: String,
        /// What the backend said and what to do about it.
        detail: String,
    },
}

/// Why a key could not be generated, opened or listed; the operator acts.
#[derive(Clone, Debug, Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key '{label}' in {place}")]
    NotFound {
        /// The label asked for.
        label: String,
        /// The backend, as the operator knows it.
        place: String,
    },
    /// A key of that label exists and is never overwritten.
    #[error("a key '{label}' exists in {place} already")]
    Exists {
        /// The label asked for.
        label: String,
        /// The backend, as the operator knows it.
        place: String,
    },
    /// The key's attributes forbid its use as a CA key.
    #[error("the key '{label}' can't be used: {reason}")]
    Unsuitable {
        /// Which key.
        label: String,
        /// Which attribute is wrong and what it must be.
        reason: String,
    },
    /// The PIN or passphrase is wrong. Never retried, since a token locks itself.
    #[error("wrong PIN or passphrase: {0}")]
    WrongPin(String),
    /// The backend can't be reached now.
    #[error("the key backend is not available: {0}")]
    Unavailable(String),
    /// The backend or its configuration is at fault.
    #[error("{0}")]
    Failed(String),
}

/// One private key, ready to sign.
pub trait SigningKey: Send + Sync {
    /// The key's name in its backend.
    fn label(&self) -> &KeyLabel;

    /// How this key signs.
    fn algorithm(&self) -> SignatureAlgorithm;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (the backend hashes it). Runs on the backend's own threads.
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Signature, SigningError>>;
}

/// What is known of a key without using it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyDescription {
    /// The key's name.
    pub label: KeyLabel,
    /// Its kind and size.
    pub algorithm: KeyAlgorithm,
    /// Whether the backend promises never to show it in plain.
    pub sensitive: bool,
    /// Whether the backend would export it.
    pub extractable: bool,
}

/// Where keys live: a token, or files.
pub trait KeyBackend: Send + Sync {
    /// What operators call it, for messages: `software keys in /…/keys`, `token 'chancery' (SoftHSM)`.
    fn place(&self) -> String;

    /// Makes a key, which can't be exported.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if the label is taken.
    fn generate<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>>;

    /// Opens a key to sign with `algorithm`.
    ///
    /// # Errors
    /// [`KeyError::Unsuitable`] if the key is extractable or its kind does not fit `algorithm`.
    fn open<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, KeyError>>;

    /// Every key in this backend, by label.
    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyDescription>, KeyError>>;
}
