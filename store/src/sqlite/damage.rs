//! Damaged rows in lists: where the other rows can do without them they are left out and told of once, so that one of
//! them does not keep all the others from being seen or worked on.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use ca_core::store::StoreError;
use rusqlite::{Connection, Row};

use super::row::{Failure, Outcome};

/// How many damaged rows one read leaves out. A table with more is not read around: the read fails.
const MOST: usize = 10_000;

/// How many are told of; the check of a copy finds the others too.
const TOLD: usize = 1_000;

/// The damaged rows that this process has told the operator of.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<HashSet<String>>);

impl Damage {
    /// Logs a fault, which names table and row, unless that was done before. Gives whether it was logged.
    fn tell(&self, fault: String) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD || told.contains(&fault) {
            return false;
        }
        tracing::error!(fault, "a damaged row is left out; `chancery doctor` finds every damaged row");
        told.insert(fault);
        true
    }

    /// The first `limit` rows of a query that are intact. Its last parameter limits what it gives, to [`ahead`].
    pub(super) fn around<T>(
        &self,
        connection: &Connection,
        sql: &str,
        parameters: impl rusqlite::Params,
        limit: usize,
        mut read: impl FnMut(&Row<'_>) -> Outcome<T>,
    ) -> Outcome<Vec<T>> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let mut intact = Vec::new();
        let mut left_out = 0;
        while intact.len() < limit {
            let Some(row) = rows.next()? else { break };
            match read(row) {
                Ok(value) => intact.push(value),
                Err(Failure::Store(StoreError::Corrupt(fault))) if left_out < MOST => {
                    left_out += 1;
                    self.tell(fault);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(intact)
    }
}

/// How many rows a query has to give so that `limit` intact ones are among them, as an SQL parameter.
pub(super) fn ahead(limit: usize) -> i64 {
    i64::try_from(limit.saturating_add(MOST).saturating_add(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::row::corrupt;
    use super::*;

    fn read(damage: &Damage, rows: usize, damaged: usize, limit: usize) -> Outcome<Vec<usize>> {
        let connection = Connection::open_in_memory().unwrap();
        let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1) \
                   SELECT i FROM n LIMIT ?2";
        let parameters = (i64::try_from(rows).unwrap(), ahead(limit));
        damage.around(&connection, sql, parameters, limit, |row| {
            let number = usize::try_from(row.get::<_, i64>(0)?).unwrap();
            if number < damaged { Err(corrupt("t", &number.to_string(), "is damaged")) } else { Ok(number) }
        })
    }

    #[test]
    fn rows_behind_damaged_ones_are_read_and_no_more_than_asked_for() {
        let damage = Damage::default();
        assert_eq!(read(&damage, 20, 0, 3).unwrap(), [0, 1, 2]);
        assert_eq!(read(&damage, 20, 10, 3).unwrap(), [10, 11, 12]);
        assert_eq!(read(&damage, 20, 18, 3).unwrap(), [18, 19]);
        assert_eq!(read(&damage, MOST + 5, MOST, 3).unwrap(), [MOST, MOST + 1, MOST + 2]);
        let failed = read(&damage, MOST + 5, MOST + 1, 3);
        assert!(matches!(failed, Err(Failure::Store(StoreError::Corrupt(_)))));
    }

    #[test]
    fn each_row_is_told_of_once_and_not_without_end() {
        let damage = Damage::default();
        assert!(damage.tell("table t, row 0: is damaged".to_owned()));
        assert!(!damage.tell("table t, row 0: is damaged".to_owned()));
        assert_eq!((0..2 * TOLD).filter(|row| damage.tell(format!("row {row}"))).count(), TOLD - 1);
    }
}
