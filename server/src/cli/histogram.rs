//! Latencies in buckets of equal relative width, for percentiles without keeping every sample.

use std::time::Duration;

/// Buckets for each power of two: values are exact to one part in 64.
const SUB_BITS: u32 = 6;
const BUCKETS: usize = 64 << SUB_BITS;

/// Counts of latencies.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The latency that `per_mille` of all do not exceed, in microseconds; 0 when nothing was counted.
    pub fn micros(&self, per_mille: u64) -> f64 {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return Duration::from_nanos(upper_end(at)).as_secs_f64() * 1e6;
            }
        }
        0.0
    }
}

/// Small values have a bucket each; above, the highest bits name the bucket.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let within = usize::try_from(value >> shift).expect("seven bits are left");
    (usize::try_from(shift).expect("less than 64") << SUB_BITS) + within
}

fn upper_end(bucket: usize) -> u64 {
    // Buckets of shift s hold within = 64..128, the first group also 0..64.
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let within = (bucket - (shift << SUB_BITS)) as u64;
    ((within + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_their_buckets_and_ends_are_near() {
        let mut last = 0;
        for value in (0..200).chain([1_000, 4_095, 4_096, 1_000_000, 123_456_789, 1 << 40]) {
            let at = bucket(value);
            assert!(at >= last && upper_end(at) >= value, "{value}");
            assert!(upper_end(at) - value <= value / 64, "{value} ends at {}", upper_end(at));
            last = at;
        }
    }

    #[test]
    fn percentiles_are_ranks() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        for (per_mille, micros) in [(500, 500.0), (990, 990.0), (999, 999.0)] {
            let found = histogram.micros(per_mille);
            assert!((found - micros).abs() <= micros / 32.0, "{found} for {micros}");
        }
        assert!(Histogram::default().micros(500).abs() < f64::EPSILON);
    }
}
