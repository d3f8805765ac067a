//! Pages of records as the source gives them, cut into batches.
//!
//! Keys, values and headers stay the JSON that came: they are copied into the target's body as they are, so that nothing is lost
//! on the way.

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A record of a page.
#[derive(Clone, Copy, Deserialize)]
pub struct Stored<'a> {
    /// Where it is in the source.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// A string or null, if the key is text.
    #[serde(borrow, default, deserialize_with = "present")]
    pub key: Option<&'a RawValue>,
    /// The key otherwise.
    #[serde(borrow, default, deserialize_with = "present")]
    pub key_base64: Option<&'a RawValue>,
    /// The value, if it is JSON.
    #[serde(borrow, default, deserialize_with = "present")]
    pub value: Option<&'a RawValue>,
    /// The value otherwise.
    #[serde(borrow, default, deserialize_with = "present")]
    pub value_base64: Option<&'a RawValue>,
    /// An object.
    #[serde(borrow)]
    pub headers: &'a RawValue,
}

/// Null is a value here, not the absence of one.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_offset: u64,
    end_offset: u64,
}

/// What one read of the source gave.
pub struct Page<'a> {
    records: Vec<(Stored<'a>, &'a RawValue)>,
    /// Where the next read goes on; behind the last record by what is not there any more.
    pub next_offset: u64,
    /// The committed end at that time, exclusive.
    pub end_offset: u64,
}

impl<'a> Page<'a> {
    /// Reads a page.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let page: RawPage<'a> = serde_json::from_slice(bytes).context("the answer is not a page of records")?;
        let records =
            page.records.into_iter().map(|raw| Ok((serde_json::from_str(raw.get()).context("a record is not one")?, raw)));
        Ok(Self { records: records.collect::<Result<_>>()?, next_offset: page.next_offset, end_offset: page.end_offset })
    }

    /// The records in order, as batches of at most `bytes_max` of JSON, or of one record that is larger.
    pub fn batches(&self, bytes_max: usize) -> Vec<Batch<'_>> {
        let mut batches = Vec::new();
        let mut rest = self.records.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|(_, raw)| {
                bytes += raw.get().len();
                bytes <= bytes_max
            });
            let (records, after) = rest.split_at(fits.count().max(1));
            rest = after;
            let next_offset = after.first().map_or(self.next_offset, |(next, _)| next.offset);
            batches.push(Batch { records, next_offset });
        }
        batches
    }
}

/// Records that go out together.
pub struct Batch<'a> {
    /// Never empty; each with its own text.
    pub records: &'a [(Stored<'a>, &'a RawValue)],
    /// Where the cursor goes when they are confirmed.
    pub next_offset: u64,
}

impl Batch<'_> {
    /// The offsets of the first and the last record.
    pub fn range(&self) -> (u64, u64) {
        let offset = |record: Option<&(Stored<'_>, &RawValue)>| record.map_or(0, |(record, _)| record.offset);
        (offset(self.records.first()), offset(self.records.last()))
    }

    /// The JSON of its records.
    pub fn bytes(&self) -> usize {
        self.records.iter().map(|(_, raw)| raw.get().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_record_once_and_lead_to_the_end_of_the_page() {
        let record =
            |offset: u64| format!(r#"{{"offset":{offset},"timestamp":-1,"key":null,"value":"{offset}","headers":{{}}}}"#);
        // Compaction took 3 to 6 out, and what was behind 9.
        let records = [0, 1, 2, 7, 8, 9].map(record);
        let text = format!(r#"{{"records":[{}],"next_offset":12,"end_offset":20}}"#, records.join(","));
        let page = Page::parse(text.as_bytes()).unwrap();
        let one = records[0].len();
        let cut = |bytes_max: usize| -> Vec<(u64, u64, u64)> {
            let batches = page.batches(bytes_max);
            assert!(batches.iter().all(|batch| batch.bytes() <= bytes_max.max(one)));
            batches.iter().map(|batch| (batch.range().0, batch.range().1, batch.next_offset)).collect()
        };
        assert_eq!(cut(one * 2), [(0, 1, 2), (2, 7, 8), (8, 9, 12)]);
        assert_eq!(cut(one * 4 + 1), [(0, 7, 8), (8, 9, 12)]);
        assert_eq!(cut(1).len(), 6, "a record that is larger goes alone");
        assert_eq!(cut(1_000), [(0, 9, 12)]);
        let empty = Page::parse(br#"{"records":[],"next_offset":5,"end_offset":5}"#).unwrap();
        assert!(empty.batches(1).is_empty());
        assert!(Page::parse(b"{}").is_err());
    }
}
