//! What a directory admits: names, challenges, profiles, subscriber keys.

use std::time::Duration;

use thiserror::Error;

use crate::acme::order::OrderLimits;
use crate::acme::{ChallengeType, DirectoryName};
use crate::pkix::csr::CsrError;
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

/// One entry of `acme.allowed_names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// `host.example.org`: this name only.
    Exact(DnsName),
    /// `.example.org`: the domain and every name below it.
    Within(DnsName),
    /// `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`: these addresses.
    Network(Network),
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
}

/// A text is no rule for names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no name rule; write 'host.example.org' for one name, '.example.org' for a domain and all below it, or '10.0.0.0/8' for addresses"
)]
pub struct InvalidNameRule(pub String);

impl std::str::FromStr for NameRule {
    type Err = InvalidNameRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidNameRule(text.to_owned());
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
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl DirectoryPolicy {
    /// The profile used when an order asks for none.
    ///
    /// # Panics
    /// Never: configuration with no profile is refused at start-up.
    #[must_use]
    #[allow(clippy::expect_used, reason = "configuration with no profile is refused at start-up")]
    pub fn default_profile(&self) -> &ProfileName {
        self.profiles.first().expect("a directory has at least one profile")
    }

    /// Whether a certificate may carry this name, whoever asks.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn permits(&self, identifier: &Identifier) -> Result<(), NameRefused> {
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
        if !self.challenges.iter().any(|kind| kind.proves(identifier)) {
            return Err(NameRefused::NoChallenge(identifier.clone()));
        }
        Ok(())
    }
}

impl NameRule {
    fn admits(&self, identifier: &Identifier) -> bool {
        match (self, identifier) {
            (Self::Exact(rule), Identifier::Dns(name)) => rule == name,
            (Self::Within(domain), Identifier::Dns(name)) => name.is_within(domain),
            (Self::Network(network), Identifier::Ip(address)) => network.contains(*address),
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
}
