//! The order of hits by facets, typed fields, scores and ids, and where a page after a given hit begins.
//!
//! [`crate::search`] makes [`Keys`] of a request's sort and collects with them; each hit carries its values as JSON, which the next
//! page's `search_after` gives back.
//!
//! # Invariants
//! - The order is total: hits whose keys are all equal are ordered by `_id`. So pages neither overlap nor leave out a hit, as long
//!   as the state of the table is the same.
//! - Of a field with several values the first counts. Numbers come before texts, whichever way is asked for.
//! - Texts are compared by their places in a segment's dictionary; only those of its best hits are read.
//! - Memory: twice the hits asked for, for each segment.

use std::cmp::Ordering;
use std::net::Ipv6Addr;
use std::ops::Bound;

use serde_json::Value;
use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::{Column, StrColumn};
use tantivy::error::DataCorruption;
use tantivy::{DateTime, DocAddress, DocId, Score, SegmentOrdinal, SegmentReader, TantivyError};

use crate::error::Error;
use crate::index::Typed;
use crate::index::values::{self, Number, integer_as_float};
use crate::request::SortKey;
use crate::table::DocumentSnapshot;

/// What a key compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Score,
    Id,
    /// Numbers, then texts.
    Any,
    /// The same, of a path that the mapping does not name.
    Dynamic,
    Text,
    Number,
    Date,
    Ip,
}

#[derive(Clone, Debug)]
struct Key {
    by: By,
    path: String,
    descending: bool,
    missing_first: bool,
}

/// The keys of an order.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Vec<Key>);

/// The value of a document for one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Sorted {
    Missing,
    Score(Score),
    /// As a float, and exactly where it is a whole number.
    Number(f64, Option<i64>),
    Ip(Ipv6Addr),
    /// A text's place among those of its segment: twice its ordinal, and one more unless it lies between two of them.
    Place(u64),
    Text(String),
}

impl Sorted {
    /// As a hit shows it.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Missing | Self::Place(_) => Value::Null,
            Self::Score(score) => Value::from(f64::from(*score)),
            Self::Number(_, Some(integer)) => Value::from(*integer),
            Self::Number(float, None) => Value::from(*float),
            Self::Ip(ip) => Value::from(ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |ip| ip.to_string())),
            Self::Text(text) => Value::from(text.as_str()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Score(_) | Self::Number(..) => 1,
            Self::Ip(_) => 2,
            Self::Place(_) | Self::Text(_) => 3,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Score(one), Self::Score(other)) => one.total_cmp(other),
            (Self::Number(one, exact), Self::Number(other, other_exact)) => {
                one.total_cmp(other).then_with(|| exact.cmp(other_exact))
            }
            (Self::Ip(one), Self::Ip(other)) => one.cmp(other),
            (Self::Place(one), Self::Place(other)) => one.cmp(other),
            (Self::Text(one), Self::Text(other)) => one.cmp(other),
            _ => Ordering::Equal,
        }
    }
}

impl Key {
    /// Which of two values comes first.
    fn order(&self, one: &Sorted, other: &Sorted) -> Ordering {
        match (one, other) {
            (Sorted::Missing, Sorted::Missing) => Ordering::Equal,
            (Sorted::Missing, _) => {
                if self.missing_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (_, Sorted::Missing) => {
                if self.missing_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (one, other) => one.rank().cmp(&other.rank()).then_with(|| {
                let order = one.compare(other);
                if self.descending { order.reverse() } else { order }
            }),
        }
    }

    /// Reads back what a hit showed.
    fn read(&self, value: &Value) -> Option<Sorted> {
        Some(match (self.by, value) {
            (_, Value::Null) if !matches!(self.by, By::Score | By::Id) => Sorted::Missing,
            (By::Score, value) => Sorted::Score(serde_json::from_value(value.clone()).ok()?),
            (By::Any, Value::Number(number)) => Sorted::Number(number.as_f64()?, None),
            (By::Number | By::Date | By::Dynamic, Value::Number(_)) => number(Number::of(value)?),
            (By::Any | By::Dynamic | By::Text | By::Id, Value::String(text)) => Sorted::Text(text.clone()),
            (By::Ip, Value::String(text)) => Sorted::Ip(values::ip(text)?),
            _ => return None,
        })
    }
}

fn number(number: Number) -> Sorted {
    match number {
        Number::Integer(integer) => Sorted::Number(number.float(), Some(integer)),
        Number::Fraction(float) => Sorted::Number(float, None),
    }
}

impl Keys {
    /// The keys of a request; `_id` is the last one, whether it was named or not.
    /// Where `lenient`, documents have no value of what nobody knows.
    pub(crate) fn of(snapshot: &DocumentSnapshot, sort: &[SortKey], lenient: bool) -> Result<Self, Error> {
        let mut keys = Vec::new();
        for SortKey { field, descending, missing_first } in sort {
            let field = snapshot.whole_values_of(field).unwrap_or(field);
            let by = match field {
                "_score" => By::Score,
                "_id" => By::Id,
                path if snapshot.shared.fields.path(path).is_none() && snapshot.dynamic.paths.contains(path) => By::Dynamic,
                path => match snapshot.shared.fields.facet(path).map(|facet| facet.typed) {
                    Err(Error::UnknownField { .. }) if lenient => By::Dynamic,
                    Err(error) => return Err(error),
                    Ok(Typed::Any { .. }) => By::Any,
                    Ok(Typed::Keyword | Typed::Boolean) => By::Text,
                    Ok(Typed::Number { .. }) => By::Number,
                    Ok(Typed::Date(_)) => By::Date,
                    Ok(Typed::Ip(_)) => By::Ip,
                },
            };
            keys.push(Key { by, path: field.to_owned(), descending: *descending, missing_first: *missing_first });
            if by == By::Id {
                return Ok(Self(keys));
            }
        }
        keys.push(Key { by: By::Id, path: "_id".to_owned(), descending: false, missing_first: false });
        Ok(Self(keys))
    }

    pub(crate) fn scores(&self) -> bool {
        self.0.iter().any(|key| key.by == By::Score)
    }

    /// The score among a hit's values.
    pub(crate) fn score_of(&self, values: &[Sorted]) -> Option<Score> {
        values.iter().find_map(|value| if let Sorted::Score(score) = value { Some(*score) } else { None })
    }

    /// Reads a request's `search_after`.
    pub(crate) fn read(&self, after: &[Value]) -> Result<Vec<Sorted>, Error> {
        let refuse = |message: String| Error::Request { at: "search_after".to_owned(), message };
        if after.len() != self.0.len() {
            let count = self.0.len();
            let message =
                format!("has {} values, the sort and `_id` are {count}; give the `sort` of the last hit as it came", after.len());
            return Err(refuse(message));
        }
        let read = self.0.iter().zip(after).map(|(key, value)| {
            key.read(value).ok_or_else(|| {
                refuse(format!("{value} can't be a value of `{}`; give the `sort` of the last hit as it came", key.path))
            })
        });
        read.collect()
    }

    /// Compares the values that both sides have.
    pub(crate) fn order(&self, one: &[Sorted], other: &[Sorted]) -> Ordering {
        let orders = self.0.iter().zip(one.iter().zip(other)).map(|(key, (one, other))| key.order(one, other));
        orders.fold(Ordering::Equal, Ordering::then)
    }
}

/// A hit and its values.
pub(crate) type SortedHit = (Vec<Sorted>, DocAddress);

/// Collects the first hits of an order, after a given place in it.
pub(crate) struct SortCollector {
    pub keys: Keys,
    pub after: Option<Vec<Sorted>>,
    /// Hits to collect, at least one.
    pub limit: usize,
}

impl Collector for SortCollector {
    type Fruit = Vec<SortedHit>;
    type Child = SegmentHits;

    fn for_segment(&self, ordinal: SegmentOrdinal, segment: &SegmentReader) -> tantivy::Result<SegmentHits> {
        let columns = self.keys.0.iter().map(|key| Values::open(segment, key)).collect::<tantivy::Result<Vec<_>>>()?;
        let placed = |after: &Vec<Sorted>| columns.iter().zip(after).map(|(column, value)| column.placed(value)).collect();
        let after = self.after.as_ref().map(placed).transpose()?;
        let keys = self.keys.clone();
        Ok(SegmentHits { keys, after, limit: self.limit, ordinal, columns, hits: Vec::new(), worst: None })
    }

    fn requires_scoring(&self) -> bool {
        self.keys.scores()
    }

    fn merge_fruits(&self, segments: Vec<tantivy::Result<Vec<SortedHit>>>) -> tantivy::Result<Vec<SortedHit>> {
        let mut hits = Vec::new();
        for segment in segments {
            hits.extend(segment?);
        }
        best(&self.keys, &mut hits, self.limit);
        Ok(hits)
    }
}

fn best(keys: &Keys, hits: &mut Vec<SortedHit>, limit: usize) {
    hits.sort_by(|(one, _), (other, _)| keys.order(one, other));
    hits.truncate(limit);
}

/// The hits of one segment.
pub(crate) struct SegmentHits {
    keys: Keys,
    after: Option<Vec<Sorted>>,
    limit: usize,
    ordinal: SegmentOrdinal,
    columns: Vec<Values>,
    hits: Vec<SortedHit>,
    /// The last of the best, once there are enough.
    worst: Option<Vec<Sorted>>,
}

impl SegmentCollector for SegmentHits {
    type Fruit = tantivy::Result<Vec<SortedHit>>;

    fn collect(&mut self, doc: DocId, score: Score) {
        let mut found = Vec::with_capacity(self.columns.len());
        for values in &self.columns {
            found.push(values.of(doc, score));
            // Most documents are out before their ids, or even their other values, have been read.
            let outside =
                |bound: &Option<Vec<Sorted>>, side| bound.as_ref().is_some_and(|bound| self.keys.order(&found, bound) == side);
            if outside(&self.worst, Ordering::Greater) || outside(&self.after, Ordering::Less) {
                return;
            }
        }
        if self.after.as_ref().is_some_and(|after| self.keys.order(&found, after) == Ordering::Equal) {
            return;
        }
        self.hits.push((found, DocAddress::new(self.ordinal, doc)));
        if self.hits.len() >= self.limit.saturating_mul(2) {
            best(&self.keys, &mut self.hits, self.limit);
            self.worst = self.hits.last().map(|(values, _)| values.clone());
        }
    }

    fn harvest(mut self) -> Self::Fruit {
        best(&self.keys, &mut self.hits, self.limit);
        for (values, _) in &mut self.hits {
            for (column, value) in self.columns.iter().zip(values) {
                column.resolve(value)?;
            }
        }
        Ok(self.hits)
    }
}

/// Where the values of one key are in a segment.
enum Values {
    Score,
    Text(Option<StrColumn>),
    Any(Option<Column<f64>>, Option<StrColumn>),
    Dynamic(Option<Column<i64>>, Option<Column<f64>>, Option<StrColumn>),
    Number(Option<Column<i64>>, Option<Column<f64>>),
    Date(Option<Column<DateTime>>),
    Ip(Option<Column<Ipv6Addr>>),
}

impl Values {
    fn open(segment: &SegmentReader, key: &Key) -> tantivy::Result<Self> {
        let (fast, path) = (segment.fast_fields(), &key.path);
        Ok(match key.by {
            By::Score => Self::Score,
            By::Id => Self::Text(fast.str("_id")?),
            By::Text => Self::Text(fast.str(&format!("k:{path}"))?),
            By::Any => Self::Any(fast.column_opt(&format!("n:{path}"))?, fast.str(&format!("k:{path}"))?),
            By::Dynamic => {
                let path = format!("_dynamic.{path}");
                Self::Dynamic(fast.column_opt(&path)?, fast.column_opt(&path)?, fast.str(&path)?)
            }
            By::Number => Self::Number(fast.column_opt(&format!("i:{path}"))?, fast.column_opt(&format!("f:{path}"))?),
            By::Date => Self::Date(fast.column_opt(&format!("d:{path}"))?),
            By::Ip => Self::Ip(fast.column_opt(&format!("p:{path}"))?),
        })
    }

    /// The texts of the column, if it has any.
    fn texts(&self) -> Option<&StrColumn> {
        match self {
            Self::Text(texts) | Self::Any(_, texts) | Self::Dynamic(_, _, texts) => texts.as_ref(),
            Self::Score | Self::Number(..) | Self::Date(_) | Self::Ip(_) => None,
        }
    }

    /// A text as its place in this segment.
    fn placed(&self, value: &Sorted) -> tantivy::Result<Sorted> {
        let (Some(texts), Sorted::Text(text)) = (self.texts(), value) else { return Ok(value.clone()) };
        let bounds = texts.dictionary().term_bounds_to_ord(Bound::Included(text.as_bytes()), Bound::Unbounded)?;
        let next = match bounds.0 {
            Bound::Included(ordinal) | Bound::Excluded(ordinal) => ordinal,
            Bound::Unbounded => 0,
        };
        let exact = u64::from(texts.dictionary().term_ord(text.as_bytes())?.is_some());
        Ok(Sorted::Place(next.saturating_mul(2).saturating_add(exact)))
    }

    /// A place as the text it stands for.
    fn resolve(&self, value: &mut Sorted) -> tantivy::Result<()> {
        if let (Some(texts), Sorted::Place(place)) = (self.texts(), &*value) {
            let mut text = String::new();
            if !texts.ord_to_str(place / 2, &mut text)? {
                return Err(TantivyError::DataCorruption(DataCorruption::comment_only("a value that is not in its dictionary")));
            }
            *value = Sorted::Text(text);
        }
        Ok(())
    }

    fn of(&self, doc: DocId, score: Score) -> Sorted {
        match self {
            Self::Score => Sorted::Score(score),
            Self::Text(column) => place(column.as_ref(), doc),
            Self::Any(numbers, texts) => match numbers.as_ref().and_then(|numbers| numbers.first(doc)) {
                Some(float) => Sorted::Number(float, None),
                None => place(texts.as_ref(), doc),
            },
            Self::Number(integers, fractions) => either(integers.as_ref(), fractions.as_ref(), doc),
            Self::Dynamic(integers, fractions, texts) => match either(integers.as_ref(), fractions.as_ref(), doc) {
                Sorted::Missing => place(texts.as_ref(), doc),
                number => number,
            },
            Self::Date(dates) => match dates.as_ref().and_then(|dates| dates.first(doc)) {
                Some(date) => number(Number::Integer(date.into_timestamp_millis())),
                None => Sorted::Missing,
            },
            Self::Ip(ips) => ips.as_ref().and_then(|ips| ips.first(doc)).map_or(Sorted::Missing, Sorted::Ip),
        }
    }
}

/// A whole number or another one.
fn either(integers: Option<&Column<i64>>, fractions: Option<&Column<f64>>, doc: DocId) -> Sorted {
    match integers.and_then(|integers| integers.first(doc)) {
        Some(integer) => Sorted::Number(integer_as_float(integer), Some(integer)),
        None => fractions.and_then(|fractions| fractions.first(doc)).map_or(Sorted::Missing, |float| Sorted::Number(float, None)),
    }
}

fn place(column: Option<&StrColumn>, doc: DocId) -> Sorted {
    let ordinal = column.and_then(|column| column.term_ords(doc).next());
    ordinal.map_or(Sorted::Missing, |ordinal| Sorted::Place(2 * ordinal + 1))
}
