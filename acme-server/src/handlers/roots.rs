//! `/roots.pem`: the roots that relying parties install, as PEM blocks and nothing else.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ca_core::store::{CertificateDer, IssuerKind};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::certificate::pem;
use crate::problem::Problem;
use crate::service::App;

pub(crate) async fn show(State(app): State<App>) -> Result<Response, Problem> {
    let issuers = app.store.issuers().await?;
    let roots: Vec<&CertificateDer> = issuers
        .iter()
        .filter(|ca| ca.kind == IssuerKind::Root)
        .filter_map(|ca| ca.certificates.first())
        .collect();
    if roots.is_empty() {
        return Err(Problem::unavailable("this CA has no root yet", 5));
    }
    let mut response = Response::new(Body::from(pem(roots.iter().map(|root| root.der.as_slice()))?));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
    Ok(response)
}
