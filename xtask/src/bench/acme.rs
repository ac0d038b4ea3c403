//! `cargo xtask bench acme`: orders at several loads, each read against what this machine could do in the same run.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::build;

const USAGE: &str = "\
Usage: cargo xtask bench acme [OPTIONS]
  --clients A,B,…   clients at once, one measurement each [1,8,32,256]
  --orders N        orders of each measurement [2000]
  --seconds N       no measurement begins orders for longer than this [20]
  --memory N        also so many orders by 32 clients, for the server's memory [0]
  --json            print JSON instead of the table";

/// How long appends are timed.
const SYNCS_FOR: Duration = Duration::from_secs(1);

struct Options {
    clients: Vec<u32>,
    orders: u64,
    seconds: u64,
    memory: u64,
    json: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options =
            Self { clients: vec![1, 8, 32, 256], orders: 2000, seconds: 20, memory: 0, json: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                "--clients" => {
                    let numbers: Result<_, _> = value()?.split(',').map(str::parse).collect();
                    options.clients = numbers.context("--clients")?;
                }
                "--orders" => options.orders = value()?.parse().context("--orders")?,
                "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
                "--memory" => options.memory = value()?.parse().context("--memory")?,
                "--json" => options.json = true,
                other => bail!("`{other}` is no option\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

/// One line of the table: what was done, and what `chancery bench acme --json` said of it.
struct Measured {
    load: String,
    report: Value,
}

pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let program = build(root, "chancery")?.join("chancery");
    let server = Server::start(&program)?;
    let syncs = syncs(&server.directory)?;
    let openssl = openssl();

    let mut measured = Vec::new();
    let mut measure = |load: String, clients: u32, more: &[&str]| -> Result<f64> {
        eprintln!("   ... {load}");
        let report = server.bench(clients, &options, more)?;
        let rate = report["orders_per_second"].as_f64().unwrap_or(0.0);
        measured.push(Measured { load, report });
        Ok(rate)
    };
    let mut at_32 = None;
    for &clients in &options.clients {
        let rate = measure(format!("{clients} clients"), clients, &[])?;
        at_32 = at_32.or((clients == 32).then_some(rate));
    }
    measure("32 on one account".to_owned(), 32, &["--one-account"])?;
    if let Some(rate) = at_32 {
        // As many at once as come, so that one slow order does not put off the others.
        measure("half of 32's rate".to_owned(), 256, &["--rate", &format!("{:.0}", (rate / 2.0).max(1.0))])?;
    }
    if options.memory > 0 {
        let orders = options.memory.to_string();
        measure(format!("{orders} orders"), 32, &["--orders", &orders, "--seconds", "86400"])?;
    }
    let syncs_after = self::syncs(&server.directory)?;
    drop(server);

    if options.json {
        let runs: Vec<Value> =
            measured.iter().map(|one| json!({ "load": one.load, "report": one.report })).collect();
        let machine = json!({
            "syncs_per_second": [syncs, syncs_after],
            "openssl": openssl.map(|(signs, verifies)| json!({
                "signs_per_second": signs, "verifies_per_second": verifies
            })),
        });
        println!("{}", json!({ "machine": machine, "runs": runs }));
    } else {
        print(&measured, (syncs, syncs_after), openssl);
    }
    let failed: u64 = measured.iter().filter_map(|one| one.report["failed"].as_u64()).sum();
    ensure!(failed == 0, "{failed} orders failed");
    Ok(())
}

fn print(measured: &[Measured], (syncs, syncs_after): (f64, f64), openssl: Option<(f64, f64)>) {
    println!("fdatasync of 4 KiB appends: {syncs:.0} a second before, {syncs_after:.0} after");
    if let Some((signs, verifies)) = openssl {
        println!("openssl speed ecdsap256:    {signs:.0} signatures, {verifies:.0} verifications a second");
    }
    println!(
        "\n{:<20}{:>9}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}{:>11}{:>9}{:>8}{:>8}{:>7}",
        "",
        "orders/s",
        "failed",
        "p50 ms",
        "p99 ms",
        "own %",
        "CPU ms",
        "× own",
        "× openssl",
        "commits",
        "syncs",
        "reads",
        "MiB"
    );
    for Measured { load, report } in measured {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let cpu = number("/server/cpu_per_order_ms");
        // Signed requests, the CSR and two checks of our own are verified; certificate and OCSP response are signed.
        let by_openssl = openssl.map_or(f64::NAN, |(signs, verifies)| {
            cpu / 1e3 / ((number("/requests_per_order") + 3.0) / verifies + 2.0 / signs)
        });
        println!(
            "{load:<20}{:>9.1}{:>8.0}{:>8.1}{:>8.1}{:>8.0}{:>9.2}{:>8.2}{:>11.2}{:>9.2}{:>8.2}{:>8.2}{:>7.0}",
            number("/orders_per_second"),
            number("/failed"),
            number("/steps/order/p50_ms"),
            number("/steps/order/p99_ms"),
            100.0 * number("/client/busy"),
            cpu,
            number("/server/cpu_to_cryptography"),
            by_openssl,
            number("/store/commits"),
            number("/store/syncs"),
            number("/store/reads"),
            number("/server/memory_after_bytes") / f64::from(1 << 20),
        );
    }
    for failure in measured.iter().filter_map(|one| one.report["failures"].as_array()).flatten() {
        println!("failed: {failure}");
    }
}

/// `up` on software keys, in a directory of its own, which goes with it.
struct Server {
    program: PathBuf,
    directory: PathBuf,
    child: Child,
    acme_directory: String,
    metrics: u16,
    http01: u16,
}

impl Server {
    fn start(program: &Path) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("chancery-bench-{}", std::process::id()));
        std::fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let [acme, pki, metrics, http01] = free_ports()?;
        let log = File::create(directory.join("log"))?;
        let mut child = Command::new(program)
            .args(["up", "--json", "--data"])
            .arg(directory.join("data"))
            .env("CHANCERY__LISTEN__ACME", format!("127.0.0.1:{acme}"))
            .env("CHANCERY__LISTEN__PKI", format!("127.0.0.1:{pki}"))
            .env("CHANCERY__LISTEN__METRICS", format!("127.0.0.1:{metrics}"))
            .env("CHANCERY__ACME__PUBLIC_URL", format!("https://127.0.0.1:{acme}"))
            .env("CHANCERY__PKI__PUBLIC_URL", format!("http://127.0.0.1:{pki}"))
            .env("CHANCERY__ACME__HTTP01_PORT", http01.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let mut server = Self {
            program: program.to_owned(),
            directory,
            child,
            acme_directory: String::new(),
            metrics,
            http01,
        };
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        match ready["acme_directory"].as_str() {
            Some(url) => server.acme_directory = url.to_owned(),
            None => {
                let log = std::fs::read_to_string(server.directory.join("log")).unwrap_or_default();
                bail!("chancery did not become ready:\n{log}");
            }
        }
        Ok(server)
    }

    fn bench(&self, clients: u32, options: &Options, more: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(["bench", "acme", "--json", "--data"])
            .arg(self.directory.join("data"))
            .args(["--directory", &self.acme_directory])
            .args(["--http01", &format!("127.0.0.1:{}", self.http01)])
            .args(["--server-pid", &self.child.id().to_string()])
            .args(["--metrics", &format!("http://127.0.0.1:{}/metrics", self.metrics)])
            .args(["--clients", &clients.to_string()])
            // Options that stand twice are an error: what `more` says goes first.
            .args(unless(more, "--orders", &options.orders.to_string()))
            .args(unless(more, "--seconds", &options.seconds.to_string()))
            .args(more)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start chancery bench")?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("chancery bench said nothing and ended with {}", output.status))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing that it holds is of use to anybody afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn unless(more: &[&str], option: &str, value: &str) -> Vec<String> {
    if more.contains(&option) { Vec::new() } else { vec![option.to_owned(), value.to_owned()] }
}

/// Ports that nobody listens on now.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let held: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Appends of 4 KiB with fdatasync a second, one after the other.
fn syncs(directory: &Path) -> Result<f64> {
    let path = directory.join("sync-rate");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let started = now();
    let mut count = 0_u32;
    while started.elapsed() < SYNCS_FOR {
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}

/// Signatures and verifications a second, where OpenSSL's program is there.
fn openssl() -> Option<(f64, f64)> {
    let output = Command::new("openssl").args(["speed", "-seconds", "1", "ecdsap256"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.lines().last()?.split_whitespace().rev().map(str::parse);
    let (verifies, signs) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((signs, verifies))
}

#[allow(
    clippy::disallowed_methods,
    reason = "measures this machine; it is no clock that anything is judged by"
)]
fn now() -> Instant {
    Instant::now()
}
