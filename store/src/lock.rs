//! The lock on a data directory: one process at a time holds `ca.lock` and may write the store.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The lock's file in the data directory.
const FILE: &str = "ca.lock";

/// Held for as long as the value lives; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct CaLock {
    _file: File,
}

/// Why the lock was not taken; the operator acts.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("the data directory is in use by {}", describe(*pid))]
    Held {
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// The file can't be opened or written.
    #[error("can't use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn describe(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl CaLock {
    /// Takes the lock without waiting and writes our process id into its file.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        let path = data_dir.join(FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may be writing its pid this moment: then the error names none.
                let read = (&file).take(32).read_to_string(&mut text);
                return Err(LockError::Held { pid: read.ok().and_then(|_| text.trim().parse().ok()) });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let first = CaLock::acquire(dir.path()).unwrap();
        match CaLock::acquire(dir.path()) {
            Err(LockError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(CaLock::acquire(dir.path()).is_ok());
    }
}
