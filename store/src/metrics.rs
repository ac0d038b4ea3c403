//! What the store tells of itself to Prometheus.

use ca_core::store::StoreError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters and histograms of one process's store. Clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) commit_duration: Histogram,
    pub(crate) batch_size: Histogram,
    pub(crate) commits: Family<CommitLabels, Counter>,
    pub(crate) checkpoints: Counter,
    pub(crate) reads: Family<ReadLabels, Counter>,
}

/// How a commit ended, as a label.
const fn outcome(result: &Result<(), StoreError>) -> &'static str {
    match result {
        Ok(()) => "committed",
        Err(StoreError::Conflict) => "conflict",
        Err(StoreError::NotFound(_)) => "not_found",
        Err(StoreError::Busy(_)) => "busy",
        Err(StoreError::Full(_)) => "full",
        Err(StoreError::Corrupt(_)) => "corrupt",
        Err(StoreError::Refused(_)) => "refused",
        Err(StoreError::Limited(_) | StoreError::Bounded(_) | StoreError::Paused(_)) => "limited",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommitLabels {
    pub(crate) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReadLabels {
    pub(crate) failed: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // From a quarter of a millisecond, a fast disk's sync, to 8 s.
            commit_duration: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            commits: Family::default(),
            checkpoints: Counter::default(),
            reads: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers everything under `store_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("store");
        registry.register_with_unit(
            "commit_duration",
            "Time from asking for a commit to its answer",
            Unit::Seconds,
            self.commit_duration.clone(),
        );
        registry.register(
            "commit_batch_size",
            "Commits that shared one transaction and one sync",
            self.batch_size.clone(),
        );
        registry.register("commits", "Commits by outcome", self.commits.clone());
        registry.register(
            "checkpoints",
            "Merges of the write-ahead log into the main file; each takes up to three syncs",
            self.checkpoints.clone(),
        );
        registry.register("reads", "Reads by whether they failed", self.reads.clone());
    }

    pub(crate) fn committed(&self, seconds: f64, result: &Result<(), StoreError>) {
        self.commit_duration.observe(seconds);
        self.commits.get_or_create(&CommitLabels { outcome: outcome(result) }).inc();
    }

    pub(crate) fn read(&self, failed: bool) {
        self.reads.get_or_create(&ReadLabels { failed }).inc();
    }
}
