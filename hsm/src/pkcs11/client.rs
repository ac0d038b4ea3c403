//! The threads on a token: workers with a session each, and a supervisor that brings a lost token back.
//!
//! A worker that meets an error which says that token or sessions are gone marks the token as down. From then on
//! requests are answered at once, and the supervisor loads the module anew, logs in, and signs with every opened key,
//! until that works. Workers build their sessions when they need them. The start is the supervisor's first attempt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ca_core::signing::KeyError;
use ca_core::time::Stopwatch;
use cryptoki::error::{Error, RvError};
use cryptoki::session::UserType;
use tokio::sync::oneshot;

use super::Pkcs11Config;
use super::failure::{Failure, call};
use super::module::{Loaded, ModuleUse};
use super::token::{Connection, TokenKey};
use crate::Metrics;
use crate::queue::{PushError, Queue, lock};

/// How long the last handle to a token waits for calls that run to end.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

/// One request: it gets a connection, or why there is none.
type Job = Box<dyn FnOnce(Result<&mut Connection, Failure>) -> Done + Send>;

/// A request that was worked on, and its caller not yet answered: what follows from a failure is done first, so that
/// whoever hears of a lost token finds it marked as lost.
struct Done {
    failure: Option<Failure>,
    answer: Box<dyn FnOnce() + Send>,
}

/// A token in use; its threads end when the last of these is dropped.
pub(super) struct Client {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    number: u64,
    config: Pkcs11Config,
    token: Arc<str>,
    module: ModuleUse,
    /// The token's model, once it was seen.
    model: OnceLock<String>,
    /// What the token said to our PIN, if it refused it; also serialises logins.
    refused_pin: Mutex<Option<String>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Since a new instance of the module did not find each opened key either.
    doubt_stays: Mutex<Option<Stopwatch>>,
    queue: Queue<Job>,
    /// The newest of each label and algorithm.
    opened: Mutex<Vec<TokenKey>>,
    metrics: Metrics,
}

struct State {
    token: TokenState,
    closing: bool,
    threads: usize,
}

#[derive(Clone)]
enum TokenState {
    /// The first attempt runs; somebody waits for its outcome, or nobody any more.
    Starting {
        awaited: bool,
    },
    Up,
    /// The supervisor is at work; with the module's instance that failed.
    Down {
        reason: Failure,
        seen: Option<u64>,
    },
    /// The PIN was refused: nothing is tried until a restart.
    Stopped(Failure),
}

impl Client {
    /// Finds the token, logs in once, and starts the threads.
    ///
    /// With `patience`, a token that is away, or gave no answer within it, is no failure: it is looked for until it
    /// comes, and requests are answered meanwhile as after a loss.
    pub(super) fn open(
        config: Pkcs11Config,
        metrics: &Metrics,
        patience: Option<Duration>,
    ) -> Result<Self, Failure> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shared = Arc::new(Shared {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            token: config.token_label.as_str().into(),
            module: ModuleUse::share(&config.module)?,
            model: OnceLock::new(),
            refused_pin: Mutex::default(),
            state: Mutex::new(State {
                token: TokenState::Starting { awaited: true },
                closing: false,
                threads: 0,
            }),
            changed: Condvar::new(),
            doubt_stays: Mutex::default(),
            queue: Queue::new(config.queue.max(1)),
            opened: Mutex::default(),
            metrics: metrics.clone(),
            config,
        });
        shared.metrics.token_is_up(&shared.token, false);
        let mut client = Self { shared, threads: Vec::new() };
        client.spawn("pkcs11-watch".to_owned(), Shared::supervise)?;
        // If this fails, dropping the client ends its threads.
        match (client.shared.first_outcome(patience), patience) {
            (TokenState::Up, _) => {}
            (TokenState::Stopped(failure), _) => return Err(failure),
            (TokenState::Down { reason, .. }, Some(_)) if reason.may_pass() => {
                tracing::warn!(
                    token = %client.shared.token,
                    %reason,
                    "the token is away; it is looked for until it comes, and nothing is signed before"
                );
            }
            (TokenState::Down { reason, .. }, _) => return Err(reason),
            (TokenState::Starting { .. }, None) => {
                return Err(Failure::Refused("the thread that opens the token ended abnormally".to_owned()));
            }
            (TokenState::Starting { .. }, Some(_)) => {
                tracing::warn!(
                    token = %client.shared.token,
                    "the token gives no answer; it is waited for, and nothing is signed before"
                );
            }
        }
        for index in 0..client.shared.config.sessions.max(1) {
            client.spawn(format!("pkcs11-{index}"), move |shared| shared.work(index))?;
        }
        Ok(client)
    }

    /// Runs `work` on a worker's connection and awaits its outcome for at most `limit`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        if let Some(failure) = self.shared.unreachable() {
            return Err(failure);
        }
        let (reply, outcome) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more: the caller gave up.
            if reply.is_closed() {
                return Done { failure: None, answer: Box::new(|| ()) };
            }
            let result = connection.and_then(work);
            let failure = result.as_ref().err().cloned();
            Done { failure, answer: Box::new(move || drop(reply.send(result))) }
        });
        let queue = &self.shared.queue;
        let token = &self.shared.token;
        match queue.push(job) {
            Ok(()) => {}
            Err(PushError::Full) => {
                return Err(Failure::Busy(format!(
                    "{} requests wait for token '{token}' already, and no more are taken: try again later, or raise \
                     keys.sessions if the token has room",
                    queue.capacity()
                )));
            }
            Err(PushError::Closed) => return Err(Failure::Busy(format!("token '{token}' is being closed"))),
        }
        match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.shared.unreachable().unwrap_or_else(|| {
                Failure::Busy(format!("the request to token '{token}' was not begun: try again"))
            })),
            Err(_) => Err(Failure::Timeout(format!(
                "token '{token}' gave no answer within {} s: look into the log of the HSM and its client",
                limit.as_secs_f32()
            ))),
        }
    }

    /// Remembers a key, so that it is looked for when the token comes back.
    pub(super) fn remember(&self, key: &TokenKey) {
        let mut opened = lock(&self.shared.opened);
        opened.retain(|other| (&other.label, other.algorithm) != (&key.label, key.algorithm));
        opened.push(key.clone());
    }

    /// The token as operators know it; without its model until it was seen.
    pub(super) fn place(&self) -> String {
        match self.shared.model.get() {
            Some(model) => format!("token '{}' ({model})", self.shared.token),
            None => format!("token '{}'", self.shared.token),
        }
    }

    pub(super) fn config(&self) -> &Pkcs11Config {
        &self.shared.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    fn spawn(&mut self, name: String, run: impl FnOnce(&Shared) + Send + 'static) -> Result<(), Failure> {
        let thread = Thread(Arc::clone(&self.shared));
        lock(&self.shared.state).threads += 1;
        let spawned = std::thread::Builder::new().name(name).spawn(move || run(&thread.0));
        let spawned =
            spawned.map_err(|e| Failure::Refused(format!("can't start a thread for the token: {e}")))?;
        self.threads.push(spawned);
        Ok(())
    }
}

/// One of the threads, counted until it ends, or if it never starts.
struct Thread(Arc<Shared>);

impl Drop for Thread {
    fn drop(&mut self) {
        lock(&self.0.state).threads -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Client {
    /// Ends the threads and waits a while for them, so that none is inside the module when the process exits.
    fn drop(&mut self) {
        self.shared.queue.close();
        let mut state = lock(&self.shared.state);
        state.closing = true;
        self.shared.changed.notify_all();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(state, LONGEST_GOODBYE, |state| state.threads > 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if timeout.timed_out() {
            tracing::warn!(token = %self.shared.token, "a call into the PKCS#11 module does not end");
            return;
        }
        // Each has let go of the module when it is joined, so it is finalized by this thread, or not yet.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Why no request can be served, if so.
    fn unreachable(&self) -> Option<Failure> {
        match &lock(&self.state).token {
            TokenState::Up => None,
            TokenState::Starting { .. } => Some(Failure::Lost(format!(
                "token '{}' has not answered since the start: look into the log of the HSM and its client",
                self.token
            ))),
            TokenState::Down { reason, .. } => Some(reason.clone()),
            TokenState::Stopped(failure) => Some(failure.clone()),
        }
    }

    /// How the first attempt ended, or that it did not within `patience`.
    fn first_outcome(&self, patience: Option<Duration>) -> TokenState {
        // Its thread is the only one so far.
        let starting =
            |state: &mut State| matches!(state.token, TokenState::Starting { .. }) && state.threads > 0;
        let state = lock(&self.state);
        let mut state = match patience {
            None => self.changed.wait_while(state, starting).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.changed.wait_timeout_while(state, patience, starting);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if let TokenState::Starting { awaited } = &mut state.token {
            *awaited = false;
        }
        state.token.clone()
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let worker = (self.number, index);
        while let Some(job) = self.queue.pop() {
            if let Some(failure) = self.unreachable() {
                (job(Err(failure)).answer)();
                continue;
            }
            // An error of `with` itself is of a module that does not load, which the supervisor knows; the job is
            // dropped then, which its caller notices.
            let _ = self.module.with(|loaded| {
                let connection = loaded.take(worker).map_or_else(|| self.connect(loaded), Ok);
                let done = match connection {
                    Ok(mut connection) => {
                        let done = job(Ok(&mut connection));
                        match &done.failure {
                            // Not closed: the token is away, and the module is about to be finalized.
                            Some(failure @ Failure::Lost(_)) => self.lost(loaded, failure.clone()),
                            // The token may be away; loading the module anew tells.
                            Some(Failure::Doubtful(text)) if self.may_reload() => {
                                self.lost(loaded, Failure::Lost(text.clone()));
                            }
                            // A refused call may leave an operation open in its session.
                            Some(Failure::Refused(_)) => connection.close(),
                            _ => loaded.keep(worker, connection),
                        }
                        done
                    }
                    Err(failure) => {
                        match &failure {
                            Failure::Lost(_) => self.lost(loaded, failure.clone()),
                            Failure::WrongPin(_) => self.stop(failure.clone()),
                            _ => {}
                        }
                        job(Err(failure))
                    }
                };
                (done.answer)();
                Ok(())
            });
        }
        let _ = self.module.with(|loaded| {
            if let Some(connection) = loaded.take(worker) {
                connection.close();
            }
            Ok(())
        });
    }

    /// Opens a session, logged in.
    fn connect(&self, loaded: &Loaded) -> Result<Connection, Failure> {
        let failure = |e: &Error| Failure::new(&self.token, e);
        let (slot, info) = loaded.find_token(self.module.path(), &self.token)?;
        self.model.get_or_init(|| info.model().to_owned());
        let session = match loaded.context().open_rw_session_no_drop(slot) {
            Err(Error::Pkcs11(RvError::TokenWriteProtected, _)) => {
                loaded.context().open_ro_session_no_drop(slot)
            }
            other => other,
        };
        let connection = |session| Connection::new(session, Arc::clone(&self.token));
        let session = session.map_err(|e| failure(&e))?;
        let mut refused = lock(&self.refused_pin);
        if let Some(text) = &*refused {
            connection(session).close();
            return Err(Failure::WrongPin(text.clone()));
        }
        let login = if info.user_pin_final_try() || info.user_pin_locked() {
            let what =
                if info.user_pin_locked() { "is locked" } else { "would lock itself at one more wrong PIN" };
            Err(format!(
                "token '{}' {what}, so the PIN was not tried: log in with the token's own tool, or reset the PIN as \
                 its security officer",
                self.token
            ))
        } else {
            match session.login(UserType::User, Some(&self.config.pin)) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
                Err(Error::Pkcs11(
                    code @ (RvError::PinIncorrect
                    | RvError::PinInvalid
                    | RvError::PinLenRange
                    | RvError::PinExpired
                    | RvError::PinLocked
                    | RvError::UserPinNotInitialized),
                    function,
                )) => Err(format!(
                    "{} on token '{}': correct the PIN in keys.pin_file and restart; it is not tried again, since \
                     tokens lock themselves",
                    call(function, code),
                    self.token
                )),
                Err(e) => {
                    connection(session).close();
                    return Err(failure(&e));
                }
            }
        };
        match login {
            Ok(()) => Ok(connection(session)),
            Err(text) => {
                *refused = Some(text.clone());
                connection(session).close();
                Err(Failure::WrongPin(text))
            }
        }
    }

    /// Hands the token to the supervisor.
    ///
    /// Called while the module's lock is held, so that `loaded` is the present instance.
    fn lost(&self, loaded: &Loaded, reason: Failure) {
        let mut state = lock(&self.state);
        if matches!(state.token, TokenState::Up) {
            tracing::warn!(token = %self.token, %reason, "the token is lost; connecting again");
            self.metrics.token_is_up(&self.token, false);
            state.token = TokenState::Down { reason, seen: Some(loaded.id) };
            self.changed.notify_all();
        }
    }

    /// Whether a doubt is worth loading the module anew: not if that was done a moment ago and did not help.
    fn may_reload(&self) -> bool {
        lock(&self.doubt_stays).is_none_or(|clock| clock.elapsed() > self.config.longest_retry)
    }

    fn stop(&self, failure: Failure) {
        let mut state = lock(&self.state);
        // Whoever waits for the start reports it.
        if !matches!(state.token, TokenState::Starting { awaited: true }) {
            tracing::error!(token = %self.token, %failure, "the token refused the PIN; nothing is signed until a restart");
        }
        self.metrics.token_is_up(&self.token, false);
        state.token = TokenState::Stopped(failure);
        self.changed.notify_all();
    }

    /// Finds the token, then waits for it to be lost, and brings it back.
    fn supervise(&self) {
        self.start();
        let mut delay = self.config.first_retry;
        let mut state = lock(&self.state);
        if matches!(state.token, TokenState::Down { .. }) {
            state = self.pause(state, &mut delay);
        }
        let mut came_back: Option<Stopwatch> = None;
        while !state.closing {
            let TokenState::Down { seen, .. } = state.token else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // A token that comes and goes is not loaded anew at the rate of requests.
            match came_back.take() {
                Some(clock) if clock.elapsed() < self.config.longest_retry => {
                    state = self.pause(state, &mut delay);
                    continue;
                }
                Some(_) => delay = self.config.first_retry,
                None => {}
            }
            drop(state);
            match self.recover(seen) {
                Ok(()) => {
                    tracing::info!(token = %self.token, "the token is back");
                    self.metrics.token_is_up(&self.token, true);
                    came_back = Some(Stopwatch::start());
                    state = lock(&self.state);
                    state.token = TokenState::Up;
                }
                Err(failure @ Failure::WrongPin(_)) => {
                    self.stop(failure);
                    state = lock(&self.state);
                }
                Err(reason) => {
                    let seen = self.seen();
                    state = lock(&self.state);
                    // A token may be away for days: what was said is not said again at each attempt.
                    if matches!(&state.token, TokenState::Down { reason: known, .. } if *known == reason) {
                        tracing::debug!(token = %self.token, %reason, ?delay, "the token is still away");
                    } else {
                        tracing::warn!(token = %self.token, %reason, ?delay, "the token is still away");
                    }
                    state.token = TokenState::Down { reason, seen };
                    state = self.pause(state, &mut delay);
                }
            }
        }
    }

    /// The first attempt.
    fn start(&self) {
        // Loads the module, unless it is in use here: then it was loaded before this token came, perhaps.
        let first = match self.recover(None) {
            Err(Failure::Lost(_)) => self.recover(self.seen()),
            other => other,
        };
        let next = match first {
            Ok(()) => TokenState::Up,
            Err(failure @ Failure::WrongPin(_)) => return self.stop(failure),
            Err(reason) => TokenState::Down { reason, seen: self.seen() },
        };
        let up = matches!(next, TokenState::Up);
        let mut state = lock(&self.state);
        if matches!(state.token, TokenState::Starting { awaited: false }) && up {
            tracing::info!(token = %self.token, "the token has answered");
        }
        self.metrics.token_is_up(&self.token, up);
        state.token = next;
        self.changed.notify_all();
    }

    /// The module's instance that serves now.
    fn seen(&self) -> Option<u64> {
        self.module.with(|loaded| Ok(loaded.id)).ok()
    }

    /// Waits for `delay`, or until the threads shall end, and doubles the delay.
    fn pause<'a>(&self, state: MutexGuard<'a, State>, delay: &mut Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, *delay, |state| !state.closing);
        *delay = (*delay * 2).min(self.config.longest_retry);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Loads the module anew, logs in, and signs with every key that was opened.
    fn recover(&self, seen: Option<u64>) -> Result<(), Failure> {
        self.module.reload(seen)?;
        let keys = lock(&self.opened).clone();
        self.module.with(|loaded| {
            let mut connection = self.connect(loaded)?;
            let mut doubt = false;
            for key in &keys {
                match connection.check(key) {
                    Ok(()) => {}
                    Err(failure @ Failure::Lost(_)) => {
                        connection.close();
                        return Err(failure);
                    }
                    // That key answers so to each request; the others work.
                    Err(failure) => {
                        tracing::error!(token = %self.token, label = %key.label, %failure, "a key can't be used");
                        doubt |= matches!(failure, Failure::Doubtful(_));
                    }
                }
            }
            *lock(&self.doubt_stays) = doubt.then(Stopwatch::start);
            loaded.keep((self.number, 0), connection);
            Ok(())
        })
    }
}

impl From<Failure> for KeyError {
    fn from(failure: Failure) -> Self {
        failure.into_key_error(None, "the token")
    }
}
