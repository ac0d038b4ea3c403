//! `chancery bench`: load on an ACME server, for those who want to know what theirs bears.
//!
//! It knows RFC 8555 and nothing of the server. One thread drives every client, so that it takes at most one core from a
//! server on the same machine; its own CPU is measured too, so that nobody takes its limit for the server's.

mod client;
mod connection;
mod cryptography;
mod csr;
mod http01;
mod jose;
mod latency;
mod load;
mod metrics;
mod process;
mod report;

use std::cell::Cell;
use std::io::{IsTerminal, Write, stderr};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ca_core::random::SystemRandom;
use clap::{Args, Subcommand};
use rand_core::Rng;

use crate::cli::output::Output;
use crate::failure::{Code, Failure};
use client::Directory;
use cryptography::Cryptography;
use http01::Http01;
use load::{Bounds, Outcome, Subscriber};
use metrics::StoreWork;
use report::{Report, Used};

/// How many clients at the most: a machine has so many ports and descriptors, and no more.
const MOST_CLIENTS: u16 = 4096;

/// What load is put on.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Orders from an ACME server: whole ones, of one dns name, by http-01
    ///
    /// Names are under --domain-suffix; the server must resolve them to where this command answers its challenges. It
    /// answers for any name, at --http01.
    #[command(after_help = "\
Examples:
  chancery bench acme --directory https://127.0.0.1:8443/acme/default/directory
  chancery bench acme --directory https://127.0.0.1:8443/acme/default/directory --clients 32 \\
      --server-pid 4711 --metrics http://127.0.0.1:9464/metrics
  chancery bench acme --directory https://ca.test:8443/acme/default/directory --roots roots.pem \\
      --domain-suffix load.example.org --http01 0.0.0.0:80 --allow-remote --rate 20")]
    Acme(Acme),
}

/// How orders are made.
#[derive(Debug, Args)]
pub struct Acme {
    /// The server's directory
    #[arg(long, value_name = "URL")]
    directory: String,
    /// The roots that its TLS certificate goes back to, in PEM; by default roots.pem of the data directory
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// How many clients order at once
    #[arg(long, default_value = "8", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_CLIENTS)))]
    clients: u16,
    /// One account for all of them, and not one each
    #[arg(long)]
    one_account: bool,
    /// How many orders
    #[arg(long, default_value = "1000", value_name = "N")]
    orders: u64,
    /// No order is begun after so many seconds
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    seconds: u64,
    /// Orders begun a second; without it as many as the server bears
    #[arg(long, value_name = "ORDERS", value_parser = positive)]
    rate: Option<f64>,
    /// Orders before the measurement, which are not counted
    #[arg(long, default_value = "32", value_name = "N")]
    warm_up: u64,
    /// What the names end in; whoever validates must find --http01 under them
    #[arg(long, default_value = "load.localhost", value_name = "DOMAIN")]
    domain_suffix: String,
    /// Where challenges are answered
    #[arg(long, default_value = "127.0.0.1:80", value_name = "ADDRESS")]
    http01: SocketAddr,
    /// The server's process on this machine, whose CPU and memory are measured
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// A Chancery's metrics, for the work of its store
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// Put load on another machine; ask whoever runs it
    #[arg(long)]
    allow_remote: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number")?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}

/// Measures, and prints what was seen.
///
/// # Errors
/// If there was nothing to measure, or an order failed.
pub fn run(command: BenchCommand, data: &std::path::Path, output: &Output) -> Result<(), Failure> {
    let BenchCommand::Acme(mut options) = command;
    let roots = data.join("roots.pem");
    if options.roots.is_none() && roots.exists() {
        options.roots = Some(roots);
    }
    let report = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(measure(&options)))
        .map_err(|error| {
            let fix = "see `chancery bench acme --help`; the server's log may say more";
            Failure::new(Code::Server, format!("{error:#}"), fix)
        })?;
    if output.is_json() {
        output.raw(&format!("{}\n", serde_json::to_value(&report).unwrap_or_default()));
    } else {
        output.raw(&report.page());
    }
    match report.failed() {
        0 => Ok(()),
        failed => {
            let fix =
                "the reasons are listed above; with fewer --clients or a lower --rate there may be none";
            Err(Failure::new(Code::Server, format!("{failed} orders failed"), fix))
        }
    }
}

async fn measure(options: &Acme) -> Result<Report> {
    let directory =
        Directory::read(&options.directory, options.roots.as_deref(), options.allow_remote).await?;
    let http01 = Rc::new(Http01::start(options.http01).await?);
    let clients = usize::from(options.clients);
    // Each run orders names of its own.
    let run = ca_core::id::to_hex(&SystemRandom.next_u32().to_be_bytes());
    let names = format!("{run}.{}", options.domain_suffix);
    let mut subscribers = Subscriber::register(&directory, &names, clients, options.one_account).await?;
    let time = Duration::from_secs(options.seconds);

    let warm_up = Bounds { orders: options.warm_up, time, rate: None };
    let progress = Progress::new("warm-up", warm_up.orders);
    let before = load::run(&mut subscribers, &http01, warm_up, move || progress.step()).await;
    if let Some(why) = before.failures.keys().next() {
        ensure!(before.whole.count() > 0 || options.warm_up == 0, "no order succeeds: {why}");
    }

    let rates = Cryptography::measure()?;
    let bounds = Bounds { orders: options.orders, time, rate: options.rate };
    let progress = Progress::new("orders", bounds.orders);
    let begun = Usage::now(options).await?;
    let outcome = load::run(&mut subscribers, &http01, bounds, move || progress.step()).await;
    let used = begun.until(Usage::now(options).await?);
    let rates = rates.best(Cryptography::measure()?);
    Ok(report(options, clients, &outcome, &used, rates))
}

fn report(options: &Acme, clients: usize, outcome: &Outcome, used: &Used, rates: Cryptography) -> Report {
    Report::new(&options.directory, clients, options.one_account, outcome, used, rates)
}

/// What was used up to a moment.
struct Usage {
    own_cpu: Duration,
    server: Option<(Duration, u64)>,
    store: Option<StoreWork>,
}

impl Usage {
    async fn now(options: &Acme) -> Result<Self> {
        let store = match &options.metrics {
            Some(url) => Some(StoreWork::read(url).await?),
            None => None,
        };
        let server =
            options.server_pid.map(|pid| Ok::<_, anyhow::Error>((process::cpu(pid)?, process::memory(pid)?)));
        Ok(Self { own_cpu: process::cpu(std::process::id())?, server: server.transpose()?, store })
    }

    fn until(self, end: Self) -> Used {
        Used {
            own_cpu: end.own_cpu.saturating_sub(self.own_cpu),
            server: self.server.zip(end.server).map(|((cpu, memory), (later, memory_later))| {
                (later.saturating_sub(cpu), memory, memory_later)
            }),
            store: self.store.zip(end.store).map(|(before, after)| after.since(before)),
        }
    }
}

/// A line on standard error that counts, on a terminal only.
struct Progress {
    what: &'static str,
    all: u64,
    done: Cell<u64>,
    shown: bool,
}

impl Progress {
    /// How wide the bar is.
    const WIDTH: u64 = 40;

    fn new(what: &'static str, all: u64) -> Self {
        Self { what, all: all.max(1), done: Cell::new(0), shown: stderr().is_terminal() }
    }

    fn step(&self) {
        let done = self.done.get() + 1;
        self.done.set(done);
        let filled = |done: u64| done * Self::WIDTH / self.all;
        if self.shown && (filled(done) != filled(done - 1) || done == self.all) {
            let full = usize::try_from(filled(done)).unwrap_or(0);
            let bar = "█".repeat(full) + &"░".repeat((40_usize).saturating_sub(full));
            eprint!("\r\x1b[K{:<8} {bar} {done}/{}", self.what, self.all);
            // A progress line that can't be written is no reason to stop.
            let _ = stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
