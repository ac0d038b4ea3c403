//! Authorizations: reading and deactivating them,
//! [RFC 8555 §7.5](https://www.rfc-editor.org/rfc/rfc8555#section-7.5).

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::{Admission, Authorization, AuthorizationState, Identifier};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::AuthorizationId;
use ca_core::policy::NameRefused;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Row, Topic};
use http::StatusCode;

use super::account::reread;
use super::{ResponseExt, json};
use crate::eab;
use crate::limits::Counted;
use crate::problem::{Problem, Subproblem};
use crate::service::{App, Shared};
use crate::verified::{Json, ReadOr, Verified};
use crate::wire::authorization::{AuthorizationBody, AuthorizationUpdate, NewAuthorization};
use crate::wire::object::Object;

/// newAuthz, §7.4.1: a name is proven ahead of any order; offered where an authorization can serve later ones.
pub(crate) async fn create(
    State(app): State<App>,
    request: Verified<Json<NewAuthorization>>,
) -> Result<Response, Problem> {
    let policy = &request.directory.settings.policy;
    if policy.reuse.is_none() {
        let detail = "this directory takes no authorizations ahead of an order; place an order";
        return Err(Problem::malformed(detail).with_status(StatusCode::NOT_FOUND));
    }
    let Object(asked) = &request.payload.0.identifier;
    let identifier = Identifier::parse(&asked.kind, &asked.value)
        .map_err(|why| Problem::from(vec![Subproblem::invalid(asked.shown(), &why)]))?;
    if identifier.is_wildcard() {
        let detail = "a wildcard can't be authorized ahead of an order; authorize its domain with \
                      subdomainAuthAllowed where that is offered";
        return Err(Problem::malformed(detail));
    }
    let subdomains = asked.subdomain_auth_allowed && policy.subdomains;
    let authorization = app.decide(|again| authorize(&app, &request, &identifier, subdomains, again)).await?;
    let links = &request.directory.links;
    Ok(json(StatusCode::CREATED, &AuthorizationBody::new(&authorization, &request.directory, request.now))
        .with_location(&links.authorization(authorization.id)))
}

async fn authorize(
    app: &Shared,
    request: &Verified<Json<NewAuthorization>>,
    identifier: &Identifier,
    subdomains: bool,
    again: bool,
) -> Result<Authorization, Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let policy = &request.directory.settings.policy;
    let external = eab::of(app, &account).await?;
    let admission = Admission::of(policy, &account, external.as_ref(), request.now)?;
    let refused = |why| Problem::from(vec![Subproblem::refused(identifier, &why)]);
    admission.permits(identifier).map_err(refused)?;
    let ends = request.now.plus(policy.limits.authorization_lifetime);
    let (id, now) = (account.id, request.now);
    let authorization = if subdomains && matches!(identifier, Identifier::Dns(_)) {
        Authorization::for_subdomains(id, identifier, &admission, now, ends, &mut SystemRandom)
    } else {
        Authorization::generate(id, identifier, &admission, now, ends, &mut SystemRandom)
    };
    if authorization.challenges.is_empty() && !authorization.is_trusted() {
        return Err(refused(NameRefused::NoChallenge(identifier.clone())));
    }
    let action = Action::AuthorizationCreated {
        authorization: authorization.id,
        identifier: identifier.to_string(),
        subdomains,
    };
    let mut expected_versions = vec![(Row::Account(account.id), account.version)];
    expected_versions
        .extend(external.as_ref().map(|external| (Row::ExternalAccount(external.id), external.version)));
    let commit = Commit {
        changes: vec![Change::PutAuthorization(authorization.clone())],
        expected_versions,
        audit: vec![AuditEvent { at: now, actor: Actor::Account(account.id), action }],
        ..Commit::default()
    };
    // It counts as the order that it comes ahead of.
    let names = std::slice::from_ref(identifier);
    let made = std::slice::from_ref(&authorization);
    let counted = Counted::new_order(&request.directory, &account, names, made, false, now);
    app.commit_within(counted, commit).await?;
    Ok(authorization)
}

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
    let response = json(StatusCode::OK, &AuthorizationBody::new(&authorization, &request.directory, now));
    Ok(if in_progress(&authorization) { response.with_retry_after() } else { response })
}

/// Waits a moment if a challenge is being validated.
async fn read<P>(app: &App, request: &Verified<P>, id: AuthorizationId) -> Result<Authorization, Problem> {
    let authorization = find(app, request, id).await?;
    if !in_progress(&authorization) {
        return Ok(authorization);
    }
    app.continue_validations(&request.directory, &authorization, &request.signer.account);
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
