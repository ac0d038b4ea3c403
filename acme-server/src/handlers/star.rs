//! The certificate of an order that is renewed automatically, always the newest,
//! [RFC 8739 §3.3](https://www.rfc-editor.org/rfc/rfc8739#section-3.3) and §3.4.

use std::time::{Duration, UNIX_EPOCH};

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::{Order, OrderState, OrderStatus};
use ca_core::id::OrderId;
use ca_core::store::CertificateRecord;
use ca_core::time::Timestamp;
use http::header::CACHE_CONTROL;
use http::{HeaderName, StatusCode};

use super::ResponseExt;
use super::certificate::chain_response;
use crate::problem::{Problem, ProblemType};
use crate::service::{App, Shared};
use crate::verified::{AtPath, Empty, Verified};

const CERT_NOT_BEFORE: HeaderName = HeaderName::from_static("cert-not-before");
const CERT_NOT_AFTER: HeaderName = HeaderName::from_static("cert-not-after");

/// How long a cache may keep a certificate, in seconds: a cancellation should not be news for longer.
const MAX_AGE_SECONDS: u64 = 300;

/// By the account whose order it is.
pub(crate) async fn download(State(app): State<App>, request: Verified<Empty>) -> Result<Response, Problem> {
    let id: OrderId = request.path("order")?;
    let order = find(&app, id).await?;
    if order.account != request.signer.account.id {
        return Err(not_found());
    }
    let (response, _) = newest(&app, &order, request.now).await?;
    Ok(response)
}

/// By anybody, where directory and account have agreed on it.
pub(crate) async fn download_by_anybody(
    State(app): State<App>,
    AtPath(directory, path): AtPath,
) -> Result<Response, Problem> {
    let id: OrderId = path.text("order").and_then(|text| text.parse().ok()).ok_or_else(not_found)?;
    let order = find(&app, id).await?;
    let policy = &directory.settings.policy;
    let offered = policy.star.is_some_and(|offered| offered.certificate_get);
    if order.directory != policy.directory || !offered || !order.lets_anybody_fetch() {
        return Err(not_found());
    }
    let now = app.clock.now();
    let (response, record) = newest(&app, &order, now).await?;
    let next = match &order.state {
        OrderState::Renewing(renewing) => renewing.next_at.unwrap_or(record.not_after),
        _ => record.not_after,
    };
    let fresh = next.min(record.not_after).since(now).as_secs().min(MAX_AGE_SECONDS);
    Ok(response.with_header(CACHE_CONTROL, &format!("public, max-age={fresh}")))
}

fn not_found() -> Problem {
    Problem::not_found("certificate")
}

async fn find(app: &Shared, id: OrderId) -> Result<Order, Problem> {
    let (order, _) = app.store.order(id).await?.ok_or_else(not_found)?;
    if order.auto_renewal.is_none() {
        return Err(not_found());
    }
    Ok(order)
}

async fn newest(
    app: &Shared,
    order: &Order,
    now: Timestamp,
) -> Result<(Response, CertificateRecord), Problem> {
    let id = match order.status(&[], now) {
        OrderStatus::Canceled => {
            let detail = "the order was canceled by its account";
            return Err(Problem::new(ProblemType::AutoRenewalCanceled, detail));
        }
        OrderStatus::Renewing(_) if order.expires_at <= now => {
            let detail = format!("the order ended at {}", order.expires_at);
            return Err(Problem::new(ProblemType::AutoRenewalExpired, detail));
        }
        OrderStatus::Renewing(certificate) => certificate,
        OrderStatus::Invalid(Some(failure)) if matches!(order.state, OrderState::Stopped { .. }) => {
            return Err(Problem::from(&failure).with_status(StatusCode::FORBIDDEN));
        }
        _ => return Err(not_found()),
    };
    let record = app.store.certificate(id).await?.ok_or_else(not_found)?;
    if let Some(revocation) = record.state.revocation() {
        let detail = format!("the certificate was revoked at {}", revocation.at);
        return Err(Problem::new(ProblemType::Unauthorized, detail));
    }
    if record.not_after <= now {
        return Err(Problem::unavailable("the next certificate is not issued yet; try again", 5));
    }
    let der = record.der.clone().ok_or_else(not_found)?;
    let response = chain_response(&app.store.issuers().await?, &record.id, &der, 0)?
        .with_header(CERT_NOT_BEFORE, &quoted_date(record.not_before))
        .with_header(CERT_NOT_AFTER, &quoted_date(record.not_after));
    Ok((response, record))
}

/// §3.3: an HTTP-date in double quotes.
fn quoted_date(at: Timestamp) -> String {
    let seconds = u64::try_from(at.as_seconds()).unwrap_or(0);
    format!("\"{}\"", httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)))
}
