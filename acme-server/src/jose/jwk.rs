//! Account keys as JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037) and their thumbprints (RFC 7638).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::acme::account::Thumbprint;
use ca_core::pkix::public_key::{PublicKey, PublicKeyAlgorithm, sha256};
use der::asn1::{Any, BitString, Null, Uint};
use der::oid::ObjectIdentifier;
use der::{Decode, Encode, Sequence};
use jose_jwk::{EcCurves, Key, OkpCurves};
use serde_json::{Map, Value};
use thiserror::Error;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Members that hold private key material, RFC 7518 §6.
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The sizes of RSA account keys, in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Why a JWK can't be an account key; the subscriber's client acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JwkError {
    /// It is no JWK.
    #[error("it is no JSON Web Key: {0}")]
    Malformed(String),
    /// It holds private key material, which must never leave its owner.
    #[error("it holds the private member '{0}'; send the public key only, and make a new key")]
    Private(&'static str),
    /// Its kind is not one we know.
    #[error("keys of this kind are not supported; use EC P-256, P-384 or P-521, RSA, or OKP Ed25519")]
    Unsupported,
    /// It is too short or too long.
    #[error("RSA keys must have 2048 to 8192 bits, not {0}")]
    RsaSize(u32),
    /// Its value is not valid, or not in the one encoding that a thumbprint can be computed of.
    #[error("its value is not valid: {0}")]
    Value(String),
}

/// ```text
/// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
/// ```
#[derive(Sequence)]
struct RsaPublicKey {
    modulus: Uint,
    public_exponent: Uint,
}

/// A public key that may sign ACME requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountKey {
    public_key: PublicKey,
    canonical: String,
}

impl AccountKey {
    /// Reads a JWK, given as the members of its JSON object.
    ///
    /// # Errors
    /// See [`JwkError`].
    pub fn from_members(members: Map<String, Value>) -> Result<Self, JwkError> {
        if let Some(private) = PRIVATE_MEMBERS.into_iter().find(|name| members.contains_key(*name)) {
            return Err(JwkError::Private(private));
        }
        let key: Key = serde_json::from_value(Value::Object(members))
            .map_err(|why| JwkError::Malformed(why.to_string()))?;
        let (algorithm, octets) = match &key {
            Key::Ec(ec) => {
                let (curve, length) = match ec.crv {
                    EcCurves::P256 => (P256, 32),
                    EcCurves::P384 => (P384, 48),
                    EcCurves::P521 => (P521, 66),
                    _ => return Err(JwkError::Unsupported),
                };
                if ec.x.len() != length || ec.y.len() != length {
                    return Err(JwkError::Value(format!("x and y must have {length} octets each")));
                }
                let algorithm =
                    AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::from(curve)) };
                (algorithm, [&[4][..], &ec.x, &ec.y].concat())
            }
            Key::Rsa(rsa) => {
                if rsa.n.first() == Some(&0) || rsa.e.first() == Some(&0) {
                    return Err(JwkError::Value("n and e must not begin with a zero octet".to_owned()));
                }
                let invalid = |_| JwkError::Value("n and e must be positive integers".to_owned());
                let octets = RsaPublicKey {
                    modulus: Uint::new(&rsa.n).map_err(invalid)?,
                    public_exponent: Uint::new(&rsa.e).map_err(invalid)?,
                }
                .to_der()
                .map_err(invalid)?;
                let algorithm =
                    AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::from(Null)) };
                (algorithm, octets)
            }
            Key::Okp(okp) if okp.crv == OkpCurves::Ed25519 => {
                (AlgorithmIdentifierOwned { oid: ED25519, parameters: None }, okp.x.to_vec())
            }
            _ => return Err(JwkError::Unsupported),
        };
        let subject_public_key =
            BitString::from_bytes(&octets).map_err(|why| JwkError::Value(why.to_string()))?;
        let spki = SubjectPublicKeyInfoOwned { algorithm, subject_public_key };
        let public_key = PublicKey::from_spki(&spki).map_err(|why| JwkError::Value(why.to_string()))?;
        if let PublicKeyAlgorithm::Rsa(bits) = public_key.algorithm()
            && !RSA_BITS.contains(&bits)
        {
            return Err(JwkError::RsaSize(bits));
        }
        Self::from_public_key(public_key).ok_or(JwkError::Unsupported)
    }

    /// Reads a JWK that we stored.
    ///
    /// # Errors
    /// See [`JwkError`].
    pub fn from_json(json: &str) -> Result<Self, JwkError> {
        let members = serde_json::from_str(json).map_err(|why| JwkError::Malformed(why.to_string()))?;
        Self::from_members(members)
    }

    /// The account key that a SubjectPublicKeyInfo would be; `None` if its octets can't be read.
    ///
    /// The members are those of RFC 7638 §3.2, in its order, without white space.
    #[must_use]
    pub fn from_public_key(public_key: PublicKey) -> Option<Self> {
        let text = |octets: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(octets);
        let octets = public_key.key_octets();
        let ec = |curve: &str| {
            let coordinates = octets.strip_prefix(&[4])?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            Some(format!(r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y)))
        };
        let canonical = match public_key.algorithm() {
            PublicKeyAlgorithm::EcP256 => ec("P-256")?,
            PublicKeyAlgorithm::EcP384 => ec("P-384")?,
            PublicKeyAlgorithm::EcP521 => ec("P-521")?,
            PublicKeyAlgorithm::Ed25519 => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(octets))
            }
            PublicKeyAlgorithm::Rsa(_) => {
                let key = RsaPublicKey::from_der(octets).ok()?;
                let (n, e) = (text(key.modulus.as_bytes()), text(key.public_exponent.as_bytes()));
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
        };
        Some(Self { public_key, canonical })
    }

    /// The JWK with only the members that RFC 7638 requires, in its canonical form: what is stored.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The JWK as a JSON value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.canonical).unwrap_or_default()
    }

    /// SHA-256 of the canonical form, RFC 7638.
    #[must_use]
    pub fn thumbprint(&self) -> Thumbprint {
        Thumbprint(sha256(self.canonical.as_bytes()))
    }

    /// The key as certificates carry it.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 7638 §3.1.
    const EXAMPLE: &str = r#"{
      "kty": "RSA",
      "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
      "e": "AQAB",
      "alg": "RS256",
      "kid": "2011-04-29"
     }"#;

    #[test]
    fn rfc7638_3_1_the_example_key_has_the_example_thumbprint() {
        let key = AccountKey::from_json(EXAMPLE).unwrap();
        assert_eq!(key.thumbprint().to_string(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(AccountKey::from_json(key.canonical()).unwrap(), key);
    }

    #[test]
    fn rfc8037_a_3_the_example_key_has_the_example_thumbprint() {
        let key = AccountKey::from_json(
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
        )
        .unwrap();
        assert_eq!(key.thumbprint().to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn private_members_are_refused_whatever_they_hold() {
        for member in PRIVATE_MEMBERS {
            let mut members: Map<String, Value> = serde_json::from_str(EXAMPLE).unwrap();
            members.insert(member.to_owned(), Value::Null);
            assert_eq!(AccountKey::from_members(members), Err(JwkError::Private(member)));
        }
    }

    #[test]
    fn keys_outside_the_list_are_refused() {
        for bad in [
            r#"{"kty":"oct"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
            r#"{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qY"}"#,
            r#"{"kty":"RSA","n":"AQ","e":"AQAB"}"#,
            r#"{"kty":"RSA","n":"","e":""}"#,
            r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}"#,
            r#"{}"#,
            "[]",
            r#"["Ed25519", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"]"#,
        ] {
            assert!(AccountKey::from_json(bad).is_err(), "{bad}");
        }
    }
}
