//! Orders: newOrder, reading them, finalize. [RFC 8555 §7.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.4).

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::order::{FinalizeError, NewOrder};
use ca_core::acme::{Authorization, AuthorizationState, Identifier, Order, OrderStatus};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{EffectId, OrderId};
use ca_core::pkix::csr::{Csr, CsrError};
use ca_core::profile::ProfileName;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Effect, EffectKind, Row, Topic};
use ca_core::time::Timestamp;
use http::StatusCode;

use super::account::reread;
use super::{ResponseExt, json};
use crate::jose::AccountKey;
use crate::problem::{Problem, ProblemType, Subproblem};
use crate::service::{App, Directory, Shared};
use crate::verified::{Empty, Json, Verified};
use crate::wire::IdentifierBody;
use crate::wire::order::{Finalize, NewOrder as NewOrderBody, OrderBody};

/// An order with its authorizations.
type Found = (Order, Vec<Authorization>);

/// newOrder, §7.4.
pub(crate) async fn create(
    State(app): State<App>,
    request: Verified<Json<NewOrderBody>>,
) -> Result<Response, Problem> {
    let asked = parse(&request.payload.0, &request.directory)?;
    let found = app.decide(|again| place(&app, &request, asked.clone(), again)).await?;
    app.metrics.order_created();
    let response = render(StatusCode::CREATED, &found, &request.directory, request.now);
    Ok(response)
}

/// Reads the identifiers, and tells of every one that can't be ordered, §6.7.1.
fn parse(body: &NewOrderBody, directory: &Directory) -> Result<NewOrder, Problem> {
    let policy = &directory.settings.policy;
    // Before anything is done for each of them.
    if body.identifiers.len() > policy.limits.max_identifiers {
        let detail = format!("an order has at most {} identifiers", policy.limits.max_identifiers);
        return Err(Problem::malformed(detail));
    }
    let mut identifiers = Vec::with_capacity(body.identifiers.len());
    let mut problems = Vec::new();
    for asked in &body.identifiers {
        match Identifier::parse(&asked.kind, &asked.value) {
            Ok(identifier) => match policy.permits(&identifier) {
                Ok(()) => identifiers.push(identifier),
                Err(why) => problems.push(Subproblem::refused(&identifier, &why)),
            },
            Err(why) => problems.push(Subproblem::invalid(shown(asked), &why)),
        }
    }
    if !problems.is_empty() {
        return Err(problems.into());
    }
    let profile = body.profile.clone().map(ProfileName::try_from).transpose();
    let profile = profile.map_err(|why| Problem::new(ProblemType::InvalidProfile, why.to_string()))?;
    let validity_asked = body.not_before.is_some() || body.not_after.is_some();
    Ok(NewOrder { identifiers, profile, validity_asked })
}

/// An identifier that can't be read, for the message about it.
fn shown(asked: &IdentifierBody) -> IdentifierBody {
    let short = |text: &str| text.chars().take(260).collect();
    IdentifierBody { kind: short(&asked.kind), value: short(&asked.value) }
}

async fn place(
    app: &Shared,
    request: &Verified<Json<NewOrderBody>>,
    asked: NewOrder,
    again: bool,
) -> Result<Found, Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let policy = &request.directory.settings.policy;
    let (order, authorizations) = Order::place(asked, account.id, policy, request.now, &mut SystemRandom)?;
    let action = Action::OrderCreated {
        order: order.id,
        account: account.id,
        identifiers: order.identifiers.iter().map(ToString::to_string).collect(),
    };
    let mut changes = vec![Change::PutOrder(order.clone())];
    changes.extend(authorizations.iter().cloned().map(Change::PutAuthorization));
    let commit = Commit {
        changes,
        expected_versions: vec![(Row::Account(account.id), account.version)],
        audit: vec![AuditEvent { at: request.now, actor: Actor::Account(account.id), action }],
        ..Commit::default()
    };
    app.store.commit(commit).await?;
    Ok((order, authorizations))
}

/// Reads an order by POST-as-GET; waits a moment if something is under way that decides it.
pub(crate) async fn show(State(app): State<App>, request: Verified<Empty>) -> Result<Response, Problem> {
    let id: OrderId = request.path("order")?;
    let found = find(&app, &request, id).await?;
    let found = match topic_of(&found, request.now) {
        Some(topic) => {
            for authorization in &found.1 {
                app.continue_validations(&request.directory, authorization, request.signer.thumbprint);
            }
            let settled = |found: &Found| topic_of(found, app.clock.now()).is_none();
            app.outcome(&topic, Shared::OUTCOME_WAIT, || find(&app, &request, id), settled).await?
        }
        None => found,
    };
    Ok(render(StatusCode::OK, &found, &request.directory, app.clock.now()))
}

/// What decides an order next without the client, if anything does.
fn topic_of((order, authorizations): &Found, now: Timestamp) -> Option<Topic> {
    match order.status(authorizations, now) {
        OrderStatus::Processing => Some(Topic::Order(order.id)),
        OrderStatus::Pending => authorizations
            .iter()
            .find(|a| a.state == AuthorizationState::Pending && a.processing().next().is_some())
            .map(|authorization| Topic::Authorization(authorization.id)),
        OrderStatus::Ready | OrderStatus::Valid(_) | OrderStatus::Invalid(_) => None,
    }
}

/// finalize, §7.4. A CSR that is refused leaves the order `ready`.
pub(crate) async fn finalize(
    State(app): State<App>,
    request: Verified<Json<Finalize>>,
) -> Result<Response, Problem> {
    let id: OrderId = request.path("order")?;
    // The order first: a stranger learns nothing from what is said of a CSR.
    find(&app, &request, id).await?;
    let csr = Csr::from_der(&request.payload.0.csr.0)?;
    require_fresh_key(&app, &request.directory, &csr).await?;
    app.decide(|again| accept(&app, &request, id, &csr, again)).await?;
    let processing =
        |found: &Found| !matches!(found.0.status(&found.1, request.now), OrderStatus::Processing);
    let topic = Topic::Order(id);
    let found = app.outcome(&topic, Shared::OUTCOME_WAIT, || find(&app, &request, id), processing).await?;
    Ok(render(StatusCode::OK, &found, &request.directory, app.clock.now()))
}

/// A key that was blocked is not certified, nor is an account's (§11.1: the keys serve different ends).
async fn require_fresh_key(app: &Shared, directory: &Directory, csr: &Csr) -> Result<(), Problem> {
    if app.store.is_key_blocked(csr.public_key().hash()).await? {
        return Err(FinalizeError::from(CsrError::BlockedKey).into());
    }
    if let Some(key) = AccountKey::from_public_key(csr.public_key().clone()) {
        let name = directory.settings.policy.directory.clone();
        if app.store.account_by_key(name, key.thumbprint()).await?.is_some() {
            let detail = "the CSR's key is the key of an ACME account; make a new key";
            return Err(Problem::new(ProblemType::BadCsr, detail));
        }
    }
    Ok(())
}

async fn accept(
    app: &Shared,
    request: &Verified<Json<Finalize>>,
    id: OrderId,
    csr: &Csr,
    again: bool,
) -> Result<(), Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let (order, authorizations) = find(app, request, id).await?;
    let policy = &request.directory.settings.policy;
    let next = order.finalize(&authorizations, csr, policy, request.now)?;
    let mut expected_versions = vec![(Row::Account(account.id), account.version)];
    expected_versions.extend(authorizations.iter().map(|a| (Row::Authorization(a.id), a.version)));
    let effect = Effect {
        id: EffectId::generate(request.now, &mut SystemRandom),
        kind: EffectKind::Issue { order: id },
    };
    let action = Action::OrderFinalized { order: id, key: csr.public_key().hash() };
    let commit = Commit {
        changes: vec![Change::PutOrder(next)],
        expected_versions,
        effects: vec![effect],
        audit: vec![AuditEvent { at: request.now, actor: Actor::Account(account.id), action }],
    };
    Ok(app.store.commit(commit).await?)
}

/// The order, if it is the signer's; that another's exists is not told.
async fn find<P>(app: &Shared, request: &Verified<P>, id: OrderId) -> Result<Found, Problem> {
    let found = app.store.order(id).await?;
    found
        .filter(|(order, _)| order.account == request.signer.account.id)
        .ok_or_else(|| Problem::not_found("order"))
}

fn render(status: StatusCode, found: &Found, directory: &Directory, now: Timestamp) -> Response {
    let (order, authorizations) = found;
    let links = &directory.links;
    let response = json(status, &OrderBody::new(order, authorizations, links, now))
        .with_location(&links.order(order.id));
    if topic_of(found, now).is_some() { response.with_retry_after() } else { response }
}
