//! Installs what the tests need and the machine lacks: Debian packages, and Python tools in a directory of our own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::step::Report;

/// Files that must exist, each with the Debian package that brings it: a program on the search path, or a path.
const APT: &[(&str, &str)] = &[
    ("openssl", "openssl"),
    ("certtool", "gnutls-bin"),
    ("ocsptool", "gnutls-bin"),
    ("lego", "lego"),
    ("faketime", "faketime"),
    ("setpriv", "util-linux"),
    ("softhsm2-util", "softhsm2"),
    ("/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2"),
    ("systemd-analyze", "systemd"),
    ("/usr/bin/python3", "python3"),
];

/// The Python tools, and below them all that they import, every one pinned: what passed yesterday is judged by
/// the same judges today.
const PYTHON: &[&str] = &[
    "certbot==5.8.0",
    "acme==5.8.0",
    "pkilint==0.13.3",
    // Imported by those.
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
const PYTHON_PROGRAMS: &[&str] = &["certbot", "lint_pkix_cert", "lint_crl", "lint_ocsp_response"];

/// The interpreter for the tools: the distribution's, since others (pyenv, conda) come and go with a shell.
const PYTHON_INTERPRETER: &str = "/usr/bin/python3";

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
    if missing_packages().is_empty() && python_is_current(&directory) {
        return Ok("all present".to_owned());
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let lock = directory.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot lock ~/.cache/chancery-tools")?;

    let mut installed = Vec::new();
    let mut packages = missing_packages();
    let rebuild_python = !python_is_current(&directory);
    if rebuild_python && !succeeds(Command::new(PYTHON_INTERPRETER).args(["-c", "import ensurepip, venv"])) {
        packages.push("python3-venv");
    }
    if !packages.is_empty() {
        apt_install(&packages)?;
        if let Some((file, package)) = APT.iter().find(|(file, _)| find(file).is_none()) {
            bail!("the package {package} is installed, and still there is no `{file}`");
        }
        installed.extend(packages.iter().map(|package| (*package).to_owned()));
    }
    if rebuild_python {
        python_install(&directory)?;
        installed.extend(PYTHON.iter().take(3).map(|package| (*package).to_owned()));
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

/// The Debian packages to install, each once.
fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        APT.iter().filter(|(file, _)| find(file).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
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

fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand =
        format!("sudo apt-get update && sudo apt-get install --no-install-recommends {}", packages.join(" "));
    if find("apt-get").is_none() {
        bail!(
            "the tests need programs from these Debian packages, and there is no apt-get here: {}\n       \
             install them, then run this again",
            packages.join(" ")
        );
    }
    let root = id("-u")?.trim() == "0";
    if !root && !succeeds(Command::new("sudo").args(["-n", "true"])) {
        bail!(
            "the tests need packages that only root can install; run this, then try again:\n       {by_hand}"
        );
    }
    let apt = |arguments: &[&str]| {
        let mut command = if root {
            Command::new("apt-get")
        } else {
            let mut command = Command::new("sudo");
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            command
        };
        // Another installation may be running: wait for it, don't fail.
        command.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=600"]).args(arguments);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        succeed(&mut command).with_context(|| format!("apt-get failed; by hand it is\n       {by_hand}"))
    };
    apt(&["update"])?;
    apt(&[["install", "--no-install-recommends"].as_slice(), packages].concat())
}

/// What the finished directory says of itself: pins and interpreter. Written last, so that an installation that
/// was interrupted is done again.
fn python_mark() -> String {
    let interpreter = fs::canonicalize(PYTHON_INTERPRETER).unwrap_or_default();
    format!("{}\n{}\n", interpreter.display(), PYTHON.join("\n"))
}

fn python_is_current(directory: &Path) -> bool {
    let python = directory.join("python");
    fs::read_to_string(python.join("installed.txt")).is_ok_and(|mark| mark == python_mark())
        && PYTHON_PROGRAMS.iter().all(|program| python.join("bin").join(program).is_file())
}

fn python_install(directory: &Path) -> Result<()> {
    let python = directory.join("python");
    if python.exists() {
        fs::remove_dir_all(&python).with_context(|| format!("cannot remove {}", python.display()))?;
    }
    succeed(Command::new(PYTHON_INTERPRETER).args(["-m", "venv"]).arg(&python))
        .context("cannot make a Python environment")?;
    succeed(
        Command::new(python.join("bin").join("pip"))
            .args(["install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"])
            .args(PYTHON),
    )
    .context("cannot install the Python tools (certbot, pkilint)")?;
    // Every import of every package is in the list, or this says which is not.
    succeed(Command::new(python.join("bin").join("pip")).args(["check", "--disable-pip-version-check"]))
        .context("the list of Python packages in xtask/src/tools.rs is not complete")?;
    for program in PYTHON_PROGRAMS {
        if !python.join("bin").join(program).is_file() {
            bail!(
                "the Python packages brought no program `{program}`: is the list in xtask/src/tools.rs right?"
            );
        }
    }
    let mark = python.join("installed.txt");
    fs::write(&mark, python_mark()).with_context(|| format!("cannot write {}", mark.display()))
}

fn id(flag: &str) -> Result<String> {
    let output = Command::new("id").arg(flag).output().context("cannot run `id`")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
