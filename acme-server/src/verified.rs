//! Requests whose signature was verified, [RFC 8555 §6.2](https://www.rfc-editor.org/rfc/rfc8555#section-6.2) to §6.5.
//!
//! [`Verified`] has one constructor, which checks content type, size, signature, URL, nonce and key, so an unverified
//! body can't reach a handler.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use ca_core::acme::Account;
use ca_core::acme::account::Thumbprint;
use ca_core::time::Timestamp;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::client_address::ClientAddress;
use crate::config::Config;
use crate::jose::{AccountKey, FlattenedJws, JwsError, KeyReference};
use crate::problem::{Problem, ProblemType};
use crate::service::{App, Directory};
use crate::wire::object::Object;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A verified request: its payload `P`, signed by `S`.
pub(crate) struct Verified<P, S = ByAccount> {
    pub(crate) directory: Arc<Directory>,
    pub(crate) signer: S,
    pub(crate) payload: P,
    /// The time of the request.
    pub(crate) now: Timestamp,
    /// The client's address, where the listener tells it.
    pub(crate) client: Option<IpAddr>,
    /// The request's URL, which the client signed.
    pub(crate) url: String,
    path: PathParams,
}

/// Signed by an account that is in use: `kid`.
pub(crate) struct ByAccount {
    pub(crate) account: Account,
    pub(crate) thumbprint: Thumbprint,
}

/// Signed by a key that the request brought along: `jwk`.
pub(crate) struct ByKey(pub(crate) AccountKey);

/// Signed in either way.
pub(crate) enum ByEither {
    Account(Box<Account>),
    Key(AccountKey),
}

/// An empty payload: POST-as-GET, §6.3.
pub(crate) struct Empty;

/// The payload of a resource that takes POST-as-GET and requests.
pub(crate) enum ReadOr<P> {
    Read,
    Write(P),
}

/// What a verified payload is read into.
pub(crate) trait Payload: Sized {
    fn read(payload: &[u8]) -> Result<Self, Problem>;
}

/// Whom a request can be signed by.
pub(crate) trait Signer: Sized + Send {
    /// Verifies the signature under the key that the header names.
    fn verify(
        app: &App,
        directory: &Directory,
        jws: FlattenedJws,
    ) -> impl Future<Output = Result<(Self, Vec<u8>), Problem>> + Send;
}

/// The parameters of the request's path.
pub(crate) struct PathParams(Vec<(String, String)>);

impl PathParams {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl<P, S> Verified<P, S> {
    /// A parameter of the path.
    ///
    /// # Errors
    /// 404 if it is none of its kind.
    pub(crate) fn path<T: FromStr>(&self, name: &'static str) -> Result<T, Problem> {
        self.optional_path(name)?.ok_or_else(|| Problem::not_found(name))
    }

    /// A parameter of the path that not every route has.
    pub(crate) fn optional_path<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, Problem> {
        self.path.text(name).map(|text| text.parse().map_err(|_| Problem::not_found(name))).transpose()
    }
}

/// A directory named in the path, for requests that nobody signs.
pub(crate) struct InDirectory(pub(crate) Arc<Directory>);

impl FromRequestParts<App> for InDirectory {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (directory, _) = directory_of(parts, app).await?;
        Ok(Self(directory))
    }
}

/// As [`InDirectory`], with the parameters of the path.
pub(crate) struct AtPath(pub(crate) Arc<Directory>, pub(crate) PathParams);

impl FromRequestParts<App> for AtPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (directory, path) = directory_of(parts, app).await?;
        Ok(Self(directory, path))
    }
}

async fn directory_of(parts: &mut Parts, app: &App) -> Result<(Arc<Directory>, PathParams), Problem> {
    let params = RawPathParams::from_request_parts(parts, app)
        .await
        .map_err(|_| Problem::malformed("the URL's path is not valid UTF-8"))?;
    let params = PathParams(params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    let directory = params
        .text("directory")
        .and_then(|name| app.directory(name))
        .cloned()
        .ok_or_else(|| Problem::not_found("directory"))?;
    Ok((directory, params))
}

impl<P: Payload, S: Signer> FromRequest<App> for Verified<P, S> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let (directory, path) = directory_of(&mut parts, app).await?;
        require_jose(&parts.headers)?;
        let body = read(&parts.headers, body, app.max_body_bytes).await?;
        let now = app.clock.now();

        let jws = FlattenedJws::parse(&body)?;
        let path_and_query = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path_and_query}", app.public_url);
        require_url(&url, &jws.header().url)?;
        redeem(app, jws.header().nonce.as_deref())?;

        let (signer, payload) = S::verify(app, &directory, jws).await?;
        let payload = P::read(&payload)?;
        let client = parts.extensions.get::<ClientAddress>().map(|client| client.0);
        Ok(Self { directory, signer, payload, now, client, url, path })
    }
}

/// §6.2: the media type must be application/jose+json; parameters are ignored.
fn require_jose(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case("application/jose+json") {
        return Ok(());
    }
    let detail = "the Content-Type must be application/jose+json";
    Err(Problem::malformed(detail).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Reads a body of at most `limit` octets.
///
/// What a client sends above the limit, up to [`Config::MAX_BODY_BYTES`], is read and thrown away, since a client that
/// finds its connection closed while it sends does not see the answer.
async fn read(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::malformed(format!("the request body has more than {limit} octets"))
            .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if announced.is_some_and(|length| length > 2 * Config::MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let reading = async {
        let mut octets = Vec::with_capacity(announced.unwrap_or(0).min(limit));
        let mut thrown_away = 0;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|why| Problem::malformed("the request body broke off").with_cause(why))?;
            let Ok(data) = frame.into_data() else { continue };
            if thrown_away > 0 || octets.len() + data.len() > limit {
                thrown_away += octets.len() + data.len();
                octets.clear();
                if thrown_away > 2 * Config::MAX_BODY_BYTES {
                    break;
                }
            } else {
                octets.extend_from_slice(&data);
            }
        }
        if thrown_away > 0 { Err(too_large()) } else { Ok(octets) }
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.unwrap_or_else(|_| {
        let detail = format!("the request body did not arrive within {} seconds", BODY_TIMEOUT.as_secs());
        Err(Problem::malformed(detail).with_status(StatusCode::REQUEST_TIMEOUT))
    })
}

/// §6.4: the signed URL must be the one that was requested, byte for byte.
fn require_url(requested: &str, signed: &str) -> Result<(), Problem> {
    if requested == signed {
        return Ok(());
    }
    let detail = format!(
        "the 'url' in the protected header is '{}', and the request went to '{requested}'",
        signed.chars().take(256).flat_map(char::escape_default).collect::<String>(),
    );
    Err(Problem::new(ProblemType::Unauthorized, detail).with_status(StatusCode::UNAUTHORIZED))
}

/// §6.5: every well-formed JWS uses its nonce up, whatever comes of it.
fn redeem(app: &App, nonce: Option<&str>) -> Result<(), Problem> {
    let nonce = nonce.ok_or_else(|| {
        Problem::new(
            ProblemType::BadNonce,
            "the protected header has no 'nonce'; take the one of this response",
        )
    })?;
    app.nonces.redeem(nonce).map_err(|_| {
        let detail =
            "the nonce was not given out here, is too old, or was used; take the one of this response";
        Problem::new(ProblemType::BadNonce, detail)
    })
}

fn key_required() -> Problem {
    Problem::malformed("this resource needs 'jwk' in the protected header, not 'kid'")
}

impl Signer for ByAccount {
    async fn verify(app: &App, directory: &Directory, jws: FlattenedJws) -> Result<(Self, Vec<u8>), Problem> {
        let KeyReference::Kid(kid) = &jws.header().key else {
            return Err(Problem::malformed("this resource needs 'kid' in the protected header, not 'jwk'"));
        };
        let unknown =
            || Problem::new(ProblemType::AccountDoesNotExist, "there is no account at the URL in 'kid'");
        let id = directory.links.parse_account(kid).ok_or_else(unknown)?;
        let account = app
            .store
            .account(id)
            .await?
            .filter(|account| account.directory == directory.settings.policy.directory)
            .ok_or_else(unknown)?;
        let key = app.account_keys.of(&account).map_err(|why| {
            Problem::new(ProblemType::ServerInternal, "the account's key can't be read").with_cause(why)
        })?;
        let payload = jws.verify(&key)?;
        account.require_valid()?;
        Ok((Self { thumbprint: account.thumbprint, account }, payload))
    }
}

impl Signer for ByKey {
    async fn verify(
        _app: &App,
        _directory: &Directory,
        jws: FlattenedJws,
    ) -> Result<(Self, Vec<u8>), Problem> {
        let KeyReference::Jwk(key) = jws.header().key.clone() else { return Err(key_required()) };
        let payload = jws.verify(&key)?;
        Ok((Self(key), payload))
    }
}

impl Signer for ByEither {
    async fn verify(app: &App, directory: &Directory, jws: FlattenedJws) -> Result<(Self, Vec<u8>), Problem> {
        match &jws.header().key {
            KeyReference::Kid(_) => {
                let (signer, payload) = ByAccount::verify(app, directory, jws).await?;
                Ok((Self::Account(Box::new(signer.account)), payload))
            }
            KeyReference::Jwk(_) => {
                let (ByKey(key), payload) = ByKey::verify(app, directory, jws).await?;
                Ok((Self::Key(key), payload))
            }
        }
    }
}

impl Payload for Empty {
    fn read(payload: &[u8]) -> Result<Self, Problem> {
        if payload.is_empty() {
            return Ok(Self);
        }
        Err(Problem::malformed(
            "this resource is read by POST-as-GET: the payload must be empty (RFC 8555 §6.3)",
        ))
    }
}

impl<P: Payload> Payload for ReadOr<P> {
    fn read(payload: &[u8]) -> Result<Self, Problem> {
        if payload.is_empty() { Ok(Self::Read) } else { P::read(payload).map(Self::Write) }
    }
}

/// A payload in JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> Payload for Json<T> {
    fn read(payload: &[u8]) -> Result<Self, Problem> {
        let Object(value) = serde_json::from_slice(payload)
            .map_err(|why| Problem::malformed(format!("the payload: {why}")))?;
        Ok(Self(value))
    }
}

/// Verifies the inner JWS of keyChange, §7.3.5: signed by the key that it brings along, for the same URL, without a
/// nonce.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn verify_inner(jws: &[u8], outer_url: &str) -> Result<(AccountKey, Vec<u8>), Problem> {
    let inner = |error: JwsError| {
        let problem = Problem::from(error);
        let detail = format!("the inner JWS: {}", problem.detail());
        problem.with_detail(detail)
    };
    let jws = FlattenedJws::parse(jws).map_err(inner)?;
    let KeyReference::Jwk(key) = jws.header().key.clone() else {
        return Err(Problem::malformed("the inner JWS must have the new key as 'jwk'"));
    };
    if jws.header().url != outer_url {
        return Err(Problem::malformed("the inner JWS must have the same 'url' as the outer one"));
    }
    if jws.header().nonce.is_some() {
        return Err(Problem::malformed("the inner JWS must not have a 'nonce'"));
    }
    let payload = jws.verify(&key).map_err(inner)?;
    Ok((key, payload))
}
