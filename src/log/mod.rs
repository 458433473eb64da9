//! The log: records appended, read at a location, durable up to a position.

mod appender;
pub(crate) mod erased;
mod footer;
pub(crate) mod frame;
mod ring;
pub(crate) mod scan;
mod slot;
mod space;
mod space_queue;

pub(crate) use appender::{Appended, Appender, FIRST_POSITION, Full, Listing, Roll};
pub(crate) use footer::{
    ActiveSince, DATA_START, FooterEntry, HeaderError, SEGMENT_HEADER_BYTES, SEGMENT_VERSION,
    SegmentHeader, Summary, TRAILER_BYTES, encode as encode_footer,
};
pub(crate) use frame::{
    Draft, Encoded, FOOTER_ENTRY_BYTES, Frame, Kind, claim_bytes, largest_frame,
};
pub(crate) use slot::{Slot, Slots, Use, file_name, next_epoch};
pub(crate) use space::{Retired, Space};

use crate::{
    broken::{self, Broken},
    group_commit::GroupCommit,
    key::KeyRef,
    limits::{CLASSES, KEY_BYTES_MAX, SCOPE_BYTES_MAX},
    location::Location,
    observe::Timings,
    poison::{Poison, Poisoned},
    storage::{Region, heap_region},
    sync::pooled_bytes::Copied,
    sync::wait::Notifier,
};
use frame::{HEADER_BYTES, Header, Seed, check_body, check_start};
use std::sync::{
    Arc, OnceLock,
    atomic::{Ordering, fence},
};

/// The class of the store's own retention.
pub(crate) const MAIN_CLASS: u8 = 0;

/// Bytes of a frame that are read at first: its header, and the names if they are short.
const START_BYTES: usize = 192;

/// The class that a record of this retention belongs to. Placement only: short of space any
/// segment takes any record.
pub(crate) fn class_of(retention_ms: u64, main_ms: u64) -> u8 {
    if retention_ms == main_ms {
        return MAIN_CLASS;
    }
    let seconds = (retention_ms / 1000).max(1);
    1 + (seconds.ilog2() as u8).min(CLASSES as u8 - 2)
}

/// The resource that an append lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// The ring of this class has no room for `len` bytes.
    Ring {
        class: u8,
        len: u64,
    },
    /// The open segment of this class has no room, and there is another: wait for its appender to
    /// have moved since `since`.
    Segment {
        class: u8,
        since: u64,
    },
    /// No free segment (or, asked not to take one, no room in the open one).
    NoSegment,
    Poisoned,
}

impl From<Poisoned> for Busy {
    fn from(_: Poisoned) -> Self {
        Busy::Poisoned
    }
}

/// The state that the parts of the log share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub life: u32,
    pub frame_max: u64,
    /// A thread must be notified of the first write after a sync.
    pub buffered: bool,
    pub space: Space,
    pub poison: Arc<Poison>,
    pub timings: Timings,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub shared: Shared,
    pub slots: Slots,
    appenders: [OnceLock<Appender>; CLASSES],
    /// Where the positions of each class begin in this life.
    starts: [u64; CLASSES],
    /// Largest record plus margin: the size of the rings that are made on demand.
    small_ring: u64,
    class_notifier: Arc<Notifier>,
    drain_notifier: Arc<Notifier>,
}

impl Log {
    pub fn new(
        shared: Shared,
        slots: Slots,
        starts: [u64; CLASSES],
        ring: Region,
        main_group: GroupCommit,
        drain_notifier: Arc<Notifier>,
        class_notifier: Arc<Notifier>,
    ) -> Self {
        let appenders = [const { OnceLock::new() }; CLASSES];
        let main = Appender::new(MAIN_CLASS, starts[0], ring, main_group, drain_notifier.clone());
        assert!(appenders[0].set(main).is_ok());
        let small_ring = (2 * shared.frame_max).next_multiple_of(64).max(64 << 10);
        Log { shared, slots, appenders, starts, small_ring, class_notifier, drain_notifier }
    }

    /// The appender of a class; made when it is first used.
    pub fn appender(&self, class: u8) -> &Appender {
        self.appenders[class as usize].get_or_init(|| {
            let ring = heap_region(self.small_ring as usize);
            let group = GroupCommit::new(self.class_notifier.clone(), None);
            let start = self.starts[class as usize];
            Appender::new(class, start, ring, group, self.drain_notifier.clone())
        })
    }

    /// The appenders that have been used.
    pub fn appenders(&self) -> impl Iterator<Item = (u8, &Appender)> {
        self.appenders
            .iter()
            .enumerate()
            .filter_map(|(i, appender)| Some((i as u8, appender.get()?)))
    }

    /// Appends in the class wanted; short of free segments, wherever there is room: in the open
    /// segment of another class, or in one that an earlier life has begun for it.
    pub fn append(
        &self,
        class: u8,
        frame: &mut Encoded,
        listing: Listing,
        now: u64,
    ) -> Result<Appended, Busy> {
        let wanted = self.appender(class).append(&self.shared, frame, listing, Roll::Any, now);
        if wanted.is_ok() || !matches!(wanted, Err(Busy::NoSegment)) {
            return wanted;
        }
        for other in (0..CLASSES as u8).filter(|other| *other != class) {
            if !self.is_used(other) && !self.shared.space.has_begun(other) {
                continue;
            }
            let tried = self.appender(other).append(&self.shared, frame, listing, Roll::Begun, now);
            if !matches!(tried, Err(Busy::NoSegment)) {
                return tried;
            }
        }
        Err(Busy::NoSegment)
    }

    /// Whether the record at `location` would survive a loss of power.
    pub fn is_durable(&self, location: Location) -> bool {
        self.slots.get(location.slot()).is_some_and(|slot| location.offset() < slot.durable())
    }

    /// Whether the record at `location` survives the death of the process.
    pub fn is_written(&self, location: Location) -> bool {
        self.slots
            .get(location.slot())
            .is_some_and(|slot| slot.class() == MAIN_CLASS || location.offset() < slot.drained())
    }

    /// The class and position of the byte at `location`, to wait for it.
    pub fn position_of(&self, location: Location) -> (u8, u64) {
        let slot = self.slots.get(location.slot()).expect("locations name existing slots");
        (slot.class(), slot.base() + location.offset())
    }

    /// Copies a frame out and checks it. `None` if it is not whole: damaged, or (without the lock
    /// of the shard that names it) its segment has been used again during the copy.
    pub fn read(&self, location: Location) -> Option<Frame> {
        let slot = self.slots.get(location.slot())?;
        // Once from the ring, where an appender may lap it during the copy; then it has been
        // drained before and is in the segment.
        (0..3).find_map(|_| {
            let frame = self.try_read(slot, location.offset());
            if frame.is_none() {
                // Who has met bytes of a later lap sees next how far the ring was drained for them.
                fence(Ordering::Acquire);
            }
            frame
        })
    }

    /// Whether the record at `location` was erased. Erased are records that no index named, but the
    /// footers of their segments list them, so the next opening's does.
    pub fn is_erased(&self, location: Location) -> bool {
        let Some(slot) = self.slots.get(location.slot()) else { return false };
        let mut word = [0; 8];
        self.copy(slot, location.offset(), &mut word);
        erased::len_of(slot.seed(), location.offset(), &word).is_some()
    }

    fn try_read(&self, slot: &Slot, offset: u64) -> Option<Frame> {
        let seed = slot.seed();
        let room = slot.bytes.checked_sub(offset)? as usize;
        // Mostly the names are short, and everything that may be there can be read from the file: then
        // one copy has the header and the names.
        let mut start = [0; START_BYTES];
        if offset + START_BYTES as u64 <= slot.drained() {
            self.copy(slot, offset, &mut start);
            let header = Header::decode(start.first_chunk()?, room)?;
            if let Some(start) = start.get_mut(..header.head_at()) {
                return self.read_rest(slot, offset, seed, header, start);
            }
        }
        let mut start = [0; HEADER_BYTES + SCOPE_BYTES_MAX + KEY_BYTES_MAX];
        let (fixed, names) = start.split_first_chunk_mut::<HEADER_BYTES>()?;
        if room < HEADER_BYTES {
            return None;
        }
        self.copy(slot, offset, fixed);
        let header = Header::decode(fixed, room)?;
        let end = header.head_at();
        self.copy(slot, offset + HEADER_BYTES as u64, &mut names[..end - HEADER_BYTES]);
        self.read_rest(slot, offset, seed, header, &mut start[..end])
    }

    /// Checks header and names, which are in `start`, and reads what is behind the header.
    fn read_rest(
        &self,
        slot: &Slot,
        offset: u64,
        seed: Seed,
        header: Header,
        start: &mut [u8],
    ) -> Option<Frame> {
        // A whole frame that belongs elsewhere is damage too.
        let misplaced = header.position != slot.base().wrapping_add(offset);
        let trusts = broken::is(Broken::ServeLapped);
        let whole = !misplaced && header.kind != Kind::Void && check_start(seed, start);
        if !whole && !trusts {
            return None;
        }
        // Only now is the length believed.
        let rest = Copied::new(header.len as usize - HEADER_BYTES, |copy| {
            self.copy(slot, offset + HEADER_BYTES as u64, copy);
        });
        let names = &start[HEADER_BYTES..];
        let whole = rest[..names.len()] == *names && check_body(&header, &rest[names.len()..]);
        (whole || trusts).then_some(Frame { header, rest })
    }

    fn is_used(&self, class: u8) -> bool {
        self.appenders[class as usize].get().is_some()
    }

    fn copy(&self, slot: &Slot, offset: u64, into: &mut [u8]) {
        let drained = offset + into.len() as u64 <= slot.drained();
        if drained && !(broken::is(Broken::ServeLapped) && self.is_used(slot.class())) {
            slot.load(offset, into);
        } else if let Some(appender) = self.appenders[slot.class() as usize].get() {
            appender.load(slot.base() + offset, into);
        } else {
            into.fill(0);
        }
    }

    /// Whether the bytes at `location` claim to be this key's record; without checking them.
    pub fn names_unchecked(&self, location: Location, key: KeyRef<'_>) -> bool {
        let mut fixed = [0; HEADER_BYTES];
        let Some(slot) = self.slots.get(location.slot()) else { return false };
        self.copy(slot, location.offset(), &mut fixed);
        let lens = (key.scope().len() as u8, key.key().len() as u8);
        let mut names = vec![0; key.scope().len() + key.key().len()];
        self.copy(slot, location.offset() + HEADER_BYTES as u64, &mut names);
        (fixed[15], fixed[16]) == lens && names == [key.scope(), key.key()].concat()
    }

    /// The seed of the frames in a slot now.
    pub fn epoch(&self, slot: u32) -> Option<u32> {
        self.slots.get(slot).map(|slot| slot.epoch())
    }
}

#[cfg(all(test, not(onlyonce_loom)))]
mod tests;
