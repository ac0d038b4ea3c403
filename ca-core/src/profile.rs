//! Certificate profiles: what a certificate of a kind contains. [`ProfileConfig`] is what the operator wrote,
//! [`Profile`] what was checked.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::time::Timestamp;

/// Names a profile: 1 to 64 characters of `a-z`, `0-9`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProfileName(String);

impl ProfileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no profile name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no profile name: use 1 to 64 characters of a-z, 0-9 and '-'")]
pub struct InvalidProfileName(String);

impl TryFrom<String> for ProfileName {
    type Error = InvalidProfileName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fine { Ok(Self(text)) } else { Err(InvalidProfileName(text)) }
    }
}

impl From<ProfileName> for String {
    fn from(name: ProfileName) -> Self {
        name.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A section `[profiles.NAME]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// How the certificate will be used.
    pub usage: Usage,
    /// How long a certificate is valid, from its notBefore, in days.
    #[serde(default = "default_validity_days")]
    pub validity_days: u32,
    /// How far notBefore lies in the past, for subscribers whose clocks are behind, in minutes.
    #[serde(default = "default_backdate_minutes")]
    pub backdate_minutes: u32,
    /// What ACME clients are told of the profile; by default its usage and lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn default_validity_days() -> u32 {
    90
}

fn default_backdate_minutes() -> u32 {
    5
}

/// How a certificate will be used; decides its extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// id-kp-serverAuth.
    TlsServer,
    /// id-kp-clientAuth.
    TlsClient,
}

/// Why a profile can't be used; the operator acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProfileError {
    /// Zero, or longer than the notAfter of any CA allows.
    #[error("profiles.{profile}.validity_days must be from 1 to 3650, not {found}")]
    Validity {
        /// The profile.
        profile: ProfileName,
        /// What was configured.
        found: u32,
    },
    /// More than a day.
    #[error("profiles.{profile}.backdate_minutes must be at most 1440, not {found}")]
    Backdate {
        /// The profile.
        profile: ProfileName,
        /// What was configured.
        found: u32,
    },
    /// Empty, too long, or more than one line.
    #[error("profiles.{profile}.description must be one line of 1 to {LONGEST_DESCRIPTION} characters")]
    Description {
        /// The profile.
        profile: ProfileName,
    },
}

/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 300;

/// How far in the future a certificate may begin.
const LATEST_START: Duration = Duration::from_hours(30 * 24);

/// A checked profile for subscribers' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// How the certificate will be used.
    pub usage: Usage,
    /// From notBefore to notAfter.
    pub validity: Duration,
    /// From notBefore to the time of issuance.
    pub backdate: Duration,
    /// What ACME clients are told of it.
    pub description: String,
}

/// The dates that a client asks for, RFC 8555 §7.1.3. A stored type, as part of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestedValidity {
    /// First second of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Last second of validity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

impl RequestedValidity {
    /// Whether nothing was asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.not_before.is_none() && self.not_after.is_none()
    }
}

/// The dates that a certificate must have exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidityPeriod {
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
}

/// Why a profile does not admit dates; the subscriber acts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ValidityRefused {
    /// It would be backdated further than the profile does.
    #[error("notBefore must not be before {0}")]
    TooEarly(Timestamp),
    /// It would begin too far in the future.
    #[error("notBefore must not be after {0}")]
    TooLate(Timestamp),
    /// It would end before it begins, or has ended.
    #[error("notAfter must be after notBefore, and in the future")]
    Ended,
    /// It would be valid for longer than the profile's certificates are.
    #[error("notAfter must not be after {0}, the longest that the profile permits")]
    TooLong(Timestamp),
}

impl Profile {
    /// Checks what the operator wrote.
    ///
    /// # Errors
    /// See [`ProfileError`].
    pub fn new(name: ProfileName, config: &ProfileConfig) -> Result<Self, ProfileError> {
        if !(1..=3650).contains(&config.validity_days) {
            return Err(ProfileError::Validity { profile: name, found: config.validity_days });
        }
        if config.backdate_minutes > 1440 {
            return Err(ProfileError::Backdate { profile: name, found: config.backdate_minutes });
        }
        let description = match &config.description {
            Some(text) => {
                let length = text.chars().count();
                if !(1..=LONGEST_DESCRIPTION).contains(&length) || text.chars().any(char::is_control) {
                    return Err(ProfileError::Description { profile: name });
                }
                text.clone()
            }
            None => {
                let whom = match config.usage {
                    Usage::TlsServer => "TLS servers",
                    Usage::TlsClient => "TLS clients",
                };
                let days = match config.validity_days {
                    1 => "1 day".to_owned(),
                    days => format!("{days} days"),
                };
                format!("certificates for {whom}, valid for {days}")
            }
        };
        Ok(Self {
            name,
            description,
            usage: config.usage,
            validity: Duration::from_hours(24 * u64::from(config.validity_days)),
            backdate: Duration::from_mins(u64::from(config.backdate_minutes)),
        })
    }

    /// The dates of a certificate whose client asked for some; `None` if it asked for none. `lifetime` is the longest
    /// that is admitted, the profile's or a shorter one.
    ///
    /// A client that asks for notAfter alone gets a notBefore in the past as usual, or as late as `now` if the profile's
    /// lifetime asks for it. `patience` is how long before `now` it may have asked, since what is placed is certified
    /// with the dates it was placed for, or not at all (RFC 8555 §7.4).
    ///
    /// # Errors
    /// See [`ValidityRefused`].
    pub fn period(
        &self,
        asked: RequestedValidity,
        lifetime: Duration,
        patience: Duration,
        now: Timestamp,
    ) -> Result<Option<ValidityPeriod>, ValidityRefused> {
        if asked.is_empty() {
            return Ok(None);
        }
        let usual = now.minus(self.backdate).whole_seconds();
        let not_before = match (asked.not_before, asked.not_after) {
            (Some(not_before), _) => {
                let (earliest, latest) = (usual.minus(patience).whole_seconds(), now.plus(LATEST_START));
                if not_before < earliest {
                    return Err(ValidityRefused::TooEarly(earliest));
                }
                if not_before > latest {
                    return Err(ValidityRefused::TooLate(latest));
                }
                not_before.whole_seconds()
            }
            (None, Some(not_after)) => usual.max(not_after.minus(lifetime)).min(now).whole_seconds(),
            (None, None) => usual,
        };
        let not_after = match asked.not_after {
            Some(not_after) => not_after.whole_seconds(),
            // A certificate of n days covers exactly n days, and notAfter is its last second (RFC 5280 §4.1.2.5).
            None => not_before.plus(lifetime.saturating_sub(Duration::from_secs(1))),
        };
        let longest = not_before.plus(lifetime);
        if not_after > longest {
            return Err(ValidityRefused::TooLong(longest));
        }
        if not_after <= not_before || not_after <= now {
            return Err(ValidityRefused::Ended);
        }
        Ok(Some(ValidityPeriod { not_before, not_after }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let config = ProfileConfig {
            usage: Usage::TlsServer,
            validity_days: 90,
            backdate_minutes: 5,
            description: None,
        };
        Profile::new(ProfileName("tls-server".to_owned()), &config).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const DAY: Duration = Duration::from_hours(24);

    fn asked(not_before: Option<Timestamp>, not_after: Option<Timestamp>) -> RequestedValidity {
        RequestedValidity { not_before, not_after }
    }

    fn period(asked: RequestedValidity) -> Result<Option<(Timestamp, Timestamp)>, ValidityRefused> {
        let period = profile().period(asked, DAY * 90, Duration::ZERO, NOW)?;
        Ok(period.map(|period| (period.not_before, period.not_after)))
    }

    #[test]
    fn dates_within_the_profile_are_kept_exactly() {
        assert_eq!(period(asked(None, None)), Ok(None));
        let (begin, end) = (NOW.plus(DAY), NOW.plus(DAY * 10));
        assert_eq!(period(asked(Some(begin), Some(end))), Ok(Some((begin, end))));
        assert_eq!(
            period(asked(Some(begin), None)),
            Ok(Some((begin, begin.plus(DAY * 90).minus(Duration::from_secs(1)))))
        );
        let backdated = NOW.minus(Duration::from_mins(5));
        assert_eq!(period(asked(None, Some(end))), Ok(Some((backdated, end))));
        // As a client computes it: ninety days from now.
        assert_eq!(period(asked(None, Some(NOW.plus(DAY * 90)))), Ok(Some((NOW, NOW.plus(DAY * 90)))));
    }

    #[test]
    fn dates_outside_the_profile_are_refused() {
        let second = Duration::from_secs(1);
        let earliest = NOW.minus(Duration::from_mins(5));
        assert_eq!(
            period(asked(Some(earliest.minus(second)), None)),
            Err(ValidityRefused::TooEarly(earliest))
        );
        assert!(period(asked(Some(earliest), None)).is_ok());
        let latest = NOW.plus(LATEST_START);
        assert_eq!(period(asked(Some(latest.plus(second)), None)), Err(ValidityRefused::TooLate(latest)));
        let longest = NOW.plus(DAY * 90);
        assert_eq!(period(asked(None, Some(longest.plus(second)))), Err(ValidityRefused::TooLong(longest)));
        assert_eq!(period(asked(Some(NOW), Some(NOW))), Err(ValidityRefused::Ended));
        assert_eq!(period(asked(None, Some(NOW))), Err(ValidityRefused::Ended));
        assert_eq!(period(asked(Some(NOW.plus(DAY)), Some(NOW.plus(second)))), Err(ValidityRefused::Ended));
    }

    #[test]
    fn an_order_that_took_its_time_keeps_its_dates_and_no_older_one_does() {
        let placed = NOW.minus(DAY * 3);
        let asked = asked(Some(placed), None);
        assert!(profile().period(asked, DAY * 90, Duration::ZERO, NOW).is_err());
        assert_eq!(profile().period(asked, DAY * 90, DAY * 7, NOW).unwrap().unwrap().not_before, placed);
        assert!(profile().period(asked, DAY * 90, DAY * 2, NOW).is_err());
    }

    #[test]
    fn descriptions_are_one_line() {
        let described = |text: &str| {
            let config = ProfileConfig {
                usage: Usage::TlsClient,
                validity_days: 1,
                backdate_minutes: 5,
                description: Some(text.to_owned()),
            };
            Profile::new(ProfileName("p".to_owned()), &config)
        };
        assert_eq!(described("For printers").unwrap().description, "For printers");
        for bad in ["", "two\nlines", &"x".repeat(301)] {
            assert!(matches!(described(bad), Err(ProfileError::Description { .. })), "{bad}");
        }
        assert_eq!(profile().description, "certificates for TLS servers, valid for 90 days");
    }
}
