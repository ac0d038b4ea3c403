//! OCSP over HTTP: where requests stand, and the headers that let responses be cached. RFC 6960 appendix A, RFC 5019
//! §5 and §6.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use ca_core::id::to_hex;
use ca_core::pkix::ocsp::{ResponseStatus, Window};
use ca_core::pkix::public_key::sha256;
use ca_core::time::Timestamp;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use crate::metrics::Outcome;

const RESPONSE_TYPE: HeaderValue = HeaderValue::from_static("application/ocsp-response");
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A successful OCSPResponse, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub der: Bytes,
    pub window: Window,
    pub outcome: Outcome,
    etag: String,
}

impl Answer {
    pub(crate) fn new(der: Vec<u8>, window: Window, outcome: Outcome) -> Self {
        // RFC 5019 §6.2 recommends a hash of the response in hexadecimal.
        let etag = format!("\"{}\"", to_hex(&sha256(&der)));
        Self { der: der.into(), window, outcome, etag }
    }
}

/// Where a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The issuer that the path limits the answer to.
    pub issuer: Option<&'a str>,
    /// The base64 part of a GET request; empty for POST.
    pub encoded: &'a str,
}

/// Whether a path is the responder's: `/ocsp`, `/ocsp/…`, `/issuer/ISSUER/ocsp`, `/issuer/ISSUER/ocsp/…`.
#[must_use]
pub fn serves(path: &str) -> bool {
    target(path).is_some()
}

pub(crate) fn target(path: &str) -> Option<Target<'_>> {
    let (issuer, rest) = match path.strip_prefix("/issuer/") {
        Some(rest) => {
            let (issuer, _) = rest.split_once('/')?;
            (Some(issuer), rest.get(issuer.len()..)?)
        }
        None => (None, path),
    };
    match rest.strip_prefix("/ocsp")? {
        "" => Some(Target { issuer, encoded: "" }),
        rest => rest.strip_prefix('/').map(|encoded| Target { issuer, encoded }),
    }
}

/// Reads the base64 of a GET request as clients really write it; `None` if it is none.
///
/// Percent-encoding is optional. The alphabet may be that of RFC 4648 §4 or §5, with or without padding, with line
/// breaks, and with a `+` that became a space on its way. Slashes before it are dropped, since a URL base that ends
/// in one makes two, and no request begins with base64's slash (DER's SEQUENCE gives an `M`).
///
/// # Standard
/// [RFC 6960 appendix A.1](https://www.rfc-editor.org/rfc/rfc6960#appendix-A.1)
#[must_use]
pub fn decode_get(encoded: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    let mut text = Vec::with_capacity(encoded.len());
    for byte in percent_decoded(encoded) {
        match byte? {
            b'\r' | b'\n' | b'=' => {}
            b'/' if text.is_empty() => {}
            // The one is `+` in the other alphabet, the other is what form decoding makes of a `+`.
            b'-' | b' ' => text.push(b'+'),
            b'_' => text.push(b'/'),
            byte => text.push(byte),
        }
    }
    LENIENT.decode(&text).ok().filter(|der| !der.is_empty())
}

/// The octets of percent-encoded text; `None` in place of an escape that is none.
fn percent_decoded(text: &str) -> impl Iterator<Item = Option<u8>> + '_ {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        if byte != b'%' {
            return Some(Some(byte));
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        Some(value)
    })
}

/// An answer with the headers of RFC 5019 §6.2, or 304 if the client has it already.
///
/// `store` says whether anybody may keep it: not if it holds a nonce or an `unknown`.
pub(crate) fn signed(
    answer: &Answer,
    store: bool,
    now: Timestamp,
    max_age: Duration,
    method: &Method,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    let mut response = if store && *method != Method::POST && none_match(headers, &answer.etag) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        body(StatusCode::OK, RESPONSE_TYPE, answer.der.clone(), method)
    };
    let headers = response.headers_mut();
    if !store {
        headers.insert(CACHE_CONTROL, NO_STORE);
        return response;
    }
    let max_age = answer.window.next_update.since(now).min(max_age).as_secs();
    let cache = format!("max-age={max_age}, public, no-transform, must-revalidate");
    for (name, value) in [
        (CACHE_CONTROL, cache),
        (ETAG, answer.etag.clone()),
        (LAST_MODIFIED, http_date(answer.window.this_update)),
        (EXPIRES, http_date(answer.window.next_update)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

/// An OCSPResponse that says only a status, which nobody may keep.
pub(crate) fn status(status: ResponseStatus, method: &Method) -> Response<Full<Bytes>> {
    let mut response = body(StatusCode::OK, RESPONSE_TYPE, Bytes::copy_from_slice(&status.to_der()), method);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// An error of HTTP, not of OCSP, as a line of text that says what to do.
pub(crate) fn text(status: StatusCode, line: &'static str, method: &Method) -> Response<Full<Bytes>> {
    let mut response = body(status, TEXT_TYPE, Bytes::from_static(line.as_bytes()), method);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
    }
    response
}

fn body(
    status: StatusCode,
    content_type: HeaderValue,
    content: Bytes,
    method: &Method,
) -> Response<Full<Bytes>> {
    let length = content.len();
    let content = if *method == Method::HEAD { Bytes::new() } else { content };
    let mut response = Response::new(Full::new(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// If-None-Match with weak comparison, RFC 9110 §13.1.2.
fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn http_date(at: Timestamp) -> String {
    let seconds = u64::try_from(at.as_seconds()).unwrap_or(0);
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let found = |path| target(path).map(|t| (t.issuer, t.encoded));
        assert_eq!(found("/ocsp"), Some((None, "")));
        assert_eq!(found("/ocsp/"), Some((None, "")));
        assert_eq!(found("/ocsp/MA//x"), Some((None, "MA//x")));
        assert_eq!(found("/issuer/issuing-1/ocsp"), Some((Some("issuing-1"), "")));
        assert_eq!(found("/issuer/issuing-1/ocsp/MA"), Some((Some("issuing-1"), "MA")));
        for other in ["/", "/ocspx", "/crl/a/0.crl", "/issuer/ocsp", "/issuer/a/crl", "/issuer/a"] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn base64_is_read_as_clients_write_it() {
        let der = [0x30, 0xff, 0xfe, 0xfb, 0xef, 0xbf];
        let plain = "MP/+++/v";
        let octets = decode_get(plain).unwrap();
        assert_eq!(octets[..3], der[..3]);
        for same in [
            "MP%2F%2B%2B%2B%2Fv",
            "MP%2f%2b++/v",
            "/MP/+++/v",
            "///MP/+++/v",
            "MP_---_v",
            "MP/   /v",
            "MP/+%0D%0A++/v",
        ] {
            assert_eq!(decode_get(same).as_deref(), Some(&octets[..]), "{same}");
        }
        let short = decode_get("MAA=").unwrap();
        for same in ["MAA", "MAA%3D", "MAA==", "MAB="] {
            assert_eq!(decode_get(same).as_deref(), Some(&short[..]), "{same}");
        }
        for bad in ["", "/", "=", "M", "MA%", "MA%2", "MA%zz", "MÄ", "M*A="] {
            assert_eq!(decode_get(bad), None, "{bad}");
        }
    }
}
