//! A view of whole documents: the record's value is the document, a path in it or the record's key is its id.

use docstore::SourceDocument;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset, Record};
use serde_json::value::RawValue;
use std::collections::HashMap;

use super::json;
use super::mapping::records_from;

/// See the module docs.
pub struct WholeDocuments {
    /// The path of the id, in parts; none: the record's key.
    pub key: Option<Vec<String>>,
    /// The partition, for ids of records without a key.
    pub partition: u32,
}

impl WholeDocuments {
    fn id(&self, record: &Record<'_>, value: &[u8]) -> Result<String, String> {
        let Some(path) = &self.key else { return self.id_from_key(record) };
        let mut raw: &RawValue = serde_json::from_slice(value).map_err(|error| format!("not JSON: {error}"))?;
        for part in path {
            let object: HashMap<std::borrow::Cow<'_, str>, &RawValue> =
                serde_json::from_str(raw.get()).map_err(|_| format!("\"{}\" is not in an object", path.join(".")))?;
            raw = object.get(part.as_str()).ok_or_else(|| format!("the document has no \"{}\" to be its id", path.join(".")))?;
        }
        match json::text(raw) {
            Some(id) if !id.is_empty() => Ok(id.into_owned()),
            _ => Err(format!("\"{}\" is empty and can't be an id", path.join("."))),
        }
    }

    fn id_from_key(&self, record: &Record<'_>) -> Result<String, String> {
        match record.key {
            Some(key) => std::str::from_utf8(key).map(str::to_owned).map_err(|_| "the record's key is not text".into()),
            None => Ok(format!("{}@{}", self.partition, record.offset)),
        }
    }
}

impl Projection<Vec<SourceDocument>> for WholeDocuments {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<SourceDocument>, ViewError> {
        let mut documents = Vec::with_capacity(batch.count() as usize);
        for record in records_from(batch, from, rejects) {
            let id = match record.value {
                Some(value) => self.id(&record, value),
                None if record.key.is_some() => self.id_from_key(&record),
                None => Err("a null value removes a document only where the record has a key".into()),
            };
            match id {
                Ok(id) => documents.push(SourceDocument::new(record.offset, id, record.value.map(<[u8]>::to_vec))),
                Err(why) => rejects.push(record.offset, why),
            }
        }
        Ok(documents)
    }
}
