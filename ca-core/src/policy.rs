//! What a directory admits: names, challenges, profiles, subscriber keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::order::OrderLimits;
use crate::acme::{ChallengeType, DirectoryName, StarPolicy};
use crate::id::IssuerId;
use crate::pkix::csr::CsrError;
use crate::pkix::device::{HardwareModule, PermanentIdentifier};
use crate::pkix::identifier::{DnsName, Identifier};
use crate::pkix::public_key::{PublicKey, PublicKeyAlgorithm};
use crate::profile::ProfileName;

/// The rules of one ACME directory. The `ca` role judges by its own copy, which no front end can write.
#[derive(Clone, Debug)]
pub struct DirectoryPolicy {
    /// The directory.
    pub directory: DirectoryName,
    /// The names that can be ordered.
    pub names: AllowedNames,
    /// Whether wildcard names can be ordered.
    pub wildcards: bool,
    /// The challenges offered, in this order.
    pub challenges: Vec<ChallengeType>,
    /// The profiles offered; the first is used when none is asked for. Never empty.
    pub profiles: Vec<ProfileName>,
    /// The subscriber keys accepted.
    pub subscriber_keys: SubscriberKeys,
    /// Whether an order may choose notBefore and notAfter, within its profile.
    pub client_validity: bool,
    /// The issuing CA that signs; `None`: the newest active one.
    pub issuer: Option<IssuerId>,
    /// How long after its validation an authorization serves further orders; `None`: each order proves its names.
    pub reuse: Option<Duration>,
    /// Whether an authorization for a domain can be had that serves every name below it, RFC 9444.
    pub subdomains: bool,
    /// Whether certificates are renewed automatically for orders that ask for it, RFC 8739; `None`: they are not.
    pub star: Option<StarPolicy>,
    /// How long things last and how many names an order takes.
    pub limits: OrderLimits,
}

/// The names that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedNames {
    /// Every valid dns or ip name: for a first look only.
    Any,
    /// These; an empty list admits nothing.
    List(Vec<NameRule>),
}

/// One entry of `acme.allowed_names`. A stored type, as its text: changing that needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NameRule {
    /// `host.example.org`: this name only.
    Exact(DnsName),
    /// `.example.org`: the domain and every name below it.
    Within(DnsName),
    /// `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`: these addresses.
    Network(Network),
    /// `permanent-identifier:ABC*`, `hardware-module:ABC/1.2.3.4`: these devices.
    Device(DeviceRule),
}

/// Devices by type and value: exactly one, or all whose serial number begins alike. In text `TYPE:VALUE`,
/// `TYPE:PREFIX*` or `TYPE:PREFIX*/OID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRule {
    /// This device.
    Exact(Identifier),
    /// Every device of a type whose serial number begins so.
    Prefix {
        /// [`Identifier::kind`].
        kind: &'static str,
        /// What the serial number begins with; empty: anything.
        serial: String,
        /// The assigner or hardware type; `None`: any.
        oid: Option<String>,
    },
}

/// An address range in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: std::net::IpAddr,
    prefix: u8,
}

/// Why a name can't be ordered; the operator's policy says so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameRefused {
    /// No rule admits it.
    #[error("no rule of this directory's acme.allowed_names admits '{0}'")]
    NotAllowed(Identifier),
    /// Wildcards are switched off.
    #[error("wildcard names are not offered in this directory: '{0}'")]
    Wildcard(Identifier),
    /// No challenge that is offered can prove it.
    #[error("no challenge offered in this directory can prove control of '{0}'")]
    NoChallenge(Identifier),
    /// The external account that the account is bound to does not grant it.
    #[error("the external account that this ACME account is bound to does not grant '{0}'")]
    NotGranted(Identifier),
    /// The external account that the account is bound to grants no wildcards.
    #[error("the external account that this ACME account is bound to grants no wildcard names: '{0}'")]
    WildcardNotGranted(Identifier),
}

/// A text is no rule for names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no name rule; write 'host.example.org' for one name, '.example.org' for a domain and all below it, '10.0.0.0/8' for addresses, or 'permanent-identifier:PREFIX*' for devices"
)]
pub struct InvalidNameRule(pub String);

impl std::str::FromStr for NameRule {
    type Err = InvalidNameRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNameRule(text.to_owned());
        if let Some((kind, value)) = text.split_once(':')
            && let Some(kind) = DeviceRule::KINDS.into_iter().find(|known| *known == kind)
        {
            return DeviceRule::parse(kind, value).map(Self::Device).ok_or_else(invalid);
        }
        if let Some(domain) = text.strip_prefix('.') {
            let domain = DnsName::parse(domain).map_err(|_| invalid())?;
            return if domain.is_wildcard() { Err(invalid()) } else { Ok(Self::Within(domain)) };
        }
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        DnsName::parse(text).map(Self::Exact).map_err(|_| invalid())
    }
}

impl std::fmt::Display for NameRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Within(domain) => write!(f, ".{domain}"),
            Self::Network(network) => write!(f, "{network}"),
            Self::Device(rule) => write!(f, "{rule}"),
        }
    }
}

impl DeviceRule {
    const KINDS: [&'static str; 2] = [PermanentIdentifier::KIND, HardwareModule::KIND];

    fn parse(kind: &'static str, value: &str) -> Option<Self> {
        let (serial, oid) = match value.split_once('/') {
            Some((serial, oid)) => (serial, Some(oid)),
            None => (value, None),
        };
        let Some(prefix) = serial.strip_suffix('*') else {
            return Identifier::parse(kind, value).ok().map(Self::Exact);
        };
        // With something in place of the star it must be a device that there can be.
        let sample = format!("{prefix}0/{}", oid.unwrap_or("1.2.3"));
        Identifier::parse(kind, &sample).ok()?;
        Some(Self::Prefix { kind, serial: prefix.to_owned(), oid: oid.map(str::to_owned) })
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(device), rule) | (rule, Self::Exact(device)) => rule.admits(device),
            (
                Self::Prefix { kind, serial, oid },
                Self::Prefix { kind: other_kind, serial: other_serial, oid: other_oid },
            ) => {
                kind == other_kind
                    && (serial.starts_with(other_serial.as_str())
                        || other_serial.starts_with(serial.as_str()))
                    && (oid.is_none() || other_oid.is_none() || oid == other_oid)
            }
        }
    }

    fn admits(&self, identifier: &Identifier) -> bool {
        match self {
            Self::Exact(device) => device == identifier,
            Self::Prefix { kind, serial, oid } => {
                let value = identifier.value();
                let found = value.split_once('/').map(|(_, oid)| oid);
                identifier.kind() == *kind
                    && identifier.common_name().starts_with(serial)
                    && oid.as_deref().is_none_or(|oid| found == Some(oid))
            }
        }
    }
}

impl std::fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(device) => write!(f, "{device}"),
            Self::Prefix { kind, serial, oid } => {
                write!(f, "{kind}:{serial}*")?;
                oid.as_ref().map_or(Ok(()), |oid| write!(f, "/{oid}"))
            }
        }
    }
}

impl TryFrom<String> for NameRule {
    type Error = InvalidNameRule;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NameRule> for String {
    fn from(rule: NameRule) -> Self {
        rule.to_string()
    }
}

impl std::str::FromStr for Network {
    type Err = InvalidNameRule;

    /// An address, or `ADDRESS/PREFIX`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNameRule(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: std::net::IpAddr = address.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse::<u8>().ok().filter(|p| *p <= bits).ok_or_else(invalid)?,
            None => bits,
        };
        Ok(Self { address, prefix })
    }
}

impl Network {
    /// Whether `address` lies in this range. An address of the other family never does.
    #[must_use]
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr;
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                (u64::from(u32::from(network)) >> shift) == (u64::from(u32::from(address)) >> shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (u128::from(network) & mask) == (u128::from(address) & mask)
            }
            _ => false,
        }
    }

    /// Whether some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl DirectoryPolicy {
    /// Whether a certificate may carry this name, whoever asks and whatever proves it.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn admits(&self, identifier: &Identifier) -> Result<(), NameRefused> {
        let admitted = match &self.names {
            AllowedNames::Any => true,
            AllowedNames::List(rules) => rules.iter().any(|rule| rule.admits(identifier)),
        };
        if !admitted {
            return Err(NameRefused::NotAllowed(identifier.clone()));
        }
        if identifier.is_wildcard() && !self.wildcards {
            return Err(NameRefused::Wildcard(identifier.clone()));
        }
        Ok(())
    }
}

impl NameRule {
    /// Whether it admits this name.
    #[must_use]
    pub fn admits(&self, identifier: &Identifier) -> bool {
        match (self, identifier) {
            (Self::Exact(rule), Identifier::Dns(name)) => rule == name,
            (Self::Within(domain), Identifier::Dns(name)) => name.is_within(domain),
            (Self::Network(network), Identifier::Ip(address)) => network.contains(*address),
            (Self::Device(rule), identifier) => rule.admits(identifier),
            _ => false,
        }
    }
}

impl NameRule {
    /// Whether some name can be admitted by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Exact(name), Self::Within(domain)) | (Self::Within(domain), Self::Exact(name)) => {
                name.is_within(domain)
            }
            (Self::Within(one), Self::Within(other)) => one.is_within(other) || other.is_within(one),
            (Self::Network(one), Self::Network(other)) => one.overlaps(other),
            (Self::Device(one), Self::Device(other)) => one.overlaps(other),
            _ => false,
        }
    }
}

/// The subscriber keys that are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberKeys {
    /// EC keys on P-256 and P-384.
    pub ec: bool,
    /// Ed25519 keys.
    pub ed25519: bool,
    /// RSA keys from `min` to `max` bits, a multiple of 8; `None`: no RSA keys.
    pub rsa_bits: Option<(u32, u32)>,
}

impl Default for SubscriberKeys {
    /// P-256, P-384, Ed25519, RSA 2048 to 4096.
    fn default() -> Self {
        Self { ec: true, ed25519: true, rsa_bits: Some((2048, 4096)) }
    }
}

impl SubscriberKeys {
    /// Whether a certificate may carry this key.
    ///
    /// # Errors
    /// [`CsrError::Key`] with what is accepted instead.
    pub fn require(&self, key: &PublicKey) -> Result<(), CsrError> {
        let algorithm = key.algorithm();
        let fine = match algorithm {
            PublicKeyAlgorithm::EcP256 | PublicKeyAlgorithm::EcP384 => self.ec,
            PublicKeyAlgorithm::EcP521 => false,
            PublicKeyAlgorithm::Ed25519 => self.ed25519,
            PublicKeyAlgorithm::Rsa(bits) => {
                self.rsa_bits.is_some_and(|(min, max)| (min..=max).contains(&bits) && bits.is_multiple_of(8))
            }
        };
        if fine {
            Ok(())
        } else {
            Err(CsrError::Key { found: algorithm.to_string(), accepted: self.to_string() })
        }
    }
}

impl std::fmt::Display for SubscriberKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut accepted = Vec::new();
        if self.ec {
            accepted.push("EC P-256, EC P-384".to_owned());
        }
        if self.ed25519 {
            accepted.push("Ed25519".to_owned());
        }
        if let Some((min, max)) = self.rsa_bits {
            accepted.push(format!("RSA {min} to {max} bits"));
        }
        f.write_str(&accepted.join(", "))
    }
}

impl Default for OrderLimits {
    /// Orders a week, authorizations a week, 100 identifiers.
    fn default() -> Self {
        let week = Duration::from_hours(7 * 24);
        Self { order_lifetime: week, authorization_lifetime: week, max_identifiers: 100 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_by_prefix() {
        let inside = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(inside("10.0.0.0/8", "10.255.0.1"));
        assert!(!inside("10.0.0.0/8", "11.0.0.1"));
        assert!(inside("0.0.0.0/0", "192.0.2.1"));
        assert!(inside("fc00::/7", "fdff::1"));
        assert!(!inside("fc00::/7", "fe80::1"));
        assert!(inside("::/0", "::1"));
        assert!(inside("192.0.2.1", "192.0.2.1"));
        assert!(!inside("0.0.0.0/0", "::1"));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
    }

    #[test]
    fn a_list_admits_only_what_it_names() {
        let rules: Vec<NameRule> =
            ["host.example.org", ".internal", "10.0.0.0/8"].iter().map(|r| r.parse().unwrap()).collect();
        let admits = |name: &str| {
            let identifier = Identifier::from_text(name).unwrap();
            rules.iter().any(|rule| rule.admits(&identifier))
        };
        for fine in ["host.example.org", "internal", "a.b.internal", "*.internal", "10.1.2.3"] {
            assert!(admits(fine), "{fine}");
        }
        for bad in ["example.org", "x.host.example.org", "xinternal", "11.0.0.1", "::1"] {
            assert!(!admits(bad), "{bad}");
        }
    }

    #[test]
    fn devices_are_admitted_one_by_one_or_by_the_beginning_of_their_serial_number() {
        let admits = |rule: &str, device: &str| {
            let rule: NameRule = rule.parse().unwrap();
            assert_eq!(rule.to_string().parse(), Ok(rule.clone()));
            rule.admits(&Identifier::from_text(device).unwrap())
        };
        let (permanent, module) = ("permanent-identifier:AB12", "hardware-module:AB12/1.2.3");
        assert!(admits("permanent-identifier:AB12", permanent));
        assert!(admits("permanent-identifier:AB*", permanent));
        assert!(admits("permanent-identifier:*", permanent));
        assert!(admits("hardware-module:AB12/1.2.3", module));
        assert!(admits("hardware-module:*/1.2.3", module));
        assert!(!admits("permanent-identifier:ab*", permanent));
        assert!(!admits("permanent-identifier:AB1", permanent));
        assert!(!admits("permanent-identifier:*/1.2.3", permanent));
        assert!(!admits("permanent-identifier:*", module));
        assert!(!admits("hardware-module:*/1.2.4", module));
        assert!(!admits("ab12", permanent));
        for bad in ["permanent-identifier:", "hardware-module:AB", "hardware-module:*/x", "serial:AB*"] {
            assert!(bad.parse::<NameRule>().is_err(), "{bad}");
        }
    }
}
