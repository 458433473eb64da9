//! Counters, and the figures that a store shows.

use crate::{error::Full, limits::SHARDS, record::ByReason, sync};
use crossbeam_utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// The events that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Granted,
    Replayed,
    SawInFlight,
    SawInterrupted,
    Mismatched,
    TakenOver,
    Completed,
    Failed,
    Released,
    Fenced,
    Abandoned,
    LeasePassed,
    InterruptedExpired,
    BeganAfterExpiry,
    RefusedFull,
    Recycled,
    Late,
    Undone,
    Exhausted,
    RefusedScope,
    Undelivered,
}

const COUNTS: usize = 21;

/// Counters, striped like the index, so that counting doesn't make threads meet.
#[derive(Debug)]
pub(crate) struct Counters(Box<[CachePadded<[AtomicU64; COUNTS]>]>);

impl Counters {
    pub fn new() -> Self {
        let stripe = || CachePadded::new([const { AtomicU64::new(0) }; COUNTS]);
        Counters((0..SHARDS.div_ceil(8)).map(|_| stripe()).collect())
    }

    pub fn add(&self, hash: u64, count: Count) {
        let stripe = &self.0[hash as usize % self.0.len()];
        stripe[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self, count: Count) -> u64 {
        self.0.iter().map(|stripe| stripe[count as usize].load(Ordering::Relaxed)).sum()
    }
}

/// The number of handles of claims, striped like the counters. Sequentially consistent: a thread
/// that ends a handle and then looks for a waiter, and a waiter that registers and then counts, do
/// not miss each other.
#[derive(Debug)]
pub(crate) struct Holders(Box<[CachePadded<sync::atomic::AtomicU64>]>);

impl Holders {
    pub fn new() -> Self {
        let stripe = |_| CachePadded::new(sync::atomic::AtomicU64::new(0));
        Holders((0..SHARDS.div_ceil(8)).map(stripe).collect())
    }

    fn of(&self, hash: u64) -> &sync::atomic::AtomicU64 {
        &self.0[hash as usize % self.0.len()]
    }

    pub fn begun(&self, hash: u64) {
        self.of(hash).fetch_add(1, Ordering::SeqCst);
    }

    /// The handle of a claim on a key with this hash has ended.
    pub fn ended(&self, hash: u64) {
        self.of(hash).fetch_sub(1, Ordering::SeqCst);
    }

    /// Exact if no handle is made during the call.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.load(Ordering::SeqCst)).sum()
    }
}

/// The claims file is nearly used up below this part of it.
pub(crate) const CLAIMS_LOW: u64 = 5;
/// The number of scopes that are named.
pub(crate) const SCOPES_SHOWN: usize = 8;

/// The undecided keys of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeUse {
    /// The scope's hash under a secret of the store, as events have it.
    pub scope: u64,
    /// Keys in flight or interrupted.
    pub undecided: u64,
    /// Those of them that are interrupted.
    pub interrupted: u64,
}

/// Scopes by name, with what they use.
pub(crate) type ScopesByUse = Vec<(Box<[u8]>, ScopeUse)>;

/// The figures of a store at one moment. Counts are since it was opened; sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Keys in flight.
    pub in_flight: u64,
    /// Keys that are interrupted.
    pub interrupted: u64,
    /// The same by the reason. Without one where the keys are in PostgreSQL.
    pub interrupted_by: ByReason,
    /// Records in the index, those included that have expired but not been swept.
    pub records: u64,
    /// How long the oldest key in flight has been held by its present holder, in milliseconds; 0 if
    /// there is none.
    pub oldest_in_flight_ms: u64,
    /// How long the oldest interrupted key has been interrupted, in milliseconds; 0 if there is
    /// none.
    pub oldest_interrupted_ms: u64,
    /// Interrupted keys whose attempts are used up: they stay so until an operator decides.
    pub exhausted_keys: u64,
    /// Handles of claims that exist.
    pub holders: u64,
    /// Callers that wait for a key in flight (not for the sync of its completion).
    pub waiters: u64,

    /// Claims granted at the first attempt.
    pub granted: u64,
    /// Claims granted by takeover.
    pub taken_over: u64,
    /// `begin`s answered by a record, whether or not its response is retained.
    pub replayed: u64,
    /// `begin`s that found the key in flight.
    pub saw_in_flight: u64,
    /// `begin`s that found the key interrupted.
    pub saw_interrupted: u64,
    /// `begin`s with another fingerprint.
    pub mismatched: u64,
    /// Completions.
    pub completed: u64,
    /// Failures with unknown outcome.
    pub failed: u64,
    /// Releases.
    pub released: u64,
    /// Takeovers that were undone, because it wasn't found out what had become of the attempt
    /// before.
    pub undone: u64,
    /// First claims that were undone because their callers were gone before they had them: the
    /// clients of a service hung up. What was granted or taken over is in flight, or ended in one of
    /// `completed`, `failed`, `released`, `undone`, `undelivered`, `abandoned` and `leases_passed`
    /// (a late holder that completes after its lease is in two of them).
    pub undelivered: u64,
    /// Keys whose attempts are used up: only an operator can end them. Counted when a takeover is
    /// refused for it, once for each key and opening.
    pub exhausted: u64,
    /// Holders' calls that were fenced. **An operation may have taken effect twice.**
    pub fenced: u64,
    /// Calls of holders whose claims had outlived a closing of the store. Their effects are not
    /// recorded. **An operation may have taken effect twice.**
    pub late_calls: u64,
    /// Claims dropped undecided while in flight.
    pub abandoned: u64,
    /// Leases that passed with the holder silent.
    pub leases_passed: u64,
    /// Interrupted keys whose retention passed before they were resolved, including those that an
    /// opening found so. **A retry of these executes again.**
    pub interrupted_expired: u64,
    /// Claims granted for a key whose record had expired: is the retention too short?
    pub began_after_expiry: u64,
    /// `begin`s refused because the store was full.
    pub refused_full: u64,
    /// `begin`s refused because their scope had its share: see
    /// [`Terms::shared`](crate::Terms::shared).
    pub refused_scope: u64,
    /// Why no claim of the largest response can be granted: the capacity is used up, the disk has
    /// no room, the system refuses another file (its message), or undecided keys take all cells of
    /// the claims file. `None` if one can be granted.
    pub full: Option<String>,
    /// Of what it is full; `None` if it isn't, or if the system refuses another file for another
    /// reason than room.
    pub full_of: Option<Full>,
    /// Since when the store has been full, in milliseconds since 1970; 0 if it isn't.
    pub full_since_ms: u64,

    /// Segments that exist.
    pub segments: u64,
    /// Segments that are free.
    pub segments_free: u64,
    /// Bytes that segments take.
    pub segment_bytes: u64,
    /// Bytes that segments may take: `Options::capacity`.
    pub capacity: u64,
    /// Bytes of records in segments of which some record has not expired. A segment is free again
    /// when all its records have expired, so some of these bytes may be of expired ones.
    pub bytes_live: u64,
    /// Bytes of records in segments whose records have all expired, and that aren't free yet.
    pub bytes_dead: u64,
    /// Segments that became free again.
    pub segments_recycled: u64,
    /// Bytes neither used nor promised to claims.
    pub space_free: u64,
    /// How many claims of one cell can be undecided at a time: what the claims file has room for,
    /// whatever `Options::max_claims` asks for.
    pub claims_max: u64,
    /// Cells of the claims file that are free.
    pub cells_free: u64,
    /// Less than a fifth of the claims file is left. At a thousand new keys a second that stay
    /// undecided, the rest of the default size lasts three seconds.
    pub claims_low: bool,
    /// The scopes with the most undecided keys, most first, at most eight; empty unless
    /// [`claims_low`](Self::claims_low).
    pub scopes: Vec<ScopeUse>,
    /// Bytes of memory that the index's tables take.
    pub index_bytes: u64,
    /// The duration of the opening, in milliseconds.
    pub recovery_ms: u64,
    /// How often this store has been opened.
    pub life: u32,
    /// This opening created the store: it knows no key from before. A service expects that at its
    /// first start only; see [`Options::create`](crate::Options::create).
    pub created: bool,
    /// The store's time, in milliseconds since 1970, as all times are shown (see `AcceptClock`).
    pub now_ms: u64,
    /// The wall clock was further ahead at open than the options allow, and was not believed.
    pub clock_held: bool,
    /// Damaged places that `Recovery::Salvage` passed over at open.
    pub damaged_places: u64,
    /// Cells of the claims file that a loss of power had torn and that the opening freed: claims
    /// that had not been promised to survive it (never in `Synced`).
    pub torn_claims: u64,
    /// Why the store is poisoned, if it is.
    pub poisoned: Option<String>,
    /// This process was forked after the store was opened. The store is its parent's, and no other
    /// field has a meaning.
    pub forked: bool,
}
