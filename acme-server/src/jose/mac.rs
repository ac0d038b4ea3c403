//! The JWS of an external account binding: authenticated by a MAC,
//! [RFC 8555 §7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4), RFC 7518 §3.2.
//!
//! Apart from [`super::FlattenedJws`], so that no request can be authenticated by a MAC and no binding by anything else.

use std::fmt;

use aws_lc_rs::hmac;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{JwsError, Parts, shown, unique};

/// The MAC algorithms that a binding can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MacAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

impl MacAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Hs256, Self::Hs384, Self::Hs512];

    /// The name in the `alg` header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    const fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Hs256 => hmac::HMAC_SHA256,
            Self::Hs384 => hmac::HMAC_SHA384,
            Self::Hs512 => hmac::HMAC_SHA512,
        }
    }
}

impl fmt::Display for MacAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an object is no binding; the subscriber's client acts.
#[derive(Debug, Error)]
pub enum MacError {
    /// It is no JWS.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// It is not authenticated by a MAC.
    #[error("its 'alg' must be HS256, HS384 or HS512, not '{0}'")]
    Algorithm(String),
    /// It has a nonce, which RFC 8555 forbids.
    #[error("its protected header must not have a 'nonce'")]
    Nonce,
    /// It brings a key along.
    #[error("its protected header must have 'kid', the key identifier that the CA gave, and no 'jwk'")]
    Kid,
}

/// A JWS that was read and whose MAC was not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacJws {
    algorithm: MacAlgorithm,
    kid: String,
    url: String,
    parts: Parts,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    url: String,
}

/// The MAC is not that of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the MAC does not verify")]
pub struct BadMac;

impl MacJws {
    /// Reads a binding from the members of its JSON object, as strictly as [`super::FlattenedJws::parse`].
    ///
    /// # Errors
    /// See [`MacError`].
    pub fn parse(members: &Map<String, Value>) -> Result<Self, MacError> {
        let parts = Parts::read(members)?;
        let header = unique::object(&parts.protected).map_err(|why| JwsError::Header(why.to_string()))?;
        for name in ["crit", "b64"] {
            if header.contains_key(name) {
                return Err(JwsError::HeaderMember(name).into());
            }
        }
        if header.contains_key("nonce") {
            return Err(MacError::Nonce);
        }
        if header.contains_key("jwk") {
            return Err(MacError::Kid);
        }
        let header: Header =
            serde_json::from_value(Value::Object(header)).map_err(|why| JwsError::Header(why.to_string()))?;
        let algorithm =
            MacAlgorithm::from_name(&header.alg).ok_or_else(|| MacError::Algorithm(shown(&header.alg)))?;
        let kid = header.kid.ok_or(MacError::Kid)?;
        Ok(Self { algorithm, kid, url: header.url, parts })
    }

    /// The key identifier. Nothing is proven before [`MacJws::verify`].
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The URL that it was made for.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The payload, once the MAC verifies under `key`; compared in constant time.
    ///
    /// # Errors
    /// [`BadMac`].
    pub fn verify(self, key: &[u8]) -> Result<Vec<u8>, BadMac> {
        let key = hmac::Key::new(self.algorithm.hmac(), key);
        hmac::verify(&key, &self.parts.signing_input, &self.parts.signature).map_err(|_| BadMac)?;
        Ok(self.parts.payload)
    }
}
