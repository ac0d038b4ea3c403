//! The URL space: the routes below `/acme/{directory}` and the URLs built from the configured public URL, never from
//! a request's Host.

use ca_core::acme::{ChallengeType, DirectoryName};
use ca_core::id::{AccountId, AuthorizationId, OrderId};
use ca_core::store::CertificateId;

/// Route templates with the names that metrics give them.
pub(crate) mod route {
    pub(crate) const DIRECTORY: &str = "/acme/{directory}/directory";
    pub(crate) const NEW_NONCE: &str = "/acme/{directory}/new-nonce";
    pub(crate) const NEW_ACCOUNT: &str = "/acme/{directory}/new-account";
    pub(crate) const NEW_ORDER: &str = "/acme/{directory}/new-order";
    pub(crate) const REVOKE_CERTIFICATE: &str = "/acme/{directory}/revoke-cert";
    pub(crate) const KEY_CHANGE: &str = "/acme/{directory}/key-change";
    pub(crate) const ACCOUNT: &str = "/acme/{directory}/account/{account}";
    pub(crate) const ORDERS: &str = "/acme/{directory}/account/{account}/orders";
    pub(crate) const ORDERS_AFTER: &str = "/acme/{directory}/account/{account}/orders/{after}";
    pub(crate) const ORDER: &str = "/acme/{directory}/order/{order}";
    pub(crate) const FINALIZE: &str = "/acme/{directory}/order/{order}/finalize";
    pub(crate) const AUTHORIZATION: &str = "/acme/{directory}/authorization/{authorization}";
    pub(crate) const CHALLENGE: &str = "/acme/{directory}/authorization/{authorization}/{challenge}";
    pub(crate) const CERTIFICATE: &str = "/acme/{directory}/certificate/{certificate}";
    pub(crate) const CERTIFICATE_CHAIN: &str = "/acme/{directory}/certificate/{certificate}/{chain}";
    pub(crate) const ROOTS: &str = "/roots.pem";

    /// What metrics call the resource behind a template.
    pub(crate) fn resource(template: Option<&str>) -> &'static str {
        match template {
            Some(DIRECTORY) => "directory",
            Some(NEW_NONCE) => "new-nonce",
            Some(NEW_ACCOUNT) => "new-account",
            Some(NEW_ORDER) => "new-order",
            Some(REVOKE_CERTIFICATE) => "revoke-cert",
            Some(KEY_CHANGE) => "key-change",
            Some(ACCOUNT) => "account",
            Some(ORDERS | ORDERS_AFTER) => "orders",
            Some(ORDER) => "order",
            Some(FINALIZE) => "finalize",
            Some(AUTHORIZATION) => "authorization",
            Some(CHALLENGE) => "challenge",
            Some(CERTIFICATE | CERTIFICATE_CHAIN) => "certificate",
            Some(ROOTS) => "roots",
            _ => "unknown",
        }
    }
}

/// Builds the URLs of one directory.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// `PUBLIC-URL/acme/NAME`.
    base: String,
}

impl Links {
    pub(crate) fn new(public_url: &str, directory: &DirectoryName) -> Self {
        Self { base: format!("{public_url}/acme/{directory}") }
    }

    pub(crate) fn directory(&self) -> String {
        format!("{}/directory", self.base)
    }

    pub(crate) fn new_nonce(&self) -> String {
        format!("{}/new-nonce", self.base)
    }

    pub(crate) fn new_account(&self) -> String {
        format!("{}/new-account", self.base)
    }

    pub(crate) fn new_order(&self) -> String {
        format!("{}/new-order", self.base)
    }

    pub(crate) fn revoke_certificate(&self) -> String {
        format!("{}/revoke-cert", self.base)
    }

    pub(crate) fn key_change(&self) -> String {
        format!("{}/key-change", self.base)
    }

    pub(crate) fn account(&self, account: AccountId) -> String {
        format!("{}/account/{account}", self.base)
    }

    /// The account that an account URL of this directory names; `None` if it is none.
    pub(crate) fn parse_account(&self, url: &str) -> Option<AccountId> {
        url.strip_prefix(&self.base)?.strip_prefix("/account/")?.parse().ok()
    }

    pub(crate) fn orders(&self, account: AccountId) -> String {
        format!("{}/account/{account}/orders", self.base)
    }

    pub(crate) fn orders_after(&self, account: AccountId, after: OrderId) -> String {
        format!("{}/account/{account}/orders/{after}", self.base)
    }

    pub(crate) fn order(&self, order: OrderId) -> String {
        format!("{}/order/{order}", self.base)
    }

    pub(crate) fn finalize(&self, order: OrderId) -> String {
        format!("{}/order/{order}/finalize", self.base)
    }

    pub(crate) fn authorization(&self, authorization: AuthorizationId) -> String {
        format!("{}/authorization/{authorization}", self.base)
    }

    pub(crate) fn challenge(&self, authorization: AuthorizationId, challenge: ChallengeType) -> String {
        format!("{}/authorization/{authorization}/{challenge}", self.base)
    }

    pub(crate) fn certificate(&self, certificate: &CertificateId) -> String {
        format!("{}/certificate/{certificate}", self.base)
    }

    /// Another chain of a certificate; the first, at [`Links::certificate`], has number 0.
    pub(crate) fn certificate_chain(&self, certificate: &CertificateId, chain: usize) -> String {
        format!("{}/certificate/{certificate}/{chain}", self.base)
    }
}
