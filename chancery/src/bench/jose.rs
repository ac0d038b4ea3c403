//! JWS as ACME clients sign them: flattened, ES256 (RFC 7515 §7.2.2, RFC 7518 §3.4, RFC 8555 §6.2).

use anyhow::{Result, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Serialize;

/// A P-256 account key.
#[derive(Debug)]
pub struct AccountKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    jwk: Jwk,
    thumbprint: String,
}

/// The public key as a JWK (RFC 7518 §6.2). The members stand in the order that RFC 7638 hashes.
#[derive(Debug, Serialize)]
struct Jwk {
    crv: &'static str,
    kty: &'static str,
    x: String,
    y: String,
}

#[derive(Serialize)]
struct Protected<'a> {
    alg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwk: Option<&'a Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    nonce: &'a str,
    url: &'a str,
}

impl AccountKey {
    /// A new key.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow!("cannot generate a P-256 key"))?;
        // An uncompressed point: 4, x, y.
        let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let jwk = Jwk { crv: "P-256", kty: "EC", x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &serde_json::to_vec(&jwk)?));
        Ok(Self { pair, random: SystemRandom::new(), jwk, thumbprint })
    }

    /// `token.thumbprint` (RFC 8555 §8.1).
    #[must_use]
    pub fn key_authorization(&self, token: &str) -> String {
        [token, ".", &self.thumbprint].concat()
    }

    /// A JWS for this URL; by the account `kid` names, or by the key itself.
    ///
    /// # Errors
    /// If signing fails.
    pub fn jws(&self, url: &str, nonce: &str, kid: Option<&str>, payload: &[u8]) -> Result<Bytes> {
        let jwk = if kid.is_none() { Some(&self.jwk) } else { None };
        let header = serde_json::to_vec(&Protected { alg: "ES256", jwk, kid, nonce, url })?;
        const START: &str = "{\"protected\":\"";
        const PAYLOAD: &str = "\",\"payload\":\"";
        const SIGNATURE: &str = "\",\"signature\":\"";
        let mut input = String::with_capacity((header.len() + payload.len()) * 4 / 3 + 8);
        URL_SAFE_NO_PAD.encode_string(&header, &mut input);
        let protected = input.len();
        input.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut input);
        let signature = self.pair.sign(&self.random, input.as_bytes()).map_err(|_| anyhow!("cannot sign"))?;

        let mut body = String::with_capacity(input.len() + 160);
        body.push_str(START);
        body.push_str(&input[..protected]);
        body.push_str(PAYLOAD);
        body.push_str(&input[protected + 1..]);
        body.push_str(SIGNATURE);
        URL_SAFE_NO_PAD.encode_string(signature, &mut body);
        body.push_str("\"}");
        Ok(Bytes::from(body))
    }
}
