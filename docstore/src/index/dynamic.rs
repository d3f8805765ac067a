//! Paths that the mapping does not name, indexed by the types their values have.
//!
//! The materializer keeps the [`DynamicPaths`] and writes them with each commit; a snapshot holds those of its commit, so that a
//! query knows which paths there are. The first paths found get columns of their own in the field `_dynamic`; those beyond the
//! mapping's limit share `_overflow`, where they are searchable, but neither compared by size nor counted.
//!
//! # Invariants
//! - The set grows in the order of the log up to the limit and then stays: a path is in one of the two fields, for ever.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tantivy::TantivyDocument;
use tantivy::schema::{Field, IndexRecordOption, JsonObjectOptions, OwnedValue, SchemaBuilder, TextFieldIndexing};

use super::values::parse_date;
use crate::mapping::{Analyzer, FACET_BYTES_MAX, Mapping};

/// Values of one document that are indexed so; the rest stays in the document only.
const VALUES_MAX: usize = 10_000;

/// The paths found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DynamicPaths {
    /// Those with columns of their own.
    pub paths: BTreeSet<String>,
    /// Whether there are more.
    pub overflowed: bool,
    /// Every path has columns of its own, whether it was found or not: for documents that come and go.
    #[serde(skip)]
    pub any: bool,
}

/// The two fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DynamicFields {
    pub own: Field,
    pub overflow: Field,
    paths_max: usize,
}

impl DynamicFields {
    pub(super) fn build(schema: &mut SchemaBuilder, mapping: &Mapping) -> Option<Self> {
        let paths_max = usize::try_from(mapping.dynamic?).expect("a small number");
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(&Analyzer::Standard.name())
            .set_index_option(IndexRecordOption::WithFreqsAndPositions);
        let options = JsonObjectOptions::default().set_indexing_options(indexing).set_expand_dots_enabled();
        Some(Self {
            own: schema.add_json_field("_dynamic", options.clone().set_fast("raw")),
            overflow: schema.add_json_field("_overflow", options),
            paths_max,
        })
    }

    /// Adds the values of `value` at paths that `named` does not say are named; gives the paths that have any.
    pub(super) fn add(
        self,
        document: &mut TantivyDocument,
        value: &Value,
        known: &mut DynamicPaths,
        named: &dyn Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let mut found = Found { values: BTreeMap::new(), left: VALUES_MAX };
        found.visit(value, &mut String::new());
        found.values.retain(|path, _| !named(path));
        let (mut own, mut overflow, mut paths) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (path, values) in found.values {
            let room = known.any || known.paths.len() < self.paths_max;
            if known.paths.contains(&path) || room {
                known.paths.insert(path.clone());
                own.insert(path.clone(), OwnedValue::Array(values));
            } else {
                known.overflowed = true;
                overflow.insert(path.clone(), OwnedValue::Array(values));
            }
            paths.insert(path);
        }
        for (field, values) in [(self.own, own), (self.overflow, overflow)] {
            if !values.is_empty() {
                document.add_object(field, values);
            }
        }
        paths
    }
}

struct Found {
    values: BTreeMap<String, Vec<OwnedValue>>,
    left: usize,
}

impl Found {
    fn visit(&mut self, value: &Value, path: &mut String) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.visit(item, path)),
            Value::Object(members) => {
                for (name, member) in members {
                    let before = path.len();
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                    self.visit(member, path);
                    path.truncate(before);
                }
            }
            scalar => self.scalar(scalar, path),
        }
    }

    fn scalar(&mut self, value: &Value, path: &str) {
        if self.left == 0 || crate::mapping::check_path(path).is_err() {
            return;
        }
        let mut values = Vec::new();
        match value {
            Value::Bool(flag) => values.push(OwnedValue::Bool(*flag)),
            Value::Number(number) => {
                let integer = number.as_i64().map(OwnedValue::I64);
                values.extend(integer.or_else(|| number.as_f64().map(OwnedValue::F64)));
            }
            Value::String(text) if text.len() <= FACET_BYTES_MAX => {
                values.push(OwnedValue::Str(text.clone()));
                values.extend(parse_date(text).map(OwnedValue::Date));
            }
            _ => return,
        }
        self.left -= 1;
        self.values.entry(path.to_owned()).or_default().extend(values);
    }
}
