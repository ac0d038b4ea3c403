//! Rows in and out: the hash over all columns, documents with a version, and what can go wrong on the way.
//!
//! SQLite has no checksums of its own, so every row ends with the first 16 octets of SHA-256 over its table's name
//! and its columns, each with type and length. It is written with the row and checked whenever the row is read.

use aws_lc_rs::digest;
use ca_core::acme::external_account::{ExternalAccount, SealingKeyRecord};
use ca_core::acme::pause::Failing;
use ca_core::acme::{
    Account, AccountState, Authorization, AuthorizationState, ChallengeState, Order, OrderState, RenewalPull,
    Replacement,
};
use ca_core::id::Id;
use ca_core::store::{Credential, IssuerRecord, Role, StoreError, Version};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params_from_iter};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a statement or a change did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The change can't be made, or a row is damaged; the transaction as such is fine.
    Store(StoreError),
    /// The engine failed: whatever stands in the same transaction is lost.
    Engine(rusqlite::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..) => {
                Self::Store(StoreError::Corrupt(format!("a column holds what it never should: {error}")))
            }
            other => Self::Engine(other),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => error,
            Failure::Engine(error) => engine_error(&error),
        }
    }
}

/// What callers are told of an engine's failure.
fn engine_error(error: &rusqlite::Error) -> StoreError {
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(detail),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(detail),
        Some(ErrorCode::ConstraintViolation) => StoreError::Conflict,
        _ => StoreError::Busy(detail),
    }
}

pub(crate) type Outcome<T> = Result<T, Failure>;

pub(crate) fn corrupt(table: &str, id: &str, what: &str) -> Failure {
    Failure::Store(StoreError::Corrupt(format!("table {table}, row {id}: {what}")))
}

/// A number for SQLite, whose integers are signed.
pub(crate) fn signed(number: u64) -> Outcome<i64> {
    i64::try_from(number)
        .map_err(|_| StoreError::Refused(format!("{number} does not fit into the store")).into())
}

/// A number from SQLite.
pub(crate) fn unsigned(table: &str, number: i64) -> Outcome<u64> {
    u64::try_from(number).map_err(|_| corrupt(table, "?", "a count is negative"))
}

/// How a key column reads in messages.
pub(crate) fn describe(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "?".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(octets) => match <[u8; 16]>::try_from(octets) {
            Ok(id) => Id::from_bytes(id).to_string(),
            Err(_) => ca_core::id::to_hex(octets),
        },
    }
}

/// The hash over a row's columns.
pub(crate) struct RowHash(digest::Context);

impl RowHash {
    pub(crate) fn new(table: &str) -> Self {
        let mut hash = Self(digest::Context::new(&digest::SHA256));
        hash.octets(b't', table.as_bytes());
        hash
    }

    fn octets(&mut self, kind: u8, octets: &[u8]) {
        self.0.update(&[kind]);
        self.0.update(&(octets.len() as u64).to_be_bytes());
        self.0.update(octets);
    }

    pub(crate) fn column(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.octets(b'0', &[]),
            ValueRef::Integer(number) => self.octets(b'i', &number.to_be_bytes()),
            ValueRef::Real(number) => self.octets(b'r', &number.to_be_bytes()),
            ValueRef::Text(text) => self.octets(b's', text),
            ValueRef::Blob(octets) => self.octets(b'b', octets),
        }
    }

    pub(crate) fn finish(self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&self.0.finish().as_ref()[..16]);
        out
    }
}

/// Appends the hash over `values` to them: a whole row, in the order of its columns.
pub(crate) fn with_hash(table: &str, mut values: Vec<Value>) -> Vec<Value> {
    let mut hash = RowHash::new(table);
    values.iter().for_each(|value| hash.column(value.into()));
    values.push(Value::Blob(hash.finish().to_vec()));
    values
}

/// Checks columns `0..columns` of a row against the hash that stands in column `columns`; column `key` names the row.
pub(crate) fn check_hash(table: &str, row: &Row<'_>, key: usize, columns: usize) -> Outcome<()> {
    let mut hash = RowHash::new(table);
    for column in 0..columns {
        hash.column(row.get_ref(column)?);
    }
    match row.get_ref(columns)? {
        ValueRef::Blob(stored) if stored == hash.finish() => Ok(()),
        _ => Err(corrupt(table, &describe(row.get_ref(key)?), "does not match its hash")),
    }
}

/// JSON of a domain type.
pub(crate) fn to_json(value: &impl Serialize) -> Outcome<String> {
    serde_json::to_string(value)
        .map_err(|error| StoreError::Refused(format!("the value can't be written as JSON: {error}")).into())
}

/// A domain type from the JSON of a row whose hash was checked.
pub(crate) fn from_json<T: DeserializeOwned>(table: &str, id: &str, json: &str) -> Outcome<T> {
    serde_json::from_str(json).map_err(|error| corrupt(table, id, &format!("can't be read: {error}")))
}

/// The first row of a query, read by a function that may find it damaged.
pub(crate) fn first<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: impl FnOnce(&Row<'_>) -> Outcome<T>,
) -> Outcome<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    match rows.next()? {
        Some(row) => read(row).map(Some),
        None => Ok(None),
    }
}

/// Every row of a query.
pub(crate) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    mut read: impl FnMut(&Row<'_>) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// A domain type that is stored whole, as JSON, beside the columns that queries need.
pub(crate) trait Document: Serialize + DeserializeOwned {
    const TABLE: &'static str;
    /// The row's columns, `id` first, then [`Document::columns`], then `version`, `body`, `hash`.
    const COLUMNS: &'static str;
    /// Inserts with the columns' parameters in that order.
    const INSERT: &'static str;
    /// Updates by `id` (`?1`), with the same parameters.
    const UPDATE: &'static str;
    const SELECT: &'static str;
    const SELECT_VERSION: &'static str;

    fn id(&self) -> Value;
    fn columns(&self) -> Vec<Value>;
    fn version_mut(&mut self) -> &mut Version;
}

/// Implements [`Document`] from a table's name and its columns.
macro_rules! document {
    ($type:ty, $table:literal, insert ($columns:literal, $parameters:literal), update $update:literal, $id:expr, $values:expr) => {
        impl Document for $type {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static str = $columns;
            const INSERT: &'static str =
                concat!("INSERT INTO ", $table, " (", $columns, ") VALUES (", $parameters, ")");
            const UPDATE: &'static str = concat!("UPDATE ", $table, " SET ", $update, " WHERE id = ?1");
            const SELECT: &'static str = concat!("SELECT ", $columns, " FROM ", $table, " WHERE id = ?1");
            const SELECT_VERSION: &'static str = concat!("SELECT version FROM ", $table, " WHERE id = ?1");

            fn id(&self) -> Value {
                let id: fn(&Self) -> Value = $id;
                id(self)
            }

            fn columns(&self) -> Vec<Value> {
                let values: fn(&Self) -> Vec<Value> = $values;
                values(self)
            }

            fn version_mut(&mut self) -> &mut Version {
                &mut self.version
            }
        }
    };
}

/// An id as a column.
pub(crate) fn id_value(id: Id) -> Value {
    Value::Blob(id.as_bytes().to_vec())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

document!(
    Account,
    "accounts",
    insert("id, directory, thumbprint, state, version, body, hash", "?1, ?2, ?3, ?4, ?5, ?6, ?7"),
    update "directory = ?2, thumbprint = ?3, state = ?4, version = ?5, body = ?6, hash = ?7",
    |account| id_value(account.id.0),
    |account| vec![
        text(account.directory.as_str()),
        Value::Blob(account.thumbprint.0.to_vec()),
        text(match account.state {
            AccountState::Valid => "valid",
            AccountState::Deactivated { .. } => "deactivated",
            AccountState::Revoked { .. } => "revoked",
        }),
    ]
);

document!(
    Order,
    "orders",
    insert("id, account, state, version, body, hash", "?1, ?2, ?3, ?4, ?5, ?6"),
    // An order's account never changes; leaving it out spares its index.
    update "state = ?3, version = ?4, body = ?5, hash = ?6",
    |order| id_value(order.id.0),
    |order| vec![id_value(order.account.0), text(order_state(&order.state))]
);

document!(
    Authorization,
    "authorizations",
    insert("id, account, identifier, state, processing, version, body, hash", "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8"),
    update "state = ?4, processing = ?5, version = ?6, body = ?7, hash = ?8",
    |authorization| id_value(authorization.id.0),
    |authorization| vec![
        id_value(authorization.account.0),
        Value::Text(covered_name(authorization)),
        text(authorization_state(authorization.state)),
        Value::Integer(i64::from(is_processing(authorization))),
    ]
);

document!(
    Failing,
    "failing",
    insert("id, account, paused, version, body, hash", "?1, ?2, ?3, ?4, ?5, ?6"),
    update "account = ?2, paused = ?3, version = ?4, body = ?5, hash = ?6",
    |failing| Value::Blob(failing.id().0.to_vec()),
    |failing| vec![id_value(failing.account.0), Value::Integer(i64::from(failing.paused_at.is_some()))]
);

document!(
    IssuerRecord,
    "issuers",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |issuer| text(issuer.id.as_str()),
    |_| Vec::new()
);

document!(
    Credential,
    "credentials",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |credential| id_value(credential.id.0),
    |_| Vec::new()
);

document!(
    ExternalAccount,
    "external_accounts",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |external| id_value(external.id.0),
    |_| Vec::new()
);

document!(
    SealingKeyRecord,
    "sealing_keys",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |key| role_value(key.role),
    |_| Vec::new()
);

/// A role as a key column.
pub(crate) fn role_value(role: Role) -> Value {
    text(role.name())
}

document!(
    Replacement,
    "replacements",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |replacement| super::renewals::replaced(&replacement.certificate),
    |_| Vec::new()
);

document!(
    RenewalPull,
    "renewal_pulls",
    insert("id, version, body, hash", "?1, ?2, ?3, ?4"),
    update "version = ?2, body = ?3, hash = ?4",
    |pull| id_value(pull.id.0),
    |_| Vec::new()
);

/// The names under which orders are counted.
pub(crate) const ORDER_STATES: [&str; 5] = ["open", "processing", "valid", "failed", "renewing"];

pub(crate) const fn order_state(state: &OrderState) -> &'static str {
    match state {
        OrderState::Open => ORDER_STATES[0],
        OrderState::Processing { .. } => ORDER_STATES[1],
        // What has a certificate and gets no other.
        OrderState::Valid { .. } | OrderState::Canceled { .. } | OrderState::Stopped { .. } => {
            ORDER_STATES[2]
        }
        OrderState::Renewing(_) => ORDER_STATES[4],
        OrderState::Failed { .. } => ORDER_STATES[3],
    }
}

/// The counter of the orders in a state: `orders.` and its name.
pub(crate) const fn order_counter(state: &OrderState) -> &'static str {
    match state {
        OrderState::Open => "orders.open",
        OrderState::Processing { .. } => "orders.processing",
        OrderState::Valid { .. } | OrderState::Canceled { .. } | OrderState::Stopped { .. } => "orders.valid",
        OrderState::Renewing(_) => "orders.renewing",
        OrderState::Failed { .. } => "orders.failed",
    }
}

const fn authorization_state(state: AuthorizationState) -> &'static str {
    match state {
        AuthorizationState::Pending => "pending",
        AuthorizationState::Valid { .. } => "valid",
        AuthorizationState::Trusted { .. } => "trusted",
        AuthorizationState::Invalid { .. } => "invalid",
        AuthorizationState::Deactivated { .. } => "deactivated",
        AuthorizationState::Revoked { .. } => "revoked",
    }
}

/// The ordered identifier that an authorization covers, as an index holds it: with `*.` where it is about wildcards.
fn covered_name(authorization: &Authorization) -> String {
    let star = if authorization.wildcard { "*." } else { "" };
    format!("{}:{star}{}", authorization.identifier.kind(), authorization.identifier)
}

fn is_processing(authorization: &Authorization) -> bool {
    matches!(authorization.state, AuthorizationState::Pending)
        && authorization.challenges.iter().any(|c| matches!(c.state, ChallengeState::Processing { .. }))
}

/// Reads a document from a row that has exactly its columns.
pub(crate) fn read_document<D: Document>(row: &Row<'_>) -> Outcome<D> {
    let hash = row.as_ref().column_count() - 1;
    check_hash(D::TABLE, row, 0, hash)?;
    let id = describe(row.get_ref(0)?);
    let body = row.get_ref(hash - 1)?.as_str().map_err(|_| corrupt(D::TABLE, &id, "its body is no text"))?;
    from_json(D::TABLE, &id, body)
}

/// A document by its id.
pub(crate) fn document<D: Document>(connection: &Connection, id: Value) -> Outcome<Option<D>> {
    first(connection, D::SELECT, [id], read_document)
}

/// A stored version; [`Version::NEW`] if there is no such row.
pub(crate) fn stored_version<D: Document>(connection: &Connection, id: Value) -> Outcome<Version> {
    let version: Option<i64> =
        connection.prepare_cached(D::SELECT_VERSION)?.query_row([id], |row| row.get(0)).optional()?;
    version.map_or(Ok(Version::NEW), |version| unsigned(D::TABLE, version).map(Version))
}

/// Inserts a document whose version is [`Version::NEW`], or updates the row if it has the document's version.
pub(crate) fn put_document<D: Document>(connection: &Connection, mut document: D) -> Outcome<()> {
    let decided_on = *document.version_mut();
    let stored = stored_version::<D>(connection, document.id())?;
    if stored == Version::NEW && decided_on != Version::NEW {
        let id = document.id();
        return Err(StoreError::NotFound(format!("{} {}", D::TABLE, describe((&id).into()))).into());
    }
    if stored != decided_on {
        return Err(StoreError::Conflict.into());
    }
    *document.version_mut() = decided_on.next();
    let mut values = vec![document.id()];
    values.extend(document.columns());
    values.push(Value::Integer(signed(decided_on.next().0)?));
    values.push(Value::Text(to_json(&document)?));
    let sql = if decided_on == Version::NEW { D::INSERT } else { D::UPDATE };
    conflict_on_constraint(
        connection.prepare_cached(sql)?.execute(params_from_iter(with_hash(D::TABLE, values))),
    )?;
    Ok(())
}

/// A violated UNIQUE constraint means that another commit came first.
pub(crate) fn conflict_on_constraint<T>(result: rusqlite::Result<T>) -> Outcome<T> {
    result.map_err(|error| {
        if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
            StoreError::Conflict.into()
        } else {
            error.into()
        }
    })
}

/// The counters of one transaction: each is read once and written once, however many commits share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters(Vec<Counter>);

#[derive(Clone, Debug)]
struct Counter {
    name: &'static str,
    stored: Option<i64>,
    value: Option<i64>,
}

impl Counters {
    fn counter(&mut self, connection: &Connection, name: &'static str) -> Outcome<&mut Counter> {
        let index = match self.0.iter().position(|counter| counter.name == name) {
            Some(index) => index,
            None => {
                let stored = stored_counter(connection, name)?;
                self.0.push(Counter { name, stored, value: stored });
                self.0.len() - 1
            }
        };
        Ok(&mut self.0[index])
    }

    /// A counter's value; `None` if it was never set.
    pub(crate) fn value(&mut self, connection: &Connection, name: &'static str) -> Outcome<Option<i64>> {
        Ok(self.counter(connection, name)?.value)
    }

    /// Gives a counter its value.
    pub(crate) fn set(&mut self, connection: &Connection, name: &'static str, value: i64) -> Outcome<()> {
        self.counter(connection, name)?.value = Some(value);
        Ok(())
    }

    /// Adds to a counter and returns its new value.
    pub(crate) fn add(&mut self, connection: &Connection, name: &'static str, change: i64) -> Outcome<i64> {
        let counter = self.counter(connection, name)?;
        let value = counter
            .value
            .unwrap_or(0)
            .checked_add(change)
            .filter(|value| *value >= 0)
            .ok_or_else(|| corrupt("counters", name, "would become negative"))?;
        counter.value = Some(value);
        Ok(value)
    }

    /// Writes those that changed, before the transaction is committed.
    pub(crate) fn save(&self, connection: &Connection) -> Outcome<()> {
        for counter in self.0.iter().filter(|counter| counter.value != counter.stored) {
            let Some(value) = counter.value else { continue };
            connection
                .prepare_cached("INSERT OR REPLACE INTO counters (name, value, hash) VALUES (?1, ?2, ?3)")?
                .execute(params_from_iter(with_hash(
                    "counters",
                    vec![text(counter.name), Value::Integer(value)],
                )))?;
        }
        Ok(())
    }
}

/// A counter's value; 0 if it never counted.
pub(crate) fn counter(connection: &Connection, name: &str) -> Outcome<i64> {
    Ok(stored_counter(connection, name)?.unwrap_or(0))
}

/// A counter's value; `None` if it was never set.
pub(crate) fn stored_counter(connection: &Connection, name: &str) -> Outcome<Option<i64>> {
    let sql = "SELECT name, value, hash FROM counters WHERE name = ?1";
    first(connection, sql, [name], |row| {
        check_hash("counters", row, 0, 2)?;
        Ok(row.get(1)?)
    })
}
