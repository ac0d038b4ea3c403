//! Any octets as an attestation object of device-attest-01 (WebAuthn §6.5.4), with every structure in it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ca_core::fuzz::attestation(data));
