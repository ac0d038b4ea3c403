//! What can be reached from here: the URLs' hosts, the listeners, the policy service, the running roles.

use std::net::SocketAddr;
use std::sync::Arc;

use ca_core::issuance::is_loopback_url;
use ca_core::store::IssuerRecord;
use ca_core::time::SystemClock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{CONNECT_WITHIN, Report};
use crate::config::{Config, host};
use crate::data::DataDir;
use crate::listen::sockets;
use crate::policy_hook::{PolicyMetrics, Silence, Webhook};

pub(super) async fn urls(config: &Config, issuers: &[IssuerRecord], report: &mut Report) {
    let trial = issuers.iter().any(|issuer| issuer.trial);
    let urls = config.urls();
    if urls.is_loopback() && !trial {
        report.fail(
            "urls",
            "pki.public_url leads to this machine only, so nothing is issued",
            "set it to an http URL that relying parties can reach",
        );
    }
    if is_loopback_url(&config.acme.public_url) && !trial {
        report.warn(
            "urls",
            "acme.public_url leads to this machine only",
            "set it to the URL that ACME clients use",
        );
    }
    let mut seen = Vec::new();
    for url in [&config.acme.public_url, &urls.crl, &urls.ocsp] {
        let Some(host) = host(url) else { continue };
        if seen.contains(&host) {
            continue;
        }
        let looked_up =
            tokio::time::timeout(CONNECT_WITHIN, tokio::net::lookup_host((host.as_str(), 0))).await;
        let resolves = matches!(looked_up, Ok(Ok(_)));
        drop(looked_up);
        if resolves {
            report.ok("urls", format!("{host} resolves"));
        } else {
            report.warn("urls", format!("{host} does not resolve here"), "add it to DNS");
        }
        seen.push(host);
    }
}

pub(super) async fn ports(config: &Config, server: Option<&Value>, report: &mut Report) {
    let listen = &config.listen;
    let mut addresses = vec![("acme", listen.acme), ("metrics", listen.metrics)];
    match (listen.ocsp, listen.crl) {
        (None, None) => addresses.push(("pki", listen.pki)),
        (ocsp, crl) => {
            addresses.extend([("ocsp", ocsp.unwrap_or(listen.pki)), ("crl", crl.unwrap_or(listen.pki))])
        }
    }
    for (name, address) in addresses {
        if server.is_none() {
            match sockets::probe(name, address) {
                Ok(()) => report.ok("ports", format!("listen.{name} {address} is free")),
                Err(failure) => report.failure("ports", failure),
            }
            continue;
        }
        let target = reachable(address);
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(target)).await {
            Ok(Ok(_)) => report.ok("ports", format!("listen.{name} {address} answers")),
            _ => report.warn(
                "ports",
                format!("nothing answers at listen.{name} {address}"),
                "check that the process with this role runs, and that it was started with the same configuration",
            ),
        }
    }
}

/// Whether the policy service, if one is configured, can be reached from here. It is asked nothing.
pub(super) async fn policy(data: &DataDir, config: &Config, report: &mut Report) {
    let Some(section) = &config.policy.webhook else { return };
    let hook = match Webhook::open(section, data.path(), Arc::new(SystemClock), PolicyMetrics::default()) {
        Ok(hook) => hook,
        Err(failure) => return report.failure("policy", failure),
    };
    match hook.reach().await {
        Ok(address) => report.ok("policy", format!("{} answers at {address}", section.url)),
        Err(failure) => {
            let fix = "start the policy service, or correct policy.webhook; see docs/POLICY-WEBHOOK.md";
            match section.on_failure {
                Silence::Refuse => report.fail("policy", format!("{failure}: nothing is issued"), fix),
                Silence::Allow => report.warn("policy", format!("{failure}: orders go on unjudged"), fix),
            }
        }
    }
}

/// Where a listener on all addresses can be reached from here.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}

/// Asks the running server which roles are ready: OCSP's freshness is known there only.
pub(super) async fn ready(metrics: SocketAddr, report: &mut Report) {
    let asked = tokio::time::timeout(CONNECT_WITHIN * 4, fetch_ready(reachable(metrics))).await;
    let Ok(Ok(answer)) = asked else {
        return report.warn(
            "ready",
            format!("http://{metrics}/readyz does not answer"),
            "check listen.metrics",
        );
    };
    let roles = answer.get("roles").and_then(Value::as_object);
    for (role, state) in roles.into_iter().flatten() {
        match state.get("missing").and_then(Value::as_str) {
            None => report.ok("ready", format!("role {role}")),
            Some(missing) => {
                report.fail("ready", format!("role {role}: {missing}"), "look at the log of that role")
            }
        }
    }
}

pub(super) async fn fetch_ready(address: SocketAddr) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text).await?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok(serde_json::from_str(body.trim())?)
}
