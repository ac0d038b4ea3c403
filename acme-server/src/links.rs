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
    pub(crate) const NEW_AUTHORIZATION: &str = "/acme/{directory}/new-authz";
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
    pub(crate) const STAR_CERTIFICATE: &str = "/acme/{directory}/star-certificate/{order}";
    pub(crate) const RENEWAL_INFO: &str = "/acme/{directory}/renewal-info";
    pub(crate) const RENEWAL_INFO_OF: &str = "/acme/{directory}/renewal-info/{certificate}";
    pub(crate) const ORDER_EXPLANATION: &str = "/acme/{directory}/order/{order}/explanation";
    pub(crate) const AUTHORIZATION_EXPLANATION: &str =
        "/acme/{directory}/authorization/{authorization}/explanation";
    pub(crate) const ROOTS: &str = "/roots.pem";

    /// What metrics call the resource behind a template.
    pub(crate) fn resource(template: Option<&str>) -> &'static str {
        match template {
            Some(DIRECTORY) => "directory",
            Some(NEW_NONCE) => "new-nonce",
            Some(NEW_ACCOUNT) => "new-account",
            Some(NEW_ORDER) => "new-order",
            Some(NEW_AUTHORIZATION) => "new-authz",
            Some(REVOKE_CERTIFICATE) => "revoke-cert",
            Some(KEY_CHANGE) => "key-change",
            Some(ACCOUNT) => "account",
            Some(ORDERS | ORDERS_AFTER) => "orders",
            Some(ORDER) => "order",
            Some(FINALIZE) => "finalize",
            Some(AUTHORIZATION) => "authorization",
            Some(CHALLENGE) => "challenge",
            Some(CERTIFICATE | CERTIFICATE_CHAIN) => "certificate",
            Some(STAR_CERTIFICATE) => "star-certificate",
            Some(RENEWAL_INFO | RENEWAL_INFO_OF) => "renewal-info",
            Some(ORDER_EXPLANATION | AUTHORIZATION_EXPLANATION) => "explanation",
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

    pub(crate) fn new_authorization(&self) -> String {
        format!("{}/new-authz", self.base)
    }

    pub(crate) fn revoke_certificate(&self) -> String {
        format!("{}/revoke-cert", self.base)
    }

    pub(crate) fn key_change(&self) -> String {
        format!("{}/key-change", self.base)
    }

    /// To which a client appends the identifier of a certificate, RFC 9773 §4.1.
    pub(crate) fn renewal_info(&self) -> String {
        format!("{}/renewal-info", self.base)
    }

    pub(crate) fn account(&self, account: AccountId) -> String {
        format!("{}/account/{account}", self.base)
    }

    /// The account that an account URL of this directory names; `None` if it is none.
    pub(crate) fn parse_account(&self, url: &str) -> Option<AccountId> {
        url.strip_prefix(&self.base)?.strip_prefix("/account/")?.parse().ok()
    }

    /// What the hashed URIs of accounts begin with, draft-ietf-acme-dns-persist-02 §4.1: a name, not a resource.
    pub(crate) fn account_hash_prefix(&self) -> String {
        format!("{}/account-hash/", self.base)
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

    /// A page for people on what became of an order, which not every order has.
    pub(crate) fn order_explanation(&self, order: OrderId) -> String {
        format!("{}/order/{order}/explanation", self.base)
    }

    /// A page for people on what became of an authorization.
    pub(crate) fn authorization_explanation(&self, authorization: AuthorizationId) -> String {
        format!("{}/authorization/{authorization}/explanation", self.base)
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

    /// The newest certificate of an order that is renewed automatically, RFC 8739 §3.3. Where everybody may fetch it, the
    /// order's id is no secret.
    pub(crate) fn star_certificate(&self, order: OrderId) -> String {
        format!("{}/star-certificate/{order}", self.base)
    }

    /// Another chain of a certificate; the first, at [`Links::certificate`], has number 0.
    pub(crate) fn certificate_chain(&self, certificate: &CertificateId, chain: usize) -> String {
        format!("{}/certificate/{certificate}/{chain}", self.base)
    }
}
