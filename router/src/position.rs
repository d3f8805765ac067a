//! Positions and cuts as people write them: `commits/0@1234`, several separated by commas.
//!
//! A position names a record: its offset is inclusive. A [`Cut`] says how far something has seen each partition; written out,
//! each part is the last offset inside. Parsed from `wait`, printed in every answer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use logcore::Offset;
use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// For each partition, an exclusive end: everything below it is inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    ends: BTreeMap<(String, u32), Offset>,
}

impl Cut {
    /// A cut that asks for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it names no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Raises the end of a partition to `end`, exclusive; never lowers it.
    pub fn raise(&mut self, stream: &str, partition: u32, end: Offset) {
        let slot = self.ends.entry((stream.to_owned(), partition)).or_default();
        *slot = (*slot).max(end);
    }

    /// The end for a partition, exclusive, if it is named.
    #[must_use]
    pub fn end(&self, stream: &str, partition: u32) -> Option<Offset> {
        self.ends.get(&(stream.to_owned(), partition)).copied()
    }

    /// Stream, partition and exclusive end, in order.
    pub fn ends(&self) -> impl Iterator<Item = (&str, u32, Offset)> {
        self.ends.iter().map(|((stream, partition), end)| (stream.as_str(), *partition, *end))
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (stream, partition, end) in self.ends() {
            // A partition nothing was seen of has no last offset to name.
            let Some(last) = end.before() else { continue };
            write!(f, "{}{stream}/{partition}@{last}", if first { "" } else { "," })?;
            first = false;
        }
        Ok(())
    }
}

impl FromStr for Cut {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut cut = Self::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let bad = || {
                Error::invalid(format!("\"{part}\" is not a position"))
                    .hint("write stream/partition@offset, as in commits/0@1234")
            };
            let (place, offset) = part.rsplit_once('@').ok_or_else(bad)?;
            let (stream, partition) = place.rsplit_once('/').ok_or_else(bad)?;
            let offset: u64 = offset.parse().map_err(|_| bad())?;
            let end = offset.checked_add(1).ok_or_else(bad)?;
            if stream.is_empty() {
                return Err(bad());
            }
            cut.raise(stream, partition.parse().map_err(|_| bad())?, Offset::new(end));
        }
        Ok(cut)
    }
}

impl Serialize for Cut {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_inclusive_and_come_back_as_written() {
        let cut: Cut = "b.c/1@9, a/0@0".parse().unwrap();
        assert_eq!(cut.end("b.c", 1), Some(Offset::new(10)));
        assert_eq!(cut.to_string(), "a/0@0,b.c/1@9");
        for bad in ["a", "a/0", "a@1", "a/0@-1", "/0@1", "a/x@1", "a/0@18446744073709551615"] {
            assert!(bad.parse::<Cut>().unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
