//! The names that certificates vouch for: dns, ip and devices, as ACME identifiers and as subjectAltName entries.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::pkix::device::{HardwareModule, PermanentIdentifier};

/// A DNS name in the form that goes into a certificate: lower-case ASCII, LDH labels, no trailing dot.
///
/// It may begin with the wildcard label `*` ([RFC 8555 §7.1.3], RFC 6125 §6.4.3); everything after it has at least
/// one label. A name that reads as an IP address is none.
///
/// [RFC 8555 §7.1.3]: https://www.rfc-editor.org/rfc/rfc8555#section-7.1.3
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// Why a text is no name that we can put into a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// Over 253 octets (64 in tls-alpn-01's and our own stricter places are checked there).
    #[error("the name is longer than 253 octets")]
    TooLong,
    /// A label is empty, over 63 octets, or has a hyphen at an end.
    #[error("the label '{0}' is not valid: 1 to 63 letters, digits or inner hyphens are expected")]
    Label(String),
    /// A character outside `a-z`, `0-9`, `-`, `.`.
    #[error("the character '{}' can't stand in a DNS name; write names in other scripts as A-labels (xn--…)", .0.escape_default())]
    Character(char),
    /// `*` elsewhere than as the whole first label.
    #[error("'*' may stand only as the whole first label")]
    Wildcard,
    /// The last label is all digits, so the name reads as an IPv4 address.
    #[error("the name reads as an IP address; use an identifier of type ip")]
    Address,
    /// No IP address in its text form.
    #[error("'{}' is no IPv4 or IPv6 address in its usual text form", .0.escape_default())]
    NoAddress(String),
    /// An identifier type that we don't know.
    #[error("identifiers of type '{}' are not supported; use dns, ip or, where they are offered, permanent-identifier and hardware-module", .0.escape_default())]
    UnknownType(String),
    /// No permanent-identifier or hardware-module.
    #[error("'{}' is no {kind}: write {form}", .value.escape_default())]
    Device {
        /// Which of them.
        kind: &'static str,
        /// The text.
        value: String,
        /// How it is written.
        form: &'static str,
    },
}

impl DnsName {
    /// Reads a name; upper-case letters are taken as lower-case (RFC 4343).
    ///
    /// # Errors
    /// See [`InvalidName`].
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > 253 {
            return Err(InvalidName::TooLong);
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '*')))
        {
            return Err(InvalidName::Character(bad));
        }
        let name = text.to_ascii_lowercase();
        let base = name.strip_prefix("*.").unwrap_or(&name);
        if base.contains('*') {
            return Err(InvalidName::Wildcard);
        }
        for label in base.split('.') {
            let fine = (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
            if !fine {
                return Err(InvalidName::Label(label.to_owned()));
            }
        }
        if base.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(InvalidName::Address);
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the first label is `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The name without a wildcard label.
    #[must_use]
    pub fn base(&self) -> Self {
        Self(self.0.strip_prefix("*.").unwrap_or(&self.0).to_owned())
    }

    /// Whether this name is `domain` or below it; label by label, so `badexample.org` is not below `example.org`.
    #[must_use]
    pub fn is_within(&self, domain: &Self) -> bool {
        let (name, domain) = (self.0.strip_prefix("*.").unwrap_or(&self.0), domain.as_str());
        name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    }
}

impl TryFrom<String> for DnsName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that an order asks for and a certificate's subjectAltName carries: `dns` (RFC 8555 §9.7.7), `ip` (RFC 8738),
/// `permanent-identifier` or `hardware-module` (draft-ietf-acme-device-attest-10). A stored type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "lowercase")]
pub enum Identifier {
    /// A DNS name, possibly a wildcard.
    Dns(DnsName),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A device, by the identity that its manufacturer gave it.
    #[serde(rename = "permanent-identifier")]
    PermanentIdentifier(PermanentIdentifier),
    /// A secure cryptoprocessor, by type and serial number.
    #[serde(rename = "hardware-module")]
    HardwareModule(HardwareModule),
}

impl Identifier {
    /// Reads an ACME identifier's `type` and `value`.
    ///
    /// IP addresses must be in the form of RFC 1123 §2.1 or RFC 5952 §4 (RFC 8738 §3), one spelling each.
    ///
    /// # Errors
    /// See [`InvalidName`].
    pub fn parse(kind: &str, value: &str) -> Result<Self, InvalidName> {
        match kind {
            "dns" => DnsName::parse(value).map(Self::Dns),
            "ip" => value
                .parse::<IpAddr>()
                .ok()
                .filter(|address| address.to_string() == value)
                .map(Self::Ip)
                .ok_or_else(|| InvalidName::NoAddress(value.chars().take(64).collect())),
            PermanentIdentifier::KIND => PermanentIdentifier::parse(value).map(Self::PermanentIdentifier),
            HardwareModule::KIND => HardwareModule::parse(value).map(Self::HardwareModule),
            other => Err(InvalidName::UnknownType(other.chars().take(64).collect())),
        }
    }

    /// From the text that the command line and configuration use, and that [`Display`](fmt::Display) writes:
    /// `permanent-identifier:…`, `hardware-module:…`, an IP address, or else a DNS name.
    ///
    /// # Errors
    /// See [`InvalidName`].
    pub fn from_text(text: &str) -> Result<Self, InvalidName> {
        if let Some((kind @ (PermanentIdentifier::KIND | HardwareModule::KIND), value)) = text.split_once(':')
        {
            return Self::parse(kind, value);
        }
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self::Ip(address)),
            Err(_) => DnsName::parse(text).map(Self::Dns),
        }
    }

    /// The ACME identifier's `type`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
            Self::PermanentIdentifier(_) => PermanentIdentifier::KIND,
            Self::HardwareModule(_) => HardwareModule::KIND,
        }
    }

    /// The ACME identifier's `value`.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::Dns(name) => name.to_string(),
            Self::Ip(address) => address.to_string(),
            Self::PermanentIdentifier(identifier) => identifier.to_string(),
            Self::HardwareModule(module) => module.to_string(),
        }
    }

    /// The name as a subject's commonName says it: of a device the identity or serial number alone.
    #[must_use]
    pub fn common_name(&self) -> String {
        match self {
            Self::Dns(_) | Self::Ip(_) => self.value(),
            Self::PermanentIdentifier(identifier) => identifier.value().to_owned(),
            Self::HardwareModule(module) => module.serial().to_owned(),
        }
    }

    /// Whether this names a device, by itself or by its cryptoprocessor.
    #[must_use]
    pub const fn is_device(&self) -> bool {
        matches!(self, Self::PermanentIdentifier(_) | Self::HardwareModule(_))
    }

    /// Whether this is a wildcard name.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self, Self::Dns(name) if name.is_wildcard())
    }

    /// The identifier that an authorization for this one is about: without the wildcard label.
    #[must_use]
    pub fn base(&self) -> Self {
        match self {
            Self::Dns(name) => Self::Dns(name.base()),
            Self::Ip(_) | Self::PermanentIdentifier(_) | Self::HardwareModule(_) => self.clone(),
        }
    }

    /// The name in a domain of its own for reverse look-ups, as tls-alpn-01 puts an address into SNI (RFC 8738 §6):
    /// `1.2.0.192.in-addr.arpa`, or 32 nibbles below `ip6.arpa`; any other name stays as it is.
    #[must_use]
    pub fn server_name(&self) -> String {
        match self {
            Self::Dns(name) => name.as_str().to_owned(),
            Self::Ip(IpAddr::V4(address)) => reverse_v4(*address),
            Self::Ip(IpAddr::V6(address)) => reverse_v6(*address),
            Self::PermanentIdentifier(_) | Self::HardwareModule(_) => self.value(),
        }
    }
}

fn reverse_v4(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

fn reverse_v6(address: Ipv6Addr) -> String {
    let nibbles: Vec<String> =
        address.octets().iter().rev().flat_map(|b| [b & 15, b >> 4]).map(|n| format!("{n:x}")).collect();
    format!("{}.ip6.arpa", nibbles.join("."))
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => name.fmt(f),
            Self::Ip(address) => address.fmt(f),
            // With its type, since a serial number may read as a DNS name.
            Self::PermanentIdentifier(_) | Self::HardwareModule(_) => {
                write!(f, "{}:{}", self.kind(), self.value())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_are_ldh_labels_in_lower_case() {
        assert_eq!(DnsName::parse("WWW.Example.ORG").unwrap().as_str(), "www.example.org");
        for bad in [
            "",
            "a..b",
            ".a",
            "a.",
            "-a.b",
            "a-.b",
            "a_b.c",
            "a b",
            "192.0.2.1",
            "foo.1",
            "*.",
            "a.*.b",
            "**.a",
        ] {
            assert!(DnsName::parse(bad).is_err(), "{bad}");
        }
        assert!(DnsName::parse(&"a".repeat(64)).is_err());
        assert!(DnsName::parse(&["a"; 127].join(".")).is_ok());
        assert!(DnsName::parse(&["ab"; 127].join(".")).is_err());
    }

    #[test]
    fn wildcards_stand_only_as_the_first_label() {
        let name = DnsName::parse("*.example.org").unwrap();
        assert!(name.is_wildcard());
        assert_eq!(name.base().as_str(), "example.org");
    }

    #[test]
    fn is_within_compares_labels() {
        let domain = DnsName::parse("example.org").unwrap();
        assert!(DnsName::parse("a.example.org").unwrap().is_within(&domain));
        assert!(DnsName::parse("*.example.org").unwrap().is_within(&domain));
        assert!(!DnsName::parse("badexample.org").unwrap().is_within(&domain));
    }

    #[test]
    fn devices_are_told_by_their_type_in_every_text_form() {
        for (kind, value) in [("permanent-identifier", "web1/1.2.3"), ("hardware-module", "::1/1.2.3")] {
            let identifier = Identifier::parse(kind, value).unwrap();
            assert_eq!((identifier.kind(), identifier.value().as_str()), (kind, value));
            assert_eq!(identifier.to_string(), format!("{kind}:{value}"));
            assert_eq!(Identifier::from_text(&identifier.to_string()), Ok(identifier.clone()));
            assert_eq!(identifier.base(), identifier);
            assert!(identifier.is_device());
        }
        let name = Identifier::parse("permanent-identifier", "www.example.org").unwrap();
        assert_ne!(name, Identifier::from_text("www.example.org").unwrap());
    }

    #[test]
    fn rfc8738_addresses_have_one_spelling_and_a_reverse_name() {
        assert!(Identifier::parse("ip", "192.0.2.1").is_ok());
        assert!(Identifier::parse("ip", "2001:db8::1").is_ok());
        for bad in ["2001:DB8::1", "2001:db8:0::1", "192.0.2.01", "[::1]", ""] {
            assert!(Identifier::parse("ip", bad).is_err(), "{bad}");
        }
        let v6 = Identifier::parse("ip", "2001:db8::1").unwrap();
        assert_eq!(
            v6.server_name(),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
