//! Roles in processes of their own, under users of their own, on one data directory: as the systemd units run them.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::{Group, User, geteuid};
use serde_json::Value;
use tempfile::TempDir;

use crate::chancery::{Keys, Settings, binary, with_sockets};
use crate::port::ReservedPort;
use crate::process::{Log, Process};
use crate::program::{self, Finished, command, run, succeed, system_tool};
use crate::softhsm::{self, Token};
use crate::{eventually, http};

/// How long a role may take to be ready, also when others come up at the same time in an unoptimised build.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The group that the roles' users share; the program knows it by this name.
const GROUP: &str = "chancery";

/// A role that can be a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Decides and signs, and alone writes the store.
    Ca,
    /// RFC 8555.
    Acme,
    /// RFC 6960.
    Ocsp,
    /// CRLs and CA certificates.
    Crl,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ca, Self::Acme, Self::Ocsp, Self::Crl];

    /// As `--only` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Acme => "acme",
            Self::Ocsp => "ocsp",
            Self::Crl => "crl",
        }
    }

    const fn log_prefix(self) -> &'static str {
        match self {
            Self::Ca => "ca:   ",
            Self::Acme => "acme: ",
            Self::Ocsp => "ocsp: ",
            Self::Crl => "crl:  ",
        }
    }

    fn user(self) -> String {
        format!("chancery-{}", self.name())
    }
}

/// A CA whose roles run apart. Dropping it kills them and prints their log.
#[derive(Debug)]
pub struct Roles {
    directory: TempDir,
    program: PathBuf,
    /// The role's own listener, if it has one, and its metrics listener.
    sockets: BTreeMap<Role, (Option<TcpListener>, TcpListener)>,
    environment: Vec<(String, String)>,
    token: Option<Token>,
    http01_port: ReservedPort,
    tls_alpn01_port: ReservedPort,
    separate: bool,
    log: Log,
    processes: BTreeMap<Role, Process>,
}

impl Roles {
    /// Makes users, directories and sockets, and runs `init` as the CA's user. Nothing is started yet.
    ///
    /// As root each role gets a user of its own, which is made where it is missing. Any other user can't run processes
    /// under several users: all roles then run as that one, and [`Roles::are_separate`] says so.
    ///
    /// # Errors
    /// If one of these can't be had, or `init` fails.
    pub fn new(settings: &Settings) -> Result<Self> {
        let separate = geteuid().is_root();
        if separate {
            make_users()?;
        }
        let directory = tempfile::Builder::new().prefix("chancery-roles-").tempdir()?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        // Where the program was built may be closed to other users.
        let program = directory.path().join("chancery");
        if fs::hard_link(binary()?, &program).is_err() {
            fs::copy(binary()?, &program).context("cannot copy the program")?;
        }
        let mut sockets = BTreeMap::new();
        for role in Role::ALL {
            let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let own = if role == Role::Ca { None } else { Some(listener()?) };
            sockets.insert(role, (own, listener()?));
        }
        let token = match settings.keys {
            Keys::Software => None,
            Keys::SoftHsm => Some(Token::new()?),
        };
        let mut roles = Self {
            directory,
            program,
            sockets,
            environment: Vec::new(),
            token,
            http01_port: ReservedPort::new()?,
            tls_alpn01_port: ReservedPort::new()?,
            separate,
            log: Log::default(),
            processes: BTreeMap::new(),
        };
        roles.configure(settings)?;
        roles.initialise()?;
        Ok(roles)
    }

    fn configure(&mut self, settings: &Settings) -> Result<()> {
        let mut environment = Vec::new();
        let mut set = |key: &str, value: String| environment.push((format!("CHANCERY__{key}"), value));
        for (key, role) in [("ACME", Role::Acme), ("OCSP", Role::Ocsp), ("CRL", Role::Crl)] {
            set(&format!("LISTEN__{key}"), self.address(role)?.to_string());
        }
        set("ACME__PUBLIC_URL", format!("https://{}", self.address(Role::Acme)?));
        set("PKI__PUBLIC_URL", self.crl_url()?);
        set("PKI__OCSP_URL", self.ocsp_url()?);
        set("ACME__HTTP01_PORT", self.http01_port.number().to_string());
        set("ACME__TLS_ALPN01_PORT", self.tls_alpn01_port.number().to_string());
        // As an operator would: what the tests order, and no more.
        set("ACME__EXTERNAL_ACCOUNT_REQUIRED", "false".to_owned());
        set("ACME__ALLOWED_NAMES", "[\".example.test\", \".localhost\", \"127.0.0.0/8\"]".to_owned());
        set("ACME__WILDCARDS", "true".to_owned());
        set("ACME__VALIDATION__ALLOW_NETWORKS", "[\"127.0.0.0/8\", \"::1\"]".to_owned());
        set("ACME__VALIDATION__DENY_NETWORKS", "[]".to_owned());
        if let Some(resolver) = settings.dns {
            set("ACME__DNS_SERVERS", format!("[\"{resolver}\"]"));
        }
        if self.separate {
            let users = [Role::Acme, Role::Ocsp, Role::Crl]
                .map(|role| format!("{} = \"{}\"", role.name(), role.user()))
                .join(", ");
            set("STORE__ROLE_USERS", format!("{{ {users} }}"));
        }
        environment.extend(settings.environment.iter().cloned());
        self.environment = environment;
        Ok(())
    }

    fn initialise(&self) -> Result<()> {
        fs::create_dir(self.data())?;
        self.give(&self.data(), Role::Ca)?;
        if let Some(token) = &self.token {
            // The token is the CA's alone.
            for path in everything_below(token.tokens().parent().context("a token without a directory")?)? {
                self.give(&path, Role::Ca)?;
            }
        }
        let mut command = self.command_as(Role::Ca, &self.program)?;
        command.arg("--data").arg(self.data()).args(["init", "--trial", "--json"]);
        command.arg("--public-url").arg(format!("https://{}", self.address(Role::Acme)?));
        command.arg("--pki-url").arg(self.crl_url()?);
        if let Some(token) = &self.token {
            command.args(["--key-backend", "pkcs11", "--pkcs11-module", softhsm::MODULE]);
            command.args(["--pkcs11-token", Token::LABEL]).arg("--pkcs11-pin-file").arg(token.pin_file());
        }
        succeed(&mut command)?;
        for role in [Role::Acme, Role::Ocsp, Role::Crl] {
            // What StateDirectory= and its like do: a role can't write beside its own directory.
            let own = self.data().join(role.name());
            if !own.exists() {
                fs::create_dir(&own)?;
            }
            fs::set_permissions(&own, Permissions::from_mode(0o700))?;
            self.give(&own, role)?;
        }
        Ok(())
    }

    /// Starts a role; it need not be ready when this returns.
    ///
    /// # Errors
    /// If it runs already or can't be started.
    pub fn start(&mut self, role: Role) -> Result<()> {
        if self.processes.contains_key(&role) {
            bail!("role {} is running", role.name());
        }
        let (own, metrics) = self.sockets.get(&role).context("a role without sockets")?;
        let mut named: Vec<_> = own.iter().map(|own| (role.name(), own)).collect();
        named.push(("metrics", metrics));
        let mut command = if self.separate {
            let mut command = with_sockets(&system_tool("setpriv")?, &named)?;
            command.args(setpriv(role)).arg(&self.program);
            command
        } else {
            with_sockets(&self.program, &named)?
        };
        command.arg("--data").arg(self.data()).args(["serve", "--json", "--only", role.name()]);
        command.env("CHANCERY__LISTEN__METRICS", metrics.local_addr()?.to_string());
        self.set_environment(&mut command);
        self.processes.insert(role, Process::start(&mut command, &self.log, role.log_prefix())?);
        Ok(())
    }

    /// Starts every role and waits until all of them are ready.
    ///
    /// # Errors
    /// If one runs already or does not get there.
    pub fn start_all(&mut self) -> Result<()> {
        for role in Role::ALL {
            self.start(role)?;
        }
        Role::ALL.into_iter().try_for_each(|role| self.ready(role))
    }

    /// Waits until a role says at `/readyz` that it is ready.
    ///
    /// # Errors
    /// If it does not get there; the error ends with the log.
    pub fn ready(&self, role: Role) -> Result<()> {
        eventually(&format!("role {} to be ready", role.name()), READY_WITHIN, || {
            let (status, report) = self.readiness(role)?;
            if status != 200 {
                bail!("it says: {report}");
            }
            Ok(Some(()))
        })
        .with_context(|| self.log())
    }

    /// What a role answers at `/readyz` now: status and report.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn readiness(&self, role: Role) -> Result<(u16, Value)> {
        let response = http::get(&format!("{}/readyz", self.metrics_url(role)?))?;
        Ok((response.status, serde_json::from_slice(&response.body)?))
    }

    /// Asks a role to stop (SIGTERM); it must do so in time and with exit code 0.
    ///
    /// # Errors
    /// If it does not.
    pub fn stop(&mut self, role: Role) -> Result<()> {
        self.processes.remove(&role).with_context(|| format!("role {} is not running", role.name()))?.stop()
    }

    /// Whether each role runs under a user of its own.
    #[must_use]
    pub fn are_separate(&self) -> bool {
        self.separate
    }

    /// The real, effective, saved and file system user ids of a role's process, as the kernel has them (`proc(5)`).
    ///
    /// # Errors
    /// If the role is not running.
    pub fn user_ids(&self, role: Role) -> Result<Vec<u32>> {
        let process = self.processes.get(&role).with_context(|| format!("{} is not running", role.name()))?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let ids =
            status.lines().find_map(|line| line.strip_prefix("Uid:")).context("a process without user")?;
        Ok(ids.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Runs a program as a role's user would, to its end.
    ///
    /// # Errors
    /// If it can't be started or takes too long.
    pub fn run_as(&self, role: Role, program: &Path, arguments: &[&str]) -> Result<Finished> {
        run(self.command_as(role, program)?.args(arguments), program::TIMEOUT)
    }

    /// Runs a command of the program's own command line as the CA's user, with `--json`, and parses what it prints.
    ///
    /// # Errors
    /// If it fails, or prints something else than one JSON value.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command_as(Role::Ca, &self.program)?;
        command.arg("--data").arg(self.data()).args(arguments).arg("--json");
        let finished = succeed(&mut command)?;
        serde_json::from_str(&finished.stdout).with_context(|| finished.to_string())
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The file with the roots.
    #[must_use]
    pub fn roots_pem(&self) -> PathBuf {
        self.data().join("roots.pem")
    }

    /// The URL of the ACME directory.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn acme_directory(&self) -> Result<String> {
        Ok(format!("https://{}/acme/default/directory", self.address(Role::Acme)?))
    }

    /// The base of the URLs of CRLs and CA certificates, without a slash at its end.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn crl_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.address(Role::Crl)?))
    }

    /// The base of the OCSP responder's URL, without a slash at its end.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn ocsp_url(&self) -> Result<String> {
        Ok(format!("http://{}", self.address(Role::Ocsp)?))
    }

    /// The base of a role's metrics listener.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn metrics_url(&self, role: Role) -> Result<String> {
        let (_, metrics) = self.sockets.get(&role).context("a role without sockets")?;
        Ok(format!("http://{}", metrics.local_addr()?))
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

    /// What the roles wrote to standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn address(&self, role: Role) -> Result<SocketAddr> {
        let (own, _) = self.sockets.get(&role).context("a role without sockets")?;
        Ok(own.as_ref().context("a role without a listener")?.local_addr()?)
    }

    fn command_as(&self, role: Role, program: &Path) -> Result<Command> {
        let mut command = if self.separate {
            let mut command = command(system_tool("setpriv")?);
            command.args(setpriv(role)).arg(program);
            command
        } else {
            command(program)
        };
        self.set_environment(&mut command);
        Ok(command)
    }

    fn set_environment(&self, command: &mut Command) {
        command.env("RUST_BACKTRACE", "1").current_dir(self.directory.path());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        if let Some(token) = &self.token {
            command.env("SOFTHSM2_CONF", token.configuration());
        }
    }

    /// Makes a role's user the owner, where there are several.
    fn give(&self, path: &Path, role: Role) -> Result<()> {
        if !self.separate {
            return Ok(());
        }
        let name = role.user();
        let user = User::from_name(&name)?.with_context(|| format!("no user {name}"))?;
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to {name}", path.display()))
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        // Before the log is shown.
        self.processes.clear();
        // Test runners show this for failed tests only.
        eprintln!("--- log of the roles\n{}", self.log());
        // Whatever a test is about, a panic of the program fails it.
        assert!(thread::panicking() || !self.log().contains("panicked at"), "the program panicked");
    }
}

/// What makes `setpriv` (util-linux) run a program as a role's unit does: its user, the common group, nothing else.
fn setpriv(role: Role) -> Vec<String> {
    let (user, group) = (format!("--reuid={}", role.user()), format!("--regid={GROUP}"));
    let rest = ["--clear-groups", "--no-new-privs", "--bounding-set=-all"];
    [user, group].into_iter().chain(rest.map(str::to_owned)).collect()
}

/// Makes the group and the roles' users as deploy/ does, where they are missing. Two tests at once wait for each other.
fn make_users() -> Result<()> {
    let lock = File::create(std::env::temp_dir().join("chancery-e2e-users.lock"))?;
    lock.lock()?;
    if Group::from_name(GROUP)?.is_none() {
        succeed(command(system_tool("groupadd")?).args(["--system", GROUP]))?;
    }
    for role in Role::ALL {
        if User::from_name(&role.user())?.is_none() {
            let mut useradd = command(system_tool("useradd")?);
            useradd.args(["--system", "--gid", GROUP, "--no-create-home", "--home-dir", "/nonexistent"]);
            succeed(useradd.args(["--shell", "/usr/sbin/nologin", &role.user()]))?;
        }
    }
    Ok(())
}

fn everything_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![directory.to_owned()];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(everything_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}
