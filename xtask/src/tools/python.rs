//! The Python tools, in an environment (PEP 405) of their own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{succeed, succeeds};

/// The Python tools, every one pinned with all that it imports: what passed yesterday is judged by the same judges today.
const PACKAGES: &[&str] = &["certbot==5.8.0", "acme==5.8.0", "acme-tiny==5.0.3", "pkilint==0.13.3"];

/// What those import, and so on.
const IMPORTED: &[&str] = &[
    "certifi==2026.10.18",
    "cffi==2.1.1",
    "charset-normalizer==3.5.2",
    "ConfigArgParse==1.9.0",
    "configobj==5.0.9",
    "cryptography==50.0.2",
    "distro==1.9.0",
    "idna==3.20",
    "iso3166==3.0.0",
    "iso4217==1.16.20260101",
    "josepy==2.2.0",
    "parsedatetime==2.6",
    "publicsuffixlist==1.1.2.20261023",
    "pyasn1==0.6.5",
    "pyasn1-alt-modules==0.4.10",
    "pyasn1-fasder==0.1.3",
    "pycparser==3.12",
    "pyOpenSSL==26.4.0",
    "pyRFC3339==2.1.1",
    "python-dateutil==4.0.0",
    "python-iso639==2026.7.23",
    "requests==2.34.2",
    "typing_extensions==4.16.0",
    "tzdata==2026.6",
    "urllib3==2.8.0",
    "validators==0.22.0",
];

/// Programs that the Python packages must have brought.
const PROGRAMS: &[&str] = &["certbot", "acme-tiny", "lint_pkix_cert", "lint_crl", "lint_ocsp_response"];

/// The interpreter for the tools: the distribution's, since others (pyenv, conda) come and go with a shell.
const INTERPRETER: &str = "/usr/bin/python3";

/// Whether the interpreter can make environments; Debian has that in a package of its own, python3-venv.
pub fn can_make_environments() -> bool {
    succeeds(Command::new(INTERPRETER).args(["-c", "import ensurepip, venv"]))
}

/// Whether all that the list names is there.
pub fn is_current(tools: &Path) -> bool {
    let python = tools.join("python");
    fs::read_to_string(python.join("installed.txt")).is_ok_and(|text| text == mark())
        && PROGRAMS.iter().all(|program| python.join("bin").join(program).is_file())
}

/// Makes the environment, or brings one up to date that tests may be using meanwhile, and says what it is for.
///
/// # Errors
/// If a package can't be had, or the list is not complete.
pub fn install(tools: &Path) -> Result<Vec<&'static str>> {
    let python = tools.join("python");
    let (pip, mark_file) = (python.join("bin").join("pip"), python.join("installed.txt"));
    let of_this_interpreter = fs::read_to_string(&mark_file)
        .is_ok_and(|text| text.lines().next() == mark().lines().next())
        && succeeds(Command::new(&pip).arg("--version"));
    if !of_this_interpreter {
        if python.exists() {
            fs::remove_dir_all(&python).with_context(|| format!("cannot remove {}", python.display()))?;
        }
        succeed(Command::new(INTERPRETER).args(["-m", "venv"]).arg(&python))
            .context("cannot make a Python environment")?;
    }
    succeed(
        Command::new(&pip)
            .args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
            .args(PACKAGES)
            .args(IMPORTED),
    )
    .context("cannot install the Python tools (certbot, pkilint)")?;
    // Every import of every package is in the list, or this says which is not.
    succeed(Command::new(&pip).args(["check", "--disable-pip-version-check"]))
        .context("the list of Python packages in xtask/src/tools/python.rs is not complete")?;
    for program in PROGRAMS {
        if !python.join("bin").join(program).is_file() {
            bail!(
                "the Python packages brought no program `{program}`: is the list in xtask/src/tools/python.rs \
                 right?"
            );
        }
    }
    fs::write(&mark_file, mark()).with_context(|| format!("cannot write {}", mark_file.display()))?;
    Ok(PACKAGES.to_vec())
}

/// What the finished directory says of itself: interpreter and pins. Written last, so that an installation that
/// was interrupted is done again.
fn mark() -> String {
    let interpreter = fs::canonicalize(INTERPRETER).unwrap_or_default();
    format!("{}\n{}\n", interpreter.display(), [PACKAGES, IMPORTED].concat().join("\n"))
}
