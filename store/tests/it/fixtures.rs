//! Rows to store, and stores to put them in.

use std::collections::BTreeMap;
use std::sync::Arc;

use ca_core::acme::account::Thumbprint;
use ca_core::acme::challenge::Token;
use ca_core::acme::external_account::{ExternalAccount, ExternalAccountState, SealedKey, Uses};
use ca_core::acme::{
    Account, AccountState, Authorization, AuthorizationState, Challenge, ChallengeState, ChallengeType,
    DirectoryName, ExternalAccountBinding, Grant, Identifier, Order, OrderState,
};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, AuthorizationId, CredentialId, EffectId, ExternalAccountId, IssuerId, OrderId};
use ca_core::pkix::public_key::{KeyHash, sha256};
use ca_core::pkix::serial::SerialNumber;
use ca_core::profile::RequestedValidity;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::signing::SignatureAlgorithm;
use ca_core::store::{
    CertificateId, CertificateRecord, CertificateState, Change, Commit, CrlRecord, Effect, EffectKind,
    IssuerKind, IssuerRecord, IssuerState, Origin, Revocation, Role, Row, Store, Version,
};
use ca_core::time::Timestamp;
use rand_core::Rng;
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers, RemoteStore};
use store::sqlite::{SqliteStore, Writer, WriterOptions};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const NOW: Timestamp = Timestamp::from_millis(1_795_000_000_000);

pub fn after(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1000)
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom.fill_bytes(&mut bytes);
    bytes
}

pub fn directory() -> DirectoryName {
    "default".to_owned().try_into().unwrap()
}

pub fn issuer_id(name: &str) -> IssuerId {
    name.parse().unwrap()
}

pub fn name(text: &str) -> Identifier {
    Identifier::from_text(text).unwrap()
}

pub fn account(at: Timestamp) -> Account {
    Account {
        id: AccountId::generate(at, &mut SystemRandom),
        directory: directory(),
        thumbprint: Thumbprint(random()),
        former_keys: Vec::new(),
        limits: BTreeMap::new(),
        jwk: r#"{"crv":"P-256"}"#.to_owned(),
        contacts: vec!["mailto:someone@example.org".to_owned()],
        terms_agreed_at: None,
        external_account: None,
        state: AccountState::Valid,
        created_at: at,
        version: Version::NEW,
    }
}

pub fn authorization(account: AccountId, ordered: &str, at: Timestamp) -> Authorization {
    let ordered = name(ordered);
    Authorization {
        id: AuthorizationId::generate(at, &mut SystemRandom),
        account,
        identifier: ordered.base(),
        wildcard: ordered.is_wildcard(),
        subdomains: false,
        state: AuthorizationState::Pending,
        challenges: vec![Challenge {
            kind: ChallengeType::Dns01,
            token: Token::generate(&mut SystemRandom),
            state: ChallengeState::Pending,
        }],
        created_at: at,
        expires_at: after(3600),
        version: Version::NEW,
    }
}

/// An order with one authorization for each name.
pub fn order(account: AccountId, names: &[&str], at: Timestamp) -> (Order, Vec<Authorization>) {
    let authorizations: Vec<_> = names.iter().map(|name| authorization(account, name, at)).collect();
    let order = Order {
        id: OrderId::generate(at, &mut SystemRandom),
        account,
        directory: directory(),
        identifiers: names.iter().map(|text| name(text)).collect(),
        authorizations: authorizations.iter().map(|authorization| authorization.id).collect(),
        profile: "tls-server".to_owned().try_into().unwrap(),
        validity: RequestedValidity::default(),
        replaces: None,
        auto_renewal: None,
        annotations: None,
        created_at: at,
        expires_at: after(3600),
        state: OrderState::Open,
        version: Version::NEW,
    };
    (order, authorizations)
}

pub fn put_order(order: &Order, authorizations: &[Authorization]) -> Commit {
    let mut changes: Vec<_> = authorizations.iter().cloned().map(Change::PutAuthorization).collect();
    changes.push(Change::PutOrder(order.clone()));
    Commit { changes, ..Commit::default() }
}

pub fn change(change: Change) -> Commit {
    Commit { changes: vec![change], ..Commit::default() }
}

/// A certificate to reserve; the store gives its revision.
pub fn certificate(issuer: &str, shard: u32, names: &[&str]) -> CertificateRecord {
    CertificateRecord {
        id: CertificateId { issuer: issuer_id(issuer), serial: SerialNumber::generate(&mut SystemRandom) },
        state: CertificateState::Reserved,
        tbs: random::<300>().to_vec(),
        der: None,
        profile: "tls-server".to_owned().try_into().unwrap(),
        subject: String::new(),
        names: names.iter().map(|text| name(text)).collect(),
        key: KeyHash(random()),
        not_before: NOW,
        not_after: after(90 * 86_400),
        shard,
        origin: Origin::Credential(CredentialId::generate(NOW, &mut SystemRandom)),
        reserved_at: NOW,
        revision: 0,
    }
}

pub fn reserve(record: &CertificateRecord) -> Commit {
    change(Change::ReserveCertificate(Box::new(record.clone())))
}

pub fn issue(record: &CertificateRecord) -> Commit {
    let der = ca_core::store::CertificateDer::new([&record.tbs[..], b"signed"].concat());
    change(Change::IssueCertificate { id: record.id.clone(), der, at: after(1) })
}

pub fn revoke(id: &CertificateId) -> Commit {
    let revocation = Revocation { at: after(2), reason: RevocationReason::KeyCompromise };
    change(Change::RevokeCertificate { id: id.clone(), revocation })
}

pub fn abandon(id: &CertificateId) -> Commit {
    change(Change::AbandonCertificate { id: id.clone(), at: after(3) })
}

pub fn issuer(id: &str, kind: IssuerKind, state: IssuerState, at: Timestamp) -> IssuerRecord {
    IssuerRecord {
        id: issuer_id(id),
        kind,
        state,
        subject: vec![0x30, 0],
        subject_text: format!("CN={id}"),
        key_label: id.to_owned().try_into().unwrap(),
        signature_algorithm: SignatureAlgorithm::EcdsaSha256,
        public_key: vec![1, 2, 3],
        certificates: Vec::new(),
        parent: None,
        shards: 16,
        trial: true,
        created_at: at,
        version: Version::NEW,
    }
}

pub fn crl(issuer: &str, shard: u32, number: u64) -> CrlRecord {
    CrlRecord {
        issuer: issuer_id(issuer),
        shard,
        number,
        this_update: NOW,
        next_update: after(86_400),
        entries: 3,
        der: random::<64>().to_vec(),
    }
}

pub fn effect(order: OrderId, at: Timestamp) -> Effect {
    Effect { id: EffectId::generate(at, &mut SystemRandom), kind: EffectKind::Issue { order } }
}

pub fn event(detail: &str, at: Timestamp) -> AuditEvent {
    let action = Action::KeyBlocked { key: KeyHash(sha256(detail.as_bytes())), detail: detail.to_owned() };
    AuditEvent { at, actor: Actor::Authority, action }
}

/// An event that any ACME front end may log.
pub fn acme_event(account: &Account) -> AuditEvent {
    AuditEvent {
        at: NOW,
        actor: Actor::Account(account.id),
        action: Action::AccountCreated {
            account: account.id,
            directory: account.directory.to_string(),
            contacts: account.contacts.clone(),
        },
    }
}

/// Options for tests: the disk they run on may be nearly full.
pub fn options() -> WriterOptions {
    WriterOptions { min_free_bytes: 0, ..WriterOptions::default() }
}

/// The writer itself.
pub struct Direct {
    pub dir: TempDir,
    pub store: Arc<SqliteStore>,
}

impl Direct {
    pub fn open() -> Self {
        Self::open_with(options())
    }

    pub fn open_with(options: WriterOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Writer::open(dir.path(), options).unwrap();
        Self { dir, store }
    }

    pub fn as_store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

/// A writer that serves its socket.
pub struct Served {
    pub direct: Direct,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl Served {
    pub fn open() -> Self {
        Self::over(Direct::open(), Peers { owner: uid(), roles: Vec::new() })
    }

    pub fn over(direct: Direct, peers: Peers) -> Self {
        let mut served = Self { direct, stop: None, server: None };
        served.serve(peers);
        served
    }

    pub fn serve(&mut self, peers: Peers) {
        let server = CommitServer::bind(self.direct.dir.path(), Sharing::Private, peers).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        self.stop = Some(stop);
        self.server = Some(tokio::spawn(server.serve(self.direct.store.clone(), shutdown)));
    }

    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.await.unwrap();
        }
    }

    pub fn client(&self, role: Role) -> Arc<RemoteStore> {
        RemoteStore::connect(self.direct.dir.path(), role).unwrap()
    }
}

pub fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// An external account of a directory.
pub fn external_account(at: Timestamp, uses: Uses) -> ExternalAccount {
    ExternalAccount {
        id: ExternalAccountId::generate(at, &mut SystemRandom),
        directory: directory(),
        owner: "web team".to_owned().try_into().unwrap(),
        mac_key: SealedKey {
            sealed_to: KeyHash(random()),
            encapsulated: random::<32>().to_vec(),
            ciphertext: random::<80>().to_vec(),
        },
        uses,
        expires_at: None,
        grant: Grant {
            names: Some(vec![".example.org".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]),
            wildcards: true,
            profiles: None,
            max_days: Some(30),
            challenges: Some(vec![ChallengeType::Dns01]),
            trusted: true,
        },
        state: ExternalAccountState::Valid,
        created_at: at,
        version: Version::NEW,
    }
}

/// The commit that role acme makes for a new account that is bound.
pub fn bind(external: &ExternalAccount, version: Version, account: &Account) -> Commit {
    Commit {
        changes: vec![
            Change::BindExternalAccount { id: external.id, account: account.id },
            Change::PutAccount(bound(external, account)),
        ],
        expected_versions: vec![(Row::ExternalAccount(external.id), version)],
        ..Commit::default()
    }
}

/// The account as bound.
pub fn bound(external: &ExternalAccount, account: &Account) -> Account {
    let binding = ExternalAccountBinding { id: external.id, jws: r#"{"payload":""}"#.to_owned() };
    Account { external_account: Some(binding), ..account.clone() }
}
