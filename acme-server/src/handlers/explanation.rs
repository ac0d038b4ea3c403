//! What became of an order, for people: which names, which attempts to validate them, what was seen, what refused it.
//!
//! The page needs no signature, since a browser makes none: whoever has its URL, which holds 80 random bits, may read it.
//! It says what the account's own requests are answered, and nothing more. URLs of orders and authorizations are told to
//! their account alone, but for one: the certificate of an order that everybody may fetch (RFC 8739 §3.4) stands at a URL
//! with the order's id, which the account hands to others. Such an order has no page.

use std::fmt::{self, Write};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ca_core::acme::caa::CaaFinding;
use ca_core::acme::challenge::{Attempt, Challenge, ChallengeState, ValidationFailure};
use ca_core::acme::{Authorization, Order, OrderStatus};
use ca_core::id::{AuthorizationId, OrderId};
use ca_core::time::Timestamp;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};

use crate::problem::{Problem, ProblemType};
use crate::service::App;
use crate::verified::AtPath;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;\
                     color:#1a1a1a;background:#fff}code{overflow-wrap:anywhere}.valid{color:#11632b}\
                     .invalid{color:#a3161f}li{margin:.3rem 0}\
                     @media(prefers-color-scheme:dark){body{color:#e8e8e8;background:#161616}\
                     .valid{color:#6fd08c}.invalid{color:#ff8a8a}}";

/// `GET /acme/{directory}/order/{order}/explanation`.
pub(crate) async fn order(State(app): State<App>, AtPath(_, path): AtPath) -> Result<Response, Problem> {
    let named = path.text("order").and_then(|id| id.parse().ok());
    let id: OrderId = named.ok_or_else(|| Problem::not_found("order"))?;
    let here = |order: &Order| Some(order.directory.as_str()) == path.text("directory");
    let found = app.store.order(id).await?.filter(|(order, _)| here(order) && !order.lets_anybody_fetch());
    let (order, authorizations) = found.ok_or_else(|| Problem::not_found("order"))?;
    Ok(page(&of_order(&order, &authorizations, app.clock.now())))
}

/// `GET /acme/{directory}/authorization/{authorization}/explanation`.
pub(crate) async fn authorization(
    State(app): State<App>,
    AtPath(_, path): AtPath,
) -> Result<Response, Problem> {
    let named = path.text("authorization").and_then(|id| id.parse().ok());
    let id: AuthorizationId = named.ok_or_else(|| Problem::not_found("authorization"))?;
    let found = app.store.authorization(id).await?;
    let authorization = found.ok_or_else(|| Problem::not_found("authorization"))?;
    let account = app.store.account(authorization.account).await?;
    if account.is_none_or(|account| Some(account.directory.as_str()) != path.text("directory")) {
        return Err(Problem::not_found("authorization"));
    }
    let mut html = String::new();
    of_authorization(&mut html, &authorization, app.clock.now());
    Ok(page(&html))
}

fn page(body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>What became of the order</title><style>{STYLE}</style></head>\
         <body>{body}</body></html>\n"
    );
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy =
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn of_order(order: &Order, authorizations: &[Authorization], now: Timestamp) -> String {
    let status = order.status(authorizations, now);
    let mut html = String::new();
    let name = status.name();
    put(&mut html, format_args!("<h1>Order <span class=\"{name}\">{name}</span></h1>"));
    let names: Vec<String> = order.identifiers.iter().map(ToString::to_string).collect();
    put(
        &mut html,
        format_args!(
            "<p>For {}, placed at {} in the directory <code>{}</code>, profile <code>{}</code>.</p>",
            Escaped(&names.join(", ")),
            order.created_at,
            order.directory,
            order.profile
        ),
    );
    let next = match &status {
        OrderStatus::Pending => {
            format!("A name has yet to be proven; the client acts next, until {}.", order.expires_at)
        }
        OrderStatus::Ready => {
            format!("Every name is proven; the client may send its CSR until {}.", order.expires_at)
        }
        OrderStatus::Processing => "The CA is about to issue the certificate.".to_owned(),
        OrderStatus::Valid(certificate) => format!("The certificate is {certificate}."),
        OrderStatus::Renewing(certificate) => {
            format!("The newest certificate is {certificate}; others follow until {}.", order.expires_at)
        }
        OrderStatus::Canceled => "Its account canceled it; no more certificates are issued.".to_owned(),
        OrderStatus::Invalid(Some(failure)) => format!("Refused: {failure}."),
        OrderStatus::Invalid(None) if order.expires_at <= now => {
            format!("Its time ended at {}; the client places a new one.", order.expires_at)
        }
        OrderStatus::Invalid(None) => "A name was not proven; the client places a new order.".to_owned(),
    };
    put(&mut html, format_args!("<p>{}</p>", Escaped(&next)));
    for authorization in authorizations {
        of_authorization(&mut html, authorization, now);
    }
    html
}

fn of_authorization(html: &mut String, authorization: &Authorization, now: Timestamp) {
    let name = authorization.status(now).name();
    let wildcard = if authorization.wildcard { "*." } else { "" };
    let identifier = authorization.identifier.to_string();
    put(
        html,
        format_args!("<h2>{wildcard}{}: <span class=\"{name}\">{name}</span></h2>", Escaped(&identifier)),
    );
    put(html, format_args!("<p>It can be used until {}.</p><ul>", authorization.expires_at));
    for challenge in &authorization.challenges {
        of_challenge(html, challenge);
    }
    html.push_str("</ul>");
}

fn of_challenge(html: &mut String, challenge: &Challenge) {
    let (name, attempts): (_, &[Attempt]) = match &challenge.state {
        ChallengeState::Pending => ("not tried", &[]),
        ChallengeState::Processing { .. } => ("being validated", &[]),
        ChallengeState::Valid { attempts, .. } => ("valid", attempts),
        ChallengeState::Invalid { attempts, .. } => ("invalid", attempts),
    };
    put(html, format_args!("<li>{}: <span class=\"{name}\">{name}</span>", challenge.kind));
    if !attempts.is_empty() {
        html.push_str("<ol>");
        for attempt in attempts {
            of_attempt(html, attempt);
        }
        html.push_str("</ol>");
    }
    html.push_str("</li>");
}

fn of_attempt(html: &mut String, attempt: &Attempt) {
    put(html, format_args!("<li>{}", attempt.at));
    if !attempt.addresses.is_empty() {
        put(html, format_args!(", tried <code>{}</code>", Escaped(&attempt.addresses.join(", "))));
    }
    match &attempt.failure {
        None => html.push_str(": control was proven"),
        Some(failure) => of_failure(html, failure),
    }
    match &attempt.caa {
        Some(CaaFinding::Refused { failure }) if attempt.failure.as_ref() != Some(failure) => {
            of_failure(html, failure);
        }
        Some(CaaFinding::Permitted { domain }) => {
            put(html, format_args!("; the CAA records at {} permit it", Escaped(domain)));
        }
        Some(CaaFinding::Refused { .. } | CaaFinding::Absent) | None => {}
    }
    html.push_str("</li>");
}

fn of_failure(html: &mut String, failure: &ValidationFailure) {
    let kind = ProblemType::from(failure.kind).name();
    put(html, format_args!(": <b>{kind}</b>, {}", Escaped(&failure.detail)));
}

fn put(html: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = html.write_fmt(arguments);
}

/// Text in HTML: what clients and far sides sent stands in it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
