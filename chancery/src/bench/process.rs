//! What a process has used so far, from `/proc` (`proc_pid_stat(5)`, `proc_pid_status(5)`).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// The CPU time of a process, user and system, all threads, ended ones too. It is counted in clock ticks, mostly of
/// 10 ms.
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

/// The memory of a process that is in RAM, in bytes.
///
/// # Errors
/// If there is no such process.
pub fn memory(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kilobytes: u64 = resident.context("the kernel tells no VmRSS")?.parse()?;
    Ok(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ca_core::time::Stopwatch;

    #[test]
    fn the_cpu_time_of_this_process_grows_with_its_work() {
        let process = std::process::id();
        let before = cpu(process).unwrap();
        let watch = Stopwatch::start();
        while cpu(process).unwrap() < before + Duration::from_millis(20) {
            assert!(watch.elapsed() < Duration::from_secs(30), "busy for 30 s and no CPU time counted");
        }
        assert!(memory(process).unwrap() > 1 << 20);
    }
}
