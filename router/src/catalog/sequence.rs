//! What the catalog knows of a sequence: its bounds, and from where on numbers were surely never handed out.
//!
//! # Invariants
//! - A number is handed out only after a record of the catalog says that the numbers behind it are what is left: whatever
//!   happens then, it is not handed out a second time (but for CYCLE, `setval` and RESTART, which ask for it).

use rowstore::ColumnType;
use serde::{Deserialize, Serialize};

/// The column that a sequence belongs to, by the ids of table and column; it is dropped with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceOwner {
    /// The table's id.
    pub table: u32,
    /// The column's id.
    pub column: u32,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceDef {
    /// Never used again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// SMALLINT, INTEGER or BIGINT.
    pub kind: ColumnType,
    /// From one number to the next; never 0.
    pub increment: i64,
    /// The smallest number.
    pub min: i64,
    /// The largest number.
    pub max: i64,
    /// The first number.
    pub start: i64,
    /// Whether it begins again at its end.
    #[serde(default)]
    pub cycle: bool,
    /// The column it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SequenceOwner>,
    /// The next number that may be handed out after a start; none: there is none left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// Numbers that are taken out of a sequence together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberBlock {
    /// The first of them.
    pub first: i64,
    /// How many, at least one.
    pub count: u64,
    /// What is behind them.
    pub next: Option<i64>,
}

impl SequenceDef {
    /// The number after `number`, if there is one within the bounds.
    #[must_use]
    pub fn after(&self, number: i64) -> Option<i64> {
        number.checked_add(self.increment).filter(|next| (self.min..=self.max).contains(next))
    }

    /// Up to `wanted` numbers from where the sequence stands; `None` when it has ended.
    #[must_use]
    pub fn block(&self, wanted: u64) -> Option<NumberBlock> {
        let again = if self.increment > 0 { self.min } else { self.max };
        let first = self.next.or(self.cycle.then_some(again))?;
        let room =
            if self.increment > 0 { i128::from(self.max) - i128::from(first) } else { i128::from(first) - i128::from(self.min) };
        let left = room / i128::from(self.increment).abs() + 1;
        let count = left.min(i128::from(wanted.max(1))).max(1);
        let last = i128::from(first) + (count - 1) * i128::from(self.increment);
        let next = i64::try_from(last).ok().and_then(|last| self.after(last));
        Some(NumberBlock { first, count: u64::try_from(count).unwrap_or(1), next })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn sequence(increment: i64, min: i64, max: i64, next: Option<i64>) -> SequenceDef {
        let (id, start) = (1, next.unwrap_or(min));
        SequenceDef {
            id,
            name: "s".into(),
            kind: ColumnType::BigInt,
            increment,
            min,
            max,
            start,
            cycle: false,
            owner: None,
            next,
        }
    }

    #[test]
    fn blocks_end_where_the_sequence_does() {
        let up = sequence(1, 1, 10, Some(4));
        assert_eq!(up.block(3).unwrap(), NumberBlock { first: 4, count: 3, next: Some(7) });
        assert_eq!(up.block(100).unwrap(), NumberBlock { first: 4, count: 7, next: None });
        assert_eq!(sequence(1, 1, 10, None).block(1), None);
        let down = sequence(-5, i64::MIN, -1, Some(-1));
        assert_eq!(down.block(2).unwrap(), NumberBlock { first: -1, count: 2, next: Some(-11) });
        let edge = sequence(3, 1, i64::MAX, Some(i64::MAX - 1));
        assert_eq!(edge.block(8).unwrap(), NumberBlock { first: i64::MAX - 1, count: 1, next: None });
        let again = SequenceDef { cycle: true, ..sequence(1, 1, 3, None) };
        assert_eq!(again.block(9).unwrap(), NumberBlock { first: 1, count: 3, next: None });
    }
}
