//! A device with a TPM 2.0: an attestation key that a CA has certified for the device, and a key that it attests.

use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    PublicKeyData, SignatureAlgorithm, SigningKey,
};

use super::attestation_object;
use super::encode::{
    Cbor, explicit, hardware_module_name, object_identifier, permanent_identifier, sequence, tlv, utf8_string,
};
use super::manufacturer::{Manufacturer, device};
use super::swtpm::{Loaded, Swtpm, take};

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign; an attestation key is restricted, too.
const SIGNING: u32 = 0x0004_0072;
const RESTRICTED: u32 = 0x0001_0000;
/// tcg-kp-AIKCertificate.
pub const AIK_USAGE: &[u64] = &[2, 23, 133, 8, 3];

/// The kinds of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    P256,
    Rsa2048,
}

/// A key in a TPM, as certificates and CSRs need it.
pub struct TpmKey<'a> {
    tpm: &'a TpmDevice,
    loaded: Loaded,
    kind: Kind,
    octets: Vec<u8>,
}

pub struct TpmDevice {
    tpm: Mutex<Swtpm>,
}

/// What an attestation statement is made of; a test may change any of it.
pub struct Statement {
    pub version: String,
    pub algorithm: i64,
    pub path: Vec<Vec<u8>>,
    pub signature: Vec<u8>,
    pub certificate_info: Vec<u8>,
    pub public_area: Vec<u8>,
}

impl TpmDevice {
    pub fn start() -> Self {
        Self { tpm: Mutex::new(Swtpm::start()) }
    }

    /// A key of its own for signing.
    pub fn key(&self, kind: Kind) -> TpmKey<'_> {
        self.create(kind, SIGNING)
    }

    /// An attestation key: signs only what the TPM itself made.
    pub fn attestation_key(&self, kind: Kind) -> TpmKey<'_> {
        self.create(kind, SIGNING | RESTRICTED)
    }

    /// A key with these TPMA_OBJECT attributes.
    pub fn create(&self, kind: Kind, attributes: u32) -> TpmKey<'_> {
        let head = |kind: u8| [&[0, kind, 0, 0x0b][..], &attributes.to_be_bytes(), &[0, 0]].concat();
        let template = match kind {
            // No symmetric algorithm, ECDSA with SHA-256, P-256, no KDF; the point is the TPM's to choose.
            Kind::P256 => {
                [&head(0x23)[..], &[0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10], &[0, 0, 0, 0]].concat()
            }
            // No symmetric algorithm, RSASSA with SHA-256, 2048 bits, exponent 65537.
            Kind::Rsa2048 => [&head(1)[..], &[0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0], &[0, 0]].concat(),
        };
        let loaded = self.tpm.lock().unwrap().create(&template);
        let octets = match kind {
            Kind::P256 => {
                let (x, rest) = take(&loaded.public[20..]);
                let (y, _) = take(rest);
                let pad = |coordinate: &[u8]| [vec![0; 32 - coordinate.len()], coordinate.to_vec()].concat();
                [vec![4], pad(x), pad(y)].concat()
            }
            Kind::Rsa2048 => {
                let (modulus, _) = take(&loaded.public[22..]);
                sequence(&[tlv(&[2], &[&[0], modulus].concat()), tlv(&[2], &[1, 0, 1])])
            }
        };
        TpmKey { tpm: self, loaded, kind, octets }
    }
}

impl TpmKey<'_> {
    /// The path of this attestation key's certificate, for a device of this name.
    pub fn certified(&self, manufacturer: &Manufacturer, device_name: Vec<u8>) -> Vec<Vec<u8>> {
        manufacturer.certify(self, &attestation_certificate(device_name))
    }

    /// Another key, attested by this one for a key authorization.
    pub fn attest(&self, key: &TpmKey<'_>, path: Vec<Vec<u8>>, key_authorization: &str) -> Statement {
        let extra = digest(&SHA256, key_authorization.as_bytes());
        let (certificate_info, signature) =
            self.tpm.tpm.lock().unwrap().certify(&key.loaded, &self.loaded, extra.as_ref());
        Statement {
            version: "2.0".to_owned(),
            algorithm: if self.kind == Kind::P256 { -7 } else { -257 },
            path,
            signature,
            certificate_info,
            public_area: key.loaded.public.clone(),
        }
    }
}

/// The certificate of an attestation key, WebAuthn §8.3.1, for a device whose name is this otherName.
pub fn attestation_certificate(device_name: Vec<u8>) -> CertificateParams {
    let attribute = |last, text| {
        let value = sequence(&[object_identifier(&[2, 23, 133, 2, last]), utf8_string(text)]);
        tlv(&[0x31], &value)
    };
    let hardware =
        sequence(&[attribute(1, "id:49424d00"), attribute(2, "swtpm"), attribute(3, "id:20170101")]);
    let names = sequence(&[explicit(4, &hardware), device_name]);
    let mut names = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    names.set_criticality(true);
    let mut params = device(None, vec![names]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(AIK_USAGE.to_vec())];
    params
}

/// As otherName.
pub fn permanent(value: &str) -> Vec<u8> {
    permanent_identifier(value)
}

/// As otherName, of type 1.2.3.4.
pub fn module(serial: &str) -> Vec<u8> {
    hardware_module_name(&[1, 2, 3, 4], serial)
}

impl Statement {
    pub fn encode(&self) -> Vec<u8> {
        attestation_object(
            "tpm",
            vec![
                ("ver", Cbor::Text(self.version.clone())),
                ("alg", Cbor::Integer(self.algorithm)),
                ("x5c", Cbor::path(&self.path)),
                ("sig", Cbor::bytes(&self.signature)),
                ("certInfo", Cbor::bytes(&self.certificate_info)),
                ("pubArea", Cbor::bytes(&self.public_area)),
            ],
        )
    }
}

impl Drop for TpmKey<'_> {
    fn drop(&mut self) {
        // After a failed assertion the TPM may be in the midst of an exchange.
        if let Ok(mut tpm) = self.tpm.tpm.lock() {
            tpm.flush(&self.loaded);
        }
    }
}

impl PublicKeyData for TpmKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.octets
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            Kind::P256 => &PKCS_ECDSA_P256_SHA256,
            Kind::Rsa2048 => &PKCS_RSA_SHA256,
        }
    }
}

impl SigningKey for TpmKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.tpm.tpm.lock().unwrap().sign(&self.loaded, digest(&SHA256, message).as_ref());
        let (first, rest) = take(&signature[4..]);
        if self.kind == Kind::Rsa2048 {
            return Ok(first.to_vec());
        }
        let number = |octets: &[u8]| {
            let octets: Vec<u8> = octets.iter().copied().skip_while(|octet| *octet == 0).collect();
            let sign = if octets[0] & 0x80 != 0 { vec![0] } else { Vec::new() };
            tlv(&[2], &[sign, octets].concat())
        };
        Ok(sequence(&[number(first), number(take(rest).0)]))
    }
}
