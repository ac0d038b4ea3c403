//! Serving: the roles of one process, wired over store, keys and listeners, from start to graceful stop.

pub mod effects;
pub mod gauges;
mod places;
pub mod prune;
pub mod readiness;
mod roles;
mod sealing;
mod star;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ca_core::store::{Role, Store};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::listen::sockets::Handed;
use crate::setup;
use readiness::Readiness;

/// How long requests in flight may take to finish after a signal to stop.
const FINISH_WITHIN: Duration = Duration::from_secs(6);
/// How long work under way, such as a signature, may take after that.
const SETTLE_WITHIN: Duration = Duration::from_secs(2);
/// How long after a signal to stop the process ends in any case: a call into a PKCS#11 module may never return.
const END_WITHIN: Duration = Duration::from_millis(9_250);
/// How long ending then may take, which runs the module's own exit handlers.
const EXIT_WITHIN: Duration = Duration::from_millis(350);
/// How often readiness is asked while the process starts.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// What to serve.
#[derive(Debug)]
pub struct Plan {
    /// The data directory.
    pub data: DataDir,
    /// The configuration.
    pub config: Config,
    /// The roles of this process.
    pub roles: BTreeSet<Role>,
    /// Sockets that were handed over.
    pub handed: Handed,
}

/// What is said when everything is ready.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The URL of the first ACME directory.
    pub acme_directory: String,
    /// The file with the roots.
    pub roots_pem: PathBuf,
    /// SHA-256 of the root's DER, in hexadecimal.
    pub root_sha256: String,
    /// The addresses by listener.
    pub listen: Vec<(&'static str, SocketAddr)>,
}

impl Ready {
    /// The line that `--json` prints.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let listen: serde_json::Map<_, _> = self
            .listen
            .iter()
            .map(|(name, address)| ((*name).to_owned(), json!(address.to_string())))
            .collect();
        json!({
            "acme_directory": self.acme_directory,
            "roots_pem": self.roots_pem,
            "root_sha256": self.root_sha256,
            "listen": listen,
        })
    }
}

/// The two steps of stopping.
struct Stop {
    /// No new requests; those in flight finish, and what they wait for goes on.
    requests: watch::Sender<bool>,
    /// No new work at all.
    work: watch::Sender<bool>,
}

/// Serves until SIGTERM or SIGINT; `on_ready` is called once, when every role is ready for the first time.
///
/// # Errors
/// What keeps the process from starting, with what to do.
pub async fn run(plan: Plan, on_ready: impl FnOnce(&Ready)) -> Result<(), Failure> {
    plan.data.refuse_foreign_root()?;
    raise_open_file_limit();
    // Before anything slow, so that a signal during the start is not lost.
    let mut stopped = stop_signal()?;
    let stop = Stop { requests: watch::channel(false).0, work: watch::channel(false).0 };
    let mut running = tokio::select! {
        running = roles::start(&plan.data, &plan.config, &plan.roles, plan.handed, &stop) => running?,
        _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
    };
    let listen = running.listen.clone();
    tracing::info!(roles = %names(&plan.roles), "serving");
    // It listens. What it still lacks may be another unit's to bring, or an operator's, and a service manager that
    // waited for it would end what can be served already; /readyz tells of it.
    notify(NotifyState::Ready);
    let becoming_ready = async {
        let sha256 = first_ready(&running.readiness, &*running.store, &plan.data).await;
        let acme_directory = plan.config.acme_directory().unwrap_or_default();
        Ready { acme_directory, roots_pem: plan.data.roots_pem(), root_sha256: sha256, listen }
    };
    let ready = tokio::select! {
        ready = becoming_ready => Some(ready),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    if let Some(ready) = ready {
        on_ready(&ready);
        // The sender lives as long as the process; an error would only mean that nobody can ask to stop.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
    notify(NotifyState::Stopping);
    tracing::info!("stopping: requests in flight finish first");
    finish(&mut running, &stop).await;
    tracing::info!("stopped");
    Ok(())
}

async fn finish(running: &mut roles::Running, stop: &Stop) {
    stop.requests.send_replace(true);
    if tokio::time::timeout(FINISH_WITHIN, drain(&mut running.listeners)).await.is_err() {
        tracing::warn!("some connections did not finish in time and are cut off");
        running.listeners.abort_all();
    }
    stop.work.send_replace(true);
    if tokio::time::timeout(SETTLE_WITHIN, drain(&mut running.workers)).await.is_err() {
        tracing::warn!("some work did not end in time; it is taken up again at the next start");
    }
    running.forever.abort_all();
    if let Some(writer) = &running.writer
        && tokio::time::timeout(Duration::from_secs(1), writer.close()).await.is_err()
    {
        tracing::warn!("the store did not close in time; nothing that was answered is lost");
    }
}

async fn drain(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a task ended abnormally");
        }
    }
}

/// Waits until every role is ready, and the root is known; gives its fingerprint.
async fn first_ready(readiness: &Readiness, store: &dyn Store, data: &DataDir) -> String {
    let mut said = None;
    let mut asked: u32 = 0;
    loop {
        let (ready, report) = readiness.report(Duration::ZERO).await;
        if ready && let Ok(Some(sha256)) = setup::root_sha256(store).await {
            if let Err(failure) = setup::write_roots(data, store).await
                && !data.roots_pem().exists()
            {
                tracing::warn!(error = %failure, "roots.pem can't be written");
            }
            return sha256;
        }
        // Said once it takes longer than a start does, and again when it changes.
        asked += 1;
        if asked > 150 && said.as_ref() != Some(&report) {
            tracing::warn!(%report, "not ready yet");
            said = Some(report);
        }
        tokio::time::sleep(if asked > 150 { Duration::from_secs(1) } else { ASK_EVERY }).await;
    }
}

fn names(roles: &BTreeSet<Role>) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",")
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd can't be told");
    }
}

/// Becomes true at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>, Failure> {
    let failed = |e| {
        Failure::new(Code::System, format!("signals can't be waited for: {e}"), "start the program again")
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        end_in_any_case();
        sender.send_replace(true);
    });
    Ok(receiver)
}

/// Ends the process if a thread that hangs keeps it from ending by itself. What was answered is on disk by then, and
/// what was not is taken up at the next start.
fn end_in_any_case() {
    let started = std::thread::Builder::new().name("stop-watch".to_owned()).spawn(|| {
        // Nothing is ever sent: the two ends live until the time is over.
        let (_sender, nothing) = std::sync::mpsc::channel::<()>();
        let _ = nothing.recv_timeout(END_WITHIN);
        tracing::error!(
            "a thread does not end, most likely in a call into the PKCS#11 module; ending without it"
        );
        let killer = std::thread::Builder::new().spawn(move || {
            let _ = nothing.recv_timeout(EXIT_WITHIN);
            let _ = kill(Pid::this(), Signal::SIGKILL);
        });
        if killer.is_err() {
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
        std::process::exit(0);
    });
    if let Err(error) = started {
        tracing::warn!(%error, "no thread watches over the stop");
    }
}

/// Every connection is an open file: the limit goes up as far as this user may raise it.
fn raise_open_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the open-file limit can't be raised");
    }
}

/// The services' store handle in a process that writes it or not.
pub(crate) type SharedStore = Arc<dyn Store>;
