//! Two things that tantivy's weights and scorers expect to be asked for rightly, and are not always.
//!
//! A part of a query that may match is asked to explain every hit, also those it has no share in. Most of tantivy's weights seek
//! there from their first document on, which is only allowed forwards (an assertion in its debug builds). [`checked`] looks first.
//!
//! An exclusion is asked whether it holds documents that lie before its first one, which phrases do not expect; [`excluded`] answers
//! those itself.

use tantivy::index::SegmentReader;
use tantivy::query::{EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::{DocId, DocSet, Score, SeekDangerResult, TERMINATED, TantivyError, Term};

/// See the module docs.
pub(super) fn checked(query: Box<dyn Query>) -> Box<dyn Query> {
    if query.is::<Checked>() { query } else { Box::new(Checked(query)) }
}

#[derive(Debug)]
struct Checked(Box<dyn Query>);

impl Clone for Checked {
    fn clone(&self) -> Self {
        Self(self.0.box_clone())
    }
}

impl Query for Checked {
    fn weight(&self, enable_scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(CheckedWeight(self.0.weight(enable_scoring)?)))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.0.query_terms(visitor);
    }
}

struct CheckedWeight(Box<dyn Weight>);

impl Weight for CheckedWeight {
    fn scorer(&self, segment: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        self.0.scorer(segment, boost)
    }

    fn explain(&self, segment: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        let mut scorer = self.0.scorer(segment, 1.0)?;
        if scorer.doc() > doc || scorer.seek(doc) != doc {
            return Err(TantivyError::InvalidArgument(format!("document {doc} does not match")));
        }
        self.0.explain(segment, doc)
    }

    fn count(&self, segment: &SegmentReader) -> tantivy::Result<u32> {
        self.0.count(segment)
    }

    fn for_each(&self, segment: &SegmentReader, callback: &mut dyn FnMut(DocId, Score)) -> tantivy::Result<()> {
        self.0.for_each(segment, callback)
    }

    fn for_each_no_score(&self, segment: &SegmentReader, callback: &mut dyn FnMut(&[DocId])) -> tantivy::Result<()> {
        self.0.for_each_no_score(segment, callback)
    }

    fn for_each_pruning(
        &self,
        threshold: Score,
        segment: &SegmentReader,
        callback: &mut dyn FnMut(DocId, Score) -> Score,
    ) -> tantivy::Result<()> {
        self.0.for_each_pruning(threshold, segment, callback)
    }
}

/// See the module docs; for queries that exclude, which have no scores.
pub(super) fn excluded(query: Box<dyn Query>) -> Box<dyn Query> {
    Box::new(Excluded(query))
}

#[derive(Debug)]
struct Excluded(Box<dyn Query>);

impl Clone for Excluded {
    fn clone(&self) -> Self {
        Self(self.0.box_clone())
    }
}

impl Query for Excluded {
    fn weight(&self, enable_scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(ExcludedWeight(self.0.weight(enable_scoring)?)))
    }

    fn query_terms<'a>(&'a self, visitor: &mut dyn FnMut(&'a Term, bool)) {
        self.0.query_terms(visitor);
    }
}

struct ExcludedWeight(Box<dyn Weight>);

impl Weight for ExcludedWeight {
    fn scorer(&self, segment: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let inner = self.0.scorer(segment, boost)?;
        let next = inner.doc();
        Ok(Box::new(Forward { inner, next }))
    }

    fn explain(&self, segment: &SegmentReader, doc: DocId) -> tantivy::Result<Explanation> {
        self.0.explain(segment, doc)
    }
}

/// Only ever moves the scorer forwards.
struct Forward {
    inner: Box<dyn Scorer>,
    /// No document before this one is left.
    next: DocId,
}

impl DocSet for Forward {
    fn advance(&mut self) -> DocId {
        self.next = self.inner.advance();
        self.next
    }

    fn seek(&mut self, target: DocId) -> DocId {
        if self.next < target {
            self.next = self.inner.seek(target);
        }
        self.next
    }

    fn seek_danger(&mut self, target: DocId) -> SeekDangerResult {
        if target < self.next || self.next == TERMINATED {
            return SeekDangerResult::SeekLowerBound(self.next);
        }
        let result = self.inner.seek_danger(target);
        self.next = match result {
            SeekDangerResult::Found => target,
            SeekDangerResult::SeekLowerBound(next) => next,
        };
        result
    }

    fn doc(&self) -> DocId {
        self.next
    }

    fn size_hint(&self) -> u32 {
        self.inner.size_hint()
    }

    fn cost(&self) -> u64 {
        self.inner.cost()
    }
}

impl Scorer for Forward {
    fn score(&mut self) -> Score {
        self.inner.score()
    }
}
