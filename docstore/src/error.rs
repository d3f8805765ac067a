//! What can go wrong with documents, with the facts a person needs to act. [`Error::kind`] says what the caller should do.

use std::path::PathBuf;

use logcore::ErrorKind;
use tantivy::TantivyError;
use tantivy::aggregation::AggregationError;
use thiserror::Error;

/// Everything a document table refuses or fails at.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages document the variants and their fields")]
pub enum Error {
    #[error("invalid document mapping: {detail}")]
    InvalidMapping { detail: String },

    #[error("unknown field `{name}`{hint}")]
    UnknownField { name: String, hint: String },

    #[error("query text, column {column}: {message}; {hint}")]
    QueryText { column: usize, message: String, hint: String },

    #[error("search request, {at}: {message}")]
    Request { at: String, message: String },

    #[error("{what} is over the limit of {max}; {hint}")]
    TooLarge { what: String, max: usize, hint: &'static str },

    #[error("aggregation refused: {detail}")]
    Aggregation { detail: String },

    #[error("the document index in {} is damaged ({detail}); rebuild the view", path.display())]
    Damaged { path: PathBuf, detail: String },

    #[error("the document index in {} has format {found}, this program knows format {supported}; rebuild the view", path.display())]
    UnknownFormat { path: PathBuf, found: u32, supported: u32 },

    #[error("the document index in {} was built with another mapping ({detail}); rebuild the view", path.display())]
    MappingChanged { path: PathBuf, detail: String },

    #[error("the document index in {} is being written by someone else (it holds a lock there)", path.display())]
    Locked { path: PathBuf },

    #[error("{operation} the document index in {} failed: {source}", path.display())]
    Writing { operation: &'static str, path: PathBuf, source: TantivyError },

    #[error("reading the document index failed: {source}")]
    Reading { source: TantivyError },

    #[error("the document index in {} takes no more documents since {reason}; reopen it", path.display())]
    Stopped { path: PathBuf, reason: String },

    #[error(transparent)]
    Folder { source: logcore::Error },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidMapping { .. }
            | Self::UnknownField { .. }
            | Self::QueryText { .. }
            | Self::Request { .. }
            | Self::Aggregation { .. } => ErrorKind::Invalid,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Reading { source } => match source {
                TantivyError::DataCorruption(_) | TantivyError::IncompatibleIndex(_) => ErrorKind::Corrupt,
                TantivyError::IoError(_) | TantivyError::OpenReadError(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::UnknownFormat { .. }
            | Self::MappingChanged { .. }
            | Self::Locked { .. }
            | Self::Writing { .. }
            | Self::Stopped { .. } => ErrorKind::Unavailable,
            Self::Folder { source } => source.kind(),
        }
    }

    /// Names a field that does not exist, the ones that do, and the nearest of them.
    pub(crate) fn unknown_field<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let hint = match (nearest(name, &known), known.is_empty()) {
            (_, true) => "; this table has no such fields".to_owned(),
            (Some(near), _) => format!("; did you mean `{near}`? Known: {}", known.join(", ")),
            (None, _) => format!("; known: {}", known.join(", ")),
        };
        Self::UnknownField { name: name.to_owned(), hint }
    }
}

/// The name that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |candidate: &&&str| strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase());
    let near = known.iter().min_by_key(distance)?;
    (distance(&near) <= 1 + name.chars().count() / 4).then_some(*near)
}

impl From<TantivyError> for Error {
    fn from(source: TantivyError) -> Self {
        match source {
            TantivyError::AggregationError(AggregationError::MemoryExceeded { .. }) => Self::TooLarge {
                what: "the memory of an aggregation".to_owned(),
                max: crate::aggregations::MEMORY_BYTES_MAX,
                hint: "aggregate fewer distinct values or narrow the query",
            },
            TantivyError::AggregationError(AggregationError::BucketLimitExceeded { limit, .. }) => Self::TooLarge {
                what: "the number of buckets of an aggregation".to_owned(),
                max: usize::try_from(limit).unwrap_or(usize::MAX),
                hint: "use a smaller size or a larger interval",
            },
            TantivyError::AggregationError(error) => Self::Aggregation { detail: error.to_string() },
            source => Self::Reading { source },
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Reading { source: error.into() }
    }
}

impl From<logcore::Error> for Error {
    fn from(source: logcore::Error) -> Self {
        Self::Folder { source }
    }
}
