//! The service: what handlers share, the routes, and the layer around every request.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ca_core::acme::challenge::Claimant;
use ca_core::acme::external_account::SealingKeyRecord;
use ca_core::acme::{Account, DirectoryName};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::authority::require_issuer;
use ca_core::id::Id;
use ca_core::profile::{Profile, ProfileName};
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, IssuerKind, IssuerState, Role, Store, StoreError, Topic, Version};
use ca_core::time::{Clock, Stopwatch};
use http::header::{CACHE_CONTROL, LINK};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::Semaphore;

use crate::client_address::{ClientAddress, TrustedProxies};
use crate::config::{Config, ConfigError, DirectorySettings};
use crate::handlers;
use crate::jose::AccountKeys;
use crate::limits::Refusals;
use crate::links::{Links, route};
use crate::metrics::Metrics;
use crate::nonce::Nonces;
use crate::problem::{Problem, ProblemType, Reported};
use crate::renewals::Renewals;
use crate::sealing::{SealingKey, key_hash};
use crate::validation::Validator;
use crate::validations::Validations;

const REPLAY_NONCE: HeaderName = HeaderName::from_static("replay-nonce");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the service is made of.
pub struct Deps {
    /// The section `[acme]`.
    pub config: Config,
    /// The store, with the rights of role `acme`.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What validates challenges, one for each directory of [`Config::directories`].
    pub validators: BTreeMap<DirectoryName, Arc<Validator>>,
    /// What opens the MAC keys of external accounts.
    pub sealing_key: SealingKey,
    /// The certificate profiles, among them those that the directories offer.
    pub profiles: Vec<Profile>,
    /// Where to count.
    pub metrics: Metrics,
}

/// The ACME service.
#[derive(Clone)]
pub struct Service {
    app: App,
}

/// What handlers share.
pub(crate) type App = Arc<Shared>;

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) nonces: Nonces,
    pub(crate) account_keys: AccountKeys,
    pub(crate) metrics: Metrics,
    pub(crate) sealing_key: SealingKey,
    pub(crate) validations: Validations,
    pub(crate) proxies: TrustedProxies,
    pub(crate) refusals: Refusals,
    pub(crate) renewals: Renewals,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) public_url: String,
    pub(crate) max_body_bytes: usize,
    directories: BTreeMap<DirectoryName, Arc<Directory>>,
    requests: Semaphore,
}

/// One ACME directory.
pub(crate) struct Directory {
    pub(crate) settings: DirectorySettings,
    pub(crate) links: Links,
    pub(crate) validator: Arc<Validator>,
}

impl Directory {
    /// An account as its challenges know it.
    pub(crate) fn claimant(&self, account: &Account) -> Claimant {
        Claimant {
            thumbprint: account.thumbprint,
            former: account.former_keys.clone(),
            account_url: self.links.account(account.id),
            account_hash_prefix: self.links.account_hash_prefix(),
            issuer_domain_names: self.settings.issuer_domain_names.clone(),
        }
    }
}

impl Service {
    /// How many requests are answered at a time; more get 503.
    const MAX_REQUESTS: usize = 4096;

    /// How long a request may take, from its head to its response. Revocation waits longest.
    const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// A service on these parts.
    ///
    /// # Errors
    /// If the configuration can't be used, or a directory has no validator.
    pub fn new(deps: Deps) -> Result<Self, ConfigError> {
        let public_url = deps.config.base_url()?.to_owned();
        let mut directories = BTreeMap::new();
        for settings in deps.config.directories()? {
            let name = settings.policy.directory.clone();
            let validator = deps.validators.get(&name).cloned().ok_or_else(|| ConfigError {
                key: format!("acme.directories.{name}"),
                problem: "the program made no validator for this directory".to_owned(),
            })?;
            let links = Links::new(&public_url, &name);
            directories.insert(name, Arc::new(Directory { settings, links, validator }));
        }
        let app = Shared {
            store: deps.store,
            clock: deps.clock,
            nonces: Nonces::new(),
            account_keys: AccountKeys::default(),
            metrics: deps.metrics,
            sealing_key: deps.sealing_key,
            validations: Validations::default(),
            proxies: deps.config.proxies()?,
            refusals: Refusals::default(),
            renewals: Renewals::default(),
            profiles: deps.profiles,
            public_url,
            max_body_bytes: deps.config.max_body_bytes,
            directories,
            requests: Semaphore::new(Self::MAX_REQUESTS),
        };
        Ok(Self { app: Arc::new(app) })
    }

    /// The routes: `/acme/{directory}/…` and `/roots.pem`. Everything else is a problem document with status 404.
    pub fn router(&self) -> Router {
        Router::new()
            .route(route::DIRECTORY, get(handlers::directory::show))
            .route(route::NEW_NONCE, get(handlers::new_nonce::get).head(handlers::new_nonce::head))
            .route(route::NEW_ACCOUNT, post(handlers::account::create))
            .route(route::NEW_ORDER, post(handlers::order::create))
            .route(route::NEW_AUTHORIZATION, post(handlers::authorization::create))
            .route(route::REVOKE_CERTIFICATE, post(handlers::revocation::revoke))
            .route(route::KEY_CHANGE, post(handlers::key_change::change))
            .route(route::ACCOUNT, post(handlers::account::update))
            .route(route::ORDERS, post(handlers::account::orders))
            .route(route::ORDERS_AFTER, post(handlers::account::orders))
            .route(route::ORDER, post(handlers::order::update))
            .route(route::FINALIZE, post(handlers::order::finalize))
            .route(route::AUTHORIZATION, post(handlers::authorization::update))
            .route(route::CHALLENGE, post(handlers::challenge::respond))
            .route(route::CERTIFICATE, post(handlers::certificate::download))
            .route(route::CERTIFICATE_CHAIN, post(handlers::certificate::download))
            .route(
                route::STAR_CERTIFICATE,
                get(handlers::star::download_by_anybody).post(handlers::star::download),
            )
            .route(route::RENEWAL_INFO, get(handlers::renewal_info::without_certificate))
            .route(route::RENEWAL_INFO_OF, get(handlers::renewal_info::show))
            .route(route::ORDER_EXPLANATION, get(handlers::explanation::order))
            .route(route::AUTHORIZATION_EXPLANATION, get(handlers::explanation::authorization))
            .route(route::ROOTS, get(handlers::roots::show))
            .fallback(no_such_resource)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(middleware::from_fn_with_state(self.app.clone(), around))
            .with_state(self.app.clone())
    }

    /// Takes up validations that were accepted and not decided, such as before a restart. Safe to call at any time:
    /// what is under way is not begun again. Gives the number begun.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        self.app.resume_validations().await
    }

    /// Publishes the key that MAC keys of external accounts are to be sealed to, unless one is published. Gives whether
    /// it is this service's.
    ///
    /// # Errors
    /// If the store can't be read or written; to be tried again.
    pub async fn publish_sealing_key(&self) -> Result<bool, StoreError> {
        let app = &self.app;
        let public_key = app.sealing_key.public_key();
        if let Some(published) = app.store.sealing_key(Role::Acme).await? {
            return Ok(published.public_key == public_key);
        }
        let now = app.clock.now();
        let record = SealingKeyRecord {
            role: Role::Acme,
            public_key: public_key.to_vec(),
            created_at: now,
            version: Version::NEW,
        };
        let action = Action::SealingKeyPublished { role: Role::Acme, key: key_hash(public_key) };
        let commit = Commit {
            changes: vec![Change::PutSealingKey(record)],
            audit: vec![AuditEvent { at: now, actor: Actor::Authority, action }],
            ..Commit::default()
        };
        app.store.commit(commit).await.map(|()| true)
    }

    /// Whether the service can do its work: the store takes a commit, and there is a CA to issue.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub async fn readiness(&self) -> Result<(), String> {
        let store = &self.app.store;
        let issuers = store.issuers().await.map_err(|why| format!("the store can't be read: {why}"))?;
        if !issuers.iter().any(|ca| ca.kind == IssuerKind::Issuing && ca.state == IssuerState::Active) {
            return Err("there is no active issuing CA".to_owned());
        }
        for directory in self.app.directories.values() {
            require_issuer(&directory.settings.policy, &issuers).map_err(|why| why.to_string())?;
        }
        let written = store.commit(Commit::default()).await;
        written.map_err(|why| format!("the store can't be written: {why}"))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("public_url", &self.app.public_url).finish_non_exhaustive()
    }
}

impl Shared {
    /// How long finalize, challenge responses and polls wait for their outcome.
    pub(crate) const OUTCOME_WAIT: Duration = Duration::from_millis(800);

    /// How often a request is decided from a fresh read before a conflict becomes an error.
    const DECISIONS: usize = 5;

    pub(crate) fn directory(&self, name: &str) -> Option<&Arc<Directory>> {
        let name = DirectoryName::try_from(name.to_owned()).ok()?;
        self.directories.get(&name)
    }

    /// A profile that is configured.
    pub(crate) fn profile(&self, name: &ProfileName) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.name == *name)
    }

    /// Decides and commits, again from a fresh read while other commits come first.
    ///
    /// `decide` is told whether what the request was authenticated with must be read again.
    pub(crate) async fn decide<T, F>(&self, mut decide: impl FnMut(bool) -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let mut last = decide(false).await;
        for _ in 1..Self::DECISIONS {
            match last {
                Err(problem) if problem.is_conflict() => last = decide(true).await,
                other => return other,
            }
        }
        last
    }

    /// Reads until `settled` says so, woken by changes of `topic`, for at most `wait`; gives what was read last.
    pub(crate) async fn outcome<T, F>(
        &self,
        topic: &Topic,
        wait: Duration,
        read: impl Fn() -> F,
        settled: impl Fn(&T) -> bool,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let timer = tokio::time::sleep(wait);
        tokio::pin!(timer);
        loop {
            // Registered before the read, so that a change in between is not missed.
            let changed = self.store.watch(topic);
            let value = read().await?;
            if settled(&value) {
                return Ok(value);
            }
            tokio::select! {
                () = changed => {}
                () = &mut timer => return read().await,
            }
        }
    }
}

async fn no_such_resource() -> Problem {
    Problem::malformed("there is nothing at this URL; begin at the directory")
        .with_status(StatusCode::NOT_FOUND)
}

async fn method_not_allowed() -> Problem {
    Problem::malformed(
        "this resource does not take this method; ACME resources are read by POST-as-GET (RFC 8555 §6.3)",
    )
    .with_status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Around every request: its id, bounds, the headers that every ACME response carries, metrics, and the log of causes.
async fn around(
    State(app): State<App>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let stopwatch = Stopwatch::start();
    let in_flight = app.metrics.request_began();
    let id = Id::generate(app.clock.now(), &mut SystemRandom);
    let resource = route::resource(path.as_ref().map(MatchedPath::as_str));
    let is_post = request.method() == Method::POST;
    let directory = named_directory(&app, request.uri().path()).cloned();
    let client = app.proxies.client(request.headers(), request.extensions());
    if let Some(client) = client {
        request.extensions_mut().insert(ClientAddress(client));
    }

    let mut response = match app.requests.try_acquire() {
        Ok(_permit) => match tokio::time::timeout(Service::REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::unavailable("the request took too long; try again", 5).into_response(),
        },
        Err(_) => Problem::unavailable("too many requests at a time; try again", 1).into_response(),
    };

    if let Some(problem) = response.extensions().get::<Reported>() {
        app.metrics.problem(problem.kind);
        report(&id, resource, response.status(), client, problem);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(directory) = directory {
        if resource != "directory"
            && let Ok(value) =
                HeaderValue::try_from(format!("<{}>;rel=\"index\"", directory.links.directory()))
        {
            headers.append(LINK, value);
        }
        if (is_post || resource == "new-nonce")
            && let Ok(value) = HeaderValue::try_from(app.nonces.issue())
        {
            headers.insert(REPLAY_NONCE, value);
        }
        if resource != "directory" && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    app.metrics.request_ended(resource, response.status(), stopwatch.elapsed());
    drop(in_flight);
    response
}

/// The directory that a path lies in, also where nothing answers at the path.
fn named_directory<'a>(app: &'a Shared, path: &str) -> Option<&'a Arc<Directory>> {
    let name = path.strip_prefix("/acme/")?.split('/').next()?;
    app.directory(name)
}

/// Only what an operator must act on is above debug level.
fn report(
    request: &Id,
    resource: &'static str,
    status: StatusCode,
    client: Option<IpAddr>,
    problem: &Reported,
) {
    let client = client.map(tracing::field::display);
    let cause = problem.cause.as_deref().map(tracing::field::display);
    let kind = problem.kind.name();
    if problem.kind == ProblemType::ServerInternal && status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(%request, client, resource, kind, detail = problem.detail, cause, "an ACME request failed");
    } else if status.is_server_error() {
        tracing::warn!(%request, client, resource, kind, detail = problem.detail, cause, "an ACME request was put off");
    } else {
        tracing::debug!(%request, client, resource, kind, status = status.as_u16(), detail = problem.detail, cause, "problem");
    }
}
