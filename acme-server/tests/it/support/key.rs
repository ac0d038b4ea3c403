//! Account keys that sign JWS, and CSRs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::pkix::public_key::sha256;
use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use serde_json::{Value, json};

pub fn base64url(octets: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

enum Pair {
    Ec(EcdsaKeyPair, &'static str),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// An account key.
pub struct Key {
    pair: Pair,
    /// The `alg` that it signs with.
    pub alg: &'static str,
}

impl Key {
    pub fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { pair: Pair::Ec(pair, "P-256"), alg: "ES256" }
    }

    pub fn p384() -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { pair: Pair::Ec(pair, "P-384"), alg: "ES384" }
    }

    pub fn p521() -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap();
        Self { pair: Pair::Ec(pair, "P-521"), alg: "ES512" }
    }

    pub fn rsa(alg: &'static str) -> Self {
        Self { pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()), alg }
    }

    pub fn ed25519() -> Self {
        Self { pair: Pair::Ed25519(Ed25519KeyPair::generate().unwrap()), alg: "EdDSA" }
    }

    /// The P-256 key of a PKCS#8 document, such as a certificate's.
    pub fn p256_from_pkcs8(pkcs8: &[u8]) -> Self {
        let pair = EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap();
        Self { pair: Pair::Ec(pair, "P-256"), alg: "ES256" }
    }

    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Pair::Rsa(pair) => {
                let (n, e) = SliceReader::new(pair.public_key().as_ref())
                    .unwrap()
                    .sequence::<_, _, der::Error>(|reader| {
                        Ok((UintRef::decode(reader)?, UintRef::decode(reader)?))
                    })
                    .unwrap();
                json!({"kty": "RSA", "n": base64url(n.as_bytes()), "e": base64url(e.as_bytes())})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
        }
    }

    /// RFC 7638, written here once more so that the code under test is not its own judge.
    pub fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        let members = match jwk["kty"].as_str().unwrap() {
            "EC" => vec!["crv", "kty", "x", "y"],
            "RSA" => vec!["e", "kty", "n"],
            _ => vec!["crv", "kty", "x"],
        };
        let members: Vec<String> = members.iter().map(|name| format!("\"{name}\":{}", jwk[*name])).collect();
        base64url(&sha256(format!("{{{}}}", members.join(",")).as_bytes()))
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&rng, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding = if self.alg == "PS256" {
                    &signature::RSA_PSS_SHA256
                } else {
                    &signature::RSA_PKCS1_SHA256
                };
                let mut octets = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &rng, message, &mut octets).unwrap();
                octets
            }
        }
    }

    /// A flattened JWS with exactly this protected header.
    pub fn jws(&self, header: &Value, payload: &[u8]) -> Value {
        let protected = base64url(header.to_string().as_bytes());
        let payload = base64url(payload);
        let signature = base64url(&self.sign(format!("{protected}.{payload}").as_bytes()));
        json!({"protected": protected, "payload": payload, "signature": signature})
    }
}

pub fn subscriber_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A CSR in DER with these names as subjectAltName entries.
pub fn csr(key: &rcgen::KeyPair, names: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    params.serialize_request(key).unwrap().der().to_vec()
}
