//! Reading a store's directory without owning it: what `info`, `list`, `get`, `verify`, `backup`
//! and `export` of the `onlyonce` command see.
//!
//! An [`Inspection`] is what the files held at about one time. It takes no lock, writes nothing
//! (the files are opened for reading), and reads by read calls, so that a bad sector is a message
//! and not a signal. The store may be open at the same time, in any process, and is not disturbed.
//!
//! **What is seen of a store that is being written to.** Each key is as it was at some moment
//! between the start and the end of [`Inspection::open`]. A completion that was acknowledged
//! before the start is seen; one that is seen may not be durable yet. What a running store has in
//! memory only is not seen: renewals, why and since when a key is interrupted in this life. So an
//! undecided key of a running store is shown in flight.
//!
//! How this is kept true while the files change: the claims are read before the ring, and the ring
//! before the segments, in the direction in which a record moves; the claims three times, because a
//! takeover may move one during a pass; the newest segments first, because their frames say which
//! records of older ones must be there; open segments twice, because they grow; and a segment whose
//! epoch has changed in the end held records that have expired.

mod decide;
mod item;
mod survey;
mod verify;

pub use item::Item;
pub use verify::{Progress, Report};

use crate::{
    clock::{AcceptClock, Clock, Known, StoreTime, SystemClock, shifted},
    decisions::{self, Decision},
    error::OpenError,
    index::KeyHasher,
    key::{KeyRef, OwnedKey},
    limits::TIME_MAX_MS,
    location::Location,
    log::{FooterEntry, claim_bytes, file_name},
    options::Durability,
    record::ByReason,
    recover::{room_in, segments::Segment},
    storage::{DiskStorage, Storage},
    superblock::{FORMAT_VERSION, Superblock},
};
use decide::{Decided, Undecided};
use std::{fmt, path::Path, sync::Arc};

/// The content of a store's directory, as it was read.
pub struct Inspection {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) superblock: Superblock,
    pub(crate) segments: Vec<Segment>,
    pub(crate) claims_bytes: u64,
    torn_claims: u64,
    pub(crate) decided: Decided,
    hasher: KeyHasher,
    owner: Option<u32>,
    pub(crate) now_ms: u64,
    clock_held: bool,
    problems: Vec<Problem>,
}

impl fmt::Debug for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inspection({})", self.storage.place())
    }
}

/// A place that does not read as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// The place, in bytes from the file's start.
    pub offset: u64,
    /// The fault at that place.
    pub what: String,
    /// The key of the record, if it still reads.
    pub key: Option<Box<OwnedKey>>,
}

impl Problem {
    fn at(location: Location, what: impl Into<String>) -> Self {
        let file = file_name(location.slot());
        Problem { file, offset: location.offset(), what: what.into(), key: None }
    }

    /// The problem of a damaged frame that a segment lists, and that is copied as it is.
    pub(crate) fn unreadable(segment: &Segment, entry: &FooterEntry) -> Self {
        let location = Location::new(segment.slot.number, entry.offset);
        Problem::at(location, "the record does not read back")
    }

    fn of(error: OpenError) -> Self {
        let what = error.to_string();
        let (file, offset, what) = match error {
            OpenError::Damaged { file, offset, what } => (file, offset, what.to_owned()),
            OpenError::Missing { file } => (file, 0, "the file is missing".to_owned()),
            OpenError::Foreign { file } => {
                (file, 0, "the file belongs to another store or place".to_owned())
            }
            OpenError::Newer { file, found, .. } => {
                (file, 0, format!("the file has format {found}, which is not known here"))
            }
            _ => (String::new(), 0, what),
        };
        Problem { file, offset, what, key: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{} at byte {}: ", self.file, self.offset)?;
        }
        f.write_str(&self.what)?;
        match &self.key {
            Some(key) => write!(f, " (key {key:?})"),
            None => Ok(()),
        }
    }
}

/// The figures of a directory. Sizes are in bytes, times in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The directory.
    pub place: String,
    /// Version of the format.
    pub format: u32,
    /// The random number that identifies the store.
    pub store: u64,
    /// How often it has been opened.
    pub life: u32,
    /// The present or last opening created the store.
    pub created: bool,
    /// The process that has it open, as far as the operating system shows.
    pub owner: Option<u32>,
    /// The durability of the last opening; `None` if the superblock doesn't have it.
    pub durability: Option<Durability>,
    /// Tokens below this number may have been given out.
    pub token_limit: u64,
    /// The store's time, as an opening at this moment would have it.
    pub now_ms: u64,
    /// Such an opening would not believe the wall clock, because it is too far ahead.
    pub clock_held: bool,
    /// The bound on jumps of the clock, in milliseconds, that the store was opened with the last
    /// time; 0 if it isn't known.
    pub jump_max_ms: u64,
    /// Keys that are held by a running store.
    pub in_flight: u64,
    /// Keys that are interrupted, or will be when the store is opened.
    pub interrupted: u64,
    /// The same by the reason.
    pub interrupted_by: ByReason,
    /// Records, including expired ones whose segment has not been swept.
    pub records: u64,
    /// The times of completion of the oldest and the newest record.
    pub oldest_newest_ms: Option<(u64, u64)>,
    /// Size of the claims file, and how many claims fit into it if each takes one cell.
    pub claims_bytes: u64,
    /// See `claims_bytes`.
    pub claims_max: u64,
    /// Cells of the claims file that a loss of power has torn while they were stored to. None of
    /// them had been promised to survive it; the next opening frees them.
    pub torn_claims: u64,
    /// Whether the last opening ended with an orderly close.
    pub closed: bool,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Segments that exist.
    pub segments: u64,
    /// Free segments.
    pub segments_free: u64,
    /// Segments without a footer: being filled, or left so by a crash.
    pub segments_open: u64,
    /// Bytes that segments take on the disk.
    pub segment_bytes: u64,
    /// Bytes of them that hold records.
    pub record_bytes: u64,
    /// The size of the largest record, or of the largest that an undecided key may become: as far
    /// as the files show, another key needs as much.
    pub space_largest: u64,
    /// Bytes that further records may take in the segments. `space_largest` bytes at the end of
    /// each segment are not counted.
    pub space_free: u64,
    /// The bytes of it that are promised to the keys in flight; more than `space_free` if the store
    /// would have to grow for it.
    pub space_promised: u64,
    /// Damage that was found without reading all records: see [`Inspection::verify`].
    pub problems: Vec<Problem>,
}

impl Inspection {
    /// Reads the store in directory `path`.
    ///
    /// # Errors
    /// [`OpenError::NoStore`] if there is none, and errors that make opening it impossible: no
    /// superblock that reads, a newer format. Other damage is in [`problems`](Self::problems).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::at(path.as_ref(), None)
    }

    /// Reads of the store in directory `path` what is about one key: no longer than it takes to read
    /// the claims and the lists of the segments. Only keys that share its hash (usually none) are seen
    /// beside it, and counted in [`info`](Self::info); problems of other keys are not looked for.
    ///
    /// # Errors
    /// As with [`open`](Self::open).
    pub fn open_key(path: impl AsRef<Path>, key: KeyRef<'_>) -> Result<Self, OpenError> {
        Self::at(path.as_ref(), Some(key))
    }

    fn at(path: &Path, only: Option<KeyRef<'_>>) -> Result<Self, OpenError> {
        let storage = DiskStorage::open_read_only(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                OpenError::NoStore { place: path.display().to_string() }
            }
            _ => OpenError::io(format!("opening the directory {}", path.display()))(error),
        })?;
        let owner = storage.locked_by();
        Self::of(Arc::new(storage), None, Arc::new(SystemClock), owner, only)
    }

    /// Reads the store in `storage`, at the time of `clock`. `owner`: the process that has
    /// it open; without one every undecided key is interrupted.
    pub fn open_on(
        storage: Arc<dyn Storage>,
        clock: impl Clock,
        owner: Option<u32>,
    ) -> Result<Self, OpenError> {
        Self::of(storage, None, Arc::new(clock), owner, None)
    }

    /// Reads like [`open_on`](Self::open_on), and like [`open_key`](Self::open_key) of one key only.
    pub fn open_key_on(
        storage: Arc<dyn Storage>,
        clock: impl Clock,
        owner: Option<u32>,
        key: KeyRef<'_>,
    ) -> Result<Self, OpenError> {
        Self::of(storage, None, Arc::new(clock), owner, Some(key))
    }

    /// Returns the decisions that operators have taken, oldest first: all whose files are there. How
    /// long they are kept is an option of the service.
    ///
    /// # Errors
    /// [`OpenError::Io`] if a file can't be read.
    pub fn decisions(&self) -> Result<Vec<Decision>, OpenError> {
        let doing = format!("reading the decisions of {}", self.storage.place());
        decisions::read_all(&*self.storage, self.info().store, 0).map_err(OpenError::io(doing))
    }

    /// The same for any storage. `hasher`: of a store that was opened with an unusual one. `only`: of
    /// one key.
    pub(crate) fn of(
        storage: Arc<dyn Storage>,
        hasher: Option<KeyHasher>,
        clock: Arc<dyn Clock>,
        owner: Option<u32>,
        only: Option<KeyRef<'_>>,
    ) -> Result<Self, OpenError> {
        let survey = survey::take(&*storage, hasher, owner.is_some())?;
        // As the store's service would decide. A store that doesn't say is from the time when the
        // bound was 31 days unless it was set.
        const BEFORE_IT_WAS_NOTED_MS: u64 = 31 * 24 * 3_600_000;
        let jump_max = match survey.superblock.jump_max_ms {
            0 => BEFORE_IT_WAS_NOTED_MS,
            known => known,
        };
        let seen = survey.seen_ms.min(TIME_MAX_MS);
        let known = Known { seen: Some(seen), shift_ms: survey.superblock.shift_ms };
        let time = StoreTime::at_open(clock, known, jump_max, AcceptClock::No);
        let (now_ms, clock_held) = (time.now(), time.held);
        let mut inspection = Inspection {
            storage,
            superblock: survey.superblock,
            segments: survey.segments,
            claims_bytes: survey.claims_bytes,
            torn_claims: survey.torn_claims,
            decided: Decided::default(),
            hasher: survey.hasher,
            owner,
            now_ms,
            clock_held,
            problems: survey.problems.into_iter().map(Problem::of).collect(),
        };
        let only = only.map(|key| inspection.hasher.hash(key));
        inspection.decide(survey.claims, only);
        Ok(inspection)
    }

    /// The faults found so far.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The store's figures.
    pub fn info(&self) -> Info {
        let sum = |of: &dyn Fn(&Segment) -> u64| self.segments.iter().map(of).sum::<u64>();
        let mut interrupted_by = ByReason::default();
        let reasons = self.decided.undecided.iter().filter_map(|claim| self.interruption(claim));
        reasons.for_each(|(reason, _)| interrupted_by.add(reason));
        let interrupted = interrupted_by.iter().map(|(_, keys)| keys).sum();
        let promise = |claim: &Undecided| claim_bytes(claim.found.reserve);
        let records = self.segments.iter().flat_map(|segment| segment.entries());
        let records = records.map(|entry| u64::from(entry.len));
        let largest = records.chain(self.decided.undecided.iter().map(promise)).max().unwrap_or(0);
        let held = self.decided.undecided.iter().filter(|claim| !self.is_interrupted(claim));
        Info {
            place: self.storage.place(),
            format: FORMAT_VERSION,
            store: self.superblock.store,
            life: self.superblock.life,
            created: self.superblock.life <= 1,
            owner: self.owner,
            durability: Durability::from_code(self.superblock.durability),
            token_limit: self.superblock.token_limit,
            now_ms: self.shown(self.now_ms),
            clock_held: self.clock_held,
            jump_max_ms: self.superblock.jump_max_ms,
            in_flight: self.decided.undecided.len() as u64 - interrupted,
            interrupted,
            interrupted_by,
            records: (self.decided.records.len() - self.decided.hidden.len()) as u64,
            oldest_newest_ms: self.oldest_newest(),
            claims_bytes: self.claims_bytes,
            claims_max: crate::claims::Cells::claims_in(self.claims_bytes),
            torn_claims: self.torn_claims,
            closed: self.superblock.closed,
            ring_bytes: self.superblock.ring_bytes,
            segments: u64::from(self.superblock.slots),
            segments_free: sum(&|segment| u64::from(segment.summary().is_none())),
            segments_open: sum(&|s| u64::from(s.is_open() && s.summary().is_some())),
            segment_bytes: sum(&|segment| segment.slot.bytes),
            record_bytes: sum(&|s| s.entries().iter().map(|entry| u64::from(entry.len)).sum()),
            space_largest: largest,
            space_free: room_in(&self.segments, largest),
            space_promised: held.map(promise).sum(),
            problems: self.problems.clone(),
        }
    }

    /// When the first record of any segment and the last of any were completed.
    fn oldest_newest(&self) -> Option<(u64, u64)> {
        let first = |segment: &Segment| {
            let mut records = segment.entries().iter().filter(|entry| entry.kind.is_record());
            let frame = records.find_map(|e| segment.frame_at(e.offset).ok()?.frame())?;
            Some(frame.header.time_ms)
        };
        let oldest = self.segments.iter().filter_map(first).min()?;
        let newest = self.segments.iter().map(Segment::newest_ms).max()?;
        Some((self.shown(oldest), self.shown(newest.max(oldest))))
    }

    /// A time of the store's as it is shown.
    fn shown(&self, at_ms: u64) -> u64 {
        shifted(at_ms, self.superblock.shift_ms)
    }
}
