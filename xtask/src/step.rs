//! Runs the commands of a task, one line of report each; a command's own output is shown only if it fails.

use std::io::{BufRead, BufReader, IsTerminal, Write, pipe, stderr};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How the steps of a task report themselves.
pub struct Report {
    started: Instant,
    /// The output of commands goes straight to the terminal.
    verbose: bool,
}

impl Report {
    pub fn new(verbose: bool) -> Self {
        Self { started: now(), verbose }
    }

    /// Runs `command` as the step `name`; `note` makes the remark that ends the step's line from its output.
    ///
    /// # Errors
    /// If the command can't be started or fails; its output has then been printed.
    pub fn command(&self, name: &str, command: &mut Command, note: fn(&str) -> String) -> Result<()> {
        let started = now();
        let shown = shown(command);
        let (status, output) = if self.verbose {
            eprintln!("{} {shown}", bold("$"));
            let status = command.status().with_context(|| format!("{name}: cannot start `{shown}`"))?;
            (status, String::new())
        } else {
            captured(name, command, started).with_context(|| format!("{name}: cannot run `{shown}`"))?
        };
        if !status.success() {
            eprint!("{output}");
            line(&red("FAILED"), name, started.elapsed(), "");
            bail!("{name} failed: `{shown}` ended with {status}");
        }
        line(&green("    ok"), name, started.elapsed(), &note(&output));
        Ok(())
    }

    /// Does `work`, which runs no single command, as the step `name`; the text it returns ends the line.
    ///
    /// # Errors
    /// Those of `work`, after the line that names the step.
    pub fn work(&self, name: &str, work: impl FnOnce() -> Result<String>) -> Result<()> {
        let started = now();
        match work() {
            Ok(note) => {
                line(&green("    ok"), name, started.elapsed(), &note);
                Ok(())
            }
            Err(error) => {
                line(&red("FAILED"), name, started.elapsed(), "");
                Err(error.context(format!("{name} failed")))
            }
        }
    }

    /// The last line of a task in which every step went well.
    pub fn done(&self, text: &str) {
        eprintln!("{} {text} in {}", green("    ok"), human(self.started.elapsed()));
    }
}

/// For steps whose output says nothing worth a remark.
pub fn no_note(_output: &str) -> String {
    String::new()
}

/// Runs a command with stdout and stderr in one pipe; on a terminal its latest line is shown while it runs.
fn captured(name: &str, command: &mut Command, started: Instant) -> Result<(ExitStatus, String)> {
    let live = stderr().is_terminal();
    if live {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let (reader, writer) = pipe()?;
    let mut child =
        command.stdout(writer.try_clone()?).stderr(writer).stdin(std::process::Stdio::null()).spawn()?;
    // The command keeps its ends of the pipe until they are replaced: without this the pipe would never end.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());

    let (lines, received) = channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });

    let mut output = String::new();
    loop {
        match received.recv_timeout(Duration::from_millis(250)) {
            Ok(text) => {
                if live {
                    progress(name, started, &text);
                }
                output.push_str(&text);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // A process that the command left behind may hold the pipe open for ever.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let status = child.wait()?;
    if live {
        eprint!("\r\x1b[K");
    }
    Ok((status, output))
}

fn progress(name: &str, started: Instant, text: &str) {
    let text: String = plain(text).trim().chars().take(70).collect();
    eprint!("\r\x1b[K    .. {name:<11} {:>9}   {text}", human(started.elapsed()));
    // A progress line that can't be written is no reason to stop.
    let _ = stderr().flush();
}

fn line(mark: &str, name: &str, took: Duration, note: &str) {
    let text = format!("{mark} {name:<11} {:>9}   {note}", human(took));
    eprintln!("{}", text.trim_end());
}

fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value.filter(|_| key != "CARGO_TERM_COLOR") {
            text.push_str(&format!("{}='{}' ", key.to_string_lossy(), value.to_string_lossy()));
        }
    }
    text.push_str(&command.get_program().to_string_lossy());
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The text without colour codes.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

fn human(span: Duration) -> String {
    let tenths = span.as_millis() / 100;
    if tenths < 600 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        format!("{} min {:02} s", tenths / 600, tenths % 600 / 10)
    }
}

fn coloured(code: &str, text: &str) -> String {
    if stderr().is_terminal() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub fn red(text: &str) -> String {
    coloured("1;31", text)
}

fn green(text: &str) -> String {
    coloured("32", text)
}

fn bold(text: &str) -> String {
    coloured("1", text)
}

#[allow(
    clippy::disallowed_methods,
    reason = "times the steps of a developer's task; no product code runs here"
)]
fn now() -> Instant {
    Instant::now()
}
