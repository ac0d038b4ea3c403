//! `cargo xtask fuzz`: runs the fuzz bodies of the crates under libFuzzer, each for a while, from a few valid inputs.
//!
//! It works on a stable toolchain: without a sanitizer, which would need a nightly one, a target still reports panics,
//! failed assertions, overflows, hangs and memory without bound; and the crates behind the bodies forbid unsafe code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::step::{Report, no_note, plain};

/// The version of cargo-fuzz that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// How long each target runs unless `--seconds` says otherwise.
const SECONDS: u32 = 60;

/// A fuzz target, `fuzz/fuzz_targets/NAME.rs`.
struct Target {
    name: &'static str,
    /// Inputs longer than this are not tried, in octets.
    max_len: u32,
    /// Writes valid inputs into a directory.
    seeds: fn(&Path) -> Result<()>,
}

const TARGETS: &[Target] = &[
    Target { name: "attestation", max_len: 4096, seeds: attestation_seeds },
    Target { name: "csr", max_len: 4096, seeds: csr_seeds },
    Target { name: "jwk", max_len: 4096, seeds: jwk_seeds },
    Target { name: "jws", max_len: 8192, seeds: jws_seeds },
    Target { name: "ocsp_request", max_len: 4096, seeds: ocsp_request_seeds },
];

/// Runs the targets named, or all of them; one that finds something does not keep the others from their turn.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let (targets, seconds) = parse(arguments)?;
    let report = Report::new(false);
    report.work("cargo-fuzz", || install(root))?;
    for target in &targets {
        report.command(&format!("build {}", target.name), &mut cargo_fuzz(root, "build", target), no_note)?;
    }
    let mut found = Vec::new();
    for target in targets {
        if let Err(error) = fuzz(root, &report, target, seconds) {
            found.push(format!("{error:#}"));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n       "));
    }
    report.done("nothing found,");
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(Vec<&'static Target>, u32)> {
    let (mut targets, mut seconds) = (Vec::new(), SECONDS);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            seconds = arguments
                .next()
                .and_then(|value| value.parse().ok())
                .filter(|seconds| *seconds > 0)
                .context("--seconds needs a whole number of seconds, at least 1")?;
        } else if let Some(target) = TARGETS.iter().find(|target| target.name == argument) {
            targets.push(target);
        } else {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            bail!(
                "`cargo xtask fuzz` knows --seconds N and the targets {}, not `{argument}`",
                names.join(", ")
            );
        }
    }
    Ok((if targets.is_empty() { TARGETS.iter().collect() } else { targets }, seconds))
}

fn fuzz(root: &Path, report: &Report, target: &Target, seconds: u32) -> Result<()> {
    let corpus = root.join("fuzz/corpus").join(target.name);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    (target.seeds)(&corpus).with_context(|| format!("cannot write the first inputs of {}", target.name))?;

    let artifacts = root.join("fuzz/artifacts").join(target.name);
    let before = files(&artifacts);
    let mut command = cargo_fuzz(root, "run", target);
    command.arg("--").args([
        &format!("-max_total_time={seconds}"),
        &format!("-max_len={}", target.max_len),
        // Seconds that one input may take, and the memory that all may take.
        "-timeout=5",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
    ]);
    report.command(target.name, &mut command, summary).map_err(|error| {
        let after = files(&artifacts);
        let Some(input) = after.difference(&before).next() else { return error };
        let (name, input) = (target.name, input.display());
        error.context(format!(
            "{name} fails on {input}; once more: `cargo fuzz run --sanitizer none --target-dir target {name} {input}`"
        ))
    })
}

/// `cargo fuzz VERB TARGET`, with what makes it work here.
fn cargo_fuzz(root: &Path, verb: &str, target: &Target) -> Command {
    let mut command = Command::new("cargo");
    // Build output goes beside the rest: cargo-fuzz names the platform, so its own part of the directory is apart, and
    // build scripts and macros are shared.
    command
        .args(["fuzz", verb, "--sanitizer", "none", "--target-dir"])
        .arg(root.join("target"))
        .arg(target.name);
    command.current_dir(root);
    command
}

fn install(root: &Path) -> Result<String> {
    let installed = Command::new("cargo")
        .args(["fuzz", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if installed {
        return Ok("present".to_owned());
    }
    succeed(
        Command::new("cargo")
            .args(["install", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ])
            .current_dir(root),
    )?;
    Ok(format!("installed {CARGO_FUZZ}"))
}

/// From libFuzzer's last status, `#81 DONE cov: 9 ft: 9 corp: 1/1b lim: 4 exec/s: 40 rss: 30Mb`, what tells how far it
/// came.
fn summary(output: &str) -> String {
    let output = plain(output);
    let Some(status) = output.lines().rev().find(|line| line.starts_with('#') && line.contains("cov: "))
    else {
        return String::new();
    };
    let runs = status.trim_start_matches('#').split_whitespace().next().unwrap_or_default();
    let after = |name: &str| {
        let mut words = status.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).unwrap_or("?").to_owned()
    };
    format!(
        "{runs} inputs, {} a second; coverage {}, features {}, corpus {}",
        after("exec/s:"),
        after("cov:"),
        after("ft:"),
        after("corp:"),
    )
}

/// Attestation objects: of a certificate with the extensions that formats read, and of a TPM's structures.
fn attestation_seeds(corpus: &Path) -> Result<()> {
    let certificate = seed(corpus, "certificate");
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=Device", "-days", "1"]);
    command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-outform", "DER"]);
    for extension in [
        "1.2.840.113635.100.8.9.1=DER:41:42:43",
        "1.3.6.1.4.1.41482.3.7=DER:02:01:07",
        "1.3.6.1.4.1.37476.9000.64.4=DER:30:03:0c:01:41",
        // KeyDescription with an origin and a serial number that hardware enforces.
        "1.3.6.1.4.1.11129.2.1.17=DER:30:26:02:01:03:0a:01:01:02:01:03:0a:01:01:04:01:41:04:00:30:00:30:11:\
         bf:85:3e:03:02:01:00:bf:85:49:06:04:04:41:42:43:44",
    ] {
        command.args(["-addext", extension]);
    }
    succeed(command.arg("-out").arg(&certificate))?;
    let certificate = fs::read(&certificate)?;
    let length = u16::try_from(certificate.len())?.to_be_bytes();
    let path = [&b"\x63x5c\x81\x59"[..], &length, &certificate].concat();
    let object = |format: &[u8], members: u8, rest: &[u8]| {
        [b"\xa2\x63fmt", format, b"\x67attStmt", &[0xa0 | members], &path, rest].concat()
    };
    fs::write(seed(corpus, "step"), object(b"\x64step", 3, b"\x63alg\x26\x63sig\x44\x43abc"))?;
    // TPMS_ATTEST that certifies, TPMT_PUBLIC on P-256 and TPMT_SIGNATURE by RSASSA.
    let head = [0xff, b'T', b'C', b'G', 0x80, 0x17, 0, 0, 0, 1, 7];
    let attest = [&head[..], &[0; 25], &[0, 2, 0, 0x0b, 0, 0]].concat();
    let point = [&[0, 32][..], &[0x11; 32]].concat();
    let public = [0, 0x23, 0, 0x0b, 0, 4, 0, 0x72, 0, 0, 0, 0x10, 0, 0x10, 0, 3, 0, 0x10];
    let public = [&public[..], &point, &point].concat();
    let member = |name: &[u8], value: &[u8]| -> Result<Vec<u8>> {
        Ok([name, &[0x58, u8::try_from(value.len())?], value].concat())
    };
    let rest = [
        b"\x63ver\x632.0".to_vec(),
        member(b"\x68certInfo", &attest)?,
        member(b"\x67pubArea", &public)?,
        member(b"\x63sig", &[0, 0x14, 0, 0x0b, 0, 1, 7])?,
    ];
    Ok(fs::write(seed(corpus, "tpm"), object(b"\x63tpm", 5, &rest.concat()))?)
}

/// CSRs with each kind of key that subscribers may have.
fn csr_seeds(corpus: &Path) -> Result<()> {
    let p256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let p384 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
    for (name, key, subject, names) in [
        ("p256", p256.as_slice(), "/", "DNS:www.example.org,DNS:*.example.org"),
        ("p384-common-name", &p384, "/CN=www.example.org", "DNS:www.example.org"),
        ("rsa-addresses", &["-newkey", "rsa:2048"], "/", "IP:192.0.2.1,IP:2001:db8::1"),
        (
            "ed25519",
            &["-newkey", "ed25519"],
            "/O=Example/CN=example.org",
            "DNS:example.org,email:a@example.org",
        ),
    ] {
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-keyout", "/dev/null", "-outform", "DER", "-subj", subject]);
        command.args(key).args(["-addext", &format!("subjectAltName={names}"), "-out"]);
        succeed(command.arg(seed(corpus, name)))?;
    }
    Ok(())
}

/// OCSP requests as clients send them: either hash, with and without nonce, one CertID or two.
fn ocsp_request_seeds(corpus: &Path) -> Result<()> {
    // An issuer to ask about, in a file that libFuzzer may take as an input too: it is refused, as it should be.
    let issuer = seed(corpus, "issuer");
    succeed(
        Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=Issuer", "-days", "1"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
            .arg(&issuer),
    )?;
    for (name, arguments) in [
        ("sha1", ["-serial", "0x7f0102030405060708090a0b0c0d0e0f10111213", "-no_nonce"].as_slice()),
        ("sha1-nonce", &["-serial", "1"]),
        ("sha256", &["-sha256", "-serial", "255", "-no_nonce"]),
        ("two", &["-serial", "1", "-sha256", "-serial", "2"]),
    ] {
        let mut command = Command::new("openssl");
        command.arg("ocsp").arg("-issuer").arg(&issuer).args(arguments).arg("-reqout");
        succeed(command.arg(seed(corpus, name)))?;
    }
    Ok(())
}

/// The public keys of RFC 7515 appendix A.3, RFC 8037 appendix A.2 and RFC 7638 §3.1.
const KEYS: [(&str, &str, &str); 3] = [
    (
        "p256",
        "ES256",
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
    ),
    (
        "ed25519",
        "EdDSA",
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    ),
    (
        "rsa",
        "RS256",
        r#"{"kty":"RSA","e":"AQAB","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#,
    ),
];

fn jwk_seeds(corpus: &Path) -> Result<()> {
    for (name, _, key) in KEYS {
        fs::write(seed(corpus, name), key)?;
    }
    Ok(())
}

/// newAccount by each kind of key, and a POST-as-GET by account.
fn jws_seeds(corpus: &Path) -> Result<()> {
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    // Reading does not verify: any 64 octets are a signature.
    let signature = encode(&"s".repeat(64));
    let jws = |header: &str, payload: &str| {
        let (protected, payload) = (encode(header), encode(payload));
        format!(r#"{{"protected":"{protected}","payload":"{payload}","signature":"{signature}"}}"#)
    };
    for (name, algorithm, key) in KEYS {
        let header = format!(
            r#"{{"alg":"{algorithm}","jwk":{key},"nonce":"6S8IqOGY7eL2lsGoTZYifg","url":"https://example.org/acme/new-account"}}"#
        );
        fs::write(seed(corpus, name), jws(&header, r#"{"termsOfServiceAgreed":true}"#))?;
    }
    let header = r#"{"alg":"ES256","kid":"https://example.org/acme/account/1","nonce":"uQpSjlRb4vQVCjVYAyyUWg","url":"https://example.org/acme/order/2"}"#;
    Ok(fs::write(seed(corpus, "post-as-get"), jws(header, ""))?)
}

fn seed(corpus: &Path, name: &str) -> PathBuf {
    corpus.join(format!("seed-{name}"))
}

/// The files of a directory that may not be there.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Runs a command to its end; an error carries what it said.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{program}`"))?;
    if !output.status.success() {
        bail!("`{program}` ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{parse, summary};

    #[test]
    fn the_last_status_of_libfuzzer_is_summed_up() {
        let output = "#2\tINITED cov: 9 ft: 9 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                      #81\tDONE   cov: 12 ft: 34 corp: 5/67b lim: 4 exec/s: 40 rss: 30Mb\n\
                      Done 81 runs in 2 second(s)\n";
        assert_eq!(summary(output), "81 inputs, 40 a second; coverage 12, features 34, corpus 5/67b");
    }

    #[test]
    fn unknown_targets_and_bad_times_are_refused() {
        let parse = |text: &str| parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("csr --seconds 5").unwrap().1, 5);
        for wrong in ["crs", "--seconds", "--seconds 0", "csr --seconds x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
