//! `cargo xtask test`: everything that must hold before a change lands, in the order in which it fails fastest.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::{Report, no_note, plain};
use crate::tools;

/// Runs every check and stops at the first that fails.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let (mut fast, mut verbose) = (false, false);
    for argument in arguments {
        match argument.as_str() {
            "--fast" => fast = true,
            "--verbose" | "-v" => verbose = true,
            other => bail!("`cargo xtask test` knows --fast and --verbose, not `{other}`"),
        }
    }
    let report = Report::new(verbose);
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(root);
        command
    };

    report.work("tools", tools::install)?;
    report.command("format", &mut cargo(&["fmt", "--all", "--check"]), no_note)?;
    report.command(
        "clippy",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        no_note,
    )?;
    report.command(
        "docs",
        cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"),
        no_note,
    )?;
    // One build of all binaries and tests: `cargo build -p chancery` alone would resolve other features and
    // so compile most dependencies twice. The e2e tests find the program in target/debug.
    report.command("build", &mut cargo(&["build", "--workspace", "--bins", "--tests"]), no_note)?;
    if nextest_is_installed() {
        let mut command = cargo(&["nextest", "run", "--workspace"]);
        if fast {
            command.args(["--filterset", "not package(e2e)"]);
        }
        report.command("tests", &mut command, nextest_summary)?;
        report.command("doc tests", &mut cargo(&["test", "--workspace", "--doc"]), cargo_test_summary)?;
    } else {
        let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
        if fast {
            command.args(["--exclude", "e2e"]);
        }
        report.command("tests", &mut command, cargo_test_summary)?;
    }
    report.done(if fast { "everything but e2e" } else { "everything" });
    Ok(())
}

fn nextest_is_installed() -> bool {
    Command::new("cargo")
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// From `     Summary [   1.2s] 7 tests run: 7 passed, 0 skipped` what follows the time.
fn nextest_summary(output: &str) -> String {
    plain(output)
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("Summary ")?.split_once("] "))
        .map(|(_, counts)| counts.to_owned())
        .unwrap_or_default()
}

/// Adds up the lines `test result: ok. 7 passed; …`, one per test binary.
fn cargo_test_summary(output: &str) -> String {
    let passed: u32 = plain(output)
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(" passed"))
        .filter_map(|(count, _)| count.parse::<u32>().ok())
        .sum();
    format!("{passed} passed")
}

#[cfg(test)]
mod tests {
    use super::{cargo_test_summary, nextest_summary};

    #[test]
    fn the_summaries_of_both_runners_are_found() {
        let nextest = "  PASS [0.1s] a b\n\x1b[32;1m     Summary\x1b[0m [   1.234s] \x1b[1m7\x1b[0m tests run: 7 passed, 1 skipped\n";
        assert_eq!(nextest_summary(nextest), "7 tests run: 7 passed, 1 skipped");
        let cargo = "test a ... ok\ntest result: ok. 7 passed; 0 failed; 0 ignored\n\ntest result: ok. 5 passed; 0 failed\n";
        assert_eq!(cargo_test_summary(cargo), "12 passed");
    }
}
