//! The data directory: where everything lies, who owns it, and which modes it has.
//!
//! The directory and `run/` are 2750 and files that other roles read 0640, of the group `chancery`, where that group
//! exists and this user may give files to it; else 0700 and 0600. Keys and passphrases are 0600 always.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ca_core::store::Role;
use nix::unistd::{Uid, User};
use store::permissions::Sharing;

use crate::failure::{Code, Failure};

/// A data directory; its files may not exist yet.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// The directory at this path, made absolute.
    ///
    /// # Errors
    /// If there is no working directory to be relative to.
    pub fn new(path: &Path) -> Result<Self, Failure> {
        let root = std::path::absolute(path).map_err(|e| {
            Failure::new(
                Code::DataDirectory,
                format!("{}: {e}", path.display()),
                "pass an absolute path to --data",
            )
        })?;
        Ok(Self { root })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// `chancery.toml`.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.root.join("chancery.toml")
    }

    /// The lock of the one process that writes the store.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("ca.lock")
    }

    /// The directory of the sockets.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where other roles commit.
    #[must_use]
    pub fn store_socket(&self) -> PathBuf {
        self.run().join("store.sock")
    }

    /// Where the command line administers a running server.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.run().join("admin.sock")
    }

    /// The passphrase of software keys.
    #[must_use]
    pub fn passphrase(&self) -> PathBuf {
        self.root.join("passphrase")
    }

    /// The roots, PEM blocks only.
    #[must_use]
    pub fn roots_pem(&self) -> PathBuf {
        self.root.join("roots.pem")
    }

    /// A role's own directory.
    #[must_use]
    pub fn role(&self, role: Role) -> PathBuf {
        self.root.join(role.name())
    }

    /// The keys of software backends.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The database of the store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.root.join("store.db")
    }

    /// Whether there is a store with anything in it.
    #[must_use]
    pub fn has_store(&self) -> bool {
        fs::metadata(self.store()).is_ok_and(|metadata| metadata.len() > 0)
    }

    /// Refuses to go on where a CA was made and its store is gone: a new one would know none of its certificates.
    ///
    /// # Errors
    /// [`Code::Store`] with what to restore.
    pub fn refuse_lost_store(&self) -> Result<(), Failure> {
        if self.roots_pem().exists() && !self.has_store() {
            let what = if self.store().exists() { "is empty" } else { "is missing" };
            return Err(self.lost_store(what));
        }
        Ok(())
    }

    /// What to say when the store of a CA that was made is missing, or another one.
    #[must_use]
    pub fn lost_store(&self, what: &str) -> Failure {
        Failure::new(
            Code::Store,
            format!(
                "the store of this CA is gone: {} {what}, and roots.pem and its keys are there",
                self.store().display()
            ),
            format!(
                "restore store.db (with store.db-wal, if there is one) from the backup, or move {} away to begin anew",
                self.root.display()
            ),
        )
    }

    /// Whether somebody initialised it.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.configuration().exists()
    }

    /// Whether a CA may be made in it: there is nothing in it, or only what an operator prepares for one.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn is_vacant(&self) -> Result<bool, Failure> {
        // Also what an attempt leaves that ended before there was a configuration.
        const PREPARED: [&str; 9] = [
            "acme",
            "ocsp",
            "crl",
            "run",
            "passphrase",
            "lost+found",
            "ca.lock",
            ".writable",
            ".chancery.toml.new",
        ];
        match fs::read_dir(&self.root) {
            Ok(entries) => Ok(entries
                .filter_map(Result::ok)
                .all(|entry| entry.file_name().to_str().is_some_and(|name| PREPARED.contains(&name)))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(self.unusable("read", &self.root, &e)),
        }
    }

    /// Makes the directory and what lies below it, with their modes.
    ///
    /// # Errors
    /// [`Code::DataDirectory`] if one of them can't be made or written.
    pub fn create(&self) -> Result<(), Failure> {
        if let Some(parent) = self.root.parent() {
            fs::create_dir_all(parent).map_err(|e| self.unusable("make", parent, &e))?;
        }
        self.shared_directory(&self.root)?;
        self.shared_directory(&self.run())
    }

    /// Makes a role's own directory, mode 0700, or checks that this user can write the one that is there.
    ///
    /// # Errors
    /// [`Code::DataDirectory`] with how to make it for the role's user.
    pub fn role_directory(&self, role: Role) -> Result<PathBuf, Failure> {
        let directory = self.role(role);
        private_directory(&directory).map_err(|e| {
            Failure::new(
                Code::DataDirectory,
                format!("role '{role}' can't use its directory {}: {e}", directory.display()),
                format!(
                    "make it for the user of this role: install -d -m 0700 -o {} {}",
                    user_name(Uid::effective()),
                    directory.display()
                ),
            )
        })?;
        Ok(directory)
    }

    /// Writes a file that other roles may read: whole or not at all, 0640 with the group, else 0600.
    ///
    /// # Errors
    /// [`Code::DataDirectory`] if it can't be written.
    pub fn write_shared(&self, path: &Path, content: &[u8]) -> Result<(), Failure> {
        replace(path, content, 0o600)
            .and_then(|()| Sharing::detect().file(path))
            .map_err(|e| self.unusable("write", path, &e))
    }

    /// The user that owns the directory.
    ///
    /// # Errors
    /// [`Code::DataDirectory`] if it is not there or can't be looked at.
    pub fn owner(&self) -> Result<Uid, Failure> {
        let metadata = fs::metadata(&self.root).map_err(|e| self.unusable("read", &self.root, &e))?;
        Ok(Uid::from_raw(metadata.uid()))
    }

    /// Refuses to work as root on what another user owns: root's files would lock that user out.
    ///
    /// # Errors
    /// [`Code::DataDirectory`] with the command to use instead.
    pub fn refuse_foreign_root(&self) -> Result<(), Failure> {
        if !Uid::effective().is_root() || !self.root.exists() {
            return Ok(());
        }
        let owner = self.owner()?;
        if owner.is_root() {
            return Ok(());
        }
        let name = user_name(owner);
        Err(Failure::new(
            Code::DataDirectory,
            format!(
                "{} belongs to user {name}, and root's files in it would lock that user out",
                self.root.display()
            ),
            format!("run it as that user: sudo -u {name} chancery --data {} …", self.root.display()),
        ))
    }

    /// What to say when a file of this directory can't be used.
    #[must_use]
    pub fn unusable(&self, verb: &str, path: &Path, error: &io::Error) -> Failure {
        let me = user_name(Uid::effective());
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!(
                    "run as the user that owns it, or give it to this one: chown -R {me} {}",
                    self.root.display()
                )
            }
            io::ErrorKind::StorageFull => "free some space on this disk".to_owned(),
            io::ErrorKind::ReadOnlyFilesystem => {
                "choose a directory on a writable file system with --data".to_owned()
            }
            io::ErrorKind::NotFound => {
                format!("check the path; `chancery --data {} init` makes it", self.root.display())
            }
            _ => "choose another directory with --data".to_owned(),
        };
        Failure::new(Code::DataDirectory, format!("user {me} can't {verb} {}: {error}", path.display()), fix)
    }

    fn shared_directory(&self, path: &Path) -> Result<(), Failure> {
        let foreign = fs::metadata(path).is_ok_and(|metadata| metadata.uid() != Uid::effective().as_raw());
        if !foreign {
            Sharing::detect().directory(path).map_err(|e| self.unusable("make", path, &e))?;
        }
        let probe = path.join(".writable");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|e| self.unusable("write to", path, &e))
    }
}

/// Makes a directory for this user alone, or closes the one that is there to others.
///
/// # Errors
/// If it can't be made or is not writable.
pub fn private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    if fs::metadata(path)?.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).map_err(io::Error::from)
}

/// Replaces a file by one with this content and mode: whole or not at all, also over a crash.
///
/// # Errors
/// As the operating system says.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = directory.join(format!(".{name}.new"));
    match fs::remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    // The umask may have taken bits away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    fs::File::open(directory)?.sync_all()
}

/// A user's name, or the number where there is no name.
#[must_use]
pub fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
