//! The state of a key that is held or interrupted, in its shard.

use crate::{
    claim::{Held, Phase},
    claims::Chain,
    key::OwnedKey,
    limits::{COUNT_MAX, settle_delay_ms},
    location::Location,
    sync::wait::Queue,
    token::Token,
    wheel::TimerId,
};
use std::{sync::Arc, task::Waker};

/// A key that is held or interrupted.
#[derive(Debug)]
pub(crate) struct Undecided {
    pub hash: u64,
    pub key: OwnedKey,
    pub held: Held,
    pub terms: HeldTerms,
    /// Where it stands in the claims file, and as which version.
    pub chain: Chain,
    pub version: u32,
    /// This attempt was another store's: its first version here is no takeover in this file.
    pub adopted: bool,
    /// Its handle was given out by an earlier opening in this process: that one lives, but can
    /// write nothing here, and no space is promised to it.
    pub earlier: bool,
    pub checkpoint: Option<Arc<[u8]>>,
    /// The answer that a failed holder left.
    pub answer: Option<Answer>,
    /// The state that the takeover by the present attempt found, until it is known that this
    /// attempt counts.
    pub before: Option<Box<Before>>,
    pub unsure: Unsure,
    /// Whether an event has reported that no attempts are left.
    pub exhausted: bool,
    pub waiters: Waiters,
    pub timer: Option<TimerId>,
}

impl Undecided {
    /// Counts another version of it; not if this is the last that there is.
    pub fn next_version(&mut self) -> bool {
        let more = self.version < COUNT_MAX;
        self.version += u32::from(more);
        more
    }

    /// The present attempt may have had an effect: it is not undone any more.
    pub fn attempt_counts(&mut self) {
        (self.before, self.unsure) = (None, Unsure::default());
    }

    /// No handle keeps the key for longer than what the log has of its answer.
    pub fn handle_gone(&mut self) {
        if let Some(answer) = &mut self.answer
            && answer.location.is_some()
        {
            answer.bytes = None;
        }
    }

    /// The earlier attempt whose answer is kept, for the claims file: the log has it under that
    /// one's token.
    pub fn answer_of(&self) -> Option<Token> {
        self.answer.as_ref().map(|answer| answer.token).filter(|token| *token != self.held.token)
    }
}

/// The remains of a key that has been decided: its place is another's already.
#[derive(Debug)]
pub(crate) struct Ended {
    pub hash: u64,
    pub chain: Chain,
    pub waiters: Vec<Waker>,
}

/// An interrupted key as a takeover found it.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    pub phase: Phase,
    pub attempt: u32,
    pub answer: Option<Answer>,
}

/// Takeovers that learned nothing, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unsure {
    pub times: u32,
    /// The last one.
    pub at: u64,
}

impl Unsure {
    pub fn again(&mut self, now: u64) {
        *self = Unsure { times: self.times.saturating_add(1), at: now };
    }

    /// The delay before it should be settled again.
    pub fn rest_ms(&self, now: u64) -> u64 {
        let delay = settle_delay_ms(self.times);
        self.at.saturating_add(delay).saturating_sub(now).min(delay)
    }
}

/// The answer that a failed holder left.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The key.
    pub token: Token,
    /// Its bytes, where the key is kept for longer than what the log has of it: while a handle
    /// lives, and (see [`KEPT_IN_MEMORY`]) after an opening that counts the interruption from itself.
    /// Else they are read when they are asked for.
    pub bytes: Option<Arc<[u8]>>,
    /// Where it stands in the log, in which epoch of its segment; `None` if that was in an earlier
    /// life, so that it is durable, and `bytes` are kept.
    pub location: Option<(Location, Option<u32>)>,
}

/// How many bytes of answers an opening keeps in memory.
pub(crate) const KEPT_IN_MEMORY: usize = 64 << 20;

/// The terms that a claim was granted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldTerms {
    pub replay_ms: u64,
    pub remember_ms: u64,
    /// Largest response, in bytes.
    pub reserve: u32,
}

/// The waiters for a change of an undecided key.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Queue<Waker>);

impl Waiters {
    /// Registers a waker, in the place that `id` names if it is still there. The one that it
    /// replaces is given back, to be dropped under no lock.
    pub fn register(&mut self, id: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        match id.and_then(|id| self.0.get_mut(id)) {
            Some(known) if known.will_wake(waker) => None,
            Some(known) => Some(std::mem::replace(known, waker.clone())),
            None => {
                *id = Some(self.0.push(waker.clone()));
                None
            }
        }
    }

    pub fn remove(&mut self, id: u64) -> Option<Waker> {
        self.0.remove(id)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes everyone out.
    pub fn take(&mut self) -> Vec<Waker> {
        if self.0.is_empty() { Vec::new() } else { self.0.take_all().collect() }
    }
}

/// Keys without a decision, by number; numbers are used again.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    places: Vec<Option<Undecided>>,
    free: Vec<u32>,
}

impl Slab {
    /// Adds a key, which is made in its place: to move one costs more than to make it.
    #[inline]
    pub fn insert(&mut self, make: impl FnOnce() -> Undecided) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() as u32 - 1
        });
        self.places[at as usize].get_or_insert_with(make);
        at
    }

    pub fn get(&self, at: u32) -> Option<&Undecided> {
        self.places.get(at as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, at: u32) -> Option<&mut Undecided> {
        self.places.get_mut(at as usize)?.as_mut()
    }

    /// Takes a key out: the rest of it is dropped in place, because moving it would cost
    /// more than anything else in a completion.
    pub fn end(&mut self, at: u32) -> Option<(Ended, Option<TimerId>)> {
        let place = self.places.get_mut(at as usize)?;
        let undecided = place.as_mut()?;
        let ended = Ended {
            hash: undecided.hash,
            chain: std::mem::take(&mut undecided.chain),
            waiters: undecided.waiters.take(),
        };
        let timer = undecided.timer;
        *place = None;
        self.free.push(at);
        Some((ended, timer))
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Undecided)> {
        let numbered = self.places.iter().enumerate();
        numbered.filter_map(|(at, place)| Some((at as u32, place.as_ref()?)))
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

/// A place in the log, in one use of its segment: `None` is the epoch of a segment that is not
/// there.
pub(crate) type Place = (Location, Option<u32>);

/// A record that an operator has forgotten or replaced. Its entry stays in the index, and others
/// see it, until what ends it is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replacing {
    pub hash: u64,
    pub record: Place,
    /// What ends it.
    pub by: Place,
    /// Whether that is the record that comes in its place; otherwise it is a tombstone.
    pub is_record: bool,
}

/// Space that is promised to handles which have been superseded but still exist.
#[derive(Debug, Default)]
pub(crate) struct Orphans(Vec<(Token, u64)>);

impl Orphans {
    pub fn add(&mut self, token: Token, bytes: u64) {
        self.0.push((token, bytes));
    }

    /// Those that this opening gave out; no space is promised to others.
    pub fn own(&self) -> impl Iterator<Item = Token> {
        self.0.iter().filter(|(_, bytes)| *bytes > 0).map(|(token, _)| *token)
    }

    pub fn take(&mut self, token: Token) -> Option<u64> {
        let at = self.0.iter().position(|(known, _)| *known == token)?;
        Some(self.0.swap_remove(at).1)
    }
}
