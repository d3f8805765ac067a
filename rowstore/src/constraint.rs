//! Constraints of a table, as the catalog stores them. What they mean is judged where a change is computed: the router.

use serde::{Deserialize, Serialize};

/// What happens to referencing rows when the referenced row goes or its key changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The change is refused.
    #[default]
    Restrict,
    /// They go too, or follow the key.
    Cascade,
    /// Their columns become NULL.
    SetNull,
    /// Their columns become their defaults.
    SetDefault,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// No two rows have the same values in these columns, NULL aside.
    Unique {
        /// The index that tells.
        index: u32,
    },
    /// The expression is not false.
    Check {
        /// Its SQL text.
        expression: String,
    },
    /// A row of another table, or of this one, has these values.
    ForeignKey {
        /// The columns here.
        columns: Vec<String>,
        /// The referenced table's id.
        table: u32,
        /// Its columns: its primary key, or those of a unique index.
        referenced: Vec<String>,
        /// When the referenced row is deleted.
        on_delete: Action,
        /// When its key changes.
        on_update: Action,
        /// The index of the columns here, by which referencing rows are found.
        index: u32,
    },
}

/// A constraint of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// Its name, unique in its table.
    pub name: String,
    /// What must hold.
    pub rule: Rule,
}
