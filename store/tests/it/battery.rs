//! What every engine must do, as functions over the store's traits.

use std::sync::Arc;
use std::time::Duration;

use ca_core::acme::external_account::{ExternalAccount, SealingKeyRecord, Uses};
use ca_core::acme::renewal::{Predecessor, PullScope, RenewalId};
use ca_core::acme::star::{AutoRenewal, Renewing};
use ca_core::acme::{
    Account, AccountState, Authorization, AuthorizationState, ChallengeState, ChallengeType, Order,
    OrderState,
};
use ca_core::acme::{RenewalPull, Replacement};
use ca_core::audit::AuditEvent;
use ca_core::id::{CredentialId, EffectId, OrderId, RenewalPullId};
use ca_core::pkix::public_key::KeyHash;
use ca_core::profile::RequestedValidity;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::store::{
    CertificateFilter, CertificateId, CertificateState, Change, Commit, Credential, CredentialKind,
    IssuerKind, IssuerState, Origin, Prune, Role, Row, Store, StoreError, Topic, Version,
};
use tokio::time::timeout;

use crate::fixtures::*;

type TheStore = Arc<dyn Store>;

/// Defines a test for each law; `$open` gives something whose `store()` is the store and which lives through it.
macro_rules! run_battery {
    ($open:expr) => {
        crate::battery::run_battery!(@ $open;
            a_row_comes_back_as_it_was_stored_with_the_next_version
            a_change_decided_on_an_old_version_conflicts
            a_row_that_was_only_read_is_compared_too
            a_commit_is_all_or_nothing
            one_key_has_one_account_in_a_directory
            listings_are_newest_first_and_page_without_gaps
            an_order_comes_with_its_authorizations_in_order
            what_was_ordered_never_changes
            what_has_ended_is_never_revived
            orders_are_counted_by_state
            processing_authorizations_are_found_oldest_first
            valid_authorizations_are_found_by_what_they_cover
            a_certificate_goes_from_reserved_to_issued_to_revoked
            no_other_transition_of_a_certificate_is_possible
            a_serial_is_used_once_by_an_issuer
            a_certificate_enters_as_reserved_only
            certificates_are_found_by_every_filter
            reserved_certificates_are_found_by_origin
            revisions_grow_with_every_change
            a_shard_lists_what_is_revoked_or_abandoned
            crl_numbers_only_rise
            issuers_come_in_order
            credentials_are_kept
            effects_are_carried_out_once
            a_certificate_is_replaced_by_the_order_that_was_first
            renewal_pulls_are_listed_until_they_are_removed
            orders_are_found_when_their_next_certificate_is_due
            what_renewal_is_decided_by_comes_from_one_row
            blocked_keys_stay_blocked
            audit_entries_are_dense_and_exact
            the_newest_event_is_the_latest_not_the_last
            a_watcher_wakes_on_its_topic
            sizes_are_told
            external_accounts_are_kept_and_their_grants_never_change
            a_single_use_external_account_binds_one_account
            a_revoked_external_account_binds_nothing
            what_an_account_is_bound_to_never_changes
            bound_accounts_are_listed_newest_first
            trusted_authorizations_are_found_and_count_as_valid
            a_sealing_key_stays_until_it_is_forgotten
        );
    };
    (@ $open:expr; $($law:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                let opened = $open;
                crate::battery::$law(opened.store()).await;
            }
        )*
    };
}
pub(crate) use run_battery;

pub async fn a_row_comes_back_as_it_was_stored_with_the_next_version(store: TheStore) {
    let mut account = account(NOW);
    assert_eq!(store.account(account.id).await, Ok(None));
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    account.version = Version(1);
    assert_eq!(store.account(account.id).await, Ok(Some(account.clone())));
    account.state = AccountState::Deactivated { at: after(5) };
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    account.version = Version(2);
    let found = store.account_by_key(account.directory.clone(), account.thumbprint).await;
    assert_eq!(found, Ok(Some(account)), "whatever its state");
}

pub async fn a_change_decided_on_an_old_version_conflicts(store: TheStore) {
    let account = account(NOW);
    let put = |version| {
        let mut account = account.clone();
        account.version = Version(version);
        store.commit(change(Change::PutAccount(account)))
    };
    assert!(matches!(put(1).await, Err(StoreError::NotFound(_))));
    put(0).await.unwrap();
    assert_eq!(put(0).await, Err(StoreError::Conflict));
    put(1).await.unwrap();
    assert_eq!(put(1).await, Err(StoreError::Conflict));
    assert_eq!(put(3).await, Err(StoreError::Conflict));
    put(2).await.unwrap();
}

pub async fn a_row_that_was_only_read_is_compared_too(store: TheStore) {
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example.org"], NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let on = |version| {
        let mut commit = put_order(&order, &authorizations);
        commit.expected_versions = vec![(Row::Account(account.id), Version(version))];
        store.commit(commit)
    };
    assert_eq!(on(0).await, Err(StoreError::Conflict));
    assert_eq!(on(2).await, Err(StoreError::Conflict));
    on(1).await.unwrap();
    let absent = Commit {
        expected_versions: vec![
            (Row::Order(order.id), Version(1)),
            (Row::Authorization(authorizations[0].id), Version(1)),
            (Row::Issuer(issuer_id("none")), Version::NEW),
            (Row::Credential(CredentialId::generate(NOW, &mut SystemRandom)), Version::NEW),
        ],
        ..Commit::default()
    };
    store.commit(absent).await.unwrap();
}

pub async fn a_commit_is_all_or_nothing(store: TheStore) {
    let account = account(NOW);
    let commit = Commit {
        changes: vec![
            Change::PutAccount(account.clone()),
            Change::EffectDone(EffectId::generate(NOW, &mut SystemRandom)),
        ],
        audit: vec![event("never", NOW)],
        ..Commit::default()
    };
    assert_eq!(store.commit(commit).await, Err(StoreError::Conflict));
    assert_eq!(store.account(account.id).await, Ok(None));
    assert_eq!(store.audit(0, 10).await, Ok(Vec::new()));
}

pub async fn one_key_has_one_account_in_a_directory(store: TheStore) {
    let first = account(NOW);
    store.commit(change(Change::PutAccount(first.clone()))).await.unwrap();
    let mut second = account(NOW);
    second.thumbprint = first.thumbprint;
    assert_eq!(store.commit(change(Change::PutAccount(second.clone()))).await, Err(StoreError::Conflict));
    second.directory = "other".to_owned().try_into().unwrap();
    store.commit(change(Change::PutAccount(second))).await.unwrap();
    // Key rollover onto a key that is taken.
    let mut third = account(NOW);
    store.commit(change(Change::PutAccount(third.clone()))).await.unwrap();
    third.version = Version(1);
    third.thumbprint = first.thumbprint;
    assert_eq!(store.commit(change(Change::PutAccount(third))).await, Err(StoreError::Conflict));
}

pub async fn listings_are_newest_first_and_page_without_gaps(store: TheStore) {
    let account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let mut ids = Vec::new();
    for seconds in 0..5 {
        let (order, authorizations) = order(account.id, &["a.example.org"], after(seconds));
        store.commit(put_order(&order, &authorizations)).await.unwrap();
        ids.insert(0, order.id);
    }
    let (other, authorizations) = order(self::account(NOW).id, &["b.example.org"], after(9));
    store.commit(put_order(&other, &authorizations)).await.unwrap();
    let (mut seen, mut next) = (Vec::new(), None);
    loop {
        let page = store.orders_of(account.id, next, 2).await.unwrap();
        assert!(page.rows.len() <= 2);
        seen.extend(page.rows);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let exactly = store.orders_of(account.id, None, 5).await.unwrap();
    assert_eq!((exactly.rows.len(), exactly.next), (5, None), "no empty last page");
    let all = store.orders(None, 2).await.unwrap();
    assert_eq!(all.rows.iter().map(|order| order.id).collect::<Vec<_>>(), [other.id, ids[0]]);
    assert_eq!(all.next, Some(ids[0]));
    let accounts = store.accounts(None, 10).await.unwrap();
    assert_eq!(accounts.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [account.id]);
}

pub async fn an_order_comes_with_its_authorizations_in_order(store: TheStore) {
    let account = account(NOW);
    let (mut order, mut authorizations) =
        order(account.id, &["b.example.org", "192.0.2.1", "*.a.example.org"], NOW);
    // Not in the order of their ids.
    authorizations.reverse();
    order.authorizations.reverse();
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    order.version = Version(1);
    authorizations.iter_mut().for_each(|authorization| authorization.version = Version(1));
    assert_eq!(store.authorization(authorizations[1].id).await, Ok(Some(authorizations[1].clone())));
    assert_eq!(store.order(order.id).await, Ok(Some((order, authorizations))));
}

pub async fn orders_are_counted_by_state(store: TheStore) {
    let account = account(NOW);
    let (mut first, authorizations) = order(account.id, &["a.example.org"], NOW);
    store.commit(put_order(&first, &authorizations)).await.unwrap();
    let (second, authorizations) = order(account.id, &["b.example.org"], NOW);
    store.commit(put_order(&second, &authorizations)).await.unwrap();
    first.version = Version(1);
    first.state = OrderState::Processing { csr: vec![1] };
    store.commit(change(Change::PutOrder(first.clone()))).await.unwrap();
    // A conflict counts nothing.
    assert_eq!(store.commit(change(Change::PutOrder(first))).await, Err(StoreError::Conflict));
    let counts = store.order_counts().await.unwrap();
    let of = |state: &str| counts.iter().find(|(name, _)| name == state).map(|(_, count)| *count);
    assert_eq!(
        (of("open"), of("processing"), of("valid"), of("failed")),
        (Some(1), Some(1), Some(0), Some(0))
    );
}

pub async fn processing_authorizations_are_found_oldest_first(store: TheStore) {
    let account = account(NOW);
    let mut ids = Vec::new();
    for seconds in [3, 1, 2] {
        let mut authorization = authorization(account.id, "a.example.org", after(seconds));
        authorization.challenges[0].state = ChallengeState::Processing { accepted_at: NOW };
        store.commit(change(Change::PutAuthorization(authorization.clone()))).await.unwrap();
        ids.push(authorization.id);
    }
    let waiting = authorization(account.id, "b.example.org", NOW);
    store.commit(change(Change::PutAuthorization(waiting))).await.unwrap();
    let found = store.authorizations_processing(2).await.unwrap();
    assert_eq!(found.iter().map(|a| a.id).collect::<Vec<_>>(), [ids[1], ids[2]]);
    let mut decided = found[0].clone();
    decided.challenges[0].state =
        ChallengeState::Valid { validated_at: NOW, attempts: Vec::new(), attested_key: None };
    decided.state = AuthorizationState::Valid { validated_at: NOW, by: ChallengeType::Dns01 };
    store.commit(change(Change::PutAuthorization(decided))).await.unwrap();
    let found = store.authorizations_processing(9).await.unwrap();
    assert_eq!(found.iter().map(|a| a.id).collect::<Vec<_>>(), [ids[2], ids[0]]);
}

pub async fn valid_authorizations_are_found_by_what_they_cover(store: TheStore) {
    let account = account(NOW);
    let mut stored = Vec::new();
    for (seconds, ordered, valid) in [
        (1, "a.example.org", true),
        (2, "a.example.org", true),
        (3, "*.a.example.org", true),
        (4, "a.example.org", false),
        (5, "192.0.2.1", true),
    ] {
        let mut authorization = authorization(account.id, ordered, after(seconds));
        if valid {
            authorization.state = AuthorizationState::Valid { validated_at: NOW, by: ChallengeType::Dns01 };
        }
        store.commit(change(Change::PutAuthorization(authorization.clone()))).await.unwrap();
        stored.push(authorization.id);
    }
    let found = async |account, text: &str| {
        let found = store.valid_authorizations(account, name(text)).await.unwrap();
        found.iter().map(|authorization| authorization.id).collect::<Vec<_>>()
    };
    assert_eq!(found(account.id, "a.example.org").await, [stored[1], stored[0]], "newest first");
    assert_eq!(found(account.id, "*.a.example.org").await, [stored[2]]);
    assert_eq!(found(account.id, "192.0.2.1").await, [stored[4]]);
    assert!(found(self::account(NOW).id, "a.example.org").await.is_empty());
}

pub async fn a_certificate_goes_from_reserved_to_issued_to_revoked(store: TheStore) {
    let mut record = certificate("issuing-1", 3, &["a.example.org", "2001:db8::1"]);
    assert_eq!(store.certificate(record.id.clone()).await, Ok(None));
    assert_eq!(store.certificate_status(record.id.clone()).await, Ok(None));
    store.commit(reserve(&record)).await.unwrap();
    let stored = store.certificate(record.id.clone()).await.unwrap().unwrap();
    assert!(stored.revision > 0);
    record.revision = stored.revision;
    assert_eq!(stored, record);

    let commit = issue(&record);
    let Change::IssueCertificate { der, at, .. } = commit.changes[0].clone() else { unreachable!() };
    store.commit(commit).await.unwrap();
    let stored = store.certificate(record.id.clone()).await.unwrap().unwrap();
    assert_eq!((stored.state, &stored.der), (CertificateState::Issued { at }, &Some(der.clone())));

    store.commit(revoke(&record.id)).await.unwrap();
    let stored = store.certificate(record.id.clone()).await.unwrap().unwrap();
    let reason = RevocationReason::KeyCompromise;
    assert_eq!(stored.state, CertificateState::Revoked { issued_at: at, at: after(2), reason });
    assert_eq!((stored.der, stored.tbs), (Some(der), record.tbs));
    let status = store.certificate_status(record.id.clone()).await.unwrap().unwrap();
    assert_eq!(
        (status.state, status.not_after, status.revision),
        (stored.state, record.not_after, stored.revision)
    );
}

pub async fn no_other_transition_of_a_certificate_is_possible(store: TheStore) {
    let missing = certificate("issuing-1", 0, &[]);
    for commit in [issue(&missing), revoke(&missing.id), abandon(&missing.id)] {
        assert!(matches!(store.commit(commit).await, Err(StoreError::NotFound(_))));
    }
    let record = certificate("issuing-1", 0, &[]);
    store.commit(reserve(&record)).await.unwrap();
    assert_eq!(store.commit(revoke(&record.id)).await, Err(StoreError::Conflict), "reserved → revoked");
    store.commit(issue(&record)).await.unwrap();
    assert_eq!(store.commit(issue(&record)).await, Err(StoreError::Conflict), "issued → issued");
    assert_eq!(store.commit(abandon(&record.id)).await, Err(StoreError::Conflict), "issued → abandoned");
    store.commit(revoke(&record.id)).await.unwrap();
    for commit in [issue(&record), abandon(&record.id), revoke(&record.id)] {
        assert_eq!(store.commit(commit).await, Err(StoreError::Conflict), "revoked is for ever");
    }
    let record = certificate("issuing-1", 0, &[]);
    store.commit(reserve(&record)).await.unwrap();
    store.commit(abandon(&record.id)).await.unwrap();
    for commit in [issue(&record), abandon(&record.id), revoke(&record.id)] {
        assert_eq!(store.commit(commit).await, Err(StoreError::Conflict), "abandoned is for ever");
    }
    let status = store.certificate_status(record.id).await.unwrap().unwrap();
    assert_eq!(status.state, CertificateState::Abandoned { at: after(3) });
}

pub async fn a_serial_is_used_once_by_an_issuer(store: TheStore) {
    let first = certificate("issuing-1", 0, &[]);
    store.commit(reserve(&first)).await.unwrap();
    let mut second = certificate("issuing-1", 0, &[]);
    second.id = first.id.clone();
    assert_eq!(store.commit(reserve(&second)).await, Err(StoreError::Conflict));
    assert_eq!(store.certificate(first.id.clone()).await.unwrap().unwrap().tbs, first.tbs);
    second.id.issuer = issuer_id("issuing-2");
    store.commit(reserve(&second)).await.unwrap();
}

pub async fn a_certificate_enters_as_reserved_only(store: TheStore) {
    let mut record = certificate("issuing-1", 0, &[]);
    record.state = CertificateState::Issued { at: NOW };
    assert!(matches!(store.commit(reserve(&record)).await, Err(StoreError::Refused(_))));
    assert_eq!(store.certificate(record.id).await, Ok(None));
}

pub async fn certificates_are_found_by_every_filter(store: TheStore) {
    let owner = account(NOW).id;
    let (their_order, _) = order(owner, &["a.example.org"], NOW);
    let mut records = vec![
        certificate("issuing-1", 0, &["a.example.org", "b.example.org"]),
        certificate("issuing-1", 0, &["*.a.example.org"]),
        certificate("issuing-2", 0, &["a.example.org"]),
    ];
    records[0].origin = Origin::Order { order: their_order.id, account: owner };
    records[1].not_after = after(10);
    for record in &records {
        store.commit(reserve(record)).await.unwrap();
    }
    store.commit(issue(&records[2])).await.unwrap();
    let found = async |filter: CertificateFilter| {
        let page = store.certificates(filter, None, 10).await.unwrap();
        assert_eq!(page.next, None);
        page.rows.iter().map(|row| records.iter().position(|r| r.id == row.id).unwrap()).collect::<Vec<_>>()
    };
    let any = CertificateFilter::default;
    assert_eq!(found(any()).await, [2, 1, 0], "newest first");
    assert_eq!(found(CertificateFilter { name: Some(name("a.example.org")), ..any() }).await, [2, 0]);
    assert_eq!(found(CertificateFilter { name: Some(name("b.example.org")), ..any() }).await, [0]);
    assert_eq!(found(CertificateFilter { account: Some(owner), ..any() }).await, [0]);
    assert_eq!(found(CertificateFilter { issuer: Some(issuer_id("issuing-1")), ..any() }).await, [1, 0]);
    assert_eq!(found(CertificateFilter { serial: Some(records[1].id.serial), ..any() }).await, [1]);
    assert_eq!(found(CertificateFilter { key: Some(records[2].key), ..any() }).await, [2]);
    assert_eq!(found(CertificateFilter { state: Some("issued".to_owned()), ..any() }).await, [2]);
    assert_eq!(found(CertificateFilter { expires_before: Some(after(11)), ..any() }).await, [1]);
    let both = CertificateFilter {
        name: Some(name("a.example.org")),
        issuer: Some(issuer_id("issuing-1")),
        state: Some("reserved".to_owned()),
        ..any()
    };
    assert_eq!(found(both).await, [0]);
    let first = store.certificates(any(), None, 2).await.unwrap();
    let second = store.certificates(any(), first.next, 2).await.unwrap();
    assert_eq!((second.rows.len(), second.next), (1, None));
    assert_eq!(second.rows[0].id, records[0].id);
}

pub async fn reserved_certificates_are_found_by_origin(store: TheStore) {
    let (first, second) = (certificate("issuing-1", 0, &[]), certificate("issuing-1", 0, &[]));
    store.commit(reserve(&first)).await.unwrap();
    store.commit(reserve(&second)).await.unwrap();
    let ids =
        |rows: Vec<ca_core::store::CertificateRecord>| rows.into_iter().map(|r| r.id).collect::<Vec<_>>();
    assert_eq!(ids(store.reserved_certificates(9).await.unwrap()), [first.id.clone(), second.id.clone()]);
    let oldest = ids(store.reserved_certificates(1).await.unwrap());
    assert_eq!(oldest, std::slice::from_ref(&first.id));
    assert_eq!(store.reserved_for(first.origin.clone()).await.unwrap().unwrap().id, first.id);
    store.commit(issue(&first)).await.unwrap();
    assert_eq!(store.reserved_for(first.origin.clone()).await, Ok(None));
    assert_eq!(ids(store.reserved_certificates(9).await.unwrap()), [second.id]);
}

pub async fn revisions_grow_with_every_change(store: TheStore) {
    let (a, b) = (certificate("issuing-1", 0, &[]), certificate("issuing-1", 0, &[]));
    let other = certificate("issuing-2", 0, &[]);
    for commit in [reserve(&a), reserve(&b), reserve(&other), issue(&a)] {
        store.commit(commit).await.unwrap();
    }
    let issuer = issuer_id("issuing-1");
    let changes = store.changes_since(issuer.clone(), 0, 10).await.unwrap();
    assert_eq!(changes.iter().map(|(serial, _)| *serial).collect::<Vec<_>>(), [b.id.serial, a.id.serial]);
    assert!(changes[0].1.revision < changes[1].1.revision);
    let last = changes[1].1.revision;
    assert_eq!(store.changes_since(issuer.clone(), last, 10).await, Ok(Vec::new()));
    store.commit(revoke(&a.id)).await.unwrap();
    let changes = store.changes_since(issuer.clone(), last, 10).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].1.state.name(), "revoked");
    assert_eq!(store.changes_since(issuer, 0, 1).await.unwrap().len(), 1);
}

pub async fn a_shard_lists_what_is_revoked_or_abandoned(store: TheStore) {
    let issuer = issuer_id("issuing-1");
    let empty = store.shard_revocations(issuer.clone(), 4, NOW).await.unwrap();
    assert_eq!((empty.last_number, empty.previous, empty.revoked.len()), (0, None, 0));
    let (revoked, abandoned, good) = (
        certificate("issuing-1", 4, &[]),
        certificate("issuing-1", 4, &[]),
        certificate("issuing-1", 4, &[]),
    );
    let elsewhere = [certificate("issuing-1", 5, &[]), certificate("issuing-2", 4, &[])];
    let mut expired = certificate("issuing-1", 4, &[]);
    expired.not_after = after(-1);
    for record in [&revoked, &abandoned, &good, &expired, &elsewhere[0], &elsewhere[1]] {
        store.commit(reserve(record)).await.unwrap();
    }
    for record in [&revoked, &expired, &elsewhere[0], &elsewhere[1]] {
        store.commit(issue(record)).await.unwrap();
        store.commit(revoke(&record.id)).await.unwrap();
    }
    store.commit(abandon(&abandoned.id)).await.unwrap();
    let found = store.shard_revocations(issuer.clone(), 4, NOW).await.unwrap().revoked;
    let mut serials = vec![revoked.id.serial, abandoned.id.serial];
    serials.sort();
    assert_eq!(found.iter().map(|entry| entry.serial).collect::<Vec<_>>(), serials);
    let entry = found.iter().find(|entry| entry.serial == abandoned.id.serial).unwrap();
    assert_eq!((entry.revocation.at, entry.revocation.reason), (after(3), RevocationReason::Unspecified));
    let at_the_last_moment = store.shard_revocations(issuer, 4, after(-1)).await.unwrap().revoked;
    assert_eq!(at_the_last_moment.len(), 3);
}

pub async fn crl_numbers_only_rise(store: TheStore) {
    let issuer = issuer_id("issuing-1");
    let reserve =
        |number| store.commit(change(Change::ReserveCrl { issuer: issuer.clone(), shard: 1, number }));
    reserve(7).await.unwrap();
    assert_eq!(reserve(7).await, Err(StoreError::Conflict));
    assert_eq!(reserve(6).await, Err(StoreError::Conflict));
    let first = crl("issuing-1", 1, 7);
    store.commit(change(Change::PublishCrl(first.clone()))).await.unwrap();
    assert_eq!(store.commit(change(Change::PublishCrl(first.clone()))).await, Err(StoreError::Conflict));
    reserve(9).await.unwrap();
    let shard = store.shard_revocations(issuer.clone(), 1, NOW).await.unwrap();
    assert_eq!((shard.last_number, shard.previous), (9, Some(first.clone())));
    let second = crl("issuing-1", 1, 9);
    store.commit(change(Change::PublishCrl(second.clone()))).await.unwrap();
    assert_eq!(store.commit(change(Change::PublishCrl(first))).await, Err(StoreError::Conflict));
    assert_eq!(store.crl(issuer.clone(), 1).await, Ok(Some(second.clone())));
    assert_eq!(store.crl(issuer, 2).await, Ok(None));
    let summaries = store.crl_summaries().await.unwrap();
    assert_eq!(summaries.len(), 1);
    assert_eq!((summaries[0].number, summaries[0].entries), (9, second.entries));
}

pub async fn issuers_come_in_order(store: TheStore) {
    for (id, kind, state, seconds) in [
        ("old", IssuerKind::Issuing, IssuerState::Active, 1),
        ("retired", IssuerKind::Issuing, IssuerState::Retired, 9),
        ("new", IssuerKind::Issuing, IssuerState::Active, 2),
        ("root", IssuerKind::Root, IssuerState::Active, 0),
    ] {
        let record = issuer(id, kind, state, after(seconds));
        store.commit(change(Change::PutIssuer(Box::new(record)))).await.unwrap();
    }
    let issuers = store.issuers().await.unwrap();
    let ids: Vec<_> = issuers.iter().map(|issuer| issuer.id.as_str()).collect();
    assert_eq!(ids, ["root", "new", "old", "retired"]);
    assert_eq!(issuers[0].version, Version(1));
}

pub async fn credentials_are_kept(store: TheStore) {
    let mut credential = Credential {
        id: CredentialId::generate(NOW, &mut SystemRandom),
        kind: CredentialKind::Listener { role: Role::Acme },
        public_key: vec![1, 2],
        certificate: None,
        requested_at: NOW,
        version: Version::NEW,
    };
    store.commit(change(Change::PutCredential(credential.clone()))).await.unwrap();
    credential.version = Version(1);
    assert_eq!(store.credential(credential.id).await, Ok(Some(credential.clone())));
    credential.certificate = Some(certificate("issuing-1", 0, &[]).id);
    store.commit(change(Change::PutCredential(credential.clone()))).await.unwrap();
    credential.version = Version(2);
    assert_eq!(store.credential(credential.id).await, Ok(Some(credential.clone())));
    let other_key = Credential { public_key: vec![3], ..credential.clone() };
    let other_kind = Credential { kind: CredentialKind::Listener { role: Role::Crl }, ..credential };
    for redirected in [other_key, other_kind] {
        let refused = store.commit(change(Change::PutCredential(redirected))).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
}

pub async fn effects_are_carried_out_once(store: TheStore) {
    let (order, _) = order(account(NOW).id, &[], NOW);
    let (late, early) = (effect(order.id, after(2)), effect(order.id, after(1)));
    let commit = Commit { effects: vec![late.clone(), early.clone()], ..Commit::default() };
    store.commit(commit.clone()).await.unwrap();
    assert_eq!(store.commit(commit).await, Err(StoreError::Conflict));
    assert_eq!(store.effects(9).await, Ok(vec![early.clone(), late.clone()]));
    assert_eq!(store.effects(1).await, Ok(vec![early.clone()]));
    store.commit(change(Change::EffectDone(early.id))).await.unwrap();
    assert_eq!(store.commit(change(Change::EffectDone(early.id))).await, Err(StoreError::Conflict));
    assert_eq!(store.effects(9).await, Ok(vec![late]));
}

pub async fn blocked_keys_stay_blocked(store: TheStore) {
    let key = KeyHash(random());
    assert_eq!(store.is_key_blocked(key).await, Ok(false));
    for detail in ["reported", "reported again"] {
        let block = Change::BlockKey { key, at: NOW, detail: detail.to_owned() };
        store.commit(change(block)).await.unwrap();
        assert_eq!(store.is_key_blocked(key).await, Ok(true));
    }
}

pub async fn audit_entries_are_dense_and_exact(store: TheStore) {
    assert_eq!(store.newest_event_at().await, Ok(None));
    let events: Vec<AuditEvent> = (0..6).map(|n| event(&format!("key {n}"), after(n))).collect();
    for pair in events.chunks(2) {
        store.commit(Commit { audit: pair.to_vec(), ..Commit::default() }).await.unwrap();
    }
    let stored = store.audit(0, 100).await.unwrap();
    for (index, (entry, event)) in (0..).zip(stored.iter().zip(&events)) {
        assert_eq!(entry, &(index, serde_json::to_vec(event).unwrap()));
    }
    assert_eq!(stored.len(), 6);
    assert_eq!(store.audit(4, 1).await.unwrap(), stored[4..5]);
    assert_eq!(store.audit(6, 10).await, Ok(Vec::new()));
    assert_eq!(store.newest_event_at().await, Ok(Some(after(5))));
}

pub async fn the_newest_event_is_the_latest_not_the_last(store: TheStore) {
    // The clock may be behind between commits and within one.
    for (times, newest) in [(vec![100], 100), (vec![50], 100), (vec![10, 120, 20], 120), (vec![30], 120)] {
        let audit = times.into_iter().map(|at| event("at", after(at))).collect();
        store.commit(Commit { audit, ..Commit::default() }).await.unwrap();
        assert_eq!(store.newest_event_at().await, Ok(Some(after(newest))));
    }
}

pub async fn a_watcher_wakes_on_its_topic(store: TheStore) {
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example.org"], NOW);
    // A first commit, so that a connection that is being made has been made, and wakes nobody any more.
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    let on_order = store.watch(&Topic::Order(order.id));
    let on_authorization = store.watch(&Topic::Authorization(authorizations[0].id));
    let mut on_crls = store.watch(&Topic::Crls);
    let mut next = order.clone();
    next.version = Version(1);
    let mut commit = change(Change::PutOrder(next));
    commit.effects = vec![effect(order.id, NOW)];
    let on_effects = store.watch(&Topic::Effects);
    store.commit(commit).await.unwrap();
    on_order.await;
    on_effects.await;
    let mut authorization = authorizations[0].clone();
    authorization.version = Version(1);
    store.commit(change(Change::PutAuthorization(authorization))).await.unwrap();
    on_authorization.await;
    assert!(timeout(Duration::ZERO, &mut on_crls).await.is_err(), "nobody published a CRL");
    store.commit(change(Change::PublishCrl(crl("issuing-1", 0, 1)))).await.unwrap();
    on_crls.await;
    let record = certificate("issuing-1", 0, &[]);
    store.commit(reserve(&record)).await.unwrap();
    let on_certificate = store.watch(&Topic::Certificate(record.id.clone()));
    store.commit(abandon(&record.id)).await.unwrap();
    on_certificate.await;
}

pub async fn sizes_are_told(store: TheStore) {
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    let sizes = store.sizes().await.unwrap();
    assert!(sizes.store_bytes > 0, "{sizes:?}");
}

pub async fn external_accounts_are_kept_and_their_grants_never_change(store: TheStore) {
    let first = external_account(NOW, Uses::Many);
    let second = external_account(after(1), Uses::Once { account: None });
    for external in [&first, &second] {
        store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    }
    let stored = |external: &ExternalAccount| ExternalAccount { version: Version(1), ..external.clone() };
    assert_eq!(store.external_account(first.id).await, Ok(Some(stored(&first))));
    let page = store.external_accounts(None, 1).await.unwrap();
    assert_eq!((page.rows, page.next), (vec![stored(&second)], Some(second.id)));
    let page = store.external_accounts(Some(second.id), 9).await.unwrap();
    assert_eq!((page.rows, page.next), (vec![stored(&first)], None));

    let mut wider = stored(&first);
    wider.grant.names = None;
    let mut elsewhere = stored(&first);
    elsewhere.directory = "lab".to_owned().try_into().unwrap();
    let mut rekeyed = stored(&first);
    rekeyed.mac_key.ciphertext = vec![1];
    for changed in [wider, elsewhere, rekeyed] {
        let refused = store.commit(change(Change::PutExternalAccount(Box::new(changed)))).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    let revoked = stored(&first).revoked(after(2));
    store.commit(change(Change::PutExternalAccount(Box::new(revoked.clone())))).await.unwrap();
    let found = store.external_account(first.id).await.unwrap().unwrap();
    assert_eq!((found.state, found.version), (revoked.state, Version(2)));
}

pub async fn a_single_use_external_account_binds_one_account(store: TheStore) {
    let external = external_account(NOW, Uses::Once { account: None });
    store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    let accounts = [account(NOW), account(after(1))];
    let (a, b) = tokio::join!(
        store.commit(bind(&external, Version(1), &accounts[0])),
        store.commit(bind(&external, Version(1), &accounts[1])),
    );
    let (winner, loser) = if a.is_ok() { (0, b) } else { (1, a) };
    assert_eq!(loser, Err(StoreError::Conflict));
    // Nor later, by whoever does not say what was read.
    let mut blind = bind(&external, Version(2), &accounts[1 - winner]);
    assert_eq!(store.commit(blind.clone()).await, Err(StoreError::Conflict));
    blind.expected_versions.clear();
    assert_eq!(store.commit(blind).await, Err(StoreError::Conflict));
    let stored = store.external_account(external.id).await.unwrap().unwrap();
    assert_eq!(stored.uses, Uses::Once { account: Some(accounts[winner].id) });
    let page = store.bound_accounts(external.id, None, 9).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [accounts[winner].id]);
}

pub async fn a_revoked_external_account_binds_nothing(store: TheStore) {
    let external = external_account(NOW, Uses::Many);
    let missing = store.commit(bind(&external, Version::NEW, &account(NOW))).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))), "{missing:?}");
    store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    store.commit(bind(&external, Version(1), &account(NOW))).await.unwrap();
    let stored = store.external_account(external.id).await.unwrap().unwrap();
    assert_eq!(
        stored.version,
        Version(1),
        "binding one of many changes nothing, so that they do not collide"
    );
    store.commit(change(Change::PutExternalAccount(Box::new(stored.revoked(after(1)))))).await.unwrap();
    for version in [Version(1), Version(2)] {
        let refused = store.commit(bind(&external, version, &account(NOW))).await;
        assert_eq!(refused, Err(StoreError::Conflict));
    }
}

pub async fn what_an_account_is_bound_to_never_changes(store: TheStore) {
    let (one, other) =
        (external_account(NOW, Uses::Many), external_account(NOW, Uses::Once { account: None }));
    for external in [&one, &other] {
        store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    }
    let account = account(NOW);
    store.commit(bind(&one, Version(1), &account)).await.unwrap();
    let stored = store.account(account.id).await.unwrap().unwrap();
    assert_eq!(stored.external_account, bound(&one, &account).external_account);
    for changed in [bound(&other, &stored), Account { external_account: None, ..stored.clone() }] {
        let refused = store.commit(change(Change::PutAccount(changed))).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    let ended = stored.deactivated(after(1));
    store.commit(change(Change::PutAccount(ended))).await.unwrap();
    // An account can't say that it is bound to what was for one account and has not bound it, or is elsewhere.
    let stranger = crate::fixtures::account(NOW);
    let refused = store.commit(change(Change::PutAccount(bound(&other, &stranger)))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let elsewhere = Account { directory: "lab".to_owned().try_into().unwrap(), ..stranger };
    let refused = store.commit(change(Change::PutAccount(bound(&one, &elsewhere)))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

pub async fn bound_accounts_are_listed_newest_first(store: TheStore) {
    let external = external_account(NOW, Uses::Many);
    store.commit(change(Change::PutExternalAccount(Box::new(external.clone())))).await.unwrap();
    store.commit(change(Change::PutAccount(account(NOW)))).await.unwrap();
    let mut ids = Vec::new();
    for second in 0..5 {
        let account = account(after(second));
        store.commit(bind(&external, Version(1), &account)).await.unwrap();
        ids.insert(0, account.id);
    }
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let page = store.bound_accounts(external.id, next, 2).await.unwrap();
        found.extend(page.rows.iter().map(|row| row.id));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(found, ids);
}

pub async fn trusted_authorizations_are_found_and_count_as_valid(store: TheStore) {
    let account = account(NOW);
    let external = external_account(NOW, Uses::Many);
    let mut trusted = authorization(account.id, "a.example.org", NOW);
    trusted.state = AuthorizationState::Trusted { at: NOW, external_account: external.id };
    let mut proven = authorization(account.id, "a.example.org", after(1));
    proven.state = AuthorizationState::Valid { validated_at: NOW, by: ChallengeType::Dns01 };
    let pending = authorization(account.id, "a.example.org", after(2));
    for row in [&trusted, &proven, &pending] {
        store.commit(change(Change::PutAuthorization(row.clone()))).await.unwrap();
    }
    let ids = |rows: Vec<Authorization>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let valid = store.valid_authorizations(account.id, name("a.example.org")).await.unwrap();
    assert_eq!(ids(valid), [proven.id, trusted.id], "newest first");
    let found = store.trusted_authorizations(account.id, 9).await.unwrap();
    assert_eq!(ids(found.clone()), [trusted.id]);
    store.commit(change(Change::PutAuthorization(found[0].revoked(after(3))))).await.unwrap();
    assert_eq!(store.trusted_authorizations(account.id, 9).await, Ok(Vec::new()));
    assert_eq!(
        ids(store.valid_authorizations(account.id, name("a.example.org")).await.unwrap()),
        [proven.id]
    );
}

pub async fn a_sealing_key_stays_until_it_is_forgotten(store: TheStore) {
    let key = SealingKeyRecord {
        role: Role::Acme,
        public_key: random::<32>().to_vec(),
        created_at: NOW,
        version: Version::NEW,
    };
    assert_eq!(store.sealing_key(Role::Acme).await, Ok(None));
    store.commit(change(Change::PutSealingKey(key.clone()))).await.unwrap();
    let stored = SealingKeyRecord { version: Version(1), ..key.clone() };
    assert_eq!(store.sealing_key(Role::Acme).await, Ok(Some(stored.clone())));
    assert_eq!(store.sealing_key(Role::Ocsp).await, Ok(None));
    let other = SealingKeyRecord { public_key: random::<32>().to_vec(), ..key };
    assert_eq!(store.commit(change(Change::PutSealingKey(other.clone()))).await, Err(StoreError::Conflict));
    let replacing = SealingKeyRecord { version: Version(1), ..other.clone() };
    let refused = store.commit(change(Change::PutSealingKey(replacing))).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    assert_eq!(store.sealing_key(Role::Acme).await, Ok(Some(stored)));
    store.commit(change(Change::ForgetSealingKey(Role::Acme))).await.unwrap();
    store.commit(change(Change::PutSealingKey(other.clone()))).await.unwrap();
    let published = store.sealing_key(Role::Acme).await.unwrap().unwrap();
    assert_eq!(published.public_key, other.public_key);
}

pub async fn a_certificate_is_replaced_by_the_order_that_was_first(store: TheStore) {
    let account = account(after(0));
    let (one, ones) = order(account.id, &["a.example"], after(1));
    let (other, others) = order(account.id, &["a.example"], after(2));
    let certificate = certificate("issuing-1", 0, &["a.example"]).id;
    assert_eq!(store.replacement(certificate.clone()).await.unwrap(), None);
    let mark = |order: OrderId, version| {
        Change::PutReplacement(Replacement { certificate: certificate.clone(), order, version })
    };
    let mut commit = put_order(&one, &ones);
    commit.changes.push(mark(one.id, Version::NEW));
    store.commit(commit).await.unwrap();
    let mut late = put_order(&other, &others);
    late.changes.push(mark(other.id, Version::NEW));
    assert_eq!(store.commit(late).await, Err(StoreError::Conflict));
    assert_eq!(store.order(other.id).await.unwrap(), None, "nothing of it is there");
    let stored = store.replacement(certificate.clone()).await.unwrap().unwrap();
    assert_eq!((stored.order, stored.version), (one.id, Version(1)));
    // Who has read what is there may mark it anew.
    let mut again = put_order(&other, &others);
    again.changes.push(mark(other.id, stored.version));
    store.commit(again).await.unwrap();
    assert_eq!(store.replacement(certificate.clone()).await.unwrap().unwrap().order, other.id);
}

pub async fn orders_are_found_when_their_next_certificate_is_due(store: TheStore) {
    let account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    let newest = "issuing-1-0a1b2c".parse::<CertificateId>().unwrap();
    let renewing = |next_at| {
        let (csr, certificate) = (vec![1], newest.clone());
        OrderState::Renewing(Box::new(Renewing { csr, certificate, first: after(0), index: 0, next_at }))
    };
    let mut orders = Vec::new();
    for (made, next_at) in [(0, Some(after(20))), (1, Some(after(10))), (2, None), (3, Some(after(30)))] {
        let (mut order, authorizations) = order(account.id, &["a.example"], after(made));
        order.state = renewing(next_at);
        store.commit(put_order(&order, &authorizations)).await.unwrap();
        order.version = Version(1);
        orders.push(order);
    }
    let due = async |by, limit| store.orders_to_renew(by, limit).await.unwrap();
    assert_eq!(due(after(9), 10).await, []);
    assert_eq!(due(after(20), 10).await, [orders[1].clone(), orders[0].clone()], "due longest first");
    assert_eq!(due(after(99), 1).await, [orders[1].clone()]);
    let mut canceled = orders[1].clone();
    canceled.state = OrderState::Canceled { certificate: newest.clone(), at: after(11) };
    store.commit(change(Change::PutOrder(canceled))).await.unwrap();
    assert_eq!(due(after(20), 10).await, [orders[0].clone()]);
    let counts = store.order_counts().await.unwrap();
    let count = |state: &str| counts.iter().find(|(name, _)| name == state).unwrap().1;
    assert_eq!((count("renewing"), count("valid")), (3, 1));
    let kept = store.commit(change(Change::Prune(Prune::Orders(vec![(orders[0].id, Version(1))])))).await;
    assert!(matches!(kept, Err(StoreError::Refused(_))), "{kept:?}");
}

pub async fn renewal_pulls_are_listed_until_they_are_removed(store: TheStore) {
    let pull = |at| RenewalPull {
        id: RenewalPullId::generate(at, &mut SystemRandom),
        scope: PullScope::Issuer(issuer_id("issuing-1")),
        issued_before: at,
        start: at,
        end: at.plus(Duration::from_hours(1)),
        explanation_url: None,
        created_at: at,
        version: Version::NEW,
    };
    let (old, new) = (pull(after(0)), pull(after(1)));
    let woken = store.watch(&Topic::RenewalPulls);
    for pull in [&old, &new] {
        store.commit(change(Change::PutRenewalPull(Box::new(pull.clone())))).await.unwrap();
    }
    timeout(Duration::from_secs(10), woken).await.unwrap();
    let ids = |pulls: Vec<RenewalPull>| pulls.iter().map(|pull| pull.id).collect::<Vec<_>>();
    assert_eq!(ids(store.renewal_pulls().await.unwrap()), [new.id, old.id]);
    let woken = store.watch(&Topic::RenewalPulls);
    store.commit(change(Change::RemoveRenewalPull(old.id))).await.unwrap();
    timeout(Duration::from_secs(10), woken).await.unwrap();
    assert_eq!(ids(store.renewal_pulls().await.unwrap()), [new.id]);
    let gone = store.commit(change(Change::RemoveRenewalPull(old.id))).await;
    assert_eq!(gone, Err(StoreError::Conflict));
}

pub async fn what_renewal_is_decided_by_comes_from_one_row(store: TheStore) {
    let record = certificate("issuing-1", 0, &["a.example", "b.example"]);
    assert_eq!(store.certificate_facts(record.id.clone()).await.unwrap(), None);
    store.commit(reserve(&record)).await.unwrap();
    store.commit(issue(&record)).await.unwrap();
    let facts = store.certificate_facts(record.id.clone()).await.unwrap().unwrap();
    let whole = store.certificate(record.id.clone()).await.unwrap().unwrap();
    assert_eq!((&facts.id, facts.state), (&whole.id, whole.state));
    assert_eq!((&facts.profile, &facts.names), (&whole.profile, &whole.names));
    assert_eq!((facts.not_before, facts.not_after), (whole.not_before, whole.not_after));
    assert_eq!(facts.reserved_at, whole.reserved_at);
    let account = match whole.origin {
        Origin::Order { account, .. } => Some(account),
        Origin::Credential(_) | Origin::Issuer(_) => None,
    };
    assert_eq!(facts.account, account);
}

pub async fn what_was_ordered_never_changes(store: TheStore) {
    let account = account(NOW);
    let (order, authorizations) = order(account.id, &["a.example"], NOW);
    let agreed = AutoRenewal {
        start: None,
        end: after(86_400),
        lifetime_seconds: 3600,
        adjust_seconds: 1800,
        certificate_get: false,
    };
    let mut order = Order { auto_renewal: Some(agreed), ..order };
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    order.version = Version(1);
    let validity = RequestedValidity { not_after: Some(after(60)), ..order.validity };
    let elsewhere = "lab".to_owned().try_into().unwrap();
    let prolonged = Some(AutoRenewal { end: after(2 * 86_400), ..agreed });
    let replaced = certificate("issuing-1", 0, &[]).id;
    let named = RenewalId { key_identifier: vec![1; 20], serial: replaced.serial };
    let predecessor = Predecessor { certificate: replaced, named, as_asked: false };
    for changed in [
        Order { account: crate::fixtures::account(NOW).id, ..order.clone() },
        Order { directory: elsewhere, ..order.clone() },
        Order { identifiers: vec![name("b.example")], ..order.clone() },
        Order { profile: "tls-client".to_owned().try_into().unwrap(), ..order.clone() },
        Order { validity, ..order.clone() },
        Order { replaces: Some(predecessor), ..order.clone() },
        Order { auto_renewal: prolonged, ..order.clone() },
        Order { auto_renewal: None, ..order.clone() },
        Order { created_at: after(1), ..order.clone() },
    ] {
        let refused = store.commit(change(Change::PutOrder(changed))).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    let annotated = Order { expires_at: after(7), authorizations: Vec::new(), ..order };
    store.commit(change(Change::PutOrder(annotated))).await.unwrap();
}

pub async fn what_has_ended_is_never_revived(store: TheStore) {
    let refused = async |revived: Change| {
        let refused = store.commit(change(revived)).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    };
    let mut account = account(NOW);
    store.commit(change(Change::PutAccount(account.clone()))).await.unwrap();
    account.version = Version(1);
    let elsewhere = "lab".to_owned().try_into().unwrap();
    refused(Change::PutAccount(Account { directory: elsewhere, ..account.clone() })).await;
    store.commit(change(Change::PutAccount(account.deactivated(after(1))))).await.unwrap();
    account.version = Version(2);
    refused(Change::PutAccount(account.clone())).await;

    let (mut order, mut authorizations) = order(account.id, &["a.example"], NOW);
    store.commit(put_order(&order, &authorizations)).await.unwrap();
    let mut authorization = authorizations.remove(0);
    authorization.version = Version(1);
    refused(Change::PutAuthorization(Authorization { subdomains: true, ..authorization.clone() })).await;
    store.commit(change(Change::PutAuthorization(authorization.revoked(after(1))))).await.unwrap();
    authorization.version = Version(2);
    refused(Change::PutAuthorization(authorization)).await;

    order.version = Version(1);
    order.state = OrderState::Processing { csr: vec![1] };
    store.commit(change(Change::PutOrder(order.clone()))).await.unwrap();
    order.version = Version(2);
    refused(Change::PutOrder(Order { state: OrderState::Open, ..order.clone() })).await;
    refused(Change::PutOrder(Order { state: OrderState::Processing { csr: vec![2] }, ..order })).await;
}
