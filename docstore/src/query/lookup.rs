//! The lookups a query is made of: words, phrases, values, prefixes and ranges of one path each.

use std::ops::Bound;

use tantivy::Term;
use tantivy::query::{
    AllQuery, BooleanQuery, ConstScoreQuery, EmptyQuery, FuzzyTermQuery, Occur, PhrasePrefixQuery, PhraseQuery, Query,
    RangeQuery, TermQuery, TermSetQuery,
};
use tantivy::schema::{Field, IndexRecordOption};

use super::typed::between_terms;
use super::{Compiled, Compiler, boolean, checked, is_plain_text, typed};
use crate::error::Error;
use crate::highlight::Mark;
use crate::index::values::{self, Number, integer_as_float};
use crate::index::{FacetFields, Typed};
use crate::mapping::{Analyzer, FACET_BYTES_MAX};
use crate::request::{Fuzziness, RangeValue};
use crate::text::{CLAUSES_MAX, Operator};

/// Words that the last word of a phrase prefix may be the beginning of.
const PHRASE_ENDINGS_MAX: usize = 1024;
/// Longer words can't be prefixes or fuzzy: their automaton would be too large.
const AUTOMATON_BYTES_MAX: usize = 256;

/// A field with tokens, or one path in a field of JSON.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub field: Field,
    json: Option<&'a str>,
}

impl<'a> Place<'a> {
    const fn of(field: Field) -> Self {
        Self { field, json: None }
    }

    /// The term of a token.
    pub(super) fn term(self, token: &str) -> Term {
        match self.json {
            None => Term::from_field_text(self.field, token),
            Some(path) => {
                let mut term = Term::from_field_json_path(self.field, path, true);
                term.append_type_and_str(token);
                term
            }
        }
    }

    /// The terms of values that are not text and are written so.
    fn value_terms(self, text: &str) -> Vec<Term> {
        let Some(path) = self.json else { return Vec::new() };
        let term = || Term::from_field_json_path(self.field, path, true);
        let mut terms = Vec::new();
        if let Some(number) = Number::parse(text) {
            let mut float = term();
            float.append_type_and_fast_value(number.float());
            terms.push(float);
            if let Number::Integer(integer) = number {
                let mut whole = term();
                whole.append_type_and_fast_value(integer);
                terms.push(whole);
            }
        }
        if let Some(flag) = values::boolean(text) {
            let mut boolean = term();
            boolean.append_type_and_fast_value(flag);
            terms.push(boolean);
        }
        terms
    }
}

/// What a path means in the index.
pub(super) enum Target<'a> {
    Text {
        place: Place<'a>,
        analyzer: Analyzer,
    },
    Keyword(Field),
    Typed(FacetFields),
    /// Whole texts of a path that the mapping does not name: they are in its column, not among its tokens.
    Whole(Place<'a>),
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

    pub(super) fn target<'p>(&self, path: &'p str, prefer_facet: bool) -> Result<Target<'p>, Error> {
        let fields = &self.shared.fields;
        if path == "_id" {
            return Ok(Target::Keyword(fields.id));
        }
        if let Some(of) = self.snapshot.whole_values_of(path) {
            return match fields.path(of) {
                Some(_) => self.target(of, true),
                None => Ok(Target::Whole(Place { field: self.dynamic(of)?, json: Some(of) })),
            };
        }
        let exact = |facet: FacetFields| match facet.typed {
            Typed::Any { .. } | Typed::Keyword => Target::Keyword(facet.keyword),
            _ => Target::Typed(facet),
        };
        let Some(found) = fields.path(path) else {
            let place = Place { field: self.dynamic(path)?, json: Some(path) };
            return Ok(Target::Text { place, analyzer: Analyzer::Standard });
        };
        match (found.text, found.facet) {
            (_, Some(facet)) if prefer_facet => Ok(exact(facet)),
            (Some((field, analyzer)), _) => Ok(Target::Text { place: Place::of(field), analyzer }),
            (None, Some(facet)) => Ok(exact(facet)),
            (None, None) => unreachable!("a path is there because it is a search field or a facet"),
        }
    }

    /// The field of a path that the mapping does not name.
    fn dynamic(&self, path: &str) -> Result<Field, Error> {
        let known = &self.snapshot.dynamic;
        match self.shared.fields.dynamic {
            Some(fields) if known.any || known.paths.contains(path) => Ok(fields.own),
            Some(fields) if known.overflowed => Ok(fields.overflow),
            _ => {
                let found = known.paths.iter().map(String::as_str);
                Err(Error::unknown_field(path, self.shared.fields.names().chain(found)))
            }
        }
    }

    /// Where the tokens of a path are, and how text is made like them.
    pub(super) fn place<'p>(&self, path: &'p str) -> Result<(Place<'p>, impl Fn(&str) -> String + use<'p>), Error> {
        let (place, analyzer) = match self.target(path, false)? {
            Target::Text { place, analyzer } => (place, analyzer),
            Target::Keyword(field) => (Place::of(field), Analyzer::Keyword),
            Target::Typed(facet) => (Place::of(facet.keyword), Analyzer::Keyword),
            Target::Whole(_) => {
                let message = "whole texts are compared here, for patterns the field must be declared in `fields`".to_owned();
                return Err(Error::Request { at: path.to_owned(), message });
            }
        };
        Ok((place, move |text: &str| analyzer.fold_case(text).into_owned()))
    }

    /// Counts lookups against the limit.
    pub(super) fn count(&mut self, at: &str, clauses: usize) -> Result<(), Error> {
        self.clauses += clauses;
        if self.clauses > CLAUSES_MAX {
            let hint = "search for fewer terms, or in fewer fields";
            return Err(Error::TooLarge {
                what: format!("the number of terms to look up, reached at `{at}`,"),
                max: CLAUSES_MAX,
                hint,
            });
        }
        Ok(())
    }

    pub(super) fn mark(&mut self, path: &str, mark: Mark) {
        if self.prohibited == 0 {
            let marks = self.marks.entry(path.to_owned()).or_default();
            if !marks.contains(&mark) {
                marks.push(mark);
            }
        }
    }

    /// The phrase, its last word the beginning of one.
    pub(super) fn phrase_prefix(&mut self, path: &str, text: &str) -> Result<Compiled, Error> {
        let Target::Text { place, analyzer } = self.target(path, false)? else { return self.prefix(path, text).map(Some) };
        let mut tokens = analyse(analyzer, text);
        self.count(path, tokens.len())?;
        let Some((_, last)) = tokens.last().cloned() else { return Ok(None) };
        if tokens.len() == 1 {
            return self.prefix(path, &last).map(Some);
        }
        let what = format!("the phrase prefix `{last}`");
        let mut all = |tokens: &[String]| Ok(vec![true; tokens.len()]);
        let endings = self.expand(place, &last, &what, PHRASE_ENDINGS_MAX, &mut all)?;
        tokens.pop();
        for (_, token) in &tokens {
            self.mark(path, Mark::Term(token.clone()));
        }
        self.mark(path, Mark::Prefix(last.clone()));
        let position = tokens.last().map_or(0, |(position, _)| position + 1);
        let terms = tokens.iter().map(|(position, token)| (*position, place.term(token)));
        let mut query = PhrasePrefixQuery::new_with_offset(terms.chain([(position, place.term(&last))]).collect());
        query.set_max_expansions(u32::try_from(endings.len() + 1).unwrap_or(u32::MAX));
        Ok(Some(Box::new(query)))
    }

    /// The tokens of `text` in a row; one token is a term.
    pub(super) fn phrase(&mut self, path: &str, text: &str, slop: u32) -> Result<Compiled, Error> {
        let (place, analyzer) = match self.target(path, false)? {
            Target::Keyword(field) => return self.keyword(path, field, text).map(Some),
            Target::Typed(facet) => return self.typed(path, facet, text).map(Some),
            Target::Whole(place) => return self.whole(path, place, text).map(Some),
            Target::Text { place, analyzer } => (place, analyzer),
        };
        let tokens = analyse(analyzer, text);
        self.count(path, tokens.len())?;
        for (_, token) in &tokens {
            self.mark(path, Mark::Term(token.clone()));
        }
        Ok(match tokens.as_slice() {
            [] => None,
            [(_, token)] => {
                Some(or_values(place, text, Box::new(TermQuery::new(place.term(token), IndexRecordOption::WithFreqs))))
            }
            tokens => {
                let terms = tokens.iter().map(|(position, token)| (*position, place.term(token))).collect();
                Some(or_values(place, text, Box::new(PhraseQuery::new_with_offset_and_slop(terms, slop))))
            }
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
        let (place, analyzer) = match self.target(path, false)? {
            Target::Keyword(_) | Target::Typed(_) | Target::Whole(_) => return self.fuzzy(path, text, fuzziness.edits(text)),
            Target::Text { place, analyzer } => (place, analyzer),
        };
        let occur = if operator == Operator::And { Occur::Must } else { Occur::Should };
        let tokens = analyse(analyzer, text);
        let mut clauses = Vec::new();
        for word in tokens.chunk_by(|(one, _), (other, _)| one == other) {
            if let [(_, token)] = word {
                let edits = fuzziness.edits(token);
                clauses.push((occur, self.token(path, place, token, edits)?));
                continue;
            }
            // The pieces of one word, which have to be in one word again.
            self.count(path, word.len())?;
            word.iter().for_each(|(_, token)| self.mark(path, Mark::Term(token.clone())));
            let terms = word.iter().map(|(position, token)| (*position, place.term(token))).collect();
            clauses.push((occur, checked(Box::new(PhraseQuery::new_with_offset(terms)))));
        }
        Ok(boolean(clauses).map(|query| or_values(place, text, query)))
    }

    fn token(&mut self, path: &str, place: Place<'_>, token: &str, edits: u8) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        let term = place.term(token);
        if edits == 0 {
            self.mark(path, Mark::Term(token.to_owned()));
            return Ok(Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs)));
        }
        check_automaton(token)?;
        self.mark(path, Mark::Fuzzy(token.to_owned(), edits));
        Ok(checked(Box::new(FuzzyTermQuery::new(term, edits, true))))
    }

    pub(super) fn fuzzy(&mut self, path: &str, word: &str, edits: u8) -> Result<Compiled, Error> {
        match self.target(path, false)? {
            Target::Typed(facet) => self.typed(path, facet, word).map(Some),
            Target::Whole(place) => self.whole(path, place, word).map(Some),
            Target::Keyword(field) if edits == 0 => self.keyword(path, field, word).map(Some),
            Target::Keyword(field) => {
                self.count(path, 1)?;
                check_automaton(word)?;
                Ok(Some(Box::new(FuzzyTermQuery::new(Term::from_field_text(field, word), edits, true))))
            }
            Target::Text { place, analyzer } => {
                let tokens = analyse(analyzer, word);
                match tokens.as_slice() {
                    [] => Ok(None),
                    [(_, token)] => self.token(path, place, token, edits).map(Some),
                    _ => self.token(path, place, &analyzer.fold_case(word), edits).map(Some),
                }
            }
        }
    }

    pub(super) fn prefix(&mut self, path: &str, prefix: &str) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        check_automaton(prefix)?;
        let (place, fold) = self.place(path)?;
        let prefix = fold(prefix);
        self.mark(path, Mark::Prefix(prefix.clone()));
        Ok(Box::new(FuzzyTermQuery::new_prefix(place.term(&prefix), 0, false)))
    }

    fn keyword(&mut self, path: &str, field: Field, value: &str) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        Ok(Box::new(TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic)))
    }

    fn typed(&mut self, path: &str, facet: FacetFields, value: &str) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        typed::equals(path, facet, value)
    }

    fn whole(&mut self, path: &str, place: Place<'_>, value: &str) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        let same = || Bound::Included(place.term(value));
        Ok(Box::new(RangeQuery::new(same(), same())))
    }

    /// Exact values of a facet; of a search field that is none, single tokens.
    pub(super) fn terms(&mut self, path: &str, values: &[String]) -> Result<Box<dyn Query>, Error> {
        let target = self.target(path, true)?;
        if let Target::Typed(facet) = target {
            let mut clauses = Vec::new();
            for value in values {
                clauses.push((Occur::Should, self.typed(path, facet, value)?));
            }
            return Ok(boolean(clauses).map_or_else(|| Box::new(EmptyQuery) as Box<dyn Query>, constant));
        }
        if let Target::Whole(place) = target {
            let mut clauses = Vec::new();
            for value in values {
                clauses.push((Occur::Should, self.whole(path, place, value)?));
            }
            return Ok(boolean(clauses).unwrap_or_else(|| Box::new(EmptyQuery)));
        }
        self.count(path, 1)?;
        let mut terms = Vec::new();
        for value in values {
            match &target {
                Target::Text { place, analyzer } => {
                    let token = analyzer.fold_case(value);
                    terms.push(place.term(&token));
                    terms.extend(place.value_terms(value));
                    self.mark(path, Mark::Term(token.into_owned()));
                }
                Target::Keyword(field) => terms.push(Term::from_field_text(*field, value)),
                Target::Typed(_) | Target::Whole(_) => unreachable!("answered above"),
            }
        }
        Ok(match terms.len() {
            0 => Box::new(EmptyQuery),
            1 => Box::new(TermQuery::new(terms.remove(0), IndexRecordOption::WithFreqs)),
            _ => Box::new(TermSetQuery::new(terms)),
        })
    }

    pub(super) fn exists(&mut self, path: &str) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        self.target(path, false)?;
        if path == "_id" {
            return Ok(Box::new(AllQuery));
        }
        let path = self.snapshot.whole_values_of(path).unwrap_or(path);
        let term = TermQuery::new(self.shared.fields.has_term(path), IndexRecordOption::Basic);
        Ok(Box::new(ConstScoreQuery::new(Box::new(term), 1.0)))
    }

    pub(super) fn range(
        &mut self,
        path: &str,
        lower: &Bound<RangeValue>,
        upper: &Bound<RangeValue>,
    ) -> Result<Box<dyn Query>, Error> {
        self.count(path, 1)?;
        if matches!((lower, upper), (Bound::Unbounded, Bound::Unbounded)) {
            return self.exists(path);
        }
        let (keyword, number_field) = if path == "_id" {
            (self.shared.fields.id, None)
        } else if self.shared.fields.path(path).is_none() && self.shared.fields.dynamic.is_some() {
            return self.dynamic_range(path, lower, upper);
        } else {
            let facet = self.shared.fields.facet(path)?;
            if let Some(query) = typed::between(path, facet, lower, upper)? {
                return Ok(query);
            }
            (facet.keyword, if let Typed::Any { number, .. } = facet.typed { Some(number) } else { None })
        };
        let text = |bound: &Bound<RangeValue>| match bound {
            Bound::Included(RangeValue::Text(text)) => Some(Bound::Included(text.clone())),
            Bound::Excluded(RangeValue::Text(text)) => Some(Bound::Excluded(text.clone())),
            Bound::Unbounded => Some(Bound::Unbounded),
            _ => None,
        };
        let number = |bound: &Bound<RangeValue>| match bound {
            Bound::Included(value) => value.float().map(Bound::Included),
            Bound::Excluded(value) => value.float().map(Bound::Excluded),
            Bound::Unbounded => Some(Bound::Unbounded),
        };
        if let (Some(lower), Some(upper)) = (text(lower), text(upper)) {
            return Ok(between_terms((lower, upper), |value| Term::from_field_text(keyword, &value)));
        }
        let message = match (number(lower), number(upper), number_field) {
            (Some(lower), Some(upper), Some(field)) => {
                return Ok(between_terms((lower, upper), |value| Term::from_field_f64(field, value)));
            }
            (_, _, None) => "needs text as bounds",
            _ => "one bound is a number, the other is text; write both the same way",
        };
        Err(Error::Request { at: format!("the range of `{path}`"), message: message.to_owned() })
    }

    /// A range of a path that the mapping does not name: numbers, or dates as facets have them.
    fn dynamic_range(
        &mut self,
        path: &str,
        lower: &Bound<RangeValue>,
        upper: &Bound<RangeValue>,
    ) -> Result<Box<dyn Query>, Error> {
        let refuse = |message: &str| Err(Error::Request { at: format!("the range of `{path}`"), message: message.to_owned() });
        let field = self.dynamic(path)?;
        if self.shared.fields.dynamic.is_some_and(|fields| fields.overflow == field) {
            return refuse("it is beyond the table's limit of dynamic fields; declare it in `fields`");
        }
        let is_float = |bound: &Bound<RangeValue>| {
            matches!(bound, Bound::Included(RangeValue::Number(_)) | Bound::Excluded(RangeValue::Number(_)))
        };
        // Both bounds have to be of one type.
        let floats = is_float(lower) || is_float(upper);
        let term = |value: &RangeValue| {
            let mut term = Term::from_field_json_path(field, path, true);
            match value {
                RangeValue::Integer(integer) if floats => term.append_type_and_fast_value(integer_as_float(*integer)),
                RangeValue::Integer(integer) => term.append_type_and_fast_value(*integer),
                RangeValue::Number(number) => term.append_type_and_fast_value(*number),
                RangeValue::Text(text) => term.append_type_and_fast_value(values::date_text(text)?),
            }
            Some(term)
        };
        let is_text = |bound: &Bound<RangeValue>| {
            matches!(bound, Bound::Included(RangeValue::Text(_)) | Bound::Excluded(RangeValue::Text(_)))
        };
        let is_number = |bound: &Bound<RangeValue>| !is_text(bound) && !matches!(bound, Bound::Unbounded);
        if (is_text(lower) && is_number(upper)) || (is_number(lower) && is_text(upper)) {
            return refuse("one bound is a number, the other is text; write both the same way");
        }
        let bound = |bound: &Bound<RangeValue>| match bound {
            Bound::Unbounded => Some(Bound::Unbounded),
            Bound::Included(value) => term(value).map(Bound::Included),
            Bound::Excluded(value) => term(value).map(Bound::Excluded),
        };
        match (bound(lower), bound(upper)) {
            (Some(lower), Some(upper)) => Ok(Box::new(RangeQuery::new(lower, upper))),
            _ => refuse(
                "its bounds are numbers or dates such as `2024-03-01`; for others declare the field in `facets` or `fields`",
            ),
        }
    }

    /// Bounds of a query text: numbers when all of them can be read as such, text where the field has a type of its own.
    pub(super) fn bounds(
        &self,
        path: &str,
        lower: &Bound<String>,
        upper: &Bound<String>,
    ) -> (Bound<RangeValue>, Bound<RangeValue>) {
        let facet = self.shared.fields.path(path).and_then(|fields| fields.facet);
        if path == "_id" || facet.is_some_and(|facet| !matches!(facet.typed, Typed::Any { .. })) {
            return (lower.clone().map(RangeValue::Text), upper.clone().map(RangeValue::Text));
        }
        typed_bounds(lower, upper)
    }
}

/// The tokens of a text of a query, with their positions.
pub(super) fn analyse(analyzer: Analyzer, text: &str) -> Vec<(usize, String)> {
    let mut analyzer = analyzer.for_queries();
    let mut tokens = Vec::new();
    let mut stream = analyzer.token_stream(text);
    while stream.advance() {
        tokens.push((stream.token().position, stream.token().text.clone()));
    }
    tokens
}

/// The query, or numbers and booleans at this path that are written as `text`.
fn or_values(place: Place<'_>, text: &str, query: Box<dyn Query>) -> Box<dyn Query> {
    let values = place.value_terms(text);
    if values.is_empty() {
        return query;
    }
    Box::new(BooleanQuery::union(vec![checked(query), checked(Box::new(TermSetQuery::new(values)))]))
}

/// One score, whichever of the clauses matches.
fn constant(query: Box<dyn Query>) -> Box<dyn Query> {
    Box::new(ConstScoreQuery::new(query, 1.0))
}

fn typed_bounds(lower: &Bound<String>, upper: &Bound<String>) -> (Bound<RangeValue>, Bound<RangeValue>) {
    let number = |text: &String| match Number::parse(text)? {
        Number::Integer(integer) => Some(RangeValue::Integer(integer)),
        Number::Fraction(float) => Some(RangeValue::Number(float)),
    };
    let numbers = [lower, upper].iter().all(|bound| match bound {
        Bound::Included(text) | Bound::Excluded(text) => number(text).is_some(),
        Bound::Unbounded => true,
    });
    let typed = |text: String| number(&text).filter(|_| numbers).unwrap_or(RangeValue::Text(text));
    (lower.clone().map(typed), upper.clone().map(typed))
}

fn check_automaton(word: &str) -> Result<(), Error> {
    if word.len() > AUTOMATON_BYTES_MAX {
        let what = format!("a prefix or fuzzy word of {} bytes", word.len());
        return Err(Error::TooLarge { what, max: AUTOMATON_BYTES_MAX, hint: "shorten it, or search for it exactly" });
    }
    Ok(())
}
