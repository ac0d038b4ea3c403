//! Opening the database: settings, migrations, and how a reader finds out that it may read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, OpenFlags, TransactionBehavior};
use thiserror::Error;

use crate::permissions::Sharing;

/// The database in the data directory.
pub(super) const FILE: &str = "store.db";

/// In the database's header, so that another program's database is not taken for ours: "Chnc".
const APPLICATION_ID: i32 = 0x4368_6e63;

/// Every migration, oldest first; the schema's version is how many were applied. None is ever changed once released.
const MIGRATIONS: [&str; 5] = [
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_external_accounts.sql"),
    include_str!("migrations/0003_renewals.sql"),
    include_str!("migrations/0004_limits.sql"),
    include_str!("migrations/0005_auto_renewal.sql"),
];

/// How long SQLite waits for a lock of another process: a checkpoint's last moments, or a backup.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How large the write-ahead log may stay on disk once it starts anew.
const JOURNAL_SIZE_LIMIT: i64 = 16 * 1024 * 1024;

/// Why the store can't be opened for writing; the operator acts.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The data directory or the file in it can't be created or given its mode.
    #[error("can't prepare {}", path.display())]
    Prepare {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite can't open it.
    #[error("can't open the store {}", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// It is a database, and not ours.
    #[error("{} is a database of another program", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "the store {} has schema version {found}, and this program knows versions up to {known}: use the newer program, or restore a backup",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// A thread can't be started.
    #[error("can't start a thread")]
    Thread(#[source] io::Error),
}

/// Opens the database for writing, creates it if it is missing, and brings its schema up to date.
pub(super) fn open_writer(
    directory: &Path,
    sharing: Sharing,
    max_store_bytes: Option<u64>,
) -> Result<Connection, OpenError> {
    let path = directory.join(FILE);
    let prepare = |at: &Path, result: io::Result<()>| {
        result.map_err(|source| OpenError::Prepare { path: at.to_owned(), source })
    };
    prepare(directory, sharing.directory(directory))?;
    // Created by us first: SQLite gives the other files the mode of this one.
    prepare(&path, sharing.file(&path))?;
    prepare(directory, File::open(directory).and_then(|directory| directory.sync_all()))?;
    let engine = |source| OpenError::Engine { path: path.clone(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(engine)?;
    let found = check_application(&connection).map_err(engine)?;
    let Some(found) = found else {
        return Err(OpenError::Foreign { path });
    };
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { path, found, known: MIGRATIONS.len() });
    }
    configure_writer(&connection, max_store_bytes).map_err(engine)?;
    migrate(&mut connection, found).map_err(engine)?;
    for suffix in ["-wal", "-shm"] {
        let side = directory.join(format!("{FILE}{suffix}"));
        if side.exists() {
            prepare(&side, sharing.file(&side))?;
        }
    }
    Ok(connection)
}

/// The schema's version; `None` if the database is not ours.
fn check_application(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: usize = connection.pragma_query_value(None, "user_version", |row| {
        Ok(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX))
    })?;
    let tables: i64 = connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let ours = application == APPLICATION_ID || (application == 0 && version == 0 && tables == 0);
    Ok(ours.then_some(version))
}

fn configure_both(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(96);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    keep_log(connection)
}

/// Keeps the write-ahead log and its index when the last connection closes: a reader of another user can't create
/// them, and can't open the database without them.
fn keep_log(connection: &Connection) -> rusqlite::Result<()> {
    let mut keep = 1;
    connection.file_control(Some(rusqlite::MAIN_DB), FileControl::PersistWal(&mut keep))
}

fn configure_writer(connection: &Connection, max_store_bytes: Option<u64>) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // The writer thread checkpoints itself, after it has answered.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_SIZE_LIMIT)?;
    connection.pragma_update(None, "cache_size", -32_768)?;
    if let Some(bytes) = max_store_bytes {
        let page: u64 = connection.pragma_query_value(None, "page_size", |row| {
            Ok(u64::try_from(row.get::<_, i64>(0)?).unwrap_or(4096))
        })?;
        let pages = i64::try_from((bytes / page.max(1)).max(1)).unwrap_or(i64::MAX);
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    configure_both(connection)
}

/// Applies the migrations from number `applied` on, each in a transaction with its number.
fn migrate(connection: &mut Connection, applied: usize) -> rusqlite::Result<()> {
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(applied) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1).unwrap_or(i64::MAX))?;
        transaction.commit()?;
    }
    Ok(())
}

/// Opens the database for reading.
///
/// # Errors
/// [`StoreError::Busy`] if it does not exist yet, is being set up, or can't be opened now.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let busy = |what: &str| StoreError::Busy(format!("the store {} {what}", path.display()));
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(busy("does not exist yet; role 'ca' creates it")),
        Err(error) => return Err(busy(&format!("can't be reached: {error}"))),
    }
    let open = || -> rusqlite::Result<(Connection, Option<usize>)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        configure_both(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cache_size", -8_192)?;
        let version = check_application(&connection)?;
        Ok((connection, version))
    };
    match open() {
        Err(error) => Err(busy(&format!("can't be opened for reading: {error}"))),
        Ok((_, None)) => Err(busy("is a database of another program")),
        Ok((_, Some(version))) if version < MIGRATIONS.len() => Err(busy("is being set up by role 'ca'")),
        Ok((_, Some(version))) if version > MIGRATIONS.len() => {
            Err(busy(&format!("has schema version {version}, which is newer than this program: update it")))
        }
        Ok((connection, Some(_))) => Ok(connection),
    }
}

#[cfg(test)]
mod tests {
    use ca_core::acme::Account;
    use ca_core::store::Version;

    use super::super::row::{document, from_json, id_value, put_document};
    use super::*;

    #[test]
    fn a_commit_is_on_disk_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(dir.path(), Sharing::Private, None).unwrap();
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[test]
    fn a_store_of_the_first_version_is_brought_up_to_date_and_keeps_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        // As the first version wrote it.
        let body = r#"{"id":"04104104104104104104104104","directory":"default",
            "thumbprint":"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI","jwk":"{}","contacts":[],
            "terms_agreed_at":null,"state":{"status":"valid"},"created_at":0,"version":0}"#;
        let account: Account = from_json("accounts", "?", body).unwrap();
        let first = Connection::open(dir.path().join(FILE)).unwrap();
        first.execute_batch(MIGRATIONS[0]).unwrap();
        first.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        first.pragma_update(None, "user_version", 1).unwrap();
        put_document(&first, account.clone()).unwrap();
        drop(first);

        let connection = open_writer(dir.path(), Sharing::Private, None).unwrap();
        assert_eq!(check_application(&connection).unwrap(), Some(MIGRATIONS.len()));
        let found = document::<Account>(&connection, id_value(account.id.0)).unwrap();
        assert_eq!(found, Some(Account { version: Version(1), ..account }));
        let integrity: String =
            connection.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
        assert_eq!(integrity, "ok");
    }

    #[test]
    fn the_bundled_engine_has_the_fix_of_the_lost_commits_after_a_log_reset() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }
}
