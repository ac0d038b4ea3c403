//! The structures of TPM 2.0 that an attestation has, [TPM 2.0 Library Part 2](https://trustedcomputinggroup.org/resource/tpm-library-specification/):
//! big-endian numbers and octets with a length of two octets before them, read to their last octet.

use aws_lc_rs::digest;
use der::asn1::UintRef;
use der::{Encode, Sequence};

use crate::pkix::public_key::{PublicKey, PublicKeyError, spki_from_octets};
use crate::signing::{KeyAlgorithm, Signature, SignatureAlgorithm};

/// TPM_GENERATED_VALUE: what the TPM itself made begins so, and nothing that it signs for others (§6.2).
const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY (§6.9).
const ATTEST_CERTIFY: u16 = 0x8017;

/// TPM_ALG_ID (§6.3).
mod alg {
    pub(super) const RSA: u16 = 0x0001;
    pub(super) const SHA256: u16 = 0x000b;
    pub(super) const SHA384: u16 = 0x000c;
    pub(super) const SHA512: u16 = 0x000d;
    pub(super) const NULL: u16 = 0x0010;
    pub(super) const RSASSA: u16 = 0x0014;
    pub(super) const RSAES: u16 = 0x0015;
    pub(super) const ECDSA: u16 = 0x0018;
    pub(super) const ECDAA: u16 = 0x001a;
    pub(super) const ECC: u16 = 0x0023;
}

/// TPM_ECC_CURVE (§6.4).
const NIST_P256: u16 = 0x0003;
const NIST_P384: u16 = 0x0004;

/// TPMA_OBJECT (§8.3): fixedTPM, fixedParent, sensitiveDataOrigin.
const BOUND: u32 = 1 << 1 | 1 << 4 | 1 << 5;

/// The hash algorithms that are good enough, and no SHA-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) fn digest(self, octets: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, octets).as_ref().to_vec()
    }
}

fn hash(id: u16) -> Option<Hash> {
    match id {
        alg::SHA256 => Some(Hash::Sha256),
        alg::SHA384 => Some(Hash::Sha384),
        alg::SHA512 => Some(Hash::Sha512),
        _ => None,
    }
}

/// Reads from the front; `None` where too little is left.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A TPM2B: octets with their count before them.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.take(count.into())
    }

    fn finish(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// TPMS_ATTEST of type certify (§10.12.12): a TPM's word that it holds the key of this name.
pub(super) struct Certified {
    /// qualifyingData of TPM2_Certify.
    pub(super) extra_data: Vec<u8>,
    /// TPM2B_NAME: the hash algorithm and the digest of the key's public area.
    pub(super) name: Vec<u8>,
}

impl Certified {
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        if reader.u32()? != GENERATED || reader.u16()? != ATTEST_CERTIFY {
            return None;
        }
        let _qualified_signer = reader.sized()?;
        let extra_data = reader.sized()?.to_vec();
        // clockInfo: clock, resetCount, restartCount, safe; then firmwareVersion.
        reader.take(8 + 4 + 4 + 1 + 8)?;
        let name = reader.sized()?.to_vec();
        let _qualified_name = reader.sized()?;
        reader.finish()?;
        Some(Self { extra_data, name })
    }
}

/// TPMT_PUBLIC (§12.2.4) of an RSA or EC key.
pub(super) struct PublicArea {
    name_algorithm: u16,
    name_hash: Hash,
    attributes: u32,
    /// The key, if its numbers make one.
    pub(super) key: Result<PublicKey, PublicKeyError>,
}

impl PublicArea {
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        let kind = reader.u16()?;
        let name_algorithm = reader.u16()?;
        let name_hash = hash(name_algorithm)?;
        let attributes = reader.u32()?;
        let _auth_policy = reader.sized()?;
        let key = match kind {
            alg::RSA => rsa(&mut reader)?,
            alg::ECC => ecc(&mut reader)?,
            _ => return None,
        };
        reader.finish()?;
        Some(Self { name_algorithm, name_hash, attributes, key })
    }

    /// The name of the key whose public area these octets are (Part 1 §16).
    pub(super) fn name(&self, octets: &[u8]) -> Vec<u8> {
        [&self.name_algorithm.to_be_bytes()[..], &self.name_hash.digest(octets)].concat()
    }

    /// Whether the key was made in the TPM and can't be duplicated out of it.
    pub(super) fn is_bound_to_this_tpm(&self) -> bool {
        self.attributes & BOUND == BOUND
    }
}

/// TPMT_SYM_DEF_OBJECT (§11.1.7): of a storage key; what it says is read over.
fn symmetric(reader: &mut Reader<'_>) -> Option<()> {
    if reader.u16()? != alg::NULL {
        reader.take(4)?;
    }
    Some(())
}

/// TPMT_RSA_SCHEME, TPMT_ECC_SCHEME and TPMT_KDF_SCHEME (§11.2): how the key is to be used.
fn scheme(reader: &mut Reader<'_>) -> Option<()> {
    match reader.u16()? {
        alg::NULL | alg::RSAES => {}
        alg::ECDAA => drop(reader.take(4)?),
        _ => drop(reader.take(2)?),
    }
    Some(())
}

/// TPMS_RSA_PARMS (§12.2.3.5) and TPM2B_PUBLIC_KEY_RSA.
fn rsa(reader: &mut Reader<'_>) -> Option<Result<PublicKey, PublicKeyError>> {
    symmetric(reader)?;
    scheme(reader)?;
    let algorithm = match reader.u16()? {
        2048 => KeyAlgorithm::Rsa2048,
        3072 => KeyAlgorithm::Rsa3072,
        4096 => KeyAlgorithm::Rsa4096,
        _ => return None,
    };
    let exponent = match reader.u32()? {
        0 => 65_537,
        exponent => exponent,
    };
    let modulus = reader.sized()?;
    let exponent = exponent.to_be_bytes();
    let key = RsaPublicKey { modulus: UintRef::new(modulus).ok()?, exponent: UintRef::new(&exponent).ok()? };
    Some(spki_from_octets(algorithm, &key.to_der().ok()?))
}

/// ```text
/// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
/// ```
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// TPMS_ECC_PARMS (§12.2.3.6) and TPMS_ECC_POINT.
fn ecc(reader: &mut Reader<'_>) -> Option<Result<PublicKey, PublicKeyError>> {
    symmetric(reader)?;
    scheme(reader)?;
    let (algorithm, length) = match reader.u16()? {
        NIST_P256 => (KeyAlgorithm::EcP256, 32),
        NIST_P384 => (KeyAlgorithm::EcP384, 48),
        _ => return None,
    };
    scheme(reader)?;
    let mut point = vec![4];
    for _ in 0..2 {
        let coordinate = reader.sized()?;
        point.extend(std::iter::repeat_n(0, usize::checked_sub(length, coordinate.len())?));
        point.extend(coordinate);
    }
    Some(spki_from_octets(algorithm, &point))
}

/// TPMT_SIGNATURE (§11.3.4) by RSASSA or ECDSA.
pub(super) enum TpmSignature {
    Rsassa { hash: Hash, signature: Vec<u8> },
    Ecdsa { hash: Hash, r: Vec<u8>, s: Vec<u8> },
}

/// ```text
/// Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
/// ```
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

impl TpmSignature {
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        let mut reader = Reader(octets);
        let (algorithm, hash) = (reader.u16()?, hash(reader.u16()?)?);
        let signature = match algorithm {
            alg::RSASSA => Self::Rsassa { hash, signature: reader.sized()?.to_vec() },
            alg::ECDSA => Self::Ecdsa { hash, r: reader.sized()?.to_vec(), s: reader.sized()?.to_vec() },
            _ => return None,
        };
        reader.finish()?;
        Some(signature)
    }

    /// The signature in the form in which X.509 has it; `None` if it is by another algorithm.
    pub(super) fn for_algorithm(&self, algorithm: SignatureAlgorithm, hash: Hash) -> Option<Signature> {
        match (self, algorithm) {
            (Self::Rsassa { hash: used, signature }, SignatureAlgorithm::RsaPkcs1Sha256) if *used == hash => {
                Some(Signature(signature.clone()))
            }
            (
                Self::Ecdsa { hash: used, r, s },
                SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::EcdsaSha384,
            ) if *used == hash => {
                let value = EcdsaSigValue { r: UintRef::new(r).ok()?, s: UintRef::new(s).ok()? };
                Some(Signature(value.to_der().ok()?))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A P-256 key: no symmetric algorithm, scheme or KDF.
    fn area() -> Vec<u8> {
        let point = [0x11_u8; 32];
        [
            &[0, 0x23, 0, 0x0b][..],
            &0x0000_0472_u32.to_be_bytes(),
            &[0, 0, 0, 0x10, 0, 0x10, 0, 3, 0, 0x10],
            &[0, 32],
            &point,
            &[0, 32],
            &point,
        ]
        .concat()
    }

    #[test]
    fn structures_are_read_to_their_last_octet() {
        let octets = area();
        assert!(PublicArea::parse(&octets).is_some());
        for end in 0..octets.len() {
            assert!(PublicArea::parse(&octets[..end]).is_none(), "{end}");
        }
        assert!(PublicArea::parse(&[&octets[..], &[0]].concat()).is_none());
        assert!(TpmSignature::parse(&[0, 0x14, 0, 0x0b, 0, 1, 7]).is_some());
        assert!(TpmSignature::parse(&[0, 0x14, 0, 0x0b, 0, 2, 7]).is_none());
        assert!(TpmSignature::parse(&[0, 0x14, 0, 4, 0, 1, 7]).is_none(), "SHA-1");
    }

    #[test]
    fn a_point_that_is_not_on_its_curve_makes_no_key() {
        assert!(PublicArea::parse(&area()).unwrap().key.is_err());
    }

    #[test]
    fn only_keys_that_can_not_leave_are_bound() {
        assert!(PublicArea::parse(&area()).unwrap().is_bound_to_this_tpm());
        for bit in [1, 4, 5] {
            let mut octets = area();
            octets[4..8].copy_from_slice(&(0x0000_0472_u32 & !(1 << bit)).to_be_bytes());
            assert!(!PublicArea::parse(&octets).unwrap().is_bound_to_this_tpm(), "{bit}");
        }
    }
}
