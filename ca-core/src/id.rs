//! Identifiers of rows: time-ordered, unguessable, short in a URL.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::time::Timestamp;

/// 48 bits of milliseconds and 80 random bits, written as 26 characters of base32hex (RFC 4648 §7) in lower case.
///
/// Text and bytes sort by time of creation, so that new rows lie together and listings page by id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id([u8; 16]);

const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

impl Id {
    /// A new identifier.
    pub fn generate(now: Timestamp, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        bytes[..6].copy_from_slice(&now.as_millis().to_be_bytes()[2..]);
        Self(bytes)
    }

    /// Not above any identifier that was made at this time or later, and above every one that was made before.
    #[must_use]
    pub fn first_at(time: Timestamp) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&time.as_millis().max(0).to_be_bytes()[2..]);
        Self(bytes)
    }

    /// From its 16 octets, as stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 octets, as stored.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        let mut text = [0u8; 26];
        for (index, character) in text.iter_mut().enumerate() {
            // 26 groups of five bits are 130: the value is taken as if two zero bits followed it.
            let shift = 125 - 5 * i32::try_from(index).unwrap_or(0) - 2;
            let group = if shift >= 0 { value >> shift } else { value << -shift };
            *character = ALPHABET[usize::try_from(group & 31).unwrap_or(0)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no identifier of ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an identifier: 26 characters of 0-9 and a-v are expected")]
pub struct InvalidId;

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 26 {
            return Err(InvalidId);
        }
        let mut value: u128 = 0;
        for (index, byte) in text.bytes().enumerate() {
            let group = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'v' => byte - b'a' + 10,
                _ => return Err(InvalidId),
            };
            if index < 25 {
                value = (value << 5) | u128::from(group);
            } else if group & 3 != 0 {
                // The two padding bits must be zero, so that an id has one spelling only.
                return Err(InvalidId);
            } else {
                value = (value << 3) | u128::from(group >> 2);
            }
        }
        Ok(Self(value.to_be_bytes()))
    }
}

/// Defines a newtype over [`Id`] for one kind of row.
macro_rules! row_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub Id);

        impl $name {
            /// A new identifier.
            pub fn generate(now: Timestamp, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
                Self(Id::generate(now, rng))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

row_id!(
    /// Names an ACME account.
    AccountId
);
row_id!(
    /// Names an ACME order.
    OrderId
);
row_id!(
    /// Names an ACME authorization.
    AuthorizationId
);
row_id!(
    /// Names an external account: the key identifier of RFC 8555 §7.3.4.
    ExternalAccountId
);
row_id!(
    /// Names an effect that waits to be carried out.
    EffectId
);
row_id!(
    /// Names a request of a role of ours for a certificate for its own key.
    CredentialId
);
row_id!(
    /// Names an operator's wish that certificates be renewed sooner.
    RenewalPullId
);

/// Names an issuer in URLs, files and output: 1 to 64 characters of `a-z`, `0-9` and `-`, such as `issuing-1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssuerId(String);

impl IssuerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuerId {
    type Err = InvalidIssuerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

/// A text is no issuer id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an issuer id: 1 to 64 characters of a-z, 0-9 and '-' are expected")]
pub struct InvalidIssuerId;

impl TryFrom<String> for IssuerId {
    type Error = InvalidIssuerId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine { Ok(Self(text)) } else { Err(InvalidIssuerId) }
    }
}

impl From<IssuerId> for String {
    fn from(id: IssuerId) -> Self {
        id.0
    }
}

impl fmt::Display for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads hexadecimal in either case; `None` if it is none.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

/// Serde for octets: base64url without padding where the format is text.
pub mod serde_base64url {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes octets as base64url.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads octets from base64url.
    ///
    /// # Errors
    /// If the text is no base64url.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        T::try_from(bytes).map_err(|_| serde::de::Error::custom("wrong length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_order_and_have_one_spelling() {
        let a = Id::from_bytes([0x01; 16]);
        let b = Id::from_bytes([0xff; 16]);
        assert!(a.to_string() < b.to_string());
        for id in [a, b, Id::from_bytes([0; 16])] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let mut other = b.to_string();
        other.pop();
        other.push('v');
        assert_eq!(other.parse::<Id>(), Err(InvalidId), "padding bits must be zero");
        assert_eq!("x".repeat(26).parse::<Id>(), Err(InvalidId));
    }
}
