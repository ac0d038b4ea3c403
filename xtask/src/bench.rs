//! `cargo xtask bench`: a release build of the program under the load that it ships with, beside what this machine can do.

mod acme;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step::{Report, no_note};

/// `bench acme`, `bench hostile` for orders while others attack, or `bench` for orders and OCSP requests in one short run.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    match arguments.split_first() {
        Some((first, rest)) if first == "acme" => acme::run(root, rest),
        Some((first, rest)) if first == "hostile" => generate(root, "hostile", rest),
        _ => generate(root, "load", arguments),
    }
}

/// Builds, then hands the arguments to this generator of the end-to-end tests', which prints the table.
fn generate(root: &Path, generator: &str, arguments: &[String]) -> Result<()> {
    build(root, "chancery")?;
    let load = build(root, "e2e")?.join(generator);
    let status = Command::new(load)
        .args(arguments)
        .current_dir(root)
        .status()
        .context("cannot start the load generator")?;
    if !status.success() {
        bail!("the load generator ended with {status}");
    }
    Ok(())
}

/// Builds a package as it is shipped, and gives the directory of its programs. One at a time: a build of two would give
/// each the features that the other asks for.
fn build(root: &Path, package: &str) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--package", package, "--bins"]).current_dir(root);
    Report::new(false).command(&format!("build {package}"), &mut command, no_note)?;
    let this = std::env::current_exe().context("cannot find the target directory")?;
    let target = this.parent().and_then(Path::parent).context("this program is not in target/PROFILE")?;
    Ok(target.join("release"))
}
