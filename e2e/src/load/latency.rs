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

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.microseconds.iter().sum())
    }

    /// The smallest latency that at least `percent` of 100 did not exceed (nearest rank); zero if there is none.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.microseconds.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100)).div_ceil(100);
        Duration::from_micros(sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(50), Duration::ZERO);
        for milliseconds in (1..=200).rev() {
            latencies.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(latencies.percentile(50), Duration::from_millis(100));
        assert_eq!(latencies.percentile(99), Duration::from_millis(198));
        assert_eq!(latencies.percentile(100), Duration::from_millis(200));
    }
}
