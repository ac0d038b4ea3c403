//! What a measurement saw, as JSON for programs and as a page for people.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::cryptography::Cryptography;
use super::latency::{Latencies, rate};
use super::load::Outcome;
use super::metrics::StoreWork;

/// One measurement; `…_ms` are milliseconds, and what is "per order" counts the failed ones too.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    directory: String,
    clients: usize,
    one_account: bool,
    orders: usize,
    failed: u64,
    seconds: f64,
    orders_per_second: f64,
    /// Signed requests.
    requests_per_order: f64,
    steps: Steps,
    client: Client,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Server>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreWork>,
    cryptography: OrderCryptography,
    failures: Vec<Failed>,
}

#[derive(Clone, Debug, Serialize)]
struct Steps {
    new_order: Percentiles,
    authorization: Percentiles,
    challenge: Percentiles,
    finalize: Percentiles,
    certificate: Percentiles,
    order: Percentiles,
}

#[derive(Clone, Debug, Serialize)]
struct Percentiles {
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Client {
    cpu_per_order_ms: f64,
    /// The part of the one core that it can use.
    busy: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Server {
    cpu_per_order_ms: f64,
    /// CPU of an order as a multiple of its own cryptography.
    cpu_to_cryptography: f64,
    memory_before_bytes: u64,
    memory_after_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct OrderCryptography {
    #[serde(flatten)]
    rates: Cryptography,
    per_order_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Failed {
    reason: String,
    times: u64,
}

/// What the measurement used, as differences over it.
#[derive(Clone, Debug)]
pub struct Used {
    /// CPU of this process.
    pub own_cpu: Duration,
    /// CPU of the server, and its memory before and after, if it is known which process it is.
    pub server: Option<(Duration, u64, u64)>,
    /// Work of the server's store, if the server tells.
    pub store: Option<StoreWork>,
}

impl Report {
    /// From what was seen and used.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts of a short measurement, shown with few digits")]
    pub fn new(
        directory: &str,
        clients: usize,
        one_account: bool,
        outcome: &Outcome,
        used: &Used,
        rates: Cryptography,
    ) -> Self {
        let done = outcome.whole.count();
        let all = (done as f64 + outcome.failed() as f64).max(1.0);
        let requests_per_order = outcome.requests as f64 / all;
        let cryptography = rates.of_order(requests_per_order);
        let own_cpu = used.own_cpu.as_secs_f64();
        let steps = &outcome.steps;
        Self {
            directory: directory.to_owned(),
            clients,
            one_account,
            orders: done,
            failed: outcome.failed(),
            seconds: outcome.elapsed.as_secs_f64(),
            orders_per_second: rate(done, outcome.elapsed),
            requests_per_order,
            steps: Steps {
                new_order: (&steps.new_order).into(),
                authorization: (&steps.authorization).into(),
                challenge: (&steps.challenge).into(),
                finalize: (&steps.finalize).into(),
                certificate: (&steps.certificate).into(),
                order: (&outcome.whole).into(),
            },
            client: Client {
                cpu_per_order_ms: own_cpu * 1e3 / all,
                busy: own_cpu / outcome.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
            },
            server: used.server.map(|(cpu, memory_before_bytes, memory_after_bytes)| {
                let cpu = cpu.as_secs_f64() / all;
                Server {
                    cpu_per_order_ms: cpu * 1e3,
                    cpu_to_cryptography: cpu / cryptography,
                    memory_before_bytes,
                    memory_after_bytes,
                }
            }),
            store: used.store.map(|store| store.each(all)),
            cryptography: OrderCryptography { rates, per_order_ms: cryptography * 1e3 },
            failures: outcome
                .failures
                .iter()
                .map(|(reason, times)| Failed { reason: reason.clone(), times: *times })
                .collect(),
        }
    }

    /// How many orders failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The page for people.
    #[must_use]
    pub fn page(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let accounts = match (self.one_account, self.clients) {
            (true, _) => "on one account",
            (false, 1) => "with an account",
            (false, _) => "with an account each",
        };
        writeln!(out, "{}: {} clients {accounts}\n", self.directory, self.clients)?;
        writeln!(
            out,
            "{:.1} orders/s: {} in {:.1} s, {} failed, {:.2} signed requests each\n",
            self.orders_per_second, self.orders, self.seconds, self.failed, self.requests_per_order
        )?;
        writeln!(out, "{:<14}{:>10}{:>10}{:>10}{:>10}", "ms", "p50", "p90", "p99", "max")?;
        for (name, step) in [
            ("newOrder", &self.steps.new_order),
            ("authorization", &self.steps.authorization),
            ("challenge", &self.steps.challenge),
            ("finalize", &self.steps.finalize),
            ("certificate", &self.steps.certificate),
            ("whole order", &self.steps.order),
        ] {
            writeln!(
                out,
                "{name:<14}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
                step.p50_ms, step.p90_ms, step.p99_ms, step.max_ms
            )?;
        }
        writeln!(out)?;
        if let Some(server) = &self.server {
            writeln!(
                out,
                "server CPU    {:.2} ms an order, {:.1} times its cryptography of {:.2} ms ({:.0} verifications/s, {:.0} signatures/s)",
                server.cpu_per_order_ms,
                server.cpu_to_cryptography,
                self.cryptography.per_order_ms,
                self.cryptography.rates.verifies_per_second,
                self.cryptography.rates.signs_per_second
            )?;
            let mib = |bytes: u64| bytes / (1024 * 1024);
            writeln!(
                out,
                "server memory {} MiB before, {} MiB after",
                mib(server.memory_before_bytes),
                mib(server.memory_after_bytes)
            )?;
        }
        if let Some(store) = &self.store {
            writeln!(
                out,
                "server store  {:.2} commits, {:.2} syncs, {:.2} reads an order",
                store.commits, store.syncs, store.reads
            )?;
        }
        writeln!(
            out,
            "own CPU       {:.2} ms an order; {:.0} % of the one core that this program can use",
            self.client.cpu_per_order_ms,
            100.0 * self.client.busy
        )?;
        if self.client.busy > 0.9 {
            writeln!(out, "This program was the limit, and not the server: run several of it.")?;
        }
        for failed in &self.failures {
            writeln!(out, "failed {} times: {}", failed.times, failed.reason)?;
        }
        Ok(())
    }
}

impl From<&Latencies> for Percentiles {
    fn from(latencies: &Latencies) -> Self {
        let [p50_ms, p90_ms, p99_ms, max_ms] =
            latencies.percentiles([50, 90, 99, 100]).map(|span| span.as_secs_f64() * 1e3);
        Self { p50_ms, p90_ms, p99_ms, max_ms }
    }
}
