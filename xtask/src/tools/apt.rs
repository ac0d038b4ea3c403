//! Debian packages: installed, or unpacked beside the tools where an installation would start a service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{find, succeed, succeeds};

/// Files that must exist, each with the Debian package that brings it: a program on the search path, or a path. None of
/// these packages starts a service.
const INSTALLED: &[(&str, &str)] = &[
    ("openssl", "openssl"),
    ("certtool", "gnutls-bin"),
    ("ocsptool", "gnutls-bin"),
    ("lego", "lego"),
    ("dehydrated", "dehydrated"),
    ("uacme", "uacme"),
    // The server and its modules; the service is in the package apache2.
    ("apache2", "apache2-bin"),
    ("/usr/lib/apache2/modules/mod_md.so", "apache2-bin"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("faketime", "faketime"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("softhsm2-util", "softhsm2"),
    ("swtpm", "swtpm"),
    ("/usr/lib/softhsm/libsofthsm2.so", "libsofthsm2"),
    ("systemd-analyze", "systemd"),
    ("/usr/bin/python3", "python3"),
];

/// Programs, each with the Debian package that brings it and that would start a service on well-known ports: its files
/// are unpacked below the tools' directory, unless the machine has the program already.
const UNPACKED: &[(&str, &str)] = &[("caddy", "caddy")];

/// The packages to install, each once.
pub fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        INSTALLED.iter().filter(|(file, _)| find(file).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// The packages to unpack.
pub fn missing_unpacked(tools: &Path) -> Vec<&'static str> {
    UNPACKED
        .iter()
        .filter(|(program, package)| find(program).is_none() && !unpacked(tools, program, package).is_file())
        .map(|(_, package)| *package)
        .collect()
}

/// Where the program of an unpacked package is; the e2e tests look there too.
fn unpacked(tools: &Path, program: &str, package: &str) -> PathBuf {
    tools.join("debian").join(package).join("usr/bin").join(program)
}

/// Installs these packages and whatever they depend on.
///
/// # Errors
/// If that needs a right that we don't have, or a package does not bring what it is installed for.
pub fn install(packages: &[&str]) -> Result<()> {
    let by_hand =
        format!("sudo apt-get update && sudo apt-get install --no-install-recommends {}", packages.join(" "));
    if find("apt-get").is_none() {
        bail!(
            "the tests need programs from these Debian packages, and there is no apt-get here: {}\n       \
             install them, then run this again",
            packages.join(" ")
        );
    }
    if !may_install()? {
        bail!(
            "the tests need packages that only root can install; run this, then try again:\n       {by_hand}"
        );
    }
    let failed = || format!("apt-get failed; by hand it is\n       {by_hand}");
    apt_get(&["update"]).with_context(failed)?;
    apt_get(&[["install", "--no-install-recommends"].as_slice(), packages].concat()).with_context(failed)?;
    if let Some((file, package)) = INSTALLED.iter().find(|(file, _)| find(file).is_none()) {
        bail!("the package {package} is installed, and still there is no `{file}`");
    }
    Ok(())
}

/// Downloads these packages and unpacks their files; nothing of them is run, so this needs no right.
///
/// # Errors
/// If one can't be had, or does not bring the program that it is wanted for.
pub fn unpack(packages: &[&str], tools: &Path) -> Result<()> {
    for package in packages {
        let target = tools.join("debian").join(package);
        if target.exists() {
            fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))?;
        }
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        let download = || {
            let mut command = Command::new("apt-get");
            succeed(command.args(["-q", "download", package]).current_dir(&target))
        };
        // The lists of packages may be old, or there may be none yet.
        if let Err(error) = download() {
            if !may_install()? {
                return Err(error.context(format!(
                    "cannot download the package {package}; run this, then try again:\n       \
                     sudo apt-get update"
                )));
            }
            apt_get(&["update"])?;
            download().with_context(|| format!("cannot download the package {package}"))?;
        }
        let archive = fs::read_dir(&target)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get left no archive of {package}"))?;
        succeed(Command::new("dpkg").arg("-x").arg(&archive).arg(&target))
            .with_context(|| format!("cannot unpack {}", archive.display()))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    }
    if let Some(package) = missing_unpacked(tools).first() {
        bail!("the package {package} does not bring the program that it is wanted for");
    }
    Ok(())
}

/// Whether we are root, or become root without being asked for a password.
fn may_install() -> Result<bool> {
    Ok(is_root()? || succeeds(Command::new("sudo").args(["-n", "true"])))
}

fn is_root() -> Result<bool> {
    let output = Command::new("id").arg("-u").output().context("cannot run `id`")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == "0")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else {
        let mut command = Command::new("sudo");
        command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        command
    };
    // Another installation may be running: wait for it, don't fail.
    command.args(["-q", "-y", "-o", "DPkg::Lock::Timeout=600"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    succeed(&mut command)
}
