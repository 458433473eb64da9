//! The failure latch: after the first failed write or sync nothing is acknowledged any more.
//!
//! A second sync that succeeds after a failed one proves nothing (the kernel may have dropped
//! the dirty pages), so the only way back is to open the store again, which reads what the disk
//! really holds.
//!
//! A forked child is refused by each call of a store before it does anything else. Whatever writes
//! asks once more, so that a mistake above cannot reach the parent's files.

use crate::{
    observe::events,
    storage::ForkGuard,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use std::io;

/// The store refuses: said by the latch, translated into each family of errors above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Poisoned;

impl From<Poisoned> for crate::error::BeginError {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

impl From<Poisoned> for crate::error::ClaimError {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

impl From<Poisoned> for crate::error::StoreError {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

#[derive(Debug, Default)]
pub(crate) struct Poison {
    set: AtomicBool,
    why: Mutex<Option<String>>,
    /// Checked by every call, before any lock is taken.
    pub(crate) fork: ForkGuard,
}

impl Poison {
    /// `Err` from the first failure on.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Poisoned> {
        if self.set.load(Ordering::Acquire) { Err(Poisoned) } else { Ok(()) }
    }

    /// Like [`check`](Self::check), before a write. `Err` in a forked child too, which has its
    /// parent's files and shares its maps.
    #[inline]
    pub(crate) fn check_writer(&self) -> Result<(), Poisoned> {
        if self.fork.is_forked() { Err(Poisoned) } else { self.check() }
    }

    /// Trips the latch; the first reason stays.
    pub(crate) fn trip(&self, doing: &str, error: &io::Error) -> Poisoned {
        let mut why = self.why.lock();
        let first = why.is_none();
        let why = why.get_or_insert_with(|| format!("{doing}: {error}"));
        self.set.store(true, Ordering::Release);
        if first {
            events::poisoned(why);
        }
        Poisoned
    }

    /// The error that tripped it.
    pub(crate) fn why(&self) -> Option<String> {
        self.why.lock().clone()
    }
}
