//! The one way a signed object comes to be: bytes → key → verified → DER.

use std::sync::Arc;

use der::asn1::{AnyRef, BitStringRef};
use der::{Decode, Encode, Sequence};
use spki::AlgorithmIdentifierOwned;
use thiserror::Error;

use crate::signing::{Signature, SignatureAlgorithm, SigningError, SigningKey};

/// ```text
/// SIGNED ::= SEQUENCE { toBeSigned ANY, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING }
/// ```
/// The common form of Certificate and CertificateList, RFC 5280 §4.1 and §5.1.
#[derive(Sequence)]
struct Signed<'a> {
    to_be_signed: AnyRef<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitStringRef<'a>,
}

/// Why no signed object came to be.
#[derive(Clone, Debug, Error)]
pub enum SignError {
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] SigningError),
    /// What the key returned does not verify under its public key: the operator acts, nothing is released.
    #[error("the key '{0}' made a signature that does not verify; nothing signed by it was released")]
    DoesNotVerify(String),
    /// The bytes can't be encoded; our own mistake.
    #[error("the signed object can't be encoded: {0}")]
    Encoding(der::Error),
}

/// Signs `to_be_signed` and verifies the signature before it is released.
///
/// # Errors
/// See [`SignError`].
pub async fn sign_verified(key: &Arc<dyn SigningKey>, to_be_signed: &[u8]) -> Result<Signature, SignError> {
    let signature = key.sign(to_be_signed).await?;
    if !key.public_key().verify(key.algorithm(), to_be_signed, &signature) {
        return Err(SignError::DoesNotVerify(key.label().to_string()));
    }
    Ok(signature)
}

/// Puts a Certificate or CertificateList together from its DER parts.
///
/// # Errors
/// [`SignError::Encoding`] if `to_be_signed` is no DER value.
pub fn assemble(
    to_be_signed: &[u8],
    algorithm: SignatureAlgorithm,
    signature: &Signature,
) -> Result<Vec<u8>, SignError> {
    let parts = Signed {
        to_be_signed: AnyRef::from_der(to_be_signed).map_err(SignError::Encoding)?,
        algorithm: algorithm.identifier(),
        signature: BitStringRef::from_bytes(&signature.0).map_err(SignError::Encoding)?,
    };
    parts.to_der().map_err(SignError::Encoding)
}

/// Signs, verifies and assembles.
///
/// # Errors
/// See [`SignError`].
pub async fn sign_object(key: &Arc<dyn SigningKey>, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
    let signature = sign_verified(key, to_be_signed).await?;
    assemble(to_be_signed, key.algorithm(), &signature)
}
