//! Which paths of a document are searchable text and which are facets, and how values are found under a path.
//!
//! The catalog's owner reads a [`Mapping`] from `CREATE TABLE ... USING document WITH (key, search, facets, fields, dynamic)` with
//! [`Mapping::from_options`]; everything else in this crate follows it.
//!
//! # Paths
//! `author.name` is the member `name` of the object `author`. For search and facets arrays are flattened on the way, so
//! `{"author": [{"name": "a"}, {"name": "b"}]}` has two values there; strings, numbers and booleans are values. As a column a path
//! reads like PostgreSQL's `#>>`: objects only on the way, an array or object at the end is its JSON text ([`column_text`]).

use std::borrow::Cow;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

mod analyzer;
mod options;

pub use analyzer::{Analyzer, Chain, Grams, Language, Tokens};
pub use options::MappingOptions;

/// More fields than this are a mistake: every field costs memory in every segment.
pub const FIELDS_MAX: usize = 256;
/// Paths found in documents that get fields of their own, at most.
pub const DYNAMIC_FIELDS_MAX: u32 = 1000;
/// A facet value longer than this is kept in the document but is not a facet: it could not be a term of the index.
pub const FACET_BYTES_MAX: usize = 32 * 1024;
/// A document's id may be this long.
pub const ID_BYTES_MAX: usize = 8 * 1024;

/// What is searchable in the documents of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The path of the id in the document; empty when the record's key is the id. Only the projection uses it.
    pub key: String,
    /// Full-text fields.
    #[serde(default)]
    pub search: Vec<SearchField>,
    /// Paths kept as columns: for exact filters, ranges, counts, sorting and aggregations.
    #[serde(default)]
    pub facets: Vec<String>,
    /// Facets of a declared type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<TypedField>,
    /// Index paths that are named nowhere: so many get fields of their own, the rest share one. `None` leaves them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<u32>,
}

/// One full-text field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchField {
    /// Where its text is in the document.
    pub path: String,
    /// How its text becomes tokens.
    #[serde(default)]
    pub analyzer: Analyzer,
}

/// A field of a declared type. It is a facet too: its values can be counted and shown as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedField {
    /// Where its values are in the document.
    pub path: String,
    /// What they are.
    pub kind: FieldKind,
}

/// The type of a field. Values of other types stay in the document and are facets, but compare with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// Text that is compared as a whole.
    Keyword,
    /// Numbers; whole ones of 64 bits compare exactly, others as 64-bit floats.
    Number,
    /// ISO 8601 text, or whole numbers: seconds since 1970, from 10^11 on milliseconds.
    Date,
    /// `true` or `false`.
    Boolean,
    /// An IPv4 or IPv6 address.
    Ip,
}

impl FieldKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Keyword, Self::Number, Self::Date, Self::Boolean, Self::Ip];

    /// Its name in options and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Number => "number",
            Self::Date => "date",
            Self::Boolean => "boolean",
            Self::Ip => "ip",
        }
    }
}

impl Mapping {
    /// Checks that every name can be a field and a column.
    ///
    /// # Errors
    /// [`Error::InvalidMapping`]: a name twice in one list, empty parts, control characters, a first `_` (kept for `_id`,
    /// `_score`), the name `doc` (the document's own column), or too many fields.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |detail: String| Err(Error::InvalidMapping { detail });
        let count = self.search.len() + self.facets.len() + self.fields.len();
        if count > FIELDS_MAX {
            return invalid(format!("{count} fields are over the limit of {FIELDS_MAX}"));
        }
        if !self.key.is_empty() {
            check_path(&self.key)?;
        }
        let mut search = HashSet::new();
        for field in &self.search {
            check_path(&field.path)?;
            if !search.insert(field.path.as_str()) {
                return invalid(format!("`{}` is named twice in the search fields", field.path));
            }
        }
        let mut facets = HashSet::new();
        for path in self.facet_paths() {
            check_path(path)?;
            if !facets.insert(path) {
                return invalid(format!("`{path}` is named twice in the facets and fields"));
            }
        }
        if self.dynamic.is_some_and(|fields| fields > DYNAMIC_FIELDS_MAX) {
            return invalid(format!("dynamic fields are limited to {DYNAMIC_FIELDS_MAX}"));
        }
        if search.contains("doc") || facets.contains("doc") {
            return invalid("`doc` is the column of the whole document and can't be a field".to_owned());
        }
        Ok(())
    }

    /// The facets, then the typed fields.
    pub fn facet_paths(&self) -> impl Iterator<Item = &str> {
        self.facets.iter().map(String::as_str).chain(self.fields.iter().map(|field| field.path.as_str()))
    }

    /// Whether this path is a facet or a typed field.
    #[must_use]
    pub fn is_facet(&self, path: &str) -> bool {
        self.facet_paths().any(|facet| facet == path)
    }

    /// Every search field, facet and typed field once, in the mapping's order.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = self.search.iter().map(|field| field.path.as_str()).collect();
        for facet in self.facet_paths() {
            if !paths.contains(&facet) {
                paths.push(facet);
            }
        }
        paths
    }
}

pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let invalid = |detail: String| Err(Error::InvalidMapping { detail });
    if path.starts_with('_') {
        return invalid(format!("`{path}`: names that start with `_` are reserved"));
    }
    if path.len() > 255 {
        return invalid(format!("`{path}` is longer than 255 bytes"));
    }
    if path.split('.').any(str::is_empty) {
        return invalid(format!("`{path}` has an empty part; write paths like `author.name`"));
    }
    if path.chars().any(char::is_control) {
        return invalid(format!("{path:?} contains control characters"));
    }
    Ok(())
}

/// Calls `visit` with every string, number and boolean under `path`, arrays flattened.
pub fn visit_values<'a>(value: &'a Value, path: &[String], visit: &mut dyn FnMut(&'a Value)) {
    match (value, path) {
        (Value::Array(items), _) => items.iter().for_each(|item| visit_values(item, path, visit)),
        (Value::Object(members), [name, rest @ ..]) => {
            if let Some(member) = members.get(name) {
                visit_values(member, rest, visit);
            }
        }
        (Value::String(_) | Value::Number(_) | Value::Bool(_), []) => visit(value),
        _ => {}
    }
}

/// The text of a string, number or boolean.
#[must_use]
pub fn scalar_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What a column of this path shows: PostgreSQL's `#>>`, except that numbers and containers are written anew.
#[must_use]
pub fn column_text<'a>(value: &'a Value, path: &[String]) -> Option<Cow<'a, str>> {
    match at_path(value, path)? {
        container @ (Value::Array(_) | Value::Object(_)) => Some(Cow::Owned(container.to_string())),
        scalar => scalar_text(scalar),
    }
}

/// Whether the facet of this path tells the column: objects on the way, then nothing, null, or one value that is not too long.
#[must_use]
pub fn is_plain(value: &Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Object(members), [name, rest @ ..]) => members.get(name).is_none_or(|member| is_plain(member, rest)),
        (Value::Array(_), _) | (Value::Object(_), []) => false,
        (Value::String(text), []) => text.len() <= FACET_BYTES_MAX,
        (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => true,
    }
}

fn at_path<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.as_object()?.get(name))
}

/// Splits a dotted path.
#[must_use]
pub fn split_path(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(search: &[&str], facets: &[&str]) -> Mapping {
        let search = search.iter().map(|path| SearchField { path: (*path).to_owned(), analyzer: Analyzer::default() }).collect();
        Mapping {
            key: "id".to_owned(),
            search,
            facets: facets.iter().map(|path| (*path).to_owned()).collect(),
            ..Mapping::default()
        }
    }

    #[test]
    fn a_mapping_names_each_field_once_and_no_reserved_one() {
        assert!(mapping(&["a", "b.c"], &["a", "d"]).validate().is_ok());
        assert_eq!(mapping(&["a", "b"], &["c", "a"]).paths(), ["a", "b", "c"]);
        for bad in [
            mapping(&["a", "a"], &[]),
            mapping(&[], &["a", "a"]),
            mapping(&["_id"], &[]),
            mapping(&["doc"], &[]),
            mapping(&["a..b"], &[]),
            mapping(&[""], &[]),
            mapping(&["a\u{0}"], &[]),
        ] {
            assert!(matches!(bad.validate(), Err(Error::InvalidMapping { .. })), "{bad:?}");
        }
    }

    #[test]
    fn values_are_flattened_for_search_and_whole_as_columns() {
        let doc = serde_json::json!({"a": {"b": "x"}, "c": [{"d": 1}, {"d": [true, null]}], "n": 1.5, "z": null});
        let values = |path: &str| {
            let mut texts = Vec::new();
            visit_values(&doc, &split_path(path), &mut |value| texts.extend(scalar_text(value).map(Cow::into_owned)));
            texts
        };
        let column = |path: &str| column_text(&doc, &split_path(path)).map(Cow::into_owned);
        assert_eq!(values("a.b"), ["x"]);
        assert_eq!(values("c.d"), ["1", "true"]);
        assert_eq!(values("a"), Vec::<String>::new());
        assert_eq!(column("a"), Some("{\"b\":\"x\"}".to_owned()));
        assert_eq!(column("c.d"), None);
        assert_eq!((column("n"), column("z"), column("y")), (Some("1.5".to_owned()), None, None));
        assert!(is_plain(&doc, &split_path("a.b")) && is_plain(&doc, &split_path("y.y")) && is_plain(&doc, &split_path("z")));
        assert!(!is_plain(&doc, &split_path("a")) && !is_plain(&doc, &split_path("c.d")));
    }
}
