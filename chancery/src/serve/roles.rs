//! Starts each role: what it needs is opened, its tasks are spawned, its listener serves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use acme_server::config::AttestationRoots;
use acme_server::validation::{NetworkProber, Validator};
use acme_server::{Deps, Service};
use ca_core::acme::DirectoryName;
use ca_core::acme::attestation::{Trust, TrustAnchor};
use ca_core::authority::Authority;
use ca_core::store::{Role, Store};
use ca_core::time::{Clock, SystemClock};
use crl_publisher::Publisher;
use nix::unistd::{Uid, User};
use ocsp_responder::Responder;
use store::permissions::Sharing;
use store::socket::{CommitServer, Peers};
use store::sqlite::SqliteStore;
use tokio::task::JoinSet;

use super::gauges::{AuthorityMetrics, Instrumentation};
use super::places::{HeldLock, Places};
use super::prune::{self, Pruner};
use super::readiness::Readiness;
use super::{SharedStore, Stop, effects, sealing, star};
use crate::admin::execute::{Administration, authority_failure};
use crate::admin::socket as admin_socket;
use crate::config::{Config, UserRef};
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::listen::connections::{Answers, Listener};
use crate::listen::sockets::Handed;
use crate::listen::tls::{Current, Keeper, Tls};
use crate::listen::{metrics, pki};
use crate::{open, setup};

/// How often accepted validations that nobody works on are looked for.
const RESUME_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// A process that serves.
pub(super) struct Running {
    /// Listeners: end when no more requests are taken and those in flight are answered.
    pub listeners: JoinSet<()>,
    /// Work that is ended in order.
    pub workers: JoinSet<()>,
    /// Tasks that never end by themselves and can be cut off anywhere.
    pub forever: JoinSet<()>,
    /// The roles' checks.
    pub readiness: Arc<Readiness>,
    /// A store to read.
    pub store: SharedStore,
    /// The writing store, closed last.
    pub writer: Option<Arc<SqliteStore>>,
    /// The addresses by listener.
    pub listen: Vec<(&'static str, SocketAddr)>,
    /// Held until the end.
    _lock: Option<Arc<HeldLock>>,
}

/// What roles are made from.
struct Parts<'a> {
    data: &'a DataDir,
    config: &'a Config,
    roles: &'a BTreeSet<Role>,
    /// Whose attestations of devices each ACME directory accepts.
    trust: BTreeMap<DirectoryName, Trust>,
    clock: Arc<dyn Clock>,
    keys_metrics: hsm::Metrics,
    acme_metrics: acme_server::Metrics,
    ocsp_metrics: ocsp_responder::Metrics,
    crl_metrics: crl_publisher::Metrics,
    authority_metrics: AuthorityMetrics,
}

/// The sockets of this process, bound before anything slow is done.
struct Sockets {
    acme: Option<tokio::net::TcpListener>,
    pki: Option<(&'static str, tokio::net::TcpListener)>,
    second: Option<tokio::net::TcpListener>,
    metrics: tokio::net::TcpListener,
}

/// Starts the roles.
pub(super) async fn start(
    data: &DataDir,
    config: &Config,
    roles: &BTreeSet<Role>,
    mut handed: Handed,
    stop: &Stop,
) -> Result<Running, Failure> {
    // The lock first: a second process on the same data should hear that, not that a port is in use.
    let lock = if roles.contains(&Role::Ca) {
        data.create()?;
        Some(setup::take_lock(data)?)
    } else {
        None
    };
    let trust = if roles.contains(&Role::Acme) { attestation_trust(data, config)? } else { BTreeMap::new() };
    let sockets = bind(config, roles, &mut handed)?;
    let parts = Parts {
        trust,
        data,
        config,
        roles,
        clock: Arc::new(SystemClock),
        keys_metrics: hsm::Metrics::default(),
        acme_metrics: acme_server::Metrics::default(),
        ocsp_metrics: ocsp_responder::Metrics::default(),
        crl_metrics: crl_publisher::Metrics::default(),
        authority_metrics: AuthorityMetrics::default(),
    };
    let mut tasks = Tasks { listeners: JoinSet::new(), workers: JoinSet::new(), forever: JoinSet::new() };
    let mut readiness = Readiness::default();
    let mut stores = Stores { shared: None, remote: BTreeMap::new(), metrics: Vec::new() };

    let (mut writer, mut held) = (None, None);
    if let Some(lock) = lock {
        let instruments = open::Instruments {
            keys: parts.keys_metrics.clone(),
            observer: Arc::new(parts.authority_metrics.clone()),
            policy: parts.authority_metrics.policy.clone(),
        };
        let opened = open::waiting_authority(data, config, lock, &instruments).await?;
        stores.metrics.push(opened.store.metrics().clone());
        stores.shared = Some(Arc::clone(&opened.store) as SharedStore);
        let lock = Arc::new(HeldLock::new(data, opened.lock));
        start_ca(&parts, &opened.authority, &opened.store, &lock, &mut tasks, &mut readiness, stop).await?;
        writer = Some(opened.store);
        held = Some(lock);
    }
    let publisher = if roles.contains(&Role::Crl) {
        Some(start_crl(&parts, stores.of(data, Role::Crl)?, &mut tasks, &mut readiness)?)
    } else {
        None
    };
    let responder = if roles.contains(&Role::Ocsp) {
        Some(start_ocsp(&parts, stores.of(data, Role::Ocsp)?, &mut tasks, &mut readiness).await?)
    } else {
        None
    };
    let bounds = config.listen.bounds();
    let mut listen = Vec::new();
    let mut serve = |tasks: &mut Tasks, name, socket: tokio::net::TcpListener, tls, answers| {
        if let Ok(address) = socket.local_addr() {
            listen.push((name, address));
        }
        tasks
            .listeners
            .spawn(Listener { name, socket, tls, bounds, answers }.serve(stop.requests.subscribe()));
    };
    if let Some(socket) = sockets.acme {
        let (tls, answers) =
            start_acme(&parts, stores.of(data, Role::Acme)?, &mut tasks, &mut readiness, stop)?;
        serve(&mut tasks, "acme", socket, tls, answers);
    }
    match (sockets.pki, sockets.second) {
        (Some((_, socket)), Some(second)) => {
            serve(&mut tasks, "ocsp", socket, None, pki::answers(responder, None));
            serve(&mut tasks, "crl", second, None, pki::answers(None, publisher));
        }
        (Some((name, socket)), None) => {
            serve(&mut tasks, name, socket, None, pki::answers(responder, publisher))
        }
        (None, _) => {}
    }
    let store = stores.of(data, roles.first().copied().unwrap_or(Role::Ca))?;
    let readiness = Arc::new(readiness);
    let instrumentation = Instrumentation::new(Arc::clone(&store), |registry| {
        parts.keys_metrics.register(registry);
        for metrics in &stores.metrics {
            metrics.register(registry);
        }
        if roles.contains(&Role::Ca) {
            parts.authority_metrics.register(registry);
        }
        if roles.contains(&Role::Acme) {
            parts.acme_metrics.register(registry);
        }
        if roles.contains(&Role::Ocsp) {
            parts.ocsp_metrics.register(registry);
        }
        if roles.contains(&Role::Crl) {
            parts.crl_metrics.register(registry);
        }
    });
    let answers = metrics::answers(Arc::new(instrumentation), Arc::clone(&readiness));
    serve(&mut tasks, "metrics", sockets.metrics, None, answers);
    let Tasks { listeners, workers, forever } = tasks;
    Ok(Running { listeners, workers, forever, readiness, store, writer, listen, _lock: held })
}

/// The store of each role: one for all where this process writes, one each where it does not.
struct Stores {
    shared: Option<SharedStore>,
    remote: BTreeMap<Role, SharedStore>,
    metrics: Vec<store::Metrics>,
}

impl Stores {
    fn of(&mut self, data: &DataDir, role: Role) -> Result<SharedStore, Failure> {
        if let Some(shared) = &self.shared {
            return Ok(Arc::clone(shared));
        }
        if let Some(remote) = self.remote.get(&role) {
            return Ok(Arc::clone(remote));
        }
        let remote = open::remote(data, role)?;
        if self.metrics.is_empty() {
            self.metrics.push(remote.metrics().clone());
        }
        let remote = remote as SharedStore;
        self.remote.insert(role, Arc::clone(&remote));
        Ok(remote)
    }
}

/// The tasks of a process, by how they end.
struct Tasks {
    listeners: JoinSet<()>,
    workers: JoinSet<()>,
    forever: JoinSet<()>,
}

fn bind(config: &Config, roles: &BTreeSet<Role>, handed: &mut Handed) -> Result<Sockets, Failure> {
    let listen = &config.listen;
    let has = |role| roles.contains(&role);
    let (ocsp, crl) = (listen.ocsp.unwrap_or(listen.pki), listen.crl.unwrap_or(listen.pki));
    if has(Role::Ocsp) != has(Role::Crl) && ocsp == crl {
        return Err(Failure::new(
            Code::Configuration,
            format!("roles ocsp and crl run in different processes, and both are to listen on {ocsp}"),
            "set listen.ocsp and listen.crl to different addresses, and pki.ocsp_url and pki.crl_url to match",
        ));
    }
    let acme = if has(Role::Acme) { Some(handed.take_or_bind("acme", listen.acme)?) } else { None };
    let (pki, second) = match (has(Role::Ocsp), has(Role::Crl)) {
        (true, true) if ocsp == crl => (Some(("pki", handed.take_or_bind("pki", ocsp)?)), None),
        (true, true) => {
            (Some(("ocsp", handed.take_or_bind("ocsp", ocsp)?)), Some(handed.take_or_bind("crl", crl)?))
        }
        (true, false) => (Some(("ocsp", handed.take_or_bind("ocsp", ocsp)?)), None),
        (false, true) => (Some(("crl", handed.take_or_bind("crl", crl)?)), None),
        (false, false) => (None, None),
    };
    Ok(Sockets { acme, pki, second, metrics: handed.take_or_bind("metrics", listen.metrics)? })
}

async fn start_ca(
    parts: &Parts<'_>,
    authority: &Arc<Authority>,
    writer: &Arc<SqliteStore>,
    lock: &Arc<HeldLock>,
    tasks: &mut Tasks,
    readiness: &mut Readiness,
    stop: &Stop,
) -> Result<(), Failure> {
    let recovered = authority.recover().await.map_err(authority_failure)?;
    if recovered.resumed + recovered.abandoned > 0 {
        tracing::warn!(
            resumed = recovered.resumed,
            abandoned = recovered.abandoned,
            "the last run ended in the middle of issuing; what it left is finished or given up"
        );
    }
    let store = Arc::clone(writer) as SharedStore;
    let at_once = parts.config.ca.effects_at_once.get();
    let metrics = parts.authority_metrics.effects.clone();
    tasks.workers.spawn(effects::run(
        Arc::clone(authority),
        Arc::clone(&store),
        at_once,
        metrics,
        stop.work.subscribe(),
    ));
    tasks.workers.spawn(star::run(Arc::clone(authority), stop.work.subscribe()));
    let pruning = &parts.config.acme.pruning;
    if let Some(ages) = pruning.ages().map_err(configuration)? {
        let pruner = Pruner {
            store: Arc::clone(&store),
            clock: Arc::clone(&parts.clock),
            ages,
            every: pruning.every(),
            metrics: parts.authority_metrics.pruned.clone(),
        };
        tasks.workers.spawn(prune::run(pruner, stop.work.subscribe()));
    }
    let unusable = |what: &'static str| {
        move |e: std::io::Error| {
            Failure::new(
                Code::System,
                format!("the {what} socket can't be made: {e}"),
                "check the modes of run/ in the data directory; its path may have at most 100 bytes",
            )
        }
    };
    let peers = peers(parts.data, parts.config)?;
    let server =
        CommitServer::bind(parts.data.path(), Sharing::detect(), peers.clone()).map_err(unusable("store"))?;
    let mut stopping = stop.work.subscribe();
    tasks.workers.spawn(server.serve(Arc::clone(writer), async move {
        // A sender that is gone says the same.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }));
    let administration = Administration {
        data: parts.data.clone(),
        store,
        authority: Some(Arc::clone(authority)),
        clock: Arc::clone(&parts.clock),
        roles: parts.roles.iter().map(|role| role.name()).collect(),
        acme_url: open::acme_url(parts.config)?,
        serving: true,
    };
    let listener = admin_socket::bind(&parts.data.admin_socket()).map_err(unusable("admin"))?;
    let administration = Arc::new(administration);
    tasks.forever.spawn(admin_socket::serve(
        listener,
        Arc::clone(&administration),
        stop.requests.subscribe(),
    ));
    let places = Places {
        data: parts.data.clone(),
        lock: Arc::clone(lock),
        store: Arc::clone(writer),
        peers,
        administration,
        requests: stop.requests.subscribe(),
        work: stop.work.subscribe(),
    };
    tasks.workers.spawn(places.look_after());
    let (authority, lock) = (Arc::clone(authority), Arc::clone(lock));
    readiness.add(
        Role::Ca,
        Box::new(move || {
            let (authority, lock) = (Arc::clone(&authority), Arc::clone(&lock));
            Box::pin(async move {
                match lock.problem() {
                    Some(problem) => Err(problem),
                    None => authority.health().await.map_err(|error| error.to_string()),
                }
            })
        }),
    );
    Ok(())
}

/// Who may commit over the store's socket.
fn peers(data: &DataDir, config: &Config) -> Result<Peers, Failure> {
    let mut roles = Vec::new();
    for (role, user) in &config.store.role_users {
        let number = match user {
            UserRef::Uid(uid) => Some(*uid),
            UserRef::Name(name) => name
                .parse()
                .ok()
                .or_else(|| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())),
        };
        let uid = number.ok_or_else(|| {
            Failure::new(
                Code::Configuration,
                format!("store.role_users names a user that does not exist for role '{role}'"),
                "create the user (deploy/sysusers.d), or correct the name",
            )
        })?;
        roles.push((uid, *role));
    }
    Ok(Peers { owner: data.owner().unwrap_or(Uid::effective()).as_raw(), roles })
}

fn start_crl(
    parts: &Parts<'_>,
    store: SharedStore,
    tasks: &mut Tasks,
    readiness: &mut Readiness,
) -> Result<Arc<Publisher>, Failure> {
    let directory = parts.data.role_directory(Role::Crl)?;
    let publisher = Publisher::new(
        parts.config.crl.clone(),
        directory,
        store,
        Arc::clone(&parts.clock),
        parts.crl_metrics.clone(),
    )
    .map_err(configuration)?;
    let publisher = Arc::new(publisher);
    let running = Arc::clone(&publisher);
    tasks.forever.spawn(async move { running.run().await });
    let checked = Arc::clone(&publisher);
    readiness.add(
        Role::Crl,
        Box::new(move || {
            let ready = checked.readiness();
            Box::pin(async move { ready })
        }),
    );
    Ok(publisher)
}

async fn start_ocsp(
    parts: &Parts<'_>,
    store: SharedStore,
    tasks: &mut Tasks,
    readiness: &mut Readiness,
) -> Result<Arc<Responder>, Failure> {
    let directory = parts.data.role_directory(Role::Ocsp)?;
    let keys = open::role_keys(&directory, &parts.keys_metrics).await?;
    let responder = Responder::new(
        parts.config.ocsp.clone(),
        directory,
        store,
        keys,
        Arc::clone(&parts.clock),
        parts.ocsp_metrics.clone(),
    )
    .map_err(configuration)?;
    let responder = Arc::new(responder);
    let running = Arc::clone(&responder);
    tasks.forever.spawn(async move { running.run().await });
    let checked = Arc::clone(&responder);
    readiness.add(
        Role::Ocsp,
        Box::new(move || {
            let ready = checked.readiness();
            Box::pin(async move { ready })
        }),
    );
    Ok(responder)
}

fn start_acme(
    parts: &Parts<'_>,
    store: SharedStore,
    tasks: &mut Tasks,
    readiness: &mut Readiness,
    stop: &Stop,
) -> Result<(Option<Tls>, Answers), Failure> {
    let service = acme_service(parts, Arc::clone(&store))?;
    let sealing_settled = Arc::new(AtomicBool::new(false));
    tasks.forever.spawn(sealing::publish(service.clone(), Arc::clone(&sealing_settled)));
    let resuming = service.clone();
    tasks.forever.spawn(async move {
        loop {
            match resuming.resume().await {
                Ok(0) => {}
                Ok(resumed) => tracing::info!(resumed, "validations taken up again"),
                Err(error) => tracing::debug!(%error, "waiting validations can't be read"),
            }
            tokio::time::sleep(RESUME_EVERY).await;
        }
    });
    let mut current = None;
    let mut tls = None;
    if parts.config.listen.acme_tls {
        let directory = parts.data.role_directory(Role::Acme)?;
        let certificate = Arc::new(Current::default());
        let failed = |e: &dyn std::fmt::Display| {
            Failure::new(
                Code::System,
                format!("TLS can't be set up: {e}"),
                "report this with the program's version",
            )
        };
        tls = Some(Tls::new(Arc::clone(&certificate)).map_err(|e| failed(&e))?);
        let keeper = Keeper {
            role: Role::Acme,
            directory,
            store,
            clock: Arc::clone(&parts.clock),
            names: parts.config.listener_names(),
            current: Arc::clone(&certificate),
        };
        if let Err(error) = keeper.load() {
            tracing::warn!(%error, "the listener's kept certificate can't be used; a new one is asked for");
        }
        let stopping = stop.requests.subscribe();
        tasks.forever.spawn(async move { keeper.keep(stopping).await });
        current = Some(certificate);
    }
    let checked = service.clone();
    readiness.add(
        Role::Acme,
        Box::new(move || {
            let (service, current) = (checked.clone(), current.clone());
            let settled = sealing_settled.load(Ordering::Relaxed);
            Box::pin(async move {
                if current.is_some_and(|current| !current.is_present()) {
                    return Err("the ACME listener has no TLS certificate yet; role ca issues it".to_owned());
                }
                service.readiness().await?;
                if settled {
                    return Ok(());
                }
                Err("the key that secrets for role acme are sealed to is not published yet".to_owned())
            })
        }),
    );
    Ok((tls, Answers::Router(service.router())))
}

fn acme_service(parts: &Parts<'_>, store: Arc<dyn Store>) -> Result<Service, Failure> {
    let mut validators = BTreeMap::new();
    for directory in parts.config.acme.directories().map_err(configuration)? {
        let prober = NetworkProber::new(directory.prober).map_err(configuration)?;
        let trust = parts.trust.get(&directory.policy.directory).cloned().unwrap_or_default();
        let validator = Validator::new(Arc::new(prober), Arc::clone(&parts.clock)).with_trust(trust);
        validators.insert(directory.policy.directory, Arc::new(validator));
    }
    Service::new(Deps {
        config: parts.config.acme.clone(),
        store,
        clock: Arc::clone(&parts.clock),
        validators,
        profiles: parts.config.authority()?.profiles,
        sealing_key: sealing::load_or_make(parts.data)?,
        metrics: parts.acme_metrics.clone(),
    })
    .map_err(configuration)
}

/// Reads the roots of the attestation formats of every directory, once, at the start.
fn attestation_trust(data: &DataDir, config: &Config) -> Result<BTreeMap<DirectoryName, Trust>, Failure> {
    let directories = config.acme.directories().map_err(configuration)?;
    directories
        .into_iter()
        .map(|directory| Ok((directory.policy.directory, formats_trusted(data, &directory.attestation)?)))
        .collect()
}

fn formats_trusted(data: &DataDir, formats: &[AttestationRoots]) -> Result<Trust, Failure> {
    let mut trust = Trust::default();
    for AttestationRoots { format, key, file } in formats {
        // An absolute path replaces the directory it is joined to.
        let file = data.path().join(file);
        let failed = |why: &dyn std::fmt::Display| configuration(format!("{key}: {}: {why}", file.display()));
        let text = std::fs::read(&file).map_err(|why| failed(&why))?;
        trust.accept(*format, TrustAnchor::from_pem(&text).map_err(|why| failed(&why))?);
    }
    Ok(trust)
}

fn configuration(error: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::Configuration,
        error,
        "correct it in chancery.toml, or the CHANCERY__ variable that sets it",
    )
}
