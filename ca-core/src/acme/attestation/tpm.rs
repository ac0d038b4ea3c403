//! Format `tpm`: TPM 2.0, [WebAuthn §8.3](https://www.w3.org/TR/webauthn-2/#sctn-tpm-attestation) with the key
//! authorization in place of client data: a TPM certified the key with an attestation key whose certificate names the
//! device.

mod structures;

use const_oid::ObjectIdentifier;
use const_oid::db::rfc5280;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

use super::cbor::Statement;
use super::chain::Certificate;
use super::{AttestationError, Attested, Binding, Format, signature_algorithm};
use crate::pkix::certificate::find;
use crate::pkix::device;
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::PublicKey;
use crate::signing::SignatureAlgorithm;
use structures::{Certified, Hash, PublicArea, TpmSignature};

/// tcg-kp-AIKCertificate.
const AIK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");
/// tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion.
const TPM_ATTRIBUTES: [ObjectIdentifier; 3] = [
    ObjectIdentifier::new_unwrap("2.23.133.2.1"),
    ObjectIdentifier::new_unwrap("2.23.133.2.2"),
    ObjectIdentifier::new_unwrap("2.23.133.2.3"),
];

const fn refuse(why: &'static str) -> AttestationError {
    AttestationError::Statement { format: Format::Tpm, why }
}

pub(super) fn verify(
    statement: &Statement<'_>,
    path: &[Certificate],
    binding: Binding<'_>,
) -> Result<Attested, AttestationError> {
    if statement.ver != Some("2.0") {
        return Err(refuse("'ver' is not 2.0"));
    }
    let public_area = statement.pub_area.ok_or(refuse("it has no 'pubArea'"))?;
    let certificate_info = statement.cert_info.ok_or(refuse("it has no 'certInfo'"))?;
    let signature = statement.sig.ok_or(refuse("it has no 'sig'"))?;
    let leaf = path.first().ok_or(AttestationError::Malformed("it has no certificate"))?;
    let devices = attestation_key_certificate(leaf)?;

    let algorithm = signature_algorithm(Some(statement.alg.ok_or(refuse("it has no 'alg'"))?), leaf.key())?;
    let signature = TpmSignature::parse(signature).ok_or(refuse("'sig' is no TPMT_SIGNATURE"))?;
    let hash = hash_of(algorithm).ok_or(refuse("'alg' is none that a TPM signs with"))?;
    verify_signature(leaf.key(), algorithm, hash, certificate_info, &signature)?;

    let certified = Certified::parse(certificate_info)
        .ok_or(refuse("'certInfo' is no TPMS_ATTEST that certifies a key"))?;
    if certified.extra_data != hash.digest(binding.key_authorization.as_bytes()) {
        return Err(AttestationError::NotBound("extraData is not the digest of the key authorization"));
    }
    let area = PublicArea::parse(public_area)
        .ok_or(refuse("'pubArea' is no TPMT_PUBLIC with an RSA key or one on P-256 or P-384"))?;
    if certified.name != area.name(public_area) {
        return Err(refuse("'certInfo' certifies another key than 'pubArea' has"));
    }
    if !area.is_bound_to_this_tpm() {
        return Err(refuse(
            "the key can leave the TPM: fixedTPM, fixedParent and sensitiveDataOrigin are needed",
        ));
    }
    let key = area.key.map_err(|_| refuse("the key in 'pubArea' is not valid"))?;
    Ok(Attested { key, devices })
}

/// Reads a certificate as that of an attestation key.
pub(super) fn read_certificate(certificate: &Certificate) {
    drop(attestation_key_certificate(certificate));
}

/// Reads the structures of a statement.
pub(super) fn read(statement: &Statement<'_>) {
    if let Some(octets) = statement.pub_area
        && let Some(area) = PublicArea::parse(octets)
    {
        let _ = (area.name(octets), area.is_bound_to_this_tpm());
    }
    drop(statement.cert_info.and_then(Certified::parse));
    if let Some(signature) = statement.sig.and_then(TpmSignature::parse) {
        drop(signature.for_algorithm(SignatureAlgorithm::EcdsaSha256, Hash::Sha256));
    }
}

/// The digest that goes with a signature algorithm; the only two that attestation keys are made for here.
fn hash_of(algorithm: SignatureAlgorithm) -> Option<Hash> {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::RsaPkcs1Sha256 => Some(Hash::Sha256),
        SignatureAlgorithm::EcdsaSha384 => Some(Hash::Sha384),
        SignatureAlgorithm::Ed25519 | SignatureAlgorithm::RsaPssSha256 => None,
    }
}

fn verify_signature(
    key: &PublicKey,
    algorithm: SignatureAlgorithm,
    hash: Hash,
    message: &[u8],
    signature: &TpmSignature,
) -> Result<(), AttestationError> {
    let octets = signature
        .for_algorithm(algorithm, hash)
        .ok_or(AttestationError::Signature("'sig' was made with another algorithm than 'alg' says"))?;
    if key.verify(algorithm, message, &octets) {
        return Ok(());
    }
    Err(AttestationError::Signature("the attestation key did not make it over certInfo"))
}

/// WebAuthn §8.3.1: what the certificate of an attestation key must be. Gives the devices that it names.
fn attestation_key_certificate(certificate: &Certificate) -> Result<Vec<Identifier>, AttestationError> {
    if !certificate.subject_is_empty() {
        return Err(refuse("the attestation key's certificate has a subject; it must be empty"));
    }
    if certificate.is_ca() {
        return Err(refuse("the attestation key's certificate is a CA's"));
    }
    let extensions = certificate.extensions();
    let for_attestation = find(extensions, rfc5280::ID_CE_EXT_KEY_USAGE)
        .is_some_and(|usage: ExtendedKeyUsage| usage.0.contains(&AIK_CERTIFICATE));
    if !for_attestation {
        return Err(refuse("the attestation key's certificate lacks the extended key usage 2.23.133.8.3"));
    }
    let SubjectAltName(names) = find(extensions, rfc5280::ID_CE_SUBJECT_ALT_NAME)
        .ok_or(refuse("the attestation key's certificate has no subjectAltName"))?;
    let attributes: Vec<_> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DirectoryName(name) => Some(name),
            _ => None,
        })
        .flat_map(|name| name.iter_rdn().flat_map(|rdn| rdn.iter()).map(|attribute| attribute.oid))
        .collect();
    if !TPM_ATTRIBUTES.iter().all(|oid| attributes.contains(oid)) {
        return Err(refuse(
            "the attestation key's certificate does not give the TPM's manufacturer, model and version",
        ));
    }
    let devices = names.iter().filter_map(|name| match name {
        GeneralName::OtherName(name) => device::from_other_name(name),
        _ => None,
    });
    Ok(devices.collect())
}
