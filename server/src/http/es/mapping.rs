//! Mappings both ways: Elasticsearch's properties become the options of a document table, and a table is described as a mapping.

use std::collections::BTreeMap;

use router::{FieldKind, FoundField, Mapping, Searchable};
use serde_json::{Map, Value, json};

use super::{DYNAMIC_FIELDS, EsError};

/// Parameters of fields that change nothing here: how values are stored, or checked in a way that nothing depends on.
const PASSED_OVER: [&str; 12] = [
    "doc_values",
    "store",
    "norms",
    "index_options",
    "ignore_above",
    "coerce",
    "ignore_malformed",
    "format",
    "fielddata",
    "term_vector",
    "eager_global_ordinals",
    "meta",
];
const NUMBERS: [&str; 8] = ["long", "integer", "short", "byte", "double", "float", "half_float", "scaled_float"];
/// Settings that say how an index is kept, which is none of the client's business here.
const SETTINGS: [&str; 6] =
    ["number_of_shards", "number_of_replicas", "refresh_interval", "number_of_routing_shards", "max_result_window", "codec"];
/// Objects in objects.
const DEPTH_MAX: usize = 20;

/// The fields of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// The analyzers of text fields.
    search: BTreeMap<String, String>,
    /// The types of others; a text field may be one of them too.
    fields: BTreeMap<String, FieldKind>,
    facets: Vec<String>,
    dynamic: Option<u32>,
}

fn refuse(reason: String) -> EsError {
    EsError::new(axum::http::StatusCode::BAD_REQUEST, "mapper_parsing_exception", reason)
}

/// Reads `{"properties": ..., "dynamic": ...}`.
///
/// # Errors
/// Types and parameters that are not known, by name and path.
pub fn read(mappings: Value) -> Result<Declared, EsError> {
    let mut declared = Declared { dynamic: Some(DYNAMIC_FIELDS), ..Declared::default() };
    let Value::Object(mut members) = mappings else {
        return if mappings.is_null() { Ok(declared) } else { Err(refuse("the mapping is not an object".to_owned())) };
    };
    match members.remove("dynamic") {
        None | Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => declared.dynamic = None,
        Some(Value::String(text)) if text == "true" || text == "runtime" => {}
        Some(Value::String(text)) if text == "false" => declared.dynamic = None,
        Some(other) => return Err(refuse(format!("[dynamic] can be true or false here, not {other}"))),
    }
    properties(&mut declared, members.remove("properties").unwrap_or(json!({})), "", 0)?;
    for name in ["_source", "date_detection", "numeric_detection", "_meta"] {
        members.remove(name);
    }
    match members.keys().next() {
        Some(unknown) => Err(refuse(format!("Root mapping definition has unsupported parameters: [{unknown}]"))),
        None => Ok(declared),
    }
}

fn properties(declared: &mut Declared, value: Value, within: &str, depth: usize) -> Result<(), EsError> {
    let Value::Object(members) = value else { return Err(refuse(format!("[{within}]: properties are not an object"))) };
    if depth > DEPTH_MAX {
        return Err(refuse(format!("[{within}]: objects nest deeper than {DEPTH_MAX}")));
    }
    for (name, field) in members {
        let path = if within.is_empty() { name } else { format!("{within}.{name}") };
        if path.contains([',', '(', ')', ':', '\'']) {
            return Err(refuse(format!("[{path}]: names of fields can't have any of , ( ) : '")));
        }
        let Value::Object(field) = field else { return Err(refuse(format!("[{path}] is not an object"))) };
        property(declared, field, &path, depth)?;
    }
    Ok(())
}

fn property(declared: &mut Declared, mut field: Map<String, Value>, path: &str, depth: usize) -> Result<(), EsError> {
    let inner = field.remove("properties");
    let kind = match field.remove("type") {
        Some(Value::String(kind)) => kind,
        None if inner.is_some() => "object".to_owned(),
        _ => return Err(refuse(format!("No type specified for field [{path}]"))),
    };
    if kind == "object" {
        for name in ["dynamic", "enabled"] {
            if field.remove(name).is_some_and(|value| value != json!(true) && value != json!("true")) {
                return Err(refuse(format!("[{path}]: [{name}] is not supported for objects")));
            }
        }
        return properties(declared, inner.unwrap_or(json!({})), path, depth + 1);
    }
    let is_indexed = field.remove("index") != Some(Value::Bool(false));
    let analyzer = match field.remove("analyzer") {
        None => "standard".to_owned(),
        Some(Value::String(name)) => name,
        Some(other) => return Err(refuse(format!("[{path}]: analyzer {other} is not a name"))),
    };
    if field.remove("search_analyzer").is_some_and(|name| name != json!(analyzer)) {
        return Err(refuse(format!("[{path}]: [search_analyzer] is not supported, queries are analysed as the documents are")));
    }
    let whole = match field.remove("fields") {
        None => false,
        Some(Value::Object(fields)) => {
            let is_whole = |(name, field): (&String, &Value)| name == "keyword" && field["type"] == "keyword";
            if let Some((other, _)) = fields.iter().find(|field| !is_whole(*field)) {
                return Err(refuse(format!("[{path}.{other}]: of multi-fields only [keyword] of type keyword is supported")));
            }
            !fields.is_empty()
        }
        Some(_) => return Err(refuse(format!("[{path}]: [fields] is not an object"))),
    };
    if let Some(unknown) = field.keys().find(|name| !PASSED_OVER.contains(&name.as_str())) {
        return Err(refuse(format!("unknown parameter [{unknown}] on mapper [{path}] of type [{kind}]")));
    }
    let typed = match kind.as_str() {
        "text" | "match_only_text" => {
            if is_indexed {
                declared.search.insert(path.to_owned(), analyzer);
            }
            whole.then_some(FieldKind::Keyword)
        }
        "keyword" | "constant_keyword" | "wildcard" => Some(FieldKind::Keyword),
        "date" | "date_nanos" => Some(FieldKind::Date),
        "boolean" => Some(FieldKind::Boolean),
        "ip" => Some(FieldKind::Ip),
        number if NUMBERS.contains(&number) => Some(FieldKind::Number),
        "nested" => return Err(refuse(format!("[{path}]: nested objects are not supported, objects of arrays are flattened"))),
        other => return Err(refuse(format!("No handler for type [{other}] declared on field [{path}]"))),
    };
    if let Some(typed) = typed.filter(|_| is_indexed) {
        declared.fields.insert(path.to_owned(), typed);
    }
    Ok(())
}

/// Refuses settings that would change what is found.
///
/// # Errors
/// Those, by name.
pub fn check_settings(settings: &Value) -> Result<(), EsError> {
    let index = settings.get("index").unwrap_or(settings);
    let names = index.as_object().into_iter().flat_map(Map::keys);
    for name in names.map(|name| name.strip_prefix("index.").unwrap_or(name)) {
        if name == "analysis" || name.starts_with("analysis.") {
            let reason = "[analysis] is not supported: name a chain of filters as the analyzer, such as \
                          \"whitespace+lowercase+asciifolding\"";
            return Err(EsError::invalid(reason));
        }
        if !SETTINGS.contains(&name) {
            return Err(EsError::invalid(format!("unknown setting [index.{name}]")));
        }
    }
    Ok(())
}

impl Declared {
    /// The fields of a table.
    pub fn of(mapping: &Mapping) -> Self {
        Self {
            search: mapping.search.iter().map(|field| (field.path.clone(), field.analyzer.name().into_owned())).collect(),
            fields: mapping.fields.iter().map(|field| (field.path.clone(), field.kind)).collect(),
            facets: mapping.facets.clone(),
            dynamic: mapping.dynamic,
        }
    }

    /// Adds fields; whether there are any new ones.
    ///
    /// # Errors
    /// When one is there with another type.
    pub fn add(&mut self, added: &Self) -> Result<bool, EsError> {
        let before = self.clone();
        for (path, analyzer) in &added.search {
            if self.search.get(path).is_some_and(|there| there != analyzer) {
                return Err(EsError::invalid(format!("Mapper for [{path}] conflicts: Cannot update parameter [analyzer]")));
            }
            if self.fields.contains_key(path) && !self.search.contains_key(path) && !added.fields.contains_key(path) {
                return Err(EsError::invalid(format!("mapper [{path}] cannot be changed to type [text]")));
            }
            self.search.insert(path.clone(), analyzer.clone());
        }
        for (path, kind) in &added.fields {
            if self.fields.get(path).is_some_and(|there| there != kind) {
                return Err(EsError::invalid(format!("mapper [{path}] cannot be changed to type [{}]", type_of(*kind))));
            }
            self.fields.insert(path.clone(), *kind);
            self.facets.retain(|facet| facet != path);
        }
        Ok(*self != before)
    }

    /// As the options of a document table.
    pub fn options(&self) -> String {
        let list = |items: Vec<String>| items.join(", ").replace('\'', "''");
        let search = self.search.iter().map(|(path, analyzer)| format!("{path}:{analyzer}")).collect();
        let fields = self.fields.iter().map(|(path, kind)| format!("{path}:{}", kind.name())).collect();
        let dynamic = self.dynamic.map_or("off".to_owned(), |fields| fields.to_string());
        let (search, fields, facets) = (list(search), list(fields), list(self.facets.clone()));
        format!("search = '{search}', fields = '{fields}', facets = '{facets}', dynamic = '{dynamic}'")
    }
}

const fn type_of(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Keyword => "keyword",
        FieldKind::Number => "double",
        FieldKind::Date => "date",
        FieldKind::Boolean => "boolean",
        FieldKind::Ip => "ip",
    }
}

/// A table as a mapping.
pub fn show(searchable: &Searchable) -> Value {
    let Mapping { search, facets, fields, dynamic, .. } = &searchable.mapping;
    let mut properties = Map::new();
    for field in &searchable.found {
        put(&mut properties, &field.path, found(field));
    }
    for path in facets {
        put(&mut properties, path, json!({"type": "keyword"}));
    }
    for field in fields {
        put(&mut properties, &field.path, json!({"type": type_of(field.kind)}));
    }
    for field in search {
        let mut text = json!({"type": "text"});
        let analyzer = field.analyzer.name();
        if analyzer != "standard" {
            text["analyzer"] = json!(analyzer);
        }
        if searchable.mapping.is_facet(&field.path) {
            text["fields"] = json!({"keyword": {"type": "keyword"}});
        }
        put(&mut properties, &field.path, text);
    }
    let mut shown = json!({"properties": properties});
    if dynamic.is_none() {
        shown["dynamic"] = json!("false");
    }
    shown
}

/// A path that was found in documents, as Elasticsearch would have mapped it.
fn found(field: &FoundField) -> Value {
    match field {
        FoundField { dates: true, .. } => json!({"type": "date"}),
        FoundField { texts: true, .. } => json!({"type": "text", "fields": {"keyword": {"type": "keyword"}}}),
        FoundField { floats: true, .. } => json!({"type": "float"}),
        FoundField { integers: true, .. } => json!({"type": "long"}),
        _ => json!({"type": "boolean"}),
    }
}

/// Puts a field in its place among the properties of objects.
fn put(properties: &mut Map<String, Value>, path: &str, field: Value) {
    match path.split_once('.') {
        None => {
            properties.insert(path.to_owned(), field);
        }
        Some((name, rest)) => {
            let object = properties.entry(name).or_insert_with(|| json!({}));
            if let Value::Object(object) = object {
                let inner = object.entry("properties").or_insert_with(|| json!({}));
                if let Value::Object(inner) = inner {
                    put(inner, rest, field);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_becomes_options() {
        let declared = read(json!({"properties": {
            "title": {"type": "text", "analyzer": "english", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
            "body": {"type": "text"},
            "at": {"type": "date", "format": "strict_date_optional_time"},
            "author": {"properties": {"name": {"type": "keyword"}, "age": {"type": "integer"}}},
            "raw": {"type": "keyword", "index": false}
        }}))
        .unwrap();
        assert_eq!(
            declared.options(),
            "search = 'body:standard, title:english', \
             fields = 'at:date, author.age:number, author.name:keyword, title:keyword', facets = '', dynamic = '1000'"
        );
        assert!(read(Value::Null).unwrap().search.is_empty());
    }

    #[test]
    fn what_can_not_be_kept_is_refused_by_its_path() {
        for (properties, says) in [
            (json!({"a": {"type": "txt"}}), "No handler for type [txt] declared on field [a]"),
            (json!({"a": {"type": "nested"}}), "[a]: nested"),
            (json!({"a": {"b": 1}}), "No type specified for field [a]"),
            (
                json!({"o": {"properties": {"a": {"type": "text", "copy_to": "b"}}}}),
                "unknown parameter [copy_to] on mapper [o.a]",
            ),
            (json!({"a": {"type": "text", "fields": {"raw": {"type": "keyword"}}}}), "[a.raw]"),
            (json!({"a,b": {"type": "text"}}), "[a,b]"),
        ] {
            let error = read(json!({"properties": properties})).unwrap_err();
            assert!(error.reason.contains(says), "{}", error.reason);
        }
        assert!(read(json!({"dynamic": "strict"})).is_err() && read(json!({"dynamic_templates": []})).is_err());
        assert!(check_settings(&json!({"number_of_shards": 1, "index.refresh_interval": "1s"})).is_ok());
        assert!(check_settings(&json!({"index": {"analysis": {}}})).is_err());
    }

    #[test]
    fn fields_are_added_but_never_changed() {
        let of = |properties: Value| read(json!({"properties": properties})).unwrap();
        let mut declared = of(json!({"a": {"type": "text"}, "n": {"type": "long"}}));
        assert!(!declared.add(&of(json!({"n": {"type": "integer"}}))).unwrap());
        assert!(declared.add(&of(json!({"b": {"type": "keyword"}}))).unwrap());
        assert!(declared.add(&of(json!({"n": {"type": "date"}}))).is_err());
        assert!(declared.add(&of(json!({"a": {"type": "text", "analyzer": "german"}}))).is_err());
    }
}
