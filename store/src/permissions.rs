//! Who may read what in the data directory: shared with the roles' group where there is one, ours alone otherwise.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::unistd::{Group, getegid, geteuid, getgroups};

/// The group that the roles' users share.
pub const GROUP: &str = "chancery";

/// With whom the store's files are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// With nobody: directories 0700, files 0600, the commit socket 0600.
    #[default]
    Private,
    /// With the members of this group: directories 2750, files 0640, the commit socket 0660.
    Group(u32),
}

impl Sharing {
    /// Shared with the group [`GROUP`] where it exists and this process may give files to it (as root or a member).
    #[must_use]
    pub fn detect() -> Self {
        let Ok(Some(group)) = Group::from_name(GROUP) else {
            return Self::Private;
        };
        let member = geteuid().is_root()
            || getegid() == group.gid
            || getgroups().is_ok_and(|groups| groups.contains(&group.gid));
        if member { Self::Group(group.gid.as_raw()) } else { Self::Private }
    }

    const fn mode(self, private: u32, shared: u32) -> u32 {
        match self {
            Self::Private => private,
            Self::Group(_) => shared,
        }
    }

    fn apply(self, path: &Path, mode: u32) -> io::Result<()> {
        if let Self::Group(gid) = self {
            chown(path, None, Some(gid))?;
        }
        // After chown, which clears the set-group-id bit.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Creates a directory if it is missing, and sets group and mode.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn directory(self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        self.apply(path, self.mode(0o700, 0o2750))
    }

    /// Creates a file if it is missing, and sets group and mode.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn file(self, path: &Path) -> io::Result<()> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        self.apply(path, self.mode(0o600, 0o640))
    }

    /// Sets group and mode of a listening socket: who may write to it may connect.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn socket(self, path: &Path) -> io::Result<()> {
        self.apply(path, self.mode(0o600, 0o660))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn shared_and_private_modes_are_those_of_the_design() {
        let base = tempfile::tempdir().unwrap();
        let gid = getegid().as_raw();
        for (sharing, directory_mode, file_mode) in
            [(Sharing::Private, 0o700, 0o600), (Sharing::Group(gid), 0o2750, 0o640)]
        {
            let directory = base.path().join("data");
            sharing.directory(&directory).unwrap();
            sharing.file(&directory.join("file")).unwrap();
            assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, directory_mode);
            assert_eq!(fs::metadata(directory.join("file")).unwrap().mode() & 0o7777, file_mode);
        }
    }
}
