//! Any octets as a flattened JWS of ACME (RFC 7515 §7.2.2, RFC 8555 §6.2).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| acme_server::fuzz::jws(data));
