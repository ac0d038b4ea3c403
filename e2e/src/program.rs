//! Runs outside programs in a clean environment and in bounded time, with all that they printed in the error.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// How long any one run of a client or a judge may take.
pub const TIMEOUT: Duration = Duration::from_secs(90);

/// A program that ran to its end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// A command that sees nothing of the developer's environment but the search path: no proxies, no settings.
#[must_use]
pub fn command(program: impl Into<PathBuf>) -> Command {
    let mut command = Command::new(program.into());
    command
        .env_clear()
        .env("PATH", search_path())
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(Stdio::null());
    command
}

/// A program of the operating system, such as `openssl`.
///
/// # Errors
/// If it is not installed.
pub fn system_tool(name: &str) -> Result<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("`{name}` is not installed: run `cargo xtask tools`"))
}

/// A program of the Python tools, such as `certbot`.
///
/// # Errors
/// If it is not installed.
pub fn python_tool(name: &str) -> Result<PathBuf> {
    let home = std::env::home_dir().context("there is no home directory")?;
    let file = home.join(".cache/chancery-tools/python/bin").join(name);
    if !file.is_file() {
        bail!("{} does not exist: run `cargo xtask tools`", file.display());
    }
    Ok(file)
}

/// Runs a command to its end, well or not.
///
/// # Errors
/// If it can't be started, or has not ended after `timeout`; it is killed then.
pub fn run(command: &mut Command, timeout: Duration) -> Result<Finished> {
    let shown = shown(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ended = exit_notice(&child)?.recv_timeout(timeout).is_ok();
    if !ended {
        child.kill().context("cannot kill a program that takes too long")?;
    }
    let status = child.wait()?;
    let finished = Finished { status, stdout: stdout.text(), stderr: stderr.text() };
    if !ended {
        bail!("`{shown}` took longer than {} s: {finished}", timeout.as_secs());
    }
    Ok(finished)
}

/// Runs a command that must end with exit code 0.
///
/// # Errors
/// If it does not, with everything it printed.
pub fn succeed(command: &mut Command) -> Result<Finished> {
    let finished = run(command, TIMEOUT)?;
    if !finished.status.success() {
        bail!("`{}` failed: {finished}", shown(command));
    }
    Ok(finished)
}

/// Tells when a process has ended, without reaping it: its id stays ours until `Child::wait`.
///
/// # Errors
/// If its id is out of range.
pub(crate) fn exit_notice(child: &Child) -> Result<Receiver<()>> {
    let id = Pid::from_raw(i32::try_from(child.id())?);
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        // Nobody may be waiting any more.
        let _ = sender.send(());
    });
    Ok(receiver)
}

pub(crate) fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// A stream that is read to its end while the program runs.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Collected {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (sender, ended) = channel();
    let shared = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        if let Some(mut stream) = stream {
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
            }
        }
        // Nobody may be waiting any more.
        let _ = sender.send(());
    });
    Collected { bytes, ended }
}

impl Collected {
    /// All of it once the program has ended, or what came so far if a process that it left behind holds the pipe.
    fn text(self) -> String {
        // Both outcomes are fine, as said above.
        let _ = self.ended.recv_timeout(Duration::from_secs(1));
        String::from_utf8_lossy(&self.bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// The search path with the sbin directories, which an ordinary user's leaves out.
fn search_path() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
