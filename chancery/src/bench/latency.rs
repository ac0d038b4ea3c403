//! Latencies of one measurement and their percentiles.

use std::time::Duration;

/// How long each of many things took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    microseconds: Vec<u64>,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, span: Duration) {
        self.microseconds.push(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds all of the other's.
    pub fn append(&mut self, mut other: Self) {
        self.microseconds.append(&mut other.microseconds);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.microseconds.len()
    }

    /// For each of `percents`, the smallest latency that at least so many of 100 did not exceed (nearest rank); zero if
    /// there is none.
    #[must_use]
    pub fn percentiles<const N: usize>(&self, percents: [usize; N]) -> [Duration; N] {
        let mut sorted = self.microseconds.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let rank = (sorted.len() * percent.min(100)).div_ceil(100);
            Duration::from_micros(sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default())
        })
    }
}

/// How many a second; zero if there was no time.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of a short measurement, shown with few digits")]
pub fn rate(count: usize, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { count as f64 / span.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentiles([50]), [Duration::ZERO]);
        for milliseconds in (1..=200).rev() {
            latencies.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(latencies.percentiles([50, 99, 100]), [100, 198, 200].map(Duration::from_millis));
    }
}
