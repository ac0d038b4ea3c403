//! Rate limits by the generic cell rate algorithm, and bounds on what accounts can pile up,
//! [RFC 8555 §6.6](https://www.rfc-editor.org/rfc/rfc8555#section-6.6).
//!
//! A bucket is one number: the theoretical arrival time, before which the next request would come too early. A
//! [`Claim`] travels in the commit that it is about and is judged inside the writing transaction, so that nothing is
//! read beforehand, two requests never take the same last place, and what was counted is what was committed.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::acme::{DirectoryName, Identifier};
use crate::id::{AccountId, serde_base64url};
use crate::pkix::public_key::sha256;
use crate::time::Timestamp;

/// What is limited. The names are keys of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// New accounts from one network of client addresses.
    NewAccountsPerAddress,
    /// Orders placed by one account.
    NewOrdersPerAccount,
    /// Orders placed in one directory by all accounts together.
    NewOrdersPerDirectory,
    /// Orders that contain one name, whoever places them.
    NewOrdersPerName,
    /// Orders for exactly the same names that were finalized, whoever placed them.
    CertificatesPerNameSet,
    /// Validations of one name that failed for one account.
    FailedValidationsPerName,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 6] = [
        Self::NewAccountsPerAddress,
        Self::NewOrdersPerAccount,
        Self::NewOrdersPerDirectory,
        Self::NewOrdersPerName,
        Self::CertificatesPerNameSet,
        Self::FailedValidationsPerName,
    ];

    /// Its key below `acme.limits`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewAccountsPerAddress => "new_accounts_per_address",
            Self::NewOrdersPerAccount => "new_orders_per_account",
            Self::NewOrdersPerDirectory => "new_orders_per_directory",
            Self::NewOrdersPerName => "new_orders_per_name",
            Self::CertificatesPerNameSet => "certificates_per_name_set",
            Self::FailedValidationsPerName => "failed_validations_per_name",
        }
    }

    /// Whether an account can have a value of its own.
    #[must_use]
    pub const fn is_per_account(self) -> bool {
        !matches!(self, Self::NewAccountsPerAddress)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text names no limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no such limit")]
pub struct UnknownLimit;

impl FromStr for Limit {
    type Err = UnknownLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|limit| limit.name() == text).ok_or(UnknownLimit)
    }
}

/// So many in so much time, with a burst. Text form `300/3h`, or `300/3h burst 50`; without it the burst is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Quota {
    count: NonZeroU32,
    period_seconds: NonZeroU32,
    burst: NonZeroU32,
}

/// A text is no quota.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no rate; write COUNT/PERIOD as in \"300/3h\", at most a million in at most 366 days, with 'burst COUNT' after it for a burst that is smaller"
)]
pub struct InvalidQuota(String);

impl Quota {
    const MAX_COUNT: u32 = 1_000_000;
    const MAX_SECONDS: u32 = 366 * 24 * 3600;

    /// How many in a period.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count.get()
    }

    /// How many can come at once after a quiet time.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst.get()
    }

    /// The period.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_secs(self.period_seconds.get().into())
    }

    /// After how many microseconds a place is free again; rounded up, so that the rate is never exceeded.
    fn interval(self) -> i64 {
        (i64::from(self.period_seconds.get()) * 1_000_000 + i64::from(self.count.get()) - 1)
            / i64::from(self.count.get())
    }

    /// How far ahead of the present the arrival time of a full bucket is, in microseconds.
    fn capacity(self) -> i64 {
        self.interval() * i64::from(self.burst.get())
    }
}

impl FromStr for Quota {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (rate, burst) = match text.split_once(" burst ") {
                Some((rate, burst)) => (rate, Some(number(burst)?)),
                None => (text, None),
            };
            let (count, period) = rate.split_once('/')?;
            let count = number(count)?;
            let seconds = seconds(period)?;
            let burst = burst.unwrap_or(count);
            let fine = count.get() <= Self::MAX_COUNT && seconds.get() <= Self::MAX_SECONDS && burst <= count;
            fine.then_some(Self { count, period_seconds: seconds, burst })
        };
        read().ok_or_else(|| InvalidQuota(text.chars().take(100).collect()))
    }
}

fn number(text: &str) -> Option<NonZeroU32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

const UNITS: [(&str, u32); 4] = [("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

/// `3h`, or `h` for one hour.
fn seconds(text: &str) -> Option<NonZeroU32> {
    let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let count = match text.strip_suffix(unit)? {
        "" => NonZeroU32::MIN,
        digits => number(digits)?,
    };
    NonZeroU32::new(count.get().checked_mul(factor)?)
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.period_seconds.get();
        let largest = UNITS.into_iter().find(|(_, factor)| seconds.is_multiple_of(*factor));
        let (unit, factor) = largest.unwrap_or(("s", 1));
        write!(f, "{}/{}{unit}", self.count, seconds / factor)?;
        if self.burst != self.count {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Quota {
    type Error = InvalidQuota;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Quota> for String {
    fn from(quota: Quota) -> Self {
        quota.to_string()
    }
}

/// What an account may have of its own instead of what its directory says. A stored type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allowance {
    /// As much as it likes: `off`.
    Unlimited,
    /// At this rate.
    Limited(Quota),
}

impl Allowance {
    /// The quota to apply, if any.
    #[must_use]
    pub const fn quota(self) -> Option<Quota> {
        match self {
            Self::Unlimited => None,
            Self::Limited(quota) => Some(quota),
        }
    }
}

impl FromStr for Allowance {
    type Err = InvalidQuota;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Unlimited) } else { text.parse().map(Self::Limited) }
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("off"),
            Self::Limited(quota) => quota.fmt(f),
        }
    }
}

impl TryFrom<String> for Allowance {
    type Error = InvalidQuota;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Allowance> for String {
    fn from(allowance: Allowance) -> Self {
        allowance.to_string()
    }
}

/// Names what is counted: a hash over the limit and its subject, so that buckets are small and say nothing of clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket(#[serde(with = "serde_base64url")] pub [u8; 16]);

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", crate::id::to_hex(&self.0))
    }
}

/// The first half of SHA-256 over the parts, each with its length.
pub(super) fn name_of(parts: &[&[u8]]) -> [u8; 16] {
    let mut octets = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        octets.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        octets.extend_from_slice(part);
    }
    let mut name = [0; 16];
    name.copy_from_slice(&sha256(&octets)[..16]);
    name
}

/// A name as it is counted: the base name with its type, so that `*.example.org` counts as `example.org`.
pub(super) fn counted_name(identifier: &Identifier) -> String {
    let base = identifier.base();
    format!("{}:{base}", base.kind())
}

impl Bucket {
    fn new(limit: Limit, directory: &DirectoryName, subject: &[&[u8]]) -> Self {
        let head = [limit.name().as_bytes(), directory.as_str().as_bytes()];
        Self(name_of(&[&head[..], subject].concat()))
    }

    /// The same under a quota, and for the account if the quota is its own: whoever changes a quota wants it at once,
    /// and not after what was counted under another one is over.
    #[must_use]
    pub fn under(self, quota: Quota, own_of: Option<AccountId>) -> Self {
        let own_of = own_of.as_ref().map_or(&[][..], |account| &account.0.as_bytes()[..]);
        Self(name_of(&[&self.0, quota.to_string().as_bytes(), own_of]))
    }

    /// Of new accounts from a network, given as text.
    #[must_use]
    pub fn new_accounts(directory: &DirectoryName, network: &str) -> Self {
        Self::new(Limit::NewAccountsPerAddress, directory, &[network.as_bytes()])
    }

    /// Of an account's new orders.
    #[must_use]
    pub fn new_orders(directory: &DirectoryName, account: AccountId) -> Self {
        Self::new(Limit::NewOrdersPerAccount, directory, &[account.0.as_bytes()])
    }

    /// Of a directory's new orders.
    #[must_use]
    pub fn all_new_orders(directory: &DirectoryName) -> Self {
        Self::new(Limit::NewOrdersPerDirectory, directory, &[])
    }

    /// Of new orders for a name; a wildcard counts as the name below which it is.
    #[must_use]
    pub fn new_orders_for(directory: &DirectoryName, name: &Identifier) -> Self {
        Self::new(Limit::NewOrdersPerName, directory, &[counted_name(name).as_bytes()])
    }

    /// Of certificates for exactly these names, in any order; here a wildcard is a name of its own.
    #[must_use]
    pub fn certificates(directory: &DirectoryName, names: &[Identifier]) -> Self {
        let mut names: Vec<String> = names.iter().map(|name| format!("{}:{name}", name.kind())).collect();
        names.sort_unstable();
        names.dedup();
        let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        Self::new(Limit::CertificatesPerNameSet, directory, &names)
    }

    /// Of an account's failed validations of a name.
    #[must_use]
    pub fn failed_validations(directory: &DirectoryName, account: AccountId, name: &Identifier) -> Self {
        let name = counted_name(name);
        let subject: [&[u8]; 2] = [account.0.as_bytes(), name.as_bytes()];
        Self::new(Limit::FailedValidationsPerName, directory, &subject)
    }
}

/// A bucket's theoretical arrival time in microseconds since 1970: at this time the bucket is empty again. A stored
/// type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArrivalTime(pub i64);

impl ArrivalTime {
    /// A point in time in this unit: a bucket whose arrival time is not after it is as good as none.
    #[must_use]
    pub const fn at(time: Timestamp) -> Self {
        Self(time.as_millis().saturating_mul(1000))
    }
}

/// How a claim treats its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimMode {
    /// Takes a place, or is refused.
    Take,
    /// Takes none, and is refused where none is left.
    Look,
    /// Takes a place whether or not one is left: it has happened.
    Note,
}

/// What a commit asks of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The limit, for messages.
    pub limit: Limit,
    /// What is counted.
    pub bucket: Bucket,
    /// How much is admitted.
    pub quota: Quota,
    /// What becomes of the bucket.
    pub mode: ClaimMode,
    /// The time of the request.
    pub at: Timestamp,
}

/// No place was left.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{limit} ({quota}) is used up until {retry_at}")]
pub struct Refusal {
    /// The limit.
    pub limit: Limit,
    /// What was counted.
    pub bucket: Bucket,
    /// How much is admitted.
    pub quota: Quota,
    /// When a place is free, if nobody else takes it.
    pub retry_at: Timestamp,
}

impl Claim {
    /// Judges the claim against the bucket as it is stored, and gives the arrival time to store if it changes.
    ///
    /// What is stored counts at most as a full bucket, so that a clock that was set back refuses for no longer than a full
    /// bucket takes.
    ///
    /// # Errors
    /// [`Refusal`] if no place is left.
    pub fn judge(&self, stored: Option<ArrivalTime>) -> Result<Option<ArrivalTime>, Refusal> {
        let now = ArrivalTime::at(self.at).0;
        let (interval, full) = (self.quota.interval(), now.saturating_add(self.quota.capacity()));
        let arrival = stored.map_or(now, |stored| stored.0.clamp(now, full));
        let next = arrival.saturating_add(interval);
        match self.mode {
            ClaimMode::Note => Ok(Some(ArrivalTime(next.min(full)))),
            _ if next > full => {
                let wait_micros = next - full;
                let wait_millis = u64::try_from((wait_micros + 999) / 1000).unwrap_or(u64::MAX);
                Err(Refusal {
                    limit: self.limit,
                    bucket: self.bucket,
                    quota: self.quota,
                    retry_at: self.at.plus(Duration::from_millis(wait_millis)),
                })
            }
            ClaimMode::Look => Ok(None),
            ClaimMode::Take => Ok(Some(ArrivalTime(next))),
        }
    }
}

/// A bound on rows that exist at a time, judged inside the writing transaction as claims are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bound", rename_all = "snake_case")]
pub enum Bound {
    /// Accounts without an external account binding that never placed an order.
    UnusedAccounts {
        /// How many there may be before this one.
        below: u32,
    },
    /// Authorizations of an account that are pending.
    PendingAuthorizations {
        /// Whose.
        account: AccountId,
        /// Those made before this time count no more: they have expired.
        made_after: Timestamp,
        /// How many this order adds.
        adding: u32,
        /// How many there may be with them.
        most: u32,
    },
}

impl Bound {
    /// Its key below `acme.limits`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnusedAccounts { .. } => "max_unused_accounts",
            Self::PendingAuthorizations { .. } => "max_pending_authorizations",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> Quota {
        text.parse().unwrap()
    }

    #[test]
    fn quotas_are_written_as_they_are_read() {
        for (text, written) in [
            ("300/3h", "300/3h"),
            ("1/s", "1/1s"),
            ("5/168h", "5/7d"),
            ("90/90m burst 10", "90/90m burst 10"),
            ("7/1d burst 7", "7/1d"),
            ("1000000/366d", "1000000/366d"),
        ] {
            assert_eq!(quota(text).to_string(), written);
            assert_eq!(quota(written), quota(text));
        }
        for bad in [
            "",
            "300",
            "300/",
            "/3h",
            "0/3h",
            "300/0h",
            "3/h burst 4",
            "3/h burst 0",
            "+3/h",
            "3/1w",
            "3 / h",
            "1000001/h",
            "1/367d",
            "1/4294967295d",
            "off",
        ] {
            assert_eq!(bad.parse::<Quota>(), Err(InvalidQuota(bad.to_owned())), "{bad}");
        }
        assert_eq!("off".parse(), Ok(Allowance::Unlimited));
    }

    #[test]
    fn a_bucket_is_its_limit_directory_and_subject() {
        let directory = |name: &str| DirectoryName::try_from(name.to_owned()).unwrap();
        let name = |text: &str| Identifier::from_text(text).unwrap();
        let (a, b) = (directory("a"), directory("b"));
        assert_ne!(Bucket::all_new_orders(&a), Bucket::all_new_orders(&b));
        assert_eq!(
            Bucket::new_orders_for(&a, &name("*.example.org")),
            Bucket::new_orders_for(&a, &name("example.org"))
        );
        let set = |names: &[&str]| {
            Bucket::certificates(&a, &names.iter().map(|text| name(text)).collect::<Vec<_>>())
        };
        assert_eq!(set(&["a.test", "b.test"]), set(&["b.test", "a.test", "b.test"]));
        assert_ne!(set(&["a.test", "b.test"]), set(&["a.test"]));
        assert_ne!(set(&["*.a.test"]), set(&["a.test"]));
    }

    #[test]
    fn limits_have_one_name_each() {
        for limit in Limit::ALL {
            assert_eq!(limit.name().parse(), Ok(limit));
            assert_eq!(Limit::ALL.iter().filter(|other| other.name() == limit.name()).count(), 1);
        }
    }
}
