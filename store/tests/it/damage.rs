//! What changed behind the store's back is found when it is read, and named.

use ca_core::acme::account::Thumbprint;
use ca_core::acme::{Account, Authorization, AuthorizationState, ChallengeState, ChallengeType, Order};
use ca_core::id::CredentialId;
use ca_core::pkix::public_key::KeyHash;
use ca_core::random::SystemRandom;
use ca_core::store::{
    CertificateFilter, CertificateId, Change, Commit, Credential, CredentialKind, IssuerKind, IssuerState,
    Role, Store, StoreError, Version,
};

use store::sqlite::{WriterOptions, check_copy};

use crate::fixtures::*;

/// What was stored, and is about to be damaged.
struct Stored {
    direct: Direct,
    store: std::sync::Arc<dyn Store>,
    account: Account,
    order: Order,
    authorization: Authorization,
    credential: CredentialId,
    certificate: CertificateId,
    key: KeyHash,
}

impl Stored {
    async fn new() -> Self {
        // What is known from memory is not read from the file.
        let direct = Direct::open_with(WriterOptions { recent_rows: 0, ..options() });
        let store = direct.as_store();
        let account = account(NOW);
        let (order, mut authorizations) = order(account.id, &["a.example.org"], NOW);
        authorizations[0].state = AuthorizationState::Valid { validated_at: NOW, by: ChallengeType::Dns01 };
        let credential = Credential {
            id: CredentialId::generate(NOW, &mut SystemRandom),
            kind: CredentialKind::Listener { role: Role::Acme },
            public_key: vec![1],
            certificate: None,
            requested_at: NOW,
            version: Version::NEW,
        };
        let record = certificate("issuing-1", 2, &["a.example.org"]);
        let key = KeyHash(random());
        let mut commit = put_order(&order, &authorizations);
        commit.changes.extend([
            Change::PutAccount(account.clone()),
            Change::PutCredential(credential.clone()),
            Change::PutIssuer(Box::new(issuer("issuing-1", IssuerKind::Issuing, IssuerState::Active, NOW))),
            Change::ReserveCrl { issuer: issuer_id("issuing-1"), shard: 2, number: 5 },
            Change::PublishCrl(crl("issuing-1", 2, 5)),
            Change::BlockKey { key, at: NOW, detail: "weak".to_owned() },
        ]);
        commit.effects = vec![effect(order.id, NOW)];
        commit.audit = (0..4).map(|n| event(&n.to_string(), after(n))).collect();
        for commit in [commit, reserve(&record), issue(&record), revoke(&record.id)] {
            store.commit(commit).await.unwrap();
        }
        let authorization = authorizations.remove(0);
        Self {
            direct,
            store,
            account,
            order,
            authorization,
            credential: credential.id,
            certificate: record.id,
            key,
        }
    }

    fn damage(&self, sql: &str) {
        let raw = rusqlite::Connection::open(self.direct.dir.path().join("store.db")).unwrap();
        raw.pragma_update(None, "foreign_keys", false).unwrap();
        assert!(raw.execute(sql, []).unwrap() > 0, "{sql} changed nothing");
    }

    /// Every read that ought to see the damage in a table; all succeed before.
    async fn read(&self, table: &str) -> Result<(), StoreError> {
        let store = &self.store;
        let issuer = issuer_id("issuing-1");
        let id = self.certificate.clone();
        match table {
            "accounts" => store.account(self.account.id).await.map(drop),
            "orders" => store.order(self.order.id).await.map(drop),
            "authorizations" => store.authorization(self.authorization.id).await.map(drop),
            "issuers" => store.issuers().await.map(drop),
            "credentials" => store.credential(self.credential).await.map(drop),
            "certificates" => store.certificate_status(id).await.map(drop),
            "certificate_der" => store.certificate(id).await.map(drop),
            "crl_shards" => store.shard_revocations(issuer, 2, NOW).await.map(drop),
            "crls" => store.crl(issuer, 2).await.map(drop),
            "blocked_keys" => store.is_key_blocked(self.key).await.map(drop),
            "audit" => store.audit(0, 9).await.map(drop),
            "counters" => store.order_counts().await.map(drop),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn every_changed_column_is_found() {
    for (table, sql) in [
        ("accounts", "UPDATE accounts SET body = replace(body, 'someone', 'another')"),
        ("accounts", "UPDATE accounts SET state = 'revoked'"),
        ("accounts", "UPDATE accounts SET version = 7"),
        ("orders", "UPDATE orders SET body = replace(body, 'open', 'failed')"),
        ("orders", "UPDATE orders SET account = zeroblob(16)"),
        ("orders", "DELETE FROM authorizations"),
        ("authorizations", "UPDATE authorizations SET identifier = 'dns:bank.example.org'"),
        ("authorizations", "UPDATE authorizations SET hash = zeroblob(16)"),
        ("issuers", "UPDATE issuers SET body = replace(body, 'issuing-1', 'issuing-9')"),
        ("credentials", "UPDATE credentials SET body = body || ' '"),
        ("certificates", "UPDATE certificates SET state = 'issued'"),
        ("certificates", "UPDATE certificates SET ended_at = ended_at + 1"),
        ("certificates", "UPDATE certificates SET reason = NULL"),
        ("certificates", "UPDATE certificates SET not_after = 0"),
        ("certificates", "UPDATE certificates SET revision = 1000"),
        ("certificates", "UPDATE certificates SET names = '[]'"),
        ("certificate_der", "UPDATE certificate_der SET tbs = x'30'"),
        ("certificate_der", "UPDATE certificate_der SET der = x'30'"),
        ("certificate_der", "UPDATE certificate_der SET der = NULL"),
        ("certificate_der", "DELETE FROM certificate_der"),
        ("crl_shards", "UPDATE crl_shards SET last_number = 1"),
        ("crl_shards", "DELETE FROM crl_shards"),
        ("crl_shards", "DELETE FROM certificates"),
        ("crl_shards", "UPDATE certificates SET state = 'issued'"),
        ("crl_shards", "UPDATE certificates SET shard = 3"),
        ("crls", "UPDATE crls SET der = x'30'"),
        ("crls", "UPDATE crls SET number = 6"),
        ("blocked_keys", "UPDATE blocked_keys SET detail = 'fine'"),
        ("audit", "UPDATE audit SET entry = x'7b7d' WHERE position = 1"),
        ("audit", "UPDATE audit SET leaf_hash = zeroblob(32) WHERE position = 1"),
        ("audit", "DELETE FROM audit WHERE position = 1"),
        ("audit", "DELETE FROM audit WHERE position = 3"),
        ("audit", "DELETE FROM audit"),
        ("counters", "UPDATE counters SET value = value + 1"),
    ] {
        let stored = Stored::new().await;
        stored.read(table).await.unwrap_or_else(|error| panic!("{table} before the damage: {error}"));
        stored.damage(sql);
        match stored.read(table).await {
            Err(StoreError::Corrupt(_)) => {}
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_check_of_a_copy_finds_and_names_what_was_changed() {
    // What is damaged, and what the finding says of where.
    for (sql, place) in [
        ("UPDATE certificates SET state = 'issued'", "table certificates, row issuing-1-"),
        ("UPDATE certificates SET state = 'issued'", "table crl_shards, row issuing-1/2"),
        ("UPDATE certificates SET number = 2", "table certificate"),
        ("DELETE FROM certificates", "table counters, row revision"),
        ("UPDATE certificate_der SET der = x'30'", "table certificate_der, row issuing-1-"),
        ("DELETE FROM certificate_names", "table certificate_names, row issuing-1-"),
        ("DELETE FROM crl_shards", "table crl_shards, row issuing-1/2"),
        ("UPDATE crl_shards SET last_number = 1", "table crl_shards, row issuing-1"),
        ("UPDATE crls SET der = x'30'", "table crls, row issuing-1/2"),
        ("UPDATE audit SET entry = x'7b7d' WHERE position = 1", "table audit, row 1:"),
        ("UPDATE audit SET leaf_hash = zeroblob(32) WHERE position = 2", "table audit, row 2:"),
        ("DELETE FROM audit WHERE position = 1", "table audit, row 1:"),
        ("DELETE FROM audit WHERE position = 3", "table audit, row 3:"),
        ("DELETE FROM audit", "table audit, row 0:"),
        ("DELETE FROM orders", "table counters, row orders.open"),
        ("UPDATE accounts SET version = 7", "table accounts, row "),
        ("UPDATE orders SET account = zeroblob(16)", "table orders, row "),
        ("UPDATE authorizations SET state = 'valid ' ", "table authorizations, row "),
        ("UPDATE issuers SET version = 9", "table issuers, row issuing-1:"),
        ("UPDATE credentials SET body = body || ' '", "table credentials, row "),
        ("UPDATE blocked_keys SET detail = 'fine'", "table blocked_keys, row "),
        ("UPDATE effects SET body = body || ' '", "table effects, row "),
        ("UPDATE counters SET value = 1 WHERE name = 'audit.newest'", "table counters, row audit.newest"),
    ] {
        let stored = Stored::new().await;
        let scratch = tempfile::tempdir().unwrap();
        let check = || check_copy(stored.direct.dir.path(), scratch.path());
        assert_eq!(check(), Ok(()), "before {sql}");
        stored.damage(sql);
        match check() {
            Err(StoreError::Corrupt(text)) => assert!(text.contains(place), "{sql}: {text}"),
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn the_check_of_a_copy_tells_of_a_few_faults_and_of_a_lost_table() {
    let stored = Stored::new().await;
    stored.damage("UPDATE audit SET entry = x'7b7d'");
    stored.damage("UPDATE counters SET value = value + 1");
    let scratch = tempfile::tempdir().unwrap();
    let check = || check_copy(stored.direct.dir.path(), scratch.path());
    let Err(StoreError::Corrupt(text)) = check() else { panic!() };
    assert_eq!(text.split("; ").count(), 5, "{text}");

    let stored = Stored::new().await;
    let raw = rusqlite::Connection::open(stored.direct.dir.path().join("store.db")).unwrap();
    raw.execute_batch("DROP TABLE blocked_keys").unwrap();
    let Err(StoreError::Corrupt(text)) = check_copy(stored.direct.dir.path(), scratch.path()) else {
        panic!()
    };
    assert!(text.contains("blocked_keys"), "{text}");
}

#[tokio::test]
async fn the_error_names_table_and_row() {
    let stored = Stored::new().await;
    stored.damage("UPDATE accounts SET state = 'revoked'");
    stored.damage("UPDATE certificates SET state = 'issued'");
    let Err(StoreError::Corrupt(text)) = stored.read("accounts").await else { panic!() };
    assert!(text.contains("accounts") && text.contains(&stored.account.id.to_string()), "{text}");
    let Err(StoreError::Corrupt(text)) = stored.read("certificates").await else { panic!() };
    assert!(text.contains("certificates") && text.contains(&stored.certificate.to_string()), "{text}");
}

#[tokio::test]
async fn a_damaged_certificate_is_not_changed_further() {
    let stored = Stored::new().await;
    // Back to reserved, as if to have another certificate issued under the serial.
    stored.damage(
        "UPDATE certificates SET state = 'reserved', issued_at = NULL, ended_at = NULL, reason = NULL",
    );
    let result = stored.store.commit(abandon(&stored.certificate)).await;
    assert!(matches!(result, Err(StoreError::Corrupt(_))), "{result:?}");
}

#[tokio::test]
async fn an_emptied_end_of_the_log_is_found_before_signing() {
    let stored = Stored::new().await;
    assert_eq!(stored.store.newest_event_at().await, Ok(Some(after(3))));
    stored.damage("DELETE FROM audit WHERE position = 3");
    assert!(matches!(stored.store.newest_event_at().await, Err(StoreError::Corrupt(_))));
    let more = Commit { audit: vec![event("later", after(9))], ..Commit::default() };
    stored.store.commit(more).await.unwrap();
    assert!(matches!(stored.store.audit(0, 100).await, Err(StoreError::Corrupt(_))), "the gap stays visible");
}

/// A store with three of everything that is listed, the one in the middle to be damaged.
struct Three {
    stored: Stored,
    store: std::sync::Arc<dyn Store>,
}

impl Three {
    async fn new() -> Self {
        let stored = Stored::new().await;
        let store = stored.store.clone();
        for n in 1..3 {
            let account = Account { thumbprint: Thumbprint(random()), ..account(after(n)) };
            let (ready, mut authorizations) = order(stored.account.id, &["a.example.org"], after(n));
            authorizations[0].state =
                AuthorizationState::Valid { validated_at: NOW, by: ChallengeType::Dns01 };
            let (waiting, mut processing) = order(stored.account.id, &["b.example.org"], after(n));
            processing[0].challenges[0].state = ChallengeState::Processing { accepted_at: NOW };
            let mut commit = put_order(&ready, &authorizations);
            commit.changes.extend(put_order(&waiting, &processing).changes);
            let shard = u32::try_from(n).unwrap() + 2;
            commit.changes.extend([
                Change::PutAccount(account),
                Change::ReserveCrl { issuer: issuer_id("issuing-1"), shard, number: 5 },
                Change::PublishCrl(crl("issuing-1", shard, 5)),
            ]);
            commit.effects = vec![effect(ready.id, after(n))];
            store.commit(commit).await.unwrap();
            store.commit(reserve(&certificate("issuing-1", 2, &["a.example.org"]))).await.unwrap();
        }
        Self { stored, store }
    }
}

/// How many rows each list holds.
async fn lists(three: &Three) -> Vec<(&'static str, usize)> {
    let Three { stored, store } = three;
    let named = CertificateFilter { name: Some(name("a.example.org")), ..CertificateFilter::default() };
    vec![
        ("accounts", store.accounts(None, 9).await.unwrap().rows.len()),
        ("orders", store.orders(None, 9).await.unwrap().rows.len()),
        ("processing", store.authorizations_processing(9).await.unwrap().len()),
        ("valid", store.valid_authorizations(stored.account.id, name("a.example.org")).await.unwrap().len()),
        ("certificates", store.certificates(CertificateFilter::default(), None, 9).await.unwrap().rows.len()),
        ("certificates by name", store.certificates(named, None, 9).await.unwrap().rows.len()),
        ("reserved", store.reserved_certificates(9).await.unwrap().len()),
        ("crls", store.crl_summaries().await.unwrap().len()),
        ("effects", store.effects(9).await.unwrap().len()),
    ]
}

#[tokio::test]
async fn a_damaged_row_is_left_out_of_lists_that_can_do_without_it() {
    for (sql, hit) in [
        ("UPDATE accounts SET state = 'x' WHERE id = (SELECT max(id) FROM accounts)", vec!["accounts"]),
        ("UPDATE orders SET state = 'x' WHERE id = (SELECT max(id) FROM orders)", vec!["orders"]),
        (
            "UPDATE authorizations SET version = 9 WHERE id = (SELECT min(id) FROM authorizations WHERE processing = 1)",
            vec!["processing"],
        ),
        (
            "UPDATE authorizations SET version = 9 WHERE id = (SELECT min(id) FROM authorizations WHERE state = 'valid')",
            vec!["valid"],
        ),
        (
            "UPDATE certificates SET profile = 'x' WHERE number = 2",
            vec!["certificates", "certificates by name", "reserved"],
        ),
        (
            "UPDATE certificate_der SET tbs = x'30' WHERE number = 3",
            vec!["certificates", "certificates by name", "reserved"],
        ),
        ("UPDATE crls SET number = 6 WHERE shard = 3", vec!["crls"]),
        ("UPDATE effects SET body = body || ' ' WHERE id = (SELECT min(id) FROM effects)", vec!["effects"]),
    ] {
        let three = Three::new().await;
        let before = lists(&three).await;
        three.stored.damage(sql);
        for ((list, before), (_, after)) in before.into_iter().zip(lists(&three).await) {
            let lost = usize::from(hit.contains(&list));
            assert_eq!(after, before - lost, "{list} after {sql}");
        }
        let scratch = tempfile::tempdir().unwrap();
        let found = check_copy(three.stored.direct.dir.path(), scratch.path());
        assert!(matches!(found, Err(StoreError::Corrupt(_))), "{sql} is still found: {found:?}");
    }
}

#[tokio::test]
async fn an_index_entry_of_another_certificate_is_left_out_of_the_list_by_name() {
    let three = Three::new().await;
    three.stored.damage("UPDATE certificate_names SET name = 'dns:b.example.org' WHERE number = 2");
    let filter = CertificateFilter { name: Some(name("b.example.org")), ..CertificateFilter::default() };
    assert_eq!(three.store.certificates(filter, None, 9).await.unwrap().rows, []);
}

#[tokio::test]
async fn effects_behind_more_damaged_ones_than_are_asked_for_are_carried_out() {
    let three = Three::new().await;
    let all = three.store.effects(9).await.unwrap();
    let sql = "UPDATE effects SET hash = zeroblob(16) WHERE id < (SELECT max(id) FROM effects)";
    three.stored.damage(sql);
    assert_eq!(three.store.effects(1).await.unwrap(), all[2..]);
    // It can be ended like any other.
    let done = Commit { changes: vec![Change::EffectDone(all[2].id)], ..Commit::default() };
    three.store.commit(done).await.unwrap();
    assert_eq!(three.store.effects(1).await.unwrap(), []);
}

#[tokio::test]
async fn pages_lead_past_a_damaged_row_and_miss_no_other() {
    let three = Three::new().await;
    let all = three.store.orders(None, 9).await.unwrap().rows;
    three.stored.damage(&format!(
        "UPDATE orders SET version = 9 WHERE id = x'{}'",
        ca_core::id::to_hex(all[1].id.0.as_bytes())
    ));
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = three.store.orders(after, 1).await.unwrap();
        seen.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, [&all[..1], &all[2..]].concat());
}

#[tokio::test]
async fn lists_that_are_wrong_without_a_row_fail_as_a_whole() {
    for (table, sql) in [
        ("issuers", "UPDATE issuers SET version = 9"),
        ("crl_shards", "UPDATE certificates SET profile = 'x' WHERE number = 1"),
        ("audit", "UPDATE audit SET entry = x'7b7d' WHERE position = 1"),
    ] {
        let three = Three::new().await;
        three.stored.damage(sql);
        assert!(matches!(three.stored.read(table).await, Err(StoreError::Corrupt(_))), "{sql}");
        let changes = three.store.changes_since(issuer_id("issuing-1"), 0, 9).await;
        assert_eq!(changes.is_err(), table == "crl_shards", "{sql}: {changes:?}");
    }
}
