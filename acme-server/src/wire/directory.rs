//! The directory object, [RFC 8555 §7.1.1](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1).

use std::collections::BTreeMap;

use ca_core::acme::StarPolicy;
use serde::Serialize;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DirectoryBody {
    pub(crate) new_nonce: String,
    pub(crate) new_account: String,
    pub(crate) new_order: String,
    /// Where an authorization can serve more than the order it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) new_authz: Option<String>,
    pub(crate) revoke_cert: String,
    pub(crate) key_change: String,
    /// RFC 9773 §3.
    pub(crate) renewal_info: String,
    pub(crate) meta: Meta,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) terms_of_service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) website: Option<String>,
    /// Where CAA records are looked at: the names by which they can give this CA.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) caa_identities: Vec<String>,
    /// Where dns-persist-01 is offered: the names by which its records can give this CA
    /// (draft-ietf-acme-dns-persist-02 §3.2) ...
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) issuer_domain_names: Vec<String>,
    /// ... and what the hashed URIs of accounts in them begin with (§4.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account_hash_prefix: Option<String>,
    /// Whether new accounts must be bound to an external account, RFC 8555 §7.3.4.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) external_account_required: bool,
    /// Whether an authorization can serve every name below its domain, RFC 9444 §4.4.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) subdomain_auth_allowed: bool,
    /// Where certificates can be renewed automatically, RFC 8739 §3.2.
    #[serde(rename = "auto-renewal", skip_serializing_if = "Option::is_none")]
    pub(crate) auto_renewal: Option<AutoRenewalMeta>,
    /// Name and description of each profile that an order can ask for (draft-ietf-acme-profiles).
    pub(crate) profiles: BTreeMap<String, String>,
}

/// RFC 8739 §3.2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AutoRenewalMeta {
    min_lifetime: u64,
    max_duration: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allow_certificate_get: bool,
}

impl From<&StarPolicy> for AutoRenewalMeta {
    fn from(offered: &StarPolicy) -> Self {
        Self {
            min_lifetime: offered.min_lifetime.as_secs(),
            max_duration: offered.max_duration.as_secs(),
            allow_certificate_get: offered.certificate_get,
        }
    }
}
