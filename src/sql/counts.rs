//! What a store on a table has done and found, counted and told by events, as the statements' own
//! answers say it.
//!
//! The events are those of the embedded store. A key is written as its hash under a secret of the
//! table's, the same in all processes.

use super::op::OwnedOp;
use crate::{
    error::{BeginError, ClaimError},
    key::{KeyRef, OwnedKey},
    observe::{Timings, events},
    spi::{Abandon, Found, Ticket},
    stats::{Count, Counters},
    token::Token,
};
use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// What a store on a table has done and found since it was opened, by this process. Of all that use
/// the table it is the sum over their processes.
///
/// Each count is also an event, as `docs/operations.md` lists them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Claims granted on keys that were absent.
    pub granted: u64,
    /// Claims granted by takeover.
    pub taken_over: u64,
    /// Answers from records.
    pub replayed: u64,
    /// Answers that another caller executes.
    pub saw_in_flight: u64,
    /// Answers that the key is interrupted.
    pub saw_interrupted: u64,
    /// Keys used for another request. An alarm: a client may be at fault.
    pub mismatched: u64,
    /// Keys of which all attempts were interrupted. An alarm: an operator must decide.
    pub exhausted: u64,
    /// Completions, those of transactions included.
    pub completed: u64,
    /// Failures with an unknown outcome.
    pub failed: u64,
    /// Releases.
    pub released: u64,
    /// Takeovers that were undone.
    pub undone: u64,
    /// Claims undone because their caller was gone, or had given up, before they reached it.
    pub undelivered: u64,
    /// Claims dropped undecided.
    pub abandoned: u64,
    /// Calls of holders that no longer held their key. An alarm: two attempts may have taken effect.
    pub fenced: u64,
    /// Interrupted keys that were forgotten unresolved: found so by a new claim, or by the sweeper.
    /// An alarm: a retry executes again.
    pub interrupted_expired: u64,
    /// Claims granted on keys whose record had expired and was still there. An alarm: retries come
    /// later than the retention allows for.
    pub began_after_expiry: u64,
    /// Claims refused for lack of space on the server.
    pub refused_full: u64,
    /// Rows that this process's sweeper has removed.
    pub rows_swept: u64,
    /// Rows whose removal it has put off: they were due later than their claim had said.
    pub rows_postponed: u64,
}

/// The counters of a store.
#[derive(Debug)]
pub(crate) struct Counting {
    counters: Counters,
    /// Times, and the last alarms with their keys, for those that watch.
    pub timings: Timings,
    /// Rows removed and postponed.
    swept: [AtomicU64; 2],
    secret: OnceLock<[u8; 32]>,
}

impl Counting {
    pub fn new() -> Self {
        Counting {
            counters: Counters::new(),
            timings: Default::default(),
            swept: Default::default(),
            secret: OnceLock::new(),
        }
    }

    /// The table's secret, once it is known.
    pub fn hash_under(&self, secret: &str) {
        let _ = self
            .secret
            .set(blake3::derive_key("onlyonce 2026-11 keys in events", secret.as_bytes()));
    }

    pub fn hash(&self, key: KeyRef<'_>) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(self.secret.get().unwrap_or(&[0; 32]));
        hasher.update(&[key.scope().len() as u8]).update(key.scope()).update(key.key());
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
    }

    /// Counts, and tells, what has become of a key.
    pub fn count(&self, key: &OwnedKey, count: Count, token: Option<Token>) {
        let hash = self.hash(key.as_ref());
        self.counters.add(hash, count);
        events::alarm(count, hash, token);
        if matches!(
            count,
            Count::Fenced
                | Count::Exhausted
                | Count::InterruptedExpired
                | Count::BeganAfterExpiry
                | Count::Mismatched
        ) {
            self.timings.alarm(count, hash, key.as_ref(), token, wall_ms);
        }
    }

    /// Counts the rows that the sweeper has removed, and those that it has put off.
    pub fn removed(&self, gone: u64, later: u64) {
        self.swept[0].fetch_add(gone, Ordering::Relaxed);
        self.swept[1].fetch_add(later, Ordering::Relaxed);
    }

    /// Counts keys that the sweeper has found: only their number is known.
    pub fn swept(&self, interrupted: u64) {
        for _ in 0..interrupted {
            self.counters.add(0, Count::InterruptedExpired);
        }
        if interrupted > 0 {
            events::interrupted_expired(interrupted);
        }
    }

    /// The answer to a caller, counted.
    pub fn found(
        &self,
        key: &OwnedKey,
        found: Result<Found, BeginError>,
    ) -> Result<Found, BeginError> {
        match &found {
            Ok(Found::Granted(grant)) => {
                let count = match grant.after {
                    Some(_) => Count::TakenOver,
                    None => Count::Granted,
                };
                self.count(key, count, Some(grant.ticket.token));
            }
            Ok(Found::Replay(record)) => self.count(key, Count::Replayed, Some(record.token())),
            Ok(Found::InFlight(_)) => self.count(key, Count::SawInFlight, None),
            Ok(Found::Interrupted(stuck)) => {
                self.count(key, Count::SawInterrupted, Some(stuck.token));
            }
            Ok(Found::Mismatch { .. }) => self.count(key, Count::Mismatched, None),
            Err(BeginError::AttemptsExhausted { .. }) => self.count(key, Count::Exhausted, None),
            Err(BeginError::StoreFull(_)) => self.count(key, Count::RefusedFull, None),
            Err(_) => {}
        }
        found
    }

    /// The state of the expired row whose place a granted claim has taken; 0: there was none.
    pub fn replaced(&self, key: &OwnedKey, state: i32, token: Option<Token>) {
        let count = match state {
            1 | 2 => Count::InterruptedExpired,
            3 => Count::BeganAfterExpiry,
            _ => return,
        };
        self.count(key, count, token);
    }

    /// A claim that was dropped in its transaction, or never reached its caller: it is rolled back.
    pub fn rolled_back(&self, ticket: &Ticket, how: Abandon) {
        let count = match how {
            Abandon::Undelivered => Count::Undelivered,
            _ => Count::Abandoned,
        };
        self.count(&ticket.key, count, Some(ticket.token));
    }

    /// A holder's call that has an answer; `done` is what is counted if it was done.
    pub fn wrote(&self, ticket: &Ticket, done: Option<Count>, answer: &Result<(), ClaimError>) {
        let count = match answer {
            Ok(()) => done,
            Err(ClaimError::Fenced) => Some(Count::Fenced),
            Err(_) => None,
        };
        if let Some(count) = count {
            self.count(&ticket.key, count, Some(ticket.token));
        }
    }

    /// The counts, as the figures of any store.
    #[cfg(any(feature = "metrics", feature = "admin"))]
    pub fn stats(&self) -> crate::stats::Stats {
        let counts = self.counts();
        crate::stats::Stats {
            granted: counts.granted,
            taken_over: counts.taken_over,
            replayed: counts.replayed,
            saw_in_flight: counts.saw_in_flight,
            saw_interrupted: counts.saw_interrupted,
            mismatched: counts.mismatched,
            completed: counts.completed,
            failed: counts.failed,
            released: counts.released,
            undone: counts.undone,
            undelivered: counts.undelivered,
            exhausted: counts.exhausted,
            fenced: counts.fenced,
            abandoned: counts.abandoned,
            interrupted_expired: counts.interrupted_expired,
            began_after_expiry: counts.began_after_expiry,
            refused_full: counts.refused_full,
            ..Default::default()
        }
    }

    pub fn counts(&self) -> Counts {
        let get = |count| self.counters.get(count);
        Counts {
            granted: get(Count::Granted),
            taken_over: get(Count::TakenOver),
            replayed: get(Count::Replayed),
            saw_in_flight: get(Count::SawInFlight),
            saw_interrupted: get(Count::SawInterrupted),
            mismatched: get(Count::Mismatched),
            exhausted: get(Count::Exhausted),
            completed: get(Count::Completed),
            failed: get(Count::Failed),
            released: get(Count::Released),
            undone: get(Count::Undone),
            undelivered: get(Count::Undelivered),
            abandoned: get(Count::Abandoned),
            fenced: get(Count::Fenced),
            interrupted_expired: get(Count::InterruptedExpired),
            began_after_expiry: get(Count::BeganAfterExpiry),
            refused_full: get(Count::RefusedFull),
            rows_swept: self.swept[0].load(Ordering::Relaxed),
            rows_postponed: self.swept[1].load(Ordering::Relaxed),
        }
    }
}

/// The time of this machine, in milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| since.as_millis() as u64)
}

/// What is counted when it is done.
pub(crate) fn counted(op: &OwnedOp) -> Option<Count> {
    match op {
        OwnedOp::Complete { .. } => Some(Count::Completed),
        OwnedOp::Fail(_) => Some(Count::Failed),
        OwnedOp::Release => Some(Count::Released),
        OwnedOp::Undo => Some(Count::Undone),
        _ => None,
    }
}
