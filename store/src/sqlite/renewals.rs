//! What belongs to renewal: which order replaces a certificate, operators' wishes that some be renewed sooner, and orders
//! whose certificates are renewed automatically.

use ca_core::acme::{Order, RenewalPull, Replacement};
use ca_core::id::RenewalPullId;
use ca_core::store::{CertificateId, StoreError};
use ca_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

use super::damage::{Damage, ahead};
use super::row::{Document, Outcome, document, id_value, put_document, read_document};

/// A certificate's key in `replacements`.
pub(super) fn replaced(id: &CertificateId) -> Value {
    Value::Text(id.to_string())
}

/// Marks a certificate as replaced. Its version is what lets one of two orders win that came at the same time.
pub(super) fn put_replacement(connection: &Connection, replacement: Replacement) -> Outcome<()> {
    put_document(connection, replacement)
}

pub(super) fn put_pull(connection: &Connection, pull: RenewalPull) -> Outcome<()> {
    put_document(connection, pull)
}

pub(super) fn remove_pull(connection: &Connection, id: RenewalPullId) -> Outcome<()> {
    let removed =
        connection.prepare_cached("DELETE FROM renewal_pulls WHERE id = ?1")?.execute([id_value(id.0)])?;
    if removed == 1 { Ok(()) } else { Err(StoreError::Conflict.into()) }
}

pub(super) fn replacement(connection: &Connection, id: &CertificateId) -> Outcome<Option<Replacement>> {
    document(connection, replaced(id))
}

/// Every wish, newest first.
pub(super) fn pulls(connection: &Connection, damage: &Damage) -> Outcome<Vec<RenewalPull>> {
    let sql = format!("SELECT {} FROM renewal_pulls ORDER BY id DESC", RenewalPull::COLUMNS);
    damage.around(connection, &sql, [], usize::MAX, read_document)
}

fn due_sql() -> String {
    let next_at = "CASE WHEN json_valid(body) THEN json_extract(body, '$.state.next_at') END";
    let columns = Order::COLUMNS;
    format!(
        "SELECT {columns} FROM orders WHERE state = 'renewing' AND {next_at} <= ?1 ORDER BY {next_at} LIMIT ?2"
    )
}

/// Orders of which a certificate was due by a time, those due longest first; found by the index `orders_renewing`, whose
/// words the conditions repeat.
pub(super) fn due(
    connection: &Connection,
    damage: &Damage,
    due_by: Timestamp,
    limit: u32,
) -> Outcome<Vec<Order>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    damage.around(connection, &due_sql(), params![due_by.as_millis(), ahead(limit)], limit, read_document)
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use crate::permissions::Sharing;

    #[test]
    fn what_is_due_is_found_by_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(dir.path(), Sharing::Private, None).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", super::due_sql());
        let mut statement = connection.prepare(&sql).unwrap();
        let plan = statement.query_map([0, 1], |row| row.get(3)).unwrap();
        let plan: Vec<String> = plan.map(Result::unwrap).collect();
        assert!(plan.len() == 1 && plan[0].contains("USING INDEX orders_renewing (<expr><?)"), "{plan:?}");
    }
}
