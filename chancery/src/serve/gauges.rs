//! What the process measures: the services' own metrics, issuance by stage, and gauges read when somebody looks.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ca_core::authority::{Observer, Stage};
use ca_core::id::IssuerId;
use ca_core::store::Store;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::effects::EffectMetrics;
use super::prune::PruneMetrics;
use crate::policy_hook::PolicyMetrics;

/// Gauges from the store are read at most so often.
const READ_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

/// The authority's work in numbers; clones share them.
#[derive(Clone, Debug)]
pub struct AuthorityMetrics {
    stages: Family<StageLabels, Histogram, fn() -> Histogram>,
    crls: Counter,
    /// Of the loop that carries effects out.
    pub effects: EffectMetrics,
    /// Of the loop that deletes dead rows.
    pub pruned: PruneMetrics,
    /// Of the policy webhook.
    pub policy: PolicyMetrics,
}

impl Default for AuthorityMetrics {
    fn default() -> Self {
        Self {
            // 50 µs to about 1.6 s.
            stages: Family::new_with_constructor(|| Histogram::new(exponential_buckets(50e-6, 2.0, 16))),
            crls: Counter::default(),
            effects: EffectMetrics::default(),
            pruned: PruneMetrics::default(),
            policy: PolicyMetrics::default(),
        }
    }
}

impl Observer for AuthorityMetrics {
    fn stage(&self, stage: Stage, elapsed: Duration) {
        self.stages.get_or_create(&StageLabels { stage: stage.name() }).observe(elapsed.as_secs_f64());
    }

    fn crl_published(&self, _: &IssuerId, _: u32, _: u64) {
        self.crls.inc();
    }
}

impl AuthorityMetrics {
    /// Registers everything; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("issuance_stage_seconds", "Time of each stage of an issuance", self.stages.clone());
        registry.register("pruned_rows", "Dead rows deleted, by kind", self.pruned.rows.clone());
        self.policy.register(registry);
        registry.register("crls_published", "CRLs signed and published", self.crls.clone());
        registry.register("effects_in_flight", "Effects being carried out", self.effects.in_flight.clone());
        registry.register(
            "effects_waiting",
            "Effects that failed and wait for another try",
            self.effects.waiting.clone(),
        );
        registry.register(
            "effects_failures",
            "Tries to carry an effect out that failed",
            self.effects.failures.clone(),
        );
    }
}

/// The registry, and the gauges that are read from the store when somebody looks.
pub struct Instrumentation {
    registry: Registry,
    store: Arc<dyn Store>,
    orders: Family<StateLabels, Gauge>,
    wal_bytes: Gauge,
    store_bytes: Gauge,
    last_read: Mutex<Option<Instant>>,
}

impl fmt::Debug for Instrumentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instrumentation").finish_non_exhaustive()
    }
}

impl Instrumentation {
    /// Gauges over a store, beside what `register` adds to the registry, all under `chancery_`.
    pub fn new(store: Arc<dyn Store>, register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::with_prefix("chancery");
        register(&mut registry);
        registry.register("build", "The program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let (orders, wal_bytes, store_bytes) = (Family::default(), Gauge::default(), Gauge::default());
        registry.register("orders", "ACME orders by stored state", orders.clone());
        registry.register("store_wal_bytes", "Size of the store's write-ahead log", wal_bytes.clone());
        registry.register(
            "store_bytes",
            "Size of the store without its write-ahead log",
            store_bytes.clone(),
        );
        Self { registry, store, orders, wal_bytes, store_bytes, last_read: Mutex::default() }
    }

    /// Everything in OpenMetrics text.
    pub async fn encode(&self) -> String {
        self.read().await;
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("the metrics can't be encoded");
        }
        text
    }

    async fn read(&self) {
        {
            let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < READ_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        // What can't be read now keeps its last value; the store's own metrics tell of the failure.
        if let Ok(counts) = self.store.order_counts().await {
            for (state, count) in counts {
                self.orders.get_or_create(&StateLabels { state }).set(number(count));
            }
        }
        if let Ok(sizes) = self.store.sizes().await {
            self.wal_bytes.set(number(sizes.wal_bytes));
            self.store_bytes.set(number(sizes.store_bytes));
        }
    }
}
