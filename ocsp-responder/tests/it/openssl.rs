//! openssl as the judge: over HTTP on a free port, it builds its own requests and verifies our answers.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use ca_core::revocation::RevocationReason;
use ca_core::signing::KeyAlgorithm;
use der::pem::LineEnding;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ocsp_responder::{Config, Metrics, Responder};
use tokio::net::TcpListener;

use crate::pki::Pki;

async fn serve(responder: Arc<Responder>) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let responder = Arc::clone(&responder);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let responder = Arc::clone(&responder);
                    async move { Ok::<_, std::convert::Infallible>(responder.handle(request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    format!("http://{address}/ocsp")
}

fn write_pem(directory: &Path, name: &str, der: &[u8]) {
    let pem = der::pem::encode_string("CERTIFICATE", LineEnding::LF, der).unwrap();
    std::fs::write(directory.join(name), pem).unwrap();
}

async fn openssl(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.current_dir(directory).args(arguments);
    let run = move || command.output().expect("openssl is installed");
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_good_then_revoked_by_both_hashes_with_and_without_a_nonce() {
    for algorithm in [KeyAlgorithm::EcP256, KeyAlgorithm::EcP384] {
        let pki = Pki::with(algorithm).await;
        let config = Config { key_algorithm: algorithm, ..Config::default() };
        let responder = Arc::new(pki.responder_with(config, &Metrics::default()));
        pki.make_ready(&responder).await;
        let id = pki.issue().await;
        let url = serve(responder).await;
        let place = tempfile::tempdir().unwrap();
        write_pem(place.path(), "root.pem", &pki.ca_certificate(&pki.root));
        write_pem(place.path(), "issuing.pem", &pki.ca_certificate(&pki.issuing));
        write_pem(place.path(), "leaf.pem", &pki.certificate_der(&id).await);

        let ask = async |extra: &[&str]| {
            let hash = extra.iter().copied().filter(|a| *a != "-no_nonce");
            let mut arguments = vec!["ocsp"];
            arguments.extend(extra.iter().copied().filter(|a| *a == "-no_nonce"));
            arguments.extend(["-CAfile", "root.pem", "-verify_other", "issuing.pem", "-url", &url]);
            arguments.extend(["-issuer", "issuing.pem"]);
            arguments.extend(hash);
            arguments.extend(["-cert", "leaf.pem"]);
            let output = openssl(place.path(), &arguments).await;
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(err.contains("Response verify OK"), "{out}{err}");
            assert!(!err.contains("WARNING"), "{err}");
            out
        };
        let spellings: [&[&str]; 4] = [&[], &["-no_nonce"], &["-sha256"], &["-sha256", "-no_nonce"]];
        for extra in spellings {
            let out = ask(extra).await;
            assert!(out.contains("leaf.pem: good"), "{extra:?}: {out}");
        }
        pki.revoke(&id, RevocationReason::CessationOfOperation).await;
        for extra in spellings {
            let out = ask(extra).await;
            assert!(
                out.contains("leaf.pem: revoked") && out.contains("cessationOfOperation"),
                "{extra:?}: {out}"
            );
        }
    }
}
