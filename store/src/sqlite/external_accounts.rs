//! External accounts and sealing keys, RFC 8555 §7.3.4: which of their changes can be made, and how their accounts and
//! authorizations are found.

use ca_core::acme::external_account::{ExternalAccount, ExternalAccountState, SealingKeyRecord, Uses};
use ca_core::acme::{Account, Authorization};
use ca_core::id::{AccountId, ExternalAccountId, Id};
use ca_core::store::{Role, StoreError, Version};
use rusqlite::{Connection, params};

use super::apply::{backwards, immutable};
use super::damage::{Damage, ahead};
use super::row::{
    Document, Failure, Outcome, describe, document, id_value, put_document, read_document, role_value,
};

/// Puts an account. What it is bound to is given when it is inserted, after the binding, and never changes, nor does its
/// directory; one that has ended is never revived.
pub(super) fn put_account(connection: &Connection, account: Account) -> Outcome<()> {
    if account.version == Version::NEW {
        if let Some(binding) = &account.external_account {
            let external = bindable(connection, binding.id)?;
            let bound = match external.uses {
                Uses::Many => true,
                Uses::Once { account: bound } => bound == Some(account.id),
            };
            if !bound || external.directory != account.directory {
                return Err(refused(format!(
                    "account {} is not bound to external account {}",
                    account.id, binding.id
                )));
            }
        }
    } else if let Some(stored) = document::<Account>(connection, account.id())?
        && stored.version == account.version
    {
        if stored.external_account != account.external_account {
            return Err(refused(format!("what account {} is bound to never changes", account.id)));
        }
        if stored.directory != account.directory {
            return Err(immutable(&account, "directory"));
        }
        if !stored.state.may_become(account.state) {
            return Err(backwards(&account));
        }
    }
    put_document(connection, account)
}

/// Binds a new account: an external account for one account remembers which.
pub(super) fn bind(connection: &Connection, id: ExternalAccountId, account: AccountId) -> Outcome<()> {
    let external = bindable(connection, id)?;
    match external.uses {
        Uses::Many => Ok(()),
        Uses::Once { account: Some(_) } => Err(StoreError::Conflict.into()),
        Uses::Once { account: None } => put_document(
            connection,
            ExternalAccount { uses: Uses::Once { account: Some(account) }, ..external },
        ),
    }
}

/// An external account that was not revoked; one that was is a conflict, so that it is read again and refused.
fn bindable(connection: &Connection, id: ExternalAccountId) -> Outcome<ExternalAccount> {
    let external = document::<ExternalAccount>(connection, id_value(id.0))?
        .ok_or_else(|| StoreError::NotFound(format!("{} {id}", ExternalAccount::TABLE)))?;
    match external.state {
        ExternalAccountState::Valid => Ok(external),
        ExternalAccountState::Revoked { .. } => Err(StoreError::Conflict.into()),
    }
}

/// Puts an external account; which accounts it is for, and what it grants, never change.
pub(super) fn put_external_account(connection: &Connection, external: ExternalAccount) -> Outcome<()> {
    if external.version != Version::NEW
        && let Some(stored) = document::<ExternalAccount>(connection, external.id())?
        && (&stored.directory, &stored.mac_key, &stored.grant)
            != (&external.directory, &external.mac_key, &external.grant)
    {
        let id = external.id();
        return Err(refused(format!(
            "directory, key and grant of {} {} never change",
            ExternalAccount::TABLE,
            describe((&id).into())
        )));
    }
    put_document(connection, external)
}

/// Publishes a role's key: the first one stays until an operator has it removed.
pub(super) fn put_sealing_key(connection: &Connection, key: SealingKeyRecord) -> Outcome<()> {
    if key.version != Version::NEW {
        return Err(refused(format!("the sealing key of role '{}' never changes", key.role)));
    }
    put_document(connection, key)
}

/// Removes a role's key.
pub(super) fn forget_sealing_key(connection: &Connection, role: Role) -> Outcome<()> {
    connection.prepare_cached("DELETE FROM sealing_keys WHERE id = ?1")?.execute([role_value(role)])?;
    Ok(())
}

fn refused(what: String) -> Failure {
    StoreError::Refused(what).into()
}

/// The accounts that are bound to an external account, newest first, `limit` at most.
pub(super) fn bound_accounts(
    connection: &Connection,
    damage: &Damage,
    external: ExternalAccountId,
    before: Vec<u8>,
    limit: usize,
) -> Outcome<Vec<Account>> {
    let sql = bound_accounts_sql();
    let parameters = params![external.to_string(), before, ahead(limit)];
    damage.around(connection, &sql, parameters, limit, read_document)
}

/// What the index `accounts_external` is over, character for character, or SQLite does not use it.
const BOUND_TO: &str = "CASE WHEN json_valid(body) THEN json_extract(body, '$.external_account.id') END";

fn bound_accounts_sql() -> String {
    let columns = Account::COLUMNS;
    format!(
        "SELECT {columns} FROM accounts WHERE {BOUND_TO} = ?1 AND {BOUND_TO} IS NOT NULL AND id < ?2 \
         ORDER BY id DESC LIMIT ?3"
    )
}

/// The authorizations of an account that are stored as trusted.
pub(super) fn trusted_authorizations(
    connection: &Connection,
    damage: &Damage,
    account: Id,
    limit: usize,
) -> Outcome<Vec<Authorization>> {
    let sql = format!(
        "SELECT {} FROM authorizations WHERE account = ?1 AND state = 'trusted' ORDER BY identifier, id LIMIT ?2",
        Authorization::COLUMNS
    );
    damage.around(connection, &sql, params![account.as_bytes(), ahead(limit)], limit, read_document)
}

#[cfg(test)]
mod tests {
    use super::super::connection::open_writer;
    use super::*;
    use crate::permissions::Sharing;

    #[test]
    fn bound_accounts_are_found_by_their_index() {
        let dir = tempfile::tempdir().unwrap();
        let connection = open_writer(dir.path(), Sharing::Private, None).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", bound_accounts_sql());
        let mut statement = connection.prepare(&sql).unwrap();
        let steps = statement.query_map(params!["x", vec![0xffu8; 17], 10], |row| row.get("detail")).unwrap();
        let plan: Vec<String> = steps.map(Result::unwrap).collect();
        assert_eq!(plan.len(), 1, "{plan:?}");
        assert!(plan[0].contains("USING INDEX accounts_external (<expr>=? AND id<?)"), "{plan:?}");
    }
}
