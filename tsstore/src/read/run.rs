//! Runs: blocks in memory and chunk files as the same thing, sorted rows in pages with a directory of series.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::ScalarBuffer;
use logcore::sys::fs::ReadFile;
use logcore::types::len_u32;

use crate::chunk::directory::Directory;
use crate::chunk::open::OpenBlock;
use crate::chunk::page::{ColumnSummary, PageSummary};
use crate::chunk::sealed::SealedChunk;
use crate::error::Error;
use crate::schema::FieldKind;
use crate::series::State;

/// Decoded pages that a run keeps at hand.
const PAGES_KEPT: usize = 2;

/// A block or a file.
#[derive(Clone)]
enum Source {
    Sealed(Arc<SealedChunk>),
    Open(Arc<OpenBlock>),
}

/// A block or a file, being read by one thread.
pub(crate) struct Run {
    source: Source,
    file: OnceCell<ReadFile>,
    directory: OnceCell<Arc<Directory>>,
    recent: RefCell<Vec<Rc<Page>>>,
}

impl Run {
    fn new(source: Source) -> Rc<Self> {
        Rc::new(Self { source, file: OnceCell::new(), directory: OnceCell::new(), recent: RefCell::default() })
    }

    /// A block in memory.
    pub fn open(block: &Arc<OpenBlock>) -> Rc<Self> {
        Self::new(Source::Open(Arc::clone(block)))
    }

    /// A chunk file.
    pub fn sealed(chunk: &Arc<SealedChunk>) -> Rc<Self> {
        Self::new(Source::Sealed(Arc::clone(chunk)))
    }

    /// Everything of a state.
    pub fn all(state: &State) -> Vec<Rc<Self>> {
        state.sealed.iter().map(Self::sealed).chain(state.open.iter().map(Self::open)).collect()
    }

    pub fn is_sealed(&self) -> bool {
        matches!(self.source, Source::Sealed(_))
    }

    pub fn times(&self) -> (i64, i64) {
        match &self.source {
            Source::Sealed(chunk) => chunk.facts.times,
            Source::Open(block) => (block.time_min, block.time_max),
        }
    }

    /// The lowest and the highest, inclusive.
    pub fn offsets(&self) -> (u64, u64) {
        match &self.source {
            Source::Sealed(chunk) => chunk.facts.offsets,
            Source::Open(block) => (block.offset_min, block.offset_max),
        }
    }

    /// Deletes below this offset hide none of its rows.
    pub fn deletes_applied(&self) -> u64 {
        match &self.source {
            Source::Sealed(chunk) => chunk.facts.deletes_applied,
            Source::Open(_) => 0,
        }
    }

    /// Whether some rows may be of the same series and time.
    pub fn superseded(&self) -> bool {
        match &self.source {
            Source::Sealed(chunk) => chunk.facts.superseded,
            Source::Open(block) => block.superseded,
        }
    }

    pub fn rows(&self) -> u32 {
        match &self.source {
            Source::Sealed(chunk) => chunk.facts.rows,
            Source::Open(block) => len_u32(block.rows()),
        }
    }

    pub fn directory(&self) -> Result<&Directory, Error> {
        if self.directory.get().is_none() {
            let directory = match &self.source {
                Source::Sealed(chunk) => chunk.directory()?,
                Source::Open(block) => Arc::clone(&block.directory),
            };
            let _ = self.directory.set(directory);
        }
        Ok(self.directory.get().expect("just set"))
    }

    pub fn page_count(&self) -> usize {
        match &self.source {
            Source::Sealed(chunk) => chunk.pages.len(),
            Source::Open(_) => 1,
        }
    }

    /// What the footer says about a page; `None` in memory.
    pub fn summary(&self, page: usize) -> Option<&PageSummary> {
        match &self.source {
            Source::Sealed(chunk) => chunk.pages.get(page),
            Source::Open(_) => None,
        }
    }

    /// What the footer says about a field of a page: `Some(None)` that it has no values.
    pub fn field_summary(&self, page: usize, field: u32) -> Option<Option<&ColumnSummary>> {
        self.summary(page).map(|summary| summary.summary(field))
    }

    /// The rows of a page, counted within the run.
    pub fn page_rows(&self, page: usize) -> Range<u32> {
        match self.summary(page) {
            Some(page) => page.row_start..page.row_start + page.rows,
            None => 0..self.rows(),
        }
    }

    pub fn page_times(&self, page: usize) -> (i64, i64) {
        self.summary(page).map_or(self.times(), |page| (page.time_min, page.time_max))
    }

    pub fn page_offsets(&self, page: usize) -> (u64, u64) {
        self.summary(page).map_or(self.offsets(), |page| (page.offset_min.value(), page.offset_max.value()))
    }

    pub fn page_superseded(&self, page: usize) -> bool {
        self.summary(page).map_or(self.superseded(), |page| page.superseded)
    }

    /// The page that has a row.
    pub fn page_of(&self, row: u32) -> usize {
        match &self.source {
            Source::Sealed(chunk) => chunk.pages.partition_point(|page| page.row_start <= row) - 1,
            Source::Open(_) => 0,
        }
    }

    /// A page, to be decoded as it is asked for.
    pub fn page(self: &Rc<Self>, number: usize) -> Rc<Page> {
        let mut recent = self.recent.borrow_mut();
        if let Some(page) = recent.iter().find(|page| page.number == number) {
            return Rc::clone(page);
        }
        let page = Rc::new(Page {
            run: Rc::clone(self),
            number,
            times: OnceCell::new(),
            offsets: OnceCell::new(),
            fields: RefCell::default(),
        });
        if recent.len() == PAGES_KEPT {
            recent.remove(0);
        }
        recent.push(Rc::clone(&page));
        page
    }

    /// Lets go of decoded pages; a run and its pages hold each other otherwise.
    pub fn forget(&self) {
        self.recent.borrow_mut().clear();
    }

    fn file(&self, chunk: &SealedChunk) -> Result<&ReadFile, Error> {
        if self.file.get().is_none() {
            let _ = self.file.set(chunk.reader()?);
        }
        Ok(self.file.get().expect("just set"))
    }
}

/// Runs that let go of their pages at the end.
pub(crate) struct Runs(pub Vec<Rc<Run>>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.iter().for_each(|run| run.forget());
    }
}

/// One page of a run.
pub(crate) struct Page {
    pub run: Rc<Run>,
    pub number: usize,
    times: OnceCell<ScalarBuffer<i64>>,
    offsets: OnceCell<ScalarBuffer<u64>>,
    fields: RefCell<HashMap<u32, Option<ArrayRef>>>,
}

impl Page {
    pub fn times(&self) -> Result<&ScalarBuffer<i64>, Error> {
        if self.times.get().is_none() {
            let times = match &self.run.source {
                Source::Sealed(chunk) => chunk.times(self.run.file(chunk)?, &chunk.pages[self.number])?,
                Source::Open(block) => block.times.clone(),
            };
            let _ = self.times.set(times);
        }
        Ok(self.times.get().expect("just set"))
    }

    pub fn offsets(&self) -> Result<&ScalarBuffer<u64>, Error> {
        if self.offsets.get().is_none() {
            let offsets = match &self.run.source {
                Source::Sealed(chunk) => chunk.offsets(self.run.file(chunk)?, &chunk.pages[self.number])?,
                Source::Open(block) => block.offsets.clone(),
            };
            let _ = self.offsets.set(offsets);
        }
        Ok(self.offsets.get().expect("just set"))
    }

    /// A field; `None` when no row has a value.
    pub fn field(&self, field: u32, kind: FieldKind) -> Result<Option<ArrayRef>, Error> {
        if let Some(known) = self.fields.borrow().get(&field) {
            return Ok(known.clone());
        }
        let array = match &self.run.source {
            Source::Sealed(chunk) => chunk.field(self.run.file(chunk)?, &chunk.pages[self.number], field, kind)?,
            Source::Open(block) => block.fields.get(&field).cloned(),
        };
        self.fields.borrow_mut().insert(field, array.clone());
        Ok(array)
    }

    /// The series of the page's rows, as runs: the entry in the directory and rows counted within the page.
    pub fn series(&self) -> Result<impl Iterator<Item = (usize, Range<u32>)> + '_, Error> {
        let rows = self.run.page_rows(self.number);
        let start = rows.start;
        Ok(self.run.directory()?.runs(rows).map(move |(entry, rows)| (entry, rows.start - start..rows.end - start)))
    }

    /// The series of each row.
    pub fn series_of_rows(&self) -> Result<Vec<u32>, Error> {
        let directory = self.run.directory()?;
        let mut all = Vec::new();
        for (entry, rows) in self.series()? {
            all.resize(rows.end as usize, directory.series[entry]);
        }
        Ok(all)
    }
}
