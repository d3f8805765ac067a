//! Plain tantivy: the same fields filled by hand, without this crate's way of keeping ids, offsets and checkpoints in order.

use std::time::{Duration, Instant};

use docstore::{Analyzer, DocumentOptions};
use logcore::sys::fs::tree_bytes;
use serde_json::Value;
use tantivy::schema::{Field, Schema};
use tantivy::tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer};
use tantivy::{Index, TantivyDocument};

use crate::{Input, folder, open};

/// What the standard analyzer does.
pub(crate) fn register_analyzer(index: &Index) {
    let analyzer =
        TextAnalyzer::builder(SimpleTokenizer::default()).filter(RemoveLongFilter::limit(256)).filter(LowerCaser).build();
    index.tokenizers().register(&Analyzer::Standard.name(), analyzer);
}

struct Fields {
    id: Field,
    source: Field,
    offset: Field,
    presence: Field,
    texts: Vec<(&'static str, Field)>,
    keywords: Vec<(&'static str, Field, Field)>,
}

impl Fields {
    fn of(schema: &Schema) -> Self {
        let field = |name: &str| schema.get_field(name).unwrap();
        Self {
            id: field("_id"),
            source: field("_source"),
            offset: field("_offset"),
            presence: field("_fields"),
            texts: ["subject", "body"].map(|path| (path, field(&format!("t:{path}")))).to_vec(),
            keywords: ["repo", "author", "ts"]
                .map(|path| (path, field(&format!("k:{path}")), field(&format!("n:{path}"))))
                .to_vec(),
        }
    }

    fn document(&self, id: &str, json: &str, offset: u64) -> TantivyDocument {
        let value: Value = serde_json::from_str(json).unwrap();
        let mut document = TantivyDocument::new();
        document.add_text(self.id, id);
        document.add_bytes(self.source, json.as_bytes());
        document.add_u64(self.offset, offset);
        for (path, field) in &self.texts {
            document.add_text(*field, value[path].as_str().unwrap());
            document.add_text(self.presence, format!("has:{path}"));
        }
        for (path, keyword, number) in &self.keywords {
            match &value[path] {
                Value::String(text) => document.add_text(*keyword, text),
                other => {
                    document.add_text(*keyword, other.to_string());
                    document.add_f64(*number, other.as_f64().unwrap());
                }
            }
            document.add_text(self.presence, format!("has:{path}"));
        }
        document
    }
}

/// Indexes everything and makes it durable; how long it took, and the bytes on the disk.
pub(crate) fn index(input: &Input) -> (Duration, u64) {
    let schema_dir = folder("schema");
    drop(open(schema_dir.path()));
    let made = Index::open_in_dir(schema_dir.path()).unwrap();
    let dir = folder("tantivy");
    let index = Index::create_in_dir(dir.path(), made.schema()).unwrap();
    register_analyzer(&index);
    let fields = Fields::of(&index.schema());
    let started = Instant::now();
    let mut writer = index.writer_with_num_threads(1, DocumentOptions::default().memory_bytes).unwrap();
    for (offset, (id, json)) in (0..).zip(&input.documents) {
        writer.add_document(fields.document(id, json, offset)).unwrap();
    }
    writer.commit().unwrap();
    (started.elapsed(), tree_bytes(dir.path()).unwrap())
}
