//! When a CRL is due, as a function of records and `now`. RFC 5280 §5.1.2.5.

use std::collections::HashMap;

use ca_core::id::IssuerId;
use ca_core::pkix::certificate::CaCertificate;
use ca_core::store::{CrlSummary, IssuerRecord};
use ca_core::time::Timestamp;

use crate::Config;

/// The shards whose next CRL must be made now: those without any, and those whose newest has used up
/// [`Config::refresh_percent`] of the time from its thisUpdate to its nextUpdate, so that a `ca` that is away for the
/// rest of that time goes unnoticed.
///
/// Each issuer whose certificate has not ended is looked at, active or retired, root or issuing, with all its shards; a CRL
/// with no entries is published too, or clients could not tell it from one that was withheld. By issuer and shard.
#[must_use]
pub fn due(
    now: Timestamp,
    issuers: &[IssuerRecord],
    summaries: &[CrlSummary],
    config: &Config,
) -> Vec<(IssuerId, u32)> {
    let newest: HashMap<(&IssuerId, u32), &CrlSummary> =
        summaries.iter().map(|summary| ((&summary.issuer, summary.shard), summary)).collect();
    let is_due = |issuer: &IssuerRecord, shard: u32| {
        newest.get(&(&issuer.id, shard)).is_none_or(|summary| now >= refresh_at(summary, config))
    };
    issuers
        .iter()
        .filter(|issuer| !has_ended(issuer, now))
        .flat_map(|issuer| {
            (0..issuer.shards).filter(|shard| is_due(issuer, *shard)).map(|shard| (issuer.id.clone(), shard))
        })
        .collect()
}

/// Whether an issuer can't sign any more, or not yet: nobody would accept a CRL of it.
pub(crate) fn has_ended(issuer: &IssuerRecord, now: Timestamp) -> bool {
    let newest = issuer.certificates.first().map(|newest| CaCertificate::from_der(&newest.der));
    !matches!(newest, Some(Ok(certificate)) if certificate.not_after > now)
}

fn refresh_at(summary: &CrlSummary, config: &Config) -> Timestamp {
    let window = summary.next_update.since(summary.this_update);
    summary.this_update.plus(window / 100 * u32::from(config.refresh_percent))
}
