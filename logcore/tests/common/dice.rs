//! Seeds: where the tests with random input get it from, and how a run is asked for again.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

/// A seeded die (`SplitMix64`): the same on every machine.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    /// A number in `from..until`.
    pub fn between(&mut self, from: usize, until: usize) -> usize {
        from + self.index(until - from)
    }

    /// A die of its own for something that must not depend on how often this one was rolled.
    pub fn other(&mut self) -> Self {
        Self(self.roll())
    }
}

/// The number in an environment variable.
pub fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// `HEADWATER_SEED`: the seed of a run that is to be repeated, or that of a long run.
pub fn seed() -> u64 {
    from_env("HEADWATER_SEED").unwrap_or(1)
}
