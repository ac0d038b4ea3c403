//! An Apple device: its manufacturer's server certifies the key, with serial number, UDID and freshness code in extensions.

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P384_SHA384};

use super::attestation_object;
use super::encode::Cbor;
use super::manufacturer::{Manufacturer, device};

const SERIAL: &[u64] = &[1, 2, 840, 113_635, 100, 8, 9, 1];
const UDID: &[u64] = &[1, 2, 840, 113_635, 100, 8, 9, 2];
const FRESHNESS: &[u64] = &[1, 2, 840, 113_635, 100, 8, 11, 1];

pub struct Apple {
    pub key: KeyPair,
    pub serial: String,
    pub udid: String,
}

impl Apple {
    pub fn new(serial: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        Self { key, serial: serial.to_owned(), udid: format!("00008110-{serial}") }
    }

    /// The attestation for a nonce, which is the token.
    pub fn attest(&self, manufacturer: &Manufacturer, nonce: &str) -> Vec<u8> {
        self.attest_with(manufacturer, nonce, |_| ())
    }

    /// As [`Apple::attest`], with its certificate changed.
    pub fn attest_with(
        &self,
        manufacturer: &Manufacturer,
        nonce: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let freshness = digest(&SHA256, nonce.as_bytes());
        let bare = |oid: &[u64], octets: &[u8]| CustomExtension::from_oid_content(oid, octets.to_vec());
        let mut params = device(
            Some("a device"),
            vec![
                bare(SERIAL, self.serial.as_bytes()),
                bare(UDID, self.udid.as_bytes()),
                bare(FRESHNESS, freshness.as_ref()),
            ],
        );
        change(&mut params);
        let path = manufacturer.certify(&self.key, &params);
        attestation_object("apple", vec![("x5c", Cbor::path(&path))])
    }
}
