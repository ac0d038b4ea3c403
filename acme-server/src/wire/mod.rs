//! The JSON of RFC 8555: what clients send and what they get. Members that we don't know are ignored.

pub(crate) mod account;
pub(crate) mod authorization;
pub(crate) mod directory;
pub(crate) mod object;
pub(crate) mod order;
pub(crate) mod renewal_info;
pub(crate) mod revocation;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ca_core::acme::Identifier;
use serde::{Deserialize, Deserializer, Serialize};

/// An identifier, [RFC 8555 §9.7.7](https://www.rfc-editor.org/rfc/rfc8555#section-9.7.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentifierBody {
    /// `dns`, `ip`, `permanent-identifier` or `hardware-module`, if it is one that we know.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name, the address, or what the device is called.
    pub value: String,
}

/// An identifier as newOrder and newAuthz name it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AskedIdentifier {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) value: String,
    /// In newOrder: a domain above it that the client can prove instead, RFC 9444 §4.3.
    #[serde(default)]
    pub(crate) ancestor_domain: Option<String>,
    /// In newAuthz: whether the authorization is to serve every name below it, RFC 9444 §4.2.
    #[serde(default)]
    pub(crate) subdomain_auth_allowed: bool,
}

impl AskedIdentifier {
    /// The part of it that a message about it shows, shortened.
    pub(crate) fn shown(&self) -> IdentifierBody {
        let short = |text: &str| text.chars().take(260).collect();
        IdentifierBody { kind: short(&self.kind), value: short(&self.value) }
    }
}

impl From<&Identifier> for IdentifierBody {
    fn from(identifier: &Identifier) -> Self {
        Self { kind: identifier.kind().to_owned(), value: identifier.value() }
    }
}

/// Octets in base64url without padding, RFC 8555 §6.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("base64url without padding is expected"))
    }
}
