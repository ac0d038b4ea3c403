//! Runs the release build of Chancery in a directory of its own and measures orders and OCSP requests against it;
//! `cargo xtask bench` builds both and starts this.

#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::http;
use e2e::load::acme::Directory;
use e2e::load::connection::Endpoint;
use e2e::load::http01::Http01;
use e2e::load::level::{self, Bounds, Outcome, Subscriber};
use e2e::load::machine::{Machine, cpu};
use e2e::load::ocsp::Question;
use e2e::load::report::{Report, Row, StoreWork, Used};
use hyper::Method;
use tokio::runtime::{Builder, Runtime};

const USAGE: &str = "\
Usage: cargo xtask bench [OPTIONS]
  --orders N        orders of each measurement [400]
  --clients A,B,…   clients at once, one measurement each [1,8,32]
  --seconds N       no measurement begins work for longer than this [10]
  --json            print JSON instead of the table";

/// Orders that nobody times: they warm the server up and give the certificates that OCSP is asked about.
const WARM_UP: u64 = 32;
/// OCSP requests of one measurement at the most, and how long it lasts.
const OCSP: Bounds = Bounds { count: 500_000, time: Duration::from_secs(3) };
const OCSP_CONNECTIONS: [usize; 2] = [1, 32];

/// No more clients than a machine's ports and descriptors bear.
const MOST_CLIENTS: usize = 256;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Options::parse(&arguments).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    orders: Bounds,
    clients: Vec<usize>,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let (mut count, mut seconds, mut clients, mut json) = (400, 10, vec![1, 8, 32], false);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--orders" => count = value()?.parse().context("--orders")?,
                "--seconds" => seconds = value()?.parse().context("--seconds")?,
                "--clients" => {
                    let numbers = value()?.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
                    clients = numbers.context("--clients")?;
                }
                "--json" => json = true,
                other => bail!("`{other}` is no option\n{USAGE}"),
            }
        }
        ensure!(
            clients.iter().all(|clients| (1..=MOST_CLIENTS).contains(clients)),
            "--clients: from 1 to {MOST_CLIENTS} each"
        );
        Ok(Self { orders: Bounds { count, time: Duration::from_secs(seconds) }, clients, json })
    }
}

/// A server, what drives it, and what it answers challenges with.
struct Bench {
    chancery: Chancery,
    runtime: Runtime,
    directory: Directory,
    http01: Rc<Http01>,
}

fn run(options: &Options) -> Result<()> {
    let steps = options.clients.len() + 2 * OCSP_CONNECTIONS.len() + 3;
    let mut progress = Progress { done: 0, steps };
    progress.step("starting chancery");
    let bench = Bench::start()?;
    let data = bench.chancery.data();
    let directory = data.parent().context("the data directory has no parent")?;
    progress.step("disk and processor");
    let machine = Machine::measure(directory)?;

    let warm_up = bench.orders("warm-up", 1, Bounds { count: WARM_UP, ..options.orders })?.0;
    if let Some(error) = warm_up.errors.first() {
        bail!("no order succeeds, or not each: {error}");
    }
    let mut orders = Vec::new();
    for (number, &clients) in options.clients.iter().enumerate() {
        progress.step(&format!("orders, {clients} at once"));
        let (outcome, used) = bench.orders(&format!("m{number}"), clients, options.orders)?;
        orders.push(Row::new("http-01", clients, &outcome, used));
    }

    let responder = format!("{}/ocsp", bench.chancery.pki_url()?);
    let questions = warm_up.chains.iter().map(|chain| Question::new(std::str::from_utf8(chain)?, &responder));
    let questions: Rc<[Question]> = questions.collect::<Result<Vec<_>>>()?.into();
    let endpoint = Endpoint::new(&responder, None)?;
    let mut ocsp = Vec::new();
    for method in [Method::GET, Method::POST] {
        for connections in OCSP_CONNECTIONS {
            progress.step(&format!("OCSP {method}, {connections} connections"));
            let bounds = Bounds { time: OCSP.time.min(options.orders.time), ..OCSP };
            let (outcome, used) = bench.measure(|| {
                let measured = level::ocsp(&endpoint, Rc::clone(&questions), &method, connections, bounds);
                bench.runtime.block_on(measured)
            })?;
            ocsp.push(Row::new(method.as_str(), connections, &outcome, used));
        }
    }
    progress.step("disk and processor again");
    let machine_after = (&Machine::measure(directory)?).into();
    progress.end();

    let subject = format!(
        "Chancery, release build, software P-256 keys, data under {}",
        std::env::temp_dir().display()
    );
    let report = Report { subject, machine: (&machine).into(), machine_after, orders, ocsp };
    bench.stop()?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    ensure!(report.failed() == 0, "{} failed", report.failed());
    Ok(())
}

impl Bench {
    fn start() -> Result<Self> {
        // The harness prints the log when it is dropped: only what is wrong is of interest here.
        let settings = Settings::with(Keys::Software).set("CHANCERY_LOG", "warn");
        let chancery = Chancery::start(&settings)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let ready = chancery.ready()?;
        let directory = runtime.block_on(Directory::read(&ready.acme_directory, Some(&ready.roots_pem)))?;
        let http01 = Rc::new(runtime.block_on(Http01::start(chancery.http01()))?);
        Ok(Self { chancery, runtime, directory, http01 })
    }

    /// Orders with so many new accounts, which are created before the measurement.
    fn orders(&self, label: &str, clients: usize, bounds: Bounds) -> Result<(Outcome, Used)> {
        let subscribers = self.runtime.block_on(Subscriber::register(&self.directory, label, clients))?;
        self.measure(|| self.runtime.block_on(level::orders(subscribers, Rc::clone(&self.http01), bounds)))
    }

    /// What `work` saw, and what it cost the server and us.
    fn measure(&self, work: impl FnOnce() -> Outcome) -> Result<(Outcome, Used)> {
        let server = self.chancery.process_id().context("chancery is not running")?;
        let before = (self.store(), cpu(server)?, cpu(std::process::id())?);
        let outcome = work();
        let after = (cpu(std::process::id())?, cpu(server)?, self.store());
        let used = Used {
            server_cpu: after.1.saturating_sub(before.1),
            own_cpu: after.0.saturating_sub(before.2),
            store: before.0.zip(after.2).map(|(before, after)| after.since(before)),
        };
        Ok((outcome, used))
    }

    /// What the store has done so far, from the metrics; a transaction is one entry of the batch histogram.
    fn store(&self) -> Option<StoreWork> {
        let answer = http::get(&format!("{}/metrics", self.chancery.metrics_url().ok()?)).ok()?;
        let text = String::from_utf8(answer.body).ok()?;
        let sum = |metric: &str| {
            let mut values = text.lines().filter_map(|line| {
                let labels = line.strip_prefix(metric)?;
                labels.starts_with([' ', '{']).then(|| labels.rsplit(' ').next()?.parse::<f64>().ok())?
            });
            let first = values.next()?;
            Some(values.fold(first, |sum, value| sum + value))
        };
        let (commits, reads) = (sum("chancery_store_commits_total")?, sum("chancery_store_reads_total")?);
        Some(StoreWork { syncs: sum("chancery_store_commit_batch_size_count")?, commits, reads })
    }

    /// Stops the server; a log of the whole run is of interest only if it did not go well.
    fn stop(mut self) -> Result<()> {
        self.chancery.stop()
    }
}

/// One line on standard error; on a terminal each step writes over the one before.
struct Progress {
    done: usize,
    steps: usize,
}

impl Progress {
    fn step(&mut self, text: &str) {
        self.done += 1;
        let line = format!("[{}/{}] {text}", self.done, self.steps);
        if stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            // A progress line that can't be written is no reason to stop.
            let _ = stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
