//! A small CA for the tests: SQLite in a temporary directory, software keys, the real authority, a clock that stands
//! still until it is moved.

use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ca_core::BoxFuture;
use ca_core::audit::Actor;
use ca_core::authority::{Authority, AuthorityConfig, CrlValidity, NewCa, Unobserved};
use ca_core::id::{CredentialId, IssuerId};
use ca_core::issuance::{Approved, Issuer, Kind, PkiUrls, build};
use ca_core::pkix::identifier::Identifier;
use ca_core::pkix::name::distinguished_name;
use ca_core::pkix::ocsp::{
    BasicOcspResponse, CertId, CertIdHash, CertStatus, Nonce, OcspIssuer, OcspResponse, Request,
    ResponseStatus,
};
use ca_core::pkix::public_key::PublicKey;
use ca_core::pkix::serial::SerialNumber;
use ca_core::pkix::signed::sign_object;
use ca_core::profile::Usage;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyDescription, KeyError, KeyLabel, Signature, SignatureAlgorithm,
    SigningError, SigningKey,
};
use ca_core::store::{
    AuthorityReads, CertificateDer, CertificateId, CertificateReads, Change, Commit, Commits, IssuerRecord,
    Origin,
};
use ca_core::time::{Clock, SystemClock, Timestamp};
use der::{Decode, Encode};
use hsm::software::{SoftwareConfig, SoftwareKeys};
use http::Response;
use http_body_util::{BodyExt, Full};
use ocsp_responder::{Config, Metrics, Responder};
use secrecy::SecretString;
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers};
use store::sqlite::{SqliteStore, Writer, WriterOptions};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const DAY: Duration = Duration::from_hours(24);

/// A clock that is moved by hand.
pub struct HandClock(AtomicI64);

impl HandClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The responder's own keys, with a switch that takes them away and a gate that holds signatures back.
pub struct SwitchedKeys {
    inner: Arc<SoftwareKeys>,
    switch: Arc<Switch>,
}

pub struct Switch {
    pub away: AtomicBool,
    /// Each signature takes a permit and gives it back.
    pub gate: Semaphore,
    pub waiting: Semaphore,
}

struct SwitchedKey {
    inner: Arc<dyn SigningKey>,
    switch: Arc<Switch>,
}

impl SigningKey for SwitchedKey {
    fn label(&self) -> &KeyLabel {
        self.inner.label()
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
    fn public_key(&self) -> &PublicKey {
        self.inner.public_key()
    }
    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Signature, SigningError>> {
        Box::pin(async move {
            if self.switch.away.load(Ordering::SeqCst) {
                let label = self.label().to_string();
                return Err(SigningError::Unavailable { label, detail: "the token is away".to_owned() });
            }
            self.switch.waiting.add_permits(1);
            let _permit = self.switch.gate.acquire().await.unwrap();
            self.inner.sign(message).await
        })
    }
}

impl KeyBackend for SwitchedKeys {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn generate<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        self.inner.generate(label, algorithm)
    }
    fn open<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, KeyError>> {
        Box::pin(async move {
            let inner = self.inner.open(label, algorithm).await?;
            let key: Arc<dyn SigningKey> = Arc::new(SwitchedKey { inner, switch: Arc::clone(&self.switch) });
            Ok(key)
        })
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyDescription>, KeyError>> {
        self.inner.list()
    }
}

pub fn software_keys(directory: PathBuf) -> Arc<SoftwareKeys> {
    let mut config = SoftwareConfig::new(directory, SecretString::from("test"));
    config.iterations = NonZeroU32::MIN;
    SoftwareKeys::open(config, &hsm::Metrics::default()).unwrap()
}

pub struct Pki {
    pub directory: TempDir,
    pub store: Arc<SqliteStore>,
    pub clock: Arc<HandClock>,
    pub authority: Authority,
    pub root: IssuerRecord,
    pub issuing: IssuerRecord,
    pub switch: Arc<Switch>,
    keys: Arc<SoftwareKeys>,
    responder_keys: Arc<SoftwareKeys>,
    urls: PkiUrls,
    subscribers: AtomicI64,
}

impl Pki {
    pub async fn new() -> Self {
        Self::with(KeyAlgorithm::EcP256).await
    }

    /// A root and an issuing CA with keys of this kind.
    pub async fn with(algorithm: KeyAlgorithm) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            Writer::open(directory.path(), WriterOptions { min_free_bytes: 0, ..WriterOptions::default() });
        let store = store.unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(SystemClock.now().as_millis())));
        let keys = software_keys(directory.path().join("keys"));
        let responder_keys = software_keys(directory.path().join("ocsp-keys"));
        let base = "http://127.0.0.1:8080".to_owned();
        let urls = PkiUrls { crl: base.clone(), ocsp: base };
        let config = AuthorityConfig {
            directories: Vec::new(),
            profiles: Vec::new(),
            urls: urls.clone(),
            crl_validity: CrlValidity { issuing: DAY * 7, root: DAY * 30 },
            listener_names: Vec::new(),
        };
        let authority =
            Authority::new(config, store.clone(), keys.clone(), clock.clone(), Arc::new(Unobserved));
        let new = NewCa {
            organisation: "Test".to_owned(),
            key_algorithm: algorithm,
            signature_algorithm: algorithm.default_signature(),
            trial: true,
            shards: 1,
            actor: Actor::Authority,
        };
        let hierarchy = authority.create_hierarchy(&new).await.unwrap();
        let switch = Switch { away: false.into(), gate: Semaphore::new(1000), waiting: Semaphore::new(0) };
        Self {
            directory,
            store,
            clock,
            authority,
            root: hierarchy.root,
            issuing: hierarchy.issuing,
            switch: Arc::new(switch),
            keys,
            responder_keys,
            urls,
            subscribers: AtomicI64::new(0),
        }
    }

    /// Serves the commit socket, so that the data directory can be used as other processes do; stops on drop.
    pub fn serve_commits(&self) -> (oneshot::Sender<()>, JoinHandle<()>) {
        let owner = std::fs::metadata(self.directory.path()).unwrap().uid();
        let peers = Peers { owner, roles: Vec::new() };
        let server = CommitServer::bind(self.directory.path(), Sharing::Private, peers).unwrap();
        let (stop, stopped) = oneshot::channel();
        let store = self.store.clone();
        let stopped = async {
            let _ = stopped.await;
        };
        (stop, tokio::spawn(server.serve(store, stopped)))
    }

    /// Does the work of `ca`: every effect that waits.
    pub async fn carry_out(&self) {
        for effect in self.store.effects(1000).await.unwrap() {
            self.authority.carry_out(effect).await.unwrap();
        }
    }

    async fn reserve_with_tbs(&self) -> (CertificateId, Vec<u8>, Issuer) {
        let key = self.keys.open(&self.issuing.key_label, self.issuing.signature_algorithm).await.unwrap();
        let issuer = Issuer::new(self.issuing.clone(), key).unwrap();
        let number = self.subscribers.fetch_add(1, Ordering::SeqCst);
        let label = KeyLabel::try_from(format!("subscriber-{number}")).unwrap();
        let subject_key = self.keys.generate(&label, KeyAlgorithm::EcP256).await.unwrap();
        let approved = Approved {
            kind: Kind::EndEntity(Usage::TlsServer),
            profile: "tls-server".to_owned().try_into().unwrap(),
            subject: distinguished_name(None, Some("first.localhost")).unwrap(),
            names: vec![Identifier::from_text("first.localhost").unwrap()],
            public_key: subject_key,
            validity: DAY * 90,
            backdate: Duration::from_mins(5),
            exactly: None,
            origin: Origin::Credential(CredentialId::generate(self.clock.now(), &mut SystemRandom)),
            trusted: None,
        };
        let serial = SerialNumber::generate(&mut SystemRandom);
        let record = build(&approved, &issuer, serial, &self.urls, self.clock.now()).unwrap();
        let (id, tbs) = (record.id.clone(), record.tbs.clone());
        self.commit(Change::ReserveCertificate(Box::new(record))).await;
        (id, tbs, issuer)
    }

    /// A certificate that is logged and not released.
    pub async fn reserve(&self) -> CertificateId {
        self.reserve_with_tbs().await.0
    }

    pub async fn issue(&self) -> CertificateId {
        let (id, tbs, issuer) = self.reserve_with_tbs().await;
        let der = CertificateDer::new(sign_object(issuer.key(), &tbs).await.unwrap());
        self.commit(Change::IssueCertificate { id: id.clone(), der, at: self.clock.now() }).await;
        id
    }

    pub async fn abandon(&self, id: &CertificateId) {
        self.commit(Change::AbandonCertificate { id: id.clone(), at: self.clock.now() }).await;
    }

    pub async fn revoke(&self, id: &CertificateId, reason: RevocationReason) {
        self.authority.revoke(id.clone(), reason, Actor::Authority).await.unwrap();
    }

    pub async fn certificate_der(&self, id: &CertificateId) -> Vec<u8> {
        self.store.certificate(id.clone()).await.unwrap().unwrap().der.unwrap().der
    }

    async fn commit(&self, change: Change) {
        self.store.commit(Commit { changes: vec![change], ..Commit::default() }).await.unwrap();
    }

    pub fn state_directory(&self) -> PathBuf {
        self.directory.path().join("ocsp")
    }

    pub fn responder_keys(&self) -> Arc<dyn KeyBackend> {
        Arc::new(SwitchedKeys { inner: self.responder_keys.clone(), switch: self.switch.clone() })
    }

    /// A responder that has not been maintained yet.
    pub fn responder_with(&self, config: Config, metrics: &Metrics) -> Responder {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        Responder::new(config, self.state_directory(), store, self.responder_keys(), clock, metrics.clone())
            .unwrap()
    }

    /// A responder with its certificate.
    pub async fn responder(&self) -> Responder {
        let responder = self.responder_with(Config::default(), &Metrics::default());
        self.make_ready(&responder).await;
        responder
    }

    pub async fn make_ready(&self, responder: &Responder) {
        responder.maintain().await.unwrap();
        self.carry_out().await;
        responder.maintain().await.unwrap();
        responder.readiness().unwrap();
    }

    pub fn ocsp_issuer(&self) -> OcspIssuer {
        OcspIssuer::new(&self.issuing.subject, &self.issuing.public_key).unwrap()
    }

    pub fn cert_id(&self, hash: CertIdHash, serial: SerialNumber) -> CertId {
        self.ocsp_issuer().cert_id(hash, serial).unwrap()
    }

    /// A request in DER about certificates of the issuing CA, by SHA-1.
    pub fn request(&self, ids: &[&CertificateId], nonce: Option<&[u8]>) -> Vec<u8> {
        let cert_ids = ids.iter().map(|id| self.cert_id(CertIdHash::Sha1, id.serial)).collect();
        Request { cert_ids, nonce: nonce.map(|nonce| Nonce::new(nonce).unwrap()) }.to_der().unwrap()
    }

    /// The status that the responder says of one certificate.
    pub async fn status(&self, responder: &Responder, id: &CertificateId) -> CertStatus {
        let answer = post(responder, self.request(&[id], None)).await.answer();
        answer.tbs_response_data.responses[0].cert_status
    }

    pub fn issuing_id(&self) -> &IssuerId {
        &self.issuing.id
    }

    pub fn ca_certificate(&self, issuer: &IssuerRecord) -> Vec<u8> {
        issuer.certificates[0].der.clone()
    }
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub async fn of(response: Response<Full<Bytes>>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn ocsp(&self) -> OcspResponse {
        assert_eq!(self.status, 200);
        assert_eq!(self.header("content-type"), "application/ocsp-response");
        OcspResponse::from_der(&self.body).unwrap()
    }

    pub fn ocsp_status(&self) -> ResponseStatus {
        self.ocsp().response_status
    }

    /// The answer, with its signature checked under the certificate that came with it.
    pub fn answer(&self) -> BasicOcspResponse {
        let response = self.ocsp();
        assert_eq!(response.response_status, ResponseStatus::Successful);
        let bytes = response.response_bytes.unwrap();
        assert_eq!(bytes.response_type, const_oid::db::rfc6960::ID_PKIX_OCSP_BASIC);
        let basic = BasicOcspResponse::from_der(bytes.response.as_bytes()).unwrap();
        let certificate = &basic.certs.as_ref().unwrap()[0];
        let key = PublicKey::from_spki(certificate.tbs_certificate().subject_public_key_info()).unwrap();
        let tbs = basic.tbs_response_data.to_der().unwrap();
        let signature = Signature(basic.signature.as_bytes().unwrap().to_vec());
        let algorithm = [
            SignatureAlgorithm::EcdsaSha256,
            SignatureAlgorithm::EcdsaSha384,
            SignatureAlgorithm::Ed25519,
            SignatureAlgorithm::RsaPkcs1Sha256,
        ]
        .into_iter()
        .find(|algorithm| algorithm.identifier() == basic.signature_algorithm)
        .unwrap();
        assert!(key.verify(algorithm, &tbs, &signature), "the response's signature");
        basic
    }
}

pub async fn send(responder: &Responder, request: http::request::Builder, body: Vec<u8>) -> Reply {
    Reply::of(responder.handle(request.body(Full::new(Bytes::from(body))).unwrap()).await).await
}

pub async fn post(responder: &Responder, der: Vec<u8>) -> Reply {
    let request = http::Request::post("/ocsp").header("content-type", "application/ocsp-request");
    send(responder, request, der).await
}

pub async fn get(responder: &Responder, path: &str) -> Reply {
    send(responder, http::Request::get(path), Vec::new()).await
}
