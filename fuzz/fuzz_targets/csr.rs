//! Any octets as a PKCS #10 certification request (RFC 2986).

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ca_core::fuzz::csr(data));
