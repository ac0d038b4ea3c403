//! Accounts: newAccount, updates, deactivation and the orders list,
//! [RFC 8555 §7.3](https://www.rfc-editor.org/rfc/rfc8555#section-7.3) and §7.1.2.1.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use ca_core::acme::{Account, AccountState, DnsName, OrderStatus};
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::id::{AccountId, OrderId};
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Row, Version};
use ca_core::time::Timestamp;
use http::StatusCode;

use super::{ResponseExt, json};
use crate::eab;
use crate::limits::Counted;
use crate::problem::{Problem, ProblemType};
use crate::service::{App, Directory, Shared};
use crate::verified::{ByAccount, ByKey, Empty, Json, ReadOr, Verified};
use crate::wire::account::{AccountBody, AccountUpdate, NewAccount, OrdersBody};

/// The most contacts of an account.
const MAX_CONTACTS: usize = 10;

/// How many orders a page of the orders list looks at.
const ORDERS_A_PAGE: u32 = 50;

/// newAccount, §7.3: 201 for a new account, 200 for the one that the key has already.
pub(crate) async fn create(
    State(app): State<App>,
    request: Verified<Json<NewAccount>, ByKey>,
) -> Result<Response, Problem> {
    let (status, account) = app.decide(|_| find_or_create(&app, &request)).await?;
    let links = &request.directory.links;
    Ok(json(status, &AccountBody::new(&account, links)).with_location(&links.account(account.id)))
}

async fn find_or_create(
    app: &Shared,
    request: &Verified<Json<NewAccount>, ByKey>,
) -> Result<(StatusCode, Account), Problem> {
    let (ByKey(key), Json(asked)) = (&request.signer, &request.payload);
    let directory = request.directory.settings.policy.directory.clone();
    let thumbprint = key.thumbprint();
    if let Some(account) = app.store.account_by_key(directory.clone(), thumbprint).await? {
        account.require_valid()?;
        return Ok((StatusCode::OK, account));
    }
    if asked.only_return_existing == Some(true) {
        let detail = "no account has this key, and onlyReturnExisting is true";
        return Err(Problem::new(ProblemType::AccountDoesNotExist, detail));
    }
    let contacts = contacts(asked.contact.as_deref().unwrap_or_default())?;
    let terms_agreed_at = terms(&request.directory, asked, request.now)?;
    let bound = match &asked.external_account_binding {
        Some(binding) => Some(eab::verify(app, request, binding).await?),
        None if request.directory.settings.external_account_required => return Err(eab::required()),
        None => None,
    };
    let account = Account {
        id: AccountId::generate(request.now, &mut SystemRandom),
        directory,
        thumbprint,
        former_keys: Vec::new(),
        jwk: key.canonical().to_owned(),
        contacts,
        terms_agreed_at,
        limits: BTreeMap::new(),
        external_account: bound.as_ref().map(|bound| bound.binding.clone()),
        state: AccountState::Valid,
        created_at: request.now,
        version: Version::NEW,
    };
    let action = Action::AccountCreated {
        account: account.id,
        directory: account.directory.to_string(),
        contacts: account.contacts.clone(),
    };
    let event = |action| AuditEvent { at: request.now, actor: Actor::Stranger, action };
    let mut commit = Commit { audit: vec![event(action)], ..Commit::default() };
    if let Some(external) = bound.map(|bound| bound.external) {
        commit.expected_versions.push((Row::ExternalAccount(external.id), external.version));
        commit.changes.push(Change::BindExternalAccount { id: external.id, account: account.id });
        let action = Action::ExternalAccountBound { external_account: external.id, account: account.id };
        commit.audit.push(event(action));
    }
    commit.changes.push(Change::PutAccount(account.clone()));
    let bound = account.external_account.is_some();
    let counted = Counted::new_account(&request.directory, request.client, bound, request.now);
    app.commit_within(counted, commit).await?;
    Ok((StatusCode::CREATED, account))
}

/// Whether the terms of service, where there are any, are agreed to; §7.3.
fn terms(directory: &Directory, asked: &NewAccount, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
    match (&directory.settings.terms_of_service, asked.terms_of_service_agreed) {
        (_, Some(true)) => Ok(Some(now)),
        (None, _) => Ok(None),
        (Some(terms), _) => {
            let detail = format!("a new account must agree to the terms of service at {terms}");
            Err(Problem::new(ProblemType::UserActionRequired, detail).with_link(terms, "terms-of-service"))
        }
    }
}

/// Reads an account by POST-as-GET, changes its contacts, or deactivates it: §7.3.2, §7.3.6.
pub(crate) async fn update(
    State(app): State<App>,
    request: Verified<ReadOr<Json<AccountUpdate>>>,
) -> Result<Response, Problem> {
    require_own(&request)?;
    let account = match &request.payload {
        ReadOr::Read => request.signer.account.clone(),
        ReadOr::Write(Json(update)) => {
            let change = AccountChange::new(update)?;
            app.decide(|again| change_account(&app, &request.signer, &change, request.now, again)).await?
        }
    };
    Ok(json(StatusCode::OK, &AccountBody::new(&account, &request.directory.links)))
}

/// What an update asks for, checked.
struct AccountChange {
    contacts: Option<Vec<String>>,
    deactivate: bool,
}

impl AccountChange {
    fn new(update: &AccountUpdate) -> Result<Self, Problem> {
        let deactivate = match update.status.as_deref() {
            None | Some("valid") => false,
            Some("deactivated") => true,
            Some(_) => {
                return Err(Problem::malformed("the only status that a client can set is 'deactivated'"));
            }
        };
        Ok(Self { contacts: update.contact.as_deref().map(contacts).transpose()?, deactivate })
    }
}

async fn change_account(
    app: &Shared,
    signer: &ByAccount,
    change: &AccountChange,
    now: Timestamp,
    again: bool,
) -> Result<Account, Problem> {
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let mut next = account.clone();
    let mut audit = Vec::new();
    let mut log = |action| audit.push(AuditEvent { at: now, actor: Actor::Account(account.id), action });
    if let Some(contacts) = &change.contacts
        && *contacts != account.contacts
    {
        next = next.with_contacts(contacts.clone());
        log(Action::AccountUpdated { account: account.id, contacts: contacts.clone() });
    }
    if change.deactivate {
        next = next.deactivated(now);
        log(Action::AccountDeactivated { account: account.id });
    }
    if next != account {
        let changes = vec![Change::PutAccount(next.clone())];
        app.store.commit(Commit { changes, audit, ..Commit::default() }).await?;
    }
    Ok(next)
}

/// The signer's account as it is now, if it is still in use under the same key.
pub(super) async fn reread(app: &Shared, signer: &ByAccount) -> Result<Account, Problem> {
    let account = app
        .store
        .account(signer.account.id)
        .await?
        .filter(|account| account.thumbprint == signer.thumbprint)
        .ok_or_else(|| Problem::new(ProblemType::Unauthorized, "the account's key was changed meanwhile"))?;
    account.require_valid()?;
    Ok(account)
}

/// An account can be seen by itself only; whether another one exists is not told.
fn require_own<P>(request: &Verified<P>) -> Result<(), Problem> {
    let id: AccountId = request.path("account")?;
    if id == request.signer.account.id {
        return Ok(());
    }
    Err(Problem::new(ProblemType::Unauthorized, "the request is signed by another account"))
}

/// The orders list, §7.1.2.1: newest first, without those that are invalid.
pub(crate) async fn orders(State(app): State<App>, request: Verified<Empty>) -> Result<Response, Problem> {
    require_own(&request)?;
    let (account, links) = (request.signer.account.id, &request.directory.links);
    let after: Option<OrderId> = request.optional_path("after")?;
    let page = app.store.orders_of(account, after, ORDERS_A_PAGE).await?;
    let mut orders = Vec::with_capacity(page.rows.len());
    for id in page.rows {
        if let Some((order, authorizations)) = app.store.order(id).await?
            && !matches!(order.status(&authorizations, request.now), OrderStatus::Invalid(_))
        {
            orders.push(links.order(id));
        }
    }
    let response = json(StatusCode::OK, &OrdersBody { orders });
    Ok(match page.next {
        Some(next) => response.with_link(&links.orders_after(account, next), "next"),
        None => response,
    })
}

/// Checks contacts: `mailto:` URLs of one address each, without header fields, §7.3.
fn contacts(urls: &[String]) -> Result<Vec<String>, Problem> {
    if urls.len() > MAX_CONTACTS {
        let detail = format!("an account has at most {MAX_CONTACTS} contacts");
        return Err(Problem::new(ProblemType::InvalidContact, detail));
    }
    urls.iter().map(|url| contact(url).map(|()| url.clone())).collect()
}

fn contact(url: &str) -> Result<(), Problem> {
    let shown: String = url.chars().take(100).flat_map(char::escape_default).collect();
    let invalid =
        |why: &str| Err(Problem::new(ProblemType::InvalidContact, format!("the contact '{shown}' {why}")));
    let Some((scheme, address)) = url.split_once(':') else {
        return invalid("is no URL; write mailto:someone@example.org");
    };
    if !scheme.eq_ignore_ascii_case("mailto") {
        let detail = format!("the contact '{shown}' is of a kind that is not supported; use mailto:");
        return Err(Problem::new(ProblemType::UnsupportedContact, detail));
    }
    if address.contains('?') {
        return invalid("has header fields, which are not allowed");
    }
    if address.contains(',') {
        return invalid("has more than one address; give each as a contact of its own");
    }
    let Some((local, domain)) = address.rsplit_once('@') else {
        return invalid("has no address with an '@'");
    };
    let fine = |c: char| c.is_ascii_graphic() && !"()<>[]:;@\\,\"".contains(c);
    if local.is_empty() || local.len() > 64 || !local.chars().all(fine) {
        return invalid("has a local part that is not valid");
    }
    match DnsName::parse(domain) {
        Ok(name) if !name.is_wildcard() => Ok(()),
        _ => invalid("has a domain that is not valid"),
    }
}

#[cfg(test)]
mod tests {
    use super::contact;
    use crate::problem::Problem;

    #[test]
    fn rfc8555_7_3_contacts_are_single_mail_addresses_without_header_fields() {
        let kind = |url: &str| contact(url).map_err(|problem: Problem| problem.kind().name());
        for fine in ["mailto:a@example.org", "MAILTO:first.last+tag@sub.example.org", "mailto:a@localhost"] {
            assert_eq!(kind(fine), Ok(()), "{fine}");
        }
        for bad in [
            "mailto:",
            "mailto:@example.org",
            "mailto:a@",
            "mailto:a@b@example.org",
            "mailto:a@example.org,b@example.org",
            "mailto:a@example.org?subject=x",
            "mailto:a b@example.org",
            "mailto:a@192.0.2.1",
            "a@example.org",
            "",
        ] {
            assert_eq!(kind(bad), Err("invalidContact"), "{bad}");
        }
        assert_eq!(kind("tel:+12025551212"), Err("unsupportedContact"));
    }
}
