//! Authorizations: reading and deactivating them,
//! [RFC 8555 §7.5](https://www.rfc-editor.org/rfc/rfc8555#section-7.5).

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::{Authorization, AuthorizationState};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::AuthorizationId;
use ca_core::store::{Change, Commit, Topic};
use http::StatusCode;

use super::{ResponseExt, json};
use crate::problem::Problem;
use crate::service::{App, Shared};
use crate::verified::{Json, ReadOr, Verified};
use crate::wire::authorization::{AuthorizationBody, AuthorizationUpdate};

pub(crate) async fn update(
    State(app): State<App>,
    request: Verified<ReadOr<Json<AuthorizationUpdate>>>,
) -> Result<Response, Problem> {
    let id: AuthorizationId = request.path("authorization")?;
    let authorization = match &request.payload {
        ReadOr::Read => read(&app, &request, id).await?,
        ReadOr::Write(Json(update)) if update.status.as_deref() == Some("deactivated") => {
            app.decide(|_| deactivate(&app, &request, id)).await?
        }
        ReadOr::Write(_) => {
            return Err(Problem::malformed(
                "the only change of an authorization is the status 'deactivated'",
            ));
        }
    };
    let now = app.clock.now();
    let response =
        json(StatusCode::OK, &AuthorizationBody::new(&authorization, &request.directory.links, now));
    Ok(if in_progress(&authorization) { response.with_retry_after() } else { response })
}

/// Waits a moment if a challenge is being validated.
async fn read<P>(app: &App, request: &Verified<P>, id: AuthorizationId) -> Result<Authorization, Problem> {
    let authorization = find(app, request, id).await?;
    if !in_progress(&authorization) {
        return Ok(authorization);
    }
    app.continue_validations(&request.directory, &authorization, request.signer.thumbprint);
    let settled = |authorization: &Authorization| !in_progress(authorization);
    let topic = Topic::Authorization(id);
    app.outcome(&topic, Shared::OUTCOME_WAIT, || find(app, request, id), settled).await
}

/// Whether one of its challenges is being validated and can still decide it.
pub(super) fn in_progress(authorization: &Authorization) -> bool {
    authorization.state == AuthorizationState::Pending && authorization.processing().next().is_some()
}

/// §7.5.2.
async fn deactivate<P>(
    app: &Shared,
    request: &Verified<P>,
    id: AuthorizationId,
) -> Result<Authorization, Problem> {
    let authorization = find(app, request, id).await?;
    let next = authorization.deactivated(request.now);
    if next != authorization {
        let event = AuditEvent {
            at: request.now,
            actor: Actor::Account(authorization.account),
            action: Action::AuthorizationDeactivated { authorization: id },
        };
        let changes = vec![Change::PutAuthorization(next.clone())];
        app.store.commit(Commit { changes, audit: vec![event], ..Commit::default() }).await?;
    }
    Ok(next)
}

/// The authorization, if it is the signer's; that another's exists is not told.
pub(super) async fn find<P>(
    app: &Shared,
    request: &Verified<P>,
    id: AuthorizationId,
) -> Result<Authorization, Problem> {
    let found = app.store.authorization(id).await?;
    found
        .filter(|authorization| authorization.account == request.signer.account.id)
        .ok_or_else(|| Problem::not_found("authorization"))
}
