//! The same names as `timings`, for a build without features that ask for times.

use super::Timed;
use crate::{key::KeyRef, stats::Count, token::Token};

/// Nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timings;

/// No point in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started;

impl Timings {
    pub fn start(&self) -> Started {
        Started
    }

    pub fn end(&self, _: Timed, _: Started) {}

    pub fn size(&self, _: Timed, _: usize) {}

    pub fn alarm(
        &self,
        _: Count,
        _: u64,
        _: KeyRef<'_>,
        _: Option<Token>,
        _: impl FnOnce() -> u64,
    ) {
    }
}
