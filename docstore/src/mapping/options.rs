//! Reads a mapping from the options of `CREATE TABLE ... USING document WITH (search = '...', fields = '...', ...)`.
//!
//! The catalog's owner hands over the texts of the options; everything that is wrong is named with the entry it is in.

use super::{DYNAMIC_FIELDS_MAX, FieldKind, Mapping, SearchField, TypedField};
use crate::error::{Error, nearest};

/// The options of a document table that make its mapping, as they were written; `None` where there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct MappingOptions<'a> {
    /// The path of the id.
    pub key: Option<&'a str>,
    /// Full-text fields: `subject:english, title:edge_ngram(2,10), body`.
    pub search: Option<&'a str>,
    /// Facets: `repo, author.name`.
    pub facets: Option<&'a str>,
    /// Typed fields: `ts:date, added:number, ip:ip, ok:boolean`.
    pub fields: Option<&'a str>,
    /// How many paths that are named nowhere get fields of their own, `off` or a number.
    pub dynamic: Option<&'a str>,
}

impl Mapping {
    /// The names of the options [`Mapping::from_options`] reads.
    pub const OPTIONS: [&'static str; 5] = ["key", "search", "facets", "fields", "dynamic"];

    /// Reads and checks a mapping.
    ///
    /// # Errors
    /// [`Error::InvalidMapping`], with the entry that is wrong and what is known.
    pub fn from_options(options: &MappingOptions<'_>) -> Result<Self, Error> {
        let search = entries(options.search)?.into_iter().map(|entry| match entry.split_once(':') {
            Some((path, analyzer)) => Ok(SearchField { path: path.trim().to_owned(), analyzer: analyzer.trim().parse()? }),
            None => Ok(SearchField { path: entry.to_owned(), analyzer: super::Analyzer::default() }),
        });
        let mapping = Self {
            key: options.key.unwrap_or_default().to_owned(),
            search: search.collect::<Result<_, Error>>()?,
            facets: entries(options.facets)?.into_iter().map(str::to_owned).collect(),
            fields: entries(options.fields)?.into_iter().map(typed).collect::<Result<_, _>>()?,
            dynamic: options.dynamic.map(dynamic).transpose()?.flatten(),
        };
        mapping.validate()?;
        Ok(mapping)
    }
}

fn typed(entry: &str) -> Result<TypedField, Error> {
    let known: Vec<&str> = FieldKind::ALL.into_iter().map(FieldKind::name).collect();
    let (path, name) = entry.rsplit_once(':').unwrap_or((entry, ""));
    let name = name.trim();
    let Some(kind) = FieldKind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let hint = nearest(name, &known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        let detail = format!("field `{entry}` needs a type, as in `{}:date`; {hint}Known: {}", path.trim(), known.join(", "));
        return Err(Error::InvalidMapping { detail });
    };
    Ok(TypedField { path: path.trim().to_owned(), kind })
}

fn dynamic(text: &str) -> Result<Option<u32>, Error> {
    match (text.trim(), text.trim().parse::<u32>()) {
        ("off" | "false", _) => Ok(None),
        (_, Ok(fields)) if fields <= DYNAMIC_FIELDS_MAX => Ok(Some(fields)),
        (text, _) => {
            let detail = format!("dynamic = '{text}' needs `off` or a number of fields up to {DYNAMIC_FIELDS_MAX}");
            Err(Error::InvalidMapping { detail })
        }
    }
}

/// The entries of a list, split at commas that are not in parentheses.
fn entries(text: Option<&str>) -> Result<Vec<&str>, Error> {
    let text = text.unwrap_or_default();
    let (mut entries, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' if depth == 0 => return Err(Error::InvalidMapping { detail: format!("`{text}` has a `)` without its `(`") }),
            ')' => depth -= 1,
            ',' if depth == 0 => {
                entries.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if depth > 0 {
        return Err(Error::InvalidMapping { detail: format!("`{text}` has a `(` without its `)`") });
    }
    entries.push(&text[start..]);
    Ok(entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Analyzer;
    use super::*;

    #[test]
    fn options_become_a_mapping_that_reads_back() {
        let options = MappingOptions {
            key: Some("id"),
            search: Some("subject:english, title : edge_ngram(2,10), body"),
            facets: Some("repo, author.name"),
            fields: Some("ts:date, added : number, ip:ip, ok:boolean, kind:keyword"),
            dynamic: Some("100"),
        };
        let mapping = Mapping::from_options(&options).expect("good");
        assert_eq!(mapping.search[0].analyzer, Analyzer::English);
        assert_eq!(mapping.search[1].analyzer.name(), "words+lowercase+edge_ngram(2,10)");
        assert_eq!(mapping.fields[1], TypedField { path: "added".to_owned(), kind: FieldKind::Number });
        assert_eq!((mapping.dynamic, mapping.facets.len()), (Some(100), 2));
        let json = serde_json::to_string(&mapping).expect("plain data");
        assert_eq!(serde_json::from_str::<Mapping>(&json).expect(&json), mapping);
        let old = r#"{"key":"","search":[{"path":"a","analyzer":"english"},{"path":"b"}],"facets":["c"]}"#;
        let read: Mapping = serde_json::from_str(old).expect("the form of older releases");
        assert_eq!((read.fields.len(), read.dynamic), (0, None));
        let written = serde_json::to_string(&read).expect("plain data");
        assert!(!written.contains("fields") && !written.contains("dynamic"), "{written}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let search = |text| Mapping::from_options(&MappingOptions { search: Some(text), ..MappingOptions::default() });
        let fields = |text| Mapping::from_options(&MappingOptions { fields: Some(text), ..MappingOptions::default() });
        let dynamic = |text| Mapping::from_options(&MappingOptions { dynamic: Some(text), ..MappingOptions::default() });
        for (result, says) in [
            (search("a:ngram(2,3"), "a `(` without its `)`"),
            (search("a:ngram 2,3)"), "a `)` without its `(`"),
            (search("a:germam"), "did you mean `german`?"),
            (fields("ts"), "needs a type, as in `ts:date`"),
            (fields("ts:dat"), "did you mean `date`?"),
            (fields("ts:date, ts:number"), "named twice"),
            (dynamic("all"), "needs `off` or a number"),
            (dynamic("100000"), "up to 1000"),
        ] {
            let error = result.expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
