//! Format `android-key`: Android Key Attestation, [WebAuthn §8.4](https://www.w3.org/TR/webauthn-2/#sctn-android-key-attestation)
//! with the key authorization in place of client data.
//!
//! Accepted are keys made inside a trusted execution environment or StrongBox, for signing, on a locked device that
//! booted what its manufacturer signed, and not open to every app. The extension's form:
//! <https://source.android.com/docs/security/features/keystore/attestation>.

use std::collections::BTreeMap;

use const_oid::ObjectIdentifier;
use der::asn1::{OctetStringRef, SetOfVec};
use der::{AnyRef, Decode, Enumerated, Header, Reader, Sequence, SliceReader, Tag};

use super::cbor::Statement;
use super::chain::Certificate;
use super::{AttestationError, Attested, Binding, Format, device, extension, verify_signature};
use crate::pkix::identifier::Identifier;
use crate::pkix::public_key::sha256;

const KEY_DESCRIPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.1.17");

/// ```text
/// KeyDescription ::= SEQUENCE {
///     attestationVersion         INTEGER,
///     attestationSecurityLevel   SecurityLevel,
///     keyMintVersion             INTEGER,
///     keyMintSecurityLevel       SecurityLevel,
///     attestationChallenge       OCTET STRING,
///     uniqueId                   OCTET STRING,
///     softwareEnforced           AuthorizationList,
///     hardwareEnforced           AuthorizationList }
/// ```
#[derive(Sequence)]
struct KeyDescription<'a> {
    attestation_version: u32,
    attestation_security_level: SecurityLevel,
    key_mint_version: u32,
    key_mint_security_level: SecurityLevel,
    attestation_challenge: &'a OctetStringRef,
    unique_id: &'a OctetStringRef,
    software_enforced: AnyRef<'a>,
    hardware_enforced: AnyRef<'a>,
}

/// Where something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[asn1(type = "ENUMERATED")]
#[repr(u8)]
enum SecurityLevel {
    Software = 0,
    TrustedEnvironment = 1,
    StrongBox = 2,
}

/// ```text
/// RootOfTrust ::= SEQUENCE {
///     verifiedBootKey     OCTET STRING,
///     deviceLocked        BOOLEAN,
///     verifiedBootState   VerifiedBootState,
///     verifiedBootHash    OCTET STRING } -- since version 3
/// ```
#[derive(Sequence)]
struct RootOfTrust<'a> {
    verified_boot_key: &'a OctetStringRef,
    device_locked: bool,
    verified_boot_state: BootState,
    #[asn1(optional = "true")]
    verified_boot_hash: Option<&'a OctetStringRef>,
}

/// What vouched for the system that was booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[asn1(type = "ENUMERATED")]
#[repr(u8)]
enum BootState {
    Verified = 0,
    SelfSigned = 1,
    Unverified = 2,
    Failed = 3,
}

/// AuthorizationList: a SEQUENCE of optional members, each under an explicit tag of its own. By tag.
struct Authorizations<'a>(BTreeMap<u32, AnyRef<'a>>);

/// Members of AuthorizationList.
mod tag {
    pub(super) const PURPOSE: u32 = 1;
    pub(super) const ALL_APPLICATIONS: u32 = 600;
    pub(super) const ORIGIN: u32 = 702;
    pub(super) const ROOT_OF_TRUST: u32 = 704;
    pub(super) const ATTESTATION_ID_SERIAL: u32 = 713;
}

/// KM_PURPOSE_SIGN and KM_ORIGIN_GENERATED.
const PURPOSE_SIGN: u32 = 2;
const ORIGIN_GENERATED: u32 = 0;

impl<'a> Authorizations<'a> {
    fn parse(list: AnyRef<'a>) -> Option<Self> {
        use der::Tagged;
        if list.tag() != Tag::Sequence {
            return None;
        }
        let mut reader = SliceReader::new(list.value()).ok()?;
        let mut members = BTreeMap::new();
        while !reader.is_finished() {
            let header = Header::decode(&mut reader).ok()?;
            let Tag::ContextSpecific { constructed: true, number } = header.tag() else { return None };
            let content = AnyRef::from_der(reader.read_slice(header.length()).ok()?).ok()?;
            if members.insert(number.value(), content).is_some() {
                return None;
            }
        }
        Some(Self(members))
    }

    fn integer(&self, tag: u32) -> Option<u32> {
        self.0.get(&tag)?.decode_as().ok()
    }

    fn has(&self, tag: u32) -> bool {
        self.0.contains_key(&tag)
    }

    fn root_of_trust(&self) -> Option<RootOfTrust<'a>> {
        self.0.get(&tag::ROOT_OF_TRUST)?.decode_as().ok()
    }

    /// The device's serial number.
    fn serial(&self) -> Option<Identifier> {
        let octets: &OctetStringRef = self.0.get(&tag::ATTESTATION_ID_SERIAL)?.decode_as().ok()?;
        device(std::str::from_utf8(octets.as_bytes()).ok()?)
    }

    fn may_sign(&self) -> bool {
        let purposes = self.0.get(&tag::PURPOSE).and_then(|set| set.decode_as::<SetOfVec<u32>>().ok());
        purposes.is_some_and(|purposes| purposes.iter().any(|purpose| *purpose == PURPOSE_SIGN))
    }
}

/// Reads a key description with all that stands in it.
pub(super) fn read(octets: &[u8]) {
    let Ok(description) = KeyDescription::from_der(octets) else { return };
    for list in [description.software_enforced, description.hardware_enforced] {
        let Some(list) = Authorizations::parse(list) else { continue };
        let _ = (list.integer(tag::ORIGIN), list.may_sign(), list.root_of_trust(), list.serial());
    }
}

pub(super) fn verify(
    statement: &Statement<'_>,
    path: &[Certificate],
    binding: Binding<'_>,
) -> Result<Attested, AttestationError> {
    let refuse = |why| AttestationError::Statement { format: Format::AndroidKey, why };
    let (leaf, above) = path.split_first().ok_or(AttestationError::Malformed("it has no certificate"))?;
    let signature = statement.sig.ok_or(AttestationError::Malformed("it has no 'sig'"))?;
    verify_signature(leaf.key(), statement.alg, binding.key_authorization.as_bytes(), signature)?;

    let octets = extension(leaf, KEY_DESCRIPTION)
        .ok_or(refuse("the certificate has no key description (1.3.6.1.4.1.11129.2.1.17)"))?;
    // A device's attested key that signs certificates of its own could say anything in them.
    if above.iter().any(|certificate| extension(certificate, KEY_DESCRIPTION).is_some()) {
        return Err(refuse("another certificate than the first has a key description"));
    }
    let description =
        KeyDescription::from_der(octets).map_err(|_| refuse("the key description can't be read"))?;
    let list = |list| Authorizations::parse(list).ok_or(refuse("an authorization list can't be read"));
    let (software, hardware) = (list(description.software_enforced)?, list(description.hardware_enforced)?);

    let challenge = description.attestation_challenge.as_bytes();
    let expected = binding.key_authorization.as_bytes();
    if challenge != expected && challenge != sha256(expected) {
        return Err(AttestationError::NotBound(
            "attestationChallenge is neither the key authorization nor SHA-256 of it",
        ));
    }
    let levels = [description.attestation_security_level, description.key_mint_security_level];
    if levels.contains(&SecurityLevel::Software) {
        return Err(refuse("its security level is Software: the key is not in hardware"));
    }
    if software.has(tag::ALL_APPLICATIONS) || hardware.has(tag::ALL_APPLICATIONS) {
        return Err(refuse("the key is open to all applications"));
    }
    if hardware.integer(tag::ORIGIN) != Some(ORIGIN_GENERATED) {
        return Err(refuse("the key was not generated in the hardware"));
    }
    if !hardware.may_sign() {
        return Err(refuse("the key's purpose is not signing"));
    }
    let root = hardware.root_of_trust().ok_or(refuse("it has no root of trust"))?;
    if !root.device_locked || root.verified_boot_state != BootState::Verified {
        return Err(refuse("the device is unlocked, or its verified boot state is not Verified"));
    }
    Ok(Attested { key: leaf.key().clone(), devices: hardware.serial().into_iter().collect() })
}
