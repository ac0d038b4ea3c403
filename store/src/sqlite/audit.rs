//! The audit log's table: entries appended at the next index, and the latest time that was ever logged.

use ca_core::audit::{AuditEvent, leaf_hash};
use ca_core::store::StoreError;
use ca_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use serde::Deserialize;

use super::row::{
    Counters, Outcome, check_hash, corrupt, counter, first, stored_counter, to_json, unsigned, with_hash,
};

/// The counter of entries.
pub(super) const COUNT: &str = "audit";

/// The counter that holds the latest time of any entry, in milliseconds since 1970. It never falls: a clock that runs
/// behind goes on appending older times, and what the log's last entry says would make a restart forget the newer.
pub(super) const NEWEST: &str = "audit.newest";

/// Appends events at the next indexes.
pub(super) fn append(connection: &Connection, counters: &mut Counters, events: &[AuditEvent]) -> Outcome<()> {
    let Ok(count) = i64::try_from(events.len()) else {
        return Err(StoreError::Refused("too many audit events".to_owned()).into());
    };
    let Some(latest) = events.iter().map(|event| event.at).max() else {
        return Ok(());
    };
    let before = match counters.value(connection, NEWEST)? {
        Some(newest) => Some(Timestamp::from_millis(newest)),
        None => newest(connection)?,
    };
    let newest = before.map_or(latest, |before| before.max(latest));
    counters.set(connection, NEWEST, newest.as_millis())?;
    let first = counters.add(connection, COUNT, count)? - count;
    for (index, event) in (first..).zip(events) {
        let entry = to_json(event)?.into_bytes();
        let leaf = leaf_hash(&entry).to_vec();
        let values = vec![Value::Integer(index), Value::Blob(entry), Value::Blob(leaf)];
        connection
            .prepare_cached("INSERT INTO audit VALUES (?1, ?2, ?3, ?4)")?
            .execute(params_from_iter(with_hash("audit", values)))?;
    }
    Ok(())
}

/// The latest time of any entry; `None` if there are none.
pub(super) fn newest(connection: &Connection) -> Outcome<Option<Timestamp>> {
    if let Some(newest) = stored_counter(connection, NEWEST)? {
        return Ok(Some(Timestamp::from_millis(newest)));
    }
    // A store from before the counter was kept, or one whose row was taken away: the entries themselves know.
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM audit"))?;
    let mut rows = statement.query([])?;
    let mut newest = None;
    while let Some(row) = rows.next()? {
        newest = newest.max(Some(read_time(row)?));
    }
    Ok(newest)
}

/// The latest time of any entry, with the end of the log checked: it has as many entries as were counted, and none at
/// its end is newer than the latest.
pub(super) fn checked_newest(connection: &Connection) -> Outcome<Option<Timestamp>> {
    let sql = format!("SELECT {COLUMNS} FROM audit ORDER BY position DESC LIMIT 1");
    let last = first(connection, &sql, [], |row| Ok((read_entry(row)?.0, read_time(row)?)))?;
    let counted = unsigned("counters", counter(connection, COUNT)?)?;
    if last.map_or(0, |(index, _)| index + 1) != counted {
        return Err(corrupt("audit", &counted.to_string(), "entries at the end are gone"));
    }
    let newest = newest(connection)?;
    if last.map(|(_, at)| at) > newest {
        return Err(corrupt("counters", NEWEST, "an entry of the log is newer"));
    }
    Ok(newest)
}

/// The columns that [`read_entry`] and [`read_time`] read.
pub(super) const COLUMNS: &str = "position, entry, leaf_hash, hash";

/// One entry, index and exact bytes, checked against its hashes.
pub(super) fn read_entry(row: &Row<'_>) -> Outcome<(u64, Vec<u8>)> {
    check_hash("audit", row, 0, 3)?;
    let (index, entry, leaf): (i64, Vec<u8>, [u8; 32]) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if leaf_hash(&entry) != leaf {
        return Err(corrupt("audit", &index.to_string(), "does not match its leaf hash"));
    }
    Ok((unsigned("audit", index)?, entry))
}

/// When an entry happened, hashes checked.
pub(super) fn read_time(row: &Row<'_>) -> Outcome<Timestamp> {
    #[derive(Deserialize)]
    struct Time {
        at: Timestamp,
    }
    let (index, entry) = read_entry(row)?;
    let time: Time = serde_json::from_slice(&entry)
        .map_err(|error| corrupt("audit", &index.to_string(), &format!("can't be read: {error}")))?;
    Ok(time.at)
}
