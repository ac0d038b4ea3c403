//! Names whose validation fails for an account again and again, and the pause that ends it: until an operator lifts it,
//! the account can't order such a name, [RFC 8555 §6.6](https://www.rfc-editor.org/rfc/rfc8555#section-6.6).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::Identifier;
use crate::acme::rate_limit::{counted_name, name_of};
use crate::id::{AccountId, from_hex, serde_base64url, to_hex};
use crate::store::Version;
use crate::time::Timestamp;

/// The longest part of a failure's description that is kept, in characters.
const MAX_DETAIL: usize = 300;

/// Names an account together with a name: a hash over both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PairId(#[serde(with = "serde_base64url")] pub [u8; 16]);

impl fmt::Display for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// A text names no pair.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("not the id of a paused name: 32 hexadecimal digits are expected")]
pub struct InvalidPairId;

impl FromStr for PairId {
    type Err = InvalidPairId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octets = from_hex(text).and_then(|octets| octets.try_into().ok());
        octets.map(Self).ok_or(InvalidPairId)
    }
}

impl PairId {
    /// The pair's name; a wildcard counts as the name below which it is.
    #[must_use]
    pub fn new(account: AccountId, name: &Identifier) -> Self {
        Self(name_of(&[b"pair", account.0.as_bytes(), counted_name(name).as_bytes()]))
    }
}

/// An account and a name whose validation failed, with no success since. A stored type: changing it needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The account.
    pub account: AccountId,
    /// The name, without a wildcard label.
    pub name: Identifier,
    /// How many validations failed one after the other.
    pub failures: u32,
    /// When the first of them did.
    pub first_at: Timestamp,
    /// When the last of them did.
    pub last_at: Timestamp,
    /// What went wrong in the last of them.
    pub detail: String,
    /// When the pair was paused.
    pub paused_at: Option<Timestamp>,
    /// Counts its changes.
    pub version: Version,
}

impl Failing {
    /// The pair's name.
    #[must_use]
    pub fn id(&self) -> PairId {
        PairId::new(self.account, &self.name)
    }

    /// The pair after one more failure: paused from the failure on that is number `pause_after`. One that is paused
    /// stays so.
    #[must_use]
    pub fn after(
        before: Option<Self>,
        account: AccountId,
        name: &Identifier,
        detail: &str,
        pause_after: NonZeroU32,
        now: Timestamp,
    ) -> Self {
        let mut next = before.unwrap_or_else(|| Self {
            account,
            name: name.base(),
            failures: 0,
            first_at: now,
            last_at: now,
            detail: String::new(),
            paused_at: None,
            version: Version::NEW,
        });
        if next.failures == 0 {
            next.first_at = now;
        }
        next.failures = next.failures.saturating_add(1);
        next.last_at = now;
        next.detail = detail.chars().take(MAX_DETAIL).collect();
        if next.paused_at.is_none() && next.failures >= pause_after.get() {
            next.paused_at = Some(now);
        }
        next
    }

    /// The pair after an operator lifted its pause: it has as many tries as a new one.
    #[must_use]
    pub fn unpaused(&self) -> Self {
        Self { failures: 0, paused_at: None, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;

    #[test]
    fn a_pair_is_paused_by_its_last_try_and_has_all_of_them_again_afterwards() {
        let account = AccountId(Id::from_bytes([1; 16]));
        let name = Identifier::from_text("*.example.org").unwrap();
        let at = |seconds| Timestamp::from_seconds(seconds);
        let fail = |before, seconds| {
            let three = NonZeroU32::new(3).unwrap();
            Failing::after(before, account, &name, &"x".repeat(1000), three, at(seconds))
        };
        let first = fail(None, 1);
        assert_eq!((first.name.to_string().as_str(), first.failures), ("example.org", 1));
        assert_eq!(first.id(), PairId::new(account, &Identifier::from_text("example.org").unwrap()));
        assert_eq!(first.detail.len(), MAX_DETAIL);
        let second = fail(Some(first), 2);
        assert_eq!(second.paused_at, None);
        let third = fail(Some(second), 3);
        assert_eq!((third.paused_at, third.first_at), (Some(at(3)), at(1)));
        let fourth = fail(Some(third), 4);
        assert_eq!((fourth.paused_at, fourth.last_at, fourth.failures), (Some(at(3)), at(4), 4));
        let lifted = fourth.unpaused();
        let again = fail(Some(lifted), 9);
        assert_eq!((again.failures, again.first_at, again.paused_at), (1, at(9), None));
    }
}
