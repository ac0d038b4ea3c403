//! Any octets as an OCSP request (RFC 6960 §4.1).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ca_core::pkix::ocsp::fuzz_request(data));
