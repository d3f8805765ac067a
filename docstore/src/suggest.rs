//! "Did you mean": words of a field near words that were typed, by distance and by how many documents have them.
//!
//! [`crate::search`] answers a request's `suggest` with it. The dictionary is walked with an automaton of the word, so that only
//! what is near is looked at.

use std::collections::BTreeMap;

use serde::Serialize;
use tantivy::Term;
use tantivy::query::FuzzyTermQuery;

use crate::error::Error;
use crate::request::Suggest;
use crate::table::DocumentSnapshot;

/// Words of one text that suggestions are made for.
const WORDS_MAX: usize = 64;
/// Longer words are not looked for.
const WORD_BYTES_MAX: usize = 64;

/// One word that was typed, and what it may have been meant to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestions {
    /// The word as it was typed.
    pub text: String,
    /// Where it begins, in bytes of the text.
    pub offset: usize,
    /// The nearest words, the more frequent first where the distance is the same.
    pub options: Vec<Suggestion>,
}

/// A word of the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Suggestion {
    /// The word, as it is in the index.
    pub text: String,
    /// Edits away from what was typed.
    pub edits: usize,
    /// Documents with it, those that are no longer there included.
    pub freq: u64,
}

/// Words of a search field near those of a text, in all partitions of a table.
///
/// # Errors
/// [`Error::UnknownField`], [`Error::TooLarge`] for more than 64 words, a damaged index.
pub fn near(snapshots: &[DocumentSnapshot], suggest: &Suggest) -> Result<Vec<Suggestions>, Error> {
    let Some(first) = snapshots.first() else { return Ok(Vec::new()) };
    let fields = &first.shared.fields;
    let Some((field, analyzer)) = fields.path(&suggest.field).and_then(|fields| fields.text) else {
        let searchable = fields.paths.iter().filter(|fields| fields.text.is_some()).map(|fields| fields.path.as_str());
        return Err(Error::unknown_field(&suggest.field, searchable));
    };
    let mut words = Vec::new();
    let mut analyzer = analyzer.for_queries();
    let mut stream = analyzer.token_stream(&suggest.text);
    while stream.advance() {
        let token = stream.token();
        words.push((suggest.text[token.offset_from..token.offset_to].to_owned(), token.offset_from, token.text.clone()));
    }
    if words.len() > WORDS_MAX {
        let what = format!("suggestions for a text of {} words", words.len());
        return Err(Error::TooLarge { what, max: WORDS_MAX, hint: "ask for fewer words at a time" });
    }
    let mut answer = Vec::new();
    for (text, offset, token) in words {
        let term = Term::from_field_text(field, &token);
        let own: u64 = snapshots.iter().map(|snapshot| snapshot.searcher.doc_freq(&term)).sum::<tantivy::Result<u64>>()?;
        let mut options = Vec::new();
        if (own == 0 || suggest.always) && token.len() <= WORD_BYTES_MAX {
            let mut near = BTreeMap::new();
            snapshots.iter().try_for_each(|snapshot| words_near(snapshot, &term, suggest.max_edits, &mut near))?;
            for (text, freq) in near {
                if text != token && freq > own {
                    options.push(Suggestion { edits: strsim::osa_distance(&text, &token), text, freq });
                }
            }
        }
        options.sort_by(|one, other| {
            one.edits.cmp(&other.edits).then(other.freq.cmp(&one.freq)).then_with(|| one.text.cmp(&other.text))
        });
        options.truncate(suggest.size);
        answer.push(Suggestions { text, offset, options });
    }
    Ok(answer)
}

/// Adds the words of an index within so many edits, with the documents that have them.
fn words_near(snapshot: &DocumentSnapshot, term: &Term, edits: u8, near: &mut BTreeMap<String, u64>) -> Result<(), Error> {
    let automaton = FuzzyTermQuery::new(term.clone(), edits, true).automaton()?;
    for segment in snapshot.searcher.segment_readers() {
        let index = segment.inverted_index(term.field())?;
        let mut words = index.terms().search(&automaton).into_stream()?;
        while words.advance() {
            if let Ok(word) = std::str::from_utf8(words.key()) {
                *near.entry(word.to_owned()).or_default() += u64::from(words.value().doc_freq);
            }
        }
    }
    Ok(())
}
