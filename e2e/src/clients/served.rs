//! What a TLS server shows to those who connect: its certificate, and the OCSP response that it staples (RFC 6066 §8).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::KeyType;
use crate::judges::Status;
use crate::pem;
use crate::program::{command, succeed, system_tool};

/// One handshake, verified by OpenSSL.
#[derive(Clone, Debug)]
pub struct Served {
    /// The end-entity certificate, DER.
    pub certificate: Vec<u8>,
    /// What the stapled response says, if there is one.
    pub staple: Option<Status>,
}

/// Connects as a client that trusts these roots (PEM), wants this host (a name or an address), and takes certificates with
/// keys of this type only.
///
/// # Errors
/// If there is no handshake, or OpenSSL does not accept the chain, the host or the stapled response.
pub fn served(address: SocketAddr, roots: &Path, host: &str, key: KeyType) -> Result<Served> {
    let mut command = command(system_tool("openssl")?);
    command.args(["s_client", "-connect", &address.to_string(), "-CAfile"]).arg(roots);
    command.args(["-verify_return_error", "-verify", "4", "-status", "-tls1_2"]);
    if host.parse::<IpAddr>().is_ok() {
        command.args(["-noservername", "-verify_ip", host]);
    } else {
        command.args(["-servername", host, "-verify_hostname", host]);
    }
    // TLS 1.2 is the version in which a client says so by cipher suites, which every server heeds.
    command.args([
        "-cipher",
        match key {
            KeyType::Ec256 | KeyType::Ec384 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            KeyType::Rsa2048 => "ECDHE-RSA-AES128-GCM-SHA256",
        },
    ]);
    let finished = succeed(&mut command)?;
    // The responder's certificate stands before it, in the stapled response.
    let (_, own) = finished
        .stdout
        .split_once("\nServer certificate\n")
        .with_context(|| format!("no certificate: {finished}"))?;
    let certificate = pem::decode(own, "CERTIFICATE")?.into_iter().next().context("no certificate")?;
    let status = finished.stdout.lines().find_map(|line| line.trim().strip_prefix("Cert Status: "));
    let staple = match status {
        Some("good") => Some(Status::Good),
        Some("revoked") => Some(Status::Revoked),
        Some("unknown") => Some(Status::Unknown),
        Some(other) => bail!("OpenSSL printed the status {other}: {finished}"),
        None => None,
    };
    Ok(Served { certificate, staple })
}
