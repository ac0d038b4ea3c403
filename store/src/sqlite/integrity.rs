//! SQLite's own integrity check, on a copy: on the live file it would hold a read transaction for as long as it takes.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ca_core::store::StoreError;
use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::connection::{FILE, open_reader};

/// How many faults are told of.
const FAULTS: u32 = 5;

/// Copies the store of a data directory into `scratch`, checks the copy's pages, indexes and constraints, and removes
/// it. Blocks; the copy takes as much disk as the store.
///
/// Row hashes are no part of it: those are checked whenever a row is read.
///
/// # Errors
/// [`StoreError::Corrupt`] with the first faults; [`StoreError::Busy`] if no copy can be made now.
pub fn check_copy(data_dir: &Path, scratch: &Path) -> Result<(), StoreError> {
    let copy = scratch.join(format!(".integrity-check-{}.db", std::process::id()));
    let busy = |why: &dyn std::fmt::Display| {
        StoreError::Busy(format!("no copy can be made in {}: {why}", scratch.display()))
    };
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(busy(&error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy).map_err(|error| busy(&error))?;
    let faults = faults_of_copy(&data_dir.join(FILE), &copy);
    // What can't be removed is told of after what was found.
    let removed = fs::remove_file(&copy);
    let faults = faults?;
    removed.map_err(|error| busy(&error))?;
    if faults.is_empty() { Ok(()) } else { Err(StoreError::Corrupt(faults.join("; "))) }
}

fn faults_of_copy(store: &Path, copy: &Path) -> Result<Vec<String>, StoreError> {
    let source = open_reader(store)?;
    let check = || -> rusqlite::Result<Vec<String>> {
        let mut target = Connection::open(copy)?;
        // In one step: a copy in several begins again whenever somebody writes meanwhile.
        Backup::new(&source, &mut target)?.step(-1)?;
        // The copy is thrown away, so nothing needs to reach the disk.
        target.pragma_update(None, "journal_mode", "memory")?;
        let mut statement = target.prepare(&format!("PRAGMA integrity_check({FAULTS})"))?;
        let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect()
    };
    let lines = check().map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::super::{Writer, WriterOptions};
    use super::*;

    #[test]
    fn a_damaged_page_is_found_and_the_copy_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(Writer::open(dir.path(), WriterOptions::default()).unwrap());
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
