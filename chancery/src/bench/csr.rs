//! CSRs for one dns name (RFC 2986, RFC 5280 §4.2.1.6), written without looking anything up: their making is the
//! generator's own load, and is to be small.

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// `SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING`, up to the point's 65 octets.
const P256_KEY: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// `OBJECT IDENTIFIER` 1.2.840.113549.1.9.14, extensionRequest.
const EXTENSION_REQUEST: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// `OBJECT IDENTIFIER` 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
/// `SEQUENCE { 1.2.840.10045.4.3.2 }`, ecdsa-with-SHA256.
const ECDSA_WITH_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
/// `[0]` attributes.
const ATTRIBUTES: u8 = 0xa0;
/// `[2] IA5String`, a dNSName.
const DNS_NAME: u8 = 0x82;

/// A P-256 key that certificates are asked for with.
#[derive(Debug)]
pub struct SubscriberKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl SubscriberKey {
    /// A new key.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_| anyhow!("cannot generate a P-256 key"))?;
        Ok(Self { pair, random: SystemRandom::new() })
    }

    /// A CSR in DER for this name, with an empty subject.
    ///
    /// # Errors
    /// If signing fails.
    pub fn request(&self, name: &str) -> Result<Vec<u8>> {
        let names = element(SEQUENCE, &[&element(DNS_NAME, &[name.as_bytes()])]);
        let extension = element(SEQUENCE, &[SUBJECT_ALT_NAME, &element(OCTET_STRING, &[&names])]);
        let extensions = element(SET, &[&element(SEQUENCE, &[&extension])]);
        let attribute = element(SEQUENCE, &[EXTENSION_REQUEST, &extensions]);
        let info = element(
            SEQUENCE,
            &[
                &[0x02, 1, 0],
                &element(SEQUENCE, &[]),
                P256_KEY,
                self.pair.public_key().as_ref(),
                &element(ATTRIBUTES, &[&attribute]),
            ],
        );
        let signature = self.pair.sign(&self.random, &info).map_err(|_| anyhow!("cannot sign"))?;
        Ok(element(SEQUENCE, &[&info, ECDSA_WITH_SHA256, &element(BIT_STRING, &[&[0], signature.as_ref()])]))
    }
}

/// One DER element of at most 65,535 octets of contents.
fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let mut out = vec![tag];
    match u16::try_from(contents.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ ..=0x7f] => out.push(short),
        [0, length] => out.extend([0x81, length]),
        length => out.extend([&[0x82][..], &length].concat()),
    }
    out.extend(contents);
    out
}

#[cfg(test)]
mod tests {
    use ca_core::pkix::csr::Csr;
    use ca_core::pkix::identifier::Identifier;

    use super::SubscriberKey;

    #[test]
    fn the_ca_reads_the_csr_and_finds_the_name_and_nothing_else() {
        let key = SubscriberKey::generate().unwrap();
        for name in ["a.example".to_owned(), format!("{0}.{0}.{0}.example", "a".repeat(60))] {
            let csr = Csr::from_der(&key.request(&name).unwrap()).unwrap();
            let names: Vec<Identifier> = csr.names(&[]).into_iter().collect();
            assert_eq!(names, [Identifier::parse("dns", &name).unwrap()]);
        }
    }
}
