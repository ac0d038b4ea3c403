//! Limits, bounds, pauses and pruning: what every engine must do, over the store's traits.

use std::collections::HashSet;
use std::num::NonZeroU32;

use ca_core::acme::external_account::Uses;
use ca_core::acme::pause::{Failing, PairId};
use ca_core::acme::rate_limit::{ArrivalTime, Bound, Bucket, Claim, ClaimMode, Limit, Quota};
use ca_core::acme::{Account, AuthorizationState, OrderState};
use ca_core::id::AccountId;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Commits, Prune, Role, Store, StoreError, UpkeepReads, Version};
use ca_core::time::Timestamp;

use crate::fixtures::*;

fn bucket() -> Bucket {
    Bucket(random())
}

fn claim(bucket: Bucket, quota: &str, mode: ClaimMode, at: Timestamp) -> Change {
    let quota: Quota = quota.parse().unwrap();
    Change::Claim(Claim { limit: Limit::NewOrdersPerAccount, bucket, quota, mode, at })
}

async fn stored(store: &dyn Store) -> Account {
    let account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    account
}

async fn limited(store: &dyn Store, commit: Commit) -> Option<Timestamp> {
    match store.commit(commit).await {
        Ok(()) => None,
        Err(StoreError::Limited(refusal)) => Some(refusal.retry_at),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_claim_is_counted_with_its_commit_and_survives_a_restart() {
    let direct = Direct::open();
    let store = direct.as_store();
    let bucket = bucket();
    for _ in 0..2 {
        let taken = claim(bucket, "2/1h", ClaimMode::Take, NOW);
        assert_eq!(limited(&*store, change(taken)).await, None);
    }
    // A commit that fails for another reason counts nothing.
    let conflict = Change::EffectDone(ca_core::id::EffectId::generate(NOW, &mut SystemRandom));
    let changes = vec![claim(self::bucket(), "2/1h", ClaimMode::Take, NOW), conflict];
    assert_eq!(store.commit(Commit { changes, ..Commit::default() }).await, Err(StoreError::Conflict));
    // One that is refused changes nothing.
    let account = account(NOW);
    let changes = vec![claim(bucket, "2/1h", ClaimMode::Take, NOW), Change::PutAccount(account.clone())];
    let refused = limited(&*store, Commit { changes, ..Commit::default() }).await;
    assert_eq!(refused, Some(after(1800)));
    assert_eq!(store.account(account.id).await, Ok(None));
    drop(store);
    direct.store.close().await;
    let Direct { dir, store } = direct;
    drop(store);

    let store = store::sqlite::Writer::open(dir.path(), options()).unwrap();
    let take = |at| change(claim(bucket, "2/1h", ClaimMode::Take, at));
    assert_eq!(limited(&*store, take(after(1799))).await, Some(after(1800)));
    assert_eq!(limited(&*store, take(after(1800))).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_place_is_taken_once() {
    let direct = Direct::open();
    let bucket = bucket();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let store = direct.as_store();
            tokio::spawn(async move {
                let taken = change(claim(bucket, "10/1h", ClaimMode::Take, NOW));
                limited(&*store, taken).await.is_none()
            })
        })
        .collect();
    let mut taken = 0;
    for task in tasks {
        taken += usize::from(task.await.unwrap());
    }
    assert_eq!(taken, 10);
}

#[tokio::test]
async fn looking_takes_no_place_and_noting_always_does() {
    let direct = Direct::open();
    let store = direct.as_store();
    let bucket = bucket();
    let with = |mode| change(claim(bucket, "2/1h", mode, NOW));
    for _ in 0..5 {
        assert_eq!(limited(&*store, with(ClaimMode::Look)).await, None);
    }
    for _ in 0..5 {
        assert_eq!(limited(&*store, with(ClaimMode::Note)).await, None);
    }
    assert_eq!(
        limited(&*store, with(ClaimMode::Look)).await,
        Some(after(1800)),
        "no later than a full bucket"
    );
}

#[tokio::test]
async fn idle_buckets_are_found_and_dropped_and_no_others() {
    let direct = Direct::open();
    let store = direct.as_store();
    let (idle, busy) = (bucket(), bucket());
    store.commit(change(claim(idle, "1/1m", ClaimMode::Take, NOW))).await.unwrap();
    store.commit(change(claim(busy, "1/1h", ClaimMode::Take, NOW))).await.unwrap();
    let until = ArrivalTime::at(after(60));
    let found = store.idle_buckets(until, None, 10).await.unwrap();
    assert_eq!((found.rows, found.next), (vec![idle], None));
    let buckets = vec![idle, busy, bucket()];
    store.commit(change(Change::Prune(Prune::Buckets { buckets, until }))).await.unwrap();
    let left = store.idle_buckets(ArrivalTime::at(after(7200)), None, 10).await.unwrap();
    assert_eq!(left.rows, vec![busy]);
}

#[tokio::test]
async fn unused_accounts_are_bounded_until_they_order_something() {
    let direct = Direct::open();
    let store = direct.as_store();
    let (first, second) = (account(NOW), account(after(1)));
    let create = |account: &Account| {
        let bound = Change::RequireBound(Bound::UnusedAccounts { below: 1 });
        Commit { changes: vec![bound, Change::PutAccount(account.clone())], ..Commit::default() }
    };
    store.commit(create(&first)).await.unwrap();
    let refused = store.commit(create(&second)).await;
    assert_eq!(refused, Err(StoreError::Bounded("max_unused_accounts".to_owned())));
    let unused = store.unused_accounts_made_before(after(1), None, 10).await.unwrap();
    assert_eq!(unused.rows.iter().map(|account| account.id).collect::<Vec<_>>(), [first.id]);
    assert!(store.unused_accounts_made_before(NOW, None, 10).await.unwrap().rows.is_empty());

    let (order, _) = order(first.id, &["a.example"], NOW);
    store.commit(put_order(&order, &[])).await.unwrap();
    assert!(store.unused_accounts_made_before(after(9), None, 10).await.unwrap().rows.is_empty());
    store.commit(create(&second)).await.unwrap();
    // One that has ordered something is not deleted.
    let pruned = Change::Prune(Prune::Accounts(vec![(first.id, Version(1))]));
    assert_eq!(store.commit(change(pruned)).await, Err(StoreError::Conflict));
    let pruned = Change::Prune(Prune::Accounts(vec![(second.id, Version(1))]));
    store.commit(change(pruned.clone())).await.unwrap();
    assert_eq!(store.account(second.id).await, Ok(None));
    store.commit(change(pruned)).await.unwrap();
}

#[tokio::test]
async fn an_account_that_is_bound_to_an_external_account_is_not_counted() {
    let direct = Direct::open();
    let store = direct.as_store();
    let external = external_account(NOW, Uses::Many);
    store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    store.commit(bind(&external, Version(1), &account(NOW))).await.unwrap();
    assert!(store.unused_accounts_made_before(after(9), None, 10).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn pending_authorizations_are_bounded_while_they_can_be_answered() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = stored(&*store).await;
    let (first, authorizations) = order(account.id, &["a.example", "b.example"], NOW);
    store.commit(put_order(&first, &authorizations)).await.unwrap();
    let bounded = |made_after, adding| {
        let (account, most) = (account.id, 3);
        store.commit(change(Change::RequireBound(Bound::PendingAuthorizations {
            account,
            made_after,
            adding,
            most,
        })))
    };
    bounded(NOW, 1).await.unwrap();
    let refused = Err(StoreError::Bounded("max_pending_authorizations".to_owned()));
    assert_eq!(bounded(NOW, 2).await, refused);
    bounded(after(1), 3).await.unwrap();
    let mut failed = authorizations[0].clone();
    failed.version = Version(1);
    failed.state = AuthorizationState::Invalid { failed_at: NOW };
    store.commit(change(Change::PutAuthorization(failed))).await.unwrap();
    bounded(NOW, 2).await.unwrap();
    let other = AccountId::generate(NOW, &mut SystemRandom);
    let bound = Bound::PendingAuthorizations { account: other, made_after: NOW, adding: 3, most: 3 };
    store.commit(change(Change::RequireBound(bound))).await.unwrap();
}

fn failing(account: AccountId, text: &str, times: u32, pause_after: u32) -> Failing {
    let pause_after = NonZeroU32::new(pause_after).unwrap();
    let mut failing = None;
    for _ in 0..times {
        failing = Some(Failing::after(failing, account, &name(text), "refused", pause_after, NOW));
    }
    failing.unwrap()
}

#[tokio::test]
async fn paused_pairs_are_refused_listed_and_forgotten() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = stored(&*store).await;
    let (paused, tried) = (failing(account.id, "a.example", 2, 2), failing(account.id, "b.example", 1, 2));
    let elsewhere = failing(AccountId::generate(NOW, &mut SystemRandom), "a.example", 2, 2);
    for row in [&paused, &tried, &elsewhere] {
        store.commit(change(Change::PutFailing(Box::new(row.clone())))).await.unwrap();
    }
    let require = |pairs: Vec<PairId>| store.commit(change(Change::RequireUnpaused(pairs)));
    let unknown = PairId::new(account.id, &name("c.example"));
    require(vec![tried.id(), unknown]).await.unwrap();
    assert_eq!(require(vec![unknown, paused.id()]).await, Err(StoreError::Paused(paused.id())));

    let listed = |account, only_paused| {
        let store = &store;
        async move {
            let mut pairs = Vec::new();
            let mut after = None;
            loop {
                let page = store.failing_pairs(account, only_paused, after, 1).await.unwrap();
                pairs.extend(page.rows.iter().map(Failing::id));
                after = page.next;
                if after.is_none() {
                    return pairs.into_iter().collect::<HashSet<_>>();
                }
            }
        }
    };
    assert_eq!(listed(None, true).await, HashSet::from([paused.id(), elsewhere.id()]));
    assert_eq!(listed(Some(account.id), true).await, HashSet::from([paused.id()]));
    assert_eq!(listed(Some(account.id), false).await, HashSet::from([paused.id(), tried.id()]));

    let found = store.failing(paused.id()).await.unwrap().unwrap();
    assert_eq!((found.failures, found.version), (2, Version(1)));
    let stale = store.commit(change(Change::PutFailing(Box::new(paused.clone())))).await;
    assert_eq!(stale, Err(StoreError::Conflict));
    store.commit(change(Change::PutFailing(Box::new(found.unpaused())))).await.unwrap();
    require(vec![paused.id()]).await.unwrap();
    let forget = Change::ForgetFailing(elsewhere.id());
    store.commit(change(forget.clone())).await.unwrap();
    store.commit(change(forget)).await.unwrap();
    assert_eq!(store.failing(elsewhere.id()).await, Ok(None));
    let prune = |version| Change::Prune(Prune::Failing(vec![(tried.id(), Version(version))]));
    assert_eq!(store.commit(change(prune(2))).await, Err(StoreError::Conflict));
    store.commit(change(prune(1))).await.unwrap();
    assert_eq!(store.failing(tried.id()).await, Ok(None));
}

#[tokio::test]
async fn old_orders_are_listed_in_pages_without_those_that_have_a_certificate() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = stored(&*store).await;
    let mut open = Vec::new();
    for second in 0..10 {
        let (mut order, authorizations) = order(account.id, &["a.example"], after(second));
        if second % 3 != 0 {
            order.state = OrderState::Processing { csr: vec![1] };
        }
        store.commit(put_order(&order, &authorizations)).await.unwrap();
        if second % 3 == 0 {
            open.push(order.id);
        } else {
            order.version = Version(1);
            order.state = OrderState::Valid { certificate: certificate("issuing-1", 0, &["a.example"]).id };
            store.commit(change(Change::PutOrder(order))).await.unwrap();
        }
    }
    let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.orders_made_before(after(9), cursor, 2).await.unwrap();
        found.extend(page.rows.iter().map(|order| order.id));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, open[..3], "the youngest is not made before");
    assert_eq!(pages, 5, "nine orders were looked at, two a page");
    let authorizations = store.authorizations_made_before(after(2), None, 10).await.unwrap();
    assert_eq!((authorizations.rows.len(), authorizations.next), (2, None));
}

#[tokio::test]
async fn dead_orders_and_authorizations_go_and_others_do_not() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = stored(&*store).await;
    let (mut dead, dead_names) = order(account.id, &["a.example"], NOW);
    let (mut valid, valid_names) = order(account.id, &["b.example"], NOW);
    valid.state = OrderState::Processing { csr: vec![1] };
    for (order, names) in [(&dead, &dead_names), (&valid, &valid_names)] {
        store.commit(put_order(order, names)).await.unwrap();
    }
    valid.version = Version(1);
    valid.state = OrderState::Valid { certificate: certificate("issuing-1", 0, &["b.example"]).id };
    store.commit(change(Change::PutOrder(valid.clone()))).await.unwrap();

    let prune = |orders: Vec<_>| store.commit(change(Change::Prune(Prune::Orders(orders))));
    let refused = prune(vec![(dead.id, Version(1)), (valid.id, Version(2))]).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(prune(vec![(dead.id, Version(7))]).await, Err(StoreError::Conflict));
    dead.version = Version(1);
    assert_eq!(store.order(dead.id).await.unwrap().unwrap().0, dead, "all or nothing");
    prune(vec![(dead.id, Version(1))]).await.unwrap();
    prune(vec![(dead.id, Version(1))]).await.unwrap();
    assert_eq!(store.order(dead.id).await, Ok(None));
    let counts = store.order_counts().await.unwrap();
    let count = |state: &str| counts.iter().find(|(name, _)| name == state).unwrap().1;
    assert_eq!((count("open"), count("valid")), (0, 1));

    let names = [&dead_names[0], &valid_names[0]].map(|authorization| (authorization.id, Version(1)));
    store.commit(change(Change::Prune(Prune::Authorizations(names.to_vec())))).await.unwrap();
    for (id, _) in names {
        assert_eq!(store.authorization(id).await, Ok(None));
    }
    // An order that has ended is still read without them.
    let (found, left) = store.order(valid.id).await.unwrap().unwrap();
    assert_eq!((found.id, left), (valid.id, Vec::new()));
    let scratch = tempfile::tempdir().unwrap();
    assert_eq!(store::sqlite::check_copy(direct.dir.path(), scratch.path()), Ok(()), "the counts are right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_socket_role_acme_claims_and_deletes_nothing() {
    let mut served = Served::open();
    let acme = served.client(Role::Acme);
    let bucket = bucket();
    let account = account(NOW);
    let changes = vec![claim(bucket, "1/1h", ClaimMode::Take, NOW), Change::PutAccount(account.clone())];
    acme.commit(Commit { changes, ..Commit::default() }).await.unwrap();
    let refused = acme.commit(change(claim(bucket, "1/1h", ClaimMode::Take, NOW))).await;
    let Err(StoreError::Limited(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!((refusal.bucket, refusal.retry_at), (bucket, after(3600)));
    let paused = failing(account.id, "a.example", 1, 1);
    acme.commit(change(Change::PutFailing(Box::new(paused.clone())))).await.unwrap();
    let refused = acme.commit(change(Change::RequireUnpaused(vec![paused.id()]))).await;
    assert_eq!(refused, Err(StoreError::Paused(paused.id())));
    assert_eq!(acme.failing(paused.id()).await.unwrap().map(|found| found.name), Some(paused.name.clone()));
    let bound = Bound::UnusedAccounts { below: 1 };
    let refused = acme.commit(change(Change::RequireBound(bound))).await;
    assert_eq!(refused, Err(StoreError::Bounded("max_unused_accounts".to_owned())));
    let prune = Change::Prune(Prune::Accounts(vec![(account.id, Version(1))]));
    assert!(matches!(acme.commit(change(prune)).await, Err(StoreError::Refused(_))));
    served.stop().await;
}

#[tokio::test]
async fn an_account_that_holds_an_authorization_is_not_deleted() {
    let direct = Direct::open();
    let store = direct.as_store();
    let account = stored(&*store).await;
    let mut held = authorization(account.id, "a.example", NOW);
    store.commit(change(Change::PutAuthorization(held.clone()))).await.unwrap();
    let other = stored(&*store).await;
    let listed = store.unused_accounts_made_before(after(9), None, 10).await.unwrap().rows;
    assert_eq!(listed.iter().map(|account| account.id).collect::<Vec<_>>(), [other.id]);
    let rows = vec![(account.id, Version(1)), (other.id, Version(1))];
    let prune = || store.commit(change(Change::Prune(Prune::Accounts(rows.clone()))));
    prune().await.unwrap();
    assert!(store.account(account.id).await.unwrap().is_some());
    assert_eq!(store.account(other.id).await, Ok(None), "the others go all the same");
    held.version = Version(1);
    held.state = AuthorizationState::Invalid { failed_at: NOW };
    store.commit(change(Change::PutAuthorization(held))).await.unwrap();
    prune().await.unwrap();
    assert_eq!(store.account(account.id).await, Ok(None));
}

#[tokio::test]
async fn an_account_that_ends_is_no_longer_unused() {
    let direct = Direct::open();
    let store = direct.as_store();
    let mut account = stored(&*store).await;
    account.version = Version(1);
    let bound = || change(Change::RequireBound(Bound::UnusedAccounts { below: 1 }));
    assert_eq!(store.commit(bound()).await, Err(StoreError::Bounded("max_unused_accounts".to_owned())));
    store.commit(change(Change::PutAccount(account.deactivated(after(1))))).await.unwrap();
    store.commit(bound()).await.unwrap();
    assert!(store.unused_accounts_made_before(after(9), None, 10).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn the_migration_finds_the_accounts_that_never_ordered() {
    let direct = Direct::open();
    let store = direct.as_store();
    let (unused, used) = (stored(&*store).await, stored(&*store).await);
    let ended = account(NOW).deactivated(after(1));
    store.commit(change(Change::PutAccount(ended))).await.unwrap();
    let external = external_account(NOW, Uses::Many);
    store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    store.commit(bind(&external, Version(1), &account(NOW))).await.unwrap();
    let (order, authorizations) = order(used.id, &["a.example"], NOW);
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    drop(store);
    direct.store.close().await;
    // The same rows in a store as it was before limits.
    let dir = tempfile::tempdir().unwrap();
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    for sql in [
        include_str!("../../src/sqlite/migrations/0001_first.sql"),
        include_str!("../../src/sqlite/migrations/0002_external_accounts.sql"),
        include_str!("../../src/sqlite/migrations/0003_renewals.sql"),
    ] {
        database.execute_batch(sql).unwrap();
    }
    let newer = direct.dir.path().join("store.db");
    database.execute("ATTACH ?1 AS newer", [newer.to_str().unwrap()]).unwrap();
    let copy = "INSERT INTO accounts SELECT id, directory, thumbprint, state, version, body, hash FROM newer.accounts; \
                INSERT INTO orders SELECT id, account, state, version, body, hash FROM newer.orders; \
                PRAGMA application_id = 0x43686e63; PRAGMA user_version = 3;";
    database.execute_batch(copy).unwrap();
    database.close().unwrap();

    let store = store::sqlite::Writer::open(dir.path(), options()).unwrap();
    let found = store.unused_accounts_made_before(after(9), None, 10).await.unwrap().rows;
    assert_eq!(found.iter().map(|account| account.id).collect::<Vec<_>>(), [unused.id]);
    let bucket = bucket();
    store.commit(change(claim(bucket, "1/1h", ClaimMode::Take, NOW))).await.unwrap();
    assert!(store.commit(change(claim(bucket, "1/1h", ClaimMode::Take, NOW))).await.is_err());
}
