//! Points in time and spans of it; the clock is a trait, read once per request at the edge.

use std::fmt;
use std::time::Duration;

use der::DateTime;
use der::asn1::{GeneralizedTime, UtcTime};
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time that X.509 can express in whole seconds: 9999-12-31T23:59:59Z.
    pub const MAX: Self = Self(253_402_300_799_000);

    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The same time without its fraction of a second, as certificates carry it.
    #[must_use]
    pub const fn whole_seconds(self) -> Self {
        Self(self.as_seconds() * 1000)
    }

    /// This time plus `span`, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis).min(Self::MAX.0))
    }

    /// This time minus `span`.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this time is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The calendar time in UTC, or `None` outside 1970–9999.
    #[must_use]
    pub fn to_date_time(self) -> Option<DateTime> {
        let seconds = u64::try_from(self.as_seconds()).ok()?;
        DateTime::from_unix_duration(Duration::from_secs(seconds)).ok()
    }

    /// The X.509 `Time`: UTCTime through 2049, GeneralizedTime from 2050 ([RFC 5280 §4.1.2.5]).
    ///
    /// Times outside 1970–9999 are clamped to that range.
    ///
    /// [RFC 5280 §4.1.2.5]: https://www.rfc-editor.org/rfc/rfc5280#section-4.1.2.5
    #[must_use]
    pub fn to_x509(self) -> x509_cert::time::Time {
        let clamped = Self(self.0.clamp(0, Self::MAX.0));
        clamped.to_date_time().map_or(x509_cert::time::Time::INFINITY, x509_cert::time::Time::from)
    }

    /// From an X.509 `Time`.
    #[must_use]
    pub fn from_x509(time: x509_cert::time::Time) -> Self {
        Self(i64::try_from(time.to_unix_duration().as_millis()).unwrap_or(Self::MAX.0))
    }

    /// The GeneralizedTime that OCSP uses for every date.
    #[must_use]
    pub fn to_generalized(self) -> GeneralizedTime {
        let clamped = Self(self.0.clamp(0, Self::MAX.0));
        GeneralizedTime::from_date_time(clamped.to_date_time().unwrap_or(DateTime::INFINITY))
    }

    /// Parses RFC 3339 in UTC (`2026-11-23T18:40:00Z`, a fraction of a second allowed and dropped).
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let plain = match text.split_once('.') {
            Some((whole, fraction)) => {
                let digits = fraction.strip_suffix('Z')?;
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                format!("{whole}Z")
            }
            None => text.to_owned(),
        };
        let date: DateTime = plain.parse().ok()?;
        Some(Self(i64::try_from(date.unix_duration().as_millis()).ok()?))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with whole seconds, as ACME writes its dates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_date_time() {
            Some(date) => write!(f, "{date}"),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl From<UtcTime> for Timestamp {
    fn from(time: UtcTime) -> Self {
        Self::from_x509(time.into())
    }
}

impl From<GeneralizedTime> for Timestamp {
    fn from(time: GeneralizedTime) -> Self {
        Self::from_x509(time.into())
    }
}

/// Where the present time comes from.
pub trait Clock: Send + Sync {
    /// The present time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Measures how long something took, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts measuring.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one place where the monotonic clock is read")]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_change_from_utctime_to_generalizedtime_in_2050() {
        let last = Timestamp::from_rfc3339("2049-12-31T23:59:59Z").unwrap();
        let first = Timestamp::from_rfc3339("2050-01-01T00:00:00Z").unwrap();
        assert!(matches!(last.to_x509(), x509_cert::time::Time::UtcTime(_)));
        assert!(matches!(first.to_x509(), x509_cert::time::Time::GeneralTime(_)));
        assert_eq!(Timestamp::from_x509(first.to_x509()), first);
    }

    #[test]
    fn rfc3339_is_read_and_written() {
        let time = Timestamp::from_rfc3339("2026-11-23T18:40:07.123456789Z").unwrap();
        assert_eq!(time.to_string(), "2026-11-23T18:40:07Z");
        for bad in
            ["2026-11-23", "2026-11-23T18:40:07", "2026-11-23T18:40:07.Z", "2026-11-23T18:40:07.1+01:00"]
        {
            assert_eq!(Timestamp::from_rfc3339(bad), None, "{bad}");
        }
    }
}
