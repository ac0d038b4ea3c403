//! One file for each resource. A handler parses, decides, commits and renders; the rules are in ca-core.

pub(crate) mod account;
pub(crate) mod authorization;
mod caa;
pub(crate) mod certificate;
pub(crate) mod challenge;
pub(crate) mod directory;
pub(crate) mod explanation;
pub(crate) mod key_change;
pub(crate) mod new_nonce;
pub(crate) mod order;
pub(crate) mod renewal_info;
mod replaces;
pub(crate) mod revocation;
pub(crate) mod roots;
pub(crate) mod star;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// How long a client waits before it asks again for something that is under way, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// A response in JSON.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds to a response what is known by the words of HTTP.
trait ResponseExt {
    fn with_header(self, name: HeaderName, value: &str) -> Self;
    fn with_location(self, url: &str) -> Self;
    fn with_link(self, url: &str, relation: &str) -> Self;
    fn with_retry_after(self) -> Self;
}

impl ResponseExt for Response {
    fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.headers_mut().append(name, value);
        }
        self
    }

    fn with_location(self, url: &str) -> Self {
        self.with_header(LOCATION, url)
    }

    fn with_link(self, url: &str, relation: &str) -> Self {
        self.with_header(LINK, &format!("<{url}>;rel=\"{relation}\""))
    }

    fn with_retry_after(self) -> Self {
        self.with_header(RETRY_AFTER, RETRY_AFTER_SECONDS)
    }
}
