//! Any octets as a JSON Web Key (RFC 7517).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| acme_server::fuzz::jwk(data));
