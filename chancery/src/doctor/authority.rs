//! What the CA can do: its issuers, its clock, its CRLs.

use ca_core::authority::require_issuer;
use ca_core::pkix::certificate::CaCertificate;
use ca_core::store::{CrlSummary, IssuerRecord, IssuerState, Store};
use ca_core::time::{Clock, SystemClock, Timestamp};

use super::Report;
use crate::config::Config;

/// Whether each ACME directory has the issuing CA that it names.
pub(super) fn directories(config: &Config, issuers: &[IssuerRecord], report: &mut Report) {
    // Said already: nothing issues.
    let Some(policies) = config.authority().ok().map(|authority| authority.directories) else { return };
    if issuers.is_empty() {
        return;
    }
    let bad: Vec<String> = policies
        .iter()
        .filter_map(|policy| require_issuer(policy, issuers).err())
        .map(|error| error.to_string())
        .collect();
    if bad.is_empty() {
        report.ok("directories", format!("{} known", policies.len()));
    } else {
        report.fail(
            "directories",
            bad.join("; "),
            "name an active issuing CA, or leave the key out for the newest: `chancery issuer list`",
        );
    }
}

/// Whether the certificates of active CAs are valid now.
pub(super) fn ca_certificates(issuers: &[IssuerRecord], now: Timestamp, report: &mut Report) {
    let mut bad = Vec::new();
    for issuer in issuers.iter().filter(|issuer| issuer.state == IssuerState::Active) {
        let newest = issuer.certificates.first().map(|certificate| CaCertificate::from_der(&certificate.der));
        match newest {
            None => bad.push(format!("{} has no certificate", issuer.id)),
            Some(Err(error)) => bad.push(format!("{}: {error}", issuer.id)),
            Some(Ok(certificate)) if certificate.not_after < now => {
                bad.push(format!("the certificate of {} expired {}", issuer.id, certificate.not_after));
            }
            Some(Ok(certificate)) if now < certificate.not_before => {
                bad.push(format!("the certificate of {} begins {}", issuer.id, certificate.not_before));
            }
            Some(Ok(_)) => {}
        }
    }
    if bad.is_empty() {
        report.ok("issuers", format!("{} known", issuers.len()));
    } else {
        report.fail(
            "issuers",
            bad.join("; "),
            "check the clock; a CA whose certificate expired issues nothing any more, so make a new one",
        );
    }
}

pub(super) async fn clock(store: &dyn Store, report: &mut Report) {
    let now = SystemClock.now();
    match store.newest_event_at().await {
        Ok(Some(newest)) if now < newest => report.fail(
            "clock",
            format!("the clock says {now}, but the store holds an event of {newest}"),
            "set the clock; `timedatectl` says whether it is synchronised",
        ),
        Ok(_) => report.ok("clock", format!("{now}, not behind the store")),
        Err(error) => report.failure("clock", crate::admin::execute::store_failure(error)),
    }
}

pub(super) async fn crls(store: &dyn Store, issuers: &[IssuerRecord], report: &mut Report) {
    let crls = match store.crl_summaries().await {
        Ok(crls) => crls,
        Err(error) => return report.failure("crls", crate::admin::execute::store_failure(error)),
    };
    freshness(&crls, issuers, SystemClock.now(), report);
}

pub(super) fn freshness(crls: &[CrlSummary], issuers: &[IssuerRecord], now: Timestamp, report: &mut Report) {
    let mut bad = Vec::new();
    let mut late = Vec::new();
    for issuer in issuers {
        for shard in 0..issuer.shards {
            match crls.iter().find(|crl| crl.issuer == issuer.id && crl.shard == shard) {
                None => bad.push(format!("{}/{shard} was never published", issuer.id)),
                Some(crl) if crl.next_update < now => {
                    bad.push(format!("{}/{shard} ended {}", issuer.id, crl.next_update))
                }
                Some(crl) if now < crl.this_update => {
                    bad.push(format!("{}/{shard} begins in the future, {}", issuer.id, crl.this_update))
                }
                Some(crl) => {
                    let life = crl.next_update.since(crl.this_update);
                    if crl.next_update.since(now) < life / 4 {
                        late.push(format!("{}/{shard} ends {}", issuer.id, crl.next_update));
                    }
                }
            }
        }
    }
    let fix = "check the clock, and start `chancery serve` with roles ca and crl; if they run, look at the log of role ca";
    if !bad.is_empty() {
        report.fail("crls", bad.join("; "), fix);
    } else if !late.is_empty() {
        report.warn("crls", late.join("; "), fix);
    } else {
        report.ok("crls", format!("{} are fresh", crls.len()));
    }
}
