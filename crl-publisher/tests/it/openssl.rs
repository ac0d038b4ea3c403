//! openssl as the judge of what is served: the chain with its CRLs, before and after a revocation.

use std::path::Path;
use std::process::Command;

use crl_publisher::Publisher;
use der::pem::LineEnding;

use crate::pki::{Pki, get};

async fn verify(publisher: &Publisher, pki: &Pki, shard: u32, leaf: &[u8]) -> String {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, label: &str, der: &[u8]| {
        let pem = der::pem::encode_string(label, LineEnding::LF, der).unwrap();
        std::fs::write(place.path().join(name), pem).unwrap();
    };
    std::fs::write(place.path().join("roots.pem"), get(publisher, "/roots.pem").await.body).unwrap();
    write("issuing.pem", "CERTIFICATE", &get(publisher, "/ca/issuing-1.cer").await.body);
    write("leaf.pem", "CERTIFICATE", leaf);
    write("root.crl", "X509 CRL", &get(publisher, "/crl/root-1/0.crl").await.body);
    write("issuing.crl", "X509 CRL", &get(publisher, &pki.crl_path(shard)).await.body);
    let directory: &Path = place.path();
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(["verify", "-x509_strict", "-crl_check_all", "-CAfile", "roots.pem"]);
    command.args([
        "-untrusted",
        "issuing.pem",
        "-CRLfile",
        "root.crl",
        "-CRLfile",
        "issuing.crl",
        "leaf.pem",
    ]);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("openssl is installed")).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_accepts_the_served_chain_and_crls_and_then_the_revocation() {
    let pki = Pki::new().await;
    let publisher = pki.ready_publisher().await;
    let (id, shard, leaf) = pki.issue().await;
    let said = verify(&publisher, &pki, shard, &leaf).await;
    assert!(said.contains("leaf.pem: OK"), "{said}");
    pki.revoke(&id).await;
    publisher.refresh().await.unwrap();
    let said = verify(&publisher, &pki, shard, &leaf).await;
    assert!(said.contains("certificate revoked"), "{said}");
}
