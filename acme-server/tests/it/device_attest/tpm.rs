//! The format `tpm`, with keys and attestations of a TPM in software (swtpm).

use ca_core::acme::attestation::{Format, Trust};
use ca_core::pkix::public_key::PublicKey;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, PublicKeyData};

use super::devices::Manufacturer;
use super::devices::tpm::{Kind, Statement, TpmDevice, TpmKey, attestation_certificate, module, permanent};
use super::{KEY_AUTHORIZATION, assert_refused, devices_of, trust, verified};

#[test]
fn a_tpm_proves_the_names_in_its_attestation_keys_certificate_with_ec_and_rsa_keys() {
    let (maker, device) = (Manufacturer::new("TPM"), TpmDevice::start());
    let trust = trust(Format::Tpm, &maker);
    for (attestation_kind, kind) in [(Kind::P256, Kind::Rsa2048), (Kind::Rsa2048, Kind::P256)] {
        let (attestation_key, key) = (device.attestation_key(attestation_kind), device.key(kind));
        let path = attestation_key.certified(&maker, permanent("PC-0815"));
        let object = attestation_key.attest(&key, path, KEY_AUTHORIZATION).encode();
        let attested = verified(&object, &trust).unwrap();
        assert_eq!(attested.devices[0].to_string(), "permanent-identifier:PC-0815");
        assert_eq!(attested.key, PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap());
        let path = attestation_key.certified(&maker, module("TPM-7"));
        let object = attestation_key.attest(&key, path, KEY_AUTHORIZATION).encode();
        assert_eq!(devices_of(&object, &trust), ["hardware-module:TPM-7/1.2.3.4"]);
    }
}

/// Attests as it should be but for one change, and asserts that this is refused.
#[track_caller]
fn refused(
    keys: &(TpmKey<'_>, TpmKey<'_>),
    maker: &Manufacturer,
    change: impl FnOnce(&mut Statement),
    why: &str,
) {
    let (attestation_key, key) = keys;
    let path = attestation_key.certified(maker, permanent("PC-0815"));
    let mut statement = attestation_key.attest(key, path, KEY_AUTHORIZATION);
    let trust: Trust = trust(Format::Tpm, maker);
    assert!(verified(&statement.encode(), &trust).is_ok());
    change(&mut statement);
    assert_refused(&statement.encode(), &trust, why);
}

#[test]
fn a_tpm_statement_with_one_thing_wrong_is_refused() {
    let (maker, device) = (Manufacturer::new("TPM"), TpmDevice::start());
    let keys = (device.attestation_key(Kind::P256), device.key(Kind::P256));
    let other = device.key(Kind::Rsa2048);
    let path = || keys.0.certified(&maker, permanent("PC-0815"));
    let refused = |change: &dyn Fn(&mut Statement), why| refused(&keys, &maker, change, why);

    refused(&|s| s.version = "1.2".to_owned(), "'ver' is not 2.0");
    refused(&|s| s.algorithm = -257, "'alg' is not");
    refused(&|s| s.algorithm = -65535, "'alg' is not");
    refused(&|s| *s.signature.last_mut().unwrap() ^= 1, "signature does not verify");
    refused(&|s| s.certificate_info[50] ^= 1, "signature does not verify");
    refused(&|s| s.signature.push(0), "no TPMT_SIGNATURE");
    refused(&|s| *s = keys.0.attest(&keys.1, path(), "another.authorization"), "not for this challenge");
    // Another key than the one that was certified.
    let foreign = keys.0.attest(&other, path(), KEY_AUTHORIZATION);
    refused(&|s| s.public_area.clone_from(&foreign.public_area), "certifies another key");
    refused(&|s| *s.public_area.last_mut().unwrap() ^= 1, "certifies another key");
    refused(&|s| s.public_area.push(0), "no TPMT_PUBLIC");
}

#[test]
fn what_an_attestation_key_did_not_get_from_its_tpm_is_no_certification() {
    // A key that is not restricted signs whatever it is given, also what looks like TPMS_ATTEST.
    let (maker, device) = (Manufacturer::new("TPM"), TpmDevice::start());
    let keys = (device.attestation_key(Kind::P256), device.key(Kind::P256));
    let path = keys.0.certified(&maker, permanent("PC-0815"));
    let statement = keys.0.attest(&keys.1, path, KEY_AUTHORIZATION);
    let mut forged = statement.certificate_info.clone();
    forged[0] = 0;
    let signer = device.key(Kind::Rsa2048);
    let signature = rcgen::SigningKey::sign(&signer, &forged).unwrap();
    let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
    let statement = Statement {
        algorithm: -257,
        path: signer.certified(&maker, permanent("PC-0815")),
        signature: [&[0, 0x14, 0, 0x0b][..], &length, &signature].concat(),
        certificate_info: forged,
        ..statement
    };
    assert_refused(&statement.encode(), &trust(Format::Tpm, &maker), "no TPMS_ATTEST that certifies a key");
}

#[test]
fn a_key_that_can_leave_its_tpm_is_refused() {
    let (maker, device) = (Manufacturer::new("TPM"), TpmDevice::start());
    let attestation_key = device.attestation_key(Kind::P256);
    // sensitiveDataOrigin, userWithAuth and sign, without fixedTPM and fixedParent.
    let key = device.create(Kind::P256, 0x0004_0060);
    let path = attestation_key.certified(&maker, permanent("PC-0815"));
    let object = attestation_key.attest(&key, path, KEY_AUTHORIZATION).encode();
    assert_refused(&object, &trust(Format::Tpm, &maker), "the key can leave the TPM");
}

#[test]
fn webauthn_8_3_1_the_attestation_keys_certificate_is_one_for_that() {
    let (maker, device) = (Manufacturer::new("TPM"), TpmDevice::start());
    let (attestation_key, key) = (device.attestation_key(Kind::P256), device.key(Kind::P256));
    let refused = |change: &dyn Fn(&mut rcgen::CertificateParams), why: &str| {
        let mut params = attestation_certificate(permanent("PC-0815"));
        change(&mut params);
        let path = maker.certify(&attestation_key, &params);
        let object = attestation_key.attest(&key, path, KEY_AUTHORIZATION).encode();
        assert_refused(&object, &trust(Format::Tpm, &maker), why);
    };
    refused(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "2.23.133.8.3");
    refused(&|p| p.extended_key_usages.clear(), "2.23.133.8.3");
    refused(&|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "is a CA's");
    refused(&|p| p.distinguished_name.push(rcgen::DnType::CommonName, "AK"), "has a subject");
    refused(&|p| p.custom_extensions.clear(), "no subjectAltName");
    let nameless = super::devices::encode::sequence(&[permanent("PC-0815")]);
    let nameless = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], nameless);
    refused(&|p| p.custom_extensions = vec![nameless.clone()], "manufacturer, model and version");
}
