//! What can go wrong in a series view. [`Error::kind`] says what the caller should do.

use std::path::{Path, PathBuf};

use arrow::error::ArrowError;
use logcore::{ErrorKind, Offset};
use thiserror::Error;

/// Everything a series view refuses or fails at.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages document the variants and their fields")]
pub enum Error {
    #[error(transparent)]
    Disk { source: logcore::Error },

    #[error("series file {} is corrupt at byte {position}: {detail}; rebuild the view", path.display())]
    Corrupt { path: PathBuf, position: u64, detail: String },

    #[error("series file {} has format version {found}, this program knows version {supported}; rebuild the view", path.display())]
    UnknownFormat { path: PathBuf, found: u32, supported: u32 },

    #[error("the stored points don't fit the schema: {detail}; rebuild the view")]
    SchemaChanged { detail: String },

    #[error("the points at offset {asked} are not kept, the oldest offset that can be read is {kept_from}; read at a newer one")]
    PastNotKept { asked: Offset, kept_from: Offset },

    #[error("invalid series schema: {detail}")]
    InvalidSchema { detail: String },

    #[error("the projection gave points that don't fit the series: {detail}")]
    InvalidPoints { detail: String },

    #[error("a record of the series is damaged: {detail}")]
    InvalidBlock { detail: String },

    #[error("records from offset {found} were applied where {expected} is next")]
    OutOfOrder { expected: Offset, found: Offset },

    #[error("column {index} was asked for, the series has {columns}")]
    UnknownColumn { index: usize, columns: usize },

    #[error("the request makes no sense: {detail}")]
    InvalidRequest { detail: String },

    #[error("{name:?} is not a tag of this series; its tags are {tags:?}")]
    UnknownTag { name: String, tags: Vec<String> },

    #[error("compressing a page failed: {detail}")]
    Compression { detail: String },

    #[error("arranging points failed")]
    Arrow { source: ArrowError },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { source } => source.kind(),
            Self::Corrupt { .. } | Self::InvalidBlock { .. } => ErrorKind::Corrupt,
            Self::UnknownFormat { .. } | Self::SchemaChanged { .. } => ErrorKind::Unavailable,
            Self::PastNotKept { .. } => ErrorKind::NotFound,
            Self::InvalidSchema { .. } | Self::InvalidRequest { .. } | Self::UnknownColumn { .. } | Self::UnknownTag { .. } => {
                ErrorKind::Invalid
            }
            Self::InvalidPoints { .. } | Self::OutOfOrder { .. } | Self::Compression { .. } | Self::Arrow { .. } => {
                ErrorKind::Internal
            }
        }
    }

    /// Says of damaged bytes where they lie.
    pub(crate) fn corrupt(path: &Path, position: u64) -> impl FnOnce(&'static str) -> Self {
        move |detail| Self::Corrupt { path: path.to_owned(), position, detail: detail.to_owned() }
    }
}

impl From<logcore::Error> for Error {
    fn from(source: logcore::Error) -> Self {
        Self::Disk { source }
    }
}

impl From<ArrowError> for Error {
    fn from(source: ArrowError) -> Self {
        Self::Arrow { source }
    }
}
