//! The manifest: which files make up a view, up to which offset, and what deletes are still to be applied to them.
//!
//! A checkpoint and a merge write their files first, then the manifest as one atomic step, then remove what it does not name any
//! more. Deletes live here and not in chunk files: there are few of them, and a merge drops them without touching other files.
//!
//! # Crash safety
//! Files that the manifest does not name are leftovers and are removed when the view is opened.
//!
//! # Format
//! `docs/format.md`, "Series manifest".

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use logcore::Offset;
use logcore::sys::fs;
use logcore::types::len_u32;

use crate::change::Tombstone;
use crate::chunk::sealed::{self, SealedChunk, VERSION};
use crate::chunk::wire::{Damage, Input, put_sized, seal, unseal};
use crate::error::Error;
use crate::names::Names;
use crate::schema::{Columns, FieldKind};

const NAME: &str = "series.manifest";
const MAGIC: [u8; 4] = *b"HwSM";
/// What `write_atomic` calls a manifest that is not finished.
const ASIDE: &str = "series.tmp";
const DIGITS: usize = 20;

/// A file with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamesFile {
    pub number: u64,
    pub bytes: u64,
    /// Values and series up to its end.
    pub counts: (u32, u32),
}

/// See the module docs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Everything below is in the files.
    pub checkpoint: Offset,
    /// The number of the next new file.
    pub next_number: u64,
    /// Reads at this offset and above see exactly what they should; what a lower one would see is gone.
    pub exact_from: u64,
    pub columns: Columns,
    pub names: Vec<NamesFile>,
    /// The number and length of each chunk file.
    pub chunks: Vec<(u64, u64)>,
    pub tombstones: Vec<Tombstone>,
}

fn names_name(number: u64) -> String {
    format!("{number:020}.names")
}

impl Manifest {
    /// Writes the names behind those of the last file, or all when files pile up, as a file of this number.
    pub fn save_names(&mut self, dir: &Path, names: &Names, files_max: usize) -> Result<(), Error> {
        let saved = self.names.last().map_or((0, 0), |file| file.counts);
        if saved == names.counts() {
            return Ok(());
        }
        let from = if self.names.len() >= files_max { (0, 0) } else { saved };
        let raw = seal(names.encode(from));
        let number = self.next_number;
        self.next_number += 1;
        let mut file = fs::AppendFile::open(&dir.join(names_name(number)), 0)?;
        file.append(&raw)?;
        file.sync()?;
        if from == (0, 0) {
            self.names.clear();
        }
        self.names.push(NamesFile { number, bytes: raw.len() as u64, counts: names.counts() });
        Ok(())
    }

    /// Makes this the manifest, durably.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        Ok(fs::write_atomic(&dir.join(NAME), &self.encode())?)
    }

    /// Removes files of names that `self` does not have and `before` had.
    pub fn remove_names_of(&self, before: &Self, dir: &Path) {
        for file in before.names.iter().filter(|file| !self.names.contains(file)) {
            if let Err(error) = fs::remove_file(&dir.join(names_name(file.number))) {
                tracing::warn!(%error, "a replaced file of names stays until the view is opened again");
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        [self.checkpoint.value(), self.next_number, self.exact_from].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        let put_count = |out: &mut Vec<u8>, count: usize| out.extend_from_slice(&len_u32(count).to_le_bytes());
        put_count(&mut out, self.columns.tags.len());
        self.columns.tags.iter().for_each(|tag| put_sized(&mut out, tag.as_bytes()));
        put_count(&mut out, self.columns.fields.len());
        for (name, kind) in &self.columns.fields {
            out.push(kind.code());
            put_sized(&mut out, name.as_bytes());
        }
        put_count(&mut out, self.names.len());
        for file in &self.names {
            [file.number, file.bytes].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
            [file.counts.0, file.counts.1].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        put_count(&mut out, self.chunks.len());
        for (number, bytes) in &self.chunks {
            [number, bytes].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
        put_count(&mut out, self.tombstones.len());
        for tombstone in &self.tombstones {
            put_tombstone(&mut out, tombstone);
        }
        seal(out)
    }

    fn decode(raw: &[u8]) -> Result<Result<Self, u32>, Damage> {
        let mut input = Input::new(unseal(raw)?);
        if input.bytes(4)? != MAGIC {
            return Err("it does not begin like a series manifest");
        }
        let version = input.u32()?;
        if version != VERSION {
            return Ok(Err(version));
        }
        let (checkpoint, next_number, exact_from) = (Offset::new(input.u64()?), input.u64()?, input.u64()?);
        let tags = (0..input.count(4)?).map(|_| input.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        let fields = (0..input.count(5)?).map(|_| {
            let kind = FieldKind::of_code(input.u8()?).ok_or("a field in it is of an unknown kind")?;
            Ok((input.text()?.to_owned(), kind))
        });
        let columns = Columns { tags, fields: fields.collect::<Result<_, Damage>>()? };
        let names = (0..input.count(24)?)
            .map(|_| Ok(NamesFile { number: input.u64()?, bytes: input.u64()?, counts: (input.u32()?, input.u32()?) }));
        let names = names.collect::<Result<_, Damage>>()?;
        let chunks = (0..input.count(16)?).map(|_| Ok((input.u64()?, input.u64()?))).collect::<Result<_, Damage>>()?;
        let tombstones = (0..input.count(28)?).map(|_| read_tombstone(&mut input)).collect::<Result<Vec<_>, Damage>>()?;
        input.end()?;
        if tombstones.iter().flat_map(|tombstone| &tombstone.tags).any(|(tag, _)| *tag >= columns.tags.len()) {
            return Err("a delete in it is of a tag that is not there");
        }
        Ok(Ok(Self { checkpoint, next_number, exact_from, columns, names, chunks, tombstones }))
    }
}

fn put_tombstone(out: &mut Vec<u8>, tombstone: &Tombstone) {
    out.extend_from_slice(&tombstone.offset.to_le_bytes());
    [tombstone.from, tombstone.last].iter().for_each(|time| out.extend_from_slice(&time.to_le_bytes()));
    out.extend_from_slice(&len_u32(tombstone.tags.len()).to_le_bytes());
    for (tag, values) in &tombstone.tags {
        out.extend_from_slice(&len_u32(*tag).to_le_bytes());
        out.extend_from_slice(&len_u32(values.len()).to_le_bytes());
        for value in values {
            out.push(u8::from(value.is_some()));
            put_sized(out, value.as_deref().unwrap_or("").as_bytes());
        }
    }
}

fn read_tombstone(input: &mut Input<'_>) -> Result<Tombstone, Damage> {
    let (offset, from, last) = (input.u64()?, input.i64()?, input.i64()?);
    let tags = (0..input.count(8)?).map(|_| {
        let tag = input.u32()? as usize;
        let values = (0..input.count(5)?).map(|_| {
            let is_some = input.u8()? == 1;
            let text = input.text()?;
            Ok(is_some.then(|| text.to_owned()))
        });
        Ok((tag, values.collect::<Result<_, Damage>>()?))
    });
    let tags = tags.collect::<Result<_, Damage>>()?;
    Ok(Tombstone { offset, from, last, tags })
}

/// What a folder holds.
pub(crate) struct Opened {
    pub manifest: Manifest,
    pub names: Names,
    pub chunks: Vec<Arc<SealedChunk>>,
}

/// Opens the files that make up the view, and removes what a crash left. Other files in the folder are not touched.
pub(crate) fn open(dir: &Path) -> Result<Opened, Error> {
    fs::create_dir(dir)?;
    let path = dir.join(NAME);
    let found = fs::list(dir)?;
    let manifest = match fs::read(&path)? {
        Some(raw) => match Manifest::decode(&raw).map_err(Error::corrupt(&path, 0))? {
            Ok(manifest) => manifest,
            Err(found) => return Err(Error::UnknownFormat { path, found, supported: VERSION }),
        },
        None => match found.iter().find(|name| is_first_version(name)) {
            Some(old) => return Err(Error::UnknownFormat { path: dir.join(old), found: 1, supported: VERSION }),
            None => Manifest::default(),
        },
    };
    let mut names = Names::default();
    for file in &manifest.names {
        read_names(dir.join(names_name(file.number)), file, &mut names)?;
    }
    let chunks = manifest.chunks.iter().map(|&(number, bytes)| SealedChunk::open(dir, number, bytes).map(Arc::new));
    let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
    for chunk in &chunks {
        let known = names.series_count();
        if chunk.directory()?.series.iter().any(|&series| series >= known) {
            return Err(Error::corrupt(&path, 0)("a chunk file has series that no file names"));
        }
    }
    let mut used: BTreeSet<String> = manifest.chunks.iter().map(|&(number, _)| sealed::file_name(number)).collect();
    used.extend(manifest.names.iter().map(|file| names_name(file.number)));
    for name in found.iter().filter(|name| is_ours(name) && !used.contains(*name)) {
        tracing::info!(file = name, "removing what a checkpoint that did not end left");
        fs::remove_file(&dir.join(name))?;
    }
    Ok(Opened { manifest, names, chunks })
}

fn read_names(path: PathBuf, file: &NamesFile, names: &mut Names) -> Result<(), Error> {
    let raw = fs::read(&path)?.unwrap_or_default();
    let mut read = |raw: &[u8]| {
        names.extend(unseal(raw)?)?;
        if names.counts() == file.counts { Ok(()) } else { Err("it has more or fewer names than the manifest says") }
    };
    read(&raw).map_err(Error::corrupt(&path, 0))
}

fn digits(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|digit| digit.is_ascii_digit())
}

fn is_ours(name: &str) -> bool {
    name == ASIDE || name.strip_suffix(".chunk").or_else(|| name.strip_suffix(".names")).is_some_and(digits)
}

/// Chunk files of version 1 were named after the offsets that they covered.
fn is_first_version(name: &str) -> bool {
    name.strip_suffix(".chunk").and_then(|range| range.split_once('-')).is_some_and(|(from, to)| digits(from) && digits(to))
}
