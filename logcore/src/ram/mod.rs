//! The RAM tier: [`arena`] gives out chunks under one budget, [`tail`] is a partition's chain of them that readers share.

pub mod arena;
pub mod tail;
