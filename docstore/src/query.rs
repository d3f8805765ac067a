//! From what was asked to a query of the index: the tree of a query text, the JSON of a search request.
//!
//! [`crate::search`] and [`crate::scan`] make a `Compiler`, compile, and run the result; what it marked on the way tells the
//! highlighter which tokens matched.
//!
//! # Which index field a path means
//! Words, phrases, prefixes and fuzzy words go to the search field of a path, and to the facet where it is only a facet. `term`,
//! `terms` and ranges go to the facet, and (ranges excepted) to the tokens where it is only a search field. `_id` is a facet too.
//! `title.keyword` means the whole values of `title`, facet or not named in the mapping at all. Where no fields are named all search
//! fields are meant; if there are none, all paths found in documents.
//!
//! # Invariants
//! - At most [`crate::text::CLAUSES_MAX`] lookups, whatever the request.
//! - Text without tokens (stop words alone) adds nothing to a query text, and matches nothing where it stands alone.

use std::collections::BTreeMap;

use tantivy::query::{AllQuery, BooleanQuery, BoostQuery, ConstScoreQuery, DisjunctionMaxQuery, EmptyQuery, Occur, Query};

use crate::error::Error;
use crate::highlight::Mark;
use crate::mapping::FACET_BYTES_MAX;
use crate::request::{MultiMatch, MultiMatchKind, Query as Request};
use crate::table::{DocumentSnapshot, Shared};
use crate::text::{self, Leaf, Operator, Role, Tree};

mod checked;
mod expand;
mod like;
mod lookup;
mod typed;

use checked::{checked, excluded};

/// A query, or nothing when the text had no tokens.
type Compiled = Option<Box<dyn Query>>;

/// The tokens a query looks for, by path.
pub(crate) type Marks = BTreeMap<String, Vec<Mark>>;

pub(crate) struct Compiler<'a> {
    snapshot: &'a DocumentSnapshot,
    shared: &'a Shared,
    clauses: usize,
    prohibited: usize,
    marks: Marks,
    /// What asks for unknown fields matches nothing.
    lenient: bool,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(snapshot: &'a DocumentSnapshot) -> Self {
        Self { snapshot, shared: &snapshot.shared, clauses: 0, prohibited: 0, marks: Marks::new(), lenient: false }
    }

    /// Unknown fields match nothing from here on, if `lenient` says so.
    pub(crate) const fn lenient(mut self, lenient: bool) -> Self {
        self.lenient = lenient;
        self
    }

    /// What the compiled queries look for, outside of what they exclude.
    pub(crate) fn into_marks(self) -> Marks {
        self.marks
    }

    /// Compiles a query text; `fields` are the ones searched where the text names none, all search fields by default.
    pub(crate) fn text(&mut self, query: &str, fields: Option<&[String]>, default: Operator) -> Result<Box<dyn Query>, Error> {
        let tree = text::parse(query, default)?;
        let fields: Vec<&str> = match fields {
            Some(fields) => fields.iter().map(String::as_str).collect(),
            None => self.all_fields(),
        };
        for field in &fields {
            self.target(field, false)?;
        }
        Ok(self.tree(&tree, &fields)?.unwrap_or_else(|| Box::new(EmptyQuery)))
    }

    /// The fields that are searched where none are named.
    fn all_fields(&self) -> Vec<&'a str> {
        let search = &self.shared.mapping.search;
        if search.is_empty() && self.shared.fields.dynamic.is_some() {
            return self.snapshot.dynamic.paths.iter().map(String::as_str).collect();
        }
        search.iter().map(|field| field.path.as_str()).collect()
    }

    fn tree(&mut self, tree: &Tree, fields: &[&str]) -> Result<Compiled, Error> {
        Ok(match tree {
            Tree::All => Some(Box::new(AllQuery)),
            Tree::Boost(tree, boost) => {
                self.tree(tree, fields)?.map(|query| Box::new(BoostQuery::new(query, *boost)) as Box<dyn Query>)
            }
            Tree::Leaf { field: Some((field, column)), leaf } => self.leaf(field, leaf).map_err(|error| match error {
                Error::UnknownField { name, hint } => Error::QueryText {
                    column: *column,
                    message: format!("unknown field `{name}`"),
                    hint: format!("{}; write `\\:` for a colon in a word", hint.trim_start_matches("; ").trim()),
                },
                error => error,
            })?,
            Tree::Leaf { field: None, leaf } => {
                let mut clauses = Vec::new();
                for field in fields {
                    clauses.extend(self.leaf(field, leaf)?.map(|query| (Occur::Should, query)));
                }
                boolean(clauses).map(checked)
            }
            Tree::Clauses(clauses) => self.clauses(clauses, fields)?,
        })
    }

    fn clauses(&mut self, clauses: &[(Role, Tree)], fields: &[&str]) -> Result<Compiled, Error> {
        let mut compiled = Vec::new();
        for (role, tree) in clauses {
            let prohibited = usize::from(*role == Role::MustNot);
            self.prohibited += prohibited;
            let query = self.tree(tree, fields)?;
            self.prohibited -= prohibited;
            let occur = match role {
                Role::Must => Occur::Must,
                Role::Should => Occur::Should,
                Role::MustNot => Occur::MustNot,
            };
            compiled.extend(query.map(|query| (occur, if occur == Occur::MustNot { excluded(query) } else { query })));
        }
        let only_exclusions = !clauses.is_empty() && clauses.iter().all(|(role, _)| *role == Role::MustNot);
        if only_exclusions {
            compiled.push((Occur::Must, Box::new(AllQuery)));
        } else if compiled.iter().all(|(occur, _)| *occur == Occur::MustNot) {
            return Ok(None);
        }
        Ok(boolean(compiled).map(checked))
    }

    fn leaf(&mut self, path: &str, leaf: &Leaf) -> Result<Compiled, Error> {
        let query = match leaf {
            Leaf::Word(word) => self.phrase(path, word, 0),
            Leaf::Phrase(text, slop) => self.phrase(path, text, *slop),
            Leaf::Prefix(prefix) => self.prefix(path, prefix).map(Some),
            Leaf::Fuzzy(word, distance) => self.fuzzy(path, word, *distance),
            Leaf::Exists => self.exists(path).map(Some),
            Leaf::Range(lower, upper) => {
                let (lower, upper) = self.bounds(path, lower, upper);
                self.range(path, &lower, &upper).map(Some)
            }
        };
        Ok(query?.map(checked))
    }

    /// Compiles the query of a search request.
    pub(crate) fn request(&mut self, query: &Request) -> Result<Box<dyn Query>, Error> {
        match self.compile(query) {
            Err(Error::UnknownField { .. }) if self.lenient => Ok(Box::new(EmptyQuery)),
            compiled => compiled.map(checked),
        }
    }

    fn compile(&mut self, query: &Request) -> Result<Box<dyn Query>, Error> {
        let nothing = || Box::new(EmptyQuery) as Box<dyn Query>;
        Ok(match query {
            Request::MatchAll => Box::new(AllQuery),
            Request::Match { field, query, operator, fuzziness } => {
                self.any_or_all(field, query, *operator, *fuzziness)?.unwrap_or_else(nothing)
            }
            Request::MatchPhrase { field, query, slop } => self.phrase(field, query, *slop)?.unwrap_or_else(nothing),
            Request::Term { field, value } => self.terms(field, std::slice::from_ref(value))?,
            Request::Terms { field, values } => self.terms(field, values)?,
            Request::Range { field, lower, upper } => self.range(field, lower, upper)?,
            Request::Prefix { field, value } => self.prefix(field, value)?,
            Request::Fuzzy { field, value, fuzziness } => {
                self.fuzzy(field, value, fuzziness.edits(value))?.unwrap_or_else(nothing)
            }
            Request::Exists { field } => self.exists(field)?,
            Request::QueryString { query, fields, default_operator } => self.text(query, fields.as_deref(), *default_operator)?,
            Request::MultiMatch(multi) => self.multi_match(multi)?,
            Request::MatchPhrasePrefix { field, query } => self.phrase_prefix(field, query)?.unwrap_or_else(nothing),
            Request::Wildcard { field, value } => self.wildcard(field, value)?,
            Request::Regexp { field, value } => self.regexp(field, value)?,
            Request::Ids { values } => {
                self.count("ids", 1)?;
                Box::new(ConstScoreQuery::new(self.ids(values), 1.0))
            }
            Request::ConstantScore { filter, boost } => Box::new(ConstScoreQuery::new(self.request(filter)?, *boost)),
            Request::DisMax { queries, tie_breaker } => {
                let queries: Vec<_> = queries.iter().map(|query| self.request(query)).collect::<Result<_, _>>()?;
                dis_max(queries, *tie_breaker)
            }
            Request::MoreLikeThis(like) => self.more_like_this(like)?,
            Request::Boost { query, boost } => Box::new(BoostQuery::new(self.request(query)?, *boost)),
            Request::Bool { must, should, must_not, filter, minimum_should_match } => {
                let mut clauses = Vec::new();
                for query in must {
                    clauses.push((Occur::Must, self.request(query)?));
                }
                for query in filter {
                    clauses.push((Occur::Must, without_score(self.request(query)?)));
                }
                for query in should {
                    clauses.push((Occur::Should, self.request(query)?));
                }
                self.prohibited += 1;
                for query in must_not {
                    clauses.push((Occur::MustNot, excluded(self.request(query)?)));
                }
                self.prohibited -= 1;
                let optional = !must.is_empty() || !filter.is_empty();
                let minimum = minimum_should_match.unwrap_or(usize::from(!optional && !should.is_empty()));
                if minimum > should.len() {
                    return Ok(nothing());
                }
                if !optional && minimum == 0 {
                    clauses.push((Occur::Must, without_score(Box::new(AllQuery))));
                }
                Box::new(BooleanQuery::with_minimum_required_clauses(clauses, minimum))
            }
        })
    }
}

impl Compiler<'_> {
    fn multi_match(&mut self, multi: &MultiMatch) -> Result<Box<dyn Query>, Error> {
        let MultiMatch { query: text, fields, kind, operator, fuzziness, slop, tie_breaker } = multi;
        let all = || self.all_fields().into_iter().map(|field| (field.to_owned(), 1.0)).collect();
        let fields: Vec<(String, f32)> = fields.clone().unwrap_or_else(all);
        let mut queries = Vec::new();
        for (field, boost) in &fields {
            let query = match kind {
                MultiMatchKind::BestFields | MultiMatchKind::MostFields => self.any_or_all(field, text, *operator, *fuzziness),
                MultiMatchKind::Phrase => self.phrase(field, text, *slop),
                MultiMatchKind::PhrasePrefix => self.phrase_prefix(field, text),
            };
            let query = match query {
                Err(Error::UnknownField { .. }) if self.lenient => continue,
                query => query?,
            };
            queries.extend(query.map(|query| match *boost {
                1.0 => checked(query),
                boost => Box::new(BoostQuery::new(checked(query), boost)) as Box<dyn Query>,
            }));
        }
        if *kind == MultiMatchKind::MostFields {
            return Ok(boolean(queries.into_iter().map(|query| (Occur::Should, query)).collect())
                .unwrap_or_else(|| Box::new(EmptyQuery)));
        }
        Ok(dis_max(queries, *tie_breaker))
    }
}

/// The best of the scores, and a share of the others.
fn dis_max(mut queries: Vec<Box<dyn Query>>, tie_breaker: f32) -> Box<dyn Query> {
    match queries.len() {
        0 => Box::new(EmptyQuery),
        1 => queries.remove(0),
        _ => Box::new(DisjunctionMaxQuery::with_tie_breaker(queries, tie_breaker)),
    }
}

/// A column value that is the same as a facet value: neither JSON of a container nor too long to be one.
pub(crate) fn is_plain_text(value: &str) -> bool {
    value.len() <= FACET_BYTES_MAX && !value.starts_with(['[', '{'])
}

/// The clauses as one query: with nothing that must match, at least one `Should` has to.
pub(crate) fn boolean(mut clauses: Vec<(Occur, Box<dyn Query>)>) -> Compiled {
    if clauses.is_empty() {
        return None;
    }
    if clauses.len() == 1 && clauses[0].0 != Occur::MustNot {
        return Some(clauses.remove(0).1);
    }
    let has = |wanted: Occur| clauses.iter().any(|(occur, _)| *occur == wanted);
    let minimum = usize::from(has(Occur::Should) && !has(Occur::Must));
    Some(Box::new(BooleanQuery::with_minimum_required_clauses(clauses, minimum)))
}

/// A filter: it decides which documents match, and adds nothing to their scores.
pub(crate) fn without_score(query: Box<dyn Query>) -> Box<dyn Query> {
    Box::new(ConstScoreQuery::new(query, 0.0))
}
