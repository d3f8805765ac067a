//! Wildcards and regular expressions: which tokens of the index they mean.
//!
//! The tokens are listed and looked up as a set. An automaton made of the pattern would be walked with the dictionary, but patterns
//! of a few characters make automata of any size; a matcher that is linear in pattern and token, and limits on what is looked
//! through and found, answer within a known time or refuse with what to change.
//!
//! # Invariants
//! - At most [`VISITED_MAX`] tokens are looked at and [`EXPANSIONS_MAX`] are found.

use std::collections::BTreeSet;

use arrow::array::StringArray;
use tantivy::query::{EmptyQuery, Query, TermSetQuery};

use super::Compiler;
use super::lookup::Place;
use crate::error::Error;
use crate::highlight::Mark;

/// Tokens that one pattern may mean.
pub(super) const EXPANSIONS_MAX: usize = 10_000;
/// Tokens of the index that one pattern is compared with.
const VISITED_MAX: usize = 2_000_000;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 256;
/// Tokens compared at once.
const BATCH: usize = 16_384;

/// Which of some tokens match.
type Test<'a> = dyn FnMut(&[String]) -> Result<Vec<bool>, Error> + 'a;

impl Compiler<'_> {
    /// Tokens that match `*` (any characters), `?` (one character) and everything else as it is; a backslash takes the next one so.
    pub(super) fn wildcard(&mut self, path: &str, pattern: &str) -> Result<Box<dyn Query>, Error> {
        check_length("wildcard", path, pattern)?;
        let (place, fold) = self.place(path)?;
        let glob = Glob::parse(&fold(pattern));
        let found =
            self.expand(place, &glob.literal_prefix(), &format!("wildcard `{pattern}`"), EXPANSIONS_MAX, &mut |tokens| {
                Ok(tokens.iter().map(|token| glob.matches(token)).collect())
            })?;
        Ok(self.any_of(path, place, found))
    }

    /// Tokens that match a regular expression as a whole.
    pub(super) fn regexp(&mut self, path: &str, pattern: &str) -> Result<Box<dyn Query>, Error> {
        check_length("regexp", path, pattern)?;
        let (place, _) = self.place(path)?;
        let anchored = format!("^(?:{pattern})$");
        let at = || format!("the regexp of `{path}`");
        let mut test = |tokens: &[String]| {
            let tokens = StringArray::from_iter_values(tokens);
            let matched = arrow::compute::regexp_is_match_scalar(&tokens, &anchored, None)
                .map_err(|error| Error::Request { at: at(), message: reason(&error.to_string()) })?;
            Ok(matched.iter().map(|matched| matched == Some(true)).collect())
        };
        // Compiled once beforehand: a wrong pattern is an error over an empty index too.
        let _: Vec<bool> = test(&[String::new()])?;
        let found = self.expand(place, &literal_prefix(pattern), &format!("regexp `{pattern}`"), EXPANSIONS_MAX, &mut test)?;
        Ok(self.any_of(path, place, found))
    }

    fn any_of(&mut self, path: &str, place: Place<'_>, found: BTreeSet<String>) -> Box<dyn Query> {
        if found.is_empty() {
            return Box::new(EmptyQuery);
        }
        let query = TermSetQuery::new(found.iter().map(|token| place.term(token)));
        self.mark(path, Mark::Any(found));
        Box::new(query)
    }

    /// The tokens of a field that begin with `prefix` and pass a test, over all segments.
    pub(super) fn expand(
        &mut self,
        place: Place<'_>,
        prefix: &str,
        what: &str,
        expansions_max: usize,
        test: &mut Test<'_>,
    ) -> Result<BTreeSet<String>, Error> {
        self.count(what, 1)?;
        let start = place.term(prefix);
        let head = place.term("").serialized_value_bytes().len();
        let start = start.serialized_value_bytes();
        let (mut found, mut visited, mut batch) = (BTreeSet::new(), 0_usize, Vec::new());
        let mut run = |batch: &mut Vec<String>, found: &mut BTreeSet<String>| -> Result<(), Error> {
            if batch.is_empty() {
                return Ok(());
            }
            let matched = test(batch)?;
            found.extend(batch.drain(..).zip(matched).filter_map(|(token, matched)| matched.then_some(token)));
            if found.len() > expansions_max {
                let hint = "begin it with more characters that are not wild";
                return Err(Error::TooLarge {
                    what: format!("the number of tokens that {what} means"),
                    max: expansions_max,
                    hint,
                });
            }
            Ok(())
        };
        for segment in self.snapshot.searcher.segment_readers() {
            let index = segment.inverted_index(place.field)?;
            let mut tokens = index.terms().range().ge(start).into_stream()?;
            while tokens.advance() && tokens.key().starts_with(start) {
                visited += 1;
                if visited > VISITED_MAX {
                    let hint = "begin it with more characters that are not wild";
                    return Err(Error::TooLarge {
                        what: format!("the number of tokens that {what} is compared with"),
                        max: VISITED_MAX,
                        hint,
                    });
                }
                batch.extend(std::str::from_utf8(&tokens.key()[head..]).map(str::to_owned));
                if batch.len() == BATCH {
                    run(&mut batch, &mut found)?;
                }
            }
            run(&mut batch, &mut found)?;
        }
        Ok(found)
    }
}

fn check_length(kind: &str, path: &str, pattern: &str) -> Result<(), Error> {
    if pattern.len() > PATTERN_BYTES_MAX {
        let what = format!("the {kind} of `{path}` with {} bytes", pattern.len());
        return Err(Error::TooLarge { what, max: PATTERN_BYTES_MAX, hint: "shorten it" });
    }
    Ok(())
}

/// What is wrong is on one line of the library's message, among others that draw the pattern.
fn reason(message: &str) -> String {
    if message.contains("CompiledTooBig") || message.contains("exceeds size limit") {
        return "can't be read: its repetitions are over the size limit; repeat less, or shorter parts".to_owned();
    }
    let line = message.lines().find_map(|line| line.trim().strip_prefix("error:")).unwrap_or("it is malformed").trim();
    format!("can't be read: {line}; write it as in `cra(sh|ck)[0-9]*`, a backslash before characters that are meant as they are")
}

/// The characters that every match of a regular expression begins with, as far as that is easy to see.
fn literal_prefix(pattern: &str) -> String {
    if pattern.contains('|') {
        return String::new();
    }
    let end = pattern.find(|char: char| !char.is_ascii_alphanumeric()).unwrap_or(pattern.len());
    let optional = pattern[end..].starts_with(['*', '?', '{']);
    pattern[..end - usize::from(optional && end > 0)].to_owned()
}

enum Piece {
    Char(char),
    One,
    Many,
}

/// A pattern with wildcards.
struct Glob(Vec<Piece>);

impl Glob {
    fn parse(pattern: &str) -> Self {
        let mut chars = pattern.chars();
        let mut pieces = Vec::new();
        while let Some(char) = chars.next() {
            match char {
                '*' if matches!(pieces.last(), Some(Piece::Many)) => {}
                '*' => pieces.push(Piece::Many),
                '?' => pieces.push(Piece::One),
                '\\' => pieces.push(Piece::Char(chars.next().unwrap_or('\\'))),
                char => pieces.push(Piece::Char(char)),
            }
        }
        Self(pieces)
    }

    fn literal_prefix(&self) -> String {
        self.0.iter().map_while(|piece| if let Piece::Char(char) = piece { Some(*char) } else { None }).collect()
    }

    /// Goes back to the last `*` only, which is enough, so that the time is at most the product of the lengths.
    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut piece, mut at, mut again) = (0, 0, None);
        while at < text.len() {
            match self.0.get(piece) {
                Some(Piece::Many) => {
                    again = Some((piece, at));
                    piece += 1;
                }
                Some(Piece::One) => (piece, at) = (piece + 1, at + 1),
                Some(Piece::Char(char)) if *char == text[at] => (piece, at) = (piece + 1, at + 1),
                _ => {
                    let Some((star, from)) = again else { return false };
                    again = Some((star, from + 1));
                    (piece, at) = (star + 1, from + 1);
                }
            }
        }
        self.0[piece..].iter().all(|piece| matches!(piece, Piece::Many))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_whole_tokens() {
        for (pattern, text, wanted) in [
            ("cr*sh", "crash", true),
            ("cr*sh", "crsh", true),
            ("cr*sh", "crashs", false),
            ("cr?sh", "crush", true),
            ("cr?sh", "crsh", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ababc", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("**", "", true),
            ("?", "ä", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::parse(pattern).matches(text), wanted, "{pattern} {text}");
        }
        assert_eq!(Glob::parse("ab\\*c*d").literal_prefix(), "ab*c");
        let bomb = Glob::parse(&"*a".repeat(100));
        assert!(!bomb.matches(&"a".repeat(99)));
    }

    #[test]
    fn prefixes_of_regular_expressions_are_only_what_is_sure() {
        for (pattern, wanted) in
            [("crash.*", "crash"), ("crash*", "cras"), ("a|b", ""), ("(ab)", ""), ("ab{0}", "a"), ("", ""), ("äb", "")]
        {
            assert_eq!(literal_prefix(pattern), wanted, "{pattern}");
        }
    }
}
