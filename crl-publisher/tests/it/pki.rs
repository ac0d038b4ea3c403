//! A small CA for the tests: SQLite in a temporary directory, software keys, the real authority, a clock that stands
//! still until it is moved.

use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ca_core::audit::Actor;
use ca_core::authority::{Authority, AuthorityConfig, CrlValidity, NewCa, Unobserved};
use ca_core::id::CredentialId;
use ca_core::issuance::{Approved, Issuer, Kind, PkiUrls, build};
use ca_core::pkix::identifier::Identifier;
use ca_core::pkix::name::distinguished_name;
use ca_core::pkix::serial::SerialNumber;
use ca_core::pkix::signed::sign_object;
use ca_core::profile::Usage;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, KeyBackend, KeyLabel};
use ca_core::store::{
    AuthorityReads, CertificateDer, CertificateId, Change, Commit, Commits, IssuerKind, IssuerRecord, Origin,
    Store,
};
use ca_core::time::{Clock, SystemClock, Timestamp};
use crl_publisher::{Config, Metrics, Publisher};
use hsm::software::{SoftwareConfig, SoftwareKeys};
use http::Response;
use http_body_util::{BodyExt, Full};
use secrecy::SecretString;
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers};
use store::sqlite::{SqliteStore, Writer, WriterOptions};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const DAY: Duration = Duration::from_hours(24);
pub const SHARDS: u32 = 3;

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

pub struct Pki {
    pub directory: TempDir,
    pub store: Arc<SqliteStore>,
    pub clock: Arc<HandClock>,
    pub authority: Authority,
    pub root: IssuerRecord,
    pub issuing: IssuerRecord,
    keys: Arc<SoftwareKeys>,
    urls: PkiUrls,
    subscribers: AtomicI64,
}

impl Pki {
    /// A root and an issuing CA of three shards, with their first CRLs.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
        let store = Writer::open(directory.path(), options).unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(SystemClock.now().as_millis())));
        let mut config = SoftwareConfig::new(directory.path().join("keys"), SecretString::from("test"));
        config.iterations = NonZeroU32::MIN;
        let keys = SoftwareKeys::open(config, &hsm::Metrics::default()).unwrap();
        let base = "http://127.0.0.1:8080".to_owned();
        let urls = PkiUrls { crl: base.clone(), ocsp: base };
        let validity = Config::default();
        let config = AuthorityConfig {
            directories: Vec::new(),
            profiles: Vec::new(),
            urls: urls.clone(),
            crl_validity: CrlValidity {
                issuing: validity.validity(IssuerKind::Issuing),
                root: validity.validity(IssuerKind::Root),
            },
            listener_names: Vec::new(),
        };
        let authority =
            Authority::new(config, store.clone(), keys.clone(), clock.clone(), Arc::new(Unobserved));
        let new = NewCa {
            organisation: "Test".to_owned(),
            key_algorithm: KeyAlgorithm::EcP256,
            signature_algorithm: KeyAlgorithm::EcP256.default_signature(),
            trial: true,
            shards: SHARDS,
            actor: Actor::Authority,
        };
        let hierarchy = authority.create_hierarchy(&new).await.unwrap();
        let (root, issuing, subscribers) = (hierarchy.root, hierarchy.issuing, AtomicI64::new(0));
        Self { directory, store, clock, authority, root, issuing, keys, urls, subscribers }
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

    /// Issues a certificate; also says its shard.
    pub async fn issue(&self) -> (CertificateId, u32, Vec<u8>) {
        let key = self.keys.open(&self.issuing.key_label, self.issuing.signature_algorithm).await.unwrap();
        let issuer = Issuer::new(self.issuing.clone(), key).unwrap();
        let number = self.subscribers.fetch_add(1, Ordering::SeqCst);
        let label = KeyLabel::try_from(format!("subscriber-{number}")).unwrap();
        let approved = Approved {
            kind: Kind::EndEntity(Usage::TlsServer),
            profile: "tls-server".to_owned().try_into().unwrap(),
            subject: distinguished_name(None, Some("first.localhost")).unwrap(),
            names: vec![Identifier::from_text("first.localhost").unwrap()],
            public_key: self.keys.generate(&label, KeyAlgorithm::EcP256).await.unwrap(),
            validity: DAY * 90,
            backdate: Duration::from_mins(5),
            exactly: None,
            origin: Origin::Credential(CredentialId::generate(self.clock.now(), &mut SystemRandom)),
            trusted: None,
        };
        let serial = SerialNumber::generate(&mut SystemRandom);
        let record = build(&approved, &issuer, serial, &self.urls, self.clock.now()).unwrap();
        let (id, shard) = (record.id.clone(), record.shard);
        let der = sign_object(issuer.key(), &record.tbs).await.unwrap();
        let commit = |change| Commit { changes: vec![change], ..Commit::default() };
        self.store.commit(commit(Change::ReserveCertificate(Box::new(record)))).await.unwrap();
        let (at, issued) = (self.clock.now(), CertificateDer::new(der.clone()));
        self.store
            .commit(commit(Change::IssueCertificate { id: id.clone(), der: issued, at }))
            .await
            .unwrap();
        (id, shard, der)
    }

    /// Revokes, and publishes the CRL that this asks for.
    pub async fn revoke(&self, id: &CertificateId) {
        let reason = RevocationReason::KeyCompromise;
        self.authority.revoke(id.clone(), reason, Actor::Authority).await.unwrap();
        self.carry_out().await;
    }

    pub fn crl_directory(&self) -> PathBuf {
        self.directory.path().join("crl")
    }

    pub fn publisher(&self) -> Publisher {
        self.publisher_on(self.store.clone(), &Metrics::default())
    }

    pub fn publisher_on(&self, store: Arc<dyn Store>, metrics: &Metrics) -> Publisher {
        let clock = self.clock.clone();
        Publisher::new(Config::default(), self.crl_directory(), store, clock, metrics.clone()).unwrap()
    }

    /// One that has read the store.
    pub async fn ready_publisher(&self) -> Publisher {
        let publisher = self.publisher();
        publisher.refresh().await.unwrap();
        publisher.readiness().unwrap();
        publisher
    }

    pub fn crl_path(&self, shard: u32) -> String {
        format!("/crl/{}/{shard}.crl", self.issuing.id)
    }
}

/// A store that can't be read, as that of a role whose data directory holds no database yet.
pub fn unreadable_store() -> (TempDir, Arc<dyn Store>) {
    let nowhere = tempfile::tempdir().unwrap();
    let store = store::socket::RemoteStore::connect(nowhere.path(), ca_core::store::Role::Crl).unwrap();
    (nowhere, store)
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    async fn of(response: Response<Full<Bytes>>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub async fn send(publisher: &Publisher, request: http::request::Builder) -> Reply {
    Reply::of(publisher.handle(request.body(()).unwrap()).await).await
}

pub async fn get(publisher: &Publisher, path: &str) -> Reply {
    send(publisher, http::Request::get(path)).await
}
