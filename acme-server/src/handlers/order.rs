//! Orders: newOrder, reading them, finalize. [RFC 8555 §7.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.4).

use std::collections::{HashMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::caa::climb;
use ca_core::acme::order::{FinalizeError, NewOrder, OrderRejected};
use ca_core::acme::{
    Admission, Authorization, AuthorizationState, DnsName, Identifier, Order, OrderStatus, RenewalId,
};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, EffectId, OrderId};
use ca_core::pkix::csr::{Csr, CsrError};
use ca_core::policy::DirectoryPolicy;
use ca_core::profile::{ProfileName, RequestedValidity};
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Effect, EffectKind, Row, Topic, Version};
use ca_core::time::Timestamp;
use http::StatusCode;

use super::account::reread;
use super::{ResponseExt, caa, json, replaces};
use crate::eab;
use crate::jose::AccountKey;
use crate::limits::Counted;
use crate::problem::{Problem, ProblemType, Subproblem};
use crate::service::{App, Directory, Shared};
use crate::verified::{Json, ReadOr, Verified};
use crate::wire::object::Object;
use crate::wire::order::{Finalize, NewOrder as NewOrderBody, OrderBody, OrderUpdate, date};

/// How far above a name an authorization is looked for that the account holds already: a name has up to 127 labels, and
/// every domain is one more look into the store, before anything is counted. The client names one that is further up as
/// the `ancestorDomain`.
const ANCESTORS_LOOKED_AT: usize = 8;

/// An order with its authorizations.
type Found = (Order, Vec<Authorization>);

/// newOrder, §7.4.
pub(crate) async fn create(
    State(app): State<App>,
    request: Verified<Json<NewOrderBody>>,
) -> Result<Response, Problem> {
    let asked = parse(&request.payload.0, &request.directory)?;
    let replaces = request.payload.0.replaces.as_deref().map(str::parse::<RenewalId>).transpose()?;
    let found = app.decide(|again| place(&app, &request, asked.clone(), replaces.clone(), again)).await?;
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
    let mut ancestors = HashMap::new();
    for Object(asked) in &body.identifiers {
        match Identifier::parse(&asked.kind, &asked.value) {
            Ok(identifier) => match policy.admits(&identifier) {
                Ok(()) => {
                    if let Some(ancestor) = &asked.ancestor_domain {
                        let ancestor = DnsName::parse(ancestor).map_err(|why| {
                            Problem::malformed(format!("the ancestorDomain of '{identifier}': {why}"))
                        })?;
                        ancestors.insert(identifier.clone(), ancestor);
                    }
                    identifiers.push(identifier);
                }
                Err(why) => problems.push(Subproblem::refused(&identifier, &why)),
            },
            Err(why) => problems.push(Subproblem::invalid(asked.shown(), &why)),
        }
    }
    if !problems.is_empty() {
        return Err(problems.into());
    }
    let profile = body.profile.clone().map(ProfileName::try_from).transpose();
    let profile = profile.map_err(|why| Problem::new(ProblemType::InvalidProfile, why.to_string()))?;
    let validity = RequestedValidity {
        not_before: date("notBefore", &body.not_before)?,
        not_after: date("notAfter", &body.not_after)?,
    };
    let auto_renewal = body.auto_renewal.as_ref().map(|Object(asked)| asked.read()).transpose()?;
    Ok(NewOrder { identifiers, ancestors, held: Vec::new(), profile, validity, auto_renewal })
}

/// The account's authorizations that may serve for these identifiers, where the directory lets one serve again.
async fn held(
    app: &Shared,
    policy: &DirectoryPolicy,
    account: AccountId,
    asked: &NewOrder,
) -> Result<Vec<Authorization>, Problem> {
    let mut held: Vec<Authorization> = Vec::new();
    if policy.reuse.is_none() {
        return Ok(held);
    }
    // Those of the domains above serve for many names, and are read once.
    let mut read: HashSet<Identifier> = HashSet::new();
    for identifier in &asked.identifiers {
        let own = std::iter::once(identifier.clone());
        let above: Vec<Identifier> = match identifier {
            Identifier::Dns(name) if policy.subdomains => {
                // The first is the name itself.
                let nearest = climb(name).take(1 + ANCESTORS_LOOKED_AT);
                let named = asked.ancestors.get(identifier).cloned();
                nearest
                    .filter_map(|name| DnsName::parse(name).ok())
                    .chain(named)
                    .map(Identifier::Dns)
                    .collect()
            }
            _ => Vec::new(),
        };
        for wanted in own.chain(above) {
            if read.insert(wanted.clone()) {
                held.extend(app.store.valid_authorizations(account, wanted).await?);
            }
        }
    }
    Ok(held)
}

async fn place(
    app: &Shared,
    request: &Verified<Json<NewOrderBody>>,
    asked: NewOrder,
    replaces: Option<RenewalId>,
    again: bool,
) -> Result<Found, Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let policy = &request.directory.settings.policy;
    let external = eab::of(app, &account).await?;
    let admission = Admission::of(policy, &account, external.as_ref(), request.now)?;
    if replaces.is_none() {
        // One that replaces a certificate may be exempt.
        app.require_open(&Counted::any_order(&request.directory, &account, request.now))?;
    }
    let held = held(app, policy, account.id, &asked).await?;
    let asked = NewOrder { held, ..asked };
    let (mut order, authorizations) =
        Order::place(asked, account.id, &admission, request.now, &mut SystemRandom)?;
    if let Some(profile) = app.profile(&order.profile) {
        order.require_validity(profile, &admission, request.now).map_err(OrderRejected::from)?;
        order.require_renewable(profile, &admission).map_err(OrderRejected::from)?;
    }
    let mut changes = Vec::new();
    if let Some(named) = replaces {
        let names = &order.identifiers;
        let replaced = replaces::find(app, &request.directory, account.id, names, named, request.now).await?;
        changes.push(replaced.mark(order.id));
        let as_asked = replaced.predecessor.as_asked;
        tracing::debug!(order = %order.id, as_asked, "an order replaces a certificate");
        order.replaces = Some(replaced.predecessor);
    }
    let action = Action::OrderCreated {
        order: order.id,
        account: account.id,
        identifiers: order.identifiers.iter().map(ToString::to_string).collect(),
    };
    changes.push(Change::PutOrder(order.clone()));
    let mut expected_versions = vec![(Row::Account(account.id), account.version)];
    for authorization in &authorizations {
        if authorization.version == Version::NEW {
            changes.push(Change::PutAuthorization(authorization.clone()));
        } else {
            expected_versions.push((Row::Authorization(authorization.id), authorization.version));
        }
    }
    let event = |action| AuditEvent { at: request.now, actor: Actor::Account(account.id), action };
    let mut audit = vec![event(action)];
    if let Some(external) = &external {
        expected_versions.push((Row::ExternalAccount(external.id), external.version));
        let action = Action::OrderTrusted {
            order: order.id,
            external_account: external.id,
            identifiers: trusted(&order, &authorizations),
        };
        audit.extend(authorizations.iter().any(Authorization::is_trusted).then(|| event(action)));
    }
    let commit = Commit { changes, expected_versions, audit, ..Commit::default() };
    let (names, exempt) = (&order.identifiers, is_exempt(&order));
    let counted =
        Counted::new_order(&request.directory, &account, names, &authorizations, exempt, request.now);
    app.commit_within(counted, commit).await?;
    Ok((order, authorizations))
}

/// A renewal that the CA asked for is not counted by rate limits, RFC 9773 §5.
fn is_exempt(order: &Order) -> bool {
    order.replaces.as_ref().is_some_and(|replaced| replaced.as_asked)
}

/// The names of an order that were admitted by trust.
fn trusted(order: &Order, authorizations: &[Authorization]) -> Vec<String> {
    let trusted =
        |name: &&Identifier| authorizations.iter().any(|held| held.is_trusted() && held.covers(name));
    order.identifiers.iter().filter(trusted).map(ToString::to_string).collect()
}

/// Reads an order by POST-as-GET, or ends its automatic renewal, RFC 8739 §3.1.2.
pub(crate) async fn update(
    State(app): State<App>,
    request: Verified<ReadOr<Json<OrderUpdate>>>,
) -> Result<Response, Problem> {
    let id: OrderId = request.path("order")?;
    match &request.payload {
        ReadOr::Read => show(&app, &request, id).await,
        ReadOr::Write(Json(update)) if update.status.as_deref() == Some("canceled") => {
            let found = app.decide(|again| cancel(&app, &request, id, again)).await?;
            Ok(render(StatusCode::OK, &found, &request.directory, request.now))
        }
        ReadOr::Write(_) => {
            find(&app, &request, id).await?;
            Err(Problem::malformed(
                "an order is read by POST-as-GET, or canceled by {\"status\":\"canceled\"}",
            ))
        }
    }
}

async fn cancel<P>(app: &Shared, request: &Verified<P>, id: OrderId, again: bool) -> Result<Found, Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let (order, authorizations) = find(app, request, id).await?;
    let canceled = order.cancel(&authorizations, request.now)?;
    let action = Action::OrderCanceled { order: id };
    let commit = Commit {
        changes: vec![Change::PutOrder(canceled.clone())],
        expected_versions: vec![(Row::Account(account.id), account.version)],
        audit: vec![AuditEvent { at: request.now, actor: Actor::Account(account.id), action }],
        ..Commit::default()
    };
    app.store.commit(commit).await?;
    Ok((canceled, authorizations))
}

/// Waits a moment if something is under way that decides the order.
async fn show<P>(app: &App, request: &Verified<P>, id: OrderId) -> Result<Response, Problem> {
    let found = find(app, request, id).await?;
    let found = match topic_of(&found, request.now) {
        Some(topic) => {
            for authorization in &found.1 {
                app.continue_validations(&request.directory, authorization, &request.signer.account);
            }
            let settled = |found: &Found| topic_of(found, app.clock.now()).is_none();
            app.outcome(&topic, Shared::OUTCOME_WAIT, || find(app, request, id), settled).await?
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
        OrderStatus::Ready
        | OrderStatus::Valid(_)
        | OrderStatus::Renewing(_)
        | OrderStatus::Canceled
        | OrderStatus::Invalid(_) => None,
    }
}

/// finalize, §7.4. A CSR that is refused leaves the order `ready`.
pub(crate) async fn finalize(
    State(app): State<App>,
    request: Verified<Json<Finalize>>,
) -> Result<Response, Problem> {
    let id: OrderId = request.path("order")?;
    // The order first: a stranger learns nothing from what is said of a CSR.
    let found = find(&app, &request, id).await?;
    let csr = Csr::from_der(&request.payload.0.csr.0)?;
    require_fresh_key(&app, &request.directory, &csr).await?;
    // Nothing is looked up for what is refused anyway.
    found.0.finalize(&found.1, &csr, &request.directory.settings.policy, request.now)?;
    caa::require(&app, &request.directory, &found, request.now).await?;
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
    let (names, exempt) = (&order.identifiers, is_exempt(&order));
    let counted = Counted::finalize(&request.directory, &account, names, exempt, request.now);
    app.commit_within(counted, commit).await
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
