//! RFC 8737 and RFC 8738 §6: handshakes that prove control, and those that do not.

use std::sync::{Arc, Mutex};

use ca_core::acme::challenge::{ChallengeType, FailureKind};
use rcgen::{CertificateParams, CustomExtension, KeyPair, SanType, SignatureAlgorithm};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Setup, Subject, failure};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// What the server does; by default what RFC 8737 asks for.
struct Responder {
    names: Vec<SanType>,
    digest: [u8; 32],
    protocols: Vec<Vec<u8>>,
    version: &'static SupportedProtocolVersion,
    key: &'static SignatureAlgorithm,
    expired: bool,
    /// Signs the handshake with another key than the certificate's.
    foreign_key: bool,
}

impl Responder {
    fn of(subject: &Subject) -> Self {
        Self {
            names: vec![san(&subject.identifier.to_string())],
            digest: subject.key_authorization().sha256(),
            protocols: vec![b"acme-tls/1".to_vec()],
            version: &rustls::version::TLS13,
            key: &rcgen::PKCS_ECDSA_P256_SHA256,
            expired: false,
            foreign_key: false,
        }
    }

    async fn start(self) -> Server {
        let key = KeyPair::generate_for(self.key).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.names;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&self.digest)];
        if self.expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 2);
        }
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let key = if self.foreign_key { KeyPair::generate_for(self.key).unwrap() } else { key };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
        let resolver = Resolver { certified, names: Arc::clone(&names) };
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = self.protocols;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A handshake that fails is the client's matter here.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.shutdown().await;
                }
            }
        });
        Server { port, names, _tasks: tasks }
    }
}

struct Server {
    port: u16,
    names: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Resolver {
    certified: Arc<CertifiedKey>,
    names: Arc<Mutex<Vec<String>>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default().to_owned();
        let protocols: Vec<_> = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
        assert_eq!(protocols, [b"acme-tls/1".to_vec()]);
        self.names.lock().unwrap().push(name);
        Some(Arc::clone(&self.certified))
    }
}

fn san(identifier: &str) -> SanType {
    match identifier.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(identifier.try_into().unwrap()),
    }
}

fn subject(identifier: &str) -> Subject {
    Subject::new(ChallengeType::TlsAlpn01, identifier)
}

#[tokio::test]
async fn a_proper_answer_proves_control_with_any_version_and_key() {
    for version in VERSIONS {
        for key in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ] {
            let subject = subject("app.localhost");
            let server = Responder { version, key, ..Responder::of(&subject) }.start().await;
            let prober = Setup::new().tls(server.port).prober();
            assert_eq!(subject.validate(&prober).await, Ok(()), "{version:?} {key:?}");
            assert_eq!(*server.names.lock().unwrap(), ["app.localhost"]);
        }
    }
}

#[tokio::test]
async fn rfc8738_an_address_is_asked_for_by_its_reverse_name() {
    let subject = subject("127.0.0.1");
    let server = Responder::of(&subject).start().await;
    let prober = Setup::new().tls(server.port).prober();
    let observed = subject.observe(&prober).await;
    assert_eq!(observed.addresses, [format!("127.0.0.1:{}", server.port)]);
    assert_eq!(subject.validate(&prober).await, Ok(()));
    assert_eq!(server.names.lock().unwrap()[0], "1.0.0.127.in-addr.arpa");
}

#[tokio::test]
async fn an_expired_certificate_is_fine() {
    let subject = subject("app.localhost");
    let server = Responder { expired: true, ..Responder::of(&subject) }.start().await;
    assert_eq!(subject.validate(&Setup::new().tls(server.port).prober()).await, Ok(()));
}

#[tokio::test]
async fn a_wrong_digest_or_other_names_prove_nothing() {
    let subject = subject("app.localhost");
    let digest = Responder { digest: [1; 32], ..Responder::of(&subject) };
    let two = Responder { names: vec![san("app.localhost"), san("b.localhost")], ..Responder::of(&subject) };
    let other = Responder { names: vec![san("b.localhost")], ..Responder::of(&subject) };
    for (responder, says) in [
        (digest, "is not the digest of the key authorization"),
        (two, "does not have app.localhost as its only subjectAltName"),
        (other, "does not have app.localhost as its only subjectAltName"),
    ] {
        let server = responder.start().await;
        let failure = subject.validate(&Setup::new().tls(server.port).prober()).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unauthorized);
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_handshake_without_the_protocol_proves_nothing() {
    for version in VERSIONS {
        let subject = subject("127.0.0.1");
        let server = Responder { protocols: Vec::new(), version, ..Responder::of(&subject) }.start().await;
        let failure = failure(&subject.observe(&Setup::new().tls(server.port).prober()).await);
        assert_eq!(failure.kind, FailureKind::Unauthorized);
        assert!(failure.detail.contains("without agreeing on the application protocol acme-tls/1"));
    }
}

#[tokio::test]
async fn a_server_with_other_protocols_only_is_a_tls_failure() {
    let subject = subject("127.0.0.1");
    let server = Responder { protocols: vec![b"h2".to_vec()], ..Responder::of(&subject) }.start().await;
    let failure = failure(&subject.observe(&Setup::new().tls(server.port).prober()).await);
    assert_eq!(failure.kind, FailureKind::Tls);
    assert!(failure.detail.contains("no_application_protocol"), "{}", failure.detail);
    assert!(!failure.is_transient());
}

#[tokio::test]
async fn a_handshake_signed_with_another_key_is_a_tls_failure() {
    for version in VERSIONS {
        let subject = subject("127.0.0.1");
        let server = Responder { foreign_key: true, version, ..Responder::of(&subject) }.start().await;
        let failure = failure(&subject.observe(&Setup::new().tls(server.port).prober()).await);
        assert_eq!(failure.kind, FailureKind::Tls, "{version:?}");
        assert!(failure.detail.contains("did not sign the TLS handshake"), "{}", failure.detail);
    }
}

#[tokio::test]
async fn what_is_not_tls_and_what_hangs_up_are_told_apart() {
    for (bytes, kind, says) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], FailureKind::Tls, "does not speak TLS"),
        (&b""[..], FailureKind::Connection, "during the TLS handshake"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
            }
        });
        let failure = failure(&subject("127.0.0.1").observe(&Setup::new().tls(port).prober()).await);
        assert_eq!(failure.kind, kind, "{}", failure.detail);
        assert!(failure.detail.contains(says), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    // The kernel accepts for a listener that nobody serves.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let prober = Setup::new().tls(address.port()).hasty(300).prober();
    let failure = failure(&subject("127.0.0.1").observe(&prober).await);
    assert_eq!(failure.kind, FailureKind::Connection);
    assert_eq!(failure.detail, format!("{address} did not complete the TLS handshake within 0.3 s"));
}

#[tokio::test]
async fn a_denied_address_is_rejected() {
    let subject = subject("app.localhost");
    let server = Responder::of(&subject).start().await;
    let prober = Setup::new().tls(server.port).egress(&[], &[]).prober();
    assert_eq!(failure(&subject.observe(&prober).await).kind, FailureKind::RejectedIdentifier);
    assert!(server.names.lock().unwrap().is_empty());
}

/// Nothing here depends on it, but a certificate that can't be read must not stop the prober.
#[tokio::test]
async fn a_certificate_that_is_no_der_is_a_tls_failure() {
    let subject = subject("127.0.0.1");
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = KeyPair::generate().unwrap().serialize_der();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::try_from(key).unwrap()).unwrap();
    let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])], key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { certified, names: Arc::default() }));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let failure = failure(&subject.observe(&Setup::new().tls(port).prober()).await);
    assert_eq!(failure.kind, FailureKind::Tls);
    assert!(failure.detail.contains("a certificate that can't be read"), "{}", failure.detail);
}
