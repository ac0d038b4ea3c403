//! SQLite's own integrity check and the store's, on a copy: on the live file they would hold a read transaction for as
//! long as they take.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ca_core::store::StoreError;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::connection::{FILE, open_reader};
use super::row::{Failure, Outcome};
use super::verify::{Faults, verify};

/// How many faults are told of.
const FAULTS: usize = 5;

/// Copies the store of a data directory into `scratch`, checks the copy, and removes it.
///
/// SQLite checks pages, indexes and constraints. Then every row is compared with its hash, every certificate and CRL
/// with its DER's, the audit log's entries with their leaf hashes and indexes, and every count with what it counts.
/// Blocks for as long as reading all of the store takes; the copy takes as much disk as the store.
///
/// # Errors
/// [`StoreError::Corrupt`] with the first faults, each with table and row; [`StoreError::Full`] if the copy finds no
/// room, [`StoreError::Busy`] if none can be made now for another reason: neither says anything of the store.
pub fn check_copy(data_dir: &Path, scratch: &Path) -> Result<(), StoreError> {
    let copy = scratch.join(format!(".integrity-check-{}.db", std::process::id()));
    let no_copy =
        |why: &dyn std::fmt::Display| format!("no copy can be made in {}: {why}", scratch.display());
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(no_copy(error)),
        _ => StoreError::Busy(no_copy(error)),
    };
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&copy)
        .map_err(|error| failed(&error))?;
    let faults = faults_of_copy(&data_dir.join(FILE), &copy);
    // What can't be removed is told of after what was found.
    let removed = fs::remove_file(&copy);
    for suffix in ["-journal", "-wal", "-shm"] {
        // Only where SQLite could not tidy up after a failure.
        let _ = fs::remove_file(copy.with_extension(format!("db{suffix}")));
    }
    let faults = faults.map_err(|error| match error {
        StoreError::Full(why) => StoreError::Full(no_copy(&why)),
        StoreError::Busy(why) => StoreError::Busy(no_copy(&why)),
        other => other,
    })?;
    removed.map_err(|error| failed(&error))?;
    if faults.is_empty() { Ok(()) } else { Err(StoreError::Corrupt(faults.join("; "))) }
}

fn faults_of_copy(store: &Path, copy: &Path) -> Result<Vec<String>, StoreError> {
    let source = open_reader(store)?;
    let check = || -> Outcome<Vec<String>> {
        let mut target = Connection::open(copy)?;
        // The copy is thrown away, so nothing needs to reach the disk.
        target.pragma_update(None, "synchronous", "off")?;
        // In one step: a copy in several begins again whenever somebody writes meanwhile.
        match Backup::new(&source, &mut target)?.step(-1)? {
            StepResult::Done => {}
            // Otherwise a part, or nothing, would be taken for the store.
            _ => return Err(StoreError::Busy("the store is locked".to_owned()).into()),
        }
        target.pragma_update(None, "journal_mode", "memory")?;
        let mut faults = Faults::new(FAULTS);
        {
            let mut statement = target.prepare(&format!("PRAGMA integrity_check({FAULTS})"))?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            for line in lines {
                faults.found.extend(Some(line?).filter(|line| line != "ok"));
            }
        }
        verify(&target, &mut faults)?;
        Ok(faults.found)
    };
    check().map_err(|failure: Failure| StoreError::from(failure))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::super::{Writer, WriterOptions};
    use super::*;

    #[tokio::test]
    async fn a_damaged_page_is_found_and_the_copy_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        // Closed, not only dropped: the writer thread would still write to the file that is damaged below.
        Writer::open(dir.path(), WriterOptions::default()).unwrap().close().await;
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(check_copy(dir.path(), scratch.path()), Ok(()));

        // What the log holds goes into the main file, where a page in its middle is then written over.
        let file = dir.path().join(FILE);
        let connection = Connection::open(&file).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        drop(connection);
        let mut bytes = OpenOptions::new().write(true).open(&file).unwrap();
        bytes.seek(SeekFrom::Start(3 * 4096)).unwrap();
        bytes.write_all(&[0xff; 4096]).unwrap();
        assert!(matches!(check_copy(dir.path(), scratch.path()), Err(StoreError::Corrupt(_))));
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
