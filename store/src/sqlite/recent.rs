//! The rows that orders are made of and that were written last, as they stand, in the one process that writes: what an order's next request
//! asks for needs no reader thread, no SQL, no hash and no JSON.
//!
//! The writer thread takes a transaction's rows out before it commits, and puts them in as they are then before it
//! answers; in between they are read from the file. So a row from here is never older than one from the file. Rows that
//! were only read are kept if they rarely change (accounts, issuers), and only if none was written meanwhile. What is on
//! disk is checked against its hash whenever it is read from there; here nothing has been there and back.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ca_core::acme::account::Thumbprint;
use ca_core::acme::{Account, Authorization, Order};
use ca_core::id::{AccountId, AuthorizationId, OrderId};
use ca_core::pkix::public_key::KeyHash;
use ca_core::store::{CertificateId, CertificateRecord, Change, IssuerRecord, Prune};
use rusqlite::Connection;

use super::row::{Outcome, check_hash};

/// How many keys are remembered as being in a table; with more in it, whether one is has to be looked up.
const KEYS: usize = 1 << 16;

/// A row that a transaction wrote, as it is then; `None` where it is gone or not known.
#[derive(Debug)]
pub(super) enum Written {
    Account(AccountId, Option<Arc<Account>>),
    Order(OrderId, Option<Arc<Order>>),
    Authorization(AuthorizationId, Option<Arc<Authorization>>),
    Certificate(CertificateId, Option<Arc<CertificateRecord>>),
    /// Which one does not matter: they are read all together.
    Issuer,
    BlockedKey(KeyHash),
}

impl Written {
    /// What a change writes. What a certificate is afterwards says only the change itself.
    pub(super) fn of(change: &Change) -> Vec<Self> {
        match change {
            Change::PutAccount(account) => {
                let stored = Account { version: account.version.next(), ..account.clone() };
                vec![Self::Account(stored.id, Some(Arc::new(stored)))]
            }
            Change::PutOrder(order) => {
                let stored = Order { version: order.version.next(), ..order.clone() };
                vec![Self::Order(stored.id, Some(Arc::new(stored)))]
            }
            Change::PutAuthorization(authorization) => {
                let version = authorization.version.next();
                let stored = Authorization { version, ..authorization.clone() };
                vec![Self::Authorization(stored.id, Some(Arc::new(stored)))]
            }
            Change::IssueCertificate { id, .. }
            | Change::AbandonCertificate { id, .. }
            | Change::RevokeCertificate { id, .. } => vec![Self::Certificate(id.clone(), None)],
            Change::ReserveCertificate(record) => vec![Self::Certificate(record.id.clone(), None)],
            Change::PutIssuer(_) => vec![Self::Issuer],
            Change::BlockKey { key, .. } => vec![Self::BlockedKey(*key)],
            Change::Prune(Prune::Orders(rows)) => rows.iter().map(|(id, _)| Self::Order(*id, None)).collect(),
            Change::Prune(Prune::Authorizations(rows)) => {
                rows.iter().map(|(id, _)| Self::Authorization(*id, None)).collect()
            }
            Change::Prune(Prune::Accounts(rows)) => {
                rows.iter().map(|(id, _)| Self::Account(*id, None)).collect()
            }
            Change::Prune(Prune::Failing(_) | Prune::Buckets { .. })
            | Change::PutExternalAccount(_)
            | Change::BindExternalAccount { .. }
            | Change::PutSealingKey(_)
            | Change::ForgetSealingKey(_)
            | Change::ReserveCrl { .. }
            | Change::PublishCrl(_)
            | Change::PutCredential(_)
            | Change::PutReplacement(_)
            | Change::PutRenewalPull(_)
            | Change::RemoveRenewalPull(_)
            | Change::Claim(_)
            | Change::RequireBound(_)
            | Change::RequireUnpaused(_)
            | Change::PutFailing(_)
            | Change::ForgetFailing(_)
            | Change::EffectDone(_) => Vec::new(),
        }
    }
}

/// The rows, shared by the writer thread and the reads.
#[derive(Debug)]
pub(super) struct Recent(Mutex<Rows>);

#[derive(Debug)]
struct Rows {
    accounts: Generations<AccountId, Account>,
    orders: Generations<OrderId, Order>,
    authorizations: Generations<AuthorizationId, Authorization>,
    certificates: Generations<CertificateId, CertificateRecord>,
    issuers: Option<Arc<Vec<IssuerRecord>>>,
    account_keys: Keys,
    blocked_keys: Keys,
    /// Counts the transactions that wrote accounts or issuers, before each is committed and after: odd in between.
    written: u64,
}

/// How much had been written when a read began; `None` while it is not known what stands in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen(Option<u64>);

impl Recent {
    /// Keeps about so many rows of each kind; none for 0.
    pub(super) fn new(rows: usize, connection: &Connection) -> Self {
        let keys = |sql: &str, table, columns| match rows {
            0 => Keys(None),
            _ => Keys::read(connection, sql, table, columns),
        };
        Self(Mutex::new(Rows {
            accounts: Generations::new(rows),
            orders: Generations::new(rows),
            authorizations: Generations::new(rows),
            certificates: Generations::new(rows),
            issuers: None,
            account_keys: keys(
                "SELECT id, directory, thumbprint, state, version, body, hash FROM accounts",
                "accounts",
                (2, 6),
            ),
            blocked_keys: keys("SELECT key, at, detail, hash FROM blocked_keys", "blocked_keys", (0, 3)),
            written: 0,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the rows that a transaction is about to change: from here on only the file knows them.
    pub(super) fn committing(&self, written: &[Written]) {
        let mut rows = self.lock();
        rows.count(written);
        for row in written {
            match row {
                Written::Account(id, account) => {
                    rows.accounts.remove(id);
                    if let Some(account) = account {
                        rows.account_keys.add(account.thumbprint.0);
                    }
                }
                Written::Order(id, _) => rows.orders.remove(id),
                Written::Authorization(id, _) => rows.authorizations.remove(id),
                Written::Certificate(id, _) => rows.certificates.remove(id),
                Written::Issuer => rows.issuers = None,
                Written::BlockedKey(key) => rows.blocked_keys.add(key.0),
            }
        }
    }

    /// Takes over what a transaction wrote, which is on disk now.
    pub(super) fn committed(&self, written: Vec<Written>) {
        let mut rows = self.lock();
        rows.count(&written);
        for row in written {
            match row {
                Written::Account(id, account) => rows.accounts.set(id, account),
                Written::Order(id, order) => rows.orders.set(id, order),
                Written::Authorization(id, authorization) => rows.authorizations.set(id, authorization),
                Written::Certificate(id, record) => rows.certificates.set(id, record),
                Written::Issuer | Written::BlockedKey(_) => {}
            }
        }
    }

    /// Ends what [`Recent::committing`] began, without its rows: whether they are on disk is not known.
    pub(super) fn failed(&self, written: &[Written]) {
        self.lock().count(written);
    }

    pub(super) fn account(&self, id: AccountId) -> Option<Arc<Account>> {
        self.lock().accounts.get(&id)
    }

    pub(super) fn authorization(&self, id: AuthorizationId) -> Option<Arc<Authorization>> {
        self.lock().authorizations.get(&id)
    }

    pub(super) fn order(&self, id: OrderId) -> Option<Arc<Order>> {
        self.lock().orders.get(&id)
    }

    /// An order with all its authorizations, as of one moment.
    pub(super) fn order_with_authorizations(&self, id: OrderId) -> Option<(Order, Vec<Authorization>)> {
        let mut rows = self.lock();
        let order = rows.orders.get(&id)?;
        let authorizations: Option<Vec<Arc<Authorization>>> =
            order.authorizations.iter().map(|id| rows.authorizations.get(id)).collect();
        drop(rows);
        let authorizations = authorizations?.into_iter().map(Arc::unwrap_or_clone).collect();
        Some((Arc::unwrap_or_clone(order), authorizations))
    }

    pub(super) fn certificate(&self, id: &CertificateId) -> Option<Arc<CertificateRecord>> {
        self.lock().certificates.get(id)
    }

    /// Whether an account may have this key; if not, none has it.
    pub(super) fn may_be_account_key(&self, key: Thumbprint) -> bool {
        self.lock().account_keys.may_have(key.0)
    }

    /// Whether this key may be blocked; if not, it is not.
    pub(super) fn may_be_blocked(&self, key: KeyHash) -> bool {
        self.lock().blocked_keys.may_have(key.0)
    }

    pub(super) fn issuers(&self) -> Option<Arc<Vec<IssuerRecord>>> {
        self.lock().issuers.clone()
    }

    /// To be asked before a read whose result is to be kept.
    pub(super) fn seen(&self) -> Seen {
        let written = self.lock().written;
        Seen(written.is_multiple_of(2).then_some(written))
    }

    /// Keeps an account that was read, unless another was written since.
    pub(super) fn keep_account(&self, account: &Account, seen: Seen) {
        let mut rows = self.lock();
        if Some(rows.written) == seen.0 {
            rows.accounts.put(account.id, Arc::new(account.clone()));
        }
    }

    /// Keeps all issuers, unless one was written since they were read.
    pub(super) fn keep_issuers(&self, issuers: &[IssuerRecord], seen: Seen) {
        let mut rows = self.lock();
        if Some(rows.written) == seen.0 && rows.accounts.each > 0 {
            rows.issuers = Some(Arc::new(issuers.to_vec()));
        }
    }
}

impl Rows {
    fn count(&mut self, written: &[Written]) {
        if written.iter().any(|row| matches!(row, Written::Account(..) | Written::Issuer)) {
            self.written += 1;
        }
    }
}

/// Every key that a table may have, so that none has to be looked up that it has not; `None` if they are too many.
#[derive(Debug)]
struct Keys(Option<HashSet<[u8; 32]>>);

impl Keys {
    /// Reads them; `columns` says where the key stands, and where the row's hash. What is damaged is left for those to
    /// find who look it up.
    fn read(connection: &Connection, sql: &str, table: &str, (key, hash): (usize, usize)) -> Self {
        let read = || -> Outcome<Option<HashSet<[u8; 32]>>> {
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            let mut keys = HashSet::new();
            while let Some(row) = rows.next()? {
                check_hash(table, row, key, hash)?;
                keys.insert(row.get(key)?);
                if keys.len() > KEYS {
                    return Ok(None);
                }
            }
            Ok(Some(keys))
        };
        Self(read().unwrap_or_default())
    }

    fn add(&mut self, key: [u8; 32]) {
        if let Some(keys) = &mut self.0 {
            keys.insert(key);
        }
        self.0.take_if(|keys| keys.len() > KEYS);
    }

    fn may_have(&self, key: [u8; 32]) -> bool {
        self.0.as_ref().is_none_or(|keys| keys.contains(&key))
    }
}

/// A map that forgets what was not used for long: what the young half can't hold replaces the old half.
#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, Arc<V>>,
    old: HashMap<K, Arc<V>>,
    /// How many each half holds.
    each: usize,
}

impl<K: Clone + Eq + Hash, V> Generations<K, V> {
    fn new(rows: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), each: rows / 2 }
    }

    fn put(&mut self, key: K, value: Arc<V>) {
        if self.each == 0 {
            return;
        }
        if self.young.len() >= self.each && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        // What the old half has of it is out of date, and is never looked at while the young half has it.
        self.young.insert(key, value);
    }

    fn get(&mut self, key: &K) -> Option<Arc<V>> {
        if let Some(value) = self.young.get(key) {
            return Some(Arc::clone(value));
        }
        let value = self.old.remove(key)?;
        self.put(key.clone(), Arc::clone(&value));
        Some(value)
    }

    /// Puts what is there, and removes what is not.
    fn set(&mut self, key: K, value: Option<Arc<V>>) {
        match value {
            Some(value) => self.put(key, value),
            None => self.remove(&key),
        }
    }

    fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::Generations;
    use std::sync::Arc;

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut rows = Generations::new(4);
        for key in 0..100 {
            rows.put(key, Arc::new(key));
            assert_eq!(rows.get(&0).as_deref(), Some(&0));
            assert!(rows.young.len() + rows.old.len() <= 4);
        }
        assert_eq!(rows.get(&50), None);
        assert_eq!(rows.get(&99).as_deref(), Some(&99));
    }

    #[test]
    fn the_newest_value_is_found_whichever_half_has_the_older_one() {
        let mut rows = Generations::new(4);
        rows.put(1, Arc::new("first"));
        rows.put(2, Arc::new("other"));
        rows.put(3, Arc::new("other"));
        rows.put(1, Arc::new("second"));
        assert_eq!(rows.get(&1).as_deref(), Some(&"second"));
        rows.put(4, Arc::new("other"));
        assert_eq!(rows.get(&1).as_deref(), Some(&"second"));
        let mut none = Generations::new(0);
        none.put(1, Arc::new("first"));
        assert_eq!(none.get(&1), None);
    }
}
