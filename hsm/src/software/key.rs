//! Private keys in memory: made, read from PKCS#8 (RFC 5208, RFC 5958) and used to sign, all by aws-lc-rs.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use ca_core::pkix::public_key::{PublicKey, spki_from_octets};
use ca_core::signing::{KeyAlgorithm, Signature, SignatureAlgorithm};
use zeroize::Zeroizing;

/// A private key and its public half.
pub(super) struct PrivateKey {
    pair: Pair,
    algorithm: KeyAlgorithm,
    public_key: PublicKey,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// aws-lc gives no reasons.
#[derive(Debug)]
pub(super) struct KeyRejected;

impl PrivateKey {
    /// Makes a key and gives it together with its PKCS#8; an RSA key takes up to seconds.
    pub(super) fn generate(algorithm: KeyAlgorithm) -> Result<(Self, Zeroizing<Vec<u8>>), KeyRejected> {
        let rejected = |_| KeyRejected;
        let rsa = |size| -> Result<(Pair, Zeroizing<Vec<u8>>), KeyRejected> {
            let pair = RsaKeyPair::generate(size).map_err(rejected)?;
            let pkcs8: Pkcs8V1Der<'static> = pair.as_der().map_err(rejected)?;
            let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
            Ok((Pair::Rsa(pair), pkcs8))
        };
        let ecdsa = |signing| -> Result<(Pair, Zeroizing<Vec<u8>>), KeyRejected> {
            let pair = EcdsaKeyPair::generate(signing).map_err(rejected)?;
            let pkcs8 = Zeroizing::new(pair.to_pkcs8v1().map_err(rejected)?.as_ref().to_vec());
            Ok((Pair::Ecdsa(pair), pkcs8))
        };
        let (pair, pkcs8) = match algorithm {
            KeyAlgorithm::EcP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            KeyAlgorithm::EcP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
            KeyAlgorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(rejected)?;
                let pkcs8 = Zeroizing::new(pair.to_pkcs8().map_err(rejected)?.as_ref().to_vec());
                (Pair::Ed25519(pair), pkcs8)
            }
            KeyAlgorithm::Rsa2048 => rsa(KeySize::Rsa2048)?,
            KeyAlgorithm::Rsa3072 => rsa(KeySize::Rsa3072)?,
            KeyAlgorithm::Rsa4096 => rsa(KeySize::Rsa4096)?,
        };
        Ok((Self::new(pair, algorithm)?, pkcs8))
    }

    /// Reads a key that must be of the given kind and size.
    pub(super) fn from_pkcs8(algorithm: KeyAlgorithm, pkcs8: &[u8]) -> Result<Self, KeyRejected> {
        let rejected = |_| KeyRejected;
        let ecdsa = |signing| EcdsaKeyPair::from_pkcs8(signing, pkcs8).map(Pair::Ecdsa).map_err(rejected);
        let pair = match algorithm {
            KeyAlgorithm::EcP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)?,
            KeyAlgorithm::EcP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING)?,
            KeyAlgorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(rejected)?),
            KeyAlgorithm::Rsa2048 | KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa4096 => {
                Pair::Rsa(RsaKeyPair::from_pkcs8(pkcs8).map_err(rejected)?)
            }
        };
        Self::new(pair, algorithm)
    }

    fn new(pair: Pair, algorithm: KeyAlgorithm) -> Result<Self, KeyRejected> {
        let octets = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        };
        let public_key = spki_from_octets(algorithm, octets).map_err(|_| KeyRejected)?;
        if public_key.algorithm() != algorithm.into() {
            return Err(KeyRejected);
        }
        Ok(Self { pair, algorithm, public_key })
    }

    pub(super) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Signs; the caller has checked that `algorithm` fits this key.
    pub(super) fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Signature, KeyRejected> {
        let rejected = |_| KeyRejected;
        let random = SystemRandom::new();
        let rsa = |pair: &RsaKeyPair, padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &random, message, &mut signature).map_err(rejected)?;
            Ok(Signature(signature))
        };
        match (&self.pair, algorithm) {
            (Pair::Ecdsa(pair), SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::EcdsaSha384) => {
                let signature = pair.sign(&random, message).map_err(rejected)?;
                Ok(Signature(signature.as_ref().to_vec()))
            }
            (Pair::Ed25519(pair), SignatureAlgorithm::Ed25519) => {
                Ok(Signature(pair.try_sign(message).map_err(rejected)?.as_ref().to_vec()))
            }
            (Pair::Rsa(pair), SignatureAlgorithm::RsaPkcs1Sha256) => rsa(pair, &RSA_PKCS1_SHA256),
            (Pair::Rsa(pair), SignatureAlgorithm::RsaPssSha256) => rsa(pair, &RSA_PSS_SHA256),
            _ => Err(KeyRejected),
        }
    }
}
