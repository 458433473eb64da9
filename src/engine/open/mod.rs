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

mod claims;
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
    limits::COUNT_MAX,
    log::{Log, Shared, Slots, Space},
    observe::{Timings, events},
    options::{Options, Recovery, Sizes},
    poison::{Poison, Poisoned},
    recover::{
        Begun, Read, begun_of, create,
        decide::{Decided, Undecided},
        segments::Segment,
        starts_of,
    },
    stats::{Counters, Holders},
    storage::{Region, Storage},
    superblock::{Superblock, SuperblockFile},
    sync::wait::{Event, Notifier},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    wheel::TimingWheel,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

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

/// An opening that has read everything.
struct Opening<'a> {
    options: &'a Options,
    sizes: Sizes,
    storage: Arc<dyn Storage>,
    file: SuperblockFile,
    superblock: Superblock,
    hasher: KeyHasher,
    read: Read,
}

/// The life that begins.
struct Life {
    time: StoreTime,
    first_token: u64,
    superblock: Superblock,
}

impl Opening<'_> {
    fn finish(mut self) -> Result<Arc<Engine>, OpenError> {
        let mut life = self.next_life()?;
        let mut index = Index::new(self.hasher, life.time.now());
        let salvage = self.options.recovery == Recovery::Salvage;
        let Decided { undecided, outlived } = self.read.decide(&mut index, salvage)?;

        // From here on it is written.
        self.settle(&undecided, &mut life.superblock)?;
        let ring = self.read.ring.map_mut().map_err(OpenError::io("mapping the ring"))?;
        let (place, superblock) = (self.storage.place(), life.superblock);
        let engine = Arc::new(self.engine(life, index, ring)?);
        let poisoned = |_: Poisoned| OpenError::Io {
            doing: format!("recovering {place}"),
            source: Arc::new(std::io::Error::other(engine.poison.why().unwrap_or_default())),
        };
        outlived::opened(engine.id, &engine);
        engine.adopt_claims(undecided).map_err(poisoned)?;
        let begun = engine.superblock.lock().0.write(&superblock);
        begun.map_err(OpenError::io(format!("beginning a new life in {place}")))?;
        // Records that have expired while the store was closed make room before the first call.
        engine.expire(engine.now());
        engine.keep().map_err(poisoned)?;
        engine.bury_outlived(outlived).map_err(poisoned)?;
        if cfg!(debug_assertions) {
            engine.assert_one_truth();
        }
        Ok(engine)
    }

    fn next_life(&self) -> Result<Life, OpenError> {
        let Opening { options, superblock, read, .. } = self;
        let seen = read.seen_ms(superblock);
        let known = Known { seen: (seen > 0).then_some(seen), shift_ms: superblock.shift_ms };
        let jump_max = options.jump_max_ms();
        let time = StoreTime::at_open(options.clock.clone(), known, jump_max, options.accept_clock);
        let used = superblock.token_limit.max(read.claims.above_all_tokens());
        if used > superblock.token_limit && options.recovery != Recovery::Salvage {
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
            ..*superblock
        };
        Ok(Life { time, first_token, superblock: next })
    }

    /// Ends the last life: what was read is made durable, and the claims file and the ring get their
    /// sizes.
    fn settle(&mut self, alive: &[Undecided], next: &mut Superblock) -> Result<(), OpenError> {
        let Opening { storage, superblock, read, sizes, .. } = self;
        let place = storage.place();
        let io = |doing: &str| OpenError::io(format!("{doing} in {place}"));
        // The old life ends as the new one will: before anything is stored through a map, the
        // superblock says that a loss of power may tear it.
        let ending = Superblock {
            number: next.number,
            durability: next.durability,
            closed: false,
            ..*superblock
        };
        if ending.leaves_torn_claims() && !superblock.leaves_torn_claims() {
            self.file.write(&ending).map_err(io("ending the last life"))?;
            next.number = ending.next_number();
        }
        in_order(&read.segments)
            .try_for_each(|segment| segment.settle(superblock.life))
            .map_err(io("writing a segment again"))?;
        read.claims.rewrite(alive).map_err(io("writing the claims file again"))?;
        let grown = read.claims.grow(&**storage, superblock, sizes.cells);
        grown.map_err(io("enlarging the claims file"))?;
        read.grow_ring(&**storage, superblock, sizes)?;
        next.ring_bytes = read.ring.size();
        Ok(())
    }

    /// The engine of the new life, without its undecided keys.
    fn engine(self, life: Life, index: Index, ring: Region) -> Result<Engine, OpenError> {
        let Life { time, first_token, superblock: next } = life;
        let Opening { options, sizes, storage, file, superblock, read, .. } = self;
        let config = Config::new(options, sizes);
        let notifiers = Notifiers::default();
        // Where claims wait too, their group commit and the main one take turns.
        let turn = config.syncs_claims().then(|| Arc::new(Turn::new()));
        let group = |notifier: &Arc<Notifier>| GroupCommit::new(notifier.clone(), turn.clone());
        let poison = Arc::new(Poison::default());
        let timings: Timings = Default::default();
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
        let cells = read.claims.open(
            &superblock,
            config.syncs_claims(),
            poison.clone(),
            timings.clone(),
            group(&notifiers.claims),
        )?;
        let engine = Engine {
            id: superblock.store,
            config,
            index,
            log,
            cells,
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
            erasing: Mutex::new(()),
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
        for segment in in_order(&read.segments) {
            let begun = begun.iter().find(|begun| begun.slot.number == segment.slot.number);
            engine.adopt_segment(segment, begun);
        }
        Ok(engine)
    }
}

/// By where they begin in the log: one that is sealed says that all before it is durable.
fn in_order(segments: &[Segment]) -> impl Iterator<Item = &Segment> {
    let mut in_order: Vec<&Segment> = segments.iter().collect();
    in_order.sort_by_key(|segment| segment.since().map(|since| since.base));
    in_order.into_iter()
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

#[cfg(all(test, not(onlyonce_loom)))]
mod tests;
