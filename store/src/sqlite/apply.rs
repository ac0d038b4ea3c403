//! One commit's changes as SQL, inside a transaction that the caller holds.

use ca_core::acme::{Account, Authorization, Order};
use ca_core::pkix::public_key::sha256;
use ca_core::store::{Change, Commit, Credential, CrlRecord, Effect, IssuerRecord, Row, StoreError, Version};
use rusqlite::types::Value;
use rusqlite::{Connection, params, params_from_iter};

use super::audit::append;
use super::certificates::{Shard, Transition, reserve, transition};
use super::row::{
    Document, Outcome, add_to_counter, check_hash, conflict_on_constraint, describe, document, first,
    id_value, order_state, put_document, signed, stored_version, to_json, unsigned, with_hash,
};

/// Applies a whole commit.
pub(super) fn apply(connection: &Connection, commit: Commit) -> Outcome<()> {
    for (row, expected) in &commit.expected_versions {
        if version_of(connection, row)? != *expected {
            return Err(StoreError::Conflict.into());
        }
    }
    for change in commit.changes {
        apply_change(connection, change)?;
    }
    for effect in &commit.effects {
        add_effect(connection, effect)?;
    }
    append(connection, &commit.audit)
}

fn version_of(connection: &Connection, row: &Row) -> Outcome<Version> {
    match row {
        Row::Account(id) => stored_version::<Account>(connection, id_value(id.0)),
        Row::Order(id) => stored_version::<Order>(connection, id_value(id.0)),
        Row::Authorization(id) => stored_version::<Authorization>(connection, id_value(id.0)),
        Row::Issuer(id) => stored_version::<IssuerRecord>(connection, Value::Text(id.as_str().to_owned())),
        Row::Credential(id) => stored_version::<Credential>(connection, id_value(id.0)),
    }
}

fn apply_change(connection: &Connection, change: Change) -> Outcome<()> {
    match change {
        Change::PutAccount(account) => put_document(connection, account),
        Change::PutOrder(order) => put_order(connection, order),
        Change::PutAuthorization(authorization) => put_authorization(connection, authorization),
        Change::ReserveCertificate(record) => reserve(connection, &record),
        Change::IssueCertificate { id, der, at } => {
            transition(connection, &id, Transition::Issue { der: &der, at })
        }
        Change::AbandonCertificate { id, at } => transition(connection, &id, Transition::Abandon { at }),
        Change::RevokeCertificate { id, revocation } => {
            transition(connection, &id, Transition::Revoke(revocation))
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

/// Puts an order and keeps the count of orders by state.
fn put_order(connection: &Connection, order: Order) -> Outcome<()> {
    let next = order_state(&order.state);
    let before = if order.version == Version::NEW {
        None
    } else {
        document::<Order>(connection, order.id())?.filter(|stored| {
            // A version that is behind is a conflict, found below.
            stored.version == order.version
        })
    };
    if before.as_ref().is_some_and(|before| before.account != order.account) {
        return Err(immutable::<Order>(&order, "account"));
    }
    put_document(connection, order)?;
    let before = before.map(|before| order_state(&before.state));
    if before != Some(next) {
        if let Some(before) = before {
            add_to_counter(connection, &format!("orders.{before}"), -1)?;
        }
        add_to_counter(connection, &format!("orders.{next}"), 1)?;
    }
    Ok(())
}

/// Puts an authorization; whose it is and what it is about never change.
fn put_authorization(connection: &Connection, authorization: Authorization) -> Outcome<()> {
    if authorization.version != Version::NEW
        && let Some(stored) = document::<Authorization>(connection, authorization.id())?
        && (stored.account, &stored.identifier, stored.wildcard)
            != (authorization.account, &authorization.identifier, authorization.wildcard)
    {
        return Err(immutable(&authorization, "account and identifier"));
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

fn immutable<D: Document>(document: &D, what: &str) -> super::row::Failure {
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
