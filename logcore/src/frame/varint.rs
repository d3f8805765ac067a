//! Zigzag variable-length integers, as Kafka's records use them. Called by [`super::batch`] only.

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

/// Takes one integer off the front of `input`; `None` when it ends early or is longer than ten bytes.
pub fn take(input: &mut &[u8]) -> Option<i64> {
    let mut raw = 0_u64;
    for (n, byte) in input.iter().enumerate().take(10) {
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
        for value in [0, 1, -1, 63, 64, -65, 300, i64::MAX, i64::MIN, 1 << 40] {
            let mut out = Vec::new();
            put(&mut out, value);
            let mut input = &out[..];
            assert_eq!(take(&mut input), Some(value));
            assert!(input.is_empty());
            assert_eq!(take(&mut &out[..out.len() - 1]), None, "a cut {value} is not a number");
        }
    }
}
