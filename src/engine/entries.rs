//! Looking at keys without claiming them.

use crate::{
    claim::Phase,
    engine::Engine,
    engine::replay::{Lookup, record_of},
    error::{BeginError, StoreError},
    fingerprint::Fingerprint,
    index::Undecided,
    key::{KeyRef, OwnedKey},
    location::Location,
    log::Frame,
    record::{Reason, Record},
    spi::{Found, Interruption, Running},
    token::Token,
};
use std::{sync::Arc, time::Duration};

/// A key, and what is known of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The key and its scope.
    pub key: OwnedKey,
    /// The fingerprint of the request that claimed the key first.
    pub fingerprint: Fingerprint,
    /// The token of its last attempt.
    pub token: Token,
    /// Attempts made; 0 if an operator decided without one.
    pub attempts: u32,
    /// The key's state.
    pub state: State,
}

/// The state of a key that is not absent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// A holder executes the operation.
    InFlight {
        /// How long the attempt has been running.
        running_for: Duration,
        /// The last checkpoint.
        checkpoint: Option<Arc<[u8]>>,
    },
    /// It is not known whether the operation took effect.
    Interrupted {
        /// Why the attempt was interrupted.
        reason: Reason,
        /// When it was interrupted, in milliseconds since 1970.
        at: u64,
        /// Whether no holder can be working on it any more.
        holder_gone: bool,
        /// The last checkpoint.
        checkpoint: Option<Arc<[u8]>>,
        /// The answer that a failed holder left.
        answer: Option<Arc<[u8]>>,
    },
    /// The operation took effect.
    Completed(Record),
}

impl Entry {
    /// As a `begin` at the time `now_ms`, as times are shown, would find it.
    pub(crate) fn found(self, now_ms: u64) -> Found {
        let token = self.token;
        match self.state {
            State::InFlight { running_for, .. } => Found::InFlight(Running { token, running_for }),
            State::Completed(record) => Found::Replay(record),
            State::Interrupted { reason, at, holder_gone, checkpoint, answer } => {
                Found::Interrupted(Interruption {
                    token,
                    reason,
                    holder_gone,
                    attempts: self.attempts,
                    checkpoint,
                    answer,
                    settle_after: Duration::ZERO,
                    interrupted_for: Duration::from_millis(now_ms.saturating_sub(at)),
                })
            }
        }
    }
}

/// The states of keys to list. The default lists all keys.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Filter {
    /// Lists keys in flight.
    pub in_flight: bool,
    /// Lists interrupted keys.
    pub interrupted: bool,
    /// Lists completed keys.
    pub completed: bool,
}

impl Filter {
    /// All keys.
    pub const ALL: Filter = Filter { in_flight: true, interrupted: true, completed: true };
    /// Keys that are being executed.
    pub const IN_FLIGHT: Filter = Filter { interrupted: false, completed: false, ..Filter::ALL };
    /// Keys that need a decision.
    pub const INTERRUPTED: Filter = Filter { in_flight: false, completed: false, ..Filter::ALL };
    /// Keys with a record.
    pub const COMPLETED: Filter = Filter { in_flight: false, interrupted: false, ..Filter::ALL };

    pub(crate) fn wants(&self, state: &State) -> bool {
        match state {
            State::InFlight { .. } => self.in_flight,
            State::Interrupted { .. } => self.interrupted,
            State::Completed(_) => self.completed,
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Filter::ALL
    }
}

impl Engine {
    /// Looks a key up, durable or not.
    pub fn get(&self, key: KeyRef<'_>) -> Result<Option<Entry>, BeginError> {
        self.check_open()?;
        let hash = self.index.hash(key);
        let mut shard = self.index.shard(hash);
        self.end_replacing(&mut shard, Some(hash));
        // The time is asked for only where there is something to judge.
        if let Some(at) = shard.find(hash, key) {
            let undecided = shard.undecided.get(at).expect("found under this lock");
            if let Some(entry) = self.undecided_entry(undecided, self.now()) {
                return Ok(Some(entry));
            }
        }
        for location in shard.candidates(hash) {
            let now = self.now();
            match self.look_locked(location, key, now) {
                Lookup::Here(frame) => return Ok(Some(self.completed_entry(frame, location, now))),
                Lookup::Damaged => {
                    let (segment, offset) = (location.slot(), location.offset());
                    return Err(BeginError::Damaged { segment, offset });
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn undecided_entry(&self, undecided: &Undecided, now: u64) -> Option<Entry> {
        let held = &undecided.held;
        if held.expired(now, self.interrupted_ms(undecided.terms.remember_ms)) {
            return None;
        }
        let checkpoint = undecided.checkpoint.clone();
        let state = match held.phase_at(now) {
            // A failure that isn't durable yet is in flight to others.
            Phase::Interrupted { .. } if self.settling(undecided).is_some() => State::InFlight {
                running_for: Duration::from_millis(now.saturating_sub(held.started_ms)),
                checkpoint,
            },
            Phase::InFlight { .. } => State::InFlight {
                running_for: Duration::from_millis(now.saturating_sub(held.started_ms)),
                checkpoint,
            },
            Phase::Interrupted { reason, at } => State::Interrupted {
                reason,
                at: self.time.shown(at),
                holder_gone: !held.holder_lives,
                checkpoint,
                answer: self.answer_bytes(undecided),
            },
        };
        let key = undecided.key.clone();
        let (fingerprint, token, attempts) = (held.fingerprint, held.token, held.attempt);
        Some(Entry { key, fingerprint, token, attempts, state })
    }

    /// The attempt before the one that holds a key, if that was a takeover of this life: its number,
    /// why and when it was interrupted, and the answer that its failed holder had left.
    #[cfg(any(feature = "admin", feature = "metrics"))]
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub fn before_takeover(&self, key: KeyRef<'_>) -> Option<(u32, Reason, u64, Option<Vec<u8>>)> {
        let hash = self.index.hash(key);
        let shard = self.index.shard(hash);
        let undecided = shard.undecided.get(shard.find(hash, key)?)?;
        let before = undecided.before.as_ref()?;
        let Phase::Interrupted { reason, at } = before.phase else { return None };
        let answer = before.answer.as_ref().and_then(|answer| self.kept_answer(answer));
        Some((before.attempt, reason, self.time.shown(at), answer.map(|bytes| bytes.to_vec())))
    }

    /// A record that isn't visible yet is in flight to others.
    fn completed_entry(&self, frame: Frame, location: Location, now: u64) -> Entry {
        let key = frame.key().owned();
        let token = Token::new(frame.header.token).expect("checked when it was read");
        let (fingerprint, attempts) = (frame.header.fingerprint, frame.header.attempt);
        let state = if self.is_visible(location) {
            State::Completed(record_of(frame, now, self.time.shift_ms))
        } else {
            State::InFlight { running_for: Duration::ZERO, checkpoint: None }
        };
        Entry { key, fingerprint, token, attempts, state }
    }

    /// The undecided keys of one shard that `filter` wants, as of one moment. Reads no log: what
    /// is being completed is not among them.
    #[cfg(any(feature = "admin", feature = "metrics"))]
    pub fn undecided_of_shard(&self, shard: usize, filter: &Filter) -> Vec<Entry> {
        let shard = self.index.shard(shard as u64);
        let now = self.now();
        let entries = shard.undecided.iter().filter_map(|(_, u)| self.undecided_entry(u, now));
        entries.filter(|entry| filter.wants(&entry.state)).collect()
    }

    /// The keys with this hash: usually one, or none.
    #[cfg(any(feature = "admin", feature = "metrics"))]
    pub fn with_hash(&self, hash: u64) -> Vec<Entry> {
        let mut shard = self.index.shard(hash);
        self.end_replacing(&mut shard, Some(hash));
        let now = self.now();
        let undecided = shard.undecided.iter().filter(|(_, u)| u.hash == hash);
        let mut entries: Vec<_> =
            undecided.filter_map(|(_, u)| self.undecided_entry(u, now)).collect();
        for location in shard.candidates(hash) {
            let Some(frame) = self.log.read(location) else { continue };
            let live = frame.header.kind.is_record() && frame.header.expires_ms > now;
            if live && self.index.hash(frame.key()) == hash {
                entries.push(self.completed_entry(frame, location, now));
            }
        }
        entries
    }

    /// The keys of one shard, each once, as of one moment. What its lock protects is copied; the
    /// log is read without it.
    pub fn entries_of_shard(
        &self,
        shard: usize,
        filter: &Filter,
    ) -> Vec<Result<Entry, StoreError>> {
        if let Err(error) = self.check_open() {
            return vec![Err(error.into())];
        }
        let (now, mut entries, locations) = {
            let mut shard = self.index.shard(shard as u64);
            self.end_replacing(&mut shard, None);
            let now = self.now();
            let undecided = shard.undecided.iter();
            let undecided = undecided.filter_map(|(_, u)| self.undecided_entry(u, now));
            let entries: Vec<_> = undecided.map(Ok).collect();
            let locations: Vec<_> = match filter.completed || filter.in_flight {
                true => shard.locations().map(|l| (l, self.log.epoch(l.slot()))).collect(),
                false => Vec::new(),
            };
            (now, entries, locations)
        };
        for (location, epoch) in locations {
            match self.listed(shard, location, epoch) {
                Ok(Some(frame)) if frame.header.expires_ms > now => {
                    entries.push(Ok(self.completed_entry(frame, location, now)));
                }
                Ok(_) => {}
                Err(damaged) => entries.push(Err(damaged)),
            }
        }
        entries
            .retain(|entry| entry.as_ref().is_ok_and(|e| filter.wants(&e.state)) || entry.is_err());
        entries
    }

    /// The record that the index named in this epoch of its segment. `None`: it has expired, and
    /// been swept; what is stored there now doesn't belong to the listing of this shard.
    pub fn listed(
        &self,
        shard: usize,
        location: Location,
        epoch: Option<u32>,
    ) -> Result<Option<Frame>, StoreError> {
        let read = self.log.read(location);
        if self.log.epoch(location.slot()) != epoch {
            return Ok(None);
        }
        if read.is_some() {
            return Ok(read);
        }
        // Again under the lock, which no sweep passes: what doesn't read back then is damage.
        let shard = self.index.shard(shard as u64);
        if !shard.locations().any(|known| known == location) {
            return Ok(None);
        }
        let read = self.log.read(location);
        if self.log.epoch(location.slot()) != epoch
            || read.is_none() && self.log.is_erased(location)
        {
            return Ok(None);
        }
        let (segment, offset) = (location.slot(), location.offset());
        read.map(Some).ok_or(StoreError::Damaged { segment, offset })
    }
}
