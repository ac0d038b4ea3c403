//! A CA in a temporary directory: the real store, software keys, and a clock that the test sets.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use ca_core::BoxFuture;
use ca_core::acme::account::Thumbprint;
use ca_core::acme::challenge::Proven;
use ca_core::acme::order::{NewOrder, OrderLimits};
use ca_core::acme::{
    Account, AccountState, Admission, Authorization, ChallengeType, DirectoryName, Identifier, Order,
    OrderState, StarPolicy,
};
use ca_core::audit::Actor;
use ca_core::authority::{Authority, AuthorityConfig, CrlValidity, NewCa, Unobserved};
use ca_core::id::{AccountId, EffectId};
use ca_core::issuance::PkiUrls;
use ca_core::pkix::public_key::PublicKey;
use ca_core::policy::{AllowedNames, DirectoryPolicy, SubscriberKeys};
use ca_core::policy_hook::PolicyGate;
use ca_core::profile::{Profile, ProfileConfig, ProfileName, RequestedValidity, Usage};
use ca_core::random::SystemRandom;
use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyDescription, KeyError, KeyLabel, Signature, SignatureAlgorithm,
    SigningError, SigningKey,
};
use ca_core::store::{Change, Commit, Effect, EffectKind, Store, Version};
use ca_core::time::{Clock, Timestamp};
use hsm::software::{SoftwareConfig, SoftwareKeys};
use store::sqlite::{Writer, WriterOptions};

/// A clock that stands where the test puts it.
pub struct SetClock(AtomicI64);

impl SetClock {
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_millis(), Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Software keys that can be taken away, as a token can.
pub struct Removable {
    keys: Arc<dyn KeyBackend>,
    away: Arc<AtomicBool>,
    refuse: Arc<AtomicBool>,
}

struct RemovableKey {
    key: Arc<dyn SigningKey>,
    away: Arc<AtomicBool>,
    refuse: Arc<AtomicBool>,
}

impl KeyBackend for Removable {
    fn place(&self) -> String {
        self.keys.place()
    }

    fn generate<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        self.keys.generate(label, algorithm)
    }

    fn open<'a>(
        &'a self,
        label: &'a KeyLabel,
        algorithm: SignatureAlgorithm,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, KeyError>> {
        Box::pin(async move {
            let key = self.keys.open(label, algorithm).await?;
            let (away, refuse) = (Arc::clone(&self.away), Arc::clone(&self.refuse));
            Ok(Arc::new(RemovableKey { key, away, refuse }) as Arc<dyn SigningKey>)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyDescription>, KeyError>> {
        self.keys.list()
    }
}

impl SigningKey for RemovableKey {
    fn label(&self) -> &KeyLabel {
        self.key.label()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Signature, SigningError>> {
        if self.away.load(Ordering::SeqCst) {
            let error =
                SigningError::Unavailable { label: self.label().to_string(), detail: "taken away".into() };
            return Box::pin(async { Err(error) });
        }
        if self.refuse.load(Ordering::SeqCst) {
            let error = SigningError::Refused { label: self.label().to_string(), detail: "not now".into() };
            return Box::pin(async { Err(error) });
        }
        self.key.sign(message)
    }
}

/// A CA with everything it needs.
pub struct Ca {
    pub authority: Authority,
    pub store: Arc<dyn Store>,
    pub clock: Arc<SetClock>,
    pub keys_away: Arc<AtomicBool>,
    pub keys_refuse: Arc<AtomicBool>,
    keys: Arc<dyn KeyBackend>,
    urls: PkiUrls,
    directory: tempfile::TempDir,
}

pub fn directory() -> DirectoryName {
    DirectoryName::try_from("default".to_owned()).unwrap()
}

pub fn profile_name(name: &str) -> ProfileName {
    ProfileName::try_from(name.to_owned()).unwrap()
}

/// What is offered for automatic renewal.
pub fn star() -> StarPolicy {
    StarPolicy {
        min_lifetime: Duration::from_mins(10),
        max_lifetime: Duration::from_hours(24 * 7),
        max_duration: Duration::from_hours(24 * 365),
        certificate_get: true,
    }
}

pub fn policy() -> DirectoryPolicy {
    DirectoryPolicy {
        directory: directory(),
        names: AllowedNames::Any,
        wildcards: true,
        challenges: ChallengeType::USUAL.to_vec(),
        profiles: vec![profile_name("tls-server"), profile_name("tls-client")],
        subscriber_keys: SubscriberKeys::default(),
        limits: OrderLimits::default(),
        reuse: None,
        subdomains: false,
        star: Some(star()),
        client_validity: false,
        issuer: None,
    }
}

fn config(urls: PkiUrls) -> AuthorityConfig {
    let profile = |name: &str, usage| {
        let config = ProfileConfig { usage, validity_days: 90, backdate_minutes: 5, description: None };
        Profile::new(profile_name(name), &config).unwrap()
    };
    AuthorityConfig {
        directories: vec![policy()],
        profiles: vec![profile("tls-server", Usage::TlsServer), profile("tls-client", Usage::TlsClient)],
        urls,
        crl_validity: CrlValidity {
            issuing: Duration::from_hours(24 * 7),
            root: Duration::from_hours(24 * 30),
        },
        listener_names: vec![Identifier::from_text("localhost").unwrap()],
    }
}

impl Ca {
    /// A store and keys without a CA.
    pub fn empty(pki_url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config_of_keys =
            SoftwareConfig::new(directory.path().join("keys"), "correct horse".to_owned().into());
        let keys = SoftwareKeys::open(fast(config_of_keys), &hsm::Metrics::default()).unwrap();
        let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
        let store: Arc<dyn Store> = Writer::open(&directory.path().join("store"), options).unwrap();
        let clock = Arc::new(SetClock(AtomicI64::new(1_800_000_000_000)));
        let keys_away = Arc::new(AtomicBool::new(false));
        let keys_refuse = Arc::new(AtomicBool::new(false));
        let (away, refuse) = (Arc::clone(&keys_away), Arc::clone(&keys_refuse));
        let keys: Arc<dyn KeyBackend> = Arc::new(Removable { keys, away, refuse });
        let urls = PkiUrls { crl: pki_url.to_owned(), ocsp: pki_url.to_owned() };
        let authority = Authority::new(
            config(urls.clone()),
            Arc::clone(&store),
            Arc::clone(&keys),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(Unobserved),
        );
        Self { authority, store, clock, keys_away, keys_refuse, keys, urls, directory }
    }

    /// A CA with a root and an issuing CA.
    pub async fn create() -> Self {
        let ca = Self::empty("http://pki.example.org");
        ca.authority.create_hierarchy(&hierarchy(KeyAlgorithm::EcP256)).await.unwrap();
        ca
    }

    /// The same with a policy service.
    pub fn with_policy(self, gate: PolicyGate) -> Self {
        Self { authority: self.authority.with_policy(gate), ..self }
    }

    /// The authority as it is after the process died and came back, on the same store and keys.
    pub async fn after_crash(self) -> Self {
        self.after_crash_with(|_| {}).await
    }

    /// The same, with a configuration that was changed meanwhile.
    pub async fn after_crash_with(self, change: impl FnOnce(&mut AuthorityConfig)) -> Self {
        let mut config = config(self.urls.clone());
        change(&mut config);
        let authority = Authority::new(
            config,
            Arc::clone(&self.store),
            Arc::clone(&self.keys),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::new(Unobserved),
        );
        authority.recover().await.unwrap();
        Self { authority, ..self }
    }

    /// An authority on the same keys and an empty store, as after the data directory was lost.
    pub fn on_another_store(&self) -> Authority {
        let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
        let store = Writer::open(&self.directory.path().join("other"), options).unwrap();
        Authority::new(
            config(self.urls.clone()),
            store,
            Arc::clone(&self.keys),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::new(Unobserved),
        )
    }

    pub fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Stores an account.
    pub async fn account(&self) -> AccountId {
        let id = AccountId::generate(self.clock_now(), &mut SystemRandom);
        let mut thumbprint = [0; 32];
        thumbprint[..16].copy_from_slice(id.0.as_bytes());
        let account = Account {
            id,
            directory: directory(),
            thumbprint: Thumbprint(thumbprint),
            former_keys: Vec::new(),
            limits: BTreeMap::new(),
            jwk: "{}".into(),
            contacts: vec![],
            terms_agreed_at: None,
            external_account: None,
            state: AccountState::Valid,
            created_at: self.clock_now(),
            version: Version::NEW,
        };
        self.commit(vec![Change::PutAccount(account)], vec![]).await;
        id
    }

    pub async fn commit(&self, changes: Vec<Change>, effects: Vec<Effect>) {
        self.store.commit(Commit { changes, effects, ..Commit::default() }).await.unwrap();
    }

    /// Stores an order whose authorizations are valid and whose CSR was accepted, and the effect that asks for it.
    pub async fn finalized_order(&self, account: AccountId, csr: Vec<u8>, names: &[&str]) -> (Order, Effect) {
        self.finalized_order_with(account, csr, names, |order| order).await
    }

    /// The same, as `change` makes of it.
    pub async fn finalized_order_with(
        &self,
        account: AccountId,
        csr: Vec<u8>,
        names: &[&str],
        change: impl FnOnce(Order) -> Order,
    ) -> (Order, Effect) {
        let request = NewOrder {
            identifiers: names.iter().map(|name| Identifier::from_text(name).unwrap()).collect(),
            profile: None,
            ancestors: HashMap::new(),
            held: Vec::new(),
            validity: RequestedValidity::default(),
            auto_renewal: None,
        };
        let (order, authorizations) = Order::place(
            request,
            account,
            &Admission::ungranted(&policy()),
            self.clock_now(),
            &mut SystemRandom,
        )
        .unwrap();
        let order = change(Order { state: OrderState::Processing { csr }, ..order });
        let effect = Effect {
            id: EffectId::generate(self.clock_now(), &mut SystemRandom),
            kind: EffectKind::Issue { order: order.id },
        };
        let valid = |authorization: Authorization| {
            let kind = authorization.challenges[0].kind;
            Change::PutAuthorization(authorization.decided(
                kind,
                vec![],
                Ok(Proven::default()),
                self.clock_now(),
            ))
        };
        let mut changes: Vec<Change> = authorizations.into_iter().map(valid).collect();
        changes.push(Change::PutOrder(order.clone()));
        self.commit(changes, vec![effect.clone()]).await;
        (order, effect)
    }

    /// The order as it is stored now.
    pub async fn order(&self, order: &Order) -> Order {
        self.store.order(order.id).await.unwrap().unwrap().0
    }
}

pub fn hierarchy(key_algorithm: KeyAlgorithm) -> NewCa {
    NewCa {
        organisation: "Example".into(),
        key_algorithm,
        signature_algorithm: key_algorithm.default_signature(),
        trial: false,
        shards: 4,
        actor: Actor::Authority,
    }
}

pub fn csr(names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::new(names).unwrap().serialize_request(&key).unwrap().der().to_vec()
}

/// One PBKDF2 iteration: these keys protect nothing.
fn fast(config: SoftwareConfig) -> SoftwareConfig {
    SoftwareConfig { iterations: NonZeroU32::MIN, ..config }
}
