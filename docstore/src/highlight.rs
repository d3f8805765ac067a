//! Passages of a text with what the query matched marked in them.
//!
//! [`crate::search`] highlights its hits; SQL's `highlight(field)` makes a [`Highlighter`] and runs it over the rows it shows.
//! tantivy's own snippets know nothing of prefixes and fuzzy words, so tokens are compared here.
//!
//! # Format
//! `<em>` and `</em>` around matches; `&`, `<` and `>` of the text are escaped, so that a passage can stand in HTML as it is.

use std::collections::BTreeSet;
use std::ops::Range;

use tantivy::tokenizer::TextAnalyzer;

use crate::error::Error;
use crate::query::Compiler;
use crate::request::HIGHLIGHT_CHARS_MAX;
use crate::table::DocumentSnapshot;
use crate::text::Operator;

/// Passages of one field.
const PASSAGES_MAX: usize = 3;
/// Only so much of a text is looked through.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Tokens that a query looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Term(String),
    Prefix(String),
    Fuzzy(String, u8),
    Any(BTreeSet<String>),
}

impl Mark {
    fn matches(&self, token: &str) -> bool {
        match self {
            Self::Term(term) => term == token,
            Self::Any(terms) => terms.contains(token),
            Self::Prefix(prefix) => token.starts_with(prefix),
            Self::Fuzzy(word, edits) => {
                let near = word.chars().count().abs_diff(token.chars().count()) <= usize::from(*edits);
                near && strsim::osa_distance(word, token) <= usize::from(*edits)
            }
        }
    }
}

/// Marks what a query matches in texts of one field.
#[derive(Clone)]
pub struct Highlighter {
    analyzer: TextAnalyzer,
    marks: Vec<Mark>,
    max_chars: usize,
}

impl DocumentSnapshot {
    /// A highlighter for texts of the search field `path`. The query text is read as [`crate::ScanFilter::Text`] reads it.
    ///
    /// # Errors
    /// Errors of the query text, and [`Error::UnknownField`].
    pub fn highlighter(
        &self,
        path: &str,
        fields: Option<&[String]>,
        query: &str,
        max_chars: usize,
    ) -> Result<Highlighter, Error> {
        let mut compiler = Compiler::new(self);
        compiler.text(query, fields, Operator::Or)?;
        self.highlighter_of(path, compiler.into_marks().remove(path).unwrap_or_default(), max_chars)
    }

    pub(crate) fn highlighter_of(&self, path: &str, marks: Vec<Mark>, max_chars: usize) -> Result<Highlighter, Error> {
        let fields = &self.shared.fields;
        let Some((field, _)) = fields.path(path).and_then(|fields| fields.text) else {
            let searchable = fields.paths.iter().filter(|fields| fields.text.is_some()).map(|fields| fields.path.as_str());
            return Err(Error::unknown_field(path, searchable));
        };
        let analyzer = self.shared.index.tokenizer_for_field(field)?;
        Ok(Highlighter { analyzer, marks, max_chars: max_chars.clamp(1, HIGHLIGHT_CHARS_MAX) })
    }
}

impl Highlighter {
    /// The best passages of `text`, the one with the most different matches first; none when nothing matches.
    pub fn passages(&mut self, text: &str) -> Vec<String> {
        let text = head(text, TEXT_BYTES_MAX);
        let mut passages = group(text, &self.matches(text), self.max_chars);
        passages.sort_by_key(|passage| std::cmp::Reverse(passage.distinct));
        passages.truncate(PASSAGES_MAX);
        passages.iter().map(|passage| passage.render(text)).collect()
    }

    /// Where a token matches, and which mark it was.
    fn matches(&mut self, text: &str) -> Vec<(Range<usize>, usize)> {
        let mut found = Vec::new();
        if self.marks.is_empty() {
            return found;
        }
        let mut stream = self.analyzer.token_stream(text);
        while stream.advance() {
            let token = stream.token();
            if let Some(mark) = self.marks.iter().position(|mark| mark.matches(&token.text)) {
                // Pieces of a word all stand for the word.
                if found.last().is_none_or(|(last, _): &(Range<usize>, usize)| last.end <= token.offset_from) {
                    found.push((token.offset_from..token.offset_to, mark));
                }
            }
        }
        found
    }
}

/// A part of a text with matches in it.
struct Passage {
    range: Range<usize>,
    matches: Vec<Range<usize>>,
    distinct: usize,
}

/// Gathers neighbouring matches into passages of at most `max_chars` and widens those to words around them.
fn group(text: &str, matches: &[(Range<usize>, usize)], max_chars: usize) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut rest = matches;
    while let Some((first, _)) = rest.first() {
        let limit = after(text, first.start, max_chars);
        let count = rest.iter().take_while(|(range, _)| range.end <= limit).count().max(1);
        let (members, others) = rest.split_at(count);
        rest = others;
        let end = members[count - 1].0.end.min(limit);
        let floor = passages.last().map_or(0, |passage| passage.range.end);
        let spare = max_chars - text[first.start..end].chars().count();
        let from = word_start(text, before(text, first.start, spare / 2).max(floor), first.start);
        let used = text[from..first.start].chars().count();
        let ceiling = others.first().map_or(text.len(), |(range, _)| range.start);
        let to = word_end(text, end, after(text, end, spare - used).min(ceiling));
        let mut marks: Vec<usize> = members.iter().map(|(_, mark)| *mark).collect();
        marks.sort_unstable();
        marks.dedup();
        let matches = members.iter().map(|(range, _)| range.start..range.end.min(end)).collect();
        passages.push(Passage { range: from..to, matches, distinct: marks.len() });
    }
    passages
}

impl Passage {
    fn render(&self, text: &str) -> String {
        let mut out = String::with_capacity(self.range.len() + 9 * self.matches.len());
        let mut at = self.range.start;
        for found in &self.matches {
            escape(&mut out, &text[at..found.start]);
            out.push_str("<em>");
            escape(&mut out, &text[found.clone()]);
            out.push_str("</em>");
            at = found.end;
        }
        escape(&mut out, &text[at..self.range.end]);
        out.trim().to_owned()
    }
}

fn escape(out: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            char => out.push(char),
        }
    }
}

/// At most `bytes` of a text, cut between characters.
fn head(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The place `chars` behind `at`, at most the end.
fn after(text: &str, at: usize, chars: usize) -> usize {
    text[at..].char_indices().nth(chars).map_or(text.len(), |(i, _)| at + i)
}

/// The place `chars` in front of `at`, at least the start.
fn before(text: &str, at: usize, chars: usize) -> usize {
    if chars == 0 {
        return at;
    }
    text[..at].char_indices().nth_back(chars - 1).map_or(0, |(i, _)| i)
}

/// Moves the start of a passage behind a word that it would cut, unless that word runs up to `end`.
fn word_start(text: &str, start: usize, end: usize) -> usize {
    let cuts = text[..start].chars().next_back().is_some_and(|char| !char.is_whitespace());
    if !cuts {
        return start;
    }
    text[start..end].find(char::is_whitespace).map_or(start, |i| start + i)
}

/// Moves the end of a passage in front of a word that it would cut, unless that word begins at `start`.
fn word_end(text: &str, start: usize, end: usize) -> usize {
    let cuts = text[end..].chars().next().is_some_and(|char| !char.is_whitespace());
    if !cuts {
        return end;
    }
    text[start..end].rfind(char::is_whitespace).map_or(end, |i| start + i)
}

#[cfg(test)]
mod tests {
    use tantivy::tokenizer::{LowerCaser, SimpleTokenizer};

    use super::*;

    fn passages(text: &str, marks: Vec<Mark>, max_chars: usize) -> Vec<String> {
        let analyzer = TextAnalyzer::builder(SimpleTokenizer::default()).filter(LowerCaser).build();
        Highlighter { analyzer, marks, max_chars }.passages(text)
    }

    fn term(text: &str) -> Mark {
        Mark::Term(text.to_owned())
    }

    #[test]
    fn terms_prefixes_and_fuzzy_words_are_marked_and_the_text_escaped() {
        let marks = vec![term("torn"), Mark::Prefix("wri".to_owned()), Mark::Fuzzy("crash".to_owned(), 1)];
        let text = "A Torn write <b> & a crush";
        assert_eq!(passages(text, marks, 100), ["A <em>Torn</em> <em>write</em> &lt;b&gt; &amp; a <em>crush</em>"]);
        assert_eq!(passages("nothing here", vec![term("torn")], 100), Vec::<String>::new());
    }

    #[test]
    fn passages_end_between_words_and_the_richest_comes_first() {
        let filler = "some words that say nothing at all ".repeat(5);
        let text = format!("{filler}alpha {filler}alpha beta {filler}");
        let found = passages(&text, vec![term("alpha"), term("beta")], 40);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("<em>alpha</em> <em>beta</em>"), "{found:?}");
        for passage in &found {
            let plain = passage.replace("<em>", "").replace("</em>", "");
            assert!(plain.chars().count() <= 40, "{plain}");
            assert!(plain.split(' ').all(|word| text.split(' ').any(|other| other == word)), "{plain}");
        }
    }

    #[test]
    fn no_text_and_no_limit_make_it_panic() {
        let text = "ärger über €uro 漢字漢字 über ".repeat(20);
        for max_chars in 1..60 {
            for passage in passages(&text, vec![term("über"), Mark::Prefix("漢".to_owned())], max_chars) {
                let plain = passage.replace("<em>", "").replace("</em>", "");
                assert!(plain.chars().count() <= max_chars && !plain.is_empty(), "{max_chars}: {plain}");
            }
        }
    }
}
