//! What `deploy/` holds is what the program and systemd take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use chancery::config::Config;

use crate::harness::text;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

#[test]
fn the_sample_is_read_by_the_programs_own_parser() {
    let sample = fs::read_to_string(deploy("chancery.toml")).unwrap();
    let config = Config::parse("chancery.toml", &sample, []).unwrap();
    assert!(
        config.acme.allowed_names.is_empty()
            && config.acme.external_account_required
            && !config.acme.wildcards
    );
    assert_eq!(config.pki.public_url, "http://ca.example.org:8080");
}

#[test]
fn the_units_are_verified_by_systemd() {
    let place = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(deploy("systemd")).unwrap() {
        let source = entry.unwrap().path();
        // systemd wants the program to be where the unit says.
        let unit = fs::read_to_string(&source).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/chancery "), "{}", source.display());
        let target = place.path().join(source.file_name().unwrap());
        fs::write(&target, unit.replace("/usr/bin/chancery", env!("CARGO_BIN_EXE_chancery"))).unwrap();
        units.push(target);
    }
    assert_eq!(units.len(), 5);
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args(&units)
        .output()
        .expect("systemd-analyze is installed");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn the_units_run_commands_that_the_program_takes() {
    for entry in fs::read_dir(deploy("systemd")).unwrap() {
        let unit = fs::read_to_string(entry.unwrap().path()).unwrap();
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
        chancery::cli::command().try_get_matches_from(line.split(' ')).unwrap();
        for line in unit.lines().filter_map(|line| line.strip_prefix("Environment=")) {
            let (name, value) = line.split_once('=').unwrap();
            Config::parse("none", "", [(name.to_owned(), value.to_owned())]).unwrap();
        }
    }
}

#[test]
fn users_and_directories_are_those_that_the_units_name() {
    let users = fs::read_to_string(deploy("sysusers.d/chancery.conf")).unwrap();
    let directories = fs::read_to_string(deploy("tmpfiles.d/chancery-roles.conf")).unwrap();
    for role in ["ca", "acme", "ocsp", "crl"] {
        let unit = fs::read_to_string(deploy(&format!("systemd/chancery-{role}.service"))).unwrap();
        assert!(unit.contains(&format!("\nUser=chancery-{role}\nGroup=chancery\n")));
        assert!(users.contains(&format!("\nu chancery-{role} ")));
        if role != "ca" {
            assert!(
                directories.contains(&format!("/var/lib/chancery/{role} "))
                    || directories.contains(&format!("/var/lib/chancery/{role}  "))
            );
        }
    }
    let output = Command::new("systemd-sysusers")
        .arg("--dry-run")
        .arg(deploy("sysusers.d/chancery.conf").canonicalize().unwrap())
        .output();
    let output = output.expect("systemd-sysusers is installed");
    assert!(output.status.success(), "{}", text(&output.stderr));
}
