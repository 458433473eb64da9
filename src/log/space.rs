//! Free segments, and the promise that a granted claim finds room.
//!
//! The account counts, for every prepared segment that isn't full, the bytes that records may
//! take so that even the largest one still fits. Each claim takes its largest record out of the
//! account when it is granted and gives back the difference when it completes. While the account
//! is not negative some segment has room for the largest record, so what was granted fits,
//! whatever sizes and orders the completions come in.
//!
//! A segment that an earlier life has left with room is *begun*: sealed, and in the account. The
//! first record of its class takes it into use again, so that a store which is opened often needs
//! no more segments than one which stays open. Short of free segments it takes records of any
//! class.

use super::slot::{Slot, Use};
use crate::sync::{
    Mutex,
    atomic::{AtomicI64, Ordering},
};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Bytes that are neither used nor promised.
    free: AtomicI64,
    pool: Mutex<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    free: Vec<Arc<Slot>>,
    begun: Vec<Begun>,
}

/// A sealed segment with room.
#[derive(Debug)]
struct Begun {
    slot: Arc<Slot>,
    /// The room it has left, as the account counts it.
    room: i64,
}

/// A segment to be taken into use.
#[derive(Debug)]
pub(super) enum Taken {
    Fresh(Arc<Slot>),
    /// Was sealed by an earlier life, and has so many bytes in the account.
    Begun(Arc<Slot>, i64),
}

/// Whether a sealed segment whose records have expired may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    /// The slot may be used again now.
    Yes,
    /// The room it has left is promised to claims. Later.
    Reservation,
    /// It is in use, or free, or has been filled further.
    NotDue,
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
            self.pool.lock().free.push(slot);
            self.adjust(usable);
        }
    }

    /// A sealed slot that has `room`: at most one of each class.
    pub fn give_begun(&self, slot: Arc<Slot>, room: i64) {
        self.pool.lock().begun.push(Begun { slot, room });
        self.adjust(room);
    }

    /// Takes the slot that an earlier life has begun for the class; else a free one: the largest
    /// for the main class, the smallest for others. The account still counts it.
    pub(super) fn take(&self, class: u8) -> Option<Taken> {
        let mut pool = self.pool.lock();
        if let Some(at) = pool.begun.iter().position(|begun| begun.slot.class() == class) {
            let Begun { slot, room } = pool.begun.swap_remove(at);
            // Under this lock, so that it is not retired at the same time.
            slot.use_as(Use::Filling);
            return Some(Taken::Begun(slot, room));
        }
        let sized = pool.free.iter().enumerate();
        let (at, _) = match class {
            super::MAIN_CLASS => sized.max_by_key(|(_, slot)| slot.bytes)?,
            _ => sized.min_by_key(|(_, slot)| slot.bytes)?,
        };
        Some(Taken::Fresh(pool.free.swap_remove(at)))
    }

    /// A begun slot that was taken cannot be filled: it stays as it is, and the account loses what
    /// it had left.
    pub(super) fn give_up(&self, slot: &Slot, room: i64) {
        slot.use_as(Use::Sealed);
        self.adjust(-room);
    }

    /// Decides whether a slot whose records were due to expire by `now` can be swept: it must be
    /// sealed, and what it has left in the account must not be promised. It leaves the account.
    pub fn retire(&self, slot: &Slot, now: u64) -> Retired {
        let mut pool = self.pool.lock();
        if slot.used_as() != Use::Sealed || slot.drop_ms() > now {
            return Retired::NotDue;
        }
        if let Some(at) = pool.begun.iter().position(|begun| begun.slot.number == slot.number) {
            if !self.reserve(pool.begun[at].room as u64) {
                return Retired::Reservation;
            }
            pool.begun.swap_remove(at);
        }
        // Under this lock, so that it is retired once and is not taken into use.
        slot.use_as(Use::Retired);
        Retired::Yes
    }

    pub fn pooled(&self) -> usize {
        self.pool.lock().free.len()
    }

    /// Whether a slot that an earlier life has begun for the class waits to be filled.
    pub fn has_begun(&self, class: u8) -> bool {
        self.pool.lock().begun.iter().any(|begun| begun.slot.class() == class)
    }

    /// Whether [`take`](Self::take) would find something.
    pub fn can_give(&self, class: u8) -> bool {
        self.pooled() > 0 || self.has_begun(class)
    }

    /// The numbers of the free slots.
    pub fn pooled_slots(&self) -> Vec<u32> {
        self.pool.lock().free.iter().map(|slot| slot.number).collect()
    }
}
