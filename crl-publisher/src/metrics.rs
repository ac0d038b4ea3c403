//! What operators see: requests by resource and status, and each issuer's CRL age, nextUpdate and number.

use ca_core::time::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::document::Snapshot;

/// The metrics of the publisher; clones share the same numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    asked: Counter,
    age: Family<IssuerLabels, Gauge>,
    next_update: Family<IssuerLabels, Gauge>,
    number: Family<IssuerLabels, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    resource: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

impl Metrics {
    /// Registers everything under names that begin with `crl_`; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "crl_requests",
            "Requests for CRLs and CA certificates, by resource and HTTP status",
            self.requests.clone(),
        );
        registry.register(
            "crl_publications_asked",
            "CRLs that the ca role was asked to sign",
            self.asked.clone(),
        );
        registry.register(
            "crl_age_seconds",
            "Age of the issuer's oldest served CRL, from its thisUpdate",
            self.age.clone(),
        );
        registry.register(
            "crl_next_update_seconds",
            "The earliest nextUpdate of the issuer's served CRLs, in seconds since 1970; 0 while a shard has none",
            self.next_update.clone(),
        );
        registry.register(
            "crl_number",
            "The highest cRLNumber of the issuer's served CRLs, as a timestamp in milliseconds",
            self.number.clone(),
        );
    }

    pub(crate) fn answered(&self, resource: &'static str, status: http::StatusCode) {
        self.requests.get_or_create(&RequestLabels { resource, status: status.as_u16() }).inc();
    }

    pub(crate) fn asked(&self, count: usize) {
        self.asked.inc_by(u64::try_from(count).unwrap_or(0));
    }

    pub(crate) fn observe(&self, snapshot: &Snapshot, now: Timestamp) {
        for (issuer, shards) in &snapshot.shards {
            let labels = IssuerLabels { issuer: issuer.to_string() };
            let crls: Vec<_> = (0..*shards).filter_map(|shard| snapshot.crl(issuer, shard)).collect();
            let complete = crls.len() == usize::try_from(*shards).unwrap_or(usize::MAX);
            let oldest = crls.iter().map(|crl| now.since(crl.this_update).as_secs()).max().unwrap_or(0);
            let next =
                crls.iter().map(|crl| crl.next_update.as_seconds()).min().filter(|_| complete).unwrap_or(0);
            let number = crls.iter().map(|crl| crl.number).max().unwrap_or(0);
            self.age.get_or_create(&labels).set(i64::try_from(oldest).unwrap_or(i64::MAX));
            self.next_update.get_or_create(&labels).set(next);
            self.number.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}
