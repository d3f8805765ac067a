//! The lookups a query is made of: words, phrases, values, prefixes and ranges of one path each.

use std::ops::Bound;

use tantivy::Term;
use tantivy::query::{
    AllQuery, ConstScoreQuery, EmptyQuery, FuzzyTermQuery, Occur, PhraseQuery, Query, RangeQuery, TermQuery, TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};

use super::{Compiled, Compiler, boolean, is_plain_text};
use crate::error::Error;
use crate::highlight::Mark;
use crate::index::FacetFields;
use crate::mapping::{Analyzer, FACET_BYTES_MAX};
use crate::request::{Fuzziness, RangeValue};
use crate::text::{CLAUSES_MAX, Operator};

/// Longer words can't be prefixes or fuzzy: their automaton would be too large.
const AUTOMATON_BYTES_MAX: usize = 256;

/// The index field that a path means.
pub(super) enum Target<'a> {
    Text { path: &'a str, field: Field, analyzer: Analyzer },
    Keyword(Field),
}

impl<'a> Compiler<'a> {
    /// Documents with any of these ids.
    pub(crate) fn ids(&self, ids: &[String]) -> Box<dyn Query> {
        let fields = &self.shared.fields;
        match ids {
            [] => Box::new(EmptyQuery),
            [id] => Box::new(TermQuery::new(fields.id_term(id), IndexRecordOption::Basic)),
            ids => Box::new(TermSetQuery::new(ids.iter().map(|id| fields.id_term(id)))),
        }
    }

    /// Documents whose column of this facet is `value`, or more of them where the value is not a plain one.
    pub(crate) fn column_equals(&self, path: &str, value: &str) -> Result<Box<dyn Query>, Error> {
        let facet = self.shared.fields.facet(path)?;
        let mixed: Box<dyn Query> = Box::new(TermQuery::new(self.shared.fields.mixed_term(path), IndexRecordOption::Basic));
        if value.len() > FACET_BYTES_MAX {
            return Ok(mixed);
        }
        let same = Box::new(TermQuery::new(Term::from_field_text(facet.keyword, value), IndexRecordOption::Basic));
        let occur = if is_plain_text(value) { Occur::MustNot } else { Occur::Should };
        let same_occur = if occur == Occur::MustNot { Occur::Must } else { Occur::Should };
        Ok(boolean(vec![(same_occur, same), (occur, mixed)]).expect("there are two clauses"))
    }

    pub(super) fn target(&self, path: &'_ str, prefer_facet: bool) -> Result<Target<'a>, Error> {
        let fields = &self.shared.fields;
        if path == "_id" {
            return Ok(Target::Keyword(fields.id));
        }
        let found = fields.path(path).ok_or_else(|| Error::unknown_field(path, fields.names()))?;
        match (found.text, found.facet) {
            (_, Some(facet)) if prefer_facet => Ok(Target::Keyword(facet.keyword)),
            (Some((field, analyzer)), _) => Ok(Target::Text { path: &found.path, field, analyzer }),
            (None, Some(facet)) => Ok(Target::Keyword(facet.keyword)),
            (None, None) => unreachable!("a path is there because it is a search field or a facet"),
        }
    }

    /// Counts lookups against the limit.
    fn count(&mut self, clauses: usize) -> Result<(), Error> {
        self.clauses += clauses;
        if self.clauses > CLAUSES_MAX {
            let hint = "search for fewer terms, or in fewer fields";
            return Err(Error::TooLarge { what: "the number of terms to look up".to_owned(), max: CLAUSES_MAX, hint });
        }
        Ok(())
    }

    fn mark(&mut self, path: &str, mark: Mark) {
        if self.prohibited == 0 {
            let marks = self.marks.entry(path.to_owned()).or_default();
            if !marks.contains(&mark) {
                marks.push(mark);
            }
        }
    }

    fn analyse(&self, field: Field, text: &str) -> Result<Vec<(usize, String)>, Error> {
        let mut analyzer = self.shared.index.tokenizer_for_field(field)?;
        let mut tokens = Vec::new();
        let mut stream = analyzer.token_stream(text);
        while stream.advance() {
            tokens.push((stream.token().position, stream.token().text.clone()));
        }
        Ok(tokens)
    }

    /// The tokens of `text` in a row; one token is a term.
    pub(super) fn phrase(&mut self, path: &str, text: &str, slop: u32) -> Result<Compiled, Error> {
        let (path, field) = match self.target(path, false)? {
            Target::Keyword(field) => return self.keyword(field, text).map(Some),
            Target::Text { path, field, .. } => (path, field),
        };
        let tokens = self.analyse(field, text)?;
        self.count(tokens.len())?;
        for (_, token) in &tokens {
            self.mark(path, Mark::Term(token.clone()));
        }
        let mut terms: Vec<(usize, Term)> =
            tokens.into_iter().map(|(position, token)| (position, Term::from_field_text(field, &token))).collect();
        Ok(match terms.len() {
            0 => None,
            1 => Some(Box::new(TermQuery::new(terms.remove(0).1, IndexRecordOption::WithFreqs))),
            _ => Some(Box::new(PhraseQuery::new_with_offset_and_slop(terms, slop))),
        })
    }

    /// The tokens of `text` wherever they stand.
    pub(super) fn any_or_all(
        &mut self,
        path: &str,
        text: &str,
        operator: Operator,
        fuzziness: Fuzziness,
    ) -> Result<Compiled, Error> {
        let (path, field) = match self.target(path, false)? {
            Target::Keyword(_) => return self.fuzzy(path, text, fuzziness.edits(text)),
            Target::Text { path, field, .. } => (path, field),
        };
        let occur = if operator == Operator::And { Occur::Must } else { Occur::Should };
        let mut clauses = Vec::new();
        for (_, token) in self.analyse(field, text)? {
            let edits = fuzziness.edits(&token);
            clauses.push((occur, self.token(path, field, &token, edits)?));
        }
        Ok(boolean(clauses))
    }

    fn token(&mut self, path: &str, field: Field, token: &str, edits: u8) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        let term = Term::from_field_text(field, token);
        if edits == 0 {
            self.mark(path, Mark::Term(token.to_owned()));
            return Ok(Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)));
        }
        check_automaton(token)?;
        self.mark(path, Mark::Fuzzy(token.to_owned(), edits));
        Ok(Box::new(FuzzyTermQuery::new(term, edits, true)))
    }

    pub(super) fn fuzzy(&mut self, path: &str, word: &str, edits: u8) -> Result<Compiled, Error> {
        match self.target(path, false)? {
            Target::Keyword(field) if edits == 0 => self.keyword(field, word).map(Some),
            Target::Keyword(field) => {
                self.count(1)?;
                check_automaton(word)?;
                Ok(Some(Box::new(FuzzyTermQuery::new(Term::from_field_text(field, word), edits, true))))
            }
            Target::Text { path, field, analyzer } => {
                let tokens = self.analyse(field, word)?;
                match tokens.as_slice() {
                    [] => Ok(None),
                    [(_, token)] => self.token(path, field, token, edits).map(Some),
                    _ => self.token(path, field, &analyzer.fold_case(word), edits).map(Some),
                }
            }
        }
    }

    pub(super) fn prefix(&mut self, path: &str, prefix: &str) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        check_automaton(prefix)?;
        let term = match self.target(path, false)? {
            Target::Keyword(field) => Term::from_field_text(field, prefix),
            Target::Text { path, field, analyzer } => {
                let prefix = analyzer.fold_case(prefix);
                self.mark(path, Mark::Prefix(prefix.clone().into_owned()));
                Term::from_field_text(field, &prefix)
            }
        };
        Ok(Box::new(FuzzyTermQuery::new_prefix(term, 0, false)))
    }

    fn keyword(&mut self, field: Field, value: &str) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        Ok(Box::new(TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic)))
    }

    /// Exact values of a facet; of a search field that is none, single tokens.
    pub(super) fn terms(&mut self, path: &str, values: &[String]) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        let target = self.target(path, true)?;
        let mut terms = Vec::new();
        for value in values {
            match &target {
                Target::Keyword(field) => terms.push(Term::from_field_text(*field, value)),
                Target::Text { path, field, analyzer } => {
                    let token = analyzer.fold_case(value);
                    terms.push(Term::from_field_text(*field, &token));
                    self.mark(path, Mark::Term(token.into_owned()));
                }
            }
        }
        Ok(match terms.len() {
            0 => Box::new(EmptyQuery),
            1 => Box::new(TermQuery::new(terms.remove(0), IndexRecordOption::WithFreqs)),
            _ => Box::new(TermSetQuery::new(terms)),
        })
    }

    pub(super) fn exists(&mut self, path: &str) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        self.target(path, false)?;
        if path == "_id" {
            return Ok(Box::new(AllQuery));
        }
        let term = TermQuery::new(self.shared.fields.has_term(path), IndexRecordOption::Basic);
        Ok(Box::new(ConstScoreQuery::new(Box::new(term), 1.0)))
    }

    pub(super) fn range(
        &mut self,
        path: &str,
        lower: &Bound<RangeValue>,
        upper: &Bound<RangeValue>,
    ) -> Result<Box<dyn Query>, Error> {
        self.count(1)?;
        let (keyword, facet) = if path == "_id" {
            (self.shared.fields.id, None)
        } else {
            let facet = self.shared.fields.facet(path)?;
            (facet.keyword, Some(facet))
        };
        let text = |bound: &Bound<RangeValue>| match bound {
            Bound::Included(RangeValue::Text(text)) => Some(Bound::Included(text.clone())),
            Bound::Excluded(RangeValue::Text(text)) => Some(Bound::Excluded(text.clone())),
            Bound::Unbounded => Some(Bound::Unbounded),
            _ => None,
        };
        let number = |bound: &Bound<RangeValue>| match bound {
            Bound::Included(RangeValue::Number(number)) => Some(Bound::Included(*number)),
            Bound::Excluded(RangeValue::Number(number)) => Some(Bound::Excluded(*number)),
            Bound::Unbounded => Some(Bound::Unbounded),
            _ => None,
        };
        if matches!((lower, upper), (Bound::Unbounded, Bound::Unbounded)) {
            return self.exists(path);
        }
        if let (Some(lower), Some(upper)) = (text(lower), text(upper)) {
            return Ok(between(lower, upper, |value| Term::from_field_text(keyword, value)));
        }
        match (number(lower), number(upper), facet) {
            (Some(lower), Some(upper), Some(FacetFields { number, .. })) => {
                Ok(between(lower, upper, |value| Term::from_field_f64(number, *value)))
            }
            (_, _, None) => Err(Error::Request { at: "a range of `_id`".to_owned(), message: "needs text as bounds".to_owned() }),
            _ => {
                let message = "one bound is a number, the other is text; write both the same way".to_owned();
                Err(Error::Request { at: format!("the range of `{path}`"), message })
            }
        }
    }
}

/// Bounds of a query text: numbers when all of them can be read as such.
pub(super) fn typed_bounds(lower: &Bound<String>, upper: &Bound<String>) -> (Bound<RangeValue>, Bound<RangeValue>) {
    let number = |text: &String| text.parse::<f64>().ok().filter(|number| number.is_finite());
    let numbers = [lower, upper].iter().all(|bound| match bound {
        Bound::Included(text) | Bound::Excluded(text) => number(text).is_some(),
        Bound::Unbounded => true,
    });
    let typed = |text: String| match number(&text) {
        Some(number) if numbers => RangeValue::Number(number),
        _ => RangeValue::Text(text),
    };
    (lower.clone().map(typed), upper.clone().map(typed))
}

fn between<T: PartialOrd>(lower: Bound<T>, upper: Bound<T>, term: impl Fn(&T) -> Term) -> Box<dyn Query> {
    let empty = match (&lower, &upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => lower >= upper,
    };
    if empty {
        return Box::new(EmptyQuery);
    }
    Box::new(RangeQuery::new(lower.as_ref().map(&term), upper.as_ref().map(&term)))
}

fn check_automaton(word: &str) -> Result<(), Error> {
    if word.len() > AUTOMATON_BYTES_MAX {
        let what = format!("a prefix or fuzzy word of {} bytes", word.len());
        return Err(Error::TooLarge { what, max: AUTOMATON_BYTES_MAX, hint: "shorten it, or search for it exactly" });
    }
    Ok(())
}
