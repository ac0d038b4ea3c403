//! A SoftHSM token of its own for each test, in a temporary directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::program::{command, succeed, system_tool};

/// Where Debian installs the module.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// An initialised token that goes away with this value.
#[derive(Debug)]
pub struct Token {
    directory: TempDir,
}

impl Token {
    /// The label of the token.
    pub const LABEL: &str = "chancery-test";
    /// The user PIN.
    pub const PIN: &str = "5926535";
    /// The security officer's PIN.
    pub const SO_PIN: &str = "8979323";

    /// Makes the token, and a file with its PIN.
    ///
    /// # Errors
    /// If SoftHSM is missing or refuses.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("chancery-softhsm-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir()?;
        let token = Self { directory };
        fs::create_dir(token.tokens())?;
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.tokens().display()
        );
        fs::write(token.configuration(), configuration)?;
        fs::write(token.pin_file(), Self::PIN)?;
        fs::set_permissions(token.pin_file(), fs::Permissions::from_mode(0o600))?;
        succeed(
            command(system_tool("softhsm2-util")?)
                .args([
                    "--init-token",
                    "--free",
                    "--label",
                    Self::LABEL,
                    "--pin",
                    Self::PIN,
                    "--so-pin",
                    Self::SO_PIN,
                ])
                .env("SOFTHSM2_CONF", token.configuration()),
        )
        .context("cannot make a SoftHSM token")?;
        Ok(token)
    }

    /// What SOFTHSM2_CONF must name for every program that uses the token.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("softhsm2.conf")
    }

    /// A file of mode 0600 with the user PIN and nothing else.
    #[must_use]
    pub fn pin_file(&self) -> PathBuf {
        self.directory.path().join("pin")
    }

    /// The directory that holds the token's objects: moved away, the token has vanished.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.directory.path().join("tokens")
    }

    /// The module to load.
    #[must_use]
    pub fn module(&self) -> &'static Path {
        Path::new(MODULE)
    }
}
