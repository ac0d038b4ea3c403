//! Dead rows are deleted by the running program, and nothing else is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::account::Thumbprint;
use ca_core::acme::pause::Failing;
use ca_core::acme::rate_limit::{Bucket, Claim, ClaimMode, Limit};
use ca_core::acme::{
    Account, AccountState, Authorization, AuthorizationState, ChallengeType, Identifier, Order, OrderState,
};
use ca_core::id::{AccountId, AuthorizationId, OrderId};
use ca_core::pkix::public_key::KeyHash;
use ca_core::pkix::serial::SerialNumber;
use ca_core::profile::RequestedValidity;
use ca_core::random::SystemRandom;
use ca_core::store::{
    CertificateId, CertificateRecord, CertificateState, Change, Commit, Commits, Origin, Store, Version,
};
use ca_core::time::{Clock, Stopwatch, SystemClock, Timestamp};
use store::sqlite::{Writer, WriterOptions};

use crate::harness::Site;

const DAY: Duration = Duration::from_hours(24);

struct Seed {
    dead_orders: Vec<OrderId>,
    kept_orders: Vec<OrderId>,
    dead_authorizations: Vec<AuthorizationId>,
    kept_authorizations: Vec<AuthorizationId>,
    dead_account: AccountId,
    kept_accounts: Vec<AccountId>,
}

fn account(at: Timestamp, state: AccountState) -> Account {
    let id = AccountId::generate(at, &mut SystemRandom);
    let mut thumbprint = [0; 32];
    thumbprint[..16].copy_from_slice(id.0.as_bytes());
    Account {
        id,
        directory: "default".to_owned().try_into().unwrap(),
        thumbprint: Thumbprint(thumbprint),
        former_keys: Vec::new(),
        jwk: "{}".to_owned(),
        contacts: Vec::new(),
        terms_agreed_at: None,
        external_account: None,
        limits: std::collections::BTreeMap::new(),
        state,
        created_at: at,
        version: Version::NEW,
    }
}

/// An order with one authorization, which both expired a week after they were made.
fn order(account: AccountId, at: Timestamp, state: AuthorizationState) -> (Order, Authorization) {
    let expires_at = at.plus(7 * DAY);
    let authorization = Authorization {
        id: AuthorizationId::generate(at, &mut SystemRandom),
        account,
        identifier: Identifier::from_text("a.example").unwrap(),
        wildcard: false,
        subdomains: false,
        state,
        challenges: Vec::new(),
        created_at: at,
        expires_at,
        version: Version::NEW,
    };
    let order = Order {
        id: OrderId::generate(at, &mut SystemRandom),
        account,
        directory: "default".to_owned().try_into().unwrap(),
        identifiers: vec![authorization.identifier.clone()],
        authorizations: vec![authorization.id],
        profile: "tls-server".to_owned().try_into().unwrap(),
        validity: RequestedValidity::default(),
        replaces: None,
        auto_renewal: None,
        annotations: None,
        created_at: at,
        expires_at,
        state: OrderState::Open,
        version: Version::NEW,
    };
    (order, authorization)
}

fn commit(changes: Vec<Change>) -> Commit {
    Commit { changes, ..Commit::default() }
}

/// More rows than one commit deletes, and each kind of row beside one that stays.
async fn seed(data: &Path) -> Seed {
    let store = Writer::open(data, WriterOptions { min_free_bytes: 0, ..WriterOptions::default() }).unwrap();
    let now = SystemClock.now();
    let ago = |days: u32| now.minus(DAY * days);
    let used = account(ago(400), AccountState::Valid);
    let dead = account(ago(366), AccountState::Valid);
    let young = account(ago(364), AccountState::Valid);
    let ended = account(ago(400), AccountState::Deactivated { at: ago(399) });
    for account in [&used, &dead, &young, &ended] {
        store.commit(commit(vec![Change::PutAccount(account.clone())])).await.unwrap();
    }
    let mut seed = Seed {
        dead_orders: Vec::new(),
        kept_orders: Vec::new(),
        dead_authorizations: Vec::new(),
        kept_authorizations: Vec::new(),
        dead_account: dead.id,
        kept_accounts: vec![used.id, young.id, ended.id],
    };
    let place = |order: &Order, authorization: &Authorization| {
        commit(vec![Change::PutOrder(order.clone()), Change::PutAuthorization(authorization.clone())])
    };
    for _ in 0..600 {
        let (order, authorization) = order(used.id, ago(98), AuthorizationState::Pending);
        store.commit(place(&order, &authorization)).await.unwrap();
        seed.dead_orders.push(order.id);
        seed.dead_authorizations.push(authorization.id);
    }
    // Expired not so long ago; its authorization failed before that, and goes with it.
    let (recent, its) = order(used.id, ago(96), AuthorizationState::Invalid { failed_at: ago(96) });
    // Old, and waiting for the CA still.
    let (mut processing, in_use) = order(used.id, ago(300), AuthorizationState::Pending);
    // Old, with a certificate: the order stays, its authorization does not.
    let (mut issued, spent) = order(used.id, ago(200), AuthorizationState::Pending);
    issued.state = OrderState::Processing { csr: vec![1] };
    // Old, and valid still: its account may revoke by it.
    let valid = AuthorizationState::Valid { validated_at: ago(200), by: ChallengeType::Dns01 };
    let (orphan, mut lasting) = order(used.id, ago(200), valid);
    lasting.expires_at = now.plus(DAY);
    for (order, authorization) in
        [(&recent, &its), (&processing, &in_use), (&issued, &spent), (&orphan, &lasting)]
    {
        store.commit(place(order, authorization)).await.unwrap();
    }
    let certificate = CertificateId {
        issuer: "issuing-1".parse().unwrap(),
        serial: SerialNumber::generate(&mut SystemRandom),
    };
    let record = CertificateRecord {
        id: certificate.clone(),
        state: CertificateState::Reserved,
        tbs: vec![0x30, 0],
        der: None,
        profile: "tls-server".to_owned().try_into().unwrap(),
        subject: String::new(),
        names: vec![Identifier::from_text("a.example").unwrap()],
        key: KeyHash([7; 32]),
        not_before: ago(200),
        not_after: ago(110),
        shard: 0,
        origin: Origin::Order { order: issued.id, account: used.id },
        reserved_at: ago(200),
        revision: 0,
    };
    let der = ca_core::store::CertificateDer::new(vec![0x30, 0]);
    let at = ago(200);
    (issued.state, issued.version) = (OrderState::Valid { certificate: certificate.clone() }, Version(1));
    (processing.state, processing.version) = (OrderState::Processing { csr: vec![1] }, Version(1));
    let changes = vec![
        Change::ReserveCertificate(Box::new(record)),
        Change::IssueCertificate { id: certificate, der, at },
        Change::PutOrder(issued.clone()),
        Change::PutOrder(processing.clone()),
    ];
    store.commit(commit(changes)).await.unwrap();
    seed.dead_orders.push(orphan.id);
    seed.kept_orders.extend([recent.id, processing.id, issued.id]);
    seed.dead_authorizations.push(spent.id);
    seed.kept_authorizations.extend([its.id, in_use.id, lasting.id]);

    let tried = std::num::NonZeroU32::new(9).unwrap();
    let failing = Failing::after(None, used.id, &its.identifier, "refused", tried, ago(31));
    let claim = |bucket, at| {
        let quota = "1/1d".parse().unwrap();
        Change::Claim(Claim { limit: Limit::NewOrdersPerAccount, bucket, quota, mode: ClaimMode::Take, at })
    };
    let changes = vec![
        Change::PutFailing(Box::new(failing)),
        claim(Bucket([1; 16]), ago(2)),
        claim(Bucket([2; 16]), now),
    ];
    store.commit(commit(changes)).await.unwrap();
    store.close().await;
    seed
}

fn metric(site: &Site, series: &str) -> f64 {
    let text = String::from_utf8(site.get("metrics", "/metrics").1).unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_rows_go_and_what_matters_stays() {
    let site = Site::new();
    let (mut server, _) = site.up();
    assert!(server.stop().success());
    let seed = seed(&site.data()).await;
    let (mut server, _) = site.up();
    let expected = [
        ("orders", 601.0),
        ("authorizations", 601.0),
        ("accounts", 1.0),
        ("failures", 1.0),
        ("limit_buckets", 1.0),
    ];
    let waited = Stopwatch::start();
    let pruned = |kind: &str| metric(&site, &format!("chancery_pruned_rows_total{{kind=\"{kind}\"}}"));
    while !expected.iter().all(|(kind, count)| pruned(kind) >= *count) {
        assert!(
            waited.elapsed() < Duration::from_secs(60),
            "{:?}",
            expected.map(|(kind, _)| (kind, pruned(kind)))
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (kind, count) in expected {
        assert!((pruned(kind) - count).abs() < 0.5, "{kind}: {}", pruned(kind));
    }
    assert!(server.stop().success());

    let options = WriterOptions { min_free_bytes: 0, ..WriterOptions::default() };
    let store: Arc<dyn Store> = Writer::open(&site.data(), options).unwrap();
    for id in seed.dead_orders {
        assert_eq!(store.order(id).await, Ok(None));
    }
    for id in seed.dead_authorizations {
        assert_eq!(store.authorization(id).await, Ok(None));
    }
    assert_eq!(store.account(seed.dead_account).await, Ok(None));
    for id in seed.kept_orders {
        assert!(matches!(store.order(id).await, Ok(Some(_))), "{id}: {:?}", store.order(id).await);
    }
    for id in seed.kept_authorizations {
        assert!(matches!(store.authorization(id).await, Ok(Some(_))), "{id}");
    }
    for id in seed.kept_accounts {
        assert!(matches!(store.account(id).await, Ok(Some(_))), "{id}");
    }
    let log = store.audit(0, 10_000).await.unwrap();
    let logged = log.iter().filter(|(_, entry)| String::from_utf8_lossy(entry).contains("rows_pruned"));
    assert_eq!(logged.count(), 3 + 3 + 1 + 1, "one entry for each commit that took what was somebody's");
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(store::sqlite::check_copy(&site.data(), scratch.path()), Ok(()));
}
