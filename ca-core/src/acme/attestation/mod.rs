//! Device attestation: whether what a device says of itself, in its manufacturer's words, proves an identifier and
//! names a key. [draft-ietf-acme-device-attest-10 §5](https://datatracker.ietf.org/doc/html/draft-ietf-acme-device-attest-10#section-5),
//! [WebAuthn §6.5.4](https://www.w3.org/TR/webauthn-2/#sctn-generating-an-attestation-object).
//!
//! Pure: octets, roots and `now` in, the attested key and device out. Nothing is trusted but the roots that the
//! operator configured, each for its format; revocation of attestation certificates is not looked up.

mod android;
mod apple;
mod cbor;
mod chain;
mod step;
mod tpm;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use const_oid::ObjectIdentifier;
use thiserror::Error;

use crate::acme::challenge::{Challenge, Claimant, FailureKind, KeyAuthorization, Proven, ValidationFailure};
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::{PublicKey, PublicKeyAlgorithm};
use crate::signing::{Signature, SignatureAlgorithm};
use crate::time::Timestamp;

use cbor::AttestationObject;
pub use chain::{ChainError, TrustAnchor, TrustAnchorError};

/// The attestation statement formats that we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Managed Device Attestation of Apple's devices.
    Apple,
    /// Android Key Attestation, WebAuthn §8.4.
    AndroidKey,
    /// TPM 2.0, WebAuthn §8.3.
    Tpm,
    /// PIV attestation of YubiKeys, as smallstep's clients send it.
    Step,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Apple, Self::AndroidKey, Self::Tpm, Self::Step];

    /// Its name in attestation objects and in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apple => "apple",
            Self::AndroidKey => "android-key",
            Self::Tpm => "tpm",
            Self::Step => "step",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or(())
    }
}

/// Whom a directory trusts to attest: the roots of each format that it accepts.
#[derive(Clone, Debug, Default)]
pub struct Trust(BTreeMap<Format, Vec<TrustAnchor>>);

impl Trust {
    /// Accepts a format from these roots.
    pub fn accept(&mut self, format: Format, roots: Vec<TrustAnchor>) {
        self.0.insert(format, roots);
    }
}

/// What an attestation statement proves.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The key that the device holds.
    pub key: PublicKey,
    /// What the device is called, each of which is as good as the others.
    pub devices: Vec<Identifier>,
}

/// Why an attestation was not accepted, in words for the requester.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttestationError {
    /// There is none in the response.
    #[error("the response has no 'attObj' in base64url without padding")]
    Missing,
    /// It is too large to be read.
    #[error("the attestation object has {0} octets; at most {max} are read", max = MAX_LENGTH)]
    TooLarge(usize),
    /// It is no attestation object.
    #[error("the attestation object is not valid: {0}")]
    Malformed(&'static str),
    /// Its format is not accepted.
    #[error("attestations of format '{}' are not accepted here; accepted are: {accepted}", .found.escape_default())]
    Format {
        /// What it says.
        found: String,
        /// What this directory accepts.
        accepted: String,
    },
    /// Its certificates don't lead to a root.
    #[error("x5c: {0}")]
    Chain(#[from] ChainError),
    /// It is not bound to this challenge.
    #[error("the attestation is not for this challenge: {0}")]
    NotBound(&'static str),
    /// Its signature is wrong.
    #[error("the attestation's signature does not verify: {0}")]
    Signature(&'static str),
    /// It says something that its format does not allow, or that we don't accept.
    #[error("the {format} attestation is not acceptable: {why}")]
    Statement {
        /// The format.
        format: Format,
        /// What is wrong.
        why: &'static str,
    },
    /// It is about another device.
    #[error("the attestation is of {attested}, not of '{ordered}'")]
    OtherDevice {
        /// What the order names.
        ordered: Identifier,
        /// What was attested.
        attested: String,
    },
}

impl From<AttestationError> for ValidationFailure {
    fn from(error: AttestationError) -> Self {
        Self::new(FailureKind::BadAttestationStatement, error.to_string())
    }
}

/// The most octets that an attestation object may have: eight certificates with RSA-4096 keys fit.
pub const MAX_LENGTH: usize = 32 * 1024;

/// What an attestation is bound to: the draft's attToBeSigned, in both of its constructions.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The challenge's token.
    pub token: &'a str,
    /// The key authorization.
    pub key_authorization: &'a str,
}

/// Verifies an attestation object by the rules of its format.
///
/// # Errors
/// See [`AttestationError`].
pub fn verify(
    object: &[u8],
    trust: &Trust,
    binding: Binding<'_>,
    now: Timestamp,
) -> Result<Attested, AttestationError> {
    if object.len() > MAX_LENGTH {
        return Err(AttestationError::TooLarge(object.len()));
    }
    let object = AttestationObject::parse(object)?;
    let known = object.format.parse::<Format>().ok();
    let Some((format, roots)) = known.and_then(|format| Some((format, trust.0.get(&format)?))) else {
        return Err(AttestationError::Format {
            found: object.format.chars().take(32).collect(),
            accepted: trust.0.keys().map(|format| format.name()).collect::<Vec<_>>().join(", "),
        });
    };
    let chain = chain::verify(&object.statement.x5c, roots, now)?;
    match format {
        Format::Apple => apple::verify(&chain, binding),
        Format::AndroidKey => android::verify(&object.statement, &chain, binding),
        Format::Tpm => tpm::verify(&object.statement, &chain, binding),
        Format::Step => step::verify(&object.statement, &chain, binding),
    }
}

/// Whether a response to a device-attest-01 challenge proves `identifier` for `claimant`, and for which key.
///
/// # Errors
/// Why it does not, in words for the requester.
///
/// # Standard
/// [draft-ietf-acme-device-attest-10 §5](https://datatracker.ietf.org/doc/html/draft-ietf-acme-device-attest-10#section-5)
pub fn judge(
    challenge: &Challenge,
    identifier: &Identifier,
    claimant: &Claimant,
    object: Option<&[u8]>,
    trust: &Trust,
    now: Timestamp,
) -> Result<Proven, ValidationFailure> {
    let object = object.ok_or(AttestationError::Missing)?;
    let key_authorization = KeyAuthorization::new(&challenge.token, &claimant.thumbprint);
    let binding = Binding { token: challenge.token.as_str(), key_authorization: key_authorization.as_str() };
    let attested = verify(object, trust, binding, now)?;
    if !attested.devices.contains(identifier) {
        let shown = attested.devices.iter().take(5).map(|device| format!("'{device}'"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let attested = if shown.is_empty() { "no device that it names".to_owned() } else { shown };
        return Err(AttestationError::OtherDevice { ordered: identifier.clone(), attested }.into());
    }
    Ok(Proven { until: None, attested_key: Some(attested.key.hash()) })
}

/// The signature algorithm of a COSE number (RFC 9053), or without one that which goes with the key.
fn signature_algorithm(alg: Option<i64>, key: &PublicKey) -> Result<SignatureAlgorithm, AttestationError> {
    let usual = match key.algorithm() {
        PublicKeyAlgorithm::EcP256 => Some(SignatureAlgorithm::EcdsaSha256),
        PublicKeyAlgorithm::EcP384 => Some(SignatureAlgorithm::EcdsaSha384),
        PublicKeyAlgorithm::Ed25519 => Some(SignatureAlgorithm::Ed25519),
        PublicKeyAlgorithm::Rsa(_) => Some(SignatureAlgorithm::RsaPkcs1Sha256),
        PublicKeyAlgorithm::EcP521 => None,
    };
    let chosen = match alg {
        None => usual,
        Some(-7) => Some(SignatureAlgorithm::EcdsaSha256),
        Some(-35) => Some(SignatureAlgorithm::EcdsaSha384),
        Some(-8) => Some(SignatureAlgorithm::Ed25519),
        Some(-257) => Some(SignatureAlgorithm::RsaPkcs1Sha256),
        Some(_) => None,
    };
    match (chosen, usual) {
        (Some(chosen), Some(usual)) if chosen == usual => Ok(chosen),
        _ => Err(AttestationError::Signature(
            "'alg' is not ES256, ES384, EdDSA or RS256 with a key of that kind",
        )),
    }
}

/// Verifies what the first certificate's key signed.
fn verify_signature(
    key: &PublicKey,
    alg: Option<i64>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), AttestationError> {
    let algorithm = signature_algorithm(alg, key)?;
    if key.verify(algorithm, message, &Signature(signature.to_vec())) {
        return Ok(());
    }
    Err(AttestationError::Signature("the first certificate's key did not make it over the key authorization"))
}

/// A permanent identifier without an assigner, from what an attestation says; nothing if it can't be one.
fn device(text: &str) -> Option<Identifier> {
    Identifier::parse("permanent-identifier", text).ok().filter(|_| !text.contains('/'))
}

/// The octets of a certificate's extension.
fn extension(certificate: &chain::Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let found = certificate.extensions().iter().find(|extension| extension.extn_id == oid)?;
    Some(found.extn_value.as_bytes())
}

/// Reads every structure in an attestation object, trusting nobody: what a fuzzer drives, since [`verify`] goes no
/// further than the first signature that is wrong.
pub(crate) fn read_all(octets: &[u8]) {
    let Ok(object) = AttestationObject::parse(octets) else { return };
    for der in &object.statement.x5c {
        let Ok(certificate) = chain::Certificate::parse(der) else { continue };
        for extension in certificate.extensions() {
            android::read(extension.extn_value.as_bytes());
            step::read(extension.extn_value.as_bytes());
        }
        tpm::read_certificate(&certificate);
    }
    drop(object.statement.sig.map(cbor::wrapped));
    tpm::read(&object.statement);
}
