//! Busy hours: spans of the week, in UTC, in which certificates should not be renewed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::time::Timestamp;

const MINUTES_OF_A_DAY: u32 = 24 * 60;
const MINUTES_OF_A_WEEK: u32 = 7 * MINUTES_OF_A_DAY;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// The week's busy hours: spans in minutes since Monday 00:00 UTC, in order, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BusyHours(Vec<(u32, u32)>);

/// One entry of `acme.renewal.busy_hours`: days, and a time on each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyRule {
    /// The first day; 0 is Monday.
    first: u32,
    /// How many days.
    days: u32,
    /// The minute of the day at which it begins.
    from: u32,
    /// How many minutes it lasts, at most a day; may end on the next day.
    minutes: u32,
}

/// A text is no busy time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "'{0}' is no busy time; write 'Mon-Fri 08:00-18:00', 'Sun 00:00-24:00' or, for every day, '22:00-02:00' (UTC)"
)]
pub struct InvalidBusyRule(pub String);

impl FromStr for BusyRule {
    type Err = InvalidBusyRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidBusyRule(text.to_owned());
        let (days, times) = match text.trim().split_once(' ') {
            Some((days, times)) => (days, times.trim_start()),
            None => ("Mon-Sun", text.trim()),
        };
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let day = |name: &str| {
            let position = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
            position.and_then(|day| u32::try_from(day).ok()).ok_or_else(invalid)
        };
        let (first, last) = (day(first)?, day(last)?);
        let (from, to) = times.split_once('-').ok_or_else(invalid)?;
        let (from, to) = (minute_of_day(from).ok_or_else(invalid)?, minute_of_day(to).ok_or_else(invalid)?);
        if from == to || from == MINUTES_OF_A_DAY {
            return Err(invalid());
        }
        let minutes = if from < to { to - from } else { to + MINUTES_OF_A_DAY - from };
        // From Saturday to Monday are three days.
        Ok(Self { first, days: (last + 7 - first) % 7 + 1, from, minutes })
    }
}

/// `HH:MM` from 00:00 to 24:00.
fn minute_of_day(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u32>().ok(),
        _ => None,
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_OF_A_DAY).then_some(minute)
}

impl FromIterator<BusyRule> for BusyHours {
    fn from_iter<I: IntoIterator<Item = BusyRule>>(rules: I) -> Self {
        let mut spans = Vec::new();
        for rule in rules {
            for day in 0..rule.days {
                let from = (rule.first + day) % 7 * MINUTES_OF_A_DAY + rule.from;
                let to = from + rule.minutes;
                spans.push((from, to.min(MINUTES_OF_A_WEEK)));
                if to > MINUTES_OF_A_WEEK {
                    spans.push((0, to - MINUTES_OF_A_WEEK));
                }
            }
        }
        spans.sort_unstable();
        let mut apart: Vec<(u32, u32)> = Vec::with_capacity(spans.len());
        for (from, to) in spans {
            match apart.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => apart.push((from, to)),
            }
        }
        Self(apart)
    }
}

impl BusyHours {
    /// What of a time is not busy, in order.
    #[must_use]
    pub fn free(&self, from: Timestamp, to: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let mut free = Vec::new();
        let mut begin = from;
        let mut monday = week_of(from);
        while begin < to && monday < to {
            for (busy_from, busy_to) in &self.0 {
                let busy = (monday.plus(minutes(*busy_from)), monday.plus(minutes(*busy_to)));
                if busy.1 <= begin || busy.0 >= to {
                    continue;
                }
                if busy.0 > begin {
                    free.push((begin, busy.0));
                }
                begin = busy.1;
            }
            monday = monday.plus(minutes(MINUTES_OF_A_WEEK));
        }
        if begin < to {
            free.push((begin, to));
        }
        free
    }

    /// Whether a time is busy.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        let monday = week_of(time);
        self.0
            .iter()
            .any(|(from, to)| monday.plus(minutes(*from)) <= time && time < monday.plus(minutes(*to)))
    }
}

impl fmt::Display for BusyHours {
    /// `Mon 08:00 to Mon 18:00, …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = |minute: u32| {
            let day = usize::try_from(minute / MINUTES_OF_A_DAY % 7).unwrap_or(0);
            format!("{} {:02}:{:02}", DAYS[day], minute % MINUTES_OF_A_DAY / 60, minute % 60)
        };
        let spans: Vec<_> =
            self.0.iter().map(|(from, to)| format!("{} to {}", point(*from), point(*to))).collect();
        f.write_str(&spans.join(", "))
    }
}

fn minutes(count: u32) -> Duration {
    Duration::from_mins(u64::from(count))
}

/// The Monday, 00:00 UTC, on or before a time.
fn week_of(time: Timestamp) -> Timestamp {
    const WEEK_MILLIS: i64 = MINUTES_OF_A_WEEK as i64 * 60_000;
    // 1970-01-01 was a Thursday: three days after a Monday.
    const THURSDAY_MILLIS: i64 = 3 * 24 * 3_600_000;
    let shifted = time.as_millis().saturating_add(THURSDAY_MILLIS);
    Timestamp::from_millis(shifted.div_euclid(WEEK_MILLIS) * WEEK_MILLIS - THURSDAY_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(rules: &[&str]) -> BusyHours {
        rules.iter().map(|rule| rule.parse::<BusyRule>().unwrap()).collect()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::from_rfc3339(text).unwrap()
    }

    #[test]
    fn working_hours_are_busy_and_nothing_else() {
        let busy = busy(&["Mon-Fri 08:00-18:00"]);
        // A Monday.
        for time in ["2026-11-23T08:00:00Z", "2026-11-23T17:59:59Z", "2026-11-27T12:00:00Z"] {
            assert!(busy.contains(at(time)), "{time}");
        }
        for time in
            ["2026-11-23T07:59:59Z", "2026-11-23T18:00:00Z", "2026-11-28T12:00:00Z", "2026-11-29T12:00:00Z"]
        {
            assert!(!busy.contains(at(time)), "{time}");
        }
        let free = busy.free(at("2026-11-27T17:00:00Z"), at("2026-11-30T09:00:00Z"));
        assert_eq!(free, [(at("2026-11-27T18:00:00Z"), at("2026-11-30T08:00:00Z"))]);
    }

    #[test]
    fn rules_run_over_midnight_and_over_the_end_of_the_week() {
        let night = busy(&["Sun 22:00-02:00"]);
        assert!(night.contains(at("2026-11-29T23:00:00Z")) && night.contains(at("2026-11-30T01:59:59Z")));
        assert!(!night.contains(at("2026-11-30T02:00:00Z")) && !night.contains(at("2026-11-29T01:00:00Z")));
        let weekend = busy(&["Sat-Mon 00:00-24:00"]);
        assert!(weekend.contains(at("2026-11-28T00:00:00Z")) && weekend.contains(at("2026-11-30T23:59:59Z")));
        assert!(!weekend.contains(at("2026-12-01T00:00:00Z")));
        assert_eq!(busy(&["00:00-24:00"]).free(at("2026-11-01T00:00:00Z"), at("2027-11-01T00:00:00Z")), []);
    }

    #[test]
    fn rules_that_overlap_count_once() {
        let both = busy(&["08:00-12:00", "Mon 10:00-18:00"]);
        let free = both.free(at("2026-11-23T00:00:00Z"), at("2026-11-24T00:00:00Z"));
        assert_eq!(
            free,
            [
                (at("2026-11-23T00:00:00Z"), at("2026-11-23T08:00:00Z")),
                (at("2026-11-23T18:00:00Z"), at("2026-11-24T00:00:00Z"))
            ]
        );
    }

    #[test]
    fn what_is_no_time_of_the_week_is_refused() {
        for bad in [
            "",
            "Mon",
            "Mon-Fri",
            "08:00",
            "8:00-18:00",
            "08:00-25:00",
            "08:60-09:00",
            "08:00-08:00",
            "24:00-01:00",
            "Mo 08:00-18:00",
            "Mon-Fri 08:00",
            "Mon Fri 08:00-18:00",
            "+8:00-18:00",
        ] {
            assert!(bad.parse::<BusyRule>().is_err(), "{bad}");
        }
        assert!("mon-FRI  08:00-24:00".parse::<BusyRule>().is_ok());
    }
}
