//! Documents over HTTP: `/crl/ISSUER/SHARD.crl`, `/ca/ISSUER.cer`, `/roots.pem`, with validators and cache headers. RFC
//! 2585, RFC 9110 §13, RFC 9111.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ca_core::id::IssuerId;
use ca_core::time::Timestamp;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use crate::document::{Document, Snapshot};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Crl(IssuerId, u32),
    Certificate(IssuerId),
    Roots,
}

impl Resource {
    pub(crate) fn of(path: &str) -> Option<Self> {
        if path == "/roots.pem" {
            return Some(Self::Roots);
        }
        if let Some(name) = path.strip_prefix("/ca/") {
            return name.strip_suffix(".cer")?.parse().ok().map(Self::Certificate);
        }
        let (issuer, shard) = path.strip_prefix("/crl/")?.split_once('/')?;
        let digits = shard.strip_suffix(".crl")?;
        let shard: u32 = digits.parse().ok()?;
        // One spelling only: the CRL itself names its URL.
        (shard.to_string() == digits).then_some(Self::Crl(issuer.parse().ok()?, shard))
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Crl(..) => "crl",
            Self::Certificate(_) => "certificate",
            Self::Roots => "roots",
        }
    }

    pub(crate) fn find<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Document> {
        match self {
            Self::Crl(issuer, shard) => snapshot.crl(issuer, *shard).map(|crl| &crl.document),
            Self::Certificate(issuer) => snapshot.certificates.get(issuer),
            Self::Roots => snapshot.roots.as_ref(),
        }
    }
}

/// Whether a path is the publisher's: `/crl/…`, `/ca/…` or `/roots.pem`.
#[must_use]
pub fn serves(path: &str) -> bool {
    path == "/roots.pem" || path.starts_with("/crl/") || path.starts_with("/ca/")
}

/// The document, or 304 if the client has it.
pub(crate) fn document(
    document: &Document,
    now: Timestamp,
    max_age: Duration,
    method: &Method,
    request: &HeaderMap,
) -> Response<Full<Bytes>> {
    let mut response = if is_unchanged(document, request) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body(StatusCode::OK, document.content_type, document.body.clone(), method)
    };
    let left = document.next_update.map_or(max_age, |next_update| next_update.since(now).min(max_age));
    let expires = document.next_update.unwrap_or_else(|| now.plus(max_age));
    for (name, value) in [
        (ETAG, document.etag.clone()),
        (LAST_MODIFIED, httpdate::fmt_http_date(system_time(document.last_modified))),
        (CACHE_CONTROL, format!("max-age={}, public, no-transform", left.as_secs())),
        (EXPIRES, httpdate::fmt_http_date(system_time(expires))),
    ] {
        insert(&mut response, name, value);
    }
    response
}

/// An error as a line of text.
pub(crate) fn text(status: StatusCode, line: &'static str, method: &Method) -> Response<Full<Bytes>> {
    let mut response = body(status, "text/plain; charset=utf-8", Bytes::from_static(line.as_bytes()), method);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn body(
    status: StatusCode,
    content_type: &'static str,
    content: Bytes,
    method: &Method,
) -> Response<Full<Bytes>> {
    let length = content.len();
    let content = if *method == Method::HEAD { Bytes::new() } else { content };
    let mut response = Response::new(Full::new(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn insert(response: &mut Response<Full<Bytes>>, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        response.headers_mut().insert(name, value);
    }
}

/// RFC 9110 §13.2.2: If-None-Match decides if it is there, else If-Modified-Since.
fn is_unchanged(document: &Document, request: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == document.etag);
    }
    request
        .get(IF_MODIFIED_SINCE)
        .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
        .is_some_and(|since| system_time(document.last_modified) <= since)
}

fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_seconds()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        let issuer = || "issuing-1".parse::<IssuerId>().unwrap();
        assert_eq!(Resource::of("/crl/issuing-1/0.crl"), Some(Resource::Crl(issuer(), 0)));
        assert_eq!(Resource::of("/ca/issuing-1.cer"), Some(Resource::Certificate(issuer())));
        assert_eq!(Resource::of("/roots.pem"), Some(Resource::Roots));
        for other in [
            "/crl/issuing-1/00.crl",
            "/crl/issuing-1/+1.crl",
            "/crl/issuing-1/0",
            "/crl/issuing-1/4294967296.crl",
            "/crl/../0.crl",
            "/crl/issuing-1/x/0.crl",
            "/ca/issuing-1",
            "/ca/a/b.cer",
            "/roots.pem/",
            "/",
        ] {
            assert_eq!(Resource::of(other), None, "{other}");
        }
    }
}
