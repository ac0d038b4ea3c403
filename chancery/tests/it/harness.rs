//! Starts the binary, talks to it, and stops it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long a process may take to be ready, or to answer: generous, for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory with the sockets of every listener.
pub struct Site {
    pub directory: TempDir,
    pub listeners: Vec<(&'static str, TcpListener)>,
    pub environment: Vec<(String, String)>,
}

/// A process that serves.
pub struct Server {
    pub child: Child,
    lines: Receiver<String>,
    log: Receiver<String>,
}

impl Site {
    /// With sockets for the listeners of one process.
    pub fn new() -> Self {
        Self::with_listeners(&["acme", "pki", "metrics"])
    }

    pub fn with_listeners(names: &[&'static str]) -> Self {
        let directory = tempfile::Builder::new().prefix("chancery-it-").tempdir().unwrap();
        let listeners: Vec<_> =
            names.iter().map(|name| (*name, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())).collect();
        let mut environment = Vec::new();
        for (name, listener) in &listeners {
            let address = listener.local_addr().unwrap();
            if !name.starts_with("metrics-") {
                environment
                    .push((format!("CHANCERY__LISTEN__{}", name.to_ascii_uppercase()), address.to_string()));
            }
            match *name {
                "acme" => {
                    environment.push(("CHANCERY__ACME__PUBLIC_URL".to_owned(), format!("https://{address}")))
                }
                "pki" => {
                    environment.push(("CHANCERY__PKI__PUBLIC_URL".to_owned(), format!("http://{address}")))
                }
                "ocsp" => {
                    environment.push(("CHANCERY__PKI__OCSP_URL".to_owned(), format!("http://{address}")))
                }
                "crl" => environment.push(("CHANCERY__PKI__CRL_URL".to_owned(), format!("http://{address}"))),
                _ => {}
            }
        }
        Self { directory, listeners, environment }
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.listeners.iter().find(|(listener, _)| *listener == name).unwrap().1.local_addr().unwrap()
    }

    /// A command on this data directory; nothing of the developer's environment is seen.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        command.arg("--data").arg(self.data()).args(arguments);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed with `--json`, and parses what it prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
    }

    /// Runs a command that must fail with `--json`, and gives the `error` object.
    pub fn error(&self, arguments: &[&str]) -> Value {
        error_of(&self.run(&[arguments, &["--json"]].concat()))
    }

    /// Starts a serving command with sockets handed over: each a listener's name here and there.
    pub fn start(&self, arguments: &[&str], sockets: &[(&str, &str)]) -> Server {
        let mut command = Command::new("/bin/sh");
        // LISTEN_PID must be the id of the process that gets the sockets: the shell knows it, and then becomes it.
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh", env!("CARGO_BIN_EXE_chancery"), "--data"]);
        command.arg(self.data()).args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        for (here, there) in sockets {
            if *there == "metrics" {
                command.env("CHANCERY__LISTEN__METRICS", self.address(here).to_string());
            }
        }
        let names: Vec<&str> = sockets.iter().map(|(_, there)| *there).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let mappings = (3..)
            .zip(sockets)
            .map(|(child_fd, (here, _))| {
                let listener = &self.listeners.iter().find(|(name, _)| name == here).unwrap().1;
                FdMapping { parent_fd: OwnedFd::from(listener.try_clone().unwrap()), child_fd }
            })
            .collect();
        command.fd_mappings(mappings).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = read_lines(child.stdout.take().unwrap());
        let log = read_lines(child.stderr.take().unwrap());
        Server { child, lines, log }
    }

    /// Starts `up --json` and waits until it is ready.
    pub fn up(&self) -> (Server, Value) {
        let server =
            self.start(&["up", "--json"], &[("acme", "acme"), ("pki", "pki"), ("metrics", "metrics")]);
        let ready = server.ready();
        (server, ready)
    }

    /// GET over plain HTTP: status and body.
    pub fn get(&self, listener: &str, path: &str) -> (u16, Vec<u8>) {
        get(self.address(listener), path)
    }

    pub fn ready_report(&self, listener: &str) -> Value {
        serde_json::from_slice(&self.get(listener, "/readyz").1).unwrap()
    }
}

impl Server {
    /// The line of JSON that says that everything is ready.
    pub fn ready(&self) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")),
            Err(why) => panic!("not ready: {why}\n{}", self.log.try_iter().collect::<Vec<_>>().join("\n")),
        }
    }

    /// Asks it to stop (SIGTERM) and waits until it has: how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    /// The next line that it prints.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    /// The next line that it logs.
    pub fn next_log_line(&self) -> String {
        self.log.recv_timeout(PATIENCE).unwrap()
    }

    /// What it logged until it ended.
    pub fn log(&self) -> String {
        self.log.iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program without a data directory of its own.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chancery"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    command
}

/// The `error` object of a command that failed with `--json`; nothing else may be on either stream.
pub fn error_of(output: &Output) -> Value {
    assert!(!output.status.success(), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "");
    let error: Value =
        serde_json::from_slice(&output.stderr).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stderr)));
    let error = error.get("error").cloned().unwrap();
    for field in ["code", "detail", "fix"] {
        assert!(
            error.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()),
            "{field}: {error}"
        );
    }
    error
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A field that must be text.
pub fn field(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

pub fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = text(&answer[..end]);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

/// The file's path as text.
pub fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Whether tests run as root, to whom modes mean nothing.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// The binary where any user can run it.
pub fn public_copy(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("chancery");
    fs::copy(env!("CARGO_BIN_EXE_chancery"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

fn read_lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            // Nobody may be waiting any more; the pipe is drained all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}
