//! Renewal information: when a certificate should be renewed, [RFC 9773 §4](https://www.rfc-editor.org/rfc/rfc9773#section-4).
//!
//! Nobody signs these requests, and the answers are the same for everybody, so caches may keep them for a while.

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::RenewalId;
use ca_core::acme::renewal::renewal_info;
use http::StatusCode;
use http::header::{CACHE_CONTROL, RETRY_AFTER};

use super::{ResponseExt, json};
use crate::problem::Problem;
use crate::service::App;
use crate::verified::{AtPath, InDirectory};
use crate::wire::renewal_info::RenewalInfoBody;

/// How long a cache may keep an answer, in seconds: an incident should not be news for longer.
const MAX_AGE_SECONDS: u64 = 300;

/// A certificate's window.
pub(crate) async fn show(
    State(app): State<App>,
    AtPath(directory, path): AtPath,
) -> Result<Response, Problem> {
    let named: RenewalId = path.text("certificate").unwrap_or_default().parse()?;
    let known = app.renewals.known(&*app.store).await?;
    let not_found = || Problem::not_found("certificate");
    let id = known.certificate(&named).ok_or_else(not_found)?;
    let certificate = app.store.certificate_facts(id).await?.ok_or_else(not_found)?;
    // Our listeners and responders renew their own, and nobody else's certificate is ours to renew.
    if certificate.account.is_none() {
        return Err(not_found());
    }
    let info = renewal_info(&certificate, &directory.settings.renewal, &known.pulls).ok_or_else(not_found)?;
    let seconds = info.retry_after.as_secs().max(1);
    let fresh = format!("public, max-age={}", seconds.min(MAX_AGE_SECONDS));
    Ok(json(StatusCode::OK, &RenewalInfoBody::from(&info))
        .with_header(RETRY_AFTER, &seconds.to_string())
        .with_header(CACHE_CONTROL, &fresh))
}

/// The URL that the directory advertises, to which a client appends a certificate's identifier.
pub(crate) async fn without_certificate(_: InDirectory) -> Problem {
    Problem::malformed("append '/' and the certificate's identifier to this URL (RFC 9773 §4.1)")
}
