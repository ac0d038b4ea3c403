//! A manufacturer's CA: a root and an intermediate below it, which certify the devices' keys.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData,
};

/// A root on P-384 and an intermediate on P-256.
pub struct Manufacturer {
    root: rcgen::Certificate,
    intermediate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Manufacturer {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| ())
    }

    /// One whose intermediate's certificate a test has changed.
    pub fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::below(name, BasicConstraints::Unconstrained, change)
    }

    /// As [`Manufacturer::with`], below a root with these constraints.
    pub fn below(
        name: &str,
        constraints: BasicConstraints,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let root_params = ca(&format!("{name} Root"), constraints);
        let root = root_params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = ca(&format!("{name} Attestation"), BasicConstraints::Constrained(0));
        change(&mut params);
        let intermediate = params.signed_by(&key, &root_issuer).unwrap();
        Self { root, intermediate, issuer: Issuer::new(params, key) }
    }

    /// The root in PEM: what an operator configures.
    pub fn roots(&self) -> String {
        self.root.pem()
    }

    /// Certifies a device's key; gives the path, the device's own certificate first, without the root.
    pub fn certify(&self, key: &impl PublicKeyData, params: &CertificateParams) -> Vec<Vec<u8>> {
        let leaf = params.signed_by(key, &self.issuer).unwrap();
        vec![leaf.der().to_vec(), self.intermediate.der().to_vec()]
    }

    /// The root in DER, for those who send it along.
    pub fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }
}

fn ca(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A device's certificate with these extensions.
pub fn device(subject: Option<&str>, extensions: Vec<CustomExtension>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(subject) = subject {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params.custom_extensions = extensions;
    params
}
