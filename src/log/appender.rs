//! Where records are appended: a ring in front of a segment, one appender for each class of
//! retention.
//!
//! A byte's *position* is its place in everything that this appender ever appended in this life.
//! The positions reserved, written, drained and durable follow each other in this order.
//!
//! The main class's ring is a mapped file, so that a record is in the kernel's hands as soon as
//! it is copied. The others' rings are plain memory; there a record is in the kernel's hands when
//! it is drained, and [`Appender::drain`] is called before it is acknowledged.
//!
//! A task moves nothing itself and takes no segment into use, because both can wait for the disk:
//! it calls the draining thread ([`Appender::serve`]).
//!
//! Lock order: tail, then extents. The drain lock is taken before extents and never with tail.

mod drain;

use super::{
    Busy, MAIN_CLASS, Shared,
    footer::{DATA_START, FooterEntry, Summary, TRAILER_BYTES},
    frame::{Encoded, FOOTER_ENTRY_BYTES, Kind, Placed},
    ring::Ring,
    slot::Slot,
    space::Taken,
    space_queue::SpaceQueue,
};
use crate::{
    broken::{self, Broken},
    group_commit::GroupCommit,
    limits::BASE_MAX,
    location::Location,
    observe::{Timed, events},
    poison::Poisoned,
    storage::Region,
    sync::wait::{Event, Notifier},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        unlock_fair, yield_now,
    },
};
use std::{collections::VecDeque, io, sync::Arc};

/// Positions start here, so that a position minus the start of data is never negative.
pub(crate) const FIRST_POSITION: u64 = DATA_START;

/// Undrained bytes at which the draining thread is woken, and which are moved at a time: no caller
/// waits longer for the right to drain, or for room, than moving this many takes.
const DRAIN_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Appender {
    class: u8,
    ring: Ring,
    tail: Mutex<Tail>,
    /// Segments that still have bytes to receive, oldest first.
    extents: Mutex<VecDeque<Extent>>,
    draining: Mutex<Draining>,
    drained: AtomicU64,
    /// Store time of the oldest write that no sync has covered; 0 if there is none.
    dirty_since: AtomicU64,
    /// The same for what a running sync is about to cover.
    syncing_since: AtomicU64,
    pub group: GroupCommit,
    /// Notified when the draining thread has something to do.
    drain_notifier: Arc<Notifier>,
    /// A task waits for what the draining thread does.
    called: AtomicBool,
    /// Tasks that wait for room in the ring.
    room: SpaceQueue,
    /// Something was drained for a task, or a segment was taken into use.
    pub moved: Event,
    /// A part of the ring became free, for threads ([`Appender::poll_thread_space`]).
    roomy: Event,
}

#[derive(Debug)]
struct Tail {
    position: u64,
    open: Option<Open>,
    next: Next,
}

/// The state of the segment after the open one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The open one has room yet.
    Unwanted,
    /// A record has found none.
    Wanted,
    /// A caller is taking one into use.
    Coming,
}

/// The segment that is being filled.
#[derive(Debug)]
struct Open {
    slot: Arc<Slot>,
    entries: Vec<FooterEntry>,
    /// Offset of the next record.
    at: u64,
    newest_ms: u64,
    drop_ms: u64,
    /// Where the footer begins that an earlier life has left; until the segment is sealed again
    /// nothing is written over it.
    footer_at: u64,
}

#[derive(Debug)]
struct Extent {
    slot: Arc<Slot>,
    /// Nothing is drained to this offset or beyond it.
    footer_at: u64,
    /// Set when the segment is full.
    full: Option<Full>,
}

/// A segment that takes no more records.
#[derive(Debug)]
pub(crate) struct Full {
    pub slot: Arc<Slot>,
    pub entries: Vec<FooterEntry>,
    pub summary: Summary,
}

#[derive(Debug)]
struct Draining {
    /// Segments written to since the last sync, oldest first, with the offset reached.
    touched: Vec<(Arc<Slot>, u64)>,
    full: Vec<Full>,
}

/// A record that has its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    pub location: Location,
    pub class: u8,
    /// Where it ends: durable when the appender's durable position reaches this.
    pub end: u64,
    /// Bytes taken in the segment, footer entry included.
    pub used: u64,
}

/// Which segment a record may ask for when the open one has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roll {
    /// One that an earlier life has begun for this class, or a free one.
    Any,
    /// The first of these only.
    Begun,
}

/// The facts about a record that the segment's bookkeeping needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    pub hash: u64,
    pub kind: Kind,
    pub time_ms: u64,
    pub expires_ms: u64,
}

impl Open {
    fn fits(&self, frame: usize) -> bool {
        let footer = (self.entries.len() + 1) * FOOTER_ENTRY_BYTES + TRAILER_BYTES;
        self.at + (frame + footer) as u64 <= self.slot.bytes
    }

    fn used(&self) -> i64 {
        (self.at - DATA_START) as i64 + (self.entries.len() * FOOTER_ENTRY_BYTES) as i64
    }

    fn finish(self, life: u32) -> Full {
        let Open { slot, entries, at, newest_ms, drop_ms, .. } = self;
        let summary = Summary { life, data_end: at, drop_ms, newest_ms };
        Full { slot, entries, summary }
    }
}

impl Appender {
    /// `start`: where its positions begin in this life, which is where the segment ends that an
    /// earlier life has begun, or [`FIRST_POSITION`].
    pub fn new(
        class: u8,
        start: u64,
        ring: Region,
        group: GroupCommit,
        drain_notifier: Arc<Notifier>,
    ) -> Self {
        Appender {
            class,
            ring: Ring::new(ring, start),
            tail: Mutex::new(Tail { position: start, open: None, next: Next::Unwanted }),
            extents: Mutex::default(),
            draining: Mutex::new(Draining { touched: Vec::new(), full: Vec::new() }),
            drained: AtomicU64::new(start),
            dirty_since: AtomicU64::new(0),
            syncing_since: AtomicU64::new(0),
            group: group.beginning_at(start),
            drain_notifier,
            called: AtomicBool::new(false),
            room: SpaceQueue::default(),
            moved: Event::new(),
            roomy: Event::new(),
        }
    }

    /// Gives the frame its place and copies it there. Never waits: returns what is lacking instead.
    ///
    /// `roll` says which other segment may be asked for if the open one has no room.
    pub fn append(
        &self,
        shared: &Shared,
        frame: &mut Encoded,
        listing: Listing,
        roll: Roll,
        now: u64,
    ) -> Result<Appended, Busy> {
        let len = frame.len() as u64;
        let since = self.moved.count();
        let mut tail = self.tail.lock();
        shared.poison.check_writer()?;
        if !tail.open.as_ref().is_some_and(|open| open.fits(frame.len())) {
            if tail.next != Next::Coming {
                let given = match roll {
                    Roll::Any => shared.space.can_give(self.class),
                    Roll::Begun => shared.space.has_begun(self.class),
                };
                if !given {
                    return Err(Busy::NoSegment);
                }
                tail.next = Next::Wanted;
            }
            return Err(Busy::Segment { class: self.class, since });
        }
        let position = tail.position;
        let drained = self.drained();
        // Room that tasks have been granted is theirs, except in a ring in which nothing is left to
        // drain: they may not be polled for long.
        let granted = if position > drained { self.room.granted() } else { 0 };
        let lapped = position + len + granted > drained + self.ring.bytes();
        if lapped && !broken::is(Broken::LapUndrained) {
            return Err(Busy::Ring { class: self.class, len });
        }
        tail.position += len;
        let open = tail.open.as_mut().expect("rolled above");
        let offset = open.at;
        open.at += len;
        let entry = FooterEntry { hash: listing.hash, offset, kind: listing.kind, len: len as u32 };
        open.entries.push(entry);
        open.newest_ms = open.newest_ms.max(listing.time_ms);
        open.drop_ms = open.drop_ms.max(listing.expires_ms);
        open.slot.raise_drop(listing.expires_ms);
        let (seed, number) = (open.slot.seed(), open.slot.number);
        drop(tail);

        let durable = self.group.durable();
        let placed = Placed { seed, class: self.class, life: shared.life, position, durable };
        self.ring
            .write(position, frame.place(&placed))
            .map_err(|error| shared.poison.trip("writing the ring", &error))?;
        if self.dirty_since.load(Ordering::Relaxed) == 0 {
            self.became_dirty(shared, now);
        }
        self.drain_soon(shared, position, len);
        Ok(Appended {
            location: Location::new(number, offset),
            class: self.class,
            end: position + len,
            used: len + FOOTER_ENTRY_BYTES as u64,
        })
    }

    /// Wakes the draining thread each time that there is a piece more to drain: in `Buffered`;
    /// otherwise the commits drain, and it helps when they fall behind.
    fn drain_soon(&self, shared: &Shared, position: u64, len: u64) {
        let behind = || position - self.drained() > self.ring.bytes() / 2;
        if position / DRAIN_BYTES != (position + len) / DRAIN_BYTES
            && self.class == MAIN_CLASS
            && (shared.buffered || behind())
        {
            self.drain_notifier.notify();
        }
    }

    /// Closes the open segment and takes another into use, if a record has found no room and no
    /// other caller does so. Returns whether it did; then [`Appender::moved`] must be notified,
    /// with no lock held.
    pub fn roll(&self, shared: &Shared) -> Result<bool, Poisoned> {
        shared.poison.check_writer()?;
        let mut tail = self.tail.lock();
        if tail.next != Next::Wanted {
            return Ok(false);
        }
        tail.next = Next::Unwanted;
        let position = tail.position;
        if position > BASE_MAX {
            let error = io::Error::other(
                "its positions are used up; they begin again when the store is opened",
            );
            return Err(shared.poison.trip("taking a segment into use", &error));
        }
        let Some(taken) = shared.space.take(self.class) else {
            // Another appender has taken the last one. Waiters try again, and find that out.
            return Ok(true);
        };
        self.close_open(shared, &mut tail);
        tail.next = Next::Coming;
        drop(tail);
        // The lock is not held while the disk is read and written: callers that want to append get
        // what they have to wait for.
        let opened = match taken {
            Taken::Fresh(slot) => self.open_fresh(shared, slot, position).map(Some),
            Taken::Begun(slot, room) => self.open_begun(shared, slot, position, room),
        };
        let mut tail = self.tail.lock();
        tail.next = Next::Unwanted;
        let opened =
            opened.map_err(|error| shared.poison.trip("taking a segment into use", &error))?;
        if let Some(open) = opened {
            events::rolled(open.slot.number, self.class);
            let (slot, footer_at) = (open.slot.clone(), open.footer_at);
            self.extents.lock().push_back(Extent { slot, footer_at, full: None });
            tail.open = Some(open);
        }
        Ok(true)
    }

    fn open_fresh(&self, shared: &Shared, slot: Arc<Slot>, position: u64) -> io::Result<Open> {
        slot.activate(shared.life, self.class, position)?;
        let (at, footer_at) = (DATA_START, slot.bytes);
        Ok(Open { slot, entries: Vec::new(), at, newest_ms: 0, drop_ms: 0, footer_at })
    }

    /// Opens a segment that an earlier life has sealed. `None`: its footer does not read any more;
    /// it stays sealed, and waiters try again.
    fn open_begun(
        &self,
        shared: &Shared,
        slot: Arc<Slot>,
        position: u64,
        room: i64,
    ) -> io::Result<Option<Open>> {
        let footer = slot.footer().ok().flatten();
        let Some((entries, summary)) =
            footer.filter(|(_, summary)| slot.base() + summary.data_end == position)
        else {
            shared.space.give_up(&slot, room);
            return Ok(None);
        };
        let Summary { data_end: at, drop_ms, newest_ms, .. } = summary;
        slot.resume(shared.life, at)?;
        let footer = entries.len() * FOOTER_ENTRY_BYTES + TRAILER_BYTES;
        let footer_at = slot.bytes - footer as u64;
        Ok(Some(Open { slot, entries, at, newest_ms, drop_ms, footer_at }))
    }

    /// The open segment takes no more records. What it had over (or under: a full segment has
    /// used part of the largest frame's margin) leaves the account.
    fn close_open(&self, shared: &Shared, tail: &mut Tail) {
        let Some(open) = tail.open.take() else { return };
        shared.space.adjust(open.used() - open.slot.usable(shared.frame_max));
        let full = open.finish(shared.life);
        let mut extents = self.extents.lock();
        let extent = extents.iter_mut().rev().find(|e| e.slot.number == full.slot.number);
        extent.expect("an open segment has its extent until it is full and drained").full =
            Some(full);
        self.group.wake_worker();
    }

    /// Closes the open segment if `condition` holds for it (its slot, and bytes used), and returns
    /// whether it did. The next commit returns it as full.
    pub fn close_if(&self, shared: &Shared, condition: impl FnOnce(&Slot, i64) -> bool) -> bool {
        let mut tail = self.tail.lock();
        let close = tail.open.as_ref().is_some_and(|open| condition(&open.slot, open.used()));
        if close {
            self.close_open(shared, &mut tail);
        }
        close
    }

    /// Whether a closed segment waits for a commit. One that has been drained already does too.
    pub fn has_closed(&self) -> bool {
        let draining = self.draining.lock();
        let front_is_full = || self.extents.lock().front().is_some_and(|e| e.full.is_some());
        !draining.full.is_empty() || front_is_full()
    }

    /// Everything below this position is in the segments' files.
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }

    /// Everything up to here has been given out.
    pub fn reserved(&self) -> u64 {
        self.tail.lock().position
    }

    /// The segment that is being filled, and the offset of its next record.
    pub fn open_at(&self) -> Option<(u32, u64)> {
        let tail = self.tail.lock();
        tail.open.as_ref().map(|open| (open.slot.number, open.at))
    }

    /// Overwrites with zeros what the ring has of frames that are in their segments, a piece at a
    /// time. A reader that meets it finds the segment, as when it is lapped.
    pub fn blank_ring(&self) -> io::Result<()> {
        for piece in self.ring.pieces() {
            // While it is held no place is given out: what is free stays free.
            let tail = self.tail.lock();
            let drained = self.drained();
            self.ring.blank(piece, tail.position..drained + self.ring.bytes())?;
        }
        Ok(())
    }

    /// Does something while nothing is drained.
    pub fn between_drains<T>(&self, what: impl FnOnce() -> T) -> T {
        let _draining = self.draining.lock();
        what()
    }

    /// Copies bytes out of the ring; torn if they have been lapped.
    pub fn load(&self, position: u64, into: &mut [u8]) {
        self.ring.load(position, into);
    }

    /// Drains and syncs everything written before the call. Returns the position that is now
    /// durable, and the segments that have become full on the way.
    pub fn commit(&self, shared: &Shared) -> Result<(u64, Vec<Full>), Poisoned> {
        self.syncing_since.store(self.dirty_since.swap(0, Ordering::SeqCst), Ordering::SeqCst);
        let target = self.reserved();
        let (position, touched, full) = loop {
            let mut draining = self.draining.lock();
            let moved = self.drain_piece(shared, &mut draining)?;
            let position = self.drained();
            if position >= target {
                let touched = std::mem::take(&mut draining.touched);
                break (position, touched, std::mem::take(&mut draining.full));
            }
            unlock_fair(draining);
            if !moved {
                // An appender is in the middle of copying a frame; that takes no longer than a
                // copy.
                yield_now();
            }
        };
        if broken::is(Broken::FooterBeforeContent) {
            let seal = |full: &Full| full.slot.seal(&full.entries, &full.summary);
            full.iter()
                .try_for_each(seal)
                .map_err(|error| shared.poison.trip("sealing a segment", &error))?;
        }
        for (slot, reached) in touched {
            if broken::is(Broken::SkipSegmentSync) {
                slot.raise_durable(reached);
                continue;
            }
            let started = shared.timings.start();
            let synced = slot.file.sync();
            shared.timings.end(Timed::LogSync, started);
            synced.map_err(|error| shared.poison.trip("syncing a segment", &error))?;
            slot.raise_durable(reached);
        }
        self.syncing_since.store(0, Ordering::SeqCst);
        Ok((position, full))
    }

    fn became_dirty(&self, shared: &Shared, now: u64) {
        let since = now.max(1);
        let first = self.dirty_since.compare_exchange(0, since, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_ok() && shared.buffered {
            self.group.wake_worker();
        }
    }

    /// Store time of the oldest write that may still be lost with power.
    pub fn oldest_at_risk(&self) -> Option<u64> {
        match self.syncing_since.load(Ordering::SeqCst) {
            0 => self.dirty_since(),
            since => Some(since),
        }
    }

    /// Store time of the oldest write that no sync has covered or is about to.
    pub fn dirty_since(&self) -> Option<u64> {
        match self.dirty_since.load(Ordering::SeqCst) {
            0 => None,
            since => Some(since),
        }
    }
}

#[cfg(all(test, not(any(onlyonce_loom, onlyonce_shuttle))))]
mod tests;
