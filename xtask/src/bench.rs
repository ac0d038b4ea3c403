//! `cargo xtask bench`: builds the program as it is shipped and the load generator, and runs them against each other.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step::{Report, no_note};

/// Builds, then hands the arguments to the load generator, which prints the table.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let report = Report::new(false);
    // Apart: one build of both would give the program the features that only the load generator asks for.
    for (name, package) in [("chancery", "chancery"), ("load", "e2e")] {
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--package", package, "--bins"]).current_dir(root);
        report.command(&format!("build {name}"), &mut command, no_note)?;
    }
    let this = std::env::current_exe().context("cannot find the target directory")?;
    let target = this.parent().and_then(Path::parent).context("this program is not in target/PROFILE")?;
    let status = Command::new(target.join("release/load"))
        .args(arguments)
        .current_dir(root)
        .status()
        .context("cannot start the load generator")?;
    if !status.success() {
        bail!("the load generator ended with {status}");
    }
    Ok(())
}
