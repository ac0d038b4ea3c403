//! The publisher: asks for CRLs that are due, takes up those that were signed, and serves them from memory.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use ca_core::BoxFuture;
use ca_core::id::{EffectId, IssuerId};
use ca_core::random::SystemRandom;
use ca_core::store::{Commit, Effect, EffectKind, Store, StoreError, Topic};
use ca_core::time::Clock;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::config::{Config, ConfigError};
use crate::document::{Crl, Snapshot};
use crate::serve::{self, Resource};
use crate::{Metrics, files, schedule};

/// A store last read longer ago than this is no sign of health; [`Publisher::run`] reads it every minute.
const STALE: Duration = Duration::from_mins(3);

/// How often the store is looked at without being woken: well within the second in which a revocation must show, in
/// case another process's store misses a change.
const POLL: Duration = Duration::from_millis(500);

/// How often it is looked whether a CRL is due, and how soon again after that failed.
const TICK: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_secs(5);

/// The most effects in one commit.
const CHUNK: usize = 1000;

/// Why CRLs could not be asked for, taken up or written; tried again at the next call.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The store could not be read or written.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// The files could not be read or written; what is served from memory is right all the same.
    #[error("the CRL files in {directory}: {why}")]
    Files {
        /// Where they are.
        directory: String,
        /// What the system said.
        why: io::Error,
    },
}

/// Serves CRLs and CA certificates, and sees that no CRL grows old.
pub struct Publisher {
    config: Config,
    directory: PathBuf,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Whether the files are behind what is served. Held while the snapshot is made anew, so that an older one never
    /// replaces a newer.
    files_behind: Mutex<bool>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A publisher that keeps its files in `directory` (`DATA/crl`). It has nothing to serve until
    /// [`Publisher::refresh`] has run; [`Publisher::run`] keeps it going.
    ///
    /// # Errors
    /// If a number of the configuration is out of its range.
    pub fn new(
        config: Config,
        directory: PathBuf,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let (snapshot, files_behind) = (RwLock::default(), Mutex::new(false));
        Ok(Self { config, directory, store, clock, metrics, snapshot, files_behind })
    }

    /// Asks the `ca` role for every CRL that is [`crate::due`], unless it was asked already and has not done it yet.
    /// Returns how many it asked for.
    ///
    /// # Errors
    /// [`PublishError::Store`].
    pub async fn tick(&self) -> Result<usize, PublishError> {
        let now = self.clock.now();
        let issuers = self.store.issuers().await?;
        let summaries = self.store.crl_summaries().await?;
        let due = schedule::due(now, &issuers, &summaries, &self.config);
        if due.is_empty() {
            return Ok(0);
        }
        let waiting: HashSet<(IssuerId, u32)> = self
            .store
            .effects(10_000)
            .await?
            .into_iter()
            .filter_map(|effect| match effect.kind {
                EffectKind::PublishCrl { issuer, shard } => Some((issuer, shard)),
                EffectKind::Issue { .. } | EffectKind::IssueCredential { .. } | EffectKind::Revoke { .. } => {
                    None
                }
            })
            .collect();
        let effects: Vec<_> = due
            .into_iter()
            .filter(|shard| !waiting.contains(shard))
            .map(|(issuer, shard)| Effect {
                id: EffectId::generate(now, &mut SystemRandom),
                kind: EffectKind::PublishCrl { issuer, shard },
            })
            .collect();
        for chunk in effects.chunks(CHUNK) {
            self.store.commit(Commit { effects: chunk.to_vec(), ..Commit::default() }).await?;
            self.metrics.asked(chunk.len());
        }
        Ok(effects.len())
    }

    /// Takes up issuers and CRLs that changed, first into memory, then into files. If the store can't be read and
    /// nothing is served yet, the files are.
    ///
    /// # Errors
    /// [`PublishError::Store`] also if the files stood in for the store.
    pub async fn refresh(&self) -> Result<(), PublishError> {
        let mut files_behind = self.files_behind.lock().await;
        let before = self.snapshot();
        let (snapshot, changed) = match self.read_store(&before).await {
            Ok(read) => read,
            Err(why) => {
                if before.read_at.is_none() && before.certificates.is_empty() {
                    let files =
                        self.on_files(|directory, _| files::read(directory), Snapshot::default()).await?;
                    self.install(files);
                }
                return Err(why.into());
            }
        };
        self.metrics.observe(&snapshot, self.clock.now());
        self.install(snapshot.clone());
        *files_behind |= changed;
        if *files_behind {
            self.on_files(|directory, snapshot| files::write(directory, &snapshot), snapshot).await?;
            *files_behind = false;
        }
        Ok(())
    }

    /// A new snapshot, and whether its documents differ from those before. Only CRLs with another number are loaded.
    async fn read_store(&self, before: &Snapshot) -> Result<(Snapshot, bool), StoreError> {
        let mut snapshot = Snapshot { read_at: Some(self.clock.now()), ..Snapshot::default() };
        snapshot.set_issuers(&self.store.issuers().await?, self.clock.now());
        let mut changed = before.read_at.is_none()
            || snapshot.certificates != before.certificates
            || snapshot.roots != before.roots;
        for summary in self.store.crl_summaries().await? {
            let held = before.crl(&summary.issuer, summary.shard).filter(|crl| crl.number == summary.number);
            let crl = match held {
                Some(crl) => Some(Arc::clone(crl)),
                None => {
                    changed = true;
                    let record = self.store.crl(summary.issuer.clone(), summary.shard).await?;
                    record.map(|record| Arc::new(Crl::from(record)))
                }
            };
            if let Some(crl) = crl {
                snapshot.crls.entry(summary.issuer).or_default().insert(summary.shard, crl);
            }
        }
        Ok((snapshot, changed))
    }

    /// Runs file work on a thread where it may block.
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&std::path::Path, Snapshot) -> io::Result<T> + Send + 'static,
        snapshot: Snapshot,
    ) -> Result<T, PublishError> {
        let directory = self.directory.clone();
        let done = tokio::task::spawn_blocking(move || work(&directory, snapshot)).await;
        done.unwrap_or_else(|why| Err(io::Error::other(why)))
            .map_err(|why| PublishError::Files { directory: self.directory.display().to_string(), why })
    }

    /// Calls [`Publisher::refresh`] now and at every change of issuers or CRLs, and [`Publisher::tick`] now, when
    /// issuers change, and every minute. Never returns; drop the future to stop it.
    pub async fn run(&self) {
        // Apart, so that a commit that `ca` does not answer holds back nothing that is served.
        tokio::join!(self.follow(), self.keep_asking());
    }

    async fn follow(&self) {
        let (mut changes, mut complaint) = (Changes::new(&*self.store), Complaint::default());
        loop {
            complaint.note(self.refresh().await.err());
            let _ = tokio::time::timeout(POLL, changes.next()).await;
            changes.register_again(&*self.store);
        }
    }

    async fn keep_asking(&self) {
        let mut complaint = Complaint::default();
        loop {
            let issuers = self.store.watch(&Topic::Issuers);
            let asked = self.tick().await;
            let pause = if asked.is_ok() { TICK } else { RETRY };
            complaint.note(asked.err());
            let _ = tokio::time::timeout(pause, issuers).await;
        }
    }

    /// Answers `/crl/ISSUER/SHARD.crl`, `/ca/ISSUER.cer` and `/roots.pem`; 404 for others, 405 for other methods than
    /// GET and HEAD. Never reads the store or a file.
    pub async fn handle<B>(&self, request: http::Request<B>) -> Response<Full<Bytes>> {
        let resource = Resource::of(request.uri().path());
        let name = resource.as_ref().map_or("other", Resource::name);
        let response = self.respond(resource.as_ref(), &request);
        self.metrics.answered(name, response.status());
        response
    }

    fn respond<B>(&self, resource: Option<&Resource>, request: &http::Request<B>) -> Response<Full<Bytes>> {
        let method = request.method();
        let missing = || {
            let line = "there is nothing here; CRLs are at /crl/ISSUER/SHARD.crl, CA certificates at /ca/ISSUER.cer\n";
            serve::text(StatusCode::NOT_FOUND, line, method)
        };
        let Some(resource) = resource else { return missing() };
        if *method != Method::GET && *method != Method::HEAD {
            return serve::text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n", method);
        }
        let snapshot = self.snapshot();
        match resource.find(&snapshot) {
            Some(document) => {
                let max_age = self.config.http_max_age();
                serve::document(document, self.clock.now(), max_age, method, request.headers())
            }
            None if snapshot.read_at.is_none() => {
                serve::text(StatusCode::SERVICE_UNAVAILABLE, "not ready yet; try again in a moment\n", method)
            }
            None => missing(),
        }
    }

    /// Ready if every issuer has a CRL for each of its shards whose nextUpdate is to come, and the store was read lately.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn readiness(&self) -> Result<(), String> {
        let (snapshot, now) = (self.snapshot(), self.clock.now());
        let Some(read_at) = snapshot.read_at else {
            return Err("the CRL publisher has not been able to read the store yet".to_owned());
        };
        if now.since(read_at) > STALE {
            return Err(format!("the CRL publisher has not been able to read the store since {read_at}"));
        }
        if snapshot.shards.is_empty() {
            return Err("there is no issuer to publish CRLs for".to_owned());
        }
        for (issuer, shards) in &snapshot.shards {
            for shard in 0..*shards {
                match snapshot.crl(issuer, shard) {
                    None => {
                        return Err(format!(
                            "no CRL yet for shard {shard} of {issuer}: is the ca role running?"
                        ));
                    }
                    Some(crl) if crl.next_update <= now => {
                        let at = crl.next_update;
                        return Err(format!(
                            "the CRL of shard {shard} of {issuer} is out of date since {at}"
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn install(&self, snapshot: Snapshot) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}

/// Says once what is wrong, not at every attempt.
#[derive(Default)]
struct Complaint(String);

impl Complaint {
    fn note(&mut self, why: Option<PublishError>) {
        let said = why.map(|why| why.to_string()).unwrap_or_default();
        if said != self.0 && !said.is_empty() {
            tracing::warn!(why = %said, "the CRL publisher needs attention; it serves what it has");
        }
        self.0 = said;
    }
}

/// Waits for changes of CRLs and issuers. A wait that was cut short goes on at the next call, so none is missed.
struct Changes {
    waits: [(Topic, Option<BoxFuture<'static, ()>>); 2],
}

impl Changes {
    fn new(store: &dyn Store) -> Self {
        let mut changes = Self { waits: [(Topic::Crls, None), (Topic::Issuers, None)] };
        changes.register_again(store);
        changes
    }

    /// Replaces the waits that are over; called before the read that follows.
    fn register_again(&mut self, store: &dyn Store) {
        for (topic, wait) in &mut self.waits {
            if wait.is_none() {
                *wait = Some(store.watch(topic));
            }
        }
    }

    /// Resolves at the first change.
    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let mut ready = false;
            for (_, wait) in &mut self.waits {
                if wait.as_mut().is_none_or(|wait| wait.as_mut().poll(context).is_ready()) {
                    *wait = None;
                    ready = true;
                }
            }
            if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
