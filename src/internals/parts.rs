//! Doors to the inner parts for `benches/parts`, which measures each of them alone. Not part of
//! the public interface: what is here changes without notice.

use crate::{
    fingerprint::Fingerprint,
    group_commit::{Commit, GroupCommit, WaiterId},
    index,
    key::KeyRef,
    location::Location,
    log::{
        Appender, Busy, Draft, Encoded, FIRST_POSITION, Full, Kind, Listing, MAIN_CLASS, Roll,
        Shared, Slot, Space,
        frame::{Placed, Seed},
        largest_frame,
    },
    poison::{Poison, Poisoned},
    recover::create::create_ring,
    storage::{DiskStorage, Storage},
    sync::Mutex,
    sync::wait::{Caller, Notifier, block},
    token::Token,
    wheel::{TimerId, TimingWheel},
};
use std::{io, path::Path, sync::Arc};

const STORE: u64 = 1;
const LIFE: u32 = 1;
/// The time at which everything happens. Nothing here expires.
const NOW: u64 = 1;
const PIECE: usize = 256 << 10;

fn token() -> Token {
    Token::new(1).expect("not zero")
}

/// The frame of a completion, made again and again in one buffer.
#[derive(Default)]
pub struct Frame(Encoded);

impl Frame {
    /// Writes all that doesn't depend on its place, checksum of the body included.
    pub fn draft(&mut self, key: KeyRef<'_>, response: &[u8]) {
        self.0.draft(&Draft {
            kind: Kind::Completed,
            key,
            fingerprint: Fingerprint::from_bytes([1; 16]),
            attempt: 1,
            token: token(),
            time_ms: NOW,
            replay_until_ms: NOW,
            expires_ms: NOW,
            head: &[],
            body: response,
        });
    }

    /// Adds what the place decides, checksum of the header included: the whole frame.
    pub fn place(&mut self, position: u64) -> &[u8] {
        let seed = Seed { store: STORE, slot: 1, epoch: 1 };
        self.0.place(&Placed { seed, class: MAIN_CLASS, life: LIFE, position, durable: 0 })
    }
}

/// The main class's ring, segments and group commit over real files, without the store's threads:
/// the caller drains and recycles.
pub struct Log {
    appender: Appender,
    shared: Shared,
    /// Full, durable and not recycled yet.
    full: Mutex<Vec<Full>>,
}

impl Log {
    /// A log of so many segments, all of them written before.
    ///
    /// # Errors
    /// An error of the operating system.
    pub fn create(dir: &Path, ring: u64, segments: u32, segment: u64) -> io::Result<Self> {
        let storage = DiskStorage::open(dir)?;
        let shared = Shared {
            life: LIFE,
            frame_max: largest_frame(16 << 10) as u64,
            buffered: false,
            space: Space::default(),
            poison: Arc::new(Poison::default()),
            timings: Default::default(),
        };
        for number in 1..=segments {
            let slot = Slot::create(&storage, number, segment, STORE)?;
            // By pieces as large as drained ones: the page cache remembers how it was filled.
            for piece in (0..segment).step_by(PIECE).skip(1) {
                slot.file.write_at(piece, &[0; PIECE])?;
            }
            slot.file.sync()?;
            let usable = slot.usable(shared.frame_max);
            shared.space.give(Arc::new(slot), usable);
        }
        let ring = create_ring(&storage, ring)?.map_mut()?;
        storage.sync_dir()?;
        let group = GroupCommit::new(Arc::default(), None);
        let appender =
            Appender::new(MAIN_CLASS, FIRST_POSITION, ring, group, Arc::<Notifier>::default());
        Ok(Log { appender, shared, full: Mutex::default() })
    }

    /// Gives a frame its place and copies it there; where it ends. `None` while the ring is full
    /// (to be drained) or all segments are (to be recycled).
    pub fn append(&self, frame: &mut Frame) -> Option<u64> {
        let listing = Listing { hash: 1, kind: Kind::Completed, time_ms: NOW, expires_ms: NOW };
        loop {
            match self.appender.append(&self.shared, &mut frame.0, listing, Roll::Any, NOW) {
                Ok(appended) => return Some(appended.end),
                Err(Busy::Ring { .. } | Busy::NoSegment) => return None,
                Err(Busy::Segment { .. }) if self.appender.roll(&self.shared).is_ok() => {}
                Err(Busy::Segment { .. } | Busy::Poisoned) => self.failed(),
            }
        }
    }

    /// Moves what was appended into the segments.
    pub fn drain(&self) {
        if self.appender.drain(&self.shared).is_err() {
            self.failed();
        }
    }

    /// Waits, and leads, until everything below `end` is durable.
    pub fn wait_durable(&self, end: u64) {
        let mut place = WaiterId::default();
        let group = &self.appender.group;
        let waited = block(|context| group.poll(self, end, Caller::Thread, &mut place, context));
        if waited.is_err() {
            self.failed();
        }
    }

    /// Brings full segments back, if there are any: each costs a sync, as does what they lack.
    pub fn recycle(&self) {
        let bring_back = || {
            if self.appender.has_closed() {
                self.appender.group.lead_once(self);
            }
            self.full.lock().drain(..).try_for_each(|Full { slot, .. }| {
                slot.recycle()?;
                let usable = slot.usable(self.shared.frame_max);
                self.shared.space.give(slot, usable);
                io::Result::Ok(())
            })
        };
        bring_back().unwrap_or_else(|error| panic!("recycling: {error}"));
    }

    fn failed(&self) -> ! {
        panic!("{}", self.shared.poison.why().unwrap_or_default());
    }
}

impl Commit for Log {
    fn commit(&self) -> Result<u64, Poisoned> {
        let (position, full) = self.appender.commit(&self.shared)?;
        self.full.lock().extend(full);
        Ok(position)
    }
}

/// The index, of which only the entries of records are used.
pub struct Index(index::Index);

impl Index {
    /// An empty one.
    #[expect(clippy::new_without_default, reason = "it is not needed")]
    pub fn new() -> Self {
        Index(index::Index::new(index::KeyHasher::new([0; 16], 64), NOW))
    }

    /// Adds the entry of a record, whose place is any number of forty bits.
    pub fn insert(&self, hash: u64, place: u64) {
        self.0.shard(hash).insert(hash, Location::from_bits(place));
    }

    /// The location of the record of this hash: the first candidate that `is_it`.
    pub fn probe(&self, hash: u64, is_it: impl Fn(u64) -> bool) -> Option<u64> {
        self.0.shard(hash).candidates(hash).map(Location::bits).find(|place| is_it(*place))
    }

    /// Removes an entry. Whether it was there.
    pub fn remove(&self, hash: u64, place: u64) -> bool {
        self.0.shard(hash).remove(hash, Location::from_bits(place))
    }
}

/// A timer of a [`Wheel`].
#[derive(Clone, Copy)]
pub struct Timer(TimerId);

/// A timing wheel whose timers carry what a claim's do.
pub struct Wheel(TimingWheel<(u32, Token)>);

impl Wheel {
    /// An empty wheel whose time is `now`.
    pub fn new(now: u64) -> Self {
        Wheel(TimingWheel::new(now))
    }

    /// Adds a timer.
    pub fn insert(&mut self, deadline: u64, number: u32) -> Timer {
        Timer(self.0.insert(deadline, (number, token())))
    }

    /// Removes a timer. Whether it was pending.
    pub fn cancel(&mut self, timer: Timer) -> bool {
        self.0.cancel(timer.0).is_some()
    }

    /// Moves time, and says which timers have fired.
    pub fn advance(&mut self, now: u64, mut fired: impl FnMut(u32)) {
        self.0.advance(now, &mut |(number, _)| fired(number));
    }

    /// When to advance next.
    pub fn next_wakeup(&self) -> Option<u64> {
        self.0.next_wakeup()
    }
}
