//! What can go wrong in a row table.

use std::path::PathBuf;

use logcore::ErrorKind;
use thiserror::Error;

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything a row table refuses or fails at.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages document the variants and their fields")]
pub enum Error {
    #[error("{operation} the row files in {} failed: {source}", path.display())]
    Tree { operation: &'static str, path: PathBuf, source: lsm_tree::Error },

    #[error("a stored row does not decode ({detail}); rebuild the view")]
    CorruptRow { detail: &'static str },

    #[error("a primary key of {bytes} bytes is over the limit of {max} bytes")]
    KeyTooLarge { bytes: usize, max: usize },

    #[error("primary key column \"{column}\" is null")]
    NullKey { column: String },

    #[error("index \"{index}\": {source}")]
    Computing { index: String, source: Box<dyn std::error::Error + Send + Sync> },

    #[error("a table has at most {max} columns, those that were dropped included")]
    TooManyColumns { max: usize },

    #[error(transparent)]
    Log(#[from] logcore::Error),

    #[error("building a result failed: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Tree { .. } => ErrorKind::Unavailable,
            Self::CorruptRow { .. } => ErrorKind::Corrupt,
            Self::KeyTooLarge { .. } => ErrorKind::TooLarge,
            Self::NullKey { .. } | Self::Computing { .. } => ErrorKind::Invalid,
            Self::TooManyColumns { .. } => ErrorKind::TooLarge,
            Self::Log(error) => error.kind(),
            Self::Arrow(_) => ErrorKind::Internal,
        }
    }
}
