//! The npm package `acme-client`, with every package that it imports as the lock file pins them, by version and hash.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::succeed;

const PACKAGE: &str = include_str!("../../../e2e/src/clients/acme_client/package.json");
const LOCK: &str = include_str!("../../../e2e/src/clients/acme_client/package-lock.json");

/// Whether what the lock file names is there.
pub fn is_current(tools: &Path) -> bool {
    fs::read_to_string(tools.join("node").join("installed.txt")).is_ok_and(|text| text == LOCK)
}

/// Installs what the lock file names, without running any script of a package, and says what it is for.
///
/// # Errors
/// If a package can't be had, or is not the one that the lock file knows.
pub fn install(tools: &Path) -> Result<Vec<&'static str>> {
    let node = tools.join("node");
    fs::create_dir_all(&node).with_context(|| format!("cannot create {}", node.display()))?;
    let write = |name: &str, text: &str| {
        let file = node.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    write("package.json", PACKAGE)?;
    write("package-lock.json", LOCK)?;
    succeed(
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
            .current_dir(&node),
    )
    .context("cannot install the npm package acme-client")?;
    // Written last, so that an installation that was interrupted is done again.
    write("installed.txt", LOCK)?;
    Ok(vec!["acme-client (npm)"])
}
