//! The store's reads, each in one short transaction on a reader thread.
//!
//! A damaged row is an error where it is asked for by itself. Lists of which each row is work or a finding of its own
//! leave it out ([`Damage`]): pages of accounts, orders and certificates, effects, validations to take up, reservations,
//! valid authorizations, summaries of CRLs. Lists that are wrong without it fail as a whole: issuers (without its root a
//! CA looks as if it were new), an order's authorizations, the revocations of a CRL, what changed since a revision, the
//! audit log.

use std::sync::Arc;

use ca_core::acme::account::Thumbprint;
use ca_core::acme::external_account::{ExternalAccount, SealingKeyRecord};
use ca_core::acme::{
    Account, Authorization, DirectoryName, Identifier, Order, OrderState, RenewalPull, Replacement,
};
use ca_core::id::{
    AccountId, AuthorizationId, CredentialId, EffectId, ExternalAccountId, Id, IssuerId, OrderId,
};
use ca_core::pkix::public_key::{KeyHash, sha256};
use ca_core::pkix::serial::SerialNumber;
use ca_core::store::{
    AcmeReads, AuthorityReads, CertificateFacts, CertificateFilter, CertificateId, CertificateReads,
    CertificateRecord, CertificateStatus, Commits, Credential, CrlRecord, CrlSummary, Effect, IssuerKind,
    IssuerRecord, IssuerState, Origin, Page, RevokedCertificate, Role, ShardRevocations, StoreResult,
    StoreSizes,
};
use ca_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::certificates::{
    CertificateRow, Shard, certificate_row, name_key, read_record, select_records, select_status,
};
use super::connection::FILE;
use super::damage::{Damage, ahead};
use super::external_accounts;
use super::row::{
    Document, ORDER_STATES, Outcome, all, check_hash, corrupt, counter, describe, document, first, from_json,
    id_value, read_document, role_value, signed, to_json, unsigned,
};
use super::{SharedStore, audit, renewals};

impl<C: Commits> SharedStore<C> {
    pub(super) fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<'_, T> {
        Box::pin(self.reads.run(read))
    }

    /// A read of a list that can do without its damaged rows.
    pub(super) fn read_list<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, &Damage) -> Outcome<T> + Send + 'static,
    ) -> StoreResult<'_, T> {
        let damage = Arc::clone(&self.damage);
        self.read(move |connection| read(connection, &damage))
    }
}

/// What needs no reader.
fn ready<'a, T: Send + 'a>(value: T) -> StoreResult<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

/// Cuts a list that was read with one row more than asked for.
pub(super) fn page<T, K>(mut rows: Vec<T>, limit: u32, key: impl FnOnce(&T) -> K) -> Page<T, K> {
    let limit = count(limit.max(1));
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more { rows.last().map(key) } else { None };
    Page { rows, next }
}

/// One row more than a page has, to know whether another follows.
pub(super) fn one_more(limit: u32) -> usize {
    count(limit.max(1)).saturating_add(1)
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Above every id.
const BEFORE_ALL: [u8; 17] = [0xff; 17];

fn before(after: Option<Id>) -> Vec<u8> {
    after.map_or_else(|| BEFORE_ALL.to_vec(), |id| id.as_bytes().to_vec())
}

/// A page of documents, and one more, newest first.
fn newest_documents<D: Document>(
    connection: &Connection,
    damage: &Damage,
    after: Option<Id>,
    limit: u32,
) -> Outcome<Vec<D>> {
    let sql = format!("SELECT {} FROM {} WHERE id < ?1 ORDER BY id DESC LIMIT ?2", D::COLUMNS, D::TABLE);
    let limit = one_more(limit);
    damage.around(connection, &sql, params![before(after), ahead(limit)], limit, read_document)
}

pub(super) fn row_id(row: &Row<'_>, table: &str) -> Outcome<Id> {
    row.get(0).map(Id::from_bytes).map_err(|_| corrupt(table, "?", "its id is none"))
}

impl<C: Commits> AcmeReads for SharedStore<C> {
    fn account(&self, id: AccountId) -> StoreResult<'_, Option<Account>> {
        let Some(recent) = &self.recent else {
            return self.read(move |connection| document(connection, id_value(id.0)));
        };
        if let Some(account) = recent.account(id) {
            return ready(Some(Arc::unwrap_or_clone(account)));
        }
        let seen = recent.seen();
        Box::pin(async move {
            let account = self.reads.run(move |connection| document(connection, id_value(id.0))).await?;
            if let Some(account) = &account {
                recent.keep_account(account, seen);
            }
            Ok(account)
        })
    }

    fn account_by_key(&self, directory: DirectoryName, key: Thumbprint) -> StoreResult<'_, Option<Account>> {
        if self.recent.as_ref().is_some_and(|recent| !recent.may_be_account_key(key)) {
            return ready(None);
        }
        self.read(move |connection| {
            let sql =
                format!("SELECT {} FROM accounts WHERE directory = ?1 AND thumbprint = ?2", Account::COLUMNS);
            first(connection, &sql, params![directory.as_str(), key.0], read_document)
        })
    }

    fn accounts(&self, after: Option<AccountId>, limit: u32) -> StoreResult<'_, Page<Account, AccountId>> {
        self.read_list(move |connection, damage| {
            let rows: Vec<Account> = newest_documents(connection, damage, after.map(|id| id.0), limit)?;
            Ok(page(rows, limit, |account| account.id))
        })
    }

    fn order(&self, id: OrderId) -> StoreResult<'_, Option<(Order, Vec<Authorization>)>> {
        if let Some(found) = self.recent.as_ref().and_then(|recent| recent.order_with_authorizations(id)) {
            return ready(Some(found));
        }
        self.read(move |connection| {
            let Some(order) = document::<Order>(connection, id_value(id.0))? else {
                return Ok(None);
            };
            let mut authorizations = Vec::with_capacity(order.authorizations.len());
            for id in &order.authorizations {
                match document::<Authorization>(connection, id_value(id.0))? {
                    Some(authorization) => authorizations.push(authorization),
                    // Pruned: nothing depends on them any more.
                    None if !matches!(order.state, OrderState::Open | OrderState::Processing { .. }) => {}
                    None => {
                        let what = "an authorization that it names is gone";
                        return Err(corrupt("orders", &order.id.to_string(), what));
                    }
                }
            }
            Ok(Some((order, authorizations)))
        })
    }

    fn orders_of(
        &self,
        account: AccountId,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<'_, Page<OrderId, OrderId>> {
        self.read_list(move |connection, damage| {
            let sql = "SELECT id FROM orders WHERE account = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
            let wanted = one_more(limit);
            let parameters = params![account.0.as_bytes(), before(after.map(|id| id.0)), ahead(wanted)];
            let id = |row: &Row<'_>| row_id(row, "orders").map(OrderId);
            let rows = damage.around(connection, sql, parameters, wanted, id)?;
            Ok(page(rows, limit, |id| *id))
        })
    }

    fn orders(&self, after: Option<OrderId>, limit: u32) -> StoreResult<'_, Page<Order, OrderId>> {
        self.read_list(move |connection, damage| {
            let rows: Vec<Order> = newest_documents(connection, damage, after.map(|id| id.0), limit)?;
            Ok(page(rows, limit, |order| order.id))
        })
    }

    fn order_counts(&self) -> StoreResult<'_, Vec<(String, u64)>> {
        self.read(|connection| {
            let count = |state: &&str| {
                let count = counter(connection, &format!("orders.{state}"))?;
                Ok(((*state).to_owned(), unsigned("counters", count)?))
            };
            ORDER_STATES.iter().map(count).collect()
        })
    }

    fn authorization(&self, id: AuthorizationId) -> StoreResult<'_, Option<Authorization>> {
        if let Some(found) = self.recent.as_ref().and_then(|recent| recent.authorization(id)) {
            return ready(Some(Arc::unwrap_or_clone(found)));
        }
        self.read(move |connection| document(connection, id_value(id.0)))
    }

    fn authorizations_processing(&self, limit: u32) -> StoreResult<'_, Vec<Authorization>> {
        self.read_list(move |connection, damage| {
            let sql = format!(
                "SELECT {} FROM authorizations WHERE processing = 1 ORDER BY id LIMIT ?1",
                Authorization::COLUMNS
            );
            let limit = count(limit);
            damage.around(connection, &sql, [ahead(limit)], limit, read_document)
        })
    }

    fn valid_authorizations(
        &self,
        account: AccountId,
        identifier: Identifier,
    ) -> StoreResult<'_, Vec<Authorization>> {
        self.read_list(move |connection, damage| {
            let sql = format!(
                "SELECT {columns} FROM authorizations WHERE account = ?1 AND identifier = ?2 AND state = 'valid' \
                 UNION ALL \
                 SELECT {columns} FROM authorizations WHERE account = ?1 AND identifier = ?2 AND state = 'trusted' \
                 ORDER BY id DESC",
                columns = Authorization::COLUMNS
            );
            let parameters = params![account.0.as_bytes(), name_key(&identifier)];
            damage.around(connection, &sql, parameters, usize::MAX, read_document)
        })
    }

    fn trusted_authorizations(&self, account: AccountId, limit: u32) -> StoreResult<'_, Vec<Authorization>> {
        self.read_list(move |connection, damage| {
            external_accounts::trusted_authorizations(connection, damage, account.0, count(limit))
        })
    }

    fn external_account(&self, id: ExternalAccountId) -> StoreResult<'_, Option<ExternalAccount>> {
        self.read(move |connection| document(connection, id_value(id.0)))
    }

    fn external_accounts(
        &self,
        after: Option<ExternalAccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<ExternalAccount, ExternalAccountId>> {
        self.read_list(move |connection, damage| {
            let rows: Vec<ExternalAccount> =
                newest_documents(connection, damage, after.map(|id| id.0), limit)?;
            Ok(page(rows, limit, |external| external.id))
        })
    }

    fn bound_accounts(
        &self,
        external_account: ExternalAccountId,
        after: Option<AccountId>,
        limit: u32,
    ) -> StoreResult<'_, Page<Account, AccountId>> {
        self.read_list(move |connection, damage| {
            let (before, wanted) = (before(after.map(|id| id.0)), one_more(limit));
            let rows =
                external_accounts::bound_accounts(connection, damage, external_account, before, wanted)?;
            Ok(page(rows, limit, |account| account.id))
        })
    }

    fn sealing_key(&self, role: Role) -> StoreResult<'_, Option<SealingKeyRecord>> {
        self.read(move |connection| document(connection, role_value(role)))
    }
}

impl<C: Commits> CertificateReads for SharedStore<C> {
    fn certificate(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateRecord>> {
        if let Some(record) = self.recent.as_ref().and_then(|recent| recent.certificate(&id)) {
            return ready(Some(Arc::unwrap_or_clone(record)));
        }
        self.read(move |connection| {
            let sql = select_records("", "WHERE c.serial = ?1 AND c.issuer = ?2");
            let record =
                first(connection, &sql, params![id.serial.as_bytes(), id.issuer.as_str()], read_record)?;
            Ok(record.map(|(_, record)| record))
        })
    }

    fn certificate_facts(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateFacts>> {
        self.read(move |connection| certificate_row(connection, &id)?.map(CertificateRow::facts).transpose())
    }

    fn certificate_status(&self, id: CertificateId) -> StoreResult<'_, Option<CertificateStatus>> {
        self.read(move |connection| Ok(certificate_row(connection, &id)?.map(|row| row.status())))
    }

    fn certificates(
        &self,
        filter: CertificateFilter,
        after: Option<u64>,
        limit: u32,
    ) -> StoreResult<'_, Page<CertificateRecord, u64>> {
        self.read_list(move |connection, damage| {
            let mut conditions = Vec::new();
            let mut values = Vec::new();
            let mut add = |condition: &str, value: Value| {
                values.push(value);
                conditions.push(format!("{condition} ?{}", values.len()));
            };
            // By the index of names where there is one, so that a page ends early there too.
            let (mut join, mut number_column) = ("", "c.number");
            if let Some(name) = &filter.name {
                (join, number_column) = ("JOIN certificate_names n ON n.number = c.number", "n.number");
                add("n.name =", Value::Text(name_key(name)));
            }
            if let Some(account) = filter.account {
                add("c.account =", id_value(account.0));
            }
            if let Some(issuer) = &filter.issuer {
                // The plus keeps SQLite from collecting and sorting all of an issuer's certificates for one page.
                add("+c.issuer =", Value::Text(issuer.as_str().to_owned()));
            }
            if let Some(serial) = filter.serial {
                add("c.serial =", Value::Blob(serial.as_bytes().to_vec()));
            }
            if let Some(key) = filter.key {
                add("c.key =", Value::Blob(key.0.to_vec()));
            }
            if let Some(state) = &filter.state {
                add("c.state =", Value::Text(state.clone()));
            }
            if let Some(time) = filter.expires_before {
                add("c.not_after <", Value::Integer(time.as_millis()));
            }
            if let Some(number) = after {
                add(&format!("{number_column} <"), Value::Integer(signed(number)?));
            }
            let wanted = if conditions.is_empty() {
                String::new()
            } else {
                format!("WHERE {}", conditions.join(" AND "))
            };
            let wanted_rows = one_more(limit);
            values.push(Value::Integer(ahead(wanted_rows)));
            let sql = select_records(
                join,
                &format!("{wanted} ORDER BY {number_column} DESC LIMIT ?{}", values.len()),
            );
            let read = |row: &Row<'_>| {
                let (number, record) = read_record(row)?;
                if let Some(name) = &filter.name
                    && !record.names.contains(name)
                {
                    let what = "names a certificate that lacks the name";
                    return Err(corrupt("certificate_names", &record.id.to_string(), what));
                }
                Ok((number, record))
            };
            let rows = damage.around(connection, &sql, params_from_iter(values), wanted_rows, read)?;
            let page = page(rows, limit, |(number, _)| *number);
            Ok(Page { rows: page.rows.into_iter().map(|(_, record)| record).collect(), next: page.next })
        })
    }

    fn reserved_certificates(&self, limit: u32) -> StoreResult<'_, Vec<CertificateRecord>> {
        self.read_list(move |connection, damage| {
            let sql = select_records("", "WHERE c.state = 'reserved' ORDER BY c.number LIMIT ?1");
            let limit = count(limit);
            let read = |row: &Row<'_>| read_record(row).map(|(_, record)| record);
            damage.around(connection, &sql, [ahead(limit)], limit, read)
        })
    }

    fn reserved_for(&self, origin: Origin) -> StoreResult<'_, Option<CertificateRecord>> {
        self.read(move |connection| {
            let sql = select_records(
                "",
                "WHERE c.state = 'reserved' AND c.origin = ?1 ORDER BY c.number DESC LIMIT 1",
            );
            first(connection, &sql, [to_json(&origin)?], |row| read_record(row).map(|(_, record)| record))
        })
    }

    fn is_key_blocked(&self, key: KeyHash) -> StoreResult<'_, bool> {
        if self.recent.as_ref().is_some_and(|recent| !recent.may_be_blocked(key)) {
            return ready(false);
        }
        self.read(move |connection| {
            let sql = "SELECT key, at, detail, hash FROM blocked_keys WHERE key = ?1";
            let found = first(connection, sql, [key.0], |row| check_hash("blocked_keys", row, 0, 3))?;
            Ok(found.is_some())
        })
    }

    fn shard_revocations(
        &self,
        issuer: IssuerId,
        shard: u32,
        not_after_from: Timestamp,
    ) -> StoreResult<'_, ShardRevocations> {
        self.read(move |connection| {
            let stored = Shard::load_counted(connection, issuer.as_str(), shard)?;
            let sql = select_status(
                "WHERE c.issuer = ?1 AND c.shard = ?2 AND c.state IN ('revoked', 'abandoned') AND c.not_after >= ?3",
            );
            let parameters = params![issuer.as_str(), shard, not_after_from.as_millis()];
            let mut revoked = all(connection, &sql, parameters, |row| {
                let row = CertificateRow::read(row)?;
                let revocation = row.state.revocation().ok_or_else(|| {
                    corrupt("certificates", &row.id.to_string(), "is listed as revoked and is not")
                })?;
                Ok(RevokedCertificate { serial: row.id.serial, revocation, not_after: row.not_after })
            })?;
            revoked.sort_unstable_by_key(|entry| entry.serial);
            let previous = read_crl(connection, &issuer, shard)?;
            Ok(ShardRevocations { last_number: stored.last_number, previous, revoked })
        })
    }

    fn changes_since(
        &self,
        issuer: IssuerId,
        revision: u64,
        limit: u32,
    ) -> StoreResult<'_, Vec<(SerialNumber, CertificateStatus)>> {
        self.read(move |connection| {
            let sql = select_status("WHERE c.issuer = ?1 AND c.revision > ?2 ORDER BY c.revision LIMIT ?3");
            all(connection, &sql, params![issuer.as_str(), signed(revision)?, limit], |row| {
                let row = CertificateRow::read(row)?;
                Ok((row.id.serial, row.status()))
            })
        })
    }
}

/// The columns of a CRL that its hash covers; the hash and the DER follow.
const CRL_COLUMNS: &str = "issuer, shard, number, this_update, next_update, entries, der_hash, hash";

fn read_crl_summary(row: &Row<'_>) -> Outcome<CrlSummary> {
    let issuer: String = row.get(0)?;
    check_hash("crls", row, 0, 7)?;
    Ok(CrlSummary {
        shard: row.get(1)?,
        number: unsigned("crls", row.get(2)?)?,
        this_update: Timestamp::from_millis(row.get(3)?),
        next_update: Timestamp::from_millis(row.get(4)?),
        entries: unsigned("crls", row.get(5)?)?,
        issuer: issuer.parse().map_err(|_| corrupt("crls", &issuer, "its issuer is no issuer id"))?,
    })
}

/// `SELECT` of CRLs with their DER; a condition follows.
pub(super) fn select_crls(condition: &str) -> String {
    format!("SELECT {CRL_COLUMNS}, der FROM crls {condition}")
}

/// Reads a row of [`select_crls`], the DER checked against its hash.
pub(super) fn read_crl_record(row: &Row<'_>) -> Outcome<CrlRecord> {
    let CrlSummary { issuer, shard, number, this_update, next_update, entries } = read_crl_summary(row)?;
    let der: Vec<u8> = row.get(8)?;
    if sha256(&der) != row.get::<_, [u8; 32]>(6)? {
        return Err(corrupt("crls", &format!("{issuer}/{shard}"), "the CRL does not match its hash"));
    }
    Ok(CrlRecord { issuer, shard, number, this_update, next_update, entries, der })
}

fn read_crl(connection: &Connection, issuer: &IssuerId, shard: u32) -> Outcome<Option<CrlRecord>> {
    let sql = select_crls("WHERE issuer = ?1 AND shard = ?2");
    first(connection, &sql, params![issuer.as_str(), shard], read_crl_record)
}

/// Every issuer, in the order that [`AuthorityReads::issuers`] promises.
fn read_issuers(connection: &Connection) -> Outcome<Vec<IssuerRecord>> {
    let sql = format!("SELECT {} FROM issuers", IssuerRecord::COLUMNS);
    let mut issuers: Vec<IssuerRecord> = all(connection, &sql, [], read_document)?;
    issuers.sort_by(|a, b| {
        let rank =
            |issuer: &IssuerRecord| (issuer.kind != IssuerKind::Root, issuer.state != IssuerState::Active);
        rank(a)
            .cmp(&rank(b))
            .then(b.created_at.cmp(&a.created_at))
            .then_with(|| b.id.as_str().cmp(a.id.as_str()))
    });
    Ok(issuers)
}

impl<C: Commits> AuthorityReads for SharedStore<C> {
    fn issuers(&self) -> StoreResult<'_, Vec<IssuerRecord>> {
        let Some(recent) = &self.recent else { return self.read(read_issuers) };
        if let Some(issuers) = recent.issuers() {
            return ready(issuers.to_vec());
        }
        let seen = recent.seen();
        Box::pin(async move {
            let issuers = self.reads.run(read_issuers).await?;
            recent.keep_issuers(&issuers, seen);
            Ok(issuers)
        })
    }

    fn crl_summaries(&self) -> StoreResult<'_, Vec<CrlSummary>> {
        self.read_list(|connection, damage| {
            let sql = format!("SELECT {CRL_COLUMNS} FROM crls ORDER BY issuer, shard");
            damage.around(connection, &sql, [], usize::MAX, read_crl_summary)
        })
    }

    fn crl(&self, issuer: IssuerId, shard: u32) -> StoreResult<'_, Option<CrlRecord>> {
        self.read(move |connection| read_crl(connection, &issuer, shard))
    }

    fn credential(&self, id: CredentialId) -> StoreResult<'_, Option<Credential>> {
        self.read(move |connection| document(connection, id_value(id.0)))
    }

    fn replacement(&self, certificate: CertificateId) -> StoreResult<'_, Option<Replacement>> {
        self.read(move |connection| renewals::replacement(connection, &certificate))
    }

    fn renewal_pulls(&self) -> StoreResult<'_, Vec<RenewalPull>> {
        self.read_list(renewals::pulls)
    }

    fn orders_to_renew(&self, due_by: Timestamp, limit: u32) -> StoreResult<'_, Vec<Order>> {
        self.read_list(move |connection, damage| renewals::due(connection, damage, due_by, limit))
    }

    fn effects(&self, limit: u32) -> StoreResult<'_, Vec<Effect>> {
        self.read_list(move |connection, damage| {
            let sql = "SELECT id, body, hash FROM effects ORDER BY id LIMIT ?1";
            let limit = count(limit);
            damage.around(connection, sql, [ahead(limit)], limit, |row| {
                check_hash("effects", row, 0, 2)?;
                let id = row_id(row, "effects")?;
                let body: String = row.get(1)?;
                Ok(Effect {
                    id: EffectId(id),
                    kind: from_json("effects", &describe(row.get_ref(0)?), &body)?,
                })
            })
        })
    }

    fn newest_event_at(&self) -> StoreResult<'_, Option<Timestamp>> {
        self.read(audit::checked_newest)
    }

    fn audit(&self, from: u64, limit: u32) -> StoreResult<'_, Vec<(u64, Vec<u8>)>> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT {} FROM audit WHERE position >= ?1 ORDER BY position LIMIT ?2",
                audit::COLUMNS
            );
            let entries = all(connection, &sql, params![signed(from)?, limit], audit::read_entry)?;
            let counted = unsigned("counters", counter(connection, audit::COUNT)?)?;
            let expected = counted.saturating_sub(from).min(u64::from(limit));
            let dense = (from..).zip(&entries).all(|(index, (stored, _))| index == *stored);
            if !dense || u64::try_from(entries.len()) != Ok(expected) {
                return Err(corrupt("audit", &from.to_string(), "entries after it are gone"));
            }
            Ok(entries)
        })
    }

    fn sizes(&self) -> StoreResult<'_, StoreSizes> {
        let directory = self.reads.directory().to_owned();
        self.read(move |_| {
            // A file that is not there has no size.
            let size = |suffix: &str| {
                std::fs::metadata(directory.join(format!("{FILE}{suffix}"))).map_or(0, |file| file.len())
            };
            Ok(StoreSizes { wal_bytes: size("-wal"), store_bytes: size("") + size("-shm") })
        })
    }
}
