//! The claim state machine: how a key that is held or interrupted reacts to each event. Pure: no
//! lock, no clock, no disk; time is an argument.
//!
//! Absent and Completed are not here: a key without a [`Held`] is one or the other, and the
//! engine's steps find out which. Completing is not here either: a completion is appended in the
//! same step that ends the `Held`, and from then on is a record whose position is not yet durable.

use crate::{
    broken::{self, Broken},
    fingerprint::Fingerprint,
    record::Reason,
    token::Token,
};

/// An undecided key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    pub token: Token,
    pub fingerprint: Fingerprint,
    /// Attempts made, this one included.
    pub attempt: u32,
    /// When this attempt began.
    pub started_ms: u64,
    pub lease_ms: u64,
    pub phase: Phase,
    /// A handle of this token still exists.
    pub holder_lives: bool,
    /// Taken over, or checkpointed, at least once: a release no longer frees the key.
    pub history: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Phase {
    /// Held until `lease_until`, unless renewed.
    InFlight {
        lease_until: u64,
    },
    Interrupted {
        reason: Reason,
        at: u64,
    },
}

/// The state of a key as other callers see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Seen {
    Mismatch,
    InFlight {
        running_ms: u64,
    },
    Interrupted {
        reason: Reason,
        holder_gone: bool,
    },
    /// Interrupted for longer than such keys are kept.
    Expired,
}

/// Why a takeover isn't granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NoTakeover {
    /// The key is no longer in the state that the caller saw: begin again.
    Changed,
    /// Only an operator can end the key.
    Exhausted { attempts: u32 },
}

/// The key after a release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Released {
    Absent,
    Interrupted,
}

impl Held {
    /// The first attempt at an absent key.
    pub fn first(token: Token, fingerprint: Fingerprint, lease_ms: u64, now: u64) -> Self {
        Held {
            token,
            fingerprint,
            attempt: 1,
            started_ms: now,
            lease_ms,
            phase: Phase::InFlight { lease_until: now.saturating_add(lease_ms) },
            holder_lives: true,
            history: false,
        }
    }

    /// The phase as of `now`: a lease that has passed is an interruption from that moment on,
    /// whether or not anybody has come by to say so.
    pub fn phase_at(&self, now: u64) -> Phase {
        match self.phase {
            Phase::InFlight { lease_until } if lease_until <= now => {
                Phase::Interrupted { reason: Reason::LeasePassed, at: lease_until }
            }
            phase => phase,
        }
    }

    /// Whether the key has been interrupted for `keep_ms` and no handle keeps it.
    pub fn expired(&self, now: u64, keep_ms: u64) -> bool {
        self.expires_at(now, keep_ms).is_some_and(|at| at <= now)
    }

    /// When an interrupted key is forgotten; `None` while it is in flight or its holder lives.
    pub fn expires_at(&self, now: u64, keep_ms: u64) -> Option<u64> {
        match self.phase_at(now) {
            Phase::Interrupted { at, .. } if !self.holder_lives => Some(at.saturating_add(keep_ms)),
            _ => None,
        }
    }

    /// A caller begins.
    pub fn seen(&self, fingerprint: Fingerprint, now: u64, keep_ms: u64) -> Seen {
        if self.expired(now, keep_ms) {
            return Seen::Expired;
        }
        if fingerprint != self.fingerprint {
            return Seen::Mismatch;
        }
        match self.phase_at(now) {
            Phase::InFlight { .. } => {
                Seen::InFlight { running_ms: now.saturating_sub(self.started_ms) }
            }
            Phase::Interrupted { reason, .. } => {
                Seen::Interrupted { reason, holder_gone: !self.holder_lives }
            }
        }
    }

    /// A caller that has seen the key interrupted under `seen` takes it over, under `token`.
    /// Checkpoint, fingerprint and terms stay.
    pub fn take_over(
        &self,
        seen: Token,
        token: Token,
        attempts_max: u32,
        now: u64,
    ) -> Result<Held, NoTakeover> {
        debug_assert!(token > self.token, "tokens rise for each key");
        if seen != self.token || matches!(self.phase_at(now), Phase::InFlight { .. }) {
            return Err(NoTakeover::Changed);
        }
        if self.attempt >= attempts_max {
            return Err(NoTakeover::Exhausted { attempts: self.attempt });
        }
        Ok(Held {
            token,
            attempt: self.attempt + 1,
            started_ms: now,
            phase: Phase::InFlight { lease_until: now.saturating_add(self.lease_ms) },
            holder_lives: true,
            history: true,
            ..self.clone()
        })
    }

    /// The holder renews its lease, or saves a checkpoint. An interrupted key is in flight again; a
    /// lease that lasts longer stays.
    pub fn renew(&mut self, lease_ms: u64, now: u64) {
        let fresh = now.saturating_add(lease_ms);
        let lease_until = match self.phase_at(now) {
            Phase::InFlight { lease_until } => lease_until.max(fresh),
            Phase::Interrupted { .. } => fresh,
        };
        self.phase = Phase::InFlight { lease_until };
    }

    /// The holder undoes its attempt, not the key's history.
    pub fn release(&mut self, now: u64) -> Released {
        if !self.history || broken::is(Broken::ReleaseErasesHistory) {
            return Released::Absent;
        }
        self.interrupt(Reason::GivenBack, now);
        self.holder_lives = false;
        Released::Interrupted
    }

    /// The takeover that began this attempt is undone: the key is what it was, but for the token.
    /// Its history stays: an earlier attempt may have had an effect.
    pub fn undo(&mut self, attempt: u32, phase: Phase) {
        (self.attempt, self.phase) = (attempt, phase);
        self.holder_lives = false;
    }

    /// No attempt before this one had an effect.
    pub fn clear_history(&mut self) {
        (self.attempt, self.history) = (1, false);
    }

    /// How long the outcome has been unknown.
    pub fn interrupted_ms(&self, now: u64) -> u64 {
        match self.phase_at(now) {
            Phase::Interrupted { at, .. } => now.saturating_sub(at),
            Phase::InFlight { .. } => 0,
        }
    }

    /// The holder ends without knowing the outcome.
    pub fn interrupt(&mut self, reason: Reason, now: u64) {
        self.phase = Phase::Interrupted { reason, at: now };
    }

    /// The handle is gone, undecided. What was interrupted before stays as it was.
    pub fn abandon(&mut self, reason: Reason, now: u64) {
        self.holder_lives = false;
        self.phase = match self.phase_at(now) {
            Phase::InFlight { .. } => Phase::Interrupted { reason, at: now },
            interrupted => interrupted,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: u64 = 1000;

    fn token(n: u64) -> Token {
        Token::new(n).unwrap()
    }

    fn print(part: &str) -> Fingerprint {
        Fingerprint::of([part])
    }

    fn held() -> Held {
        Held::first(token(1), print("a"), 60, 100)
    }

    #[test]
    fn another_fingerprint_is_a_mismatch_in_every_state() {
        let mut held = held();
        assert_eq!(held.seen(print("b"), 110, KEEP), Seen::Mismatch);
        held.abandon(Reason::Dropped, 120);
        assert_eq!(held.seen(print("b"), 130, KEEP), Seen::Mismatch);
    }

    #[test]
    fn a_lease_passes_at_its_first_instant_and_not_before() {
        let held = held();
        assert_eq!(held.seen(print("a"), 159, KEEP), Seen::InFlight { running_ms: 59 });
        let lapsed = Seen::Interrupted { reason: Reason::LeasePassed, holder_gone: false };
        assert_eq!(held.seen(print("a"), 160, KEEP), lapsed);
    }

    #[test]
    fn an_interrupted_key_is_not_forgotten_under_a_living_holder() {
        let mut held = held();
        assert!(!held.expired(1_000_000, KEEP));
        held.abandon(Reason::Dropped, 1_000_000);
        // The interruption was the passing of the lease, not the drop long after.
        assert_eq!(held.phase, Phase::Interrupted { reason: Reason::LeasePassed, at: 160 });
        assert!(held.expired(1_000_000, KEEP));
        assert_eq!(held.seen(print("b"), 1_000_000, KEEP), Seen::Expired);
    }

    #[test]
    fn an_interrupted_key_expires_at_its_first_instant() {
        let mut held = held();
        held.abandon(Reason::Dropped, 110);
        assert!(!held.expired(1109, KEEP));
        assert!(held.expired(1110, KEEP));
    }

    #[test]
    fn takeover_needs_the_token_that_was_seen_and_an_interruption() {
        let mut held = held();
        assert_eq!(held.take_over(token(1), token(2), 5, 110), Err(NoTakeover::Changed));
        held.abandon(Reason::Panicked, 110);
        assert_eq!(held.take_over(token(9), token(10), 5, 111), Err(NoTakeover::Changed));
        let taken = held.take_over(token(1), token(2), 5, 111).unwrap();
        assert_eq!((taken.attempt, taken.token, taken.history), (2, token(2), true));
        assert!(taken.holder_lives && !taken.expired(111 + 60 + KEEP, KEEP));
        assert_eq!(taken.seen(print("a"), 112, KEEP), Seen::InFlight { running_ms: 1 });
    }

    #[test]
    fn attempts_are_bounded() {
        let mut held = held();
        held.abandon(Reason::Crashed, 110);
        let exhausted = NoTakeover::Exhausted { attempts: 1 };
        assert_eq!(held.take_over(token(1), token(2), 1, 111), Err(exhausted));
    }

    #[test]
    fn release_undoes_the_attempt_and_not_the_history() {
        let mut first = held();
        assert_eq!(first.release(110), Released::Absent);
        first.history = true;
        assert_eq!(first.release(110), Released::Interrupted);
        let given = Phase::Interrupted { reason: Reason::GivenBack, at: 110 };
        assert_eq!((first.phase, first.holder_lives), (given, false));
        let mut taken = first.take_over(token(1), token(2), 5, 120).unwrap();
        assert_eq!(taken.release(130), Released::Interrupted);
    }

    #[test]
    fn a_renewal_revives_an_interrupted_claim() {
        let mut held = held();
        assert!(matches!(held.phase_at(200), Phase::Interrupted { .. }));
        held.renew(60, 200);
        assert_eq!(held.phase_at(259), Phase::InFlight { lease_until: 260 });
    }
}
