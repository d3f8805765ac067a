//! A file of the simulated disk, twice: what a running process reads back, and what is on the medium.
//!
//! Changed by [`super::SimDisk`] and by nothing else.

/// What a crash keeps or loses as a unit.
pub(in crate::io) const SECTOR_BYTES: usize = 512;

/// A seeded coin (`SplitMix64`): the same on every machine.
pub(in crate::io) struct Coin(u64);

impl Coin {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Heads.
    pub fn heads(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        crate::types::index(self.next() % bound as u64)
    }
}

/// Lays `bytes` over `content` from `at`, sector by sector, where `keeps` says so; `content` grows as needed.
pub(in crate::io) fn lay_sectors(content: &mut Vec<u8>, at: usize, bytes: &[u8], mut keeps: impl FnMut() -> bool) {
    let until = at + bytes.len();
    content.resize(content.len().max(until), 0);
    let mut from = at;
    while from < until {
        let end = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(until);
        if keeps() {
            content[from..end].copy_from_slice(&bytes[from - at..end - at]);
        }
        from = end;
    }
}

/// See the module docs.
#[derive(Clone, Default)]
pub(super) struct Image {
    pub live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that a sync will write. A failed one clears this without writing: the system marks pages clean that it lost.
    dirty: Vec<bool>,
}

impl Image {
    /// A file whose content is durable.
    pub fn holding(content: Vec<u8>) -> Self {
        Self { live: content.clone(), durable: content, dirty: Vec::new() }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        let until = at + bytes.len();
        self.live.resize(self.live.len().max(until), 0);
        self.live[at..until].copy_from_slice(bytes);
        self.dirty.resize(self.live.len().div_ceil(SECTOR_BYTES), false);
        if !bytes.is_empty() {
            self.dirty[at / SECTOR_BYTES..until.div_ceil(SECTOR_BYTES)].fill(true);
        }
    }

    /// Makes what lies in `from..until` durable, unless an earlier failed sync has lost it.
    pub fn sync(&mut self, from: usize, until: usize) {
        self.durable.resize(self.live.len(), 0);
        let until = until.min(self.live.len());
        for sector in from / SECTOR_BYTES..until.div_ceil(SECTOR_BYTES).min(self.dirty.len()) {
            if std::mem::take(&mut self.dirty[sector]) {
                let end = ((sector + 1) * SECTOR_BYTES).min(self.live.len());
                self.durable[sector * SECTOR_BYTES..end].copy_from_slice(&self.live[sector * SECTOR_BYTES..end]);
            }
        }
    }

    /// A sync failed: the pages are clean and not on the medium.
    pub fn lose(&mut self, from: usize, until: usize) {
        for sector in from / SECTOR_BYTES..until.div_ceil(SECTOR_BYTES).min(self.dirty.len()) {
            self.dirty[sector] = false;
        }
    }

    pub fn flip_bit(&mut self, at: usize) {
        self.live[at] ^= 1;
        self.durable[at] ^= 1;
    }

    /// What is left after the power fails. Sectors that are not durable survive where the coin says so.
    pub fn after_crash(&self, coin: &mut Coin) -> Vec<u8> {
        let mut content = self.durable.clone();
        content.resize(self.live.len().max(content.len()), 0);
        for (sector, live) in self.live.chunks(SECTOR_BYTES).enumerate() {
            let at = sector * SECTOR_BYTES;
            if content[at..at + live.len()] != *live && coin.heads() {
                content[at..at + live.len()].copy_from_slice(live);
            }
        }
        content
    }
}
