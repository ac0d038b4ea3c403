//! Installs what the tests need and the machine lacks: Debian packages, and Python and Node.js tools in a directory of
//! our own.

mod apt;
mod node;
mod python;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::step::Report;

/// `cargo xtask tools`.
pub fn run(_root: &Path, arguments: &[String]) -> Result<()> {
    if let Some(argument) = arguments.first() {
        bail!("`cargo xtask tools` takes no argument, got `{argument}`");
    }
    Report::new(false).work("tools", install)
}

/// Installs what is missing and says what that was. Two runs at once wait for each other.
///
/// # Errors
/// If a package can't be installed; the error says what to do by hand.
pub fn install() -> Result<String> {
    let directory = directory()?;
    let complete = || {
        apt::missing().is_empty()
            && apt::missing_unpacked(&directory).is_empty()
            && python::is_current(&directory)
            && node::is_current(&directory)
    };
    if complete() {
        return Ok("all present".to_owned());
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let lock = directory.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot lock ~/.cache/chancery-tools")?;

    let mut installed = Vec::new();
    let mut packages = apt::missing();
    if !python::is_current(&directory) && !python::can_make_environments() {
        packages.push("python3-venv");
    }
    if !packages.is_empty() {
        apt::install(&packages)?;
        installed.extend(packages);
    }
    let unpacked = apt::missing_unpacked(&directory);
    if !unpacked.is_empty() {
        apt::unpack(&unpacked, &directory)?;
        installed.extend(unpacked);
    }
    if !python::is_current(&directory) {
        installed.extend(python::install(&directory)?);
    }
    if !node::is_current(&directory) {
        installed.extend(node::install(&directory)?);
    }
    Ok(if installed.is_empty() {
        "all present".to_owned()
    } else {
        format!("installed {}", installed.join(", "))
    })
}

/// `~/.cache/chancery-tools`, where the e2e tests look too.
fn directory() -> Result<PathBuf> {
    let home = std::env::home_dir().context("there is no home directory to keep the tools in")?;
    Ok(home.join(".cache").join("chancery-tools"))
}

/// Where a program is; sbin directories count, which an ordinary user's search path leaves out.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        // An absolute path replaces the directory it is joined to.
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command to its end; an error carries all that it printed.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{program}`"))?;
    if !status.success() {
        bail!(
            "`{program}` ended with {status}:\n{}{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        );
    }
    Ok(())
}
