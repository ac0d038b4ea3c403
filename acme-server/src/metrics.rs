//! What operators see of the ACME service: requests, problems, validations, orders.

use std::time::Duration;

use ca_core::acme::ChallengeType;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::problem::ProblemType;

/// The metrics of the ACME service; clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<ResourceLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    problems: Family<ProblemLabels, Counter>,
    validation_seconds: Family<ValidationLabels, Histogram, fn() -> Histogram>,
    validations_in_flight: Gauge,
    orders_created: Counter,
    limited: Family<LimitLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    resource: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResourceLabels {
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProblemLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ValidationLabels {
    challenge: &'static str,
    outcome: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 14))
            }),
            in_flight: Gauge::default(),
            problems: Family::default(),
            validation_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.002, 2.0, 15))
            }),
            validations_in_flight: Gauge::default(),
            orders_created: Counter::default(),
            limited: Family::default(),
        }
    }
}

impl Metrics {
    /// Puts the metrics into a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("acme_requests", "ACME requests by resource and status", self.requests.clone());
        registry.register(
            "acme_request_seconds",
            "Time from request to response, waits for outcomes included",
            self.request_seconds.clone(),
        );
        registry.register("acme_requests_in_flight", "ACME requests being answered", self.in_flight.clone());
        registry.register("acme_problems", "Problem documents by ACME error type", self.problems.clone());
        registry.register(
            "acme_validation_seconds",
            "Time from the client's word that it is ready to the outcome, by challenge and outcome",
            self.validation_seconds.clone(),
        );
        registry.register(
            "acme_validations_in_flight",
            "Challenges being validated or waiting for it",
            self.validations_in_flight.clone(),
        );
        registry.register("acme_orders_created", "Orders placed", self.orders_created.clone());
        registry.register(
            "acme_limited",
            "Requests refused by a limit, by its key in acme.limits",
            self.limited.clone(),
        );
    }

    pub(crate) fn request_began(&self) -> InFlight {
        InFlight::new(&self.in_flight)
    }

    pub(crate) fn request_ended(&self, resource: &'static str, status: http::StatusCode, took: Duration) {
        self.requests.get_or_create(&RequestLabels { resource, status: status.as_u16() }).inc();
        self.request_seconds.get_or_create(&ResourceLabels { resource }).observe(took.as_secs_f64());
    }

    pub(crate) fn problem(&self, kind: ProblemType) {
        self.problems.get_or_create(&ProblemLabels { r#type: kind.name() }).inc();
    }

    pub(crate) fn validation_began(&self) -> InFlight {
        InFlight::new(&self.validations_in_flight)
    }

    /// `outcome` is `valid` or the ACME error type.
    pub(crate) fn validation_ended(&self, kind: ChallengeType, outcome: &'static str, took: Duration) {
        let labels = ValidationLabels { challenge: kind.name(), outcome };
        self.validation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A request was refused; `limit` is the key of the limit.
    pub(crate) fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabels { limit }).inc();
    }

    pub(crate) fn order_created(&self) {
        self.orders_created.inc();
    }
}

/// Counts one thing in a gauge for as long as it lives, also when its task is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge);

impl InFlight {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
