//! An independent judge of signatures: the `openssl` command.

use std::path::Path;
use std::process::Command;

use ca_core::pkix::public_key::PublicKey;
use ca_core::signing::{Signature, SignatureAlgorithm};
use der::EncodePem;
use der::pem::LineEnding;

/// Whether `openssl` verifies the signature.
pub fn verifies(
    key: &PublicKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
    signature: &Signature,
) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let pem = key.to_spki().to_pem(LineEnding::LF).unwrap();
    let (key, message) = (write("key.pem", pem.as_bytes()), write("message", message));
    let signature = write("signature", &signature.0);
    let pss = "rsa_padding_mode:pss,rsa_pss_saltlen:32,rsa_mgf1_md:sha256";
    let mut command = Command::new("openssl");
    match algorithm {
        SignatureAlgorithm::Ed25519 => {
            command.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", &key, "-in", &message]);
            command.args(["-sigfile", &signature]);
        }
        _ => {
            let hash = if algorithm == SignatureAlgorithm::EcdsaSha384 { "-sha384" } else { "-sha256" };
            command.args(["dgst", hash, "-verify", &key, "-signature", &signature]);
            if algorithm == SignatureAlgorithm::RsaPssSha256 {
                pss.split(',').for_each(|option| {
                    command.args(["-sigopt", option]);
                });
            }
            command.arg(Path::new(&message));
        }
    }
    let output = command.output().expect("the command `openssl` is needed: apt-get install openssl");
    output.status.success()
}
