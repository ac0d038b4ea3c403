//! The fuzz bodies under proptest: any octets, and octets that are nearly a JWS or a JWK.

use acme_server::fuzz;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use crate::support::Key;

proptest! {
    #[test]
    fn any_octets_are_read_as_a_jws_without_a_panic(data in vec(any::<u8>(), 0..400)) {
        fuzz::jws(&data);
    }

    #[test]
    fn a_jws_with_any_header_is_read_without_a_panic(header in "\\{(\"[a-z]{1,5}\":(1|\"[A-Za-z0-9_-]{0,9}\"|\\{\\}),?){0,6}\\}") {
        let protected = crate::support::key::base64url(header.as_bytes());
        fuzz::jws(json!({"protected": protected, "payload": "", "signature": ""}).to_string().as_bytes());
    }

    #[test]
    fn a_jws_with_changed_octets_is_read_without_a_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let header = json!({"alg": "ES256", "nonce": "AAAA", "url": "https://ca.test/x", "kid": "https://ca.test/y"});
        let protected = crate::support::key::base64url(header.to_string().as_bytes());
        let jws = json!({"protected": protected, "payload": "e30", "signature": "AAAA"});
        let mut data = jws.to_string().into_bytes();
        for (index, value) in changes {
            let index = index.index(data.len());
            data[index] = value;
        }
        fuzz::jws(&data);
    }

    #[test]
    fn a_binding_with_any_header_is_read_without_a_panic(header in "\\{(\"(alg|kid|url|nonce|jwk|b64)\":(1|null|\"(HS256|HS512|[a-z]{0,5})\"|\\{\\}),?){0,5}\\}", tag in vec(any::<u8>(), 0..70)) {
        let encode = crate::support::key::base64url;
        let binding = json!({"protected": encode(header.as_bytes()), "payload": "e30", "signature": encode(&tag)});
        fuzz::binding(binding.to_string().as_bytes());
    }

    #[test]
    fn a_binding_with_any_mac_is_read_and_does_not_verify(alg in "HS(256|384|512)", tag in vec(any::<u8>(), 0..70)) {
        let encode = crate::support::key::base64url;
        let header = json!({"alg": alg, "kid": "k", "url": "https://ca.test/x"}).to_string();
        let binding = json!({"protected": encode(header.as_bytes()), "payload": "e30", "signature": encode(&tag)});
        fuzz::binding(binding.to_string().as_bytes());
    }

    #[test]
    fn a_jwk_with_changed_octets_is_read_without_a_panic(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let example = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let mut data = example.as_bytes().to_vec();
        for (index, value) in changes {
            let index = index.index(data.len());
            data[index] = value;
        }
        fuzz::jwk(&data);
    }
}

#[test]
fn what_our_keys_sign_is_read_and_written() {
    for key in [Key::p256(), Key::p384(), Key::p521(), Key::rsa("PS256"), Key::ed25519()] {
        let header = json!({"alg": key.alg, "jwk": key.jwk(), "url": "https://ca.test/x", "nonce": "AAAA"});
        let jws = key.jws(&header, b"{}").to_string();
        assert!(acme_server::jose::FlattenedJws::parse(jws.as_bytes()).is_ok());
        fuzz::jws(jws.as_bytes());
        fuzz::jwk(key.jwk().to_string().as_bytes());
    }
}
