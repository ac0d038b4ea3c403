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
    /// What the machine can do.
    pub machine: MachineRow,
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
    /// Transactions that the store synced for one; other work of the server in that time included.
    #[serde(skip_serializing_if = "Option::is_none")]
    syncs: Option<f64>,
    errors: Vec<String>,
}

/// What a measurement used, as differences over it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// CPU of the server.
    pub server_cpu: Duration,
    /// CPU of the load generator.
    pub own_cpu: Duration,
    /// Transactions that the store synced, if the server tells.
    pub syncs: Option<f64>,
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
            syncs: used.syncs.map(|syncs| syncs / all),
            errors: outcome.errors.iter().take(5).cloned().collect(),
        }
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
        let machine = &self.machine;
        writeln!(f, "{}\n{}\n", self.subject, machine.processor)?;
        writeln!(
            f,
            "fsync of 4 KiB {:>12.0} /s, p50 {:.2} ms, p99 {:.2} ms",
            machine.syncs_per_second, machine.sync_p50_ms, machine.sync_p99_ms
        )?;
        writeln!(f, "P-256 sign     {:>12.0} /s on one core", machine.signs_per_second)?;
        writeln!(f, "P-256 verify   {:>12.0} /s on one core", machine.verifies_per_second)?;

        writeln!(
            f,
            "\n{:<8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}{:>10}{:>8}{:>13}{:>12}",
            "orders",
            "clients",
            "done",
            "failed",
            "orders/s",
            "p50 ms",
            "p99 ms",
            "requests",
            "syncs",
            "server CPU ms",
            "own CPU ms"
        )?;
        for row in &self.orders {
            writeln!(
                f,
                "{:<8}{:>8}{:>8}{:>8}{:>10.1}{:>9.1}{:>9.1}{:>10.2}{:>8}{:>13.2}{:>12.2}",
                row.kind,
                row.clients,
                row.done,
                row.failed,
                row.per_second,
                row.p50_ms,
                row.p99_ms,
                row.requests_each,
                row.syncs.map_or_else(|| "-".to_owned(), |syncs| format!("{syncs:.2}")),
                row.server_cpu_us / 1000.0,
                row.own_cpu_us / 1000.0,
            )?;
        }
        writeln!(
            f,
            "\n{:<8}{:>8}{:>8}{:>8}{:>10}{:>9}{:>9}   {:>28}{:>12}",
            "OCSP",
            "clients",
            "done",
            "failed",
            "asked/s",
            "p50 ms",
            "p99 ms",
            "server CPU s per 10,000",
            "own"
        )?;
        for row in &self.ocsp {
            writeln!(
                f,
                "{:<8}{:>8}{:>8}{:>8}{:>10.0}{:>9.2}{:>9.2}   {:>28.2}{:>12.2}",
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
