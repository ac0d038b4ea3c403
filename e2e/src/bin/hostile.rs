//! Measures what orders of well-behaved clients take while others attack the same release build of Chancery, and what
//! memory it has before and after; `cargo xtask bench hostile` builds both and starts this.

#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::acme::Client;
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::dns::{Data, Dns};
use e2e::eventually;
use e2e::far_side::FarSide;
use e2e::load::acme::Directory;
use e2e::load::http01::Http01;
use e2e::load::level::{self, Bounds, Outcome, Subscriber};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Well-behaved clients at once, and how long they order in each measurement.
const CLIENTS: usize = 4;
const BOUNDS: Bounds = Bounds { count: 100_000, time: Duration::from_secs(8) };
/// Connections of those that only connect.
const CROWD: usize = 10_000;
/// Names that the hostile account has validated at a time.
const NAMES: usize = 48;
/// Where the hostile names' server is: its port is the one that http-01 is asked at.
const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    chancery: Chancery,
    runtime: Runtime,
    directory: Directory,
    http01: Rc<Http01>,
    dns: Dns,
    measured: usize,
}

fn run() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut bench = Bench::start()?;
    let far = SocketAddr::from((FAR, bench.chancery.http01().port()));
    let _far = FarSide::start(far, answer)?;
    println!("{:28} {:>10} {:>9} {:>9} {:>8} {:>6}", "", "orders/s", "p50 ms", "p99 ms", "failed", "MiB");
    bench.orders("warm-up", None)?;
    bench.orders("nobody attacks", None)?;
    for _ in 0..2 {
        let crowd = bench.crowd()?;
        bench.orders("10,000 open connections", None)?;
        drop(crowd);
        bench.orders("after them", None)?;
    }
    for kind in ["endless", "circle", "slow", "set"] {
        let label = match kind {
            "endless" => "endless http-01 bodies",
            "circle" => "redirects in a circle",
            "slow" => "slow http-01 bodies",
            _ => "huge TXT sets",
        };
        let attack = Attack::new(&bench, kind)?;
        bench.orders(label, Some(&attack))?;
    }
    bench.orders("nobody attacks any more", None)?;
    let log = bench.chancery.log();
    ensure!(!log.contains("panicked"), "the program panicked");
    bench.chancery.stop()
}

/// What the hostile names' server answers.
fn answer(host: &str, target: &str, mut stream: TcpStream) {
    // Whoever asked hangs up at some point.
    let _ = match host.split('.').nth(1) {
        Some("endless") => {
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .and_then(|()| (0..100_000).try_for_each(|_| stream.write_all(chunk.as_bytes())))
        }
        Some("circle") => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {target}x\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes())
        }
        _ => {
            // Until the far side closes, which it does when its attempt is over.
            let begun = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
            begun
        }
    };
}

impl Bench {
    fn start() -> Result<Self> {
        let dns = Dns::start()?;
        let settings = Settings::with(Keys::Software)
            .dns(dns.address())
            .set("CHANCERY_LOG", "error")
            .set("CHANCERY__LISTEN__HEADER_TIMEOUT_SECONDS", "600");
        let chancery = Chancery::start(&settings)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let ready = chancery.ready()?;
        let directory = runtime.block_on(Directory::read(&ready.acme_directory, Some(&ready.roots_pem)))?;
        let http01 = Rc::new(runtime.block_on(Http01::start(chancery.http01()))?);
        Ok(Self { chancery, runtime, directory, http01, dns, measured: 0 })
    }

    /// Orders, while the attack goes on if there is one, and prints what they took.
    fn orders(&mut self, label: &str, attack: Option<&Attack>) -> Result<()> {
        self.measured += 1;
        let name = format!("m{}", self.measured);
        let subscribers = self.runtime.block_on(Subscriber::register(&self.directory, &name, CLIENTS))?;
        let stopping = AtomicBool::new(false);
        let outcome: Outcome = thread::scope(|scope| -> Result<Outcome> {
            let attacking = scope.spawn(|| -> Result<()> {
                let Some(attack) = attack else { return Ok(()) };
                while !stopping.load(Ordering::SeqCst) {
                    attack.validate()?;
                }
                Ok(())
            });
            let work = level::orders(subscribers, Rc::clone(&self.http01), BOUNDS);
            let outcome = self.runtime.block_on(work);
            stopping.store(true, Ordering::SeqCst);
            attacking.join().map_err(|_| anyhow::anyhow!("the attack panicked"))??;
            Ok(outcome)
        })?;
        let milliseconds = |percent| outcome.latencies.percentile(percent).as_secs_f64() * 1000.0;
        let rate = e2e::load::machine::rate(outcome.latencies.count(), outcome.elapsed);
        println!(
            "{label:28} {rate:10.0} {:9.1} {:9.1} {:8} {:6}",
            milliseconds(50),
            milliseconds(99),
            outcome.failed,
            self.memory()? >> 20
        );
        if let Some(error) = outcome.errors.first() {
            println!("    {error}");
        }
        Ok(())
    }

    /// Connections that send half of something.
    fn crowd(&self) -> Result<Vec<TcpStream>> {
        let [acme, pki, _] = self.chancery.addresses()?;
        let mut crowd = Vec::new();
        for number in 0..CROWD {
            let (address, start) = match number % 2 {
                0 => (acme, &b"\x16\x03\x01\x02\x00"[..]),
                _ => (pki, &b"GET /roots.pem HTTP/1.1\r\nHost: a\r\nX-Slow: "[..]),
            };
            let mut stream = TcpStream::connect(address)?;
            // Whoever was shown the door already can't.
            let _ = stream.write_all(start);
            crowd.push(stream);
        }
        Ok(crowd)
    }

    /// The memory that the server keeps, in bytes (`VmRSS` of `proc_pid_status(5)`).
    fn memory(&self) -> Result<u64> {
        let process = self.chancery.process_id().context("chancery is not running")?;
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

/// An account whose names answer validation with something hostile.
struct Attack {
    client: Client,
    challenge: &'static str,
    names: Vec<String>,
}

impl Attack {
    fn new(bench: &Bench, kind: &str) -> Result<Self> {
        let ready = bench.chancery.ready()?;
        let client = Client::registered(&ready.acme_directory, &ready.roots_pem)?;
        let names: Vec<String> = (0..NAMES).map(|number| format!("h{number}.{kind}.test")).collect();
        for name in &names {
            bench.dns.add(name, Data::A(FAR));
            if kind == "set" {
                for number in 0..200 {
                    bench.dns.add(&format!("_acme-challenge.{name}"), Data::Txt(format!("{number:0255}")));
                }
            }
        }
        Ok(Self { client, challenge: if kind == "set" { "dns-01" } else { "http-01" }, names })
    }

    /// Has every name validated once, and waits until all have failed.
    fn validate(&self) -> Result<()> {
        let identifiers: Vec<_> = self.names.iter().map(|name| ("dns", name.as_str())).collect();
        let order = self.client.order(&identifiers)?;
        let challenges = self.client.challenges(&order, self.challenge)?;
        for challenge in &challenges {
            self.client.respond(challenge)?;
        }
        eventually("the hostile names to fail", Duration::from_secs(60), || {
            let last = self.client.read(&challenges.last().context("no challenge")?.url)?;
            Ok((last["status"] == "invalid").then_some(()))
        })
    }
}
