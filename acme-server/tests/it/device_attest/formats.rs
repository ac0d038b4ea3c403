//! The formats `apple`, `step` and `android-key`: accepted as they should be, and refused with one thing wrong.

use ca_core::acme::attestation::Format;
use ca_core::pkix::public_key::{PublicKey, sha256};
use rcgen::PublicKeyData;

use super::devices::android::KEY_DESCRIPTION;
use super::devices::encode::{Cbor, sequence, utf8_string};
use super::devices::{Android, Apple, Manufacturer, YubiKey, attestation_object, manufacturer};
use super::{KEY_AUTHORIZATION, TOKEN, assert_refused, devices_of, trust, verified};

fn key_of(key: &impl PublicKeyData) -> PublicKey {
    PublicKey::from_spki_der(&key.subject_public_key_info()).unwrap()
}

#[test]
fn apple_proves_serial_number_and_udid_by_a_freshness_code_over_the_token() {
    let (maker, device) = (Manufacturer::new("Apple"), Apple::new("C02XL0GYJGH5"));
    let trust = trust(Format::Apple, &maker);
    let attested = verified(&device.attest(&maker, TOKEN), &trust).unwrap();
    assert_eq!(attested.key, key_of(&device.key));
    let names = attested.devices.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names, ["permanent-identifier:C02XL0GYJGH5", "permanent-identifier:00008110-C02XL0GYJGH5"]);
    // As revisions before -09 had it.
    assert!(verified(&device.attest(&maker, KEY_AUTHORIZATION), &trust).is_ok());
}

#[test]
fn apple_without_the_right_freshness_code_is_refused() {
    let (maker, device) = (Manufacturer::new("Apple"), Apple::new("C02XL0GYJGH5"));
    let trust = trust(Format::Apple, &maker);
    assert_refused(&device.attest(&maker, "another token"), &trust, "not for this challenge");
    let none = device.attest_with(&maker, TOKEN, |params| drop(params.custom_extensions.pop()));
    assert_refused(&none, &trust, "has no freshness code");
}

#[test]
fn step_proves_a_yubikey_by_its_signature_over_the_key_authorization() {
    let (maker, device) = (Manufacturer::new("Yubico"), YubiKey::new(12_345_678));
    let trust = trust(Format::Step, &maker);
    let attested = verified(&device.attest(&maker, KEY_AUTHORIZATION), &trust).unwrap();
    assert_eq!(attested.key, key_of(&device.key));
    assert_eq!(attested.devices[0].to_string(), "permanent-identifier:12345678");
    for serial in [0, 7, 128, u32::MAX] {
        let object = YubiKey::new(serial).attest(&maker, KEY_AUTHORIZATION);
        assert_eq!(devices_of(&object, &trust), [format!("permanent-identifier:{serial}")]);
    }
}

#[test]
fn step_refuses_a_serial_number_that_is_none() {
    let (maker, device) = (Manufacturer::new("Yubico"), YubiKey::new(5));
    for value in [&[2, 1, 0x80][..], &[2, 5, 1, 0, 0, 0, 0], &[4, 1, 5], &[2, 2, 0, 5], &[2, 1, 5, 0], &[]] {
        let extension =
            rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 41_482, 3, 7], value.to_vec());
        let path = maker.certify(&device.key, &manufacturer::device(Some("slot"), vec![extension]));
        let object = device.attest_by(&path, KEY_AUTHORIZATION);
        assert_refused(&object, &trust(Format::Step, &maker), "serial number is no INTEGER");
    }
}

#[test]
fn step_reads_the_name_of_a_managed_device() {
    let maker = Manufacturer::new("Fleet");
    let device = YubiKey::new(1);
    let extension = sequence(&[utf8_string("laptop-7")]);
    let extension =
        rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 37_476, 9000, 64, 4], extension);
    let path = maker.certify(&device.key, &manufacturer::device(Some("laptop"), vec![extension]));
    let object = device.attest_by(&path, KEY_AUTHORIZATION);
    assert_eq!(devices_of(&object, &trust(Format::Step, &maker)), ["permanent-identifier:laptop-7"]);
}

#[test]
fn step_with_another_key_or_another_message_is_refused() {
    let (maker, device) = (Manufacturer::new("Yubico"), YubiKey::new(5));
    let trust = trust(Format::Step, &maker);
    assert_refused(&device.attest(&maker, "another.authorization"), &trust, "signature does not verify");
    let other = YubiKey::new(5);
    let object = other.attest_by(&device.path(&maker), KEY_AUTHORIZATION);
    assert_refused(&object, &trust, "signature does not verify");
    let path = Cbor::path(&device.path(&maker));
    let unsigned = attestation_object("step", vec![("x5c", path.clone())]);
    assert_refused(&unsigned, &trust, "it has no 'sig'");
    let bare = attestation_object("step", vec![("sig", Cbor::bytes(b"\x42ab!")), ("x5c", path)]);
    assert_refused(&bare, &trust, "'sig' is no byte string in CBOR");
}

#[test]
fn android_proves_the_serial_number_that_the_hardware_vouches_for() {
    let (maker, device) = (Manufacturer::new("Android"), Android::new("R58M12ABCDE"));
    let trust = trust(Format::AndroidKey, &maker);
    let attested = verified(&device.attest(&maker, KEY_AUTHORIZATION), &trust).unwrap();
    assert_eq!(attested.key, key_of(&device.key));
    assert_eq!(attested.devices[0].to_string(), "permanent-identifier:R58M12ABCDE");
    let hashed = Some(sha256(KEY_AUTHORIZATION.as_bytes()).to_vec());
    let hashed = Android { challenge: hashed, ..Android::new("R58M12ABCDE") };
    assert!(verified(&hashed.attest(&maker, KEY_AUTHORIZATION), &trust).is_ok());
    let nameless = Android { serial: None, ..Android::new("") };
    assert!(devices_of(&nameless.attest(&maker, KEY_AUTHORIZATION), &trust).is_empty());
}

#[test]
fn android_with_one_thing_wrong_is_refused() {
    let maker = Manufacturer::new("Android");
    let trust = trust(Format::AndroidKey, &maker);
    let good = || Android::new("R58M12ABCDE");
    let cases = [
        (Android { challenge: Some(b"another".to_vec()), ..good() }, "not for this challenge"),
        (Android { security_level: 0, ..good() }, "Software"),
        (Android { key_mint_security_level: 0, ..good() }, "Software"),
        (Android { security_level: 3, ..good() }, "can't be read"),
        (Android { locked: false, ..good() }, "unlocked"),
        (Android { boot_state: 1, ..good() }, "verified boot state"),
        (Android { boot_state: 2, ..good() }, "verified boot state"),
        (Android { origin: 2, ..good() }, "not generated in the hardware"),
        (Android { enforced_by_software: true, ..good() }, "not generated in the hardware"),
        (Android { purpose: 0, ..good() }, "purpose is not signing"),
        (Android { all_applications: true, ..good() }, "all applications"),
    ];
    for (device, why) in cases {
        assert_refused(&device.attest(&maker, KEY_AUTHORIZATION), &trust, why);
    }
    assert_refused(&good().attest(&maker, "another.authorization"), &trust, "signature does not verify");
}

#[test]
fn android_without_a_key_description_or_with_a_second_one_is_refused() {
    let device = Android::new("R58M12ABCDE");
    let object = |maker: &Manufacturer, path: &[Vec<u8>]| {
        let signature = rcgen::SigningKey::sign(&device.key, KEY_AUTHORIZATION.as_bytes()).unwrap();
        let statement = vec![("sig", Cbor::Bytes(signature)), ("x5c", Cbor::path(path))];
        (attestation_object("android-key", statement), trust(Format::AndroidKey, maker))
    };
    let maker = Manufacturer::new("Android");
    let plain = maker.certify(&device.key, &manufacturer::device(Some("key"), vec![]));
    let (attestation, trusted) = object(&maker, &plain);
    assert_refused(&attestation, &trusted, "has no key description");

    let description = rcgen::CustomExtension::from_oid_content(KEY_DESCRIPTION, vec![0x30, 0]);
    let maker = Manufacturer::with("Android", |params| params.custom_extensions.push(description));
    let (attestation, trusted) = object(&maker, &device.path(&maker, KEY_AUTHORIZATION));
    assert_refused(&attestation, &trusted, "another certificate than the first");
}

#[test]
fn a_format_without_roots_is_not_accepted_also_where_another_has_them() {
    let (maker, device) = (Manufacturer::new("Apple"), Apple::new("C02XL0GYJGH5"));
    let object = device.attest(&maker, TOKEN);
    assert_refused(&object, &trust(Format::Tpm, &maker), "'apple' are not accepted here; accepted are: tpm");
    let unknown = attestation_object("fido-u2f", vec![]);
    assert_refused(&unknown, &trust(Format::Tpm, &maker), "'fido-u2f' are not accepted here");
}
