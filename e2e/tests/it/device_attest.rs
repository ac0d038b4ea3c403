//! Devices that attest their keys (draft-ietf-acme-device-attest-10) get certificates that others understand: a TPM in
//! software (swtpm), a YubiKey and an Apple device of manufacturers of our own.

use e2e::acme::{Challenge, Client, Order, base64url};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::judges;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "../../../acme-server/tests/it/device_attest/devices/mod.rs"]
#[allow(dead_code, unused_imports, reason = "made for more tests than these")]
mod devices;

use crate::verdicts::{Kept, expect_good};
use devices::encode::{hardware_module_name, permanent_identifier, sequence, tlv};
use devices::tpm::Kind;
use devices::{Apple, Manufacturer, TpmDevice, YubiKey};

/// A CA that trusts one manufacturer for each format, and a client with an account.
struct Scene {
    chancery: Chancery,
    client: Client,
    makers: [Manufacturer; 3],
    _roots: TempDir,
}

impl Scene {
    fn start() -> Self {
        let roots = tempfile::tempdir().unwrap();
        let mut settings = Settings::with(Keys::Software)
            .set("CHANCERY__ACME__CHALLENGES", r#"["http-01", "device-attest-01"]"#);
        let makers = ["tpm", "step", "apple"].map(|format| {
            let maker = Manufacturer::new(format);
            let file = roots.path().join(format);
            std::fs::write(&file, maker.roots()).unwrap();
            let key = format!("CHANCERY__ACME__ATTESTATION__{}__ROOTS", format.to_uppercase());
            settings.environment.push((key, file.to_str().unwrap().to_owned()));
            maker
        });
        let chancery = Chancery::start(&settings).unwrap();
        let ready = chancery.ready().unwrap();
        let client = Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap();
        Self { chancery, client, makers, _roots: roots }
    }

    /// Orders devices and gives their challenges.
    fn order(&self, identifiers: &[(&str, &str)]) -> (Order, Vec<Challenge>) {
        let order = self.client.order(identifiers).unwrap();
        let challenges = self.client.challenges(&order, "device-attest-01").unwrap();
        (order, challenges)
    }

    /// Answers a challenge with an attestation object.
    fn respond(&self, challenge: &Challenge, object: &[u8]) -> Value {
        let payload = json!({ "attObj": base64url(object) }).to_string();
        e2e::acme::body(&self.client.post(&challenge.url, &payload).unwrap(), 200).unwrap()
    }

    /// Finalizes, and has every judge look at the certificate.
    fn certified(&self, order: &Order, key: &impl SigningKey, names: &[Vec<u8>]) -> Kept {
        self.client.finalize(order, &csr(key, names)).unwrap();
        let order = self.client.settled(order, &["valid"]).unwrap();
        let chain = self.client.download(&order).unwrap();
        // The judges need no key; this one can't leave its device.
        let kept = Kept::new(&self.chancery.ready().unwrap().roots_pem, &chain, "");
        expect_good(&kept.case, &kept.issued, None);
        kept
    }
}

/// A CSR with these entries of subjectAltName in DER.
fn csr(key: &impl SigningKey, names: &[Vec<u8>]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], sequence(names))];
    params.serialize_request(key).unwrap().der().to_vec()
}

/// What OpenSSL reads in subjectAltName, and what it says of the DER in it.
fn seen_by_openssl(kept: &Kept) -> String {
    judges::certificate_text(&kept.issued.certificate).unwrap()
}

#[test]
fn a_tpm_gets_a_certificate_that_names_the_device_and_its_module_for_a_key_inside_it() {
    let scene = Scene::start();
    let device = TpmDevice::start();
    for (attestation_kind, kind) in [(Kind::P256, Kind::P256), (Kind::Rsa2048, Kind::Rsa2048)] {
        let (attestation_key, key) = (device.attestation_key(attestation_kind), device.key(kind));
        let (order, challenges) =
            scene.order(&[("permanent-identifier", "PC-0815"), ("hardware-module", "TPM-7/1.2.3.4")]);
        let names = [permanent_identifier("PC-0815"), hardware_module_name(&[1, 2, 3, 4], "TPM-7")];
        for (challenge, name) in challenges.iter().zip(&names) {
            let path = attestation_key.certified(&scene.makers[0], name.clone());
            let object = attestation_key.attest(&key, path, &challenge.key_authorization).encode();
            let answer = scene.respond(challenge, &object);
            assert_eq!(answer["status"], "valid", "{answer}");
        }
        let kept = scene.certified(&order, &key, &names);
        let text = seen_by_openssl(&kept);
        assert!(text.contains("Subject: CN = PC-0815"), "{text}");
        assert!(text.contains("X509v3 Subject Alternative Name"), "{text}");
        assert_eq!(text.matches("othername:").count(), 2, "{text}");
    }
}

#[test]
fn a_yubikey_and_an_apple_device_get_certificates_and_the_inventory_knows_them() {
    let scene = Scene::start();
    let yubikey = YubiKey::new(12_345_678);
    let (order, challenges) = scene.order(&[("permanent-identifier", "12345678")]);
    scene.respond(&challenges[0], &yubikey.attest(&scene.makers[1], &challenges[0].key_authorization));
    scene.certified(&order, &yubikey.key, &[permanent_identifier("12345678")]);

    let phone = Apple::new("F2LZK8XYPLJQ");
    let (order, challenges) = scene.order(&[("permanent-identifier", "F2LZK8XYPLJQ")]);
    let answer = scene.respond(&challenges[0], &phone.attest(&scene.makers[2], &challenges[0].token));
    assert_eq!(answer["status"], "valid", "{answer}");
    scene.certified(&order, &phone.key, &[permanent_identifier("F2LZK8XYPLJQ")]);

    let name = "permanent-identifier:12345678";
    let found = scene.chancery.cli(&["certificate", "list", "--name", name]).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["names"], json!([name]));
}

#[test]
fn an_attestation_that_is_not_acceptable_says_why_and_ends_the_order() {
    let scene = Scene::start();
    let yubikey = YubiKey::new(7);
    let (order, challenges) = scene.order(&[("permanent-identifier", "7")]);
    let stranger = Manufacturer::new("step");
    let answer = scene.respond(&challenges[0], &yubikey.attest(&stranger, &challenges[0].key_authorization));
    assert_eq!(answer["status"], "invalid", "{answer}");
    assert_eq!(answer["error"]["type"], "urn:ietf:params:acme:error:badAttestationStatement");
    let detail = answer["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("does not lead to a root that is configured for this format"), "{detail}");
    assert_eq!(scene.client.settled(&order, &["invalid"]).unwrap().body["status"], "invalid");

    // Another key than the attested one, for a host beside the device, and a name that nobody ordered.
    let (order, challenges) = scene.order(&[("permanent-identifier", "7")]);
    scene.respond(&challenges[0], &yubikey.attest(&scene.makers[1], &challenges[0].key_authorization));
    let other = YubiKey::new(7);
    for (key, names) in [
        (&other.key, vec![permanent_identifier("7")]),
        (&yubikey.key, vec![permanent_identifier("7"), tlv(&[0x82], b"a.example")]),
    ] {
        let payload = json!({ "csr": base64url(&csr(key, &names)) }).to_string();
        let response = scene.client.post(order.body["finalize"].as_str().unwrap(), &payload).unwrap();
        assert_eq!(e2e::acme::kind(&response).as_deref(), Some("badCSR"));
    }
    scene.certified(&order, &yubikey.key, &[permanent_identifier("7")]);
}
