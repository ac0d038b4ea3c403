//! The metrics listener: `/metrics` in OpenMetrics text, `/healthz` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::connections::Answers;
use crate::serve::gauges::Instrumentation;
use crate::serve::readiness::Readiness;

/// How old the checks may be that `/readyz` tells of.
const READINESS_AGE: Duration = Duration::from_secs(2);

/// Answers with what the process measures and which of its roles are ready.
#[must_use]
pub fn answers(instrumentation: Arc<Instrumentation>, readiness: Arc<Readiness>) -> Answers {
    Answers::Http1(Arc::new(move |request| {
        let (instrumentation, readiness) = (Arc::clone(&instrumentation), Arc::clone(&readiness));
        Box::pin(async move {
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                let mut response = answer(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "text/plain; charset=utf-8",
                    "GET or HEAD\n".to_owned(),
                );
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                return response;
            }
            match request.uri().path() {
                "/metrics" => {
                    let text = instrumentation.encode().await;
                    answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
                }
                // That this is answered is the answer.
                "/healthz" => answer(StatusCode::OK, "text/plain; charset=utf-8", "ok\n".to_owned()),
                "/readyz" => {
                    let (ready, report) = readiness.report(READINESS_AGE).await;
                    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                    answer(status, "application/json", format!("{report}\n"))
                }
                _ => answer(
                    StatusCode::NOT_FOUND,
                    "text/plain; charset=utf-8",
                    "/metrics, /healthz, /readyz\n".to_owned(),
                ),
            }
        })
    }))
}

fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
