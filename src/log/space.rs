//! Free segments, and the promise that a granted claim finds room.
//!
//! The account counts, for every prepared segment that isn't full, the bytes that records may
//! take so that even the largest one still fits. Each claim takes its largest record out of the
//! account when it is granted and gives back the difference when it completes. While the account
//! is not negative some segment has room for the largest record, so what was granted fits,
//! whatever sizes and orders the completions come in.

use super::slot::Slot;
use crate::sync::{
    Mutex,
    atomic::{AtomicI64, Ordering},
};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Bytes that are neither used nor promised.
    free: AtomicI64,
    pool: Mutex<Vec<Arc<Slot>>>,
}

impl Space {
    /// Promises `bytes`, if they are there.
    pub fn reserve(&self, bytes: u64) -> bool {
        let take = |free: i64| (free >= bytes as i64).then(|| free - bytes as i64);
        self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// Bytes came back, or (negative) went.
    pub fn adjust(&self, bytes: i64) {
        self.free.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn free(&self) -> i64 {
        self.free.load(Ordering::Acquire)
    }

    /// A slot that is fit for use, its header and directory entry durable. One that is too small
    /// for the largest record of today's options stays out of use.
    pub fn give(&self, slot: Arc<Slot>, usable: i64) {
        if usable > 0 {
            self.pool.lock().push(slot);
            self.adjust(usable);
        }
    }

    /// Takes a free slot: the largest for the main class, the smallest for others. The account
    /// goes on counting it.
    pub fn take(&self, class: u8) -> Option<Arc<Slot>> {
        let mut pool = self.pool.lock();
        let sized = pool.iter().enumerate();
        let (at, _) = match class {
            super::MAIN_CLASS => sized.max_by_key(|(_, slot)| slot.bytes)?,
            _ => sized.min_by_key(|(_, slot)| slot.bytes)?,
        };
        Some(pool.swap_remove(at))
    }

    pub fn pooled(&self) -> usize {
        self.pool.lock().len()
    }

    /// The numbers of the free slots.
    pub fn pooled_slots(&self) -> Vec<u32> {
        self.pool.lock().iter().map(|slot| slot.number).collect()
    }
}
