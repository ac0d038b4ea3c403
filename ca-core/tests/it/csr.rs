//! Certification requests, RFC 2986 and RFC 8555 §7.4.

use ca_core::pkix::csr::{Csr, CsrError};
use ca_core::pkix::identifier::Identifier;
use ca_core::pkix::public_key::spki_from_octets;
use ca_core::policy::SubscriberKeys;
use ca_core::signing::KeyAlgorithm;
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn identifiers(names: &[&str]) -> Vec<Identifier> {
    names.iter().map(|name| Identifier::from_text(name).unwrap()).collect()
}

#[test]
fn every_supported_key_signs_a_csr_that_is_accepted() {
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = Csr::from_der(&request(&key, &["www.example.org", "192.0.2.1"])).unwrap();
        let ordered = identifiers(&["192.0.2.1", "www.example.org"]);
        assert_eq!(csr.require_names(&ordered), Ok(ordered));
        assert_eq!(SubscriberKeys::default().require(csr.public_key()), Ok(()));
    }
}

#[test]
fn the_csr_must_ask_for_exactly_the_orders_names() {
    let key = KeyPair::generate().unwrap();
    let csr = Csr::from_der(&request(&key, &["a.example", "b.example"])).unwrap();
    for ordered in [&["a.example"][..], &["a.example", "b.example", "c.example"], &["*.example"]] {
        let error = csr.require_names(&identifiers(ordered)).unwrap_err();
        assert!(matches!(error, CsrError::Names { .. }), "{ordered:?}");
    }
    let error = csr.require_names(&identifiers(&["a.example", "c.example"])).unwrap_err().to_string();
    assert!(error.contains("missing: [c.example], not ordered: [b.example]"), "{error}");
}

#[test]
fn a_name_in_the_common_name_only_counts_as_asked_for() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Only.Example");
    params.distinguished_name.push(DnType::OrganizationName, "ignored.example");
    let csr = Csr::from_der(params.serialize_request(&key).unwrap().der()).unwrap();
    assert_eq!(csr.require_names(&identifiers(&["only.example"])), Ok(identifiers(&["only.example"])));
}

#[test]
fn names_of_other_kinds_are_refused_and_not_ignored() {
    let key = KeyPair::generate().unwrap();
    for other in [
        SanType::Rfc822Name("a@example.org".try_into().unwrap()),
        SanType::URI("https://example.org/".try_into().unwrap()),
    ] {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(other);
        let error = Csr::from_der(params.serialize_request(&key).unwrap().der()).unwrap_err();
        assert!(matches!(error, CsrError::UnsupportedName(_)), "{error}");
    }
}

#[test]
fn a_csr_that_another_key_signed_is_refused() {
    let key = KeyPair::generate().unwrap();
    let mut der = request(&key, &["a.example"]);
    let last = der.len() - 1;
    der[last] ^= 1;
    assert_eq!(Csr::from_der(&der).unwrap_err(), CsrError::BadSignature);
    // A byte of the signed part: the name itself.
    let mut der = request(&key, &["a.example"]);
    let at = der.windows(9).position(|window| window == b"a.example").unwrap();
    der[at] = b'b';
    assert_eq!(Csr::from_der(&der).unwrap_err(), CsrError::BadSignature);
}

#[test]
fn small_rsa_exponents_are_refused() {
    let modulus = [0xc1; 256];
    for (exponent, fine) in [(&[1u8, 0, 1][..], true), (&[3], false), (&[0x11], false), (&[1, 0, 0], false)] {
        let integer = |octets: &[u8]| der::asn1::Uint::new(octets).unwrap();
        let pair = [integer(&modulus), integer(exponent)];
        let key = der::Encode::to_der(&pair.to_vec()).unwrap();
        let read = spki_from_octets(KeyAlgorithm::Rsa2048, &key);
        assert_eq!(read.is_ok(), fine, "{exponent:?}: {read:?}");
    }
}

#[test]
fn truncated_and_oversized_requests_are_refused() {
    let key = KeyPair::generate().unwrap();
    let der = request(&key, &["a.example"]);
    for length in 0..der.len() {
        assert!(Csr::from_der(&der[..length]).is_err(), "{length}");
    }
    assert!(matches!(Csr::from_der(&vec![0x30; Csr::MAX_LENGTH + 1]), Err(CsrError::TooLarge(_))));
}

proptest! {
    #[test]
    fn any_octets_are_read_without_panic(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
        ca_core::fuzz::csr(&data);
    }

    #[test]
    fn any_mutation_of_a_request_is_read_without_panic(at in 0usize..300, to in any::<u8>(), cut in 0usize..300) {
        let key = KeyPair::generate().unwrap();
        let mut der = request(&key, &["a.example", "192.0.2.7"]);
        let length = der.len();
        der[at % length] = to;
        ca_core::fuzz::csr(&der);
        ca_core::fuzz::csr(&der[..cut % length]);
    }
}
