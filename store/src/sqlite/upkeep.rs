//! Rate limits, bounds and pauses as a commit asks for them, and the deletion of dead rows.

use ca_core::acme::pause::{Failing, PairId};
use ca_core::acme::rate_limit::{ArrivalTime, Bound, Bucket, Claim};
use ca_core::acme::{Account, AccountState, Authorization, Order, OrderState};
use ca_core::id::{AccountId, Id};
use ca_core::store::{Prune, StoreError, Version};
use ca_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::external_accounts;
use super::row::{
    Counters, Document, Outcome, check_hash, document, first, id_value, order_counter, put_document,
    stored_version, with_hash,
};

/// Counts against a rate limit.
pub(super) fn claim(connection: &Connection, claim: &Claim) -> Outcome<()> {
    let sql = "SELECT bucket, arrival, hash FROM limit_buckets WHERE bucket = ?1";
    let stored =
        first(connection, sql, [claim.bucket.0], |row| read_bucket(row).map(|(_, arrival)| arrival))?;
    let next = claim.judge(stored).map_err(|refusal| StoreError::Limited(Box::new(refusal)))?;
    if let Some(next) = next {
        let values = vec![Value::Blob(claim.bucket.0.to_vec()), Value::Integer(next.0)];
        connection
            .prepare_cached("INSERT OR REPLACE INTO limit_buckets VALUES (?1, ?2, ?3)")?
            .execute(params_from_iter(with_hash("limit_buckets", values)))?;
    }
    Ok(())
}

/// Reads a row of `bucket, arrival, hash`.
pub(super) fn read_bucket(row: &Row<'_>) -> Outcome<(Bucket, ArrivalTime)> {
    check_hash("limit_buckets", row, 0, 2)?;
    Ok((Bucket(row.get(0)?), ArrivalTime(row.get(1)?)))
}

/// Goes on only within a bound.
pub(super) fn require_bound(connection: &Connection, bound: &Bound) -> Outcome<()> {
    let fine = match bound {
        Bound::UnusedAccounts { below } => {
            let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM unused_accounts LIMIT ?1)";
            let count: u32 = connection.prepare_cached(sql)?.query_row([below], |row| row.get(0))?;
            count < *below
        }
        Bound::PendingAuthorizations { account, made_after, adding, most } => {
            let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM authorizations \
                       WHERE account = ?1 AND state = 'pending' AND id > ?2 LIMIT ?3)";
            let parameters = params![account.0.as_bytes(), first_at(*made_after), most];
            let count: u32 = connection.prepare_cached(sql)?.query_row(parameters, |row| row.get(0))?;
            count.saturating_add(*adding) <= *most
        }
    };
    if fine { Ok(()) } else { Err(StoreError::Bounded(bound.name().to_owned()).into()) }
}

/// Not above any id that was made at this time or later, and above every one that was made before.
pub(super) fn first_at(time: Timestamp) -> [u8; 16] {
    *Id::first_at(time).as_bytes()
}

/// Goes on only if none of these pairs is paused.
pub(super) fn require_unpaused(connection: &Connection, pairs: &[PairId]) -> Outcome<()> {
    for pair in pairs {
        let failing = document::<Failing>(connection, pair_value(*pair))?;
        if failing.is_some_and(|failing| failing.paused_at.is_some()) {
            return Err(StoreError::Paused(*pair).into());
        }
    }
    Ok(())
}

/// A pair's id as a column.
pub(super) fn pair_value(pair: PairId) -> Value {
    Value::Blob(pair.0.to_vec())
}

/// Forgets a pair's failures.
pub(super) fn forget_failing(connection: &Connection, pair: PairId) -> Outcome<()> {
    delete::<Failing>(connection, pair_value(pair))
}

/// Puts an account. A new one that is bound to nothing is unused until it places an order, or ends.
pub(super) fn put_account(connection: &Connection, account: Account) -> Outcome<()> {
    let ended = account.state != AccountState::Valid;
    let unused = account.version == Version::NEW && account.external_account.is_none();
    let (id, own) = (account.id(), account.id);
    external_accounts::put_account(connection, account)?;
    if ended {
        account_is_used(connection, own)?;
    } else if unused {
        connection.prepare_cached("INSERT OR IGNORE INTO unused_accounts VALUES (?1)")?.execute([id])?;
    }
    Ok(())
}

/// An account has placed an order, or has ended: it is never again unused.
pub(super) fn account_is_used(connection: &Connection, account: AccountId) -> Outcome<()> {
    let sql = "DELETE FROM unused_accounts WHERE account = ?1";
    connection.prepare_cached(sql)?.execute([account.0.as_bytes()])?;
    Ok(())
}

fn delete<D: Document>(connection: &Connection, id: Value) -> Outcome<()> {
    connection.prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", D::TABLE))?.execute([id])?;
    Ok(())
}

/// Deletes dead rows.
pub(super) fn prune(connection: &Connection, counters: &mut Counters, prune: &Prune) -> Outcome<()> {
    match prune {
        Prune::Orders(orders) => {
            for (id, version) in orders {
                let Some(order) = document::<Order>(connection, id_value(id.0))? else { continue };
                expect(order.version, *version)?;
                if !matches!(order.state, OrderState::Open | OrderState::Failed { .. }) {
                    let what = format!("order {id} is not dead: it has a certificate, or waits for one");
                    return Err(StoreError::Refused(what).into());
                }
                delete::<Order>(connection, id_value(id.0))?;
                counters.add(connection, order_counter(&order.state), -1)?;
            }
            Ok(())
        }
        Prune::Authorizations(rows) => {
            prune_documents::<Authorization>(connection, rows.iter().map(|(id, version)| (id.0, *version)))
        }
        Prune::Accounts(accounts) => {
            for (id, version) in accounts {
                // It stays, and the others go all the same.
                if holds_authorizations(connection, *id)? {
                    continue;
                }
                let sql = "DELETE FROM unused_accounts WHERE account = ?1";
                let removed = connection.prepare_cached(sql)?.execute([id.0.as_bytes()])?;
                // One that is gone from there has placed an order meanwhile, or was deleted.
                if removed == 1 {
                    prune_documents::<Account>(connection, [(id.0, *version)])?;
                } else if stored_version::<Account>(connection, id_value(id.0))? != Version::NEW {
                    return Err(StoreError::Conflict.into());
                }
            }
            Ok(())
        }
        Prune::Failing(rows) => {
            for (pair, version) in rows {
                let stored = stored_version::<Failing>(connection, pair_value(*pair))?;
                if stored != Version::NEW {
                    expect(stored, *version)?;
                    forget_failing(connection, *pair)?;
                }
            }
            Ok(())
        }
        Prune::Buckets { buckets, until } => {
            for bucket in buckets {
                connection
                    .prepare_cached("DELETE FROM limit_buckets WHERE bucket = ?1 AND arrival <= ?2")?
                    .execute(params![bucket.0, until.0])?;
            }
            Ok(())
        }
    }
}

/// Whether an account has authorizations that may be good for something; one by one, so that each is found by its index.
pub(super) fn holds_authorizations(connection: &Connection, account: AccountId) -> Outcome<bool> {
    for state in ["pending", "valid", "trusted"] {
        let sql = format!("SELECT 1 FROM authorizations WHERE account = ?1 AND state = '{state}' LIMIT 1");
        if connection.prepare_cached(&sql)?.exists([account.0.as_bytes()])? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn prune_documents<D: Document>(
    connection: &Connection,
    rows: impl IntoIterator<Item = (Id, Version)>,
) -> Outcome<()> {
    for (id, version) in rows {
        let stored = stored_version::<D>(connection, id_value(id))?;
        if stored != Version::NEW {
            expect(stored, version)?;
            delete::<D>(connection, id_value(id))?;
        }
    }
    Ok(())
}

fn expect(stored: Version, expected: Version) -> Outcome<()> {
    if stored == expected { Ok(()) } else { Err(StoreError::Conflict.into()) }
}

/// Puts the count of a pair's failures; whose and of what it is never changes, since both are in its id.
pub(super) fn put_failing(connection: &Connection, failing: Failing) -> Outcome<()> {
    put_document(connection, failing)
}
