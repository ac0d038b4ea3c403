//! `chancery doctor`: looks at everything that can be wrong, and says what to do about each.

mod authority;
mod network;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ca_core::store::{AuthorityReads, IssuerKind, IssuerRecord, IssuerState, Role, StoreError};
use ca_core::time::{Clock, SystemClock};
use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::client::Client;
use crate::admin::{Answer, Request};
use crate::cli::output::{Output, Tone};
use crate::config::{Config, LogFormat};
use crate::data::{DataDir, user_name};
use crate::failure::{Code, Failure};
use crate::{logging, open};
use authority::{ca_certificates, clock, crls, directories};
use network::{policy, ports, ready, urls};

/// How long a connection that is tried may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A disk with less than this many times the watermark is worth a word.
const ROOMY: u64 = 4;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    id: &'static str,
    status: Status,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    fn ok(&mut self, id: &'static str, detail: impl Into<String>) {
        self.0.push(Check { id, status: Status::Ok, detail: detail.into(), fix: None });
    }

    fn warn(&mut self, id: &'static str, detail: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { id, status: Status::Warn, detail: detail.into(), fix: Some(fix.into()) });
    }

    fn fail(&mut self, id: &'static str, detail: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Check { id, status: Status::Fail, detail: detail.into(), fix: Some(fix.into()) });
    }

    fn failure(&mut self, id: &'static str, failure: Failure) {
        self.fail(id, failure.detail, failure.fix);
    }
}

/// Checks everything and prints a line for each.
///
/// # Errors
/// [`Code::Unhealthy`] if a check failed.
pub async fn run(data: &DataDir, output: &Output) -> Result<(), Failure> {
    logging::start(LogFormat::Auto, "error");
    let mut report = Report::default();
    examine(data, &mut report).await;
    print(&report, output);
    let failed = report.0.iter().filter(|check| check.status == Status::Fail).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Code::Unhealthy,
        format!("{failed} of {} checks failed", report.0.len()),
        "follow the fixes above, then run `chancery doctor` again",
    ))
}

fn print(report: &Report, output: &Output) {
    if output.is_json() {
        let rows: Vec<Value> = report.0.iter().map(|check| json!(check)).collect();
        output.raw(&format!("{}\n", Value::Array(rows)));
        return;
    }
    for check in &report.0 {
        let (word, tone) = match check.status {
            Status::Ok => ("OK  ", Tone::Good),
            Status::Warn => ("WARN", Tone::Doubtful),
            Status::Fail => ("FAIL", Tone::Bad),
        };
        output.say(&format!("{}  {:14} {}", output.toned(word, tone), check.id, check.detail));
        if let Some(fix) = &check.fix {
            output.say(&format!("      {:14} fix: {fix}", ""));
        }
    }
}

async fn examine(data: &DataDir, report: &mut Report) {
    let config = match Config::load(data) {
        Ok(config) => config,
        Err(failure) => return report.failure("configuration", failure),
    };
    report.ok("configuration", data.configuration().display().to_string());
    names(&config, report);
    permissions(data, report);
    let server = server(data, report).await;
    disk(data, &config, report);
    let issuers = store(data, report).await;
    directories(&config, &issuers, report);
    keys(data, &config, &issuers, report).await;
    urls(&config, &issuers, report).await;
    ports(&config, server.as_ref(), report).await;
    policy(data, &config, report).await;
    if server.is_some() {
        ready(config.listen.metrics, report).await;
    }
}

fn names(config: &Config, report: &mut Report) {
    if config.acme.directories.is_empty() && config.acme.allowed_names.is_empty() {
        report.warn(
            "names",
            "acme.allowed_names is empty: no name can be ordered",
            "list the names that may be ordered, such as \".example.org\"",
        );
    }
}

fn permissions(data: &DataDir, report: &mut Report) {
    let me = Uid::effective();
    match data.owner() {
        Ok(owner) if owner == me => {}
        Ok(owner) if me.is_root() => {
            report.warn(
                "permissions",
                format!("{} belongs to {}, and this is root", data.path().display(), user_name(owner)),
                format!("run doctor as that user: sudo -u {} chancery …", user_name(owner)),
            );
        }
        Ok(owner) => {
            report.fail(
                "permissions",
                format!(
                    "{} belongs to {}, not to {}",
                    data.path().display(),
                    user_name(owner),
                    user_name(me)
                ),
                format!("run doctor as {}", user_name(owner)),
            );
        }
        Err(failure) => report.failure("permissions", failure),
    }
    let mut fine = true;
    for (path, allowed) in modes(data) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mode = metadata.mode() & 0o777;
        if mode & !allowed != 0 {
            fine = false;
            report.fail(
                "permissions",
                format!("{} is open to other users: its mode is {mode:04o}", path.display()),
                format!("chmod {:04o} {}", mode & allowed, path.display()),
            );
        }
    }
    if fine {
        report.ok("permissions", "nothing is open to other users");
    }
}

/// What may be there, and the widest mode that each may have: what roles share may be read by their group.
fn modes(data: &DataDir) -> Vec<(PathBuf, u32)> {
    let mut modes = vec![
        (data.path().to_owned(), 0o750),
        (data.run(), 0o750),
        (data.configuration(), 0o640),
        (data.roots_pem(), 0o644),
        (data.lock(), 0o640),
        (data.passphrase(), 0o600),
        (data.store(), 0o640),
        (data.path().join("store.db-wal"), 0o640),
        (data.path().join("store.db-shm"), 0o660),
    ];
    let roles = [Role::Acme, Role::Ocsp, Role::Crl].map(|role| data.role(role));
    for own in &roles {
        modes.extend([(own.clone(), 0o700), (own.join("passphrase"), 0o600)]);
    }
    for keys in [data.keys()].into_iter().chain(roles.map(|own| own.join("keys"))) {
        // A directory that is missing or closed to this user has nothing to look at.
        let files = fs::read_dir(&keys).into_iter().flatten().filter_map(Result::ok);
        modes.extend(files.map(|file| (file.path(), 0o600)));
        modes.push((keys, 0o700));
    }
    modes
}

/// Whether a server runs; what it says of itself.
async fn server(data: &DataDir, report: &mut Report) -> Option<Value> {
    let asked = match Client::connect(&data.admin_socket()).await {
        Ok(Some(mut client)) => client.ask(&Request::Server).await,
        Ok(None) => {
            // Taking the lock would make its file.
            if !data.lock().exists() {
                report.warn("server", "no server runs", "start it: chancery serve");
                return None;
            }
            let pid = fs::read_to_string(data.lock()).unwrap_or_default();
            match store::lock::CaLock::acquire(data.path()) {
                Ok(_lock) => {
                    report.warn("server", "no server runs", "start it: chancery serve");
                }
                Err(_) => report.fail(
                    "server",
                    format!("process {} holds the lock but does not answer", pid.trim()),
                    "look at its log; it may be starting",
                ),
            }
            return None;
        }
        Err(failure) => Err(failure),
    };
    match asked {
        Ok(Answer::Object(server)) => {
            let roles: Vec<&str> = server
                .get("roles")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let pid = server.get("id").map(ToString::to_string).unwrap_or_default();
            report.ok("server", format!("process {pid} runs {}", roles.join(", ")));
            Some(server)
        }
        Ok(_) => {
            report.fail(
                "server",
                "the server answered something else than was asked",
                "use the command line of its own version",
            );
            None
        }
        Err(failure) => {
            report.failure("server", failure);
            None
        }
    }
}

fn disk(data: &DataDir, config: &Config, report: &mut Report) {
    let free = match statvfs(data.path()) {
        Ok(fs) => fs.blocks_available().saturating_mul(fs.fragment_size()),
        Err(error) => {
            return report.warn("disk", format!("free space is not known: {error}"), "check it with `df`");
        }
    };
    let mebibytes = free / (1024 * 1024);
    let least = config.store.min_free_bytes;
    let fix = "free some space, or move the data directory to a larger disk";
    if free < least {
        report.fail(
            "disk",
            format!("{mebibytes} MiB are free: too little to issue (store.min_free_bytes)"),
            fix,
        );
    } else if free < least.saturating_mul(ROOMY) {
        report.warn("disk", format!("{mebibytes} MiB are free"), fix);
    } else {
        report.ok("disk", format!("{mebibytes} MiB are free"));
    }
}

async fn store(data: &DataDir, report: &mut Report) -> Vec<IssuerRecord> {
    if let Err(failure) = data.refuse_lost_store() {
        report.failure("store", failure);
        return Vec::new();
    }
    if !data.has_store() {
        report.fail(
            "store",
            format!("{} is missing: the making of this CA was interrupted", data.store().display()),
            "repeat `chancery init` or `chancery up` with the same options",
        );
        return Vec::new();
    }
    let store = match open::remote(data, Role::Ca) {
        Ok(store) => store,
        Err(failure) => {
            report.failure("store", failure);
            return Vec::new();
        }
    };
    let issuers = match store.issuers().await {
        Ok(issuers) => issuers,
        Err(error) => {
            report.failure("store", crate::admin::execute::store_failure(error));
            return Vec::new();
        }
    };
    if issuers.is_empty() && data.roots_pem().exists() {
        report.failure("store", data.lost_store("holds no CA"));
        return Vec::new();
    }
    integrity(data, report).await;
    if !issuers.iter().any(|issuer| issuer.kind == IssuerKind::Issuing && issuer.state == IssuerState::Active)
    {
        report.fail(
            "issuers",
            "there is no active issuing CA",
            "run `chancery init` in an empty data directory",
        );
    } else {
        ca_certificates(&issuers, SystemClock.now(), report);
    }
    clock(&*store, report).await;
    crls(&*store, &issuers, report).await;
    issuers
}

/// Looks at a copy: on the live file the check would hold a read transaction for as long as it takes.
async fn integrity(data: &DataDir, report: &mut Report) {
    let directory = data.path().to_owned();
    match tokio::task::spawn_blocking(move || store::sqlite::check_copy(&directory, &directory)).await {
        Ok(Ok(())) => report.ok("store", "a copy of it passed the integrity check"),
        Ok(Err(error)) => not_checked(error, report),
        Err(error) => {
            report.fail("store", format!("the check ended abnormally: {error}"), "run doctor again")
        }
    }
}

/// Tells a disk without room for the copy from a store at fault.
fn not_checked(error: StoreError, report: &mut Report) {
    match error {
        // SQLite's words for SQLITE_FULL, which the copy meets, not the store.
        StoreError::Full(why) | StoreError::Corrupt(why) | StoreError::Busy(why)
            if why.contains("disk is full") || why.contains("No space left") =>
        {
            report.fail(
                "disk",
                format!("there is no room for the copy on which the store is checked: {why}"),
                "free as much space as store.db takes, then run doctor again; the store itself was not checked",
            );
        }
        error => report.failure("store", crate::admin::execute::store_failure(error)),
    }
}

async fn keys(data: &DataDir, config: &Config, issuers: &[IssuerRecord], report: &mut Report) {
    // Opening would make what is missing, and a look must change nothing.
    if config.keys.backend == hsm::BackendKind::Software && !holds_anything(&data.keys()) {
        return report.fail(
            "keys",
            format!("{} is missing or empty, and [keys] says that the keys are there", data.keys().display()),
            "restore keys/ from the backup, or check keys.backend in chancery.toml",
        );
    }
    let backend = match open::keys(config, data.path(), &hsm::Metrics::default()).await {
        Ok(backend) => backend,
        Err(failure) => return report.failure("keys", failure),
    };
    let place = backend.place();
    let mut fine = true;
    for issuer in issuers {
        if let Err(error) = backend.open(&issuer.key_label, issuer.signature_algorithm).await {
            fine = false;
            report.failure("keys", crate::setup::keys_failure(&error));
        }
    }
    if fine {
        report.ok("keys", format!("{place}: the keys of {} issuers can be opened", issuers.len()));
    }
}

fn holds_anything(directory: &Path) -> bool {
    // One that this user can't read is told of by who opens it.
    fs::read_dir(directory)
        .map_or_else(|error| error.kind() != ErrorKind::NotFound, |mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests;
