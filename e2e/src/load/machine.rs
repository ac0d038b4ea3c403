//! What this machine can do, measured in the same run: the numbers that a server's rates are read against.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use nix::unistd::{SysconfVar, sysconf};

use super::clock::Stopwatch;
use super::latency::Latencies;

/// How often the disk is asked to sync, and how long that may take in all.
const SYNCS: usize = 300;
const SYNCS_WITHIN: Duration = Duration::from_secs(5);
/// How long signing and verifying are measured each.
const CRYPTO_FOR: Duration = Duration::from_millis(500);

/// The machine and its rates.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processor and number of cores.
    pub processor: String,
    /// Appends of 4 KiB with fdatasync a second, one after the other.
    pub syncs_per_second: f64,
    /// How long each of them took.
    pub sync_latencies: Latencies,
    /// P-256 signatures a second on one core.
    pub signs_per_second: f64,
    /// P-256 verifications a second on one core.
    pub verifies_per_second: f64,
}

impl Machine {
    /// Measures the disk under this directory and one core.
    ///
    /// # Errors
    /// If the directory can't be written.
    pub fn measure(directory: &Path) -> Result<Self> {
        let sync_latencies = syncs(directory)?;
        let (signs_per_second, verifies_per_second) = crypto()?;
        Ok(Self {
            processor: processor(),
            syncs_per_second: rate(sync_latencies.count(), sync_latencies.total()),
            sync_latencies,
            signs_per_second,
            verifies_per_second,
        })
    }
}

/// The CPU time that a process has used so far, user and system, all threads, ended ones too (`proc_pid_stat(5)`).
/// It is counted in clock ticks, mostly of 10 ms.
///
/// # Errors
/// If there is no such process.
pub fn cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15, the first behind it is 3.
    let behind = stat.rsplit_once(") ").map(|(_, behind)| behind).unwrap_or_default();
    let ticks: u64 = behind.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// How many a second; zero if there was no time.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of a short measurement, shown with few digits")]
pub fn rate(count: usize, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { count as f64 / span.as_secs_f64() }
}

fn syncs(directory: &Path) -> Result<Latencies> {
    let path = directory.join("sync-rate");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let block = [0x5a; 4096];
    let mut latencies = Latencies::default();
    let whole = Stopwatch::start();
    while latencies.count() < SYNCS && whole.elapsed() < SYNCS_WITHIN {
        let one = Stopwatch::start();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.add(one.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(latencies)
}

fn crypto() -> Result<(f64, f64)> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .map_err(|_| anyhow!("cannot generate a P-256 key"))?;
    let sign =
        || key.sign(&random, b"what a certificate authority signs").map_err(|_| anyhow!("cannot sign"));
    let signature = sign()?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let signs = repeat(|| sign().map(drop))?;
    let verifies = repeat(|| {
        let verified = public.verify(b"what a certificate authority signs", signature.as_ref());
        verified.map_err(|_| anyhow!("a signature does not verify"))
    })?;
    Ok((signs, verifies))
}

fn repeat(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let watch = Stopwatch::start();
    let mut count = 0;
    while watch.elapsed() < CRYPTO_FOR {
        work()?;
        count += 1;
    }
    Ok(rate(count, watch.elapsed()))
}

fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} cores, {}", model.map_or("unknown processor", |(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_this_process_grows_with_its_work() {
        let before = cpu(std::process::id()).unwrap();
        let watch = Stopwatch::start();
        while cpu(std::process::id()).unwrap() < before + Duration::from_millis(20) {
            assert!(watch.elapsed() < Duration::from_secs(30), "busy for 30 s and no CPU time counted");
        }
    }
}
