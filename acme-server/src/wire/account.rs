//! Account objects and requests, [RFC 8555 §7.1.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.2) and §7.3.

use ca_core::acme::Account;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::links::Links;

/// newAccount, §7.3.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewAccount {
    #[serde(default)]
    pub(crate) contact: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) terms_of_service_agreed: Option<bool>,
    #[serde(default)]
    pub(crate) only_return_existing: Option<bool>,
    #[serde(default)]
    pub(crate) external_account_binding: Option<Map<String, Value>>,
}

/// An account update, §7.3.2, or its deactivation, §7.3.6.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountUpdate {
    #[serde(default)]
    pub(crate) contact: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) status: Option<String>,
}

/// The inner payload of keyChange, §7.3.5.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyChange {
    pub(crate) account: String,
    pub(crate) old_key: Map<String, Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountBody {
    status: &'static str,
    contact: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terms_of_service_agreed: Option<bool>,
    orders: String,
    /// As the client sent it, §7.3.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_account_binding: Option<Value>,
}

impl AccountBody {
    pub(crate) fn new(account: &Account, links: &Links) -> Self {
        Self {
            status: account.state.name(),
            contact: account.contacts.clone(),
            terms_of_service_agreed: account.terms_agreed_at.map(|_| true),
            orders: links.orders(account.id),
            external_account_binding: account
                .external_account
                .as_ref()
                .and_then(|binding| serde_json::from_str(&binding.jws).ok()),
        }
    }
}

/// The orders list, §7.1.2.1.
#[derive(Debug, Serialize)]
pub(crate) struct OrdersBody {
    pub(crate) orders: Vec<String>,
}
