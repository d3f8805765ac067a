//! Zigzag variable-length integers, as Kafka's records use them. Called by [`super::batch`] only.

/// The longest one.
pub const BYTES_MAX: usize = 10;

const fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// Bytes that [`put`] will append for `value`.
#[must_use]
pub const fn len(value: i64) -> usize {
    // At least one byte, else one for each seven bits begun.
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

/// Takes one integer off the front of `input`; `None` when it ends early or is longer than [`BYTES_MAX`].
pub fn take(input: &mut &[u8]) -> Option<i64> {
    let mut raw = 0_u64;
    for (n, byte) in input.iter().enumerate().take(BYTES_MAX) {
        raw |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            *input = &input[n + 1..];
            return Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back() {
        let powers = (0..63).flat_map(|bit| [1_i64 << bit, -(1_i64 << bit), (1_i64 << bit) - 1]);
        for value in [0, 1, -1, 63, 64, -65, 300, i64::MAX, i64::MIN].into_iter().chain(powers) {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            let mut input = &out[..];
            assert_eq!(take(&mut input), Some(value));
            assert!(input.is_empty());
            assert_eq!(take(&mut &out[..out.len() - 1]), None, "a cut {value} is not a number");
        }
        assert_eq!(len(i64::MIN), BYTES_MAX);
    }
}
