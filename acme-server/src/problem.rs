//! Problem documents, RFC 7807 and [RFC 8555 §6.7](https://www.rfc-editor.org/rfc/rfc8555#section-6.7): the one place
//! where a domain error becomes an ACME error type and a status.
//!
//! Every error is matched without a wildcard arm, so that a new variant does not compile until someone picks its type.
//! The detail is for the client; the cause is logged with the request's id and never sent.

use std::error::Error;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use ca_core::acme::account::AccountEnded;
use ca_core::acme::authorization::AcceptError;
use ca_core::acme::challenge::{FailureKind, ValidationFailure};
use ca_core::acme::order::{CancelError, FinalizeError, OrderFailure, OrderRejected};
use ca_core::acme::renewal::{InvalidRenewalId, ReplacesRejected};
use ca_core::acme::{AdmissionRefused, Identifier, InvalidName};
use ca_core::pkix::csr::CsrError;
use ca_core::policy::NameRefused;
use ca_core::revocation::InvalidReason;
use ca_core::store::StoreError;
use http::header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::jose::{Algorithm, JwsError};
use crate::wire::IdentifierBody;

/// An ACME error type, RFC 8555 §6.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are those of RFC 8555 §6.7, RFC 8739, RFC 9773 and the profiles extension"
)]
pub enum ProblemType {
    AccountDoesNotExist,
    AlreadyReplaced,
    AlreadyRevoked,
    AutoRenewalCanceled,
    AutoRenewalCancellationInvalid,
    AutoRenewalExpired,
    AutoRenewalRevocationNotSupported,
    BadAttestationStatement,
    BadCsr,
    BadNonce,
    BadPublicKey,
    BadRevocationReason,
    BadSignatureAlgorithm,
    Caa,
    Connection,
    Dns,
    ExternalAccountRequired,
    IncorrectResponse,
    InvalidContact,
    InvalidProfile,
    Malformed,
    OrderNotReady,
    RateLimited,
    RejectedIdentifier,
    ServerInternal,
    Tls,
    Unauthorized,
    UnsupportedContact,
    UnsupportedIdentifier,
    UserActionRequired,
}

impl ProblemType {
    /// The last part of the URN.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccountDoesNotExist => "accountDoesNotExist",
            Self::AlreadyReplaced => "alreadyReplaced",
            Self::AlreadyRevoked => "alreadyRevoked",
            Self::AutoRenewalCanceled => "autoRenewalCanceled",
            Self::AutoRenewalCancellationInvalid => "autoRenewalCancellationInvalid",
            Self::AutoRenewalExpired => "autoRenewalExpired",
            Self::AutoRenewalRevocationNotSupported => "autoRenewalRevocationNotSupported",
            Self::BadAttestationStatement => "badAttestationStatement",
            Self::BadCsr => "badCSR",
            Self::BadNonce => "badNonce",
            Self::BadPublicKey => "badPublicKey",
            Self::BadRevocationReason => "badRevocationReason",
            Self::BadSignatureAlgorithm => "badSignatureAlgorithm",
            Self::Caa => "caa",
            Self::Connection => "connection",
            Self::Dns => "dns",
            Self::ExternalAccountRequired => "externalAccountRequired",
            Self::IncorrectResponse => "incorrectResponse",
            Self::InvalidContact => "invalidContact",
            Self::InvalidProfile => "invalidProfile",
            Self::Malformed => "malformed",
            Self::OrderNotReady => "orderNotReady",
            Self::RateLimited => "rateLimited",
            Self::RejectedIdentifier => "rejectedIdentifier",
            Self::ServerInternal => "serverInternal",
            Self::Tls => "tls",
            Self::Unauthorized => "unauthorized",
            Self::UnsupportedContact => "unsupportedContact",
            Self::UnsupportedIdentifier => "unsupportedIdentifier",
            Self::UserActionRequired => "userActionRequired",
        }
    }

    /// The status that goes with the type where nothing else is said.
    const fn status(self) -> StatusCode {
        match self {
            Self::AccountDoesNotExist
            | Self::AlreadyRevoked
            | Self::AutoRenewalCancellationInvalid
            | Self::BadAttestationStatement
            | Self::BadCsr
            | Self::BadNonce
            | Self::BadPublicKey
            | Self::BadRevocationReason
            | Self::BadSignatureAlgorithm
            | Self::Connection
            | Self::Dns
            | Self::IncorrectResponse
            | Self::InvalidContact
            | Self::InvalidProfile
            | Self::Malformed
            | Self::RejectedIdentifier
            | Self::Tls
            | Self::UnsupportedContact
            | Self::UnsupportedIdentifier => StatusCode::BAD_REQUEST,
            Self::AutoRenewalCanceled
            | Self::AutoRenewalExpired
            | Self::AutoRenewalRevocationNotSupported
            | Self::Caa
            | Self::ExternalAccountRequired
            | Self::OrderNotReady
            | Self::Unauthorized
            | Self::UserActionRequired => StatusCode::FORBIDDEN,
            Self::AlreadyReplaced => StatusCode::CONFLICT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::ServerInternal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An error as the client sees it, and its cause as the operator does.
#[derive(Debug)]
pub struct Problem {
    kind: ProblemType,
    status: StatusCode,
    detail: String,
    subproblems: Vec<Subproblem>,
    headers: Vec<(HeaderName, String)>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
    conflict: bool,
}

/// What is wrong with one identifier, RFC 8555 §6.7.1.
#[derive(Clone, Debug)]
pub struct Subproblem {
    /// The type.
    pub kind: ProblemType,
    /// What is wrong, for the client.
    pub detail: String,
    /// Which identifier it is about.
    pub identifier: Option<IdentifierBody>,
}

/// A problem document in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProblemBody {
    #[serde(rename = "type")]
    kind: String,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    algorithms: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identifier: Option<IdentifierBody>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subproblems: Vec<Self>,
    /// A page on this very problem, RFC 7807 §3.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl ProblemBody {
    /// With the URL of a page that says more.
    pub(crate) fn explained_at(self, url: String) -> Self {
        Self { instance: Some(url), ..self }
    }
}

/// What the outermost layer counts and logs of a problem; travels in the response's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Reported {
    pub(crate) kind: ProblemType,
    pub(crate) detail: String,
    pub(crate) cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Problem {
    /// A problem with the status that goes with its type.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.status(),
            detail: detail.into(),
            subproblems: Vec::new(),
            headers: Vec::new(),
            cause: None,
            conflict: false,
        }
    }

    /// The request can't be understood.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::Malformed, detail)
    }

    /// There is no such thing, or it is somebody else's: the answer does not tell which.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::malformed(format!("there is no such {what}")).with_status(StatusCode::NOT_FOUND)
    }

    /// The server can't do it now; the client tries again.
    pub(crate) fn unavailable(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(ProblemType::ServerInternal, detail)
            .with_status(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, retry_after_seconds.to_string())
    }

    /// The account has as much under way as it may; its client waits for some of that to end.
    pub(crate) fn rate_limited(detail: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(ProblemType::RateLimited, detail).with_header(RETRY_AFTER, retry_after_seconds.to_string())
    }

    /// With another status.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// With another detail.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// With problems of single identifiers.
    #[must_use]
    pub fn with_subproblems(self, subproblems: Vec<Subproblem>) -> Self {
        Self { subproblems, ..self }
    }

    /// With a Location.
    #[must_use]
    pub fn with_location(self, url: String) -> Self {
        self.with_header(LOCATION, url)
    }

    /// With a Link.
    #[must_use]
    pub fn with_link(self, url: &str, relation: &str) -> Self {
        self.with_header(LINK, format!("<{url}>;rel=\"{relation}\""))
    }

    /// With what really happened, for the log.
    #[must_use]
    pub fn with_cause(self, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { cause: Some(Arc::new(cause)), ..self }
    }

    /// The ACME error type.
    #[must_use]
    pub const fn kind(&self) -> ProblemType {
        self.kind
    }

    /// What the client is told.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// What really happened, for the log.
    pub(crate) fn cause(&self) -> Option<tracing::field::DisplayValue<&(dyn Error + Send + Sync)>> {
        self.cause.as_deref().map(tracing::field::display)
    }

    /// Whether another commit came first, so that the request can be decided again.
    pub(crate) const fn is_conflict(&self) -> bool {
        self.conflict
    }

    fn with_header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The document in JSON.
    pub(crate) fn body(&self) -> ProblemBody {
        let algorithms = match self.kind {
            ProblemType::BadSignatureAlgorithm => Algorithm::ALL.map(Algorithm::name).to_vec(),
            _ => Vec::new(),
        };
        ProblemBody {
            status: Some(self.status.as_u16()),
            algorithms,
            subproblems: self.subproblems.iter().map(ProblemBody::from).collect(),
            ..ProblemBody::plain(self.kind, self.detail.clone())
        }
    }
}

impl ProblemBody {
    fn plain(kind: ProblemType, detail: String) -> Self {
        Self {
            kind: format!("urn:ietf:params:acme:error:{}", kind.name()),
            detail,
            status: None,
            algorithms: Vec::new(),
            identifier: None,
            subproblems: Vec::new(),
            instance: None,
        }
    }
}

impl From<&Subproblem> for ProblemBody {
    fn from(problem: &Subproblem) -> Self {
        Self { identifier: problem.identifier.clone(), ..Self::plain(problem.kind, problem.detail.clone()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let json = serde_json::to_vec(&self.body()).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(name, value);
            }
        }
        let reported = Reported { kind: self.kind, detail: self.detail, cause: self.cause };
        response.extensions_mut().insert(reported);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = match &error {
            StoreError::Conflict => Self {
                conflict: true,
                ..Self::unavailable("other requests changed the same objects meanwhile; try again", 1)
            },
            StoreError::Busy(_) => Self::unavailable("the CA can't take this now; try again", 5),
            StoreError::Full(_) => {
                Self::unavailable("the CA can't take new work now; its operator must act", 60)
            }
            StoreError::Limited(_) | StoreError::Bounded(_) | StoreError::Paused(_) => {
                Self::rate_limited("a limit of this CA is used up; try again later", 60)
            }
            StoreError::NotFound(_) | StoreError::Corrupt(_) | StoreError::Refused(_) => {
                Self::new(ProblemType::ServerInternal, "the CA has an internal error; its operator must act")
            }
        };
        problem.with_cause(error)
    }
}

impl From<JwsError> for Problem {
    fn from(error: JwsError) -> Self {
        let kind = match &error {
            JwsError::NotFlattened(_)
            | JwsError::MemberNotAllowed(_)
            | JwsError::NotBase64Url(_)
            | JwsError::Header(_)
            | JwsError::HeaderMember(_)
            | JwsError::JwkXorKid
            | JwsError::BadSignature => ProblemType::Malformed,
            JwsError::UnknownAlgorithm(_) | JwsError::AlgorithmDoesNotFit(..) => {
                ProblemType::BadSignatureAlgorithm
            }
            JwsError::Key(_) => ProblemType::BadPublicKey,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<AccountEnded> for Problem {
    /// RFC 8555 §7.3.6: status 401.
    fn from(error: AccountEnded) -> Self {
        Self::new(ProblemType::Unauthorized, error.to_string()).with_status(StatusCode::UNAUTHORIZED)
    }
}

impl From<AdmissionRefused> for Problem {
    fn from(error: AdmissionRefused) -> Self {
        match &error {
            AdmissionRefused::Ended(_) | AdmissionRefused::Unknown(_) => {
                Self::new(ProblemType::Unauthorized, error.to_string())
            }
        }
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match &error {
            AcceptError::NoSuchChallenge(_) => Self::not_found("challenge"),
            AcceptError::NotPending(_) => Self::malformed(error.to_string()),
        }
    }
}

impl Subproblem {
    /// Of an identifier that policy refuses.
    pub(crate) fn refused(identifier: &Identifier, error: &NameRefused) -> Self {
        let kind = match error {
            NameRefused::NotAllowed(_)
            | NameRefused::Wildcard(_)
            | NameRefused::NoChallenge(_)
            | NameRefused::NotGranted(_)
            | NameRefused::WildcardNotGranted(_) => ProblemType::RejectedIdentifier,
        };
        Self { kind, detail: error.to_string(), identifier: Some(identifier.into()) }
    }

    /// Of an identifier that can't be read.
    pub(crate) fn invalid(identifier: IdentifierBody, error: &InvalidName) -> Self {
        let kind = match error {
            InvalidName::UnknownType(_) => ProblemType::UnsupportedIdentifier,
            InvalidName::Empty
            | InvalidName::TooLong
            | InvalidName::Label(_)
            | InvalidName::Character(_)
            | InvalidName::Wildcard
            | InvalidName::Address
            | InvalidName::NoAddress(_)
            | InvalidName::Device { .. } => ProblemType::Malformed,
        };
        Self { kind, detail: error.to_string(), identifier: Some(identifier) }
    }
}

impl From<Vec<Subproblem>> for Problem {
    /// RFC 8555 §6.7.1: the type of all of them if they agree, else `malformed`.
    fn from(mut subproblems: Vec<Subproblem>) -> Self {
        let first = subproblems.first().map_or(ProblemType::Malformed, |problem| problem.kind);
        let agreed = subproblems.iter().all(|problem| problem.kind == first);
        let kind = if agreed { first } else { ProblemType::Malformed };
        match subproblems.len() {
            1 => {
                let only = subproblems.remove(0);
                Self::new(kind, only.detail.clone()).with_subproblems(vec![only])
            }
            count => {
                Self::new(kind, format!("{count} of the identifiers can't be ordered; see the subproblems"))
                    .with_subproblems(subproblems)
            }
        }
    }
}

impl From<OrderRejected> for Problem {
    fn from(error: OrderRejected) -> Self {
        let detail = error.to_string();
        match error {
            OrderRejected::Empty
            | OrderRejected::NotAncestor(..)
            | OrderRejected::TooMany(_)
            | OrderRejected::ValidityNotOffered
            | OrderRejected::Validity(_)
            | OrderRejected::AutoRenewal(_)
            | OrderRejected::Replaces(ReplacesRejected::Unknown | ReplacesRejected::NothingShared) => {
                Self::malformed(detail)
            }
            OrderRejected::Replaces(ReplacesRejected::AlreadyReplaced) => {
                Self::new(ProblemType::AlreadyReplaced, detail)
            }
            OrderRejected::NoProfile => Self::new(ProblemType::Unauthorized, detail),
            OrderRejected::UnknownProfile(_) => Self::new(ProblemType::InvalidProfile, detail),
            OrderRejected::Refused(names) => names
                .iter()
                .map(|(identifier, why)| Subproblem::refused(identifier, why))
                .collect::<Vec<_>>()
                .into(),
        }
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        let kind = match error {
            CancelError::NotRenewed => ProblemType::Malformed,
            CancelError::NotValid(_) => ProblemType::AutoRenewalCancellationInvalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<InvalidRenewalId> for Problem {
    fn from(error: InvalidRenewalId) -> Self {
        Self::malformed(error.to_string())
    }
}

impl From<FinalizeError> for Problem {
    fn from(error: FinalizeError) -> Self {
        match error {
            FinalizeError::NotReady(_) => Self::new(ProblemType::OrderNotReady, error.to_string()),
            FinalizeError::ProfileWithdrawn(_) => Self::new(ProblemType::InvalidProfile, error.to_string()),
            FinalizeError::Csr(error) => error.into(),
        }
    }
}

impl From<CsrError> for Problem {
    /// All of them `badCSR`, also for a key that is too short: badPublicKey is about the keys of JWS (§6.7).
    fn from(error: CsrError) -> Self {
        let kind = match &error {
            CsrError::TooLarge(_)
            | CsrError::Malformed
            | CsrError::PublicKey(_)
            | CsrError::UnknownSignature(_)
            | CsrError::BadSignature
            | CsrError::UnsupportedName(_)
            | CsrError::Key { .. }
            | CsrError::BlockedKey
            | CsrError::Names { .. }
            | CsrError::NoNames
            | CsrError::NotAttested(_) => ProblemType::BadCsr,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<&OrderFailure> for Problem {
    fn from(failure: &OrderFailure) -> Self {
        let kind = match failure {
            OrderFailure::Unauthorized { .. } => ProblemType::Unauthorized,
            OrderFailure::RejectedIdentifier { .. } => ProblemType::RejectedIdentifier,
            OrderFailure::BadCsr { .. } => ProblemType::BadCsr,
            OrderFailure::InvalidProfile { .. } => ProblemType::InvalidProfile,
            OrderFailure::Validity { .. } => ProblemType::Malformed,
            OrderFailure::Internal { .. } => ProblemType::ServerInternal,
        };
        Self::new(kind, failure.to_string())
    }
}

impl From<FailureKind> for ProblemType {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Connection => Self::Connection,
            FailureKind::Dns => Self::Dns,
            FailureKind::IncorrectResponse => Self::IncorrectResponse,
            FailureKind::Tls => Self::Tls,
            FailureKind::Unauthorized => Self::Unauthorized,
            FailureKind::RejectedIdentifier => Self::RejectedIdentifier,
            FailureKind::Caa => Self::Caa,
            FailureKind::Malformed => Self::Malformed,
            FailureKind::BadAttestationStatement => Self::BadAttestationStatement,
        }
    }
}

impl From<&ValidationFailure> for Problem {
    fn from(failure: &ValidationFailure) -> Self {
        Self::new(failure.kind.into(), failure.detail.clone())
    }
}

impl From<InvalidReason> for Problem {
    fn from(error: InvalidReason) -> Self {
        Self::new(ProblemType::BadRevocationReason, error.to_string())
    }
}
