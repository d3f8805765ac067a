//! How text becomes tokens: the ready-made analyzers, and chains of a tokenizer and filters that a mapping writes by name.
//!
//! A [`crate::mapping::SearchField`] holds an [`Analyzer`]; [`crate::index`] registers its tokenizer, [`crate::query`] uses the form
//! for queries. Its text, `standard+asciifolding+stem(german)`, is what options, the catalog and the index hold.
//!
//! # Grams
//! `ngram` and `edge_ngram` cut each word (after all other filters) into pieces, so that parts of words are found. A query is not cut
//! the same way, or every piece of it would match something: a word that fits is looked up as it is, a longer one as its longest
//! pieces, all of which have to be in the same word. Words shorter than the smallest piece are kept whole.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
pub use tantivy::tokenizer::Language;
use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RawTokenizer, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
    Token, TokenFilter, TokenStream, Tokenizer, WhitespaceTokenizer,
};

use crate::error::{Error, nearest};

/// Longer tokens are left out of the index. tantivy's own default of 40 would lose the hashes of git commits.
const TOKEN_BYTES_MAX: usize = 256;
/// The longest piece of a word.
const GRAM_CHARS_MAX: u8 = 32;
/// How many sizes the pieces of `ngram` may have: each adds a token for every character.
const GRAM_SIZES_MAX: u8 = 8;

/// The languages with stemmers.
const LANGUAGES: [(&str, Language); 18] = [
    ("arabic", Language::Arabic),
    ("danish", Language::Danish),
    ("dutch", Language::Dutch),
    ("english", Language::English),
    ("finnish", Language::Finnish),
    ("french", Language::French),
    ("german", Language::German),
    ("greek", Language::Greek),
    ("hungarian", Language::Hungarian),
    ("italian", Language::Italian),
    ("norwegian", Language::Norwegian),
    ("portuguese", Language::Portuguese),
    ("romanian", Language::Romanian),
    ("russian", Language::Russian),
    ("spanish", Language::Spanish),
    ("swedish", Language::Swedish),
    ("tamil", Language::Tamil),
    ("turkish", Language::Turkish),
];

/// How text becomes tokens, when indexed and when searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Analyzer {
    /// Runs of letters and digits, in lower case.
    #[default]
    Standard,
    /// What stands between spaces, as it is.
    Whitespace,
    /// The whole value as one token, as it is.
    Keyword,
    /// As standard, without stop words, reduced to English stems.
    English,
    /// A tokenizer and filters.
    Chain(Chain),
}

/// A tokenizer and its filters, which are applied in the order of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What cuts the text.
    pub tokens: Tokens,
    /// In lower case.
    pub lowercase: bool,
    /// Letters without their accents where ASCII has them: `Ärger` is `Arger`.
    pub asciifolding: bool,
    /// Without the stop words of this language.
    pub stop: Option<Language>,
    /// Reduced to stems of this language.
    pub stem: Option<Language>,
    /// Cut into pieces.
    pub grams: Option<Grams>,
}

/// What cuts text into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Runs of letters and digits.
    Words,
    /// What stands between spaces.
    Whitespace,
    /// The whole value.
    Keyword,
}

/// Pieces of words, sizes in characters, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grams {
    /// The smallest.
    pub min: u8,
    /// The largest.
    pub max: u8,
    /// Only those that begin with the word.
    pub edge: bool,
}

impl Chain {
    const WORDS: Self = Self::of(Tokens::Words, true);

    const fn of(tokens: Tokens, lowercase: bool) -> Self {
        Self { tokens, lowercase, asciifolding: false, stop: None, stem: None, grams: None }
    }

    fn language(language: Language) -> Self {
        let stop = StopWordFilter::new(language).map(|_| language);
        Self { stop, stem: Some(language), ..Self::WORDS }
    }
}

impl Analyzer {
    /// Its name in the index, and in a mapping.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::Standard => "standard".into(),
            Self::Whitespace => "whitespace".into(),
            Self::Keyword => "keyword".into(),
            Self::English => "english".into(),
            Self::Chain(chain) => chain.to_string().into(),
        }
    }

    /// Text that is compared with tokens without being analysed (prefixes, single terms), with the tokens' case and accents.
    #[must_use]
    pub fn fold_case(self, text: &str) -> Cow<'_, str> {
        let chain = self.chain();
        if chain.asciifolding {
            let mut folding = TextAnalyzer::builder(RawTokenizer::default()).filter(AsciiFoldingFilter).build();
            let mut stream = folding.token_stream(text);
            let folded = if stream.advance() { stream.token().text.clone() } else { String::new() };
            return Cow::Owned(if chain.lowercase { folded.to_lowercase() } else { folded });
        }
        if chain.lowercase { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) }
    }

    fn chain(self) -> Chain {
        match self {
            Self::Standard => Chain::WORDS,
            Self::Whitespace => Chain::of(Tokens::Whitespace, false),
            Self::Keyword => Chain::of(Tokens::Keyword, false),
            Self::English => Chain::language(Language::English),
            Self::Chain(chain) => chain,
        }
    }

    /// What the index runs over the text of documents.
    pub(crate) fn for_documents(self) -> TextAnalyzer {
        self.build(false)
    }

    /// What is run over the text of queries.
    pub(crate) fn for_queries(self) -> TextAnalyzer {
        self.build(true)
    }

    fn build(self, query: bool) -> TextAnalyzer {
        let chain = self.chain();
        let mut builder = match chain.tokens {
            Tokens::Words => TextAnalyzer::builder(SimpleTokenizer::default()).dynamic(),
            Tokens::Whitespace => TextAnalyzer::builder(WhitespaceTokenizer::default()).dynamic(),
            Tokens::Keyword => TextAnalyzer::builder(RawTokenizer::default()).dynamic(),
        };
        if chain.tokens == Tokens::Words {
            builder = builder.filter_dynamic(RemoveLongFilter::limit(TOKEN_BYTES_MAX + 1));
        }
        if chain.lowercase {
            builder = builder.filter_dynamic(LowerCaser);
        }
        if chain.asciifolding {
            builder = builder.filter_dynamic(AsciiFoldingFilter);
        }
        if let Some(stop) = chain.stop.and_then(StopWordFilter::new) {
            builder = builder.filter_dynamic(stop);
        }
        if let Some(language) = chain.stem {
            builder = builder.filter_dynamic(Stemmer::new(language));
        }
        if let Some(grams) = chain.grams {
            builder = builder.filter_dynamic(GramFilter { grams, query });
        }
        builder.build()
    }
}

impl From<Chain> for Analyzer {
    /// The ready-made analyzer that is the same, so that an analyzer has one name.
    fn from(chain: Chain) -> Self {
        let ready = [Self::Standard, Self::Whitespace, Self::Keyword, Self::English];
        ready.into_iter().find(|ready| ready.chain() == chain).unwrap_or(Self::Chain(chain))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |language: Language| LANGUAGES.iter().find(|(_, other)| *other == language).map_or("", |(name, _)| name);
        f.write_str(match self.tokens {
            Tokens::Words => "words",
            Tokens::Whitespace => "whitespace",
            Tokens::Keyword => "keyword",
        })?;
        if self.lowercase {
            f.write_str("+lowercase")?;
        }
        if self.asciifolding {
            f.write_str("+asciifolding")?;
        }
        if let Some(language) = self.stop {
            write!(f, "+stop({})", name(language))?;
        }
        if let Some(language) = self.stem {
            write!(f, "+stem({})", name(language))?;
        }
        if let Some(Grams { min, max, edge }) = self.grams {
            write!(f, "+{}ngram({min},{max})", if edge { "edge_" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Analyzer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl Serialize for Analyzer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Analyzer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Analyzer {
    type Err = Error;

    /// Reads `english`, `edge_ngram(2,10)`, `whitespace+lowercase+asciifolding+stop(german)+stem(german)`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.split('+').map(str::trim);
        let mut chain = base(text, parts.next().unwrap_or_default())?;
        for part in parts {
            filter(&mut chain, text, part)?;
        }
        Ok(chain.into())
    }
}

fn refuse(analyzer: &str, detail: impl fmt::Display) -> Error {
    Error::InvalidMapping { detail: format!("analyzer `{analyzer}`: {detail}") }
}

/// Splits `stem(german)` into the word and what is in its parentheses.
fn call(part: &str) -> (&str, Option<&str>) {
    match part.split_once('(') {
        Some((word, rest)) => (word.trim(), rest.strip_suffix(')').map(str::trim)),
        None => (part, None),
    }
}

fn base(analyzer: &str, part: &str) -> Result<Chain, Error> {
    const NAMES: [&str; 6] = ["standard", "words", "whitespace", "keyword", "ngram(2,3)", "edge_ngram(1,10)"];
    let (word, arguments) = call(part);
    let chain = match word {
        "standard" => Chain::WORDS,
        "words" => Chain::of(Tokens::Words, false),
        "whitespace" => Chain::of(Tokens::Whitespace, false),
        "keyword" => Chain::of(Tokens::Keyword, false),
        "ngram" | "edge_ngram" => {
            let mut chain = Chain::WORDS;
            filter(&mut chain, analyzer, part)?;
            return Ok(chain);
        }
        word => match LANGUAGES.iter().find(|(name, _)| *name == word) {
            Some((_, language)) => Chain::language(*language),
            None => {
                let known: Vec<&str> = NAMES.into_iter().chain(LANGUAGES.iter().map(|(name, _)| *name)).collect();
                let hint = nearest(word, &known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                return Err(refuse(analyzer, format!("`{part}` is unknown; {hint}Known: {}", known.join(", "))));
            }
        },
    };
    match arguments {
        None if word == part => Ok(chain),
        _ => Err(refuse(analyzer, format!("`{word}` takes no arguments"))),
    }
}

fn filter(chain: &mut Chain, analyzer: &str, part: &str) -> Result<(), Error> {
    const NAMES: [&str; 6] =
        ["lowercase", "asciifolding", "stop(LANGUAGE)", "stem(LANGUAGE)", "ngram(MIN,MAX)", "edge_ngram(MIN,MAX)"];
    let (word, arguments) = call(part);
    let language = || {
        let name = arguments.unwrap_or_default();
        LANGUAGES.iter().find(|(known, _)| *known == name).map(|(_, language)| *language).ok_or_else(|| {
            let known: Vec<&str> = LANGUAGES.iter().map(|(name, _)| *name).collect();
            refuse(analyzer, format!("`{part}` needs a language; known: {}", known.join(", ")))
        })
    };
    match (word, arguments) {
        ("lowercase", None) => chain.lowercase = true,
        ("asciifolding", None) => chain.asciifolding = true,
        ("stem", _) => chain.stem = Some(language()?),
        ("stop", _) => {
            let language = language()?;
            if StopWordFilter::new(language).is_none() {
                return Err(refuse(analyzer, format!("there is no list of stop words for `{part}`; leave it out")));
            }
            chain.stop = Some(language);
        }
        ("ngram" | "edge_ngram", Some(arguments)) => chain.grams = Some(grams(analyzer, arguments, word == "edge_ngram")?),
        _ => {
            let hint = nearest(word, &NAMES).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            return Err(refuse(analyzer, format!("filter `{part}` is unknown; {hint}Known: {}", NAMES.join(", "))));
        }
    }
    Ok(())
}

fn grams(analyzer: &str, arguments: &str, edge: bool) -> Result<Grams, Error> {
    let sizes = arguments.split_once(',').and_then(|(min, max)| Some((min.trim().parse().ok()?, max.trim().parse().ok()?)));
    match sizes {
        Some((min, max)) if 1 <= min && min <= max && max <= GRAM_CHARS_MAX && (edge || max - min < GRAM_SIZES_MAX) => {
            Ok(Grams { min, max, edge })
        }
        _ => {
            let sizes = if edge { String::new() } else { format!(" and at most {GRAM_SIZES_MAX} sizes") };
            Err(refuse(analyzer, format!("({arguments}) needs a smallest and a largest size from 1 to {GRAM_CHARS_MAX}{sizes}")))
        }
    }
}

/// Cuts tokens into pieces; all pieces of a token have its position and its place in the text.
#[derive(Clone, Copy)]
struct GramFilter {
    grams: Grams,
    query: bool,
}

impl GramFilter {
    /// The pieces of a word, last first.
    fn pieces(self, word: &str) -> Vec<String> {
        let Grams { min, max, edge } = self.grams;
        let (min, max) = (usize::from(min), usize::from(max));
        let starts: Vec<usize> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
        let chars = starts.len() - 1;
        if chars <= min {
            return vec![word.to_owned()];
        }
        let smallest = if self.query { max.min(chars) } else { min };
        let mut pieces = Vec::new();
        for from in 0..chars {
            for size in smallest..=max.min(chars - from) {
                pieces.push(word[starts[from]..starts[from + size]].to_owned());
            }
            if edge {
                break;
            }
        }
        pieces.sort_unstable();
        pieces.dedup();
        pieces.reverse();
        pieces
    }
}

impl TokenFilter for GramFilter {
    type Tokenizer<T: Tokenizer> = GramTokenizer<T>;

    fn transform<T: Tokenizer>(self, inner: T) -> GramTokenizer<T> {
        GramTokenizer { inner, filter: self }
    }
}

#[derive(Clone)]
struct GramTokenizer<T> {
    inner: T,
    filter: GramFilter,
}

impl<T: Tokenizer> Tokenizer for GramTokenizer<T> {
    type TokenStream<'a> = GramStream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Self::TokenStream<'a> {
        GramStream { tail: self.inner.token_stream(text), filter: self.filter, pending: Vec::new(), token: Token::default() }
    }
}

struct GramStream<S> {
    tail: S,
    filter: GramFilter,
    pending: Vec<String>,
    token: Token,
}

impl<S: TokenStream> TokenStream for GramStream<S> {
    fn advance(&mut self) -> bool {
        while self.pending.is_empty() {
            if !self.tail.advance() {
                return false;
            }
            let word = self.tail.token();
            self.pending = self.filter.pieces(&word.text);
            self.token.clone_from(word);
        }
        self.token.text = self.pending.pop().expect("the loop ends with pieces");
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(analyzer: &str, text: &str, query: bool) -> Vec<String> {
        let mut analyzer = analyzer.parse::<Analyzer>().expect("an analyzer").build(query);
        let mut stream = analyzer.token_stream(text);
        let mut tokens = Vec::new();
        while stream.advance() {
            tokens.push(stream.token().text.clone());
        }
        tokens
    }

    #[test]
    fn names_read_back_and_each_analyzer_has_one() {
        for (text, name) in [
            ("standard", "standard"),
            ("words+lowercase", "standard"),
            ("english", "english"),
            ("standard+stop(english)+stem(english)", "english"),
            ("german", "words+lowercase+stop(german)+stem(german)"),
            ("greek", "words+lowercase+stem(greek)"),
            ("edge_ngram(2, 10)", "words+lowercase+edge_ngram(2,10)"),
            ("keyword+lowercase", "keyword+lowercase"),
            ("whitespace + asciifolding + ngram(2,3)", "whitespace+asciifolding+ngram(2,3)"),
        ] {
            let analyzer: Analyzer = text.parse().expect(text);
            assert_eq!(analyzer.name(), name);
            assert_eq!(name.parse::<Analyzer>().expect(name), analyzer);
            let json = serde_json::to_string(&analyzer).expect("text");
            assert_eq!(serde_json::from_str::<Analyzer>(&json).expect(&json), analyzer);
        }
        for (name, _) in LANGUAGES {
            assert!(!tokens(name, "some words ÄÖ", false).is_empty(), "{name}");
        }
    }

    #[test]
    fn refusals_say_what_there_is() {
        for (text, says) in [
            ("", "is unknown"),
            ("enlgish", "did you mean `english`?"),
            ("standard+lowercsae", "did you mean `lowercase`?"),
            ("standard+stem(klingon)", "needs a language; known: arabic"),
            ("standard+stop(greek)", "no list of stop words"),
            ("standard(1)", "takes no arguments"),
            ("ngram(3,2)", "smallest and a largest"),
            ("ngram(1,9)", "at most 8 sizes"),
            ("ngram", "unknown"),
            ("ngram(0,1)", "from 1 to 32"),
        ] {
            let error = text.parse::<Analyzer>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn filters_fold_stem_and_cut() {
        assert_eq!(tokens("standard+asciifolding", "Ärger über Ångström", false), ["arger", "uber", "angstrom"]);
        assert_eq!(tokens("german", "Die Häuser und die Katzen", false), ["haus", "katz"]);
        assert_eq!(tokens("keyword+lowercase", "New York", false), ["new york"]);
        assert_eq!(tokens("edge_ngram(2,4)", "Crash a", false), ["cr", "cra", "cras", "a"]);
        assert_eq!(tokens("edge_ngram(2,4)", "Crash cra", true), ["cras", "cra"]);
        assert_eq!(tokens("ngram(2,3)", "äbcd", false), ["bc", "bcd", "cd", "äb", "äbc"]);
        assert_eq!(tokens("ngram(2,3)", "äbcd bc", true), ["bcd", "äbc", "bc"]);
        assert_eq!("keyword+lowercase+asciifolding".parse::<Analyzer>().expect("known").fold_case("Ä"), "a");
    }
}
