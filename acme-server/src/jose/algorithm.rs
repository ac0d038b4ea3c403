//! The signature algorithms that we accept (RFC 7518 §3, RFC 8037) and their verification by aws-lc.

use std::fmt;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use ca_core::pkix::public_key::PublicKeyAlgorithm;

use super::{AccountKey, JwsError};

/// The allow-list: asymmetric, with SHA-256 or better. `none` and the HMAC algorithms can't be expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, as a badSignatureAlgorithm problem lists them.
    pub const ALL: [Self; 6] = [Self::Es256, Self::Es384, Self::Es512, Self::Rs256, Self::Ps256, Self::EdDsa];

    /// The name in the `alg` header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of a name, which is case-sensitive.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Verifies a signature in the form of JWS: ECDSA as the two integers, one after the other.
    pub(super) fn verify(self, key: &AccountKey, message: &[u8], octets: &[u8]) -> Result<(), JwsError> {
        let public_key = key.public_key();
        let verifier: &'static dyn VerificationAlgorithm = match (self, public_key.algorithm()) {
            (Self::Es256, PublicKeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA256_FIXED,
            (Self::Es384, PublicKeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA384_FIXED,
            (Self::Es512, PublicKeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA512_FIXED,
            (Self::Rs256, PublicKeyAlgorithm::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Ps256, PublicKeyAlgorithm::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA256,
            (Self::EdDsa, PublicKeyAlgorithm::Ed25519) => &signature::ED25519,
            (_, other) => return Err(JwsError::AlgorithmDoesNotFit(self, other.to_string())),
        };
        UnparsedPublicKey::new(verifier, public_key.key_octets())
            .verify(message, octets)
            .map_err(|_| JwsError::BadSignature)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
