//! Reads for limits, pauses and pruning. A damaged row is left out: what can't be read is not deleted.

use ca_core::acme::pause::{Failing, PairId};
use ca_core::acme::rate_limit::{ArrivalTime, Bucket};
use ca_core::acme::{Account, Authorization, Order};
use ca_core::id::{AccountId, AuthorizationId, Id, OrderId};
use ca_core::store::{Commits, Page, StoreResult, UpkeepReads};
use ca_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::SharedStore;
use super::damage::{Damage, ahead};
use super::reads::{one_more, page, row_id};
use super::row::{Document, Outcome, document, read_document};
use super::upkeep::{first_at, holds_authorizations, pair_value, read_bucket};

/// Documents whose ids lie above `after` and that were made before a time, oldest first: those of the next `limit` rows
/// that `condition` admits, and where these rows end if others follow.
///
/// The end is found in the index of ids, so that a read is short however few rows the condition admits.
fn made_before<D: Document>(
    connection: &Connection,
    damage: &Damage,
    time: Timestamp,
    after: Option<Id>,
    limit: u32,
    condition: &str,
) -> Outcome<Page<D, Id>> {
    let (from, to) = (after.map_or([0; 16], |id| *id.as_bytes()), first_at(time));
    let table = D::TABLE;
    let sql = format!("SELECT id FROM {table} WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT 1 OFFSET ?3");
    let last = i64::from(limit.max(1)) - 1;
    let end = connection
        .prepare_cached(&sql)?
        .query_row(params![from, to, last], |row| row.get::<_, [u8; 16]>(0))
        .optional()?;
    // Ids up to the last row looked at, or all that there are before the time.
    let (comparison, bound) = end.map_or(("<", to), |end| ("<=", end));
    let sql = format!(
        "SELECT {} FROM {table} WHERE id > ?1 AND id {comparison} ?2 {condition} ORDER BY id LIMIT ?3",
        D::COLUMNS
    );
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let rows = damage.around(connection, &sql, params![from, bound, ahead(most)], most, read_document)?;
    Ok(Page { rows, next: end.map(Id::from_bytes) })
}

fn paged<T, K>(page: Page<T, Id>, key: impl FnOnce(Id) -> K) -> Page<T, K> {
    Page { rows: page.rows, next: page.next.map(key) }
}

impl<C: Commits> UpkeepReads for SharedStore<C> {
    fn failing(&self, id: PairId) -> StoreResult<'_, Option<Failing>> {
        self.read(move |connection| document(connection, pair_value(id)))
    }

    fn failing_pairs(
        &self,
        account: Option<AccountId>,
        only_paused: bool,
        after: Option<PairId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Failing, PairId>> {
        self.read_list(move |connection, damage| {
            let mut values = vec![Value::Blob(after.map_or(Vec::new(), |after| after.0.to_vec()))];
            let mut conditions = "id > ?1".to_owned();
            if let Some(account) = account {
                values.push(Value::Blob(account.0.as_bytes().to_vec()));
                conditions.push_str(" AND account = ?2");
            }
            if only_paused {
                conditions.push_str(" AND paused = 1");
            }
            values.push(Value::Integer(ahead(one_more(limit))));
            let sql = format!(
                "SELECT {} FROM failing WHERE {conditions} ORDER BY id LIMIT ?{}",
                Failing::COLUMNS,
                values.len()
            );
            let parameters = params_from_iter(values);
            let rows = damage.around(connection, &sql, parameters, one_more(limit), read_document)?;
            Ok(page(rows, limit, Failing::id))
        })
    }

    fn orders_made_before(
        &self,
        time: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Order, OrderId>> {
        self.read_list(move |connection, damage| {
            let without_certificate = "AND state NOT IN ('valid', 'renewing')";
            let after = after.map(|id| id.0);
            Ok(paged(made_before(connection, damage, time, after, limit, without_certificate)?, OrderId))
        })
    }

    fn authorizations_made_before(
        &self,
        time: Timestamp,
        after: Option<AuthorizationId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Authorization, AuthorizationId>> {
        self.read_list(move |connection, damage| {
            let after = after.map(|id| id.0);
            Ok(paged(made_before(connection, damage, time, after, limit, "")?, AuthorizationId))
        })
    }

    fn unused_accounts_made_before(
        &self,
        time: Timestamp,
        after: Option<AccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Account, AccountId>> {
        self.read_list(move |connection, damage| {
            let from = after.map_or([0; 16], |id| *id.0.as_bytes());
            let sql = "SELECT account FROM unused_accounts WHERE account > ?1 AND account < ?2 \
                       ORDER BY account LIMIT ?3";
            let parameters = params![from, first_at(time), ahead(one_more(limit))];
            let id = |row: &rusqlite::Row<'_>| row_id(row, "unused_accounts").map(AccountId);
            let ids = damage.around(connection, sql, parameters, one_more(limit), id)?;
            let ids = page(ids, limit, |id| *id);
            let sql = format!("SELECT {} FROM accounts WHERE id = ?1 LIMIT ?2", Account::COLUMNS);
            let mut rows = Vec::with_capacity(ids.rows.len());
            for id in &ids.rows {
                // It proved something, and is not deleted: the log of what was deleted does not count it.
                if holds_authorizations(connection, *id)? {
                    continue;
                }
                let parameters = params![id.0.as_bytes(), ahead(1)];
                rows.extend(damage.around(connection, &sql, parameters, 1, read_document::<Account>)?);
            }
            Ok(Page { rows, next: ids.next })
        })
    }

    fn idle_buckets(
        &self,
        until: ArrivalTime,
        after: Option<Bucket>,
        limit: u32,
    ) -> StoreResult<'_, Page<Bucket, Bucket>> {
        self.read_list(move |connection, damage| {
            let sql = "SELECT bucket, arrival, hash FROM limit_buckets \
                       WHERE bucket > ?1 AND arrival <= ?2 ORDER BY bucket LIMIT ?3";
            let from = after.map_or(Vec::new(), |after| after.0.to_vec());
            let limited = one_more(limit);
            let parameters = params![from, until.0, ahead(limited)];
            let bucket = |row: &rusqlite::Row<'_>| read_bucket(row).map(|(bucket, _)| bucket);
            let rows = damage.around(connection, sql, parameters, limited, bucket)?;
            Ok(page(rows, limit, |bucket| *bucket))
        })
    }
}
