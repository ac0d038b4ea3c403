//! JSON Web Signatures as ACME uses them: the flattened serialization with one signature, RFC 7515 §7.2.2 and
//! [RFC 8555 §6.2](https://www.rfc-editor.org/rfc/rfc8555#section-6.2).
//!
//! Reading and verifying are apart: [`FlattenedJws::parse`] gives a value whose payload can't be reached before
//! [`FlattenedJws::verify`] was given the key.

mod account_keys;
mod algorithm;
mod jwk;
mod mac;
mod unique;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

pub(crate) use account_keys::AccountKeys;
pub use algorithm::Algorithm;
pub use jwk::{AccountKey, JwkError};
pub use mac::{BadMac, MacAlgorithm, MacError, MacJws};

/// Why a body is no JWS that we can work with; the subscriber's client acts.
#[derive(Debug, Error)]
pub enum JwsError {
    /// The body is no JSON object with `protected`, `payload` and `signature`.
    #[error("the body is no flattened JWS: {0}")]
    NotFlattened(String),
    /// It has an unprotected header or several signatures.
    #[error("the JWS has the member '{0}', which ACME does not allow")]
    MemberNotAllowed(&'static str),
    /// A part is not base64url without padding.
    #[error("the JWS member '{0}' is not base64url without padding")]
    NotBase64Url(&'static str),
    /// The protected header is no JSON object of the members that ACME requires.
    #[error("the protected header is not valid: {0}")]
    Header(String),
    /// The protected header asks for something that ACME does not allow.
    #[error("the protected header has the member '{0}', which is not supported")]
    HeaderMember(&'static str),
    /// The algorithm is not on our list.
    #[error("the signature algorithm '{0}' is not supported")]
    UnknownAlgorithm(String),
    /// The algorithm is on our list and does not belong to the key.
    #[error("the signature algorithm {0} does not fit a key of kind {1}")]
    AlgorithmDoesNotFit(Algorithm, String),
    /// Neither `jwk` nor `kid` is there, or both are.
    #[error("the protected header must have either 'jwk' or 'kid'")]
    JwkXorKid,
    /// The key in `jwk` can't be used.
    #[error("the key in 'jwk' can't be used: {0}")]
    Key(#[from] JwkError),
    /// The signature does not verify.
    #[error("the signature does not verify under the key")]
    BadSignature,
}

/// Who signed, as the protected header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyReference {
    /// `jwk`: the key itself.
    Jwk(AccountKey),
    /// `kid`: an account URL.
    Kid(String),
}

/// The protected header, [RFC 8555 §6.2].
///
/// [RFC 8555 §6.2]: https://www.rfc-editor.org/rfc/rfc8555#section-6.2
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedHeader {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// Who signed.
    pub key: KeyReference,
    /// The anti-replay nonce, as sent.
    pub nonce: Option<String>,
    /// The URL that the request is meant for.
    pub url: String,
}

/// A JWS that was read and not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlattenedJws {
    header: ProtectedHeader,
    signing_input: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Members {
    alg: String,
    url: String,
    nonce: Option<String>,
    jwk: Option<Map<String, Value>>,
    kid: Option<String>,
}

impl FlattenedJws {
    /// Reads a JWS.
    ///
    /// Members that we don't know are ignored, as RFC 7515 §4 wants; a member that stands twice is refused wherever it
    /// stands, and so are an unprotected header, several signatures, `crit` and `b64`.
    ///
    /// # Errors
    /// See [`JwsError`].
    pub fn parse(body: &[u8]) -> Result<Self, JwsError> {
        let outer = unique::object(body).map_err(|why| JwsError::NotFlattened(why.to_string()))?;
        let Parts { protected, payload, signature, signing_input } = Parts::read(&outer)?;
        Ok(Self { header: ProtectedHeader::parse(&protected)?, payload, signature, signing_input })
    }

    /// The protected header. Nothing in it is proven before [`FlattenedJws::verify`].
    #[must_use]
    pub fn header(&self) -> &ProtectedHeader {
        &self.header
    }

    /// The payload, once the signature verifies under `key`.
    ///
    /// # Errors
    /// [`JwsError::AlgorithmDoesNotFit`], [`JwsError::BadSignature`].
    pub fn verify(self, key: &AccountKey) -> Result<Vec<u8>, JwsError> {
        self.header.algorithm.verify(key, &self.signing_input, &self.signature)?;
        Ok(self.payload)
    }

    /// The JWS as JSON again. Of the header only what we read is left, so the signature does not cover it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let header = &self.header;
        let mut members = Map::new();
        members.insert("alg".into(), header.algorithm.name().into());
        members.insert("url".into(), header.url.clone().into());
        if let Some(nonce) = &header.nonce {
            members.insert("nonce".into(), nonce.clone().into());
        }
        match &header.key {
            KeyReference::Kid(kid) => members.insert("kid".into(), kid.clone().into()),
            KeyReference::Jwk(key) => members.insert("jwk".into(), key.to_value()),
        };
        let encode = |bytes: &[u8]| Value::from(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let mut outer = Map::new();
        outer.insert("protected".into(), encode(Value::Object(members).to_string().as_bytes()));
        outer.insert("payload".into(), encode(&self.payload));
        outer.insert("signature".into(), encode(&self.signature));
        Value::Object(outer).to_string().into_bytes()
    }
}

/// The three members of a flattened JWS, decoded, and what the signature is over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
    signing_input: Vec<u8>,
}

impl Parts {
    fn read(outer: &Map<String, Value>) -> Result<Self, JwsError> {
        for name in ["header", "signatures"] {
            if outer.contains_key(name) {
                return Err(JwsError::MemberNotAllowed(name));
            }
        }
        let text = |name: &'static str| match outer.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            _ => Err(JwsError::NotFlattened(format!("the member '{name}' must be a string"))),
        };
        let (protected, payload, signature) = (text("protected")?, text("payload")?, text("signature")?);
        let decode =
            |name, text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::NotBase64Url(name));
        Ok(Self {
            protected: decode("protected", protected)?,
            payload: decode("payload", payload)?,
            signature: decode("signature", signature)?,
            signing_input: [protected.as_bytes(), b".", payload.as_bytes()].concat(),
        })
    }
}

impl ProtectedHeader {
    fn parse(json: &[u8]) -> Result<Self, JwsError> {
        let members = unique::object(json).map_err(|why| JwsError::Header(why.to_string()))?;
        for name in ["crit", "b64"] {
            if members.contains_key(name) {
                return Err(JwsError::HeaderMember(name));
            }
        }
        let members: Members = serde_json::from_value(Value::Object(members))
            .map_err(|why| JwsError::Header(why.to_string()))?;
        let algorithm = Algorithm::from_name(&members.alg)
            .ok_or_else(|| JwsError::UnknownAlgorithm(shown(&members.alg)))?;
        let key = match (members.jwk, members.kid) {
            (Some(jwk), None) => KeyReference::Jwk(AccountKey::from_members(jwk)?),
            (None, Some(kid)) => KeyReference::Kid(kid),
            _ => return Err(JwsError::JwkXorKid),
        };
        Ok(Self { algorithm, key, nonce: members.nonce, url: members.url })
    }
}

/// At most 32 characters of what a client sent, for a message to that client.
fn shown(text: &str) -> String {
    text.chars().take(32).flat_map(char::escape_default).collect()
}
