//! Opening a store.
//!
//! 1. Lock the directory; read the superblock (or create a store).
//! 2. Read the claims file, the ring, and of each segment its footer, or, where there is none,
//!    everything. **Nothing has been written until here**: a failed open changes nothing.
//! 3. Decide: what was never promised is passed over, what was promised and doesn't read is
//!    damage. Of two claims on one key, and of a claim and a record, the higher token wins.
//! 4. Write again what isn't proven durable, in its own place, and sync it: the page cache may
//!    hold what the disk never got. Seal what the last life left open. Write the claims file
//!    again.
//! 5. Begin a new life in the superblock: from then on every segment of an earlier life has a
//!    footer, and one without is damaged. Answer.
//!
//! Each step may be repeated after a crash in it: rewriting puts the same bytes into the same
//! places, and a segment that was sealed is read by its footer the next time.

pub(crate) mod claims;
mod create;
mod records;
pub(crate) mod segments;
mod truth;

use crate::{
    broken::{self, Broken},
    clock::{Known, StoreTime},
    decisions::Journal,
    engine::outlived,
    engine::tokens::{self, Tokens},
    engine::{Config, Engine, Expiring, Notifiers},
    error::OpenError,
    group_commit::{GroupCommit, Turn},
    index::{Index, KeyHasher},
    limits::{CLASSES, COUNT_MAX, RESUMED_BASE_MAX, TIME_MAX_MS},
    log::{DATA_START, FIRST_POSITION, FOOTER_ENTRY_BYTES, Log, Shared, Slot, Slots, Space},
    observe::{Timings, events},
    options::{Options, Recovery, Sizes},
    poison::{Poison, Poisoned},
    stats::{Counters, Holders},
    storage::{Storage, StorageFile},
    superblock::{Superblock, SuperblockFile},
    sync::wait::{Event, Notifier},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    wheel::TimingWheel,
};
pub(crate) use create::create_ring;
use records::Frames;
use segments::{Care, Segment};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) const CLAIMS_FILE: &str = "claims";
pub(crate) const RING_FILE: &str = "ring";

/// The directory of an open store: its exclusive use ends when this is dropped.
pub(crate) type DirectoryLock = Box<dyn Send + Sync>;

/// Opens the store in `storage`.
pub(crate) fn open(
    options: &Options,
    storage: Arc<dyn Storage>,
) -> Result<(Arc<Engine>, DirectoryLock), OpenError> {
    let started = Instant::now();
    let sizes = options.check()?;
    let lock = lock(&*storage, options.wait_for_owner)?;
    let (file, superblock) = match SuperblockFile::open(&*storage)? {
        Some(found) => found,
        None if options.create => create::create(&*storage, &sizes)?,
        None => {
            create::check_absent(&*storage)?;
            return Err(OpenError::NoStore { place: storage.place() });
        }
    };
    if superblock.life >= COUNT_MAX {
        let error = std::io::Error::other(format!(
            "it has been opened {COUNT_MAX} times, the most that is counted; export its keys, and \
             import them into a new store"
        ));
        return Err(OpenError::io(format!("beginning a new life in {}", storage.place()))(error));
    }
    let salvage = options.recovery == Recovery::Salvage;
    let hasher = KeyHasher::new(superblock.hash_seed, options.hash_bits);
    let read = Read::all(&*storage, &superblock, &sizes, hasher, salvage)?;
    let engine = Opening { options, sizes, storage, file, superblock, hasher, read }.finish()?;
    engine.opened(started.elapsed().as_millis() as u64);
    Ok((engine, lock))
}

/// Everything that was read before the first write.
struct Read {
    claims: claims::ClaimsFile,
    ring: Arc<dyn StorageFile>,
    segments: Vec<Segment>,
    damaged_places: u64,
}

impl Read {
    fn all(
        storage: &dyn Storage,
        superblock: &Superblock,
        sizes: &Sizes,
        hasher: KeyHasher,
        salvage: bool,
    ) -> Result<Self, OpenError> {
        let claims = claims::read(storage, superblock, sizes, salvage)?;
        let (ring, ring_bytes) = create::open_ring(storage, superblock, sizes, salvage)?;
        let hints = |life, class| claims.durable_hint(superblock, life, class);
        let care = if salvage { Care::Salvage } else { Care::Strict };
        let reader = segments::Reader { storage, superblock, hasher, care };
        let (segments, damaged) = reader.read_all(&ring_bytes, hints)?;
        // A ring that had to be created again is one too.
        let new_ring = u64::from(ring_bytes.is_empty());
        let damaged_places = damaged.len() as u64 + claims.damaged_places + new_ring;
        Ok(Read { claims, ring, segments, damaged_places })
    }
}

/// Steps 3 and 4, with all that they need in hand.
struct Opening<'a> {
    options: &'a Options,
    sizes: Sizes,
    storage: Arc<dyn Storage>,
    file: SuperblockFile,
    superblock: Superblock,
    hasher: KeyHasher,
    read: Read,
}

impl Opening<'_> {
    fn finish(self) -> Result<Arc<Engine>, OpenError> {
        let Opening { options, sizes, storage, file, superblock, hasher, mut read } = self;
        let salvage = options.recovery == Recovery::Salvage;
        let newest = read.segments.iter().map(|s| s.newest_ms()).max().unwrap_or(0);
        let hinted = read.claims.time_hint(&superblock);
        let seen = newest.max(read.claims.newest_ms()).max(superblock.time_ms).max(hinted);
        let seen = seen.min(TIME_MAX_MS);
        let jump_max = options.jump_max_ms();
        let clock = options.clock.clone();
        let seen = (seen > 0).then_some(seen);
        let known = Known { seen, shift_ms: superblock.shift_ms };
        let time = StoreTime::at_open(clock, known, jump_max, options.accept_clock);

        let used = superblock.token_limit.max(read.claims.above_all_tokens());
        if used > superblock.token_limit && !salvage {
            // It is a superblock of another time, or the claims are.
            return Err(OpenError::Damaged {
                file: crate::superblock::FILE.into(),
                offset: 0,
                what: "a claim has a token that the superblock doesn't allow",
            });
        }
        let first_token = Tokens::first(used, time.clock().wall_ms());
        let next = Superblock {
            number: superblock.next_number(),
            life: superblock.life + 1,
            token_limit: match broken::is(Broken::TokensNotDurable) {
                true => superblock.token_limit,
                false => tokens::limit_from(first_token),
            },
            time_ms: superblock.time_ms.max(time.now()),
            durability: options.durability.code(),
            closed: false,
            shift_ms: time.shift_ms,
            jump_max_ms: jump_max,
            ..superblock
        };
        let config = Config::new(options, sizes);
        let shadowed = config.syncs_claims();
        let notifiers = Notifiers::default();
        // Where claims wait too, their group commit and the main one take turns.
        let turn = shadowed.then(|| Arc::new(Turn::new()));
        let group = |notifier: &Arc<Notifier>| GroupCommit::new(notifier.clone(), turn.clone());
        let poison = Arc::new(Poison::default());
        let timings: Timings = Default::default();
        let index = Index::new(hasher, time.now());
        let slots = Slots::new();
        read.segments.iter().for_each(|segment| slots.add(segment.slot.clone()));
        let shared = Shared {
            life: next.life,
            frame_max: sizes.frame_max,
            buffered: config.max_delay_ms().is_some(),
            space: Space::default(),
            poison: poison.clone(),
            timings: timings.clone(),
        };
        let ring = read.ring.map_mut().map_err(OpenError::io("mapping the ring"))?;
        let begun = begun_of(&read.segments, sizes.frame_max);
        let log = Log::new(
            shared,
            slots,
            starts_of(&begun),
            ring,
            group(&notifiers.commit),
            notifiers.drain.clone(),
            notifiers.classes.clone(),
        );
        let mut engine = Engine {
            id: superblock.store,
            config,
            index,
            log,
            cells: read.claims.open(
                &superblock,
                shadowed,
                poison.clone(),
                timings.clone(),
                group(&notifiers.claims),
            )?,
            tokens: Tokens::new(first_token, tokens::limit_from(first_token)),
            poison,
            counters: Counters::new(),
            timings,
            superblock: Mutex::new((file, next)),
            decisions: Journal::default(),
            resources: Event::new(),
            starved: AtomicBool::new(false),
            lacking: Mutex::default(),
            full_since: AtomicU64::new(0),
            wanted_space: AtomicU64::new(0),
            to_seal: Mutex::default(),
            expiring: Mutex::new(Expiring { wheel: TimingWheel::new(time.now()), due: vec![] }),
            timeouts: Mutex::new(TimingWheel::new(time.now())),
            keeping: Mutex::new(()),
            rolling: Mutex::new(()),
            copying: AtomicU32::new(0),
            holders: Holders::new(),
            shares: Default::default(),
            handle_gone: Event::new(),
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            told: AtomicBool::new(false),
            time_noted: AtomicU64::new(time.now()),
            damaged_places: read.damaged_places,
            torn_claims: read.claims.torn(),
            recovery_ms: AtomicU64::new(0),
            time,
            storage,
            notifiers,
        };
        let frames = Frames { segments: &read.segments, salvage };
        let claimed = read.claims.hashes(&engine.index);
        let mut decisions = records::index(&mut engine.index, &frames, &claimed)?;
        let claims::Decided { kept, outlived: gone } =
            engine.decide_claims(&read.claims, &frames, &mut decisions)?;
        engine.damaged_places += decisions.damaged;

        // From here on it is written.
        let place = engine.storage.place();
        let io = |doing: &str| OpenError::io(format!("{doing} in {place}"));
        // The old life ends as the new one will: before anything is stored through a map, the
        // superblock says that a loss of power may tear it.
        let mut next = next;
        let ending = Superblock {
            number: next.number,
            durability: next.durability,
            closed: false,
            ..superblock
        };
        if ending.leaves_torn_claims() && !superblock.leaves_torn_claims() {
            engine.superblock.lock().0.write(&ending).map_err(io("ending the last life"))?;
            next.number = ending.next_number();
            engine.superblock.lock().1 = next;
        }
        // By where they begin in the log: one that is sealed says that all before it is durable.
        let mut in_order: Vec<&Segment> = read.segments.iter().collect();
        in_order.sort_by_key(|segment| segment.since().map(|since| since.base));
        for segment in in_order {
            segment.settle(superblock.life).map_err(io("writing a segment again"))?;
            let begun = begun.iter().find(|begun| begun.slot.number == segment.slot.number);
            engine.adopt_segment(segment, begun);
        }
        read.claims.rewrite(&kept).map_err(io("writing the claims file again"))?;
        let grown = read.claims.grow(&*engine.storage, &superblock, sizes.cells);
        if grown.map_err(io("enlarging the claims file"))? {
            let (poison, timings) = (engine.poison.clone(), engine.timings.clone());
            let group = group(&engine.notifiers.claims);
            engine.cells = read.claims.open(&superblock, shadowed, poison, timings, group)?;
        }
        let engine = Arc::new(engine);
        let poisoned = |_: Poisoned| OpenError::Io {
            doing: format!("recovering {place}"),
            source: Arc::new(std::io::Error::other(engine.poison.why().unwrap_or_default())),
        };
        outlived::opened(engine.id, &engine);
        engine.adopt_claims(kept).map_err(poisoned)?;
        engine.superblock.lock().0.write(&next).map_err(io("beginning a new life"))?;
        // Records that have expired while the store was closed make room before the first call.
        engine.expire(engine.now());
        engine.keep().map_err(poisoned)?;
        engine.bury_outlived(gone).map_err(poisoned)?;
        if cfg!(debug_assertions) {
            engine.assert_one_truth();
        }
        Ok(engine)
    }
}

/// A segment that the new life continues to fill.
struct Begun {
    slot: Arc<Slot>,
    class: u8,
    /// The position at which its frames end.
    end: u64,
    /// The room it has left, as the account of free space counts it.
    room: i64,
}

/// Of each class the newest segment that has room for the largest record of today's options.
fn begun_of(segments: &[Segment], frame_max: u64) -> Vec<Begun> {
    let mut newest: BTreeMap<u8, ((u32, u64), Begun)> = BTreeMap::new();
    for segment in segments {
        let (Some(since), Some(summary)) = (segment.since(), segment.summary()) else {
            continue;
        };
        let slot = segment.slot.clone();
        let footer = segment.entries().len() * FOOTER_ENTRY_BYTES;
        let used = (summary.data_end - DATA_START) as i64 + footer as i64;
        let room = slot.usable(frame_max) - used;
        let age = (since.life.max(summary.life), since.base);
        let newer = newest.get(&since.class).is_none_or(|(known, _)| *known < age);
        if room > 0 && since.base <= RESUMED_BASE_MAX && newer {
            let end = since.base + summary.data_end;
            newest.insert(since.class, (age, Begun { slot, class: since.class, end, room }));
        }
    }
    newest.into_values().map(|(_, begun)| begun).collect()
}

/// How many bytes records may take in the segments that exist, if the largest frame is not larger.
pub(crate) fn room_in(segments: &[Segment], frame_max: u64) -> u64 {
    let free = segments.iter().filter(|segment| segment.summary().is_none());
    let free = free.map(|segment| segment.slot.usable(frame_max));
    let begun = begun_of(segments, frame_max);
    let room = free.chain(begun.iter().map(|begun| begun.room));
    room.map(|bytes| bytes.max(0) as u64).sum()
}

/// Where the positions of each class begin.
fn starts_of(begun: &[Begun]) -> [u64; CLASSES] {
    let mut starts = [FIRST_POSITION; CLASSES];
    begun.iter().for_each(|begun| starts[usize::from(begun.class)] = begun.end);
    starts
}

/// Takes the right to a directory; waits for its present owner. There is no call that waits for a
/// lock with an end, so it is asked for again and again.
fn lock(storage: &dyn Storage, at_most: Duration) -> Result<DirectoryLock, OpenError> {
    const PAUSE: Duration = Duration::from_millis(50);
    let (since, mut told) = (Instant::now(), false);
    loop {
        let error = match storage.lock() {
            Ok(lock) => return Ok(lock),
            Err(error) => error,
        };
        if error.kind() != std::io::ErrorKind::WouldBlock {
            return Err(OpenError::io(format!("locking {}", storage.place()))(error));
        }
        let left = at_most.saturating_sub(since.elapsed());
        let owner = storage.locked_by();
        if left.is_zero() {
            return Err(OpenError::InUse { place: storage.place(), owner });
        }
        if !std::mem::replace(&mut told, true) {
            events::waits_for_owner(&storage.place(), owner);
        }
        std::thread::sleep(PAUSE.min(left));
    }
}

impl Engine {
    /// Says what an opening found.
    fn opened(&self, took_ms: u64) {
        self.recovery_ms.store(took_ms, Ordering::Relaxed);
        let stats = self.stats();
        events::opened(
            &self.storage.place(),
            &events::Opened {
                life: stats.life,
                records: stats.records,
                interrupted: stats.interrupted,
                segments: stats.segments,
                took_ms,
            },
        );
        if stats.created {
            events::store_created(&self.storage.place());
        }
        if stats.damaged_places > 0 {
            events::salvaged(stats.damaged_places);
        }
        if stats.torn_claims > 0 {
            events::torn(stats.torn_claims);
        }
        if stats.clock_held {
            events::clock_held(stats.now_ms);
        }
    }

    /// A segment joins: to the pool if it is empty, else to those that wait for their expiry.
    fn adopt_segment(&self, segment: &Segment, begun: Option<&Begun>) {
        match segment.summary() {
            None => {
                let usable = segment.slot.usable(self.config.sizes.frame_max);
                self.log.shared.space.give(segment.slot.clone(), usable);
            }
            Some(summary) => {
                let (class, base) =
                    segment.since().map_or((0, 0), |since| (since.class, since.base));
                segment.slot.recovered(&summary, class, base);
                if let Some(begun) = begun {
                    self.log.shared.space.give_begun(begun.slot.clone(), begun.room);
                }
                self.expires_at(segment.slot.number, summary.drop_ms);
            }
        }
    }
}

/// How many threads read segments, or fill the index.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(8)
}

/// Whether a name is one of a store's files.
pub(crate) fn is_store_file(name: &str) -> bool {
    name == CLAIMS_FILE || name == RING_FILE || name.starts_with("segment-")
}

/// Reads a file in pieces; those that can't be read stay as they are, and are returned by their
/// offsets.
pub(crate) fn read_pieces(file: &dyn StorageFile, into: &mut [u8]) -> Vec<(u64, std::io::Error)> {
    const PIECE: usize = 4096;
    let mut failed = Vec::new();
    for (number, piece) in into.chunks_mut(PIECE).enumerate() {
        let offset = (number * PIECE) as u64;
        if let Err(error) = file.read_at(offset, piece) {
            piece.fill(0);
            failed.push((offset, error));
        }
    }
    failed
}

/// Bytes of a file, by read calls.
fn read_file(file: &dyn StorageFile, name: &str) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(0, &mut bytes).map_err(OpenError::io(format!("reading {name}")))?;
    Ok(bytes)
}

#[cfg(all(test, not(onlyonce_loom)))]
mod tests;
