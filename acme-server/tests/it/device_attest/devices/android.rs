//! An Android device: the key's certificate has a key description.

use rcgen::{CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

use super::attestation_object;
use super::encode::{Cbor, enumerated, explicit, integer, octet_string, sequence, tlv};
use super::manufacturer::{Manufacturer, device};

pub const KEY_DESCRIPTION: &[u64] = &[1, 3, 6, 1, 4, 1, 11_129, 2, 1, 17];

/// A device and what it says of itself; a test may change any of it.
pub struct Android {
    pub key: KeyPair,
    pub serial: Option<String>,
    /// 0: software, 1: trusted execution environment, 2: StrongBox.
    pub security_level: u8,
    pub key_mint_security_level: u8,
    pub locked: bool,
    /// 0: verified.
    pub boot_state: u8,
    /// 0: generated in the hardware.
    pub origin: u16,
    /// 2: sign.
    pub purpose: u16,
    pub all_applications: bool,
    /// Whether the origin stands among what only software enforces.
    pub enforced_by_software: bool,
    /// `None`: the key authorization.
    pub challenge: Option<Vec<u8>>,
}

impl Android {
    pub fn new(serial: &str) -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            serial: Some(serial.to_owned()),
            security_level: 1,
            key_mint_security_level: 2,
            locked: true,
            boot_state: 0,
            origin: 0,
            purpose: 2,
            all_applications: false,
            enforced_by_software: false,
            challenge: None,
        }
    }

    fn key_description(&self, key_authorization: &str) -> Vec<u8> {
        let challenge = self.challenge.clone().unwrap_or_else(|| key_authorization.as_bytes().to_vec());
        let root_of_trust = sequence(&[
            octet_string(&[7; 32]),
            tlv(&[1], &[if self.locked { 0xff } else { 0 }]),
            enumerated(self.boot_state),
            octet_string(&[8; 32]),
        ]);
        let origin = explicit(702, &integer(self.origin));
        let mut hardware = vec![explicit(1, &tlv(&[0x31], &integer(self.purpose))), explicit(2, &integer(3))];
        let mut software = vec![explicit(701, &integer(1_000))];
        if self.all_applications {
            software.insert(0, explicit(600, &[5, 0]));
        }
        if self.enforced_by_software { &mut software } else { &mut hardware }.push(origin);
        hardware.push(explicit(704, &root_of_trust));
        hardware.extend(self.serial.iter().map(|serial| explicit(713, &octet_string(serial.as_bytes()))));
        sequence(&[
            integer(300),
            enumerated(self.security_level),
            integer(300),
            enumerated(self.key_mint_security_level),
            octet_string(&challenge),
            octet_string(&[]),
            sequence(&software),
            sequence(&hardware),
        ])
    }

    /// The path of the key's certificate.
    pub fn path(&self, manufacturer: &Manufacturer, key_authorization: &str) -> Vec<Vec<u8>> {
        let description = self.key_description(key_authorization);
        let description = CustomExtension::from_oid_content(KEY_DESCRIPTION, description);
        manufacturer.certify(&self.key, &device(Some("Android Keystore Key"), vec![description]))
    }

    /// The attestation for a key authorization.
    pub fn attest(&self, manufacturer: &Manufacturer, key_authorization: &str) -> Vec<u8> {
        let path = self.path(manufacturer, key_authorization);
        let signature = self.key.sign(key_authorization.as_bytes()).unwrap();
        attestation_object(
            "android-key",
            vec![("alg", Cbor::Integer(-7)), ("sig", Cbor::Bytes(signature)), ("x5c", Cbor::path(&path))],
        )
    }
}
