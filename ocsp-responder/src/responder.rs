//! One OCSP request: read, answered from status rows as they stand now, signed or found in the cache, and sent.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use ca_core::pkix::ocsp::{
    AnswerError, CertId, CertIdHash, CertStatus, Nonce, Request, RequestError, ResponseStatus, SignedResponse,
};
use ca_core::pkix::signed::SignError;
use ca_core::signing::{KeyBackend, SigningError};
use ca_core::store::{CertificateId, CertificateStatus, Store, StoreError};
use ca_core::time::{Clock, Stopwatch, Timestamp};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use tokio::sync::{Mutex, Semaphore};

use crate::cache::{Cache, Entry as Kept, Key, is_fresh};
use crate::config::{Config, ConfigError};
use crate::credential::{Entry, Numbered, Roster};
use crate::message::{self, Answer};
use crate::metrics::{Metrics, Outcome};
use crate::state::State;

/// A client that has not sent its request by then is not going to.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Issuers read longer ago than this are no sign of health; [`Responder::run`] reads them every minute.
const STALE: Duration = Duration::from_mins(3);

/// The OCSP responder of every issuing CA in the store.
pub struct Responder {
    pub(crate) config: Config,
    pub(crate) directory: PathBuf,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Arc<dyn KeyBackend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// `None` until the state file was read.
    pub(crate) state: Mutex<Option<State>>,
    roster: RwLock<Arc<Roster>>,
    numbers: AtomicU64,
    cache: Cache,
    signing: Semaphore,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why a request gets no answer: an OCSPResponseStatus, with the cause for the log.
enum Refusal {
    Malformed(RequestError),
    /// No CertID names an issuer of ours, or not all the same one.
    Unauthorized,
    NotReady,
    Busy,
    Store(StoreError),
    Answer(AnswerError),
}

impl Refusal {
    /// The one place where a failure becomes an OCSPResponseStatus, RFC 6960 §2.3.
    fn status(&self) -> ResponseStatus {
        match self {
            Self::Malformed(_) => ResponseStatus::MalformedRequest,
            Self::Unauthorized => ResponseStatus::Unauthorized,
            Self::NotReady | Self::Busy => ResponseStatus::TryLater,
            Self::Store(why) => match why {
                StoreError::Busy(_) | StoreError::Conflict | StoreError::Full(_) => ResponseStatus::TryLater,
                StoreError::NotFound(_)
                | StoreError::Corrupt(_)
                | StoreError::Refused(_)
                | StoreError::Limited(_)
                | StoreError::Bounded(_)
                | StoreError::Paused(_) => ResponseStatus::InternalError,
            },
            Self::Answer(why) => match why {
                AnswerError::CertificateExpired { .. }
                | AnswerError::Sign(SignError::Key(SigningError::Unavailable { .. })) => {
                    ResponseStatus::TryLater
                }
                AnswerError::Encoding(_)
                | AnswerError::Sign(
                    SignError::Key(SigningError::Refused { .. })
                    | SignError::DoesNotVerify(_)
                    | SignError::Encoding(_),
                ) => ResponseStatus::InternalError,
            },
        }
    }

    fn outcome(&self) -> Outcome {
        match self.status() {
            ResponseStatus::MalformedRequest => Outcome::MalformedRequest,
            ResponseStatus::TryLater => Outcome::TryLater,
            ResponseStatus::Unauthorized => Outcome::Unauthorized,
            ResponseStatus::InternalError | ResponseStatus::SigRequired | ResponseStatus::Successful => {
                Outcome::InternalError
            }
        }
    }

    fn log(&self) {
        match self {
            Self::Malformed(why) => tracing::debug!(%why, "malformed OCSP request"),
            Self::Unauthorized => tracing::debug!("OCSP request about no issuer of ours"),
            Self::NotReady => tracing::debug!("OCSP request before there is a responder certificate"),
            Self::Busy => tracing::warn!("too many OCSP responses wait for their signature: tryLater"),
            Self::Store(why) => tracing::warn!(%why, "no OCSP answer: the status can't be read"),
            Self::Answer(why) => tracing::error!(%why, "no OCSP answer: it can't be signed"),
        }
    }
}

impl Responder {
    /// A responder that keeps its state in `directory` (`DATA/ocsp`) and its keys in `keys`. It answers tryLater until
    /// [`Responder::maintain`] has run; [`Responder::run`] keeps it going.
    ///
    /// # Errors
    /// If a number of the configuration is out of its range.
    pub fn new(
        config: Config,
        directory: PathBuf,
        store: Arc<dyn Store>,
        keys: Arc<dyn KeyBackend>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            cache: Cache::new(config.cache_entries),
            signing: Semaphore::new(config.signing_queue),
            config,
            directory,
            store,
            keys,
            clock,
            metrics,
            state: Mutex::new(None),
            roster: RwLock::default(),
            numbers: AtomicU64::new(1),
        })
    }

    /// Answers a request to one of the paths that [`crate::serves`] names; 404 for others.
    ///
    /// POST takes the request as the body, whatever its content type says; GET and HEAD take it in base64 in the path.
    /// Whatever OCSP has a status for comes as an OCSPResponse under HTTP status 200.
    pub async fn handle<B>(&self, request: http::Request<B>) -> Response<Full<Bytes>>
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let stopwatch = Stopwatch::start();
        let method = request.method().clone();
        let (response, outcome) = self.dispatch(request).await;
        self.metrics.answered(&method, outcome, stopwatch.elapsed());
        response
    }

    async fn dispatch<B>(&self, request: http::Request<B>) -> (Response<Full<Bytes>>, Outcome)
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let error = |status, line| (message::text(status, line, &parts.method), Outcome::HttpError);
        let Some(target) = message::target(parts.uri.path()) else {
            return error(StatusCode::NOT_FOUND, "there is nothing here; OCSP is at /ocsp\n");
        };
        let now = self.clock.now();
        let der = match parts.method {
            Method::POST => match self.read_body(body).await {
                Ok(der) => der,
                Err(BodyError::TooLarge(found)) => {
                    let max = self.config.max_request_bytes;
                    return self
                        .refuse(&Refusal::Malformed(RequestError::TooLarge { found, max }), &parts.method);
                }
                Err(BodyError::TooLate) => {
                    return error(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n");
                }
                Err(BodyError::Broken) => return error(StatusCode::BAD_REQUEST, "the request broke off\n"),
            },
            Method::GET | Method::HEAD => {
                if target.encoded.is_empty() {
                    let line = "send an OCSP request by POST, or by GET /ocsp/ followed by its base64\n";
                    return error(StatusCode::BAD_REQUEST, line);
                }
                // What is no base64 is no DER either, and gets the same status.
                message::decode_get(target.encoded).unwrap_or_default().into()
            }
            _ => return error(StatusCode::METHOD_NOT_ALLOWED, "use POST or GET\n"),
        };
        let roster = self.roster();
        let only = match target.issuer {
            None => None,
            Some(id) => match roster.entries.values().find(|entry| entry.id.as_str() == id) {
                Some(entry) => Some(entry),
                None if roster.read_at.is_none() => {
                    return self.refuse(&Refusal::NotReady, &parts.method);
                }
                None => return error(StatusCode::NOT_FOUND, "there is no such issuer here\n"),
            },
        };
        match self.answer(&der, &roster, only, now).await {
            Ok((answer, store)) => {
                let max_age = self.config.http_max_age();
                let response = message::signed(&answer, store, now, max_age, &parts.method, &parts.headers);
                (response, answer.outcome)
            }
            Err(refusal) => self.refuse(&refusal, &parts.method),
        }
    }

    fn refuse(&self, refusal: &Refusal, method: &Method) -> (Response<Full<Bytes>>, Outcome) {
        refusal.log();
        (message::status(refusal.status(), method), refusal.outcome())
    }

    async fn read_body<B>(&self, body: B) -> Result<Bytes, BodyError>
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let limit = self.config.max_request_bytes;
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(BodyError::TooLarge(announced));
        }
        let limited = std::pin::pin!(Limited::new(body, limit));
        match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(why)) if why.is::<LengthLimitError>() => Err(BodyError::TooLarge(limit.saturating_add(1))),
            Ok(Err(_)) => Err(BodyError::Broken),
            Err(_) => Err(BodyError::TooLate),
        }
    }

    /// The answer to a request, and whether anybody may keep it.
    async fn answer(
        &self,
        der: &[u8],
        roster: &Roster,
        only: Option<&Entry>,
        now: Timestamp,
    ) -> Result<(Arc<Answer>, bool), Refusal> {
        let request = Request::parse(der, self.config.limits()).map_err(Refusal::Malformed)?;
        if roster.read_at.is_none() {
            return Err(Refusal::NotReady);
        }
        // One signer answers, so all CertIDs must be of its issuer; RFC 5019 clients ask about one certificate anyway.
        let first = request.cert_ids.first().ok_or(Refusal::Unauthorized)?;
        let entry = match only {
            Some(entry) => entry,
            None => roster.entries.values().find(|e| e.issuer.matches(first)).ok_or(Refusal::Unauthorized)?,
        };
        if !request.cert_ids.iter().all(|id| entry.issuer.matches(id)) {
            return Err(Refusal::Unauthorized);
        }
        let numbered = entry.signer.as_ref().ok_or(Refusal::NotReady)?;
        match (&request.cert_ids[..], &request.nonce) {
            ([id], None) => self.answer_one(entry, numbered, id, now).await,
            _ => self.answer_on_demand(entry, numbered, &request, now).await,
        }
    }

    /// The common request: one CertID, no nonce. Its answer is kept until the row changes or half of its time is over.
    async fn answer_one(
        &self,
        entry: &Entry,
        numbered: &Numbered,
        id: &CertId,
        now: Timestamp,
    ) -> Result<(Arc<Answer>, bool), Refusal> {
        let status = self.status(entry, id).await?;
        let key = match (&status, id.serial(), CertIdHash::of(&id.hash_algorithm)) {
            (Some(status), Some(serial), Some(hash)) => Some((
                status.revision,
                Key {
                    issuer: entry.id.clone(),
                    hash,
                    null_parameters: id.hash_algorithm.parameters.is_some(),
                    serial,
                },
            )),
            _ => None,
        };
        let said = CertStatus::of(status.as_ref());
        let kept = key
            .as_ref()
            .filter(|_| !said.is_unknown())
            .and_then(|(revision, key)| self.cache.find(key, *revision, numbered.number));
        let fresh = kept.as_ref().is_some_and(|answer| is_fresh(answer.window, now));
        if !said.is_unknown() {
            self.metrics.cache(fresh);
        }
        if fresh && let Some(answer) = kept {
            return Ok((answer, true));
        }
        let answers = [(id.clone(), said)];
        let signed = match self.sign(numbered, &answers, None, now).await {
            Ok(signed) => signed,
            // An answer past half of its time is still a true one: the row is as it was.
            Err(refusal) => {
                let usable = |a: &Arc<Answer>| a.window.this_update <= now && now < a.window.next_update;
                return kept.filter(usable).map(|answer| (answer, true)).ok_or(refusal);
            }
        };
        let answer = Arc::new(Answer::new(signed.der, signed.window, outcome(&answers)));
        if let Some((revision, key)) = key
            && !said.is_unknown()
        {
            self.cache.keep(key, Kept { revision, signer: numbered.number, answer: Arc::clone(&answer) });
        }
        Ok((answer, !said.is_unknown()))
    }

    async fn answer_on_demand(
        &self,
        entry: &Entry,
        numbered: &Numbered,
        request: &Request,
        now: Timestamp,
    ) -> Result<(Arc<Answer>, bool), Refusal> {
        let mut answers = Vec::with_capacity(request.cert_ids.len());
        for id in &request.cert_ids {
            let status = self.status(entry, id).await?;
            answers.push((id.clone(), CertStatus::of(status.as_ref())));
        }
        let signed = self.sign(numbered, &answers, request.nonce.as_ref(), now).await?;
        let store = request.nonce.is_none() && !answers.iter().any(|(_, status)| status.is_unknown());
        Ok((Arc::new(Answer::new(signed.der, signed.window, outcome(&answers))), store))
    }

    /// One point read; a serial that no certificate can have needs none.
    async fn status(&self, entry: &Entry, id: &CertId) -> Result<Option<CertificateStatus>, Refusal> {
        let Some(serial) = id.serial() else { return Ok(None) };
        let id = CertificateId { issuer: entry.id.clone(), serial };
        self.store.certificate_status(id).await.map_err(Refusal::Store)
    }

    async fn sign(
        &self,
        numbered: &Numbered,
        answers: &[(CertId, CertStatus)],
        nonce: Option<&Nonce>,
        now: Timestamp,
    ) -> Result<SignedResponse, Refusal> {
        let Ok(_permit) = self.signing.try_acquire() else {
            self.metrics.queue_full();
            return Err(Refusal::Busy);
        };
        let signed = numbered.signer.answer(answers, nonce, now, self.config.response_validity()).await;
        self.metrics.signed(signed.is_ok());
        signed.map_err(Refusal::Answer)
    }

    /// Ready if every issuing CA has a responder certificate that is valid now, and the store was read lately.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn readiness(&self) -> Result<(), String> {
        let (roster, now) = (self.roster(), self.clock.now());
        let Some(read_at) = roster.read_at else {
            return Err(
                "the OCSP responder has not been able to read the issuers from the store yet".to_owned()
            );
        };
        if now.since(read_at) > STALE {
            return Err(format!("the OCSP responder has not been able to read the store since {read_at}"));
        }
        if roster.entries.is_empty() {
            return Err("there is no issuing CA to answer OCSP requests for".to_owned());
        }
        let mut missing: Vec<_> = roster
            .entries
            .values()
            .filter(|entry| !entry.signer.as_ref().is_some_and(|s| s.signer.is_valid_at(now)))
            .map(|entry| entry.id.to_string())
            .collect();
        missing.sort();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "no valid OCSP responder certificate yet for {}: is the ca role running?",
            missing.join(", ")
        ))
    }

    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn install(&self, roster: Roster) {
        *self.roster.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roster);
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// Why a body was not read.
enum BodyError {
    /// With at least so many octets.
    TooLarge(usize),
    TooLate,
    Broken,
}

fn outcome(answers: &[(CertId, CertStatus)]) -> Outcome {
    match answers {
        [(_, CertStatus::Good(_))] => Outcome::Good,
        [(_, CertStatus::Revoked(_))] => Outcome::Revoked,
        [(_, CertStatus::Unknown(_))] => Outcome::Unknown,
        _ => Outcome::Several,
    }
}
