//! The keys of accounts that signed lately, read from their stored JWKs once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ca_core::acme::Account;
use ca_core::acme::account::Thumbprint;

use super::{AccountKey, JwkError};

/// How many are kept; then all are forgotten, and read again as they come.
const KEPT: usize = 4096;

/// Keys by thumbprint, which is a hash of the whole key: a key that was read never goes out of date. Whether it may
/// still sign for its account is not known here.
#[derive(Debug, Default)]
pub(crate) struct AccountKeys(Mutex<HashMap<Thumbprint, Arc<AccountKey>>>);

impl AccountKeys {
    /// The key of an account.
    ///
    /// # Errors
    /// If the stored JWK can't be read, or is not the one that the thumbprint is of.
    pub(crate) fn of(&self, account: &Account) -> Result<Arc<AccountKey>, JwkError> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = lock().get(&account.thumbprint) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(AccountKey::from_json(&account.jwk)?);
        if key.thumbprint() != account.thumbprint {
            return Err(JwkError::Value("it does not have the account's thumbprint".to_owned()));
        }
        let mut kept = lock();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(account.thumbprint, Arc::clone(&key));
        Ok(key)
    }
}
