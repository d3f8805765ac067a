//! A record of `_cursors`: which cursor, and where it is from then on.
//!
//! # Format
//! `docs/format.md`, "Cursors".

use serde::{Deserialize, Serialize};

use super::CursorId;
use crate::error::{Error, Result};
use crate::frame::batch::Record;
use crate::types::Offset;

#[derive(Serialize, Deserialize)]
struct Value {
    offset: Offset,
}

/// Key and value for a cursor that is at `offset`, or gone.
pub(super) fn encode(id: &CursorId, offset: Option<Offset>) -> (String, Option<Vec<u8>>) {
    let value = offset.map(|offset| serde_json::to_vec(&Value { offset }).expect("a number is JSON"));
    (id.to_string(), value)
}

/// What a record says; `None` when the cursor is gone.
///
/// # Errors
/// [`Error::UnknownCursorRecord`]: it is not passed over, since what a newer release says of a cursor may matter.
pub(super) fn decode(record: &Record<'_>) -> Result<(CursorId, Option<Offset>)> {
    let unknown = |detail: String| Error::UnknownCursorRecord { offset: record.offset, detail };
    let key = std::str::from_utf8(record.key.unwrap_or_default()).map_err(|error| unknown(error.to_string()))?;
    let id = key.parse().map_err(|()| unknown(format!("its key is {key:?}")))?;
    let offset = match record.value {
        None => None,
        Some(value) => {
            let value: Value = serde_json::from_slice(value).map_err(|error| unknown(error.to_string()))?;
            Some(value.offset)
        }
    };
    Ok((id, offset))
}
