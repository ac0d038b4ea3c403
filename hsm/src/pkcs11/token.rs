//! One session on a token: finding keys and checking their attributes, making them, signing with them.
//!
//! Mechanisms are chosen for what every token has: the digest of ECDSA is made here and signed with CKM_ECDSA, since
//! SoftHSM has no CKM_ECDSA_SHA256.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::{digest, rand};
use ca_core::pkix::public_key::{PublicKey, PublicKeyAlgorithm, spki_from_octets};
use ca_core::signing::{KeyAlgorithm, KeyDescription, KeyLabel, Signature, SignatureAlgorithm};
use cryptoki::error::Error;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::asn1::{ObjectIdentifier, OctetStringRef, PrintableStringRef, UintRef};
use der::{Decode, Encode, Sequence};

use super::failure::Failure;

const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// How PKCS #11 3.0 §6.3.3 names the curve where it gives no OID.
const EDWARDS25519: &str = "edwards25519";

/// ```text
/// ECDSA-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
/// ```
/// RFC 5480 appendix A.
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// ```text
/// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
/// ```
/// RFC 8017 appendix A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

/// A key that was found on the token and checked.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    pub(super) label: KeyLabel,
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) public_key: PublicKey,
}

/// A logged-in session and the handles that were found through it.
pub(super) struct Connection {
    session: Session,
    token: Arc<str>,
    /// By public key, since another key may have taken a label over.
    handles: HashMap<PublicKey, ObjectHandle>,
}

impl Connection {
    /// Wraps a session that does not close itself when dropped: a session may outlive the module's instance, and its
    /// number may be another one's by then.
    pub(super) fn new(session: Session, token: Arc<str>) -> Self {
        Self { session, token, handles: HashMap::new() }
    }

    /// Closes the session; only while the module's instance that opened it is the present one.
    pub(super) fn close(self) {
        if let Err(e) = self.session.close() {
            tracing::debug!(token = %self.token, error = %e, "a PKCS#11 session did not close");
        }
    }

    /// Finds a key, checks that its attributes make it fit to be a CA key, and that it signs what its public key
    /// verifies.
    pub(super) fn open(
        &mut self,
        label: &KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> Result<TokenKey, Failure> {
        let (handle, key_algorithm, public_key) = self.find(label)?;
        if !algorithm.fits(key_algorithm) {
            return Err(Failure::Unsuitable(format!(
                "a key of kind {key_algorithm} does not sign with {algorithm:?}"
            )));
        }
        self.check_attributes(handle)?;
        self.handles.insert(public_key.clone(), handle);
        let key = TokenKey { label: label.clone(), algorithm, public_key };
        self.check(&key)?;
        Ok(key)
    }

    /// Proves by a signature that the key works: a token that is away still answers questions about sessions.
    pub(super) fn check(&mut self, key: &TokenKey) -> Result<(), Failure> {
        // Text, so that no signature over it can pass for one over a certificate, which begins with a SEQUENCE.
        let message = format!("chancery key check: {}", key.label);
        let signature = self.sign(key, message.as_bytes())?;
        if key.public_key.verify(key.algorithm, message.as_bytes(), &signature) {
            return Ok(());
        }
        Err(Failure::Unsuitable(format!(
            "its signature does not verify with the public key object of token '{}': the two do not belong together",
            self.token
        )))
    }

    /// Signs with a key that was opened before, perhaps through another session.
    pub(super) fn sign(&mut self, key: &TokenKey, message: &[u8]) -> Result<Signature, Failure> {
        let handle = match self.handles.get(&key.public_key) {
            Some(handle) => *handle,
            None => {
                let handle = self.find_again(key)?;
                self.handles.insert(key.public_key.clone(), handle);
                handle
            }
        };
        let raw = |mechanism: &Mechanism<'_>, data: &[u8]| {
            self.session.sign(mechanism, handle, data).map_err(|e| self.failure(&e))
        };
        let octets = match key.algorithm {
            SignatureAlgorithm::EcdsaSha256 => {
                let digest = digest::digest(&digest::SHA256, message);
                self.ecdsa_der(&raw(&Mechanism::Ecdsa, digest.as_ref())?)?
            }
            SignatureAlgorithm::EcdsaSha384 => {
                let digest = digest::digest(&digest::SHA384, message);
                self.ecdsa_der(&raw(&Mechanism::Ecdsa, digest.as_ref())?)?
            }
            SignatureAlgorithm::Ed25519 => {
                let plain = EddsaParams::new(EddsaSignatureScheme::Ed25519);
                raw(&Mechanism::Eddsa(plain), message)?
            }
            SignatureAlgorithm::RsaPkcs1Sha256 => raw(&Mechanism::Sha256RsaPkcs, message)?,
            SignatureAlgorithm::RsaPssSha256 => {
                let params = PkcsPssParams {
                    hash_alg: MechanismType::SHA256,
                    mgf: PkcsMgfType::MGF1_SHA256,
                    s_len: 32.into(),
                };
                raw(&Mechanism::Sha256RsaPkcsPss(params), message)?
            }
        };
        Ok(Signature(octets))
    }

    /// Makes a key that the token never shows.
    pub(super) fn generate(
        &mut self,
        label: &KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> Result<PublicKey, Failure> {
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            if !self.objects(&[Attribute::Class(class), label_attribute(label)])?.is_empty() {
                return Err(Failure::Exists);
            }
        }
        let mut id = [0; 20];
        rand::fill(&mut id).map_err(|_| Failure::Refused("the system gives no random numbers".to_owned()))?;
        let common = [Attribute::Token(true), label_attribute(label), Attribute::Id(id.to_vec())];
        let mut public = common.to_vec();
        public.extend([Attribute::Private(false), Attribute::Verify(true)]);
        let mut private = common.to_vec();
        private.extend([
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ]);
        let rsa = |bits: u64| {
            let parameters =
                vec![Attribute::ModulusBits(bits.into()), Attribute::PublicExponent(vec![1, 0, 1])];
            // Tokens allow all uses that a template leaves open.
            (
                Mechanism::RsaPkcsKeyPairGen,
                parameters,
                vec![Attribute::Decrypt(false), Attribute::Unwrap(false)],
            )
        };
        let (mechanism, parameters, forbidden) = match algorithm {
            KeyAlgorithm::EcP256 => self.ec(Mechanism::EccKeyPairGen, &P256)?,
            KeyAlgorithm::EcP384 => self.ec(Mechanism::EccKeyPairGen, &P384)?,
            KeyAlgorithm::Ed25519 => {
                let name = PrintableStringRef::new(EDWARDS25519).map_err(|_| self.malformed("EC_PARAMS"))?;
                self.ec(Mechanism::EccEdwardsKeyPairGen, &name)?
            }
            KeyAlgorithm::Rsa2048 => rsa(2048),
            KeyAlgorithm::Rsa3072 => rsa(3072),
            KeyAlgorithm::Rsa4096 => rsa(4096),
        };
        public.extend(parameters);
        private.extend(forbidden);
        let (public, _) =
            self.session.generate_key_pair(&mechanism, &public, &private).map_err(|e| self.failure(&e))?;
        let (found, public_key) = self.public_key(&self.attributes(public, PUBLIC_ATTRIBUTES)?)?;
        if found == algorithm {
            Ok(public_key)
        } else {
            Err(Failure::Unsuitable(format!("token '{}' made a key of kind {found}", self.token)))
        }
    }

    /// Every private key whose label and kind could be ours, by label.
    pub(super) fn list(&mut self) -> Result<Vec<KeyDescription>, Failure> {
        let mut keys = Vec::new();
        for handle in self.objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])? {
            let attributes = self.attributes(
                handle,
                &[AttributeType::Label, AttributeType::Sensitive, AttributeType::Extractable],
            )?;
            let mut label = None;
            // What a token does not say is taken for the worse.
            let (mut sensitive, mut extractable) = (false, true);
            for attribute in attributes {
                match attribute {
                    Attribute::Label(octets) => label = String::from_utf8(octets).ok(),
                    Attribute::Sensitive(value) => sensitive = value,
                    Attribute::Extractable(value) => extractable = value,
                    _ => {}
                }
            }
            let Some(label) = label.and_then(|text| KeyLabel::try_from(text).ok()) else { continue };
            match self.describe(handle) {
                Ok((algorithm, _)) => {
                    keys.push(KeyDescription { label, algorithm, sensitive, extractable });
                }
                Err(Failure::Unsuitable(reason)) => {
                    tracing::debug!(%label, reason, "a key of the token is not of our kinds");
                }
                Err(failure) => return Err(failure),
            }
        }
        keys.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(keys)
    }

    /// The one private key of this label.
    fn find(&self, label: &KeyLabel) -> Result<(ObjectHandle, KeyAlgorithm, PublicKey), Failure> {
        let found = self.objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), label_attribute(label)])?;
        match found[..] {
            [] => Err(Failure::NotFound),
            [handle] => {
                let (algorithm, public_key) = self.describe(handle)?;
                Ok((handle, algorithm, public_key))
            }
            _ => Err(Failure::Unsuitable(format!(
                "token '{}' has {} private keys of this label: rename or remove all but one with the token's tool",
                self.token,
                found.len()
            ))),
        }
    }

    /// A key that was opened before, which must be the same and still fit.
    fn find_again(&self, key: &TokenKey) -> Result<ObjectHandle, Failure> {
        // A token that goes away may answer with a part of what it had, so only another public key is proof.
        let doubt = |failure| match failure {
            Failure::NotFound => Failure::Doubtful(format!(
                "it is no longer in token '{}': restore it from the token's backup",
                self.token
            )),
            Failure::Unsuitable(text) | Failure::Refused(text) => Failure::Doubtful(text),
            other => other,
        };
        let (handle, _, public_key) = self.find(&key.label).map_err(doubt)?;
        if public_key != key.public_key {
            return Err(Failure::Unsuitable(format!(
                "token '{}' now has another key of this label: its public key differs from the one that was opened; \
                 restart only if that is intended",
                self.token
            )));
        }
        self.check_attributes(handle).map_err(doubt)?;
        Ok(handle)
    }

    /// Kind and public half of a private key: from the public key object of the same CKA_ID, else from the private key
    /// itself, where some tokens keep the public values too.
    fn describe(&self, private: ObjectHandle) -> Result<(KeyAlgorithm, PublicKey), Failure> {
        let id = self.attributes(private, &[AttributeType::Id])?;
        if let Some(Attribute::Id(id)) = id.into_iter().next()
            && !id.is_empty()
        {
            let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id)];
            if let Some(public) = self.objects(&template)?.first() {
                return self.public_key(&self.attributes(*public, PUBLIC_ATTRIBUTES)?);
            }
        }
        self.public_key(&self.attributes(private, PUBLIC_ATTRIBUTES)?)
    }

    /// Reads kind and value from the attributes of a key object.
    fn public_key(&self, attributes: &[Attribute]) -> Result<(KeyAlgorithm, PublicKey), Failure> {
        let (mut kind, mut params, mut point, mut modulus, mut exponent) = (None, None, None, None, None);
        for attribute in attributes {
            match attribute {
                Attribute::KeyType(value) => kind = Some(*value),
                Attribute::EcParams(octets) => params = Some(octets.as_slice()),
                Attribute::EcPoint(octets) => point = Some(octets.as_slice()),
                Attribute::Modulus(octets) => modulus = Some(octets.as_slice()),
                Attribute::PublicExponent(octets) => exponent = Some(octets.as_slice()),
                _ => {}
            }
        }
        let (algorithm, octets) = match kind {
            Some(KeyType::RSA) => {
                let (Some(modulus), Some(exponent)) = (modulus, exponent) else {
                    return Err(self.no_public_key());
                };
                let bits = modulus
                    .iter()
                    .position(|b| *b != 0)
                    .map_or(0, |zeros| (modulus.len() - zeros) * 8 - modulus[zeros].leading_zeros() as usize);
                let algorithm = match bits {
                    2048 => KeyAlgorithm::Rsa2048,
                    3072 => KeyAlgorithm::Rsa3072,
                    4096 => KeyAlgorithm::Rsa4096,
                    bits => {
                        return Err(Failure::Unsuitable(format!(
                            "its modulus has {bits} bits, and RSA keys must have 2048, 3072 or 4096"
                        )));
                    }
                };
                (algorithm, self.rsa_der(modulus, exponent)?)
            }
            Some(KeyType::EC | KeyType::EC_EDWARDS) => {
                let algorithm = curve(params.unwrap_or_default()).ok_or_else(|| {
                    Failure::Unsuitable("its CKA_EC_PARAMS name none of P-256, P-384 and Ed25519".to_owned())
                })?;
                let point = point.ok_or_else(|| self.no_public_key())?;
                (algorithm, plain_point(algorithm, point).to_vec())
            }
            _ => return Err(Failure::Unsuitable("its CKA_KEY_TYPE is not EC, EC_EDWARDS or RSA".to_owned())),
        };
        let public_key = spki_from_octets(algorithm, &octets)
            .ok()
            .filter(|key| key.algorithm() == PublicKeyAlgorithm::from(algorithm))
            .ok_or_else(|| self.malformed("public key"))?;
        Ok((algorithm, public_key))
    }

    /// CKA_SENSITIVE and not CKA_EXTRACTABLE, now and always where the token says so.
    fn check_attributes(&self, private: ObjectHandle) -> Result<(), Failure> {
        let wanted = [
            (AttributeType::Sensitive, "CKA_SENSITIVE", true, true),
            (AttributeType::Extractable, "CKA_EXTRACTABLE", false, true),
            (AttributeType::AlwaysSensitive, "CKA_ALWAYS_SENSITIVE", true, false),
            (AttributeType::NeverExtractable, "CKA_NEVER_EXTRACTABLE", true, false),
            (AttributeType::Sign, "CKA_SIGN", true, false),
            (AttributeType::AlwaysAuthenticate, "CKA_ALWAYS_AUTHENTICATE", false, false),
        ];
        let types: Vec<_> = wanted.iter().map(|(kind, ..)| *kind).collect();
        let attributes = self.attributes(private, &types)?;
        for (kind, name, value, required) in wanted {
            let found = attributes.iter().find(|a| a.attribute_type() == kind).and_then(|a| match a {
                Attribute::Sensitive(v)
                | Attribute::Extractable(v)
                | Attribute::AlwaysSensitive(v)
                | Attribute::NeverExtractable(v)
                | Attribute::Sign(v)
                | Attribute::AlwaysAuthenticate(v) => Some(*v),
                _ => None,
            });
            let shown = found.map_or("not given by the token".to_owned(), |v| v.to_string());
            if found.map_or(required, |found| found != value) {
                return Err(Failure::Unsuitable(format!(
                    "{name} is {shown} and must be {value}: make a new key with Chancery, or in the token with that \
                     attribute from the beginning"
                )));
            }
        }
        Ok(())
    }

    fn ec(
        &self,
        mechanism: Mechanism<'static>,
        params: &impl Encode,
    ) -> Result<(Mechanism<'static>, Vec<Attribute>, Vec<Attribute>), Failure> {
        let params = params.to_der().map_err(|_| self.malformed("EC_PARAMS"))?;
        Ok((mechanism, vec![Attribute::EcParams(params)], vec![Attribute::Derive(false)]))
    }

    /// `r ‖ s` as the ECDSA-Sig-Value that X.509 carries.
    fn ecdsa_der(&self, raw: &[u8]) -> Result<Vec<u8>, Failure> {
        let malformed = || self.malformed("signature");
        if raw.is_empty() || !raw.len().is_multiple_of(2) {
            return Err(malformed());
        }
        let (r, s) = raw.split_at(raw.len() / 2);
        let (r, s) = (UintRef::new(r).map_err(|_| malformed())?, UintRef::new(s).map_err(|_| malformed())?);
        EcdsaSigValue { r, s }.to_der().map_err(|_| malformed())
    }

    fn rsa_der(&self, modulus: &[u8], exponent: &[u8]) -> Result<Vec<u8>, Failure> {
        let malformed = |_| self.malformed("public key");
        let modulus = UintRef::new(modulus).map_err(malformed)?;
        let public_exponent = UintRef::new(exponent).map_err(malformed)?;
        RsaPublicKey { modulus, public_exponent }.to_der().map_err(malformed)
    }

    fn objects(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Failure> {
        let mut all = vec![Attribute::Token(true)];
        all.extend_from_slice(template);
        self.session.find_objects(&all).map_err(|e| self.failure(&e))
    }

    fn attributes(&self, object: ObjectHandle, types: &[AttributeType]) -> Result<Vec<Attribute>, Failure> {
        self.session.get_attributes(object, types).map_err(|e| self.failure(&e))
    }

    fn failure(&self, error: &Error) -> Failure {
        Failure::new(&self.token, error)
    }

    fn malformed(&self, what: &str) -> Failure {
        Failure::Refused(format!("token '{}' gave a malformed {what}", self.token))
    }

    fn no_public_key(&self) -> Failure {
        Failure::Unsuitable(format!(
            "token '{}' has no public key object with the CKA_ID of the private key: import the public key with that id",
            self.token
        ))
    }
}

const PUBLIC_ATTRIBUTES: &[AttributeType] = &[
    AttributeType::KeyType,
    AttributeType::EcParams,
    AttributeType::EcPoint,
    AttributeType::Modulus,
    AttributeType::PublicExponent,
];

fn label_attribute(label: &KeyLabel) -> Attribute {
    Attribute::Label(label.as_str().as_bytes().to_vec())
}

/// The curve of CKA_EC_PARAMS: an OID, or the curve's name as a PrintableString.
fn curve(params: &[u8]) -> Option<KeyAlgorithm> {
    if let Ok(name) = PrintableStringRef::from_der(params) {
        return (name.as_str() == EDWARDS25519).then_some(KeyAlgorithm::Ed25519);
    }
    match ObjectIdentifier::from_der(params).ok()? {
        P256 => Some(KeyAlgorithm::EcP256),
        P384 => Some(KeyAlgorithm::EcP384),
        ED25519 => Some(KeyAlgorithm::Ed25519),
        _ => None,
    }
}

/// CKA_EC_POINT is the point in an OCTET STRING; some tokens give it bare, which its length tells.
fn plain_point(algorithm: KeyAlgorithm, value: &[u8]) -> &[u8] {
    let length = match algorithm {
        KeyAlgorithm::EcP256 => 65,
        KeyAlgorithm::EcP384 => 97,
        _ => 32,
    };
    if value.len() == length {
        return value;
    }
    <&OctetStringRef>::from_der(value).map_or(value, OctetStringRef::as_bytes)
}
