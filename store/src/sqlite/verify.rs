//! Every row against its hash and every count against its rows, one row in memory at a time.

use ca_core::store::StoreError;
use rusqlite::{Connection, ErrorCode, Row, params};

use super::audit;
use super::certificates::{Shard, name_key, read_record, select_records};
use super::reads::{read_crl_record, select_crls};
use super::row::{Failure, ORDER_STATES, Outcome, check_hash, corrupt, counter};

/// Tables of which nothing but the hash of each row is checked. `certificates`, `crls` and `audit` are read whole.
const HASHED: [&str; 15] = [
    "accounts",
    "orders",
    "authorizations",
    "issuers",
    "credentials",
    "external_accounts",
    "sealing_keys",
    "replacements",
    "renewal_pulls",
    "limit_buckets",
    "failing",
    "crl_shards",
    "blocked_keys",
    "effects",
    "counters",
];

/// What was found, up to a number of faults.
pub(super) struct Faults {
    pub(super) found: Vec<String>,
    most: usize,
}

impl Faults {
    pub(super) const fn new(most: usize) -> Self {
        Self { found: Vec::new(), most }
    }

    const fn is_full(&self) -> bool {
        self.found.len() >= self.most
    }

    /// Keeps a fault of the data; any other failure is returned.
    fn note(&mut self, what: &str, failure: Failure) -> Outcome<()> {
        let fault = match failure {
            Failure::Store(StoreError::Corrupt(fault)) => fault,
            // SQLITE_ERROR: the statement does not fit the schema, so a table or a column is gone.
            Failure::Engine(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
                ) =>
            {
                format!("{what}: {error}")
            }
            other => return Err(other),
        };
        if !self.is_full() {
            self.found.push(fault);
        }
        Ok(())
    }
}

/// Verifies all that the store's own hashes and counts say of its rows.
///
/// # Errors
/// Only what kept it from looking; faults of the data go to `faults`.
pub(super) fn verify(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    type Check = fn(&Connection, &mut Faults) -> Outcome<()>;
    let checks: [(&str, Check); 6] = [
        ("table certificates", certificates),
        ("table crl_shards", shards),
        ("table audit", log),
        ("table crls", crls),
        ("table orders", order_counts),
        ("table certificate_names", names),
    ];
    for (what, check) in checks {
        if let Err(failure) = check(connection, faults) {
            faults.note(what, failure)?;
        }
    }
    for table in HASHED {
        let sql = format!("SELECT * FROM {table}");
        if let Err(failure) = each(connection, &sql, faults, |row| hash(table, row)) {
            faults.note(table, failure)?;
        }
    }
    Ok(())
}

/// Visits the rows of a query until there are faults enough.
fn each(
    connection: &Connection,
    sql: &str,
    faults: &mut Faults,
    mut visit: impl FnMut(&Row<'_>) -> Outcome<()>,
) -> Outcome<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while !faults.is_full() {
        let Some(row) = rows.next()? else { break };
        if let Err(failure) = visit(row) {
            faults.note(sql, failure)?;
        }
    }
    Ok(())
}

/// The hash stands last and covers what stands before it.
fn hash(table: &str, row: &Row<'_>) -> Outcome<()> {
    check_hash(table, row, 0, row.as_ref().column_count().saturating_sub(1))
}

/// Certificates with their DER, and that none was taken away: their numbers are dense from 1, and each change of one
/// took a revision.
fn certificates(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    let mut next = 1;
    let mut revisions = 0;
    each(connection, &select_records("", "ORDER BY c.number"), faults, |row| {
        let number: i64 = row.get(0)?;
        let expected = std::mem::replace(&mut next, number.saturating_add(1));
        revisions += match row.get_ref(3)?.as_bytes() {
            Ok(b"reserved") => 1,
            Ok(b"issued" | b"abandoned") => 2,
            _ => 3,
        };
        let (_, record) = read_record(row)?;
        if number != expected {
            return Err(corrupt("certificates", &expected.to_string(), "rows from this number on are gone"));
        }
        for name in record.names.iter().map(name_key) {
            let there = connection
                .prepare_cached("SELECT 1 FROM certificate_names WHERE name = ?1 AND number = ?2")?
                .exists(params![name, number])?;
            if !there {
                return Err(corrupt("certificate_names", &record.id.to_string(), &format!("{name} is gone")));
            }
        }
        Ok(())
    })?;
    let counted = counter(connection, "revision")?;
    if !faults.is_full() && counted != revisions {
        let what = format!("{counted} changes of certificates were counted, and {revisions} are there");
        return Err(corrupt("counters", "revision", &what));
    }
    Ok(())
}

/// The index of names has no entry without its certificate.
fn names(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    let sql = "SELECT n.name, n.number FROM certificate_names n \
               WHERE NOT EXISTS (SELECT 1 FROM certificates c WHERE c.number = n.number)";
    each(connection, sql, faults, |row| {
        Err(corrupt("certificate_names", &row.get::<_, String>(0)?, "names a certificate that is gone"))
    })
}

/// What was counted as revoked in each shard is there.
fn shards(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    let sql = "SELECT issuer, shard FROM crl_shards \
               UNION SELECT issuer, shard FROM certificates WHERE state IN ('revoked', 'abandoned')";
    each(connection, sql, faults, |row| {
        let issuer: String = row.get(0)?;
        Shard::load_counted(connection, &issuer, row.get(1)?).map(drop)
    })
}

/// The log is dense from 0 to its count, each entry matches its leaf hash, and none is newer than the newest.
fn log(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    let mut next = 0;
    let mut newest = None;
    let sql = format!("SELECT {} FROM audit ORDER BY position", audit::COLUMNS);
    each(connection, &sql, faults, |row| {
        let position: i64 = row.get(0)?;
        let expected = std::mem::replace(&mut next, position.saturating_add(1));
        newest = newest.max(Some(audit::read_time(row)?));
        if position == expected {
            return Ok(());
        }
        Err(corrupt("audit", &expected.to_string(), "entries from this index on are gone"))
    })?;
    if faults.is_full() {
        return Ok(());
    }
    let counted = counter(connection, audit::COUNT)?;
    if counted != next {
        let what = format!("{counted} entries were counted, and the last is number {}", next - 1);
        return Err(corrupt("audit", &counted.min(next).to_string(), &what));
    }
    if audit::newest(connection)? < newest {
        return Err(corrupt("counters", audit::NEWEST, "an entry of the log is newer"));
    }
    Ok(())
}

fn crls(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    each(connection, &select_crls(""), faults, |row| read_crl_record(row).map(drop))
}

/// Orders are as many in each state as were counted.
fn order_counts(connection: &Connection, faults: &mut Faults) -> Outcome<()> {
    for state in ORDER_STATES {
        let count: i64 =
            connection
                .query_row("SELECT COUNT(*) FROM orders WHERE state = ?1", [state], |row| row.get(0))?;
        let name = format!("orders.{state}");
        let counted = counter(connection, &name)?;
        if counted != count {
            let what = format!("{counted} orders were counted, and {count} are there");
            faults.note(&name, corrupt("counters", &name, &what))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::*;
    use crate::permissions::Sharing;

    #[test]
    fn no_table_with_a_hash_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(dir.path(), Sharing::Private, None).unwrap();
        let sql = "SELECT t.name FROM pragma_table_list t, pragma_table_info(t.name) c WHERE c.name = 'hash'";
        let mut statement = connection.prepare(sql).unwrap();
        let hashed = statement.query_map([], |row| row.get(0)).unwrap();
        let mut hashed: Vec<String> = hashed.map(Result::unwrap).collect();
        let mut covered = [&HASHED[..], &["certificates", "crls", "audit"]].concat();
        hashed.sort_unstable();
        covered.sort_unstable();
        assert_eq!(hashed, covered);
    }
}
