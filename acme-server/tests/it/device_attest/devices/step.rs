//! A YubiKey whose PIV slot is attested, as smallstep's clients send it.

use rcgen::{CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

use super::attestation_object;
use super::encode::{Cbor, tlv};
use super::manufacturer::{Manufacturer, device};

const SERIAL: &[u64] = &[1, 3, 6, 1, 4, 1, 41_482, 3, 7];

pub struct YubiKey {
    pub key: KeyPair,
    pub serial: u32,
}

impl YubiKey {
    pub fn new(serial: u32) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), serial }
    }

    /// The path of the slot's certificate.
    pub fn path(&self, manufacturer: &Manufacturer) -> Vec<Vec<u8>> {
        let octets = [&[0][..], &self.serial.to_be_bytes()].concat();
        let redundant = octets.windows(2).take_while(|pair| pair[0] == 0 && pair[1] < 0x80).count();
        let serial = tlv(&[2], &octets[redundant..]);
        let serial = CustomExtension::from_oid_content(SERIAL, serial);
        manufacturer.certify(&self.key, &device(Some("YubiKey PIV Attestation 9a"), vec![serial]))
    }

    /// The attestation for a key authorization.
    pub fn attest(&self, manufacturer: &Manufacturer, key_authorization: &str) -> Vec<u8> {
        self.attest_by(&self.path(manufacturer), key_authorization)
    }

    /// As [`YubiKey::attest`], with another path.
    pub fn attest_by(&self, path: &[Vec<u8>], key_authorization: &str) -> Vec<u8> {
        let signature = self.key.sign(key_authorization.as_bytes()).unwrap();
        let wrapped = Cbor::Bytes(signature).encode();
        attestation_object(
            "step",
            vec![("alg", Cbor::Integer(-7)), ("sig", Cbor::Bytes(wrapped)), ("x5c", Cbor::path(path))],
        )
    }
}
