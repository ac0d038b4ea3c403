//! A whole small CA behind the router: the real store in a temporary directory, the real authority on software keys,
//! and a prober that returns what the test put in.

pub mod client;
pub mod external;
pub mod key;
pub mod prober;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use acme_server::config::{AttestationRoots, Config};
use acme_server::sealing::SealingKey;
use acme_server::validation::Validator;
use acme_server::{Deps, Metrics, Service};
use axum::Router;
use ca_core::acme::attestation::{Trust, TrustAnchor};
use ca_core::audit::Actor;
use ca_core::authority::{Authority, AuthorityConfig, CrlValidity, NewCa, Unobserved};
use ca_core::issuance::PkiUrls;
use ca_core::profile::{Profile, ProfileConfig, Usage};
use ca_core::signing::{KeyAlgorithm, SignatureAlgorithm};
use ca_core::store::{Store, Topic};
use ca_core::time::{Clock, SystemClock, Timestamp};
use hsm::software::{SoftwareConfig, SoftwareKeys};
use store::sqlite::{Writer, WriterOptions};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub use client::{Answer, Client};
pub use key::Key;
pub use prober::ScriptedProber;

pub const PUBLIC_URL: &str = "https://ca.test:8443";

/// The machine's clock, shifted by what a test wants.
#[derive(Default)]
pub struct ShiftedClock(AtomicI64);

impl ShiftedClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().as_millis() + self.0.load(Ordering::SeqCst))
    }
}

/// The CA under test.
pub struct Ca {
    pub store: Arc<dyn Store>,
    pub prober: Arc<ScriptedProber>,
    pub clock: Arc<ShiftedClock>,
    pub metrics: Metrics,
    pub service: Service,
    pub profiles: Vec<Profile>,
    config: Config,
    sealing_key: Vec<u8>,
    authority: RwLock<Option<JoinHandle<()>>>,
    pub effects: Arc<Authority>,
    _directory: TempDir,
}

/// Any name may be ordered, wildcards too.
pub fn open_config() -> Config {
    Config {
        public_url: PUBLIC_URL.to_owned(),
        allowed_names: vec!["*".to_owned()],
        wildcards: true,
        ..Config::default()
    }
}

impl Ca {
    /// A CA with a root, an issuing CA, and the authority at work.
    pub async fn new() -> Self {
        Self::with(open_config()).await
    }

    pub async fn with(config: Config) -> Self {
        let ca = Self::without_issuers(config).await;
        let hierarchy = NewCa {
            organisation: "Test".to_owned(),
            key_algorithm: KeyAlgorithm::EcP256,
            signature_algorithm: SignatureAlgorithm::EcdsaSha256,
            trial: true,
            shards: 2,
            actor: Actor::Authority,
        };
        ca.effects.create_hierarchy(&hierarchy).await.unwrap();
        ca.start_authority();
        ca
    }

    /// A CA whose authority was never set up.
    pub async fn without_issuers(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            Writer::open(directory.path(), WriterOptions { min_free_bytes: 0, ..WriterOptions::default() });
        let store: Arc<dyn Store> = store.unwrap();
        let clock = Arc::new(ShiftedClock::default());
        let prober = Arc::new(ScriptedProber::default());
        let metrics = Metrics::default();
        let keys = SoftwareConfig {
            iterations: NonZeroU32::new(1).unwrap(),
            threads: 1,
            ..SoftwareConfig::new(directory.path().join("keys"), "a test".to_owned().into())
        };
        let keys = SoftwareKeys::open(keys, &hsm::Metrics::default()).unwrap();
        let directories = config.directories().unwrap();
        let profiles =
            [("tls-server", Usage::TlsServer), ("tls-client", Usage::TlsClient)].map(|(name, usage)| {
                let config =
                    ProfileConfig { usage, validity_days: 90, backdate_minutes: 5, description: None };
                Profile::new(name.to_owned().try_into().unwrap(), &config).unwrap()
            });
        let authority = AuthorityConfig {
            directories: directories.iter().map(|directory| directory.policy.clone()).collect(),
            profiles: profiles.to_vec(),
            urls: PkiUrls { crl: "http://ca.test:8080".to_owned(), ocsp: "http://ca.test:8080".to_owned() },
            crl_validity: CrlValidity {
                issuing: Duration::from_hours(24),
                root: Duration::from_hours(24 * 30),
            },
            listener_names: Vec::new(),
        };
        let effects =
            Arc::new(Authority::new(authority, store.clone(), keys, clock.clone(), Arc::new(Unobserved)));
        let sealing_key = SealingKey::generate().unwrap().to_octets().to_vec();
        let service = service(&config, &store, &clock, &prober, &metrics, &profiles, &sealing_key);
        Self {
            store,
            prober,
            clock,
            metrics,
            service,
            profiles: profiles.to_vec(),
            config,
            sealing_key,
            authority: RwLock::default(),
            effects,
            _directory: directory,
        }
    }

    /// The program's loop for effects.
    pub fn start_authority(&self) {
        let (store, authority) = (self.store.clone(), self.effects.clone());
        let task = tokio::spawn(async move {
            loop {
                let more = store.watch(&Topic::Effects);
                for effect in store.effects(100).await.unwrap() {
                    authority.carry_out(effect).await.unwrap();
                }
                more.await;
            }
        });
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// From now on nothing is signed.
    pub fn stop_authority(&self) {
        if let Some(task) = self.authority.write().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    /// The service as it is after a restart of its process: on the same store, with nothing in memory.
    pub fn restarted(&self) -> Service {
        self.restarted_with(&self.config)
    }

    /// As [`Ca::restarted`], with another configuration of the service alone.
    pub fn restarted_with(&self, config: &Config) -> Service {
        let (profiles, key) = (&self.profiles, &self.sealing_key);
        service(config, &self.store, &self.clock, &self.prober, &self.metrics, profiles, key)
    }

    pub fn router(&self) -> Router {
        self.service.router()
    }

    /// A client with a new P-256 key and an account.
    pub async fn client(&self) -> Client {
        self.client_with(Key::p256()).await
    }

    pub async fn client_with(&self, key: Key) -> Client {
        let mut client = self.stranger(key).await;
        client.register().await;
        client
    }

    /// A client without an account.
    pub async fn stranger(&self, key: Key) -> Client {
        Client::new(self.router(), key, "default").await
    }

    /// Orders `names`, answers the challenges, finalizes, and gives the order's last state.
    pub async fn issue(&self, client: &Client, names: &[&str]) -> Answer {
        let order = client.new_order(names).await;
        assert_eq!(order.status, 201, "{order:?}");
        self.authorize(client, &order).await;
        let csr = key::csr(&key::subscriber_key(), names);
        client.finalize(&order, &csr).await
    }

    /// Answers a challenge of each of an order's authorizations, by dns-01 for names and by http-01 for addresses.
    pub async fn authorize(&self, client: &Client, order: &Answer) {
        for url in order.list("authorizations") {
            let authorization = client.read(&url).await;
            if authorization.text("status") == "valid" {
                continue;
            }
            let kind = if authorization.json["identifier"]["type"] == "ip" { "http-01" } else { "dns-01" };
            let challenge = authorization.challenge(kind);
            self.prober.provide(&authorization, &challenge, &client.key);
            let answer = client.post(challenge["url"].as_str().unwrap(), &serde_json::json!({})).await;
            assert_eq!(answer.json["status"], "valid", "{answer:?}");
        }
    }

    /// The value of a metric, by the beginning of its line.
    pub fn metric(&self, line: &str) -> f64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no metric '{line}' in:\n{text}"))
    }
}

/// As the program reads them.
fn trust(formats: &[AttestationRoots]) -> Trust {
    let mut trust = Trust::default();
    for roots in formats {
        let text = std::fs::read(&roots.file).unwrap();
        trust.accept(roots.format, TrustAnchor::from_pem(&text).unwrap());
    }
    trust
}

fn service(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<ShiftedClock>,
    prober: &Arc<ScriptedProber>,
    metrics: &Metrics,
    profiles: &[Profile],
    sealing_key: &[u8],
) -> Service {
    let validators: BTreeMap<_, _> = config
        .directories()
        .unwrap()
        .into_iter()
        .map(|directory| {
            let validator = Validator::new(prober.clone(), clock.clone());
            let validator = Arc::new(validator.with_trust(trust(&directory.attestation)));
            (directory.policy.directory, validator)
        })
        .collect();
    Service::new(Deps {
        config: config.clone(),
        store: store.clone(),
        clock: clock.clone(),
        validators,
        profiles: profiles.to_vec(),
        sealing_key: SealingKey::from_octets(sealing_key).unwrap(),
        metrics: metrics.clone(),
    })
    .unwrap()
}
