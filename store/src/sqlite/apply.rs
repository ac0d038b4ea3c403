//! One commit's changes as SQL, inside a transaction that the caller holds.

use std::sync::Arc;

use ca_core::acme::{Account, Authorization, ExternalAccount, Order};
use ca_core::pkix::public_key::sha256;
use ca_core::store::{
    CertificateRecord, CertificateState, Change, Commit, Credential, CrlRecord, Effect, IssuerRecord, Row,
    StoreError, Version,
};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::audit::append;
use super::certificates::{REVISION, Shard, Transition, reserve, transition};
use super::recent::{Recent, Written};
use super::row::{
    Counters, Document, Failure, Outcome, check_hash, conflict_on_constraint, describe, document, first,
    id_value, order_counter, put_document, signed, stored_version, to_json, unsigned, with_hash,
};
use super::upkeep;
use super::{external_accounts, renewals};

/// What the commits of one transaction have in common.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    /// What rows were before, for those that are known.
    pub(super) recent: &'a Recent,
    pub(super) counters: Counters,
    /// The rows to be known from then on.
    pub(super) written: Vec<Written>,
}

/// Applies a whole commit.
pub(super) fn apply(transaction: &mut Transaction<'_>, commit: Commit) -> Outcome<()> {
    let connection = transaction.connection;
    for (row, expected) in &commit.expected_versions {
        if version_of(connection, row)? != *expected {
            return Err(StoreError::Conflict.into());
        }
    }
    for change in commit.changes {
        transaction.written.extend(Written::of(&change));
        apply_change(transaction, change)?;
    }
    for effect in &commit.effects {
        add_effect(connection, effect)?;
    }
    append(connection, &mut transaction.counters, &commit.audit)
}

fn version_of(connection: &Connection, row: &Row) -> Outcome<Version> {
    match row {
        Row::Account(id) => stored_version::<Account>(connection, id_value(id.0)),
        Row::Order(id) => stored_version::<Order>(connection, id_value(id.0)),
        Row::Authorization(id) => stored_version::<Authorization>(connection, id_value(id.0)),
        Row::Issuer(id) => stored_version::<IssuerRecord>(connection, Value::Text(id.as_str().to_owned())),
        Row::Credential(id) => stored_version::<Credential>(connection, id_value(id.0)),
        Row::ExternalAccount(id) => stored_version::<ExternalAccount>(connection, id_value(id.0)),
    }
}

fn apply_change(transaction: &mut Transaction<'_>, change: Change) -> Outcome<()> {
    let connection = transaction.connection;
    let counters = &mut transaction.counters;
    match change {
        Change::PutAccount(account) => upkeep::put_account(connection, account),
        Change::PutOrder(order) => put_order(transaction, order),
        Change::PutAuthorization(authorization) => put_authorization(transaction, authorization),
        Change::PutExternalAccount(external) => {
            external_accounts::put_external_account(connection, *external)
        }
        Change::BindExternalAccount { id, account } => external_accounts::bind(connection, id, account),
        Change::PutSealingKey(key) => external_accounts::put_sealing_key(connection, key),
        Change::ForgetSealingKey(role) => external_accounts::forget_sealing_key(connection, role),
        Change::ReserveCertificate(record) => {
            reserve(connection, counters, &record)?;
            remember_certificate(transaction, *record)
        }
        Change::IssueCertificate { id, der, at } => {
            transition(connection, counters, &id, Transition::Issue { der: &der, at })?;
            match transaction.recent.certificate(&id).map(Arc::unwrap_or_clone) {
                Some(reserved) => remember_certificate(
                    transaction,
                    CertificateRecord { state: CertificateState::Issued { at }, der: Some(der), ..reserved },
                ),
                None => Ok(()),
            }
        }
        Change::AbandonCertificate { id, at } => {
            transition(connection, counters, &id, Transition::Abandon { at })
        }
        Change::RevokeCertificate { id, revocation } => {
            transition(connection, counters, &id, Transition::Revoke(revocation))
        }
        Change::PutIssuer(issuer) => put_document(connection, *issuer),
        Change::ReserveCrl { issuer, shard, number } => {
            let mut stored = Shard::load(connection, issuer.as_str(), shard)?;
            if number <= stored.last_number {
                return Err(StoreError::Conflict.into());
            }
            stored.last_number = number;
            stored.save(connection, issuer.as_str(), shard)
        }
        Change::PublishCrl(crl) => publish_crl(connection, crl),
        Change::PutCredential(credential) => put_credential(connection, credential),
        Change::PutReplacement(replacement) => renewals::put_replacement(connection, replacement),
        Change::PutRenewalPull(pull) => renewals::put_pull(connection, *pull),
        Change::RemoveRenewalPull(id) => renewals::remove_pull(connection, id),
        Change::Claim(claim) => upkeep::claim(connection, &claim),
        Change::RequireBound(bound) => upkeep::require_bound(connection, &bound),
        Change::RequireUnpaused(pairs) => upkeep::require_unpaused(connection, &pairs),
        Change::PutFailing(failing) => upkeep::put_failing(connection, *failing),
        Change::ForgetFailing(pair) => upkeep::forget_failing(connection, pair),
        Change::Prune(prune) => upkeep::prune(connection, counters, &prune),
        Change::BlockKey { key, at, detail } => {
            let values =
                vec![Value::Blob(key.0.to_vec()), Value::Integer(at.as_millis()), Value::Text(detail)];
            connection
                .prepare_cached("INSERT OR IGNORE INTO blocked_keys VALUES (?1, ?2, ?3, ?4)")?
                .execute(params_from_iter(with_hash("blocked_keys", values)))?;
            Ok(())
        }
        Change::EffectDone(id) => {
            let removed =
                connection.prepare_cached("DELETE FROM effects WHERE id = ?1")?.execute([id_value(id.0)])?;
            if removed == 1 { Ok(()) } else { Err(StoreError::Conflict.into()) }
        }
    }
}

/// What a certificate is after the change that was just made to it.
fn remember_certificate(transaction: &mut Transaction<'_>, mut record: CertificateRecord) -> Outcome<()> {
    if let Some(revision) = transaction.counters.value(transaction.connection, REVISION)? {
        record.revision = unsigned("counters", revision)?;
        transaction.written.push(Written::Certificate(record.id.clone(), Some(Arc::new(record))));
    }
    Ok(())
}

/// Puts an order and keeps the count of orders by state.
fn put_order(transaction: &mut Transaction<'_>, order: Order) -> Outcome<()> {
    let connection = transaction.connection;
    let before = match order.version {
        Version::NEW => None,
        version => match transaction.recent.order(order.id).filter(|known| known.version == version) {
            Some(known) => Some(known),
            // A version that is behind is a conflict, found below.
            None => document::<Order>(connection, order.id())?
                .filter(|stored| stored.version == version)
                .map(Arc::new),
        },
    };
    if let Some(before) = &before {
        require_same_request(before, &order)?;
        if !before.state.may_become(&order.state) {
            return Err(backwards(&order));
        }
    }
    if order.version == Version::NEW {
        upkeep::account_is_used(connection, order.account)?;
    }
    let next = order_counter(&order.state);
    put_document(connection, order)?;
    let before = before.map(|before| order_counter(&before.state));
    if before != Some(next) {
        if let Some(before) = before {
            transaction.counters.add(connection, before, -1)?;
        }
        transaction.counters.add(connection, next, 1)?;
    }
    Ok(())
}

/// What was asked for with an order never changes: a front end could otherwise redirect or prolong what `ca` renews.
fn require_same_request(before: &Order, next: &Order) -> Outcome<()> {
    let what = if before.account != next.account {
        "account"
    } else if before.directory != next.directory {
        "directory"
    } else if before.identifiers != next.identifiers {
        "identifiers"
    } else if before.profile != next.profile {
        "profile"
    } else if before.validity != next.validity {
        "validity"
    } else if before.replaces != next.replaces {
        "replaces"
    } else if before.auto_renewal != next.auto_renewal {
        "auto_renewal"
    } else if before.created_at != next.created_at {
        "created_at"
    } else {
        return Ok(());
    };
    Err(immutable(next, what))
}

/// Puts an authorization; whose it is and what it is about never change.
fn put_authorization(transaction: &mut Transaction<'_>, authorization: Authorization) -> Outcome<()> {
    let connection = transaction.connection;
    if authorization.version != Version::NEW {
        let known = transaction.recent.authorization(authorization.id);
        let before = match known.filter(|known| known.version == authorization.version) {
            Some(known) => Some(known),
            None => document::<Authorization>(connection, authorization.id())?.map(Arc::new),
        };
        // A version that is behind is a conflict, found below.
        if let Some(before) = before.filter(|before| before.version == authorization.version) {
            let about =
                |row: &Authorization| (row.account, row.identifier.clone(), row.wildcard, row.subdomains);
            if about(&before) != about(&authorization) {
                return Err(immutable(&authorization, "account and identifier"));
            }
            if !before.state.may_become(authorization.state) {
                return Err(backwards(&authorization));
            }
        }
    }
    put_document(connection, authorization)
}

/// Puts a role's wish; what it is for and for which key never change, or one role could redirect another's.
fn put_credential(connection: &Connection, credential: Credential) -> Outcome<()> {
    if credential.version != Version::NEW
        && let Some(stored) = document::<Credential>(connection, credential.id())?
        && (&stored.kind, &stored.public_key) != (&credential.kind, &credential.public_key)
    {
        return Err(immutable(&credential, "kind and key"));
    }
    put_document(connection, credential)
}

/// A state that this row can't come to from the one it has.
pub(super) fn backwards<D: Document>(document: &D) -> Failure {
    let id = document.id();
    StoreError::Refused(format!("{} {} can't take this state any more", D::TABLE, describe((&id).into())))
        .into()
}

pub(super) fn immutable<D: Document>(document: &D, what: &str) -> Failure {
    let id = document.id();
    StoreError::Refused(format!("{what} of {} {} never change", D::TABLE, describe((&id).into()))).into()
}

/// A CRL row's columns up to its hash; the DER is covered through `der_hash`.
pub(super) fn publish_crl(connection: &Connection, crl: CrlRecord) -> Outcome<()> {
    let sql = "SELECT issuer, shard, number, this_update, next_update, entries, der_hash, hash FROM crls \
               WHERE issuer = ?1 AND shard = ?2";
    let newest = first(connection, sql, params![crl.issuer.as_str(), crl.shard], |row| {
        check_hash("crls", row, 0, 7)?;
        unsigned("crls", row.get(2)?)
    })?;
    if newest.is_some_and(|newest| crl.number <= newest) {
        return Err(StoreError::Conflict.into());
    }
    let mut shard = Shard::load(connection, crl.issuer.as_str(), crl.shard)?;
    if shard.last_number < crl.number {
        shard.last_number = crl.number;
        shard.save(connection, crl.issuer.as_str(), crl.shard)?;
    }
    let mut values = with_hash(
        "crls",
        vec![
            Value::Text(crl.issuer.as_str().to_owned()),
            Value::Integer(i64::from(crl.shard)),
            Value::Integer(signed(crl.number)?),
            Value::Integer(crl.this_update.as_millis()),
            Value::Integer(crl.next_update.as_millis()),
            Value::Integer(signed(crl.entries)?),
            Value::Blob(sha256(&crl.der).to_vec()),
        ],
    );
    values.push(Value::Blob(crl.der));
    connection
        .prepare_cached("INSERT OR REPLACE INTO crls VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .execute(params_from_iter(values))?;
    Ok(())
}

fn add_effect(connection: &Connection, effect: &Effect) -> Outcome<()> {
    let values = vec![id_value(effect.id.0), Value::Text(to_json(&effect.kind)?)];
    conflict_on_constraint(
        connection
            .prepare_cached("INSERT INTO effects VALUES (?1, ?2, ?3)")?
            .execute(params_from_iter(with_hash("effects", values))),
    )?;
    Ok(())
}
