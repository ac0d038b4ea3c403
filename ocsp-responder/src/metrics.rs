//! What operators see of the responder: requests, latency, signatures, the cache, and the responder certificates.

use std::time::Duration;

use ca_core::id::IssuerId;
use ca_core::time::Timestamp;
use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The metrics of the responder; clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    latency: Histogram,
    signatures: Family<SignatureLabels, Counter>,
    cache_hits: Counter,
    cache_misses: Counter,
    certificate_age: Family<IssuerLabels, Gauge>,
    certificate_not_after: Family<IssuerLabels, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SignatureLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IssuerLabels {
    issuer: String,
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Revoked,
    Unknown,
    /// Several CertIDs in one request.
    Several,
    MalformedRequest,
    InternalError,
    TryLater,
    Unauthorized,
    /// Not a request to a responder at all: 404, 405, a body that never came.
    HttpError,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Several => "several",
            Self::MalformedRequest => "malformedRequest",
            Self::InternalError => "internalError",
            Self::TryLater => "tryLater",
            Self::Unauthorized => "unauthorized",
            Self::HttpError => "http-error",
        }
    }
}

/// The methods that we answer; a stranger's own words make no labels.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            // 10 µs to about 2.6 s: from an answer out of memory to a key in trouble.
            latency: Histogram::new(exponential_buckets(10e-6, 4.0, 10)),
            signatures: Family::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            certificate_age: Family::default(),
            certificate_not_after: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers everything under names that begin with `ocsp_`; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "ocsp_requests",
            "OCSP requests by HTTP method and by status or error answered",
            self.requests.clone(),
        );
        registry.register(
            "ocsp_request_seconds",
            "Time from a request's head to its response",
            self.latency.clone(),
        );
        registry.register("ocsp_signatures", "Signatures asked of responder keys", self.signatures.clone());
        registry.register("ocsp_cache_hits", "Responses served from memory", self.cache_hits.clone());
        registry.register(
            "ocsp_cache_misses",
            "Responses that could have been in memory and were not",
            self.cache_misses.clone(),
        );
        registry.register(
            "ocsp_responder_certificate_age_seconds",
            "Age of the responder certificate in use, from its notBefore",
            self.certificate_age.clone(),
        );
        registry.register(
            "ocsp_responder_certificate_not_after_seconds",
            "notAfter of the responder certificate in use, in seconds since 1970; 0 while there is none",
            self.certificate_not_after.clone(),
        );
    }

    pub(crate) fn answered(&self, method: &Method, outcome: Outcome, took: Duration) {
        let labels = RequestLabels { method: method_name(method), outcome: outcome.name() };
        self.requests.get_or_create(&labels).inc();
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn signed(&self, ok: bool) {
        self.count(if ok { "ok" } else { "failed" });
    }

    pub(crate) fn queue_full(&self) {
        self.count("queue-full");
    }

    fn count(&self, result: &'static str) {
        self.signatures.get_or_create(&SignatureLabels { result }).inc();
    }

    pub(crate) fn cache(&self, hit: bool) {
        if hit {
            self.cache_hits.inc()
        } else {
            self.cache_misses.inc()
        };
    }

    /// The validity of the responder certificate in use; `None` while there is none.
    pub(crate) fn certificate(
        &self,
        issuer: &IssuerId,
        validity: Option<(Timestamp, Timestamp)>,
        now: Timestamp,
    ) {
        let labels = IssuerLabels { issuer: issuer.to_string() };
        let (age, not_after) = validity.map_or((0, 0), |(not_before, not_after)| {
            (i64::try_from(now.since(not_before).as_secs()).unwrap_or(i64::MAX), not_after.as_seconds())
        });
        self.certificate_age.get_or_create(&labels).set(age);
        self.certificate_not_after.get_or_create(&labels).set(not_after);
    }
}
