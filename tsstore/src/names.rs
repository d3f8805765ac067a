//! The names of series: tag values as numbers, and each combination of them as the number of a series.
//!
//! [`Interner`] belongs to the materializer, which asks for the series of every point; [`Names`] is what readers need to say a
//! series' tags again. Numbers are given in the order of the log and never change, so that blocks and chunk files hold four bytes
//! instead of tags, and one combination of tags is stored once however many chunk files have points of it.
//!
//! # Invariants
//! - Value number 0 is "none". A key lists the value numbers of the tags by tag number; what is missing at its end is none, so
//!   that keys stay as they are when tags are added.
//! - Names only grow: what a snapshot holds is a prefix of what comes later.
//!
//! # Memory
//! A series takes about 16 bytes for its key and 16 for finding it, a value 4 bytes beside its text and 16 for finding it.
//!
//! # Not done
//! Names stay when all points of their series were deleted, until the view is rebuilt.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use logcore::types::len_u32;

use crate::chunk::wire::{Damage, Input, put_packed};

/// Entries of a segment: what a writer copies at most when readers hold on to the last one.
const SEGMENT: usize = 4096;
/// Parts of a hash table that grow one by one, so that no growth takes long.
const SHARDS: usize = 64;
/// So many texts are compared rather than hashed.
const FEW: usize = 8;

#[derive(Clone, Debug, Default)]
struct Values {
    text: String,
    ends: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Keys {
    codes: Vec<u32>,
    ends: Vec<u32>,
}

/// The names of all series up to some moment. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    values: Vec<Arc<Values>>,
    value_count: u32,
    keys: Vec<Arc<Keys>>,
    series_count: u32,
}

/// Adds to a list of segments.
fn tail<T: Clone + Default>(segments: &mut Vec<Arc<T>>, count: u32) -> &mut T {
    if (count as usize).is_multiple_of(SEGMENT) {
        segments.push(Arc::new(T::default()));
    }
    Arc::make_mut(segments.last_mut().expect("just made when there was none"))
}

fn range(ends: &[u32], at: usize) -> std::ops::Range<usize> {
    let start = if at == 0 { 0 } else { ends[at - 1] as usize };
    start..ends[at] as usize
}

impl Names {
    /// How many series there are; their numbers are below.
    pub fn series_count(&self) -> u32 {
        self.series_count
    }

    fn value(&self, code: u32) -> &str {
        let at = code as usize - 1;
        let segment = &self.values[at / SEGMENT];
        &segment.text[range(&segment.ends, at % SEGMENT)]
    }

    fn key(&self, series: u32) -> &[u32] {
        let at = series as usize;
        let segment = &self.keys[at / SEGMENT];
        &segment.codes[range(&segment.ends, at % SEGMENT)]
    }

    /// The number of a series' value of a tag, 0 when it has none.
    pub fn code(&self, series: u32, tag: usize) -> u32 {
        self.key(series).get(tag).copied().unwrap_or(0)
    }

    /// The value of this number.
    pub fn text(&self, code: u32) -> Option<&str> {
        (code != 0).then(|| self.value(code))
    }

    /// The order of tags: by the values of the first tag, then of the second and so on; none comes first.
    pub fn compare(&self, a: u32, b: u32) -> Ordering {
        let (a, b) = (self.key(a), self.key(b));
        for at in 0..a.len().max(b.len()) {
            let (a, b) = (a.get(at).copied().unwrap_or(0), b.get(at).copied().unwrap_or(0));
            if a != b {
                return if a == 0 || b == 0 { a.cmp(&b) } else { self.value(a).cmp(self.value(b)) };
            }
        }
        Ordering::Equal
    }

    /// Which series have, for each tag of `wanted`, one of its values (`None`: no value).
    pub fn matching(&self, wanted: &[(usize, Vec<Option<String>>)]) -> Vec<bool> {
        let mut all = vec![true; self.series_count as usize];
        for (tag, values) in wanted {
            let texts: std::collections::HashSet<&str> = values.iter().flatten().map(String::as_str).collect();
            let mut is_wanted = vec![false; self.value_count as usize + 1];
            is_wanted[0] = values.contains(&None);
            if !texts.is_empty() {
                let few: Vec<&str> = texts.iter().copied().collect();
                let is_hit = |text: &str| if few.len() <= FEW { few.contains(&text) } else { texts.contains(text) };
                (1..=self.value_count).for_each(|code| is_wanted[code as usize] = is_hit(self.value(code)));
            }
            for (series, hit) in (0..self.series_count).zip(&mut all) {
                *hit = *hit && is_wanted[self.code(series, *tag) as usize];
            }
        }
        all
    }

    fn push_value(&mut self, text: &str) -> u32 {
        let tail = tail(&mut self.values, self.value_count);
        tail.text.push_str(text);
        tail.ends.push(len_u32(tail.text.len()));
        self.value_count += 1;
        self.value_count
    }

    fn push_key(&mut self, key: &[u32]) -> u32 {
        let tail = tail(&mut self.keys, self.series_count);
        tail.codes.extend_from_slice(key);
        tail.ends.push(len_u32(tail.codes.len()));
        self.series_count += 1;
        self.series_count - 1
    }

    /// How many values and series there are.
    pub fn counts(&self) -> (u32, u32) {
        (self.value_count, self.series_count)
    }

    /// What was added since there were `from` values and series.
    pub fn encode(&self, from: (u32, u32)) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [from.0, self.value_count, from.1, self.series_count] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let (mut lengths, mut text) = (Vec::new(), Vec::new());
        for value in (from.0..self.value_count).map(|at| self.value(at + 1)) {
            lengths.extend_from_slice(&len_u32(value.len()).to_le_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        let (mut key_lengths, mut codes) = (Vec::new(), Vec::new());
        for key in (from.1..self.series_count).map(|at| self.key(at)) {
            key_lengths.extend_from_slice(&len_u32(key.len()).to_le_bytes());
            key.iter().for_each(|code| codes.extend_from_slice(&code.to_le_bytes()));
        }
        [lengths, text, key_lengths, codes].iter().for_each(|raw| put_packed(&mut out, raw));
        out
    }

    /// Adds what [`Self::encode`] wrote; it must begin where these names end.
    pub fn extend(&mut self, raw: &[u8]) -> Result<(), Damage> {
        let mut input = Input::new(raw);
        let (value_from, values, series_from, series) = (input.u32()?, input.u32()?, input.u32()?, input.u32()?);
        if (value_from, series_from) != self.counts() || values < value_from || series < series_from {
            return Err("its names don't begin where the ones before end");
        }
        let (lengths, text, key_lengths, codes) = (input.packed()?, input.packed()?, input.packed()?, input.packed()?);
        input.end()?;
        let text = std::str::from_utf8(&text).map_err(|_| "a name in it is not UTF-8")?;
        let (mut text, codes) = (text, words(&codes)?);
        let (lengths, key_lengths) = (words(&lengths)?, words(&key_lengths)?);
        if lengths.len() != (values - value_from) as usize || key_lengths.len() != (series - series_from) as usize {
            return Err("it holds more or fewer names than it says");
        }
        for length in lengths {
            let (value, rest) = text.split_at_checked(length as usize).ok_or("its names don't fill their space")?;
            self.push_value(value);
            text = rest;
        }
        let mut codes = codes.as_slice();
        for length in key_lengths {
            let (key, rest) = codes.split_at_checked(length as usize).ok_or("its keys don't fill their space")?;
            if key.iter().any(|&code| code > values) {
                return Err("a series in it has a tag that is not named");
            }
            self.push_key(key);
            codes = rest;
        }
        if text.is_empty() && codes.is_empty() { Ok(()) } else { Err("its names don't fill their space") }
    }
}

fn words(raw: &[u8]) -> Result<Vec<u32>, Damage> {
    let (words, rest) = raw.as_chunks();
    if rest.is_empty() { Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect()) } else { Err("a list in it is cut") }
}

/// Numbers by hash: open addressing in shards.
#[derive(Default)]
struct Finder {
    shards: Vec<Shard>,
}

#[derive(Clone, Default)]
struct Shard {
    /// The low half of the hash, and the number plus one; 0 is free.
    slots: Vec<(u32, u32)>,
    used: usize,
}

fn halves(hash: u64) -> (u32, usize) {
    let low = u32::try_from(hash & u64::from(u32::MAX)).expect("masked");
    (low, logcore::types::index(hash >> 58))
}

impl Finder {
    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (low, shard) = halves(hash);
        let slots = &self.shards.get(shard)?.slots;
        let mask = slots.len().checked_sub(1)?;
        let mut at = low as usize & mask;
        while slots[at].1 != 0 {
            if slots[at].0 == low && is_it(slots[at].1 - 1) {
                return Some(slots[at].1 - 1);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let (low, shard) = halves(hash);
        self.shards.resize(SHARDS, Shard::default());
        let shard = &mut self.shards[shard];
        if shard.used * 4 >= shard.slots.len() * 3 {
            let doubled = vec![(0, 0); (shard.slots.len() * 2).max(16)];
            for slot in std::mem::replace(&mut shard.slots, doubled).into_iter().filter(|slot| slot.1 != 0) {
                shard.put(slot);
            }
        }
        shard.put((low, number + 1));
        shard.used += 1;
    }
}

impl Shard {
    fn put(&mut self, slot: (u32, u32)) {
        let mask = self.slots.len() - 1;
        let mut at = slot.0 as usize & mask;
        while self.slots[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

/// Gives out numbers.
pub(crate) struct Interner {
    names: Names,
    hashes: RandomState,
    values: Finder,
    keys: Finder,
}

impl Interner {
    /// Goes on from `names`.
    pub fn new(names: Names) -> Self {
        let mut this = Self { names, hashes: RandomState::new(), values: Finder::default(), keys: Finder::default() };
        for code in 1..=this.names.value_count {
            let hash = this.hashes.hash_one(this.names.value(code));
            this.values.insert(hash, code);
        }
        for series in 0..this.names.series_count {
            let hash = this.hashes.hash_one(this.names.key(series));
            this.keys.insert(hash, series);
        }
        this
    }

    /// What was named so far.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The number of a value.
    pub fn value(&mut self, text: &str) -> u32 {
        let hash = self.hashes.hash_one(text);
        if let Some(code) = self.values.find(hash, |code| self.names.value(code) == text) {
            return code;
        }
        let code = self.names.push_value(text);
        self.values.insert(hash, code);
        code
    }

    /// The number of the series whose tags have these values.
    pub fn series(&mut self, key: &[u32]) -> u32 {
        let key = &key[..key.iter().rposition(|&code| code != 0).map_or(0, |last| last + 1)];
        let hash = self.hashes.hash_one(key);
        if let Some(series) = self.keys.find(hash, |series| self.names.key(series) == key) {
            return series;
        }
        let series = self.names.push_key(key);
        self.keys.insert(hash, series);
        series
    }
}

/// The place of each series in the order of tags. Series that come later take places between: only comparisons stay true.
#[derive(Debug, Default)]
pub(crate) struct Ranks {
    rank: Vec<u32>,
    order: Vec<u32>,
}

impl Ranks {
    /// How many series are ordered.
    pub fn len(&self) -> u32 {
        len_u32(self.rank.len())
    }

    /// The place of a series.
    pub fn of(&self, series: u32) -> u32 {
        self.rank[series as usize]
    }

    /// Orders the series that `names` has more, too.
    pub fn grown(&self, names: &Names) -> Self {
        let mut new: Vec<u32> = (self.len()..names.series_count()).collect();
        new.sort_unstable_by(|&a, &b| names.compare(a, b));
        let mut order = Vec::with_capacity(names.series_count() as usize);
        let mut known = self.order.iter().copied().peekable();
        for series in new {
            while let Some(before) = known.next_if(|&known| names.compare(known, series).is_lt()) {
                order.push(before);
            }
            order.push(series);
        }
        order.extend(known);
        let mut rank = vec![0; order.len()];
        for (place, &series) in (0..).zip(&order) {
            rank[series as usize] = place;
        }
        Self { rank, order }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_order_and_from_their_bytes() {
        let mut interner = Interner::new(Names::default());
        let mut wanted = Vec::new();
        for n in 0..10_000_u32 {
            let host = format!("host-{}", n * 7 % 5000);
            let key = [interner.value(&host), if n % 3 == 0 { 0 } else { interner.value("west") }];
            wanted.push((interner.series(&key), host, n % 3 != 0));
        }
        let mut read = Names::default();
        let mut ranks = Ranks::default();
        let all = interner.names().clone();
        read.extend(&all.encode((0, 0))).expect("whole");
        assert_eq!(read.counts(), all.counts());
        for (series, host, west) in &wanted {
            assert_eq!(
                (read.text(read.code(*series, 0)), read.text(read.code(*series, 1))),
                (Some(host.as_str()), west.then_some("west"))
            );
        }
        let mut more = Interner::new(read);
        assert_eq!(more.value("host-7"), interner.value("host-7"));
        ranks = ranks.grown(&all);
        let code = more.value("a new one");
        let late = more.series(&[code]);
        ranks = ranks.grown(more.names());
        assert_eq!((late, ranks.of(late)), (all.series_count(), 0), "it sorts before the hosts");
        for pair in ranks.order.windows(2) {
            assert!(more.names().compare(pair[0], pair[1]).is_lt());
        }
        let hits = more.names().matching(&[(0, vec![Some("host-7".into()), None]), (1, vec![None])]);
        assert_eq!(hits.iter().filter(|hit| **hit).count(), 1);
    }

    #[test]
    fn damaged_names_are_refused() {
        let mut interner = Interner::new(Names::default());
        let key = [interner.value("a"), interner.value("b")];
        interner.series(&key);
        let whole = interner.names().encode((0, 0));
        for at in 0..whole.len() {
            assert!(Names::default().extend(&whole[..at]).is_err(), "cut to {at}");
            let mut damaged = whole.clone();
            damaged[at] ^= 0x41;
            let _ = Names::default().extend(&damaged);
        }
    }
}
