//! Leaving old versions behind: a new tree of the rows as they are at one offset, which the materializer then brings up to date.
//!
//! The router makes one in a folder beside the serving generation's, step by step, and lets it become the next generation
//! (`docs/adr/0011`). Nothing is ever removed from a tree that is read.
//!
//! # Invariants
//! - The new tree holds one version of each row and index entry: what the records below `at` left, written as of the last of
//!   them. So reads at `at` and later are those of the old tree, and earlier ones find nothing: [`RowTable::kept_from`] says so.
//! - The checkpoint is written last: a copy that was cut off is an empty table, and the folder is thrown away.

use std::collections::VecDeque;
use std::path::Path;

use logcore::Offset;

use crate::error::Result;
use crate::key::after_prefix;
use crate::lsm::{INDEX_PREFIX, ROW_PREFIX, Tree};
use crate::table::{RowOptions, RowTable};

/// What is gathered in memory before it is written out.
const UNFLUSHED_BYTES: u64 = 16 << 20;

/// A copy under way; see the module docs.
pub struct Copying {
    source: RowTable,
    target: Tree,
    at: Offset,
    /// Ranges of keys that are still to be copied.
    left: VecDeque<(Vec<u8>, Vec<u8>)>,
    items: u64,
}

impl Copying {
    /// Begins to copy `source` as the records below `at` left it into the new folder `dir`, with the entries of the `indexes`
    /// by id.
    ///
    /// # Errors
    /// When files can't be made.
    ///
    /// # Panics
    /// When `at` is 0: there is nothing below it.
    pub fn begin(source: &RowTable, indexes: &[u32], at: Offset, dir: &Path, options: &RowOptions) -> Result<Self> {
        assert!(at > Offset::ZERO, "below offset 0 there is nothing to copy");
        let target = Tree::open(&dir.join("rows"), &options.cache, &options.compactor)?;
        let range = |from: Vec<u8>| {
            let until = after_prefix(&from).expect("the first byte is not 0xff");
            (from, until)
        };
        let entries = indexes.iter().map(|index| range([&[INDEX_PREFIX], &index.to_be_bytes()[..]].concat()));
        let left = [range(vec![ROW_PREFIX])].into_iter().chain(entries).collect();
        Ok(Self { source: source.clone(), target, at, left, items: 0 })
    }

    /// Copies at most `items_max` rows and entries; `false` when that was the last step.
    ///
    /// # Errors
    /// When files can't be read or written.
    ///
    /// # Panics
    /// Never: what was begun has an offset below.
    pub fn step(&mut self, items_max: usize) -> Result<bool> {
        let last = self.at.before().expect("`begin` takes no offset 0");
        let mut copied = 0;
        while let Some((from, until)) = self.left.pop_front() {
            for item in self.source.tree.range(&from, &until, self.at) {
                let (key, value) = item?;
                if copied == items_max {
                    self.left.push_front((key.to_vec(), until));
                    break;
                }
                self.target.apply(&key, Some(&value), last);
                copied += 1;
            }
            if copied == items_max {
                break;
            }
        }
        self.items += copied as u64;
        if self.target.unflushed_bytes() >= UNFLUSHED_BYTES {
            self.target.spill()?;
        }
        Ok(!self.left.is_empty())
    }

    /// Makes the copy durable, to be opened at its offset; gives how many rows and entries it has.
    ///
    /// # Errors
    /// When files can't be written.
    ///
    /// # Panics
    /// When steps are left.
    pub fn finish(self) -> Result<u64> {
        assert!(self.left.is_empty(), "a copy is finished when all of it is there");
        self.target.set_kept(self.at, self.items);
        self.target.flush(self.at)?;
        Ok(self.items)
    }
}

impl RowTable {
    /// The table can be read as the records below this offset left it, and at any later one.
    #[must_use]
    pub fn kept_from(&self) -> Offset {
        self.kept_from
    }

    /// Rows, entries and their versions: how many it began with, and how many it has now, about.
    #[must_use]
    pub fn versions_kept(&self) -> (u64, u64) {
        (self.began_with, self.tree.items())
    }
}
