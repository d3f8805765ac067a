//! The tantivy index of one document table: its fields, its analyzers, how a document becomes fields, how a folder is opened.
//!
//! The materializer adds documents through `Fields::document`; queries and scans look fields up by path in `Fields`.
//!
//! # Format
//! tantivy's own (index format 7), with the commit's payload saying up to where the log was applied (`Checkpoint`). Fields:
//!
//! | field | kind | for |
//! | --- | --- | --- |
//! | `_id` | keyword, fast, stored (not in the first indexes) | upserts, point reads, the `_id` column, hits |
//! | `_source` | stored bytes, lz4 blocks of 4 KiB | the document as it came, once |
//! | `_offset` | u64, fast | the record it came from |
//! | `_fields` | keywords | `has:path` when a value is there, `mixed:path` when the facet does not tell the column |
//! | `t:path` | text with positions | a search field |
//! | `k:path`, `n:path`, `d:path` | keyword, f64, date; fast | a facet: all values as text; numbers; RFC 3339 times and dates |
//! | `k:path` and `n:`, `i:`, `f:`; `d:`; `p:` | fast | a typed field: its text, and numbers (all as floats, whole ones as i64, others); a date; an address |
//! | `_dynamic`, `_overflow` | JSON | with `dynamic`: paths the mapping does not name, see `dynamic` |
//!
//! # Crash safety
//! A folder without segments is created anew, durably; any other folder must have a readable `meta.json` of this mapping. What of it
//! is on the disk and what is not yet: [`crate::directory`].

use std::path::Path;
use std::sync::Arc;

use logcore::Offset;
use logcore::sys::fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tantivy::directory::RamDirectory;
use tantivy::directory::error::LockError;
use tantivy::schema::{
    BytesOptions, DateOptions, DateTimePrecision, FAST, Field, IndexRecordOption, IpAddrOptions, NumericOptions, Schema,
    SchemaBuilder, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, IndexSettings, SingleSegmentIndexWriter, TantivyDocument, TantivyError, Term};

use crate::directory::{Disk, FreshDirectory, OpenError, Save, WriteRight};
use crate::error::Error;
use crate::mapping::{Analyzer, FACET_BYTES_MAX, FieldKind, Mapping, is_plain, scalar_text, split_path, visit_values};

mod dynamic;
mod stored;
pub(crate) mod values;

pub(crate) use dynamic::{DynamicFields, DynamicPaths};
pub(crate) use stored::Stored;
use values::{Number, parse_date};

/// The version of the payload and of the fields above.
const FORMAT: u32 = 1;

/// Documents are compressed together up to this: a hit unpacks that much. A quarter of tantivy's own figure halves what a search of
/// ten small documents takes; it is written down in the index.
const STORE_BLOCK_BYTES: usize = 4096;

/// What a commit's payload says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The first offset of the log that is not in the index.
    pub next_offset: Offset,
    /// [`FORMAT`].
    pub format: u32,
    /// The paths found in documents, where the mapping indexes those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicPaths>,
}

impl Checkpoint {
    /// As it is written.
    pub(crate) fn payload(next_offset: Offset, dynamic: Option<DynamicPaths>) -> String {
        serde_json::to_string(&Self { next_offset, format: FORMAT, dynamic }).expect("numbers and texts can always be written")
    }
}

/// The fields of one facet or typed field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FacetFields {
    /// All its values as text.
    pub keyword: Field,
    pub typed: Typed,
}

/// The fields that a facet's values fill besides the text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Typed {
    /// A facet without a declared type.
    Any {
        number: Field,
        date: Field,
    },
    Keyword,
    /// All numbers as floats; whole ones exactly; all others.
    Number {
        number: Field,
        integer: Field,
        fraction: Field,
    },
    Date(Field),
    Boolean,
    Ip(Field),
}

impl Typed {
    /// What its values are called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any { .. } => "facet",
            Self::Keyword => FieldKind::Keyword.name(),
            Self::Number { .. } => FieldKind::Number.name(),
            Self::Date(_) => FieldKind::Date.name(),
            Self::Boolean => FieldKind::Boolean.name(),
            Self::Ip(_) => FieldKind::Ip.name(),
        }
    }

    fn build(schema: &mut SchemaBuilder, path: &str, kind: Option<FieldKind>) -> Self {
        let fast = || NumericOptions::default().set_fast();
        let date = || DateOptions::default().set_fast().set_precision(DateTimePrecision::Milliseconds);
        match kind {
            None => Self::Any {
                number: schema.add_f64_field(&format!("n:{path}"), fast()),
                date: schema.add_date_field(&format!("d:{path}"), date()),
            },
            Some(FieldKind::Keyword) => Self::Keyword,
            Some(FieldKind::Number) => Self::Number {
                number: schema.add_f64_field(&format!("n:{path}"), fast()),
                integer: schema.add_i64_field(&format!("i:{path}"), fast()),
                fraction: schema.add_f64_field(&format!("f:{path}"), fast()),
            },
            Some(FieldKind::Date) => Self::Date(schema.add_date_field(&format!("d:{path}"), date())),
            Some(FieldKind::Boolean) => Self::Boolean,
            Some(FieldKind::Ip) => Self::Ip(schema.add_ip_addr_field(&format!("p:{path}"), IpAddrOptions::default().set_fast())),
        }
    }

    /// Adds a value whose text is `text`; one of another type adds nothing.
    fn add(self, document: &mut TantivyDocument, scalar: &Value, text: &str) {
        match self {
            Self::Any { number, date } => {
                if let Some(float) = scalar.as_f64() {
                    document.add_f64(number, float);
                }
                if let Some(moment) = scalar.as_str().and_then(parse_date) {
                    document.add_date(date, moment);
                }
            }
            Self::Keyword | Self::Boolean => {}
            Self::Number { number, integer, fraction } => {
                let Some(value) = Number::of(scalar) else { return };
                document.add_f64(number, value.float());
                match value {
                    Number::Integer(value) => document.add_i64(integer, value),
                    Number::Fraction(value) => document.add_f64(fraction, value),
                }
            }
            Self::Date(date) => {
                if let Some(moment) = values::typed_date(scalar) {
                    document.add_date(date, moment);
                }
            }
            Self::Ip(address) => {
                if let Some(ip) = values::ip(text) {
                    document.add_ip_addr(address, ip);
                }
            }
        }
    }
}

/// One path of the mapping and the index fields it fills.
#[derive(Clone, Debug)]
pub(crate) struct PathFields {
    pub path: String,
    pub segments: Vec<String>,
    pub text: Option<(Field, Analyzer)>,
    pub facet: Option<FacetFields>,
}

/// Where hits find their ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdsIn {
    Store,
    /// As in the first indexes.
    Column,
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
    /// Where paths go that the mapping does not name.
    pub dynamic: Option<DynamicFields>,
}

impl Fields {
    /// Lays out the index for a mapping that was validated.
    pub(crate) fn build(mapping: &Mapping, ids: IdsIn) -> (Schema, Self) {
        let mut schema = Schema::builder();
        let id = keyword().set_fast("raw");
        let id = if ids == IdsIn::Store { id.set_stored() } else { id };
        let mut fields = Self {
            id: schema.add_text_field("_id", id),
            source: schema.add_bytes_field("_source", BytesOptions::default().set_stored()),
            offset: schema.add_u64_field("_offset", FAST),
            presence: schema.add_text_field("_fields", keyword()),
            paths: mapping.paths().into_iter().map(|path| PathFields::build(&mut schema, mapping, path)).collect(),
            dynamic: None,
        };
        fields.dynamic = DynamicFields::build(&mut schema, mapping);
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

    /// The document as fields. `value` is `json`, parsed; paths it is the first to have are added to `known`.
    pub(crate) fn document(
        &self,
        id: &str,
        offset: Offset,
        json: &[u8],
        value: &Value,
        known: &mut DynamicPaths,
    ) -> TantivyDocument {
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
                    facet.typed.add(&mut document, scalar, &text);
                }
            });
            if found {
                document.add_text(self.presence, format!("has:{}", fields.path));
            }
            if fields.facet.is_some() && !is_plain(value, &fields.segments) {
                document.add_text(self.presence, format!("mixed:{}", fields.path));
            }
        }
        if let Some(dynamic) = self.dynamic {
            let named = |path: &str| self.path(path).is_some();
            for path in dynamic.add(&mut document, value, known, &named) {
                document.add_text(self.presence, format!("has:{path}"));
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
                .set_tokenizer(&analyzer.name())
                .set_index_option(IndexRecordOption::WithFreqsAndPositions);
            (schema.add_text_field(&format!("t:{path}"), TextOptions::default().set_indexing_options(indexing)), analyzer)
        });
        let facet = mapping.is_facet(path).then(|| FacetFields {
            keyword: schema.add_text_field(&format!("k:{path}"), keyword().set_fast("raw")),
            typed: Typed::build(schema, path, mapping.fields.iter().find(|field| field.path == path).map(|field| field.kind)),
        });
        Self { path: path.to_owned(), segments: split_path(path), text, facet }
    }
}

fn keyword() -> TextOptions {
    let indexing =
        TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false);
    TextOptions::default().set_indexing_options(indexing)
}

fn analyzers(mapping: &Mapping) -> TokenizerManager {
    let manager = TokenizerManager::default();
    let ready = [Analyzer::Standard, Analyzer::Whitespace, Analyzer::Keyword, Analyzer::English];
    for analyzer in ready.into_iter().chain(mapping.search.iter().map(|field| field.analyzer)) {
        manager.register(&analyzer.name(), analyzer.for_documents());
    }
    manager
}

/// An index as it was found.
pub(crate) struct Opened {
    pub index: Index,
    pub directory: FreshDirectory,
    pub right: WriteRight,
    pub fields: Fields,
    pub next_offset: Offset,
    pub dynamic: DynamicPaths,
}

/// Writes an index of a mapping in memory, in one go.
pub(crate) fn in_memory(
    mapping: &Mapping,
    memory_bytes: usize,
) -> Result<(SingleSegmentIndexWriter<TantivyDocument>, Fields), TantivyError> {
    let (schema, fields) = Fields::build(mapping, IdsIn::Store);
    let builder = Index::builder().schema(schema).tokenizers(analyzers(mapping));
    Ok((builder.single_segment_index_writer(RamDirectory::create(), memory_bytes)?, fields))
}

/// Opens or creates the index in `dir` and says up to where it holds the log.
pub(crate) fn open(dir: &Path, mapping: &Mapping, disk: Arc<dyn Disk>, fresh_bytes: usize) -> Result<Opened, Error> {
    let damaged = |detail: String| Error::Damaged { path: dir.to_owned(), detail };
    let names = fs::list(dir)?;
    let is_index = names.iter().any(|name| name == "meta.json");
    // `meta.tmp`: a crash while the index was created.
    if !is_index && let Some(name) = names.iter().find(|name| !name.starts_with('.') && *name != "meta.tmp") {
        return Err(damaged(format!("it has `{name}` but no `meta.json`")));
    }
    fs::create_dir(dir)?;
    let (schema, fields) = Fields::build(mapping, IdsIn::Store);
    let (directory, right) = FreshDirectory::open(dir, disk, fresh_bytes).map_err(|error| match error {
        OpenError::Lock(LockError::LockBusy) => Error::Locked { path: dir.to_owned() },
        OpenError::Lock(error) => damaged(error.to_string()),
        OpenError::Io(error) => damaged(error.to_string()),
    })?;
    let mut index = if directory.has_index() {
        Index::open(directory.clone()).map_err(|error| damaged(error.to_string()))?
    } else {
        let settings = IndexSettings { docstore_blocksize: STORE_BLOCK_BYTES, ..IndexSettings::default() };
        let created = Index::create(directory.clone(), schema.clone(), settings);
        let created = created.map_err(writing("creating", dir))?;
        let saved = directory.begin_save().and_then(|save| save.map_or(Ok(()), Save::finish));
        saved.map_err(|error| writing("creating", dir)(error.into()))?;
        created
    };
    if index.schema() != schema && index.schema() != Fields::build(mapping, IdsIn::Column).0 {
        return Err(Error::MappingChanged { path: dir.to_owned(), detail: schema_difference(&index.schema(), &schema) });
    }
    index.set_tokenizers(analyzers(mapping));
    let metas = index.load_metas().map_err(|error| damaged(error.to_string()))?;
    let (next_offset, dynamic) = match metas.payload.as_deref() {
        None if metas.segments.is_empty() => (Offset::ZERO, DynamicPaths::default()),
        None => return Err(damaged("it has documents but does not say up to which offset".to_owned())),
        Some(payload) => {
            let checkpoint: Checkpoint =
                serde_json::from_str(payload).map_err(|error| damaged(format!("its payload: {error}")))?;
            if checkpoint.format != FORMAT {
                return Err(Error::UnknownFormat { path: dir.to_owned(), found: checkpoint.format, supported: FORMAT });
            }
            (checkpoint.next_offset, checkpoint.dynamic.unwrap_or_default())
        }
    };
    Ok(Opened { index, directory, right, fields, next_offset, dynamic })
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
    fn a_payload_reads_back() {
        let payload = Checkpoint::payload(Offset::new(42), None);
        assert_eq!(payload, r#"{"next_offset":42,"format":1}"#);
        assert_eq!(serde_json::from_str::<Checkpoint>(&payload).expect("just written").next_offset, Offset::new(42));
    }
}
