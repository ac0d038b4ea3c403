//! A server process under test: its log is kept, and it is told to end as systemd or a crash would end it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::exit_notice;

/// How long a process may take to stop after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What processes wrote to standard error, over all their starts; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    /// All of it so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn append(&self, prefix: &str, line: &str) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in [prefix, line, "\n"] {
            log.push_str(part);
        }
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Log,
    /// Locked only so that threads can share the process: what receives has it to itself.
    notices: Mutex<Notices>,
}

#[derive(Debug)]
struct Notices {
    ended: Receiver<()>,
    stdout: Receiver<String>,
    log_ended: Receiver<()>,
}

impl Process {
    /// Starts the command. What it writes to standard error goes to `log`, each line after `prefix`.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(command: &mut Command, log: &Log, prefix: &'static str) -> Result<Self> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start chancery")?;
        let ended = exit_notice(&child)?;
        let stderr = child.stderr.take().context("no pipe for stderr")?;
        let written = log.clone();
        let log_ended = spawn_lines(stderr, move |line| written.append(prefix, line));
        let pipe = child.stdout.take().context("no pipe for stdout")?;
        let (lines, stdout) = channel();
        spawn_lines(pipe, move |line| {
            // Nobody may be waiting any more.
            let _ = lines.send(line.to_owned());
        });
        let notices = Mutex::new(Notices { ended, stdout, log_ended });
        Ok(Self { child, log: log.clone(), notices })
    }

    /// The next line of its standard output.
    ///
    /// # Errors
    /// If it ends, or takes longer than `within`; the error ends with its log.
    pub fn line(&mut self, within: Duration) -> Result<String> {
        let notices = self.notices.get_mut().unwrap_or_else(PoisonError::into_inner);
        match notices.stdout.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("nothing said after {} s; its log:\n{}", within.as_secs(), self.log.text())
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait()?;
                // The process has ended: so will its log.
                let _ = notices.log_ended.recv_timeout(STOP_WITHIN);
                bail!("chancery ended before it was ready ({status}); its log:\n{}", self.log.text());
            }
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would (SIGKILL), and returns how it ended.
    ///
    /// # Errors
    /// If it can't be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        // It may have ended by itself.
        let _ = self.child.kill();
        Ok(self.child.wait()?)
    }

    /// Asks it to stop (SIGTERM); it must do so within 10 s and with exit code 0.
    ///
    /// # Errors
    /// If it does not; it is killed then.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let notices = self.notices.get_mut().unwrap_or_else(PoisonError::into_inner);
        if notices.ended.recv_timeout(STOP_WITHIN).is_err() {
            self.child.kill()?;
            self.child.wait()?;
            bail!("still running {} s after SIGTERM; its log:\n{}", STOP_WITHIN.as_secs(), self.log.text());
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("ended with {status} after SIGTERM; its log:\n{}", self.log.text());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended and been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hands each line of a stream to `take`; the receiver hears when the stream has ended.
fn spawn_lines(
    stream: impl Read + Send + 'static,
    mut take: impl FnMut(&str) + Send + 'static,
) -> Receiver<()> {
    let (ended, receiver) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            take(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
        // Nobody may be waiting.
        let _ = ended.send(());
    });
    receiver
}
