//! The path from a device's certificate to a root, RFC 5280 §6.1, shown by the format that asks for least beside it.

use ca_core::acme::attestation::{Format, MAX_LENGTH, TrustAnchor};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose};

use super::devices::encode::Cbor;
use super::devices::{Apple, Manufacturer, YubiKey, attestation_object};
use super::{KEY_AUTHORIZATION, TOKEN, assert_refused, trust, verified};

/// Asserts what is said of an attestation whose manufacturer's intermediate certificate was changed.
#[track_caller]
fn refused_with_intermediate(change: impl FnOnce(&mut CertificateParams), why: &str) {
    let maker = Manufacturer::with("Apple", change);
    assert_refused(&Apple::new("X").attest(&maker, TOKEN), &trust(Format::Apple, &maker), why);
}

#[test]
fn a_path_to_another_root_is_refused_also_if_it_has_the_same_name() {
    let (maker, other) = (Manufacturer::new("Apple"), Manufacturer::new("Apple"));
    let object = Apple::new("X").attest(&maker, TOKEN);
    assert!(verified(&object, &trust(Format::Apple, &maker)).is_ok());
    assert_refused(&object, &trust(Format::Apple, &other), "does not lead to a root");
}

#[test]
fn a_root_that_is_sent_along_is_passed_over_and_not_trusted_for_it() {
    let (maker, device) = (Manufacturer::new("Yubico"), YubiKey::new(5));
    let path = [device.path(&maker), vec![maker.root_der()]].concat();
    let object = device.attest_by(&path, KEY_AUTHORIZATION);
    assert!(verified(&object, &trust(Format::Step, &maker)).is_ok());
    assert_refused(&object, &trust(Format::Step, &Manufacturer::new("Yubico")), "does not lead to a root");
}

#[test]
fn the_order_of_the_path_matters_and_nothing_may_lack() {
    let (maker, device) = (Manufacturer::new("Yubico"), YubiKey::new(5));
    let trust = trust(Format::Step, &maker);
    let path = device.path(&maker);
    let attest = |path: &[Vec<u8>]| device.attest_by(path, KEY_AUTHORIZATION);
    assert_refused(&attest(&[]), &trust, "there is no certificate");
    assert_refused(&attest(&path[..1]), &trust, "does not lead to a root");
    let twice = [path.clone(), vec![path[1].clone()]].concat();
    assert_refused(&attest(&twice), &trust, "longer than a certificate in it allows");
    // Another device's certificate before a path that is fine in itself.
    let other = YubiKey::new(6).path(&Manufacturer::new("Yubico"));
    assert_refused(&attest(&[other[0].clone(), path[1].clone()]), &trust, "place 0 is not signed");
    let cut = [path[0][..path[0].len() - 1].to_vec(), path[1].clone()];
    assert_refused(&attest(&cut), &trust, "no X.509 version 3 certificate in DER");
}

#[test]
fn certificates_are_valid_now() {
    let maker = Manufacturer::new("Apple");
    let trust_of = trust(Format::Apple, &maker);
    let expired = Apple::new("X").attest_with(&maker, TOKEN, |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    assert_refused(&expired, &trust_of, "the certificate at place 0 is valid from");
    let early = Apple::new("X").attest_with(&maker, TOKEN, |params| {
        params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    });
    assert_refused(&early, &trust_of, "the certificate at place 0 is valid from");
    let change = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    refused_with_intermediate(change, "the certificate at place 1 is valid from");
}

#[test]
fn only_a_ca_signs_and_only_as_long_a_path_as_it_may() {
    refused_with_intermediate(
        |params| params.is_ca = IsCa::ExplicitNoCa,
        "not a CA's: it has no basicConstraints",
    );
    refused_with_intermediate(|params| params.is_ca = IsCa::NoCa, "not a CA's: it has no basicConstraints");
    let change = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    refused_with_intermediate(change, "keyUsage lacks keyCertSign");
    let maker = Manufacturer::below("Apple", BasicConstraints::Constrained(0), |_| ());
    let object = Apple::new("X").attest(&maker, TOKEN);
    assert_refused(&object, &trust(Format::Apple, &maker), "longer than a certificate in it allows");
    // A device that was certified as a CA certifies another: the path is longer than the intermediate allows.
    let maker = Manufacturer::new("Yubico");
    let (outer, inner) = (YubiKey::new(5), YubiKey::new(6));
    let mut params = super::devices::manufacturer::device(Some("outer"), vec![]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let path = maker.certify(&outer.key, &params);
    let issuer = rcgen::Issuer::new(params, &outer.key);
    let leaf = super::devices::manufacturer::device(Some("inner"), vec![]);
    let leaf = leaf.signed_by(&inner.key, &issuer).unwrap();
    let object = inner.attest_by(&[vec![leaf.der().to_vec()], path].concat(), KEY_AUTHORIZATION);
    assert_refused(&object, &trust(Format::Step, &maker), "longer than a certificate in it allows");
}

#[test]
fn a_critical_extension_that_nobody_processes_is_refused() {
    let maker = Manufacturer::new("Apple");
    let critical = |params: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let object = Apple::new("X").attest_with(&maker, TOKEN, critical);
    assert_refused(&object, &trust(Format::Apple, &maker), "critical extension 1.2.3.4");
    refused_with_intermediate(critical, "critical extension 1.2.3.4");
}

#[test]
fn a_file_of_roots_has_ca_certificates_and_nothing_else() {
    let maker = Manufacturer::new("Apple");
    let both = format!("{}{}", maker.roots(), Manufacturer::new("Other").roots());
    assert_eq!(TrustAnchor::from_pem(both.as_bytes()).unwrap().len(), 2);
    let error = |text: &str| TrustAnchor::from_pem(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(error(""), "there is no certificate in PEM");
    assert_eq!(error("x"), "there is no certificate in PEM");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = CertificateParams::default().self_signed(&key).unwrap().pem();
    assert!(
        error(&format!("{}{leaf}", maker.roots()))
            .starts_with("certificate 2 in it: a certificate that signs")
    );
}

#[test]
fn what_is_too_large_cut_off_or_nested_is_refused_before_anything_is_verified() {
    let (maker, device) = (Manufacturer::new("Apple"), Apple::new("X"));
    let trust = trust(Format::Apple, &maker);
    let object = device.attest(&maker, TOKEN);
    for end in (0..object.len()).step_by(7) {
        assert!(verified(&object[..end], &trust).is_err(), "{end}");
    }
    assert_refused(&vec![0xa0; MAX_LENGTH + 1], &trust, "at most 32768 are read");
    let nested = [&b"\xa1\x61x"[..], &[0x81; 20_000]].concat();
    assert_refused(&nested, &trust, "nested too deep");
    let many = Cbor::path(&vec![vec![0]; 9]);
    assert_refused(&attestation_object("apple", vec![("x5c", many)]), &trust, "more than 8 certificates");
}
