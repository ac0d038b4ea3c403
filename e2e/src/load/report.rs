//! What a run measured, as a table for people and as JSON for programs.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::level::Outcome;
use super::machine::{Machine, rate};

/// One run. All rates are per second; `…_ms` and `…_us` are milliseconds and microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured: program, keys, directory.
    pub subject: String,
    /// What the machine can do, measured before everything else.
    pub machine: MachineRow,
    /// The same, measured again after everything else: if it differs, something else kept the machine busy.
    pub machine_after: MachineRow,
    /// http-01 orders by number of clients.
    pub orders: Vec<Row>,
    /// OCSP requests by method and number of connections.
    pub ocsp: Vec<Row>,
}

/// What the machine can do.
#[derive(Clone, Debug, Serialize)]
pub struct MachineRow {
    processor: String,
    syncs_per_second: f64,
    sync_p50_ms: f64,
    sync_p99_ms: f64,
    signs_per_second: f64,
    verifies_per_second: f64,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `http-01`, `GET` or `POST`.
    pub kind: String,
    /// How many clients at once.
    pub clients: usize,
    done: usize,
    failed: u64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    requests_each: f64,
    /// CPU of the server for one, user and system.
    server_cpu_us: f64,
    /// CPU of the load generator for one.
    own_cpu_us: f64,
    /// What the store did for one; other work of the server in that time included.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    store: Option<StoreWork>,
    errors: Vec<String>,
}

/// What a measurement used, as differences over it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// CPU of the server.
    pub server_cpu: Duration,
    /// CPU of the load generator.
    pub own_cpu: Duration,
    /// Work of the store, if the server tells.
    pub store: Option<StoreWork>,
}

/// Work of the server's store.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StoreWork {
    /// Transactions, each made durable by a sync.
    pub syncs: f64,
    /// Commits, many of which may share a transaction.
    pub commits: f64,
    /// Reads.
    pub reads: f64,
}

impl StoreWork {
    /// What was done since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            syncs: self.syncs - before.syncs,
            commits: self.commits - before.commits,
            reads: self.reads - before.reads,
        }
    }

    fn each(self, count: f64) -> Self {
        Self { syncs: self.syncs / count, commits: self.commits / count, reads: self.reads / count }
    }
}

impl From<&Machine> for MachineRow {
    fn from(machine: &Machine) -> Self {
        Self {
            processor: machine.processor.clone(),
            syncs_per_second: machine.syncs_per_second,
            sync_p50_ms: milliseconds(machine.sync_latencies.percentile(50)),
            sync_p99_ms: milliseconds(machine.sync_latencies.percentile(99)),
            signs_per_second: machine.signs_per_second,
            verifies_per_second: machine.verifies_per_second,
        }
    }
}

impl Row {
    /// From what was seen and used. Work that failed used the server too: it counts in the averages.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts of a short measurement, shown with few digits")]
    pub fn new(kind: &str, clients: usize, outcome: &Outcome, used: Used) -> Self {
        let done = outcome.latencies.count();
        let all = (done as f64 + outcome.failed as f64).max(1.0);
        Self {
            kind: kind.to_owned(),
            clients,
            done,
            failed: outcome.failed,
            per_second: rate(done, outcome.elapsed),
            p50_ms: milliseconds(outcome.latencies.percentile(50)),
            p99_ms: milliseconds(outcome.latencies.percentile(99)),
            requests_each: outcome.requests as f64 / all,
            server_cpu_us: used.server_cpu.as_secs_f64() * 1e6 / all,
            own_cpu_us: used.own_cpu.as_secs_f64() * 1e6 / all,
            store: used.store.map(|store| store.each(all)),
            errors: outcome.errors.iter().take(5).cloned().collect(),
        }
    }
}

impl MachineRow {
    /// Whether a rate fell or rose by more than a quarter.
    fn differs(&self, other: &Self) -> bool {
        let apart = |one: f64, other: f64| one.min(other) < 0.75 * one.max(other);
        apart(self.syncs_per_second, other.syncs_per_second)
            || apart(self.signs_per_second, other.signs_per_second)
            || apart(self.verifies_per_second, other.verifies_per_second)
    }
}

impl Report {
    /// How many pieces of work failed in all.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.orders.iter().chain(&self.ocsp).map(|row| row.failed).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", self.subject, self.machine.processor)?;
        writeln!(f, "{:<16}{:>10}{:>10}", "a second", "before", "after")?;
        for (name, value) in [
            ("fsync of 4 KiB", (|row| row.syncs_per_second) as fn(&MachineRow) -> f64),
            ("P-256 sign", |row| row.signs_per_second),
            ("P-256 verify", |row| row.verifies_per_second),
        ] {
            writeln!(f, "{name:<16}{:>10.0}{:>10.0}", value(&self.machine), value(&self.machine_after))?;
        }
        if self.machine.differs(&self.machine_after) {
            writeln!(f, "The machine was not quiet: compare with no other run.")?;
        }

        writeln!(f, "\n{:>58} each order: {:>20} {:>14}", "", "store", "CPU ms")?;
        writeln!(
            f,
            "{:<8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}{:>10}{:>9}{:>7}{:>7}{:>8}{:>7}",
            "orders",
            "clients",
            "done",
            "failed",
            "orders/s",
            "p50 ms",
            "p99 ms",
            "requests",
            "commits",
            "syncs",
            "reads",
            "server",
            "own"
        )?;
        for row in &self.orders {
            let store = |value: fn(StoreWork) -> f64| {
                row.store.map_or_else(|| "-".to_owned(), |store| format!("{:.2}", value(store)))
            };
            writeln!(
                f,
                "{:<8}{:>8}{:>8}{:>8}{:>10.1}{:>9.1}{:>9.1}{:>10.2}{:>9}{:>7}{:>7}{:>8.2}{:>7.2}",
                row.kind,
                row.clients,
                row.done,
                row.failed,
                row.per_second,
                row.p50_ms,
                row.p99_ms,
                row.requests_each,
                store(|store| store.commits),
                store(|store| store.syncs),
                store(|store| store.reads),
                row.server_cpu_us / 1000.0,
                row.own_cpu_us / 1000.0,
            )?;
        }
        writeln!(f, "\n{:>60} CPU s per 10,000", "")?;
        writeln!(
            f,
            "{:<8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}{:>8}{:>8}",
            "OCSP", "clients", "done", "failed", "asked/s", "p50 ms", "p99 ms", "server", "own"
        )?;
        for row in &self.ocsp {
            writeln!(
                f,
                "{:<8}{:>8}{:>8}{:>8}{:>10.0}{:>9.2}{:>9.2}{:>8.2}{:>8.2}",
                row.kind,
                row.clients,
                row.done,
                row.failed,
                row.per_second,
                row.p50_ms,
                row.p99_ms,
                row.server_cpu_us / 100.0,
                row.own_cpu_us / 100.0,
            )?;
        }
        for error in self.orders.iter().chain(&self.ocsp).flat_map(|row| &row.errors).take(10) {
            writeln!(f, "failed: {error}")?;
        }
        Ok(())
    }
}

fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
