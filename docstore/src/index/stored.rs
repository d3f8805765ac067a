//! What the store keeps of a document, read without going through tantivy's own documents.

use tantivy::DocId;
use tantivy::schema::document::{
    DeserializeError, DocumentDeserialize, DocumentDeserializer, ValueDeserialize, ValueDeserializer, ValueVisitor,
};
use tantivy::store::StoreReader;

use crate::error::Error;
use crate::table::corrupt;

/// A document of the store.
pub(crate) struct Stored {
    /// Not in indexes from before ids were stored; these have it in its column.
    pub id: Option<String>,
    source: Option<Vec<u8>>,
}

impl Stored {
    /// The document in a segment's store.
    pub(crate) fn read(store: &StoreReader, doc: DocId) -> Result<Self, Error> {
        Ok(store.get(doc)?)
    }

    /// The document as it came.
    pub(crate) fn source(self) -> Result<Vec<u8>, Error> {
        self.source.ok_or_else(|| corrupt("a document without its source"))
    }
}

impl DocumentDeserialize for Stored {
    fn deserialize<'de, D: DocumentDeserializer<'de>>(mut deserializer: D) -> Result<Self, DeserializeError> {
        let mut stored = Self { id: None, source: None };
        // The id is the only text that is stored, the source the only bytes.
        while let Some((_, value)) = deserializer.next_field()? {
            match value {
                StoredValue::Text(id) => stored.id = Some(id),
                StoredValue::Bytes(source) => stored.source = Some(source),
            }
        }
        Ok(stored)
    }
}

enum StoredValue {
    Text(String),
    Bytes(Vec<u8>),
}

impl ValueDeserialize for StoredValue {
    fn deserialize<'de, D: ValueDeserializer<'de>>(deserializer: D) -> Result<Self, DeserializeError> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl ValueVisitor for Visitor {
    type Value = StoredValue;

    fn visit_string(&self, text: String) -> Result<StoredValue, DeserializeError> {
        Ok(StoredValue::Text(text))
    }

    fn visit_bytes(&self, bytes: Vec<u8>) -> Result<StoredValue, DeserializeError> {
        Ok(StoredValue::Bytes(bytes))
    }
}
