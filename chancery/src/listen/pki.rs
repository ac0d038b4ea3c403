//! The PKI listener: each path to the responder or to the publisher, without a framework in between.

use std::sync::Arc;

use bytes::Bytes;
use crl_publisher::Publisher;
use http::{Response, StatusCode};
use http_body_util::Full;
use ocsp_responder::Responder;

use super::connections::Answers;

/// Answers for the services that are here; what neither serves is 404.
#[must_use]
pub fn answers(responder: Option<Arc<Responder>>, publisher: Option<Arc<Publisher>>) -> Answers {
    Answers::Http1(Arc::new(move |request| {
        let path = request.uri().path();
        let ocsp = responder.as_ref().filter(|_| ocsp_responder::serves(path)).cloned();
        let publisher = publisher.clone();
        Box::pin(async move {
            match (ocsp, publisher) {
                (Some(responder), _) => responder.handle(request).await,
                (None, Some(publisher)) => publisher.handle(request).await,
                (None, None) => nothing(),
            }
        })
    }))
}

fn nothing() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"there is nothing here\n")));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
