//! External account binding: whether a newAccount request is bound to a key that an operator handed out, and to which,
//! [RFC 8555 §7.3.4](https://www.rfc-editor.org/rfc/rfc8555#section-7.3.4).

use ca_core::acme::external_account::ExternalAccountEnded;
use ca_core::acme::{Account, ExternalAccount, ExternalAccountBinding};
use ca_core::id::ExternalAccountId;
use serde_json::{Map, Value};

use crate::jose::{AccountKey, MacJws};
use crate::problem::{Problem, ProblemType};
use crate::service::Shared;
use crate::verified::{ByKey, Verified};

/// The longest binding that is kept with its account, in octets: that of an RSA key of 8192 bits has half of it.
const MAX_OCTETS: usize = 8 * 1024;

/// A binding that was verified.
pub(crate) struct Bound {
    /// As it stood when the MAC was verified.
    pub(crate) external: ExternalAccount,
    /// What the account keeps of it.
    pub(crate) binding: ExternalAccountBinding,
}

/// Verifies the binding of a newAccount request: a JWS with a MAC of a key of this directory, for the same URL and
/// without a nonce, whose payload is the key of the outer JWS.
///
/// # Errors
/// `malformed` for what is no such JWS; `unauthorized` for a MAC that does not verify, whether its key is known or not,
/// and for a key that was revoked, has expired or is used up.
pub(crate) async fn verify<P>(
    app: &Shared,
    request: &Verified<P, ByKey>,
    members: &Map<String, Value>,
) -> Result<Bound, Problem> {
    let malformed = |why: &str| Problem::malformed(format!("externalAccountBinding: {why}"));
    let text = serde_json::to_string(members).map_err(|why| malformed(&why.to_string()))?;
    if text.len() > MAX_OCTETS {
        return Err(malformed(&format!("it has more than {MAX_OCTETS} octets")));
    }
    let jws = MacJws::parse(members).map_err(|why| malformed(&why.to_string()))?;
    if jws.url() != request.url {
        return Err(malformed("its 'url' must be that of the newAccount request"));
    }
    let external = find(app, request, jws.kid()).await?;
    let mac_key = app.sealing_key.open(&external.mac_key, &external.directory, external.id);
    let mac_key = mac_key.map_err(|why| {
        let detail = "the CA can't open the key of this external account; its operator must act";
        Problem::new(ProblemType::ServerInternal, detail).with_cause(why)
    })?;
    let payload = jws.verify(mac_key.octets()).map_err(|_| does_not_verify())?;
    let ByKey(account_key) = &request.signer;
    let text_of_key = std::str::from_utf8(&payload).map_err(|_| malformed("its payload is no JWK"))?;
    let bound_key = AccountKey::from_json(text_of_key)
        .map_err(|why| malformed(&format!("its payload is no key that an account can have: {why}")))?;
    if bound_key.thumbprint() != account_key.thumbprint() {
        return Err(malformed("its payload must be the key that signs the newAccount request"));
    }
    // Only whoever has the MAC key is told how it stands.
    external.require_bindable(request.now)?;
    let binding = ExternalAccountBinding { id: external.id, jws: text };
    Ok(Bound { external, binding })
}

/// The external account of a key identifier in the request's directory.
async fn find<P>(app: &Shared, request: &Verified<P, ByKey>, kid: &str) -> Result<ExternalAccount, Problem> {
    let id: ExternalAccountId = kid.parse().map_err(|_| does_not_verify())?;
    let found = app.store.external_account(id).await?;
    found
        .filter(|external| external.directory == request.directory.settings.policy.directory)
        .ok_or_else(does_not_verify)
}

fn does_not_verify() -> Problem {
    let detail = "externalAccountBinding: the MAC does not verify; check the key identifier and the MAC key that the \
                  operator of this CA gave, and that they are for this directory";
    Problem::new(ProblemType::Unauthorized, detail)
}

/// What a client is told that has to bind its account and did not.
pub(crate) fn required() -> Problem {
    let detail = "a new account must be bound to an external account here: ask the operator of this CA for a key \
                  identifier and a MAC key (`chancery eab create`), and give them to your client as its EAB";
    Problem::new(ProblemType::ExternalAccountRequired, detail)
}

/// The row of the external account that an account is bound to.
pub(crate) async fn of(app: &Shared, account: &Account) -> Result<Option<ExternalAccount>, Problem> {
    match &account.external_account {
        Some(binding) => Ok(app.store.external_account(binding.id).await?),
        None => Ok(None),
    }
}

impl From<ExternalAccountEnded> for Problem {
    fn from(error: ExternalAccountEnded) -> Self {
        Self::new(ProblemType::Unauthorized, format!("{error}; ask the operator of this CA for a new one"))
    }
}
