//! The tantivy index of one document table: its fields, its analyzers, how a document becomes fields, how a folder is opened.
//!
//! The materializer adds documents through `Fields::document`; queries and scans look fields up by path in `Fields`.
//!
//! # Format
//! tantivy's own (index format 7), with the commit's payload saying up to where the log was applied (`Checkpoint`). Fields:
//!
//! | field | kind | for |
//! | --- | --- | --- |
//! | `_id` | keyword, fast | upserts, point reads, the `_id` column |
//! | `_source` | stored bytes, lz4 blocks | the document as it came, once |
//! | `_offset` | u64, fast | the record it came from |
//! | `_fields` | keywords | `has:path` when a value is there, `mixed:path` when the facet does not tell the column |
//! | `t:path` | text with positions | a search field |
//! | `k:path`, `n:path`, `d:path` | keyword, f64, date; fast | a facet: all values as text; numbers; RFC 3339 times and dates |
//!
//! # Crash safety
//! A folder without segments is created anew; any other folder must have a readable `meta.json` of this mapping.

use std::borrow::Cow;
use std::path::Path;

use logcore::Offset;
use logcore::sys::fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tantivy::directory::MmapDirectory;
use tantivy::schema::{
    BytesOptions, DateOptions, DateTimePrecision, FAST, Field, IndexRecordOption, NumericOptions, Schema, SchemaBuilder,
    TextFieldIndexing, TextOptions,
};
use tantivy::time::OffsetDateTime;
use tantivy::time::format_description::well_known::Rfc3339;
use tantivy::tokenizer::{
    Language, LowerCaser, RawTokenizer, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer,
    TokenizerManager, WhitespaceTokenizer,
};
use tantivy::{DateTime, Index, IndexSettings, TantivyDocument, TantivyError, Term};

use crate::error::Error;
use crate::mapping::{Analyzer, FACET_BYTES_MAX, Mapping, is_plain, scalar_text, split_path, visit_values};

/// The version of the payload and of the fields above.
const FORMAT: u32 = 1;
/// Longer tokens are left out of the index. tantivy's own default of 40 would lose the hashes of git commits.
const TOKEN_BYTES_MAX: usize = 256;

/// What a commit's payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The first offset of the log that is not in the index.
    pub next_offset: Offset,
    /// [`FORMAT`].
    pub format: u32,
}

impl Checkpoint {
    /// As it is written.
    pub(crate) fn payload(next_offset: Offset) -> String {
        serde_json::to_string(&Self { next_offset, format: FORMAT }).expect("two numbers can always be written")
    }
}

/// The fields of one facet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FacetFields {
    pub keyword: Field,
    pub number: Field,
    pub date: Field,
}

/// One path of the mapping and the index fields it fills.
#[derive(Clone, Debug)]
pub(crate) struct PathFields {
    pub path: String,
    pub segments: Vec<String>,
    pub text: Option<(Field, Analyzer)>,
    pub facet: Option<FacetFields>,
}

/// All fields of the index.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub id: Field,
    pub source: Field,
    pub offset: Field,
    pub presence: Field,
    /// In the mapping's order.
    pub paths: Vec<PathFields>,
}

impl Fields {
    /// Lays out the index for a mapping that was validated.
    pub(crate) fn build(mapping: &Mapping) -> (Schema, Self) {
        let mut schema = Schema::builder();
        let fields = Self {
            id: schema.add_text_field("_id", keyword().set_fast("raw")),
            source: schema.add_bytes_field("_source", BytesOptions::default().set_stored()),
            offset: schema.add_u64_field("_offset", FAST),
            presence: schema.add_text_field("_fields", keyword()),
            paths: mapping.paths().into_iter().map(|path| PathFields::build(&mut schema, mapping, path)).collect(),
        };
        (schema.build(), fields)
    }

    /// The fields of a path, if the mapping names it.
    pub(crate) fn path(&self, path: &str) -> Option<&PathFields> {
        self.paths.iter().find(|fields| fields.path == path)
    }

    /// The names of all paths.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(|fields| fields.path.as_str())
    }

    /// The facet fields of a path.
    pub(crate) fn facet(&self, path: &str) -> Result<FacetFields, Error> {
        let fields = self.path(path);
        if let Some(facet) = fields.and_then(|fields| fields.facet) {
            return Ok(facet);
        }
        let facets = self.paths.iter().filter(|fields| fields.facet.is_some()).map(|fields| fields.path.as_str());
        Err(match fields {
            None => Error::unknown_field(path, facets),
            Some(_) => {
                let facets: Vec<&str> = facets.collect();
                let hint = format!(" among the facets, only among the search fields; the facets are: {}", facets.join(", "));
                Error::UnknownField { name: path.to_owned(), hint }
            }
        })
    }

    /// The term that documents with this id have.
    pub(crate) fn id_term(&self, id: &str) -> Term {
        Term::from_field_text(self.id, id)
    }

    /// The term that documents have with at least one value at `path`.
    pub(crate) fn has_term(&self, path: &str) -> Term {
        Term::from_field_text(self.presence, &format!("has:{path}"))
    }

    /// The term that documents have where the facet `path` does not tell the column.
    pub(crate) fn mixed_term(&self, path: &str) -> Term {
        Term::from_field_text(self.presence, &format!("mixed:{path}"))
    }

    /// The document as fields. `value` is `json`, parsed.
    pub(crate) fn document(&self, id: &str, offset: Offset, json: &[u8], value: &Value) -> TantivyDocument {
        let mut document = TantivyDocument::new();
        document.add_text(self.id, id);
        document.add_bytes(self.source, json);
        document.add_u64(self.offset, offset.value());
        for fields in &self.paths {
            let mut found = false;
            visit_values(value, &fields.segments, &mut |scalar| {
                let Some(text) = scalar_text(scalar) else { return };
                found = true;
                if let Some((field, _)) = fields.text {
                    document.add_text(field, &text);
                }
                if let Some(facet) = fields.facet
                    && text.len() <= FACET_BYTES_MAX
                {
                    document.add_text(facet.keyword, &text);
                    if let Some(number) = scalar.as_f64() {
                        document.add_f64(facet.number, number);
                    }
                    if let Some(date) = scalar.as_str().and_then(parse_date) {
                        document.add_date(facet.date, date);
                    }
                }
            });
            if found {
                document.add_text(self.presence, format!("has:{}", fields.path));
            }
            if fields.facet.is_some() && !is_plain(value, &fields.segments) {
                document.add_text(self.presence, format!("mixed:{}", fields.path));
            }
        }
        document
    }
}

impl PathFields {
    fn build(schema: &mut SchemaBuilder, mapping: &Mapping, path: &str) -> Self {
        let analyzer = mapping.search.iter().find(|field| field.path == path).map(|field| field.analyzer);
        let text = analyzer.map(|analyzer| {
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(analyzer.name())
                .set_index_option(IndexRecordOption::WithFreqsAndPositions);
            (schema.add_text_field(&format!("t:{path}"), TextOptions::default().set_indexing_options(indexing)), analyzer)
        });
        let facet = mapping.facets.iter().any(|facet| facet == path).then(|| FacetFields {
            keyword: schema.add_text_field(&format!("k:{path}"), keyword().set_fast("raw")),
            number: schema.add_f64_field(&format!("n:{path}"), NumericOptions::default().set_fast()),
            date: schema.add_date_field(
                &format!("d:{path}"),
                DateOptions::default().set_fast().set_precision(DateTimePrecision::Milliseconds),
            ),
        });
        Self { path: path.to_owned(), segments: split_path(path), text, facet }
    }
}

fn keyword() -> TextOptions {
    let indexing =
        TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false);
    TextOptions::default().set_indexing_options(indexing)
}

/// A time in RFC 3339, or a date alone (its midnight in UTC), of the years tantivy can hold (1677 to 2262).
fn parse_date(text: &str) -> Option<DateTime> {
    if !(10..=40).contains(&text.len()) || text.as_bytes()[4] != b'-' {
        return None;
    }
    let text = if text.len() == 10 { Cow::Owned(format!("{text}T00:00:00Z")) } else { Cow::Borrowed(text) };
    let date = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
    (1678..=2261).contains(&date.year()).then(|| DateTime::from_utc(date))
}

fn analyzers() -> TokenizerManager {
    let manager = TokenizerManager::default();
    let words = || {
        TextAnalyzer::builder(SimpleTokenizer::default()).filter(RemoveLongFilter::limit(TOKEN_BYTES_MAX + 1)).filter(LowerCaser)
    };
    let stop_words = StopWordFilter::new(Language::English).expect("tantivy is built with its English stop words");
    manager.register(Analyzer::Standard.name(), words().build());
    manager.register(Analyzer::English.name(), words().filter(stop_words).filter(Stemmer::new(Language::English)).build());
    manager.register(Analyzer::Whitespace.name(), TextAnalyzer::builder(WhitespaceTokenizer::default()).build());
    manager.register(Analyzer::Keyword.name(), TextAnalyzer::builder(RawTokenizer::default()).build());
    manager
}

/// Opens or creates the index in `dir` and says up to where it holds the log.
pub(crate) fn open(dir: &Path, mapping: &Mapping) -> Result<(Index, Fields, Offset), Error> {
    let damaged = |detail: String| Error::Damaged { path: dir.to_owned(), detail };
    let names = fs::list(dir)?;
    let is_index = names.iter().any(|name| name == "meta.json");
    if !is_index && let Some(name) = names.iter().find(|name| !name.starts_with('.')) {
        return Err(damaged(format!("it has `{name}` but no `meta.json`")));
    }
    fs::create_dir(dir)?;
    let (schema, fields) = Fields::build(mapping);
    let directory = MmapDirectory::open(dir).map_err(|error| damaged(error.to_string()))?;
    let mut index = if is_index {
        Index::open(directory).map_err(|error| damaged(error.to_string()))?
    } else {
        Index::create(directory, schema.clone(), IndexSettings::default()).map_err(|source| Error::Writing {
            operation: "creating",
            path: dir.to_owned(),
            source,
        })?
    };
    if index.schema() != schema {
        return Err(Error::MappingChanged { path: dir.to_owned(), detail: schema_difference(&index.schema(), &schema) });
    }
    index.set_tokenizers(analyzers());
    let metas = index.load_metas().map_err(|error| damaged(error.to_string()))?;
    let next_offset = match metas.payload.as_deref() {
        None if metas.segments.is_empty() => Offset::ZERO,
        None => return Err(damaged("it has documents but does not say up to which offset".to_owned())),
        Some(payload) => {
            let checkpoint: Checkpoint =
                serde_json::from_str(payload).map_err(|error| damaged(format!("its payload: {error}")))?;
            if checkpoint.format != FORMAT {
                return Err(Error::UnknownFormat { path: dir.to_owned(), found: checkpoint.format, supported: FORMAT });
            }
            checkpoint.next_offset
        }
    };
    Ok((index, fields, next_offset))
}

fn schema_difference(found: &Schema, wanted: &Schema) -> String {
    let names = |schema: &Schema| schema.fields().map(|(_, entry)| entry.name().to_owned()).collect::<Vec<_>>();
    let (found, wanted) = (names(found), names(wanted));
    let missing = wanted.iter().find(|name| !found.contains(name)).map(|name| format!("`{name}` is not in it"));
    let extra = found.iter().find(|name| !wanted.contains(name)).map(|name| format!("`{name}` is in it"));
    missing.or(extra).unwrap_or_else(|| "a field's analyzer or order differs".to_owned())
}

/// Wraps a failure of the writing side.
pub(crate) fn writing(operation: &'static str, path: &Path) -> impl FnOnce(TantivyError) -> Error {
    move |source| match source {
        TantivyError::LockFailure(..) => Error::Locked { path: path.to_owned() },
        source => Error::Writing { operation, path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339_or_a_day_alone() {
        let millis = |text: &str| parse_date(text).map(DateTime::into_timestamp_millis);
        assert_eq!(millis("1970-01-02"), Some(86_400_000));
        assert_eq!(millis("1970-01-01T01:00:00.5+01:00"), Some(500));
        for text in ["", "1970", "1970-13-01", "9999-01-01", "1970-01-01x", "äöüäöüäöü", "0123-5678901234567"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn a_payload_reads_back() {
        let payload = Checkpoint::payload(Offset::new(42));
        assert_eq!(payload, r#"{"next_offset":42,"format":1}"#);
        assert_eq!(serde_json::from_str::<Checkpoint>(&payload).expect("just written").next_offset, Offset::new(42));
    }
}
