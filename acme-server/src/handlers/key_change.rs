//! keyChange, [RFC 8555 §7.3.5](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.5).

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use ca_core::acme::Account;
use ca_core::audit::{Action, Actor, AuditEvent};
use ca_core::store::{Change, Commit};
use http::StatusCode;

use super::account::reread;
use super::{ResponseExt, json};
use crate::jose::AccountKey;
use crate::problem::Problem;
use crate::service::{App, Shared};
use crate::verified::{Json, Payload, Verified, verify_inner};
use crate::wire::account::{AccountBody, KeyChange};

/// The payload is a JWS of its own.
pub(crate) struct InnerJws(Bytes);

impl Payload for InnerJws {
    fn read(payload: &[u8]) -> Result<Self, Problem> {
        Ok(Self(Bytes::copy_from_slice(payload)))
    }
}

pub(crate) async fn change(State(app): State<App>, request: Verified<InnerJws>) -> Result<Response, Problem> {
    let (key, payload) = verify_inner(&request.payload.0, &request.url)?;
    let Json(asked) = Json::<KeyChange>::read(&payload)?;
    let (links, signer) = (&request.directory.links, &request.signer);
    if asked.account != links.account(signer.account.id) {
        return Err(Problem::malformed("'account' must be the URL in the outer 'kid'"));
    }
    let old = AccountKey::from_members(asked.old_key)
        .map_err(|why| Problem::malformed(format!("'oldKey' is no key that an account can have: {why}")))?;
    if old.thumbprint() != signer.thumbprint {
        return Err(Problem::malformed("'oldKey' is not the account's key"));
    }
    let account = app.decide(|again| replace(&app, &request, &key, again)).await?;
    Ok(json(StatusCode::OK, &AccountBody::new(&account, links)).with_location(&links.account(account.id)))
}

async fn replace(
    app: &Shared,
    request: &Verified<InnerJws>,
    key: &AccountKey,
    again: bool,
) -> Result<Account, Problem> {
    let signer = &request.signer;
    let account = if again { reread(app, signer).await? } else { signer.account.clone() };
    let thumbprint = key.thumbprint();
    // Also the account's own key: it is in use.
    if let Some(other) = app.store.account_by_key(account.directory.clone(), thumbprint).await? {
        let problem = Problem::malformed("the new key is the key of an account already");
        return Err(problem
            .with_status(StatusCode::CONFLICT)
            .with_location(request.directory.links.account(other.id)));
    }
    let next = account.with_key(key.canonical().to_owned(), thumbprint);
    let action = Action::AccountKeyChanged { account: account.id, thumbprint: thumbprint.to_string() };
    let event = AuditEvent { at: request.now, actor: Actor::Account(account.id), action };
    let changes = vec![Change::PutAccount(next.clone())];
    app.store.commit(Commit { changes, audit: vec![event], ..Commit::default() }).await?;
    Ok(next)
}
