//! The records a view could not apply, with the reason, in a file of the view's generation.
//!
//! Kept by [`super::driver`], keyed by position: offsets only grow, so a replay after a restart finds what it would add
//! already there and adds nothing twice.
//!
//! # Crash safety
//! Synced before the view's checkpoint. A torn last line belongs to records that will be applied again; it is cut off.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::sys::fs::{self, AppendFile};
use crate::types::Offset;

/// The newest letters kept in memory for showing.
const RECENT_MAX: usize = 100;

/// One record that a view left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its position in the partition.
    pub offset: Offset,
    /// Why, in words.
    pub reason: String,
}

/// See the module docs.
pub struct DeadLetters {
    path: PathBuf,
    file: Option<AppendFile>,
    len_bytes: u64,
    unsynced: bool,
    count: u64,
    last: Option<Offset>,
    recent: VecDeque<DeadLetter>,
}

impl DeadLetters {
    /// Opens the letters in folder `dir`.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("dead_letters.ndjson");
        let content = fs::read(&path)?.unwrap_or_default();
        let mut letters = Self { path, file: None, len_bytes: 0, unsynced: false, count: 0, last: None, recent: VecDeque::new() };
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let Some(letter) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok()) else { break };
            letters.len_bytes += line.len() as u64;
            letters.note(letter);
        }
        Ok(letters)
    }

    fn note(&mut self, letter: DeadLetter) {
        self.count += 1;
        self.last = Some(letter.offset);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(letter);
    }

    /// Adds letters in offset order; those a replay brings again are passed over.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn add(&mut self, letters: Vec<DeadLetter>) -> Result<()> {
        let mut lines = Vec::new();
        for letter in letters {
            if self.last.is_some_and(|last| letter.offset <= last) {
                continue;
            }
            lines.extend(serde_json::to_vec(&letter).expect("a number and a string"));
            lines.push(b'\n');
            self.note(letter);
        }
        if lines.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(AppendFile::open(&self.path, self.len_bytes)?);
        }
        let file = self.file.as_mut().expect("just opened");
        file.append(&lines)?;
        self.len_bytes += lines.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Makes what was added durable.
    ///
    /// # Errors
    /// When the disk does not promise it.
    pub fn sync(&mut self) -> Result<()> {
        if let Some(file) = self.file.as_mut().filter(|_| self.unsynced) {
            file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// How many records were left out.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The newest of them, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<DeadLetter> {
        self.recent.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: u64) -> DeadLetter {
        DeadLetter { offset: Offset::new(offset), reason: format!("record {offset} is \"bad\"\n") }
    }

    #[test]
    fn a_replay_adds_nothing_twice_and_a_torn_line_is_cut() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut letters = DeadLetters::open(dir.path()).expect("opens");
        letters.add(vec![letter(3), letter(9)]).expect("writes");
        letters.sync().expect("syncs");
        drop(letters);
        AppendFile::open(
            &dir.path().join("dead_letters.ndjson"),
            fs::len_bytes(&dir.path().join("dead_letters.ndjson")).expect("len"),
        )
        .and_then(|mut file| file.append(b"{\"offset\":11,\"rea"))
        .expect("writes");
        let mut letters = DeadLetters::open(dir.path()).expect("opens");
        assert_eq!(letters.count(), 2);
        letters.add(vec![letter(9), letter(11)]).expect("writes");
        drop(letters);
        let letters = DeadLetters::open(dir.path()).expect("opens");
        assert_eq!(letters.recent(), [letter(3), letter(9), letter(11)]);
    }
}
