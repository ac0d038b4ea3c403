//! The program under test: the real binary, in a directory of its own, on sockets that the test reserved for it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use command_fds::{CommandFdExt, FdMapping};
use serde_json::Value;
use tempfile::TempDir;

use crate::port::ReservedPort;
use crate::process::{Log, Process};
use crate::program::{self, Finished};
use crate::softhsm::{self, Token};

/// How long the program may take to be ready: key generation included, in an unoptimised build, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The sockets handed over, in this order: systemd's LISTEN_FDNAMES.
const LISTENERS: [&str; 3] = ["acme", "pki", "metrics"];

/// Where the CA's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// In files, encrypted.
    Software,
    /// In a SoftHSM token, through PKCS#11.
    SoftHsm,
}

/// What a test decides before the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the CA's keys are.
    pub keys: Keys,
    /// The resolver for validation; unset, only `.localhost` names and addresses can be validated.
    pub dns: Option<SocketAddr>,
    /// More configuration, as environment: `("CHANCERY__ACME__…", "value")`.
    pub environment: Vec<(String, String)>,
}

impl Settings {
    /// Everything as `up` has it, with the keys there.
    #[must_use]
    pub fn with(keys: Keys) -> Self {
        Self { keys, dns: None, environment: Vec::new() }
    }

    /// With this resolver for validation.
    #[must_use]
    pub fn dns(mut self, resolver: SocketAddr) -> Self {
        self.dns = Some(resolver);
        self
    }

    /// With one more configuration key, such as `CHANCERY__ACME__EXTERNAL_ACCOUNT_REQUIRED`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// The line that `up --json` prints when it is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The URL of the first ACME directory.
    pub acme_directory: String,
    /// The file with the roots.
    pub roots_pem: PathBuf,
    /// SHA-256 of the root's DER, as printed.
    pub root_sha256: String,
    /// The addresses by listener.
    pub listen: Value,
}

/// A Chancery with its data, ports and token. Dropping it kills the process and prints its log.
#[derive(Debug)]
pub struct Chancery {
    directory: TempDir,
    listeners: Vec<TcpListener>,
    environment: Vec<(String, String)>,
    token: Option<Token>,
    http01_port: ReservedPort,
    tls_alpn01_port: ReservedPort,
    log: Log,
    process: Option<Process>,
    ready: Option<Ready>,
}

impl Chancery {
    /// Starts `up` on an empty data directory and waits until it is ready.
    ///
    /// # Errors
    /// If it does not get there; the error ends with its log.
    pub fn start(settings: &Settings) -> Result<Self> {
        let mut chancery = Self::prepare(settings)?;
        chancery.restart()?;
        Ok(chancery)
    }

    /// Reserves directory, ports and token without starting anything.
    ///
    /// # Errors
    /// If one of them can't be had.
    pub fn prepare(settings: &Settings) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("chancery-e2e-").tempdir()?;
        let mut listeners = Vec::new();
        for _ in LISTENERS {
            listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        }
        let (http01_port, tls_alpn01_port) = (ReservedPort::new()?, ReservedPort::new()?);
        let mut environment = Vec::new();
        let mut set = |key: &str, value: String| environment.push((format!("CHANCERY__{key}"), value));
        for (name, listener) in LISTENERS.iter().zip(&listeners) {
            set(&format!("LISTEN__{}", name.to_ascii_uppercase()), listener.local_addr()?.to_string());
        }
        set("ACME__PUBLIC_URL", format!("https://{}", listeners[0].local_addr()?));
        set("PKI__PUBLIC_URL", format!("http://{}", listeners[1].local_addr()?));
        set("ACME__HTTP01_PORT", http01_port.number().to_string());
        set("ACME__TLS_ALPN01_PORT", tls_alpn01_port.number().to_string());
        if let Some(resolver) = settings.dns {
            set("ACME__DNS_SERVERS", format!("[\"{resolver}\"]"));
        }
        environment.extend(settings.environment.iter().cloned());
        let token = match settings.keys {
            Keys::Software => None,
            Keys::SoftHsm => Some(Token::new()?),
        };
        Ok(Self {
            directory,
            listeners,
            environment,
            token,
            http01_port,
            tls_alpn01_port,
            log: Log::default(),
            process: None,
            ready: None,
        })
    }

    /// Starts the program again on the same data and ports, after [`Chancery::kill`] or [`Chancery::stop`].
    ///
    /// The sockets are held all the time: a client that connects in between waits, as under systemd.
    ///
    /// # Errors
    /// If it runs already or does not become ready; the error ends with its log.
    pub fn restart(&mut self) -> Result<()> {
        self.launch()?;
        let process = self.process.as_mut().context("no process is running")?;
        match process.line(READY_WITHIN) {
            Ok(line) => self.ready = Some(Ready::parse(&line).with_context(|| self.log())?),
            Err(error) => {
                self.process = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// As [`Chancery::restart`], for a start that is not expected to become ready.
    ///
    /// # Errors
    /// If it runs already.
    pub fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the process is still running");
        }
        let named: Vec<_> = LISTENERS.into_iter().zip(&self.listeners).collect();
        let mut command = with_sockets(&binary()?, &named)?;
        command.args(self.up_arguments());
        self.set_environment(&mut command);
        self.process = Some(Process::start(&mut command, &self.log, "")?);
        Ok(())
    }

    /// Sets an environment variable, such as one that overrides configuration, from the next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.unset(key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// Takes an environment variable away from the next start on.
    pub fn unset(&mut self, key: &str) {
        self.environment.retain(|(known, _)| known != key);
    }

    /// Ends the process at once, as a crash would (SIGKILL), and returns how it ended.
    ///
    /// # Errors
    /// If there is none.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.take().context("no process is running")?.kill()
    }

    /// Asks the process to stop (SIGTERM); it must do so within 10 s and with exit code 0.
    ///
    /// # Errors
    /// If it does not.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().context("no process is running")?.stop()
    }

    /// What the program said when it was ready.
    ///
    /// # Errors
    /// If it never was.
    pub fn ready(&self) -> Result<&Ready> {
        self.ready.as_ref().context("chancery was not started")
    }

    /// Runs a command of the program's own command line on the same data, with `--json`, and parses what it prints.
    ///
    /// # Errors
    /// If it fails, or prints something else than one JSON value.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.cli_finished(&[arguments, &["--json"]].concat())?;
        if !finished.status.success() {
            bail!(
                "`chancery {}` failed: {finished}\n--- log of the server\n{}",
                arguments.join(" "),
                self.log()
            );
        }
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("`chancery {}` printed no JSON: {finished}", arguments.join(" ")))
    }

    /// Runs a command of the program's own command line to its end, well or not.
    ///
    /// # Errors
    /// If it can't be started or takes too long.
    pub fn cli_finished(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = program::command(binary()?);
        command.arg("--data").arg(self.data()).args(arguments);
        self.set_environment(&mut command);
        program::run(&mut command, program::TIMEOUT)
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The addresses of the listeners for ACME, PKI and metrics, in this order.
    ///
    /// # Errors
    /// If a socket is gone.
    pub fn addresses(&self) -> Result<[SocketAddr; 3]> {
        let [acme, pki, metrics] = self.listeners.as_slice() else { bail!("three listeners are held") };
        Ok([acme.local_addr()?, pki.local_addr()?, metrics.local_addr()?])
    }

    /// The base of the PKI listener's URLs, without a slash at its end.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn pki_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.listeners[1].local_addr()?))
    }

    /// The base of the metrics listener's URLs, without a slash at its end.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn metrics_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.listeners[2].local_addr()?))
    }

    /// Where clients must answer http-01 challenges.
    #[must_use]
    pub fn http01(&self) -> SocketAddr {
        self.http01_port.address()
    }

    /// Where clients must answer tls-alpn-01 challenges.
    #[must_use]
    pub fn tls_alpn01(&self) -> SocketAddr {
        self.tls_alpn01_port.address()
    }

    /// The token, if the keys are in one.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// The id of the running process.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What the process wrote to standard error, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn up_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--data".to_owned(), self.data().display().to_string(), "up".to_owned()];
        arguments.push("--json".to_owned());
        if let Some(token) = &self.token {
            for (flag, value) in [
                ("--key-backend", "pkcs11"),
                ("--pkcs11-module", softhsm::MODULE),
                ("--pkcs11-token", Token::LABEL),
                ("--pkcs11-pin-file", &token.pin_file().display().to_string()),
            ] {
                arguments.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        arguments
    }

    fn set_environment(&self, command: &mut Command) {
        command
            .env("RUST_BACKTRACE", "1")
            .env("HOME", self.directory.path())
            .current_dir(self.directory.path());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        if let Some(token) = &self.token {
            command.env("SOFTHSM2_CONF", token.configuration());
        }
    }
}

impl Drop for Chancery {
    fn drop(&mut self) {
        // Before the log is shown.
        self.process = None;
        // Test runners show this for failed tests only.
        let log = self.log();
        if !log.is_empty() {
            eprintln!("--- log of chancery\n{log}");
        }
        // Whatever a test is about, a panic of the program fails it.
        assert!(thread::panicking() || !self.log().contains("panicked at"), "the program panicked");
    }
}

impl Ready {
    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let text = |field: &str| {
            let text = value.get(field).and_then(Value::as_str).map(str::to_owned);
            text.with_context(|| format!("no `{field}` in {line}"))
        };
        Ok(Self {
            acme_directory: text("acme_directory")?,
            roots_pem: text("roots_pem")?.into(),
            root_sha256: text("root_sha256")?,
            listen: value.get("listen").cloned().with_context(|| format!("no `listen` in {line}"))?,
        })
    }
}

/// A command that inherits these listening sockets by the protocol of systemd's socket activation
/// (`sd_listen_fds(3)`): from descriptor 3 on, in this order, with these names.
///
/// # Errors
/// If a socket can't be duplicated.
pub fn with_sockets(program: &Path, listeners: &[(&str, &TcpListener)]) -> Result<Command> {
    // LISTEN_PID must be the id of the process that gets the sockets: the shell knows it, and then becomes it.
    let mut command = program::command("/bin/sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(program);
    let names: Vec<_> = listeners.iter().map(|(name, _)| *name).collect();
    command.env("LISTEN_FDS", listeners.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let mut mappings = Vec::new();
    for (child_fd, (_, listener)) in (3..).zip(listeners) {
        mappings.push(FdMapping { parent_fd: OwnedFd::from(listener.try_clone()?), child_fd });
    }
    command.fd_mappings(mappings)?;
    Ok(command)
}

/// `target/debug/chancery`: of the same profile as the test or program that runs.
///
/// # Errors
/// If it was not built.
pub fn binary() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let directory = this.parent().context("a program is in no directory")?;
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let profile =
        if directory.ends_with("deps") { directory.parent().unwrap_or(directory) } else { directory };
    let binary = profile.join("chancery");
    if !binary.is_file() {
        bail!("{} was not built: run `cargo build -p chancery`, or `cargo xtask test`", binary.display());
    }
    Ok(binary)
}
