//! The options of a store, with their units, defaults and bounds. They are checked once, at open.

use crate::{
    clock::{AcceptClock, Clock, SystemClock},
    error::OpenError,
    limits::*,
    log::largest_frame,
    record::Retention,
};
use std::{sync::Arc, time::Duration};

/// When a call returns, and what of it survives which crash.
///
/// Decides how much of a call that has returned survives:
///
/// | | panic, dropped future | kill -9, abort | power loss, kernel crash |
/// |---|---|---|---|
/// | completion, checkpoint; `Synced` or `SyncedCompletions` | kept | kept | kept |
/// | completion, checkpoint; `Buffered` | kept | kept | the last `max_delay` may be lost |
/// | claim; `Synced` | Interrupted | Interrupted | Interrupted |
/// | claim; otherwise | Interrupted | Interrupted | may be absent: a retry may execute again |
/// | release; `Synced` | kept | kept | kept |
/// | release; otherwise | kept | kept | may return as Interrupted, never as Completed |
///
/// A takeover counts as a claim, and the answer that `fail` keeps as a completion. Others see a
/// completion (and that answer) only when it survives what this setting says. A claim is seen as in
/// flight at once, also while it is being synced, and a released key can be granted again before
/// its release is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Claims, takeovers, checkpoints, completions and releases are on stable storage before the
    /// call returns. One sync covers all callers that wait for it.
    #[default]
    Synced,
    /// Completions, failures and checkpoints are on stable storage before the call returns; claims
    /// and releases are written without waiting for the disk. Choose it if the effect is itself
    /// idempotent, by `derive_key` or a unique column, or make single claims durable with
    /// `ensure_durable`.
    SyncedCompletions,
    /// Everything is in the kernel's hands when the call returns, and on the disk at most
    /// `max_delay` later, plus what a sync takes longer than half of it.
    Buffered {
        /// The longest time that an acknowledged write may be missing from the disk: 1 ms to an
        /// hour. Completions wait when the disk falls behind it; other calls don't.
        max_delay: Duration,
    },
}

impl Durability {
    /// The setting as the superblock stores it: 1 `Synced`, 2 `SyncedCompletions`, 3 `Buffered`
    /// with the milliseconds above the lowest byte.
    pub(crate) fn code(self) -> u32 {
        match self {
            Durability::Synced => 1,
            Durability::SyncedCompletions => 2,
            Durability::Buffered { max_delay } => 3 | (max_delay.as_millis() as u32) << 8,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        match code & 0xff {
            1 => Some(Durability::Synced),
            2 => Some(Durability::SyncedCompletions),
            3 => {
                let max_delay = Duration::from_millis(u64::from(code >> 8));
                Some(Durability::Buffered { max_delay })
            }
            _ => None,
        }
    }
}

/// The reaction of an opening to damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Refuses to open, and names file and place. Nothing is changed. (The bodies of sealed records
    /// are not read at open. A key whose record turns out to be damaged later gets
    /// [`BeginError::Damaged`](crate::BeginError::Damaged).)
    #[default]
    Strict,
    /// Opens with what can be read. Keys whose record is known to be damaged get
    /// [`BeginError::Damaged`](crate::BeginError::Damaged). Records in a missing file, or in a
    /// damaged part whose keys can't be read, are lost: their keys can be claimed again.
    Salvage,
}

/// The options with which a store is opened.
///
/// Each method names its unit, its default and its bounds. [`open`](Options::open) checks them.
/// All of them may change between two openings, except the size of the ring, which is fixed at
/// creation; `max_claims` and `segment_bytes` never make what exists smaller.
///
/// ```no_run
/// use onlyonce::{Durability, Options};
/// use std::time::Duration;
/// let store = Options::new()
///     .durability(Durability::Synced)
///     .retention(Duration::from_secs(7 * 24 * 3600))
///     .open("./idempotency")?;
/// # Ok::<(), onlyonce::OpenError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    pub(crate) create: bool,
    pub(crate) wait_for_owner: Duration,
    pub(crate) durability: Durability,
    pub(crate) recovery: Recovery,
    pub(crate) lease: Duration,
    pub(crate) retention: Retention,
    pub(crate) interrupted_retention: Option<Duration>,
    pub(crate) decisions_kept: Duration,
    pub(crate) execution_limit: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) max_response: usize,
    pub(crate) max_claims: u32,
    pub(crate) capacity: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) ring_bytes: Option<u64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) clock_jump_max: Option<Duration>,
    pub(crate) accept_clock: AcceptClock,
    pub(crate) background: bool,
    pub(crate) hash_bits: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            create: true,
            wait_for_owner: Duration::ZERO,
            durability: Durability::default(),
            recovery: Recovery::default(),
            lease: Duration::from_secs(60),
            retention: Retention::of(Duration::from_secs(24 * 3600)),
            interrupted_retention: None,
            decisions_kept: Duration::from_secs(366 * 24 * 3600),
            execution_limit: Duration::from_secs(15 * 60),
            max_attempts: 5,
            max_response: 256 << 10,
            max_claims: 16 << 10,
            capacity: 8 << 30,
            segment_bytes: SEGMENT_BYTES_MAX,
            ring_bytes: None,
            clock: Arc::new(SystemClock),
            clock_jump_max: None,
            accept_clock: AcceptClock::No,
            background: true,
            hash_bits: 64,
        }
    }
}

impl Options {
    /// Returns the options with their defaults, which are named at each method.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether a store that doesn't exist is created. Default: yes.
    ///
    /// If not, a directory that is missing, is empty or holds no store is refused with
    /// [`OpenError::NoStore`], and nothing is created, not even the directory. Use this at every
    /// start of a service but its first: otherwise a volume that isn't mounted, or a mistyped path,
    /// becomes a new store, which knows no key, so that every retry executes again.
    /// [`Stats::created`](crate::Stats::created) says what an opening did.
    ///
    /// ```no_run
    /// use onlyonce::{OpenError, Options};
    /// # let first_start = false;
    /// let store = match Options::new().create(first_start).open("./idempotency") {
    ///     Err(OpenError::NoStore { place }) => panic!("{place} is empty: is its volume mounted?"),
    ///     opened => opened?,
    /// };
    /// # Ok::<(), OpenError>(())
    /// ```
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets how long an opening waits for a directory that is open elsewhere to be closed. Default:
    /// not at all; [`OpenError::InUse`] names the process then, and after this time.
    ///
    /// For deployments that start the new process before the old one has ended: the new one opens
    /// within a tenth of a second after the old one has closed its store, or has died. Blocks its
    /// thread for so long.
    pub fn wait_for_owner(mut self, at_most: Duration) -> Self {
        self.wait_for_owner = at_most;
        self
    }

    /// Sets what survives which crash. Default: [`Durability::Synced`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets what an opening does about damage. Default: [`Recovery::Strict`].
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Sets how long a holder may be silent. Default: 60 s; 1 ms to 30 days.
    ///
    /// [`Once`](crate::Once) and the HTTP layer keep the claim for
    /// [`execution_limit`](Self::execution_limit) by themselves, which is at least as long: the
    /// lease matters to claims that are taken by [`begin`](crate::Store::begin).
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long completed records are kept. Default: 24 h for both windows; at least the
    /// lease, at most ten years.
    pub fn retention(mut self, retention: impl Into<Retention>) -> Self {
        self.retention = retention.into();
        self
    }

    /// Sets how long an interrupted key is kept for a decision, after which it is forgotten and a
    /// retry executes again. Default: the longer of the claim's retention and seven days; 1 ms to
    /// ten years.
    pub fn interrupted_retention(mut self, window: Duration) -> Self {
        self.interrupted_retention = Some(window);
        self
    }

    /// Sets how long operators' decisions are kept, see [`decisions`](crate::decisions): a time of
    /// their own, whatever becomes of their keys. Default: 366 days; at most ten years; zero: they
    /// are not shown, and their files are removed when the next one is begun.
    pub fn decisions_kept(mut self, window: Duration) -> Self {
        self.decisions_kept = window;
        self
    }

    /// Sets how long [`Once`](crate::Once) and the HTTP layer keep a claim alive by themselves.
    /// Default: 15 min; from the lease to 30 days.
    pub fn execution_limit(mut self, limit: Duration) -> Self {
        self.execution_limit = limit;
        self
    }

    /// Sets how many attempts at one key `take_over` grants, the first included. Only attempts that
    /// may have had an effect count, not those that were released or undone. Default: 5; at least
    /// 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the size of the largest response in bytes, head included. Default: 256 KiB; at most
    /// [`RESPONSE_BYTES_MAX`], a little less than 16 MiB (four of the largest records fit a segment
    /// of 64 MiB), and a little less than a quarter of the ring that the store was created with.
    /// Each claim reserves this much unless its [`Terms::reserve`](crate::Terms::reserve) says
    /// otherwise.
    pub fn max_response(mut self, bytes: usize) -> Self {
        self.max_response = bytes;
        self
    }

    /// Sets how many keys can be undecided at a time, interrupted ones included (rounded up to
    /// whole pages). Default: 16,384; 1 to 4,194,304. Each takes 256 bytes of disk (more with a
    /// long key or a checkpoint). A tenth is added, at least 72 cells of 256 bytes (48 in the
    /// smallest files): of a full file a 32nd is left for takeovers and a 16th for checkpoints.
    ///
    /// A store whose claims file is smaller gets a larger one when it is opened. If the disk has no
    /// room for that, or the system refuses it, the store opens as it was; if the file is larger,
    /// it stays so. Either is an event, and `Stats::claims_max` says what is in force.
    pub fn max_claims(mut self, claims: u32) -> Self {
        self.max_claims = claims;
        self
    }

    /// Sets how many bytes segments may take on the disk. Default: 8 GiB; at least one segment,
    /// which has 1 MiB and room for four of the largest responses. Segments are created when they
    /// are needed, used again, and never removed.
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// Sets the size of the largest segments in bytes. Default: 64 MiB, which is also the maximum;
    /// it is raised to what four of the largest records take.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Sets the size of the ring in bytes. Default: 4 MiB, or what four of the largest records
    /// take; at most 1 GiB. The ring of an existing store grows to what is set here, and to what four
    /// of the largest records take, when the store is opened; it never shrinks.
    pub fn ring_bytes(mut self, bytes: u64) -> Self {
        self.ring_bytes = Some(bytes);
        self
    }

    /// Sets the clock. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets how far the wall clock may be ahead of the last time that the store has seen, at open,
    /// to be believed. If it is further ahead, time continues from the last time seen, so that
    /// nothing expires early; see [`Options::accept_clock`] and `Stats::clock_held`.
    ///
    /// Default: half the store's `remember_for`, but 10 minutes to 31 days; 12 hours with the
    /// default retention. So a clock that is ahead at one opening never takes more than half of a
    /// record's time (a claim's or completion's own, shorter retention has no such bound). The
    /// price is that a store that was really closed for longer, over a weekend perhaps, is held
    /// too: its records live longer by the time it was closed, and take their space for as long,
    /// until an operator accepts the clock. That does no harm, while a record that expires early
    /// lets its operation execute a second time. A new store believes any clock at its first
    /// opening.
    pub fn clock_jump_max(mut self, jump: Duration) -> Self {
        self.clock_jump_max = Some(jump);
        self
    }

    /// Sets whether this opening believes a wall clock that is beyond [`Options::clock_jump_max`],
    /// and what becomes of the windows of the keys in the store. Store time never goes back. This
    /// is for one opening, by an operator who has looked at the clock: left in place, it would
    /// accept the next wrong one. Default: [`AcceptClock::No`].
    pub fn accept_clock(mut self, accept: AcceptClock) -> Self {
        self.accept_clock = accept;
        self
    }

    /// Sets whether the store has threads of its own. Without them it does its housekeeping when
    /// [`Store::housekeep`](crate::Store::housekeep) is called, and async callers lead their own
    /// commits (blocking their thread): for simulation. Default: true.
    #[doc(hidden)]
    pub fn background(mut self, threads: bool) -> Self {
        self.background = threads;
        self
    }

    /// Uses only this many bits of a key's hash, so that tests can force collisions.
    #[doc(hidden)]
    pub fn hash_bits(mut self, bits: u32) -> Self {
        self.hash_bits = bits.min(64);
        self
    }

    /// The bound on jumps of the clock.
    pub(crate) fn jump_max_ms(&self) -> u64 {
        const LEAST: Duration = Duration::from_secs(600);
        const MOST: Duration = Duration::from_secs(31 * 24 * 3600);
        let half = || (self.retention.remember_for / 2).clamp(LEAST, MOST);
        let jump = self.clock_jump_max.unwrap_or_else(half);
        u64::try_from(jump.as_millis()).unwrap_or(u64::MAX)
    }

    /// Checks the options against each other and resolves the sizes.
    pub(crate) fn check(&self) -> Result<Sizes, OpenError> {
        let ms = |d: Duration| d.as_millis().min(u64::MAX as u128) as u64;
        let lease = ms(self.lease);
        if !(1..=LEASE_MAX_MS).contains(&lease) {
            return Err(OpenError::options(lease_out_of_bounds(self.lease)));
        }
        check_retention(self.retention, lease).map_err(OpenError::options)?;
        if let Some(window) = self.interrupted_retention
            && !(1..=RETENTION_MAX_MS).contains(&ms(window))
        {
            return Err(OpenError::options("interrupted_retention must be 1 ms to ten years"));
        }
        if ms(self.decisions_kept) > RETENTION_MAX_MS {
            return Err(OpenError::options("decisions_kept must be at most ten years"));
        }
        if self.execution_limit < self.lease {
            return Err(OpenError::options(format!(
                "execution_limit must be at least the lease: it is {:?}, the lease is {:?}",
                self.execution_limit, self.lease
            )));
        }
        if ms(self.execution_limit) > LEASE_MAX_MS {
            return Err(OpenError::options("execution_limit must be at most 30 days"));
        }
        if self.max_attempts == 0 || self.max_claims == 0 || self.max_claims > 1 << 22 {
            return Err(OpenError::options(
                "max_attempts must be 1 or more, max_claims 1 to 4,194,304",
            ));
        }
        if let Durability::Buffered { max_delay } = self.durability
            && !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&max_delay)
        {
            return Err(OpenError::options(
                "max_delay must be 1 ms to an hour; with Synced there is none",
            ));
        }
        if self.max_response > RESPONSE_BYTES_MAX {
            return Err(OpenError::options(format!(
                "max_response must be at most {RESPONSE_BYTES_MAX} bytes (RESPONSE_BYTES_MAX), a \
                 little less than 16 MiB",
            )));
        }
        self.sizes()
    }

    fn sizes(&self) -> Result<Sizes, OpenError> {
        let frame_max = largest_frame(self.max_response.max(HEAD_BYTES_MAX)) as u64;
        let four = four_frames(frame_max);
        let wanted = self.segment_bytes.max(four);
        if wanted > SEGMENT_BYTES_MAX {
            return Err(OpenError::options(format!(
                "segment_bytes must be at most {SEGMENT_BYTES_MAX}, which is 64 MiB",
            )));
        }
        let segment_max = wanted.next_multiple_of(4096);
        let segment_min = four.max(MIB).min(segment_max);
        if self.capacity < segment_min {
            return Err(OpenError::options(format!(
                "the capacity must be at least one segment, {segment_min} bytes with this \
                 max_response, and it is {}",
                self.capacity
            )));
        }
        let ring = self.ring_bytes.unwrap_or(4 * MIB).max(four);
        if ring > RING_BYTES_MAX {
            return Err(OpenError::options("ring_bytes must be at most 1 GiB"));
        }
        let ring = ring.next_multiple_of(4096);
        let ring_asked = self.ring_bytes.unwrap_or(0);
        let cells = self.max_claims;
        Ok(Sizes { frame_max, segment_min, segment_max, ring, ring_asked, cells })
    }
}

/// Four of the largest frames, with room for header and footer.
pub(crate) const fn four_frames(frame_max: u64) -> u64 {
    (4 * frame_max + 8192).next_multiple_of(64 << 10)
}

// The largest response that is accepted is the largest that fits.
const _: () = assert!(four_frames(largest_frame(RESPONSE_BYTES_MAX) as u64) <= SEGMENT_BYTES_MAX);
const _: () =
    assert!(four_frames(largest_frame(RESPONSE_BYTES_MAX + 1) as u64) > SEGMENT_BYTES_MAX);

/// Sizes that follow from the options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub frame_max: u64,
    pub segment_min: u64,
    pub segment_max: u64,
    pub ring: u64,
    /// What the options say of it; 0 if they say nothing.
    pub ring_asked: u64,
    pub cells: u32,
}

/// The rule for every retention, of a store, a claim or a completion.
pub(crate) fn check_retention(retention: Retention, lease_ms: u64) -> Result<(), String> {
    let Retention { replay_for, remember_for } = retention;
    let (replay, remember) = (replay_for.as_millis(), remember_for.as_millis());
    if replay < 1 {
        return Err(format!("a retention must be at least 1 ms, and replay_for is {replay_for:?}"));
    }
    if replay < u128::from(lease_ms) {
        let lease = Duration::from_millis(lease_ms);
        return Err(format!(
            "a retention must be at least the lease: replay_for is {replay_for:?}, the lease is \
             {lease:?}"
        ));
    }
    if remember < replay {
        return Err(format!(
            "remember_for must be at least replay_for: it is {remember_for:?}, and replay_for is \
             {replay_for:?}"
        ));
    }
    if remember > u128::from(RETENTION_MAX_MS) {
        let most = Duration::from_millis(RETENTION_MAX_MS);
        return Err(format!(
            "a retention is at most ten years ({most:?}), and remember_for is {remember_for:?}"
        ));
    }
    Ok(())
}

/// The message for a lease that is out of bounds.
pub(crate) fn lease_out_of_bounds(lease: Duration) -> String {
    format!("a lease is 1 ms to 30 days, and this one is {lease:?}")
}

/// The message for a reserve that no response of the store takes.
pub(crate) fn reserve_too_large(reserve: u32, max_response: usize) -> String {
    format!("reserve is {reserve} bytes, more than max_response, which is {max_response}")
}
