//! The model: what a key is, how it changes with time, and whether a store says the same of it.

use super::*;

#[derive(Clone, Debug, PartialEq)]
pub enum Is {
    Absent,
    Held(Held),
    Done(Done),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// 0: not known yet, the call that gave it was cut short.
    pub token: u64,
    pub other: bool,
    pub attempt: u32,
    pub lease_ms: u64,
    pub retention: Retention,
    pub reserve: usize,
    pub phase: Phase,
    pub lives: bool,
    pub history: bool,
    pub checkpoint: Option<Bytes>,
    pub answer: Option<Bytes>,
    pub withdrawn: Vec<Bytes>,
    /// When it failed: its answer is kept for as long as an interrupted key is.
    pub failed_at: u64,
    /// The time of the interruption has been written down.
    pub noted: bool,
    /// What the takeover by this attempt has found, until the attempt counts.
    pub before: Option<Box<Held>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    InFlight { until: u64 },
    Interrupted { reason: Reason, at: u64 },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub token: u64,
    pub other: bool,
    pub attempt: u32,
    pub head: Bytes,
    pub body: Option<Bytes>,
    pub at: u64,
    pub replay_until: u64,
    pub expires: u64,
}

impl Held {
    pub fn phase_at(&self, now: u64) -> Phase {
        match self.phase {
            Phase::InFlight { until } if until <= now => {
                Phase::Interrupted { reason: Reason::LeasePassed, at: until }
            }
            phase => phase,
        }
    }

    pub fn expired(&self, now: u64) -> bool {
        match self.phase_at(now) {
            Phase::Interrupted { at, .. } => !self.lives && at + INTERRUPTED_MS <= now,
            Phase::InFlight { .. } => false,
        }
    }

    /// The answer of its failure. It is kept as long as an interrupted key is, counted from the
    /// failure: of a key that a holder has kept, or given back later, it may be gone before the key.
    pub fn answer_as_far_as(&self, found: Option<&[u8]>, now: u64) -> Option<&[u8]> {
        let may_be_gone = self.failed_at + INTERRUPTED_MS <= now;
        self.answer.as_deref().filter(|_| found.is_some() || !may_be_gone)
    }

    pub fn renew(&mut self, now: u64) {
        let until = match self.phase_at(now) {
            Phase::InFlight { until } => until.max(now + self.lease_ms),
            Phase::Interrupted { .. } => now + self.lease_ms,
        };
        self.phase = Phase::InFlight { until };
        // Going on withdraws the answer of an earlier failure; after a crash it may be back.
        if let Some(answer) = self.answer.take() {
            self.withdrawn.push(answer);
        }
    }
}

impl Is {
    pub fn at(&self, now: u64) -> Is {
        match self {
            Is::Held(held) if held.expired(now) => Is::Absent,
            Is::Done(done) if done.expires <= now => Is::Absent,
            is => is.clone(),
        }
    }

    pub fn answer(&self) -> Option<(u64, Option<Bytes>)> {
        match self {
            Is::Held(held) => Some((held.token, held.answer.clone())),
            _ => None,
        }
    }

    pub fn held(&self, token: u64) -> Option<&Held> {
        match self {
            Is::Held(held) if held.token == token => Some(held),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct KeyModel {
    pub is: Is,
    /// What a loss of power may bring back instead.
    pub past: Vec<Is>,
    /// What a call that was cut short would have led to.
    pub maybe: Vec<Is>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub setting: Setting,
    pub keys: Vec<KeyModel>,
    pub highest_token: u64,
    pub refused_full: u64,
}

impl Model {
    pub fn new(setting: Setting) -> Self {
        let absent = KeyModel { is: Is::Absent, past: vec![], maybe: vec![] };
        Model { setting, keys: vec![absent; KEYS], highest_token: 0, refused_full: 0 }
    }

    pub fn set(&mut self, key: usize, is: Is, durable: bool) {
        let key = &mut self.keys[key];
        let before = std::mem::replace(&mut key.is, is);
        if durable {
            key.past.clear();
        } else if !key.past.contains(&before) {
            key.past.push(before);
        }
    }

    /// Changes that a crash does not tell apart.
    pub fn adjust(&mut self, key: usize, change: impl FnOnce(&mut Held)) {
        if let Is::Held(held) = &mut self.keys[key].is {
            change(held);
        }
    }

    pub fn token(&mut self, token: u64) {
        assert!(token > self.highest_token, "token {token} was given out before");
        self.highest_token = token;
    }

    pub fn all_durable(&mut self) {
        self.keys.iter_mut().for_each(|key| {
            key.past.clear();
        });
    }
}

pub fn in_flight(held: &Held, now: u64) -> bool {
    matches!(held.phase_at(now), Phase::InFlight { .. })
}

pub fn done(
    held: &Held,
    token: u64,
    head: &[u8],
    body: Option<Vec<u8>>,
    retention: Option<Retention>,
    now: u64,
) -> Done {
    let retention = retention.unwrap_or(held.retention);
    Done {
        token,
        other: held.other,
        attempt: held.attempt,
        head: Bytes(head.to_vec()),
        body: body.map(Bytes),
        at: now,
        replay_until: now + retention.replay_for.as_millis() as u64,
        expires: now + retention.remember_for.as_millis() as u64,
    }
}

pub fn check_record(done: &Done, record: &Record, now: u64) {
    if let Err(why) = same_record(done, record, now) {
        panic!("{why}: {record:?} instead of {done:?}");
    }
}

pub fn same_record(done: &Done, record: &Record, now: u64) -> Result<(), String> {
    let body = done.body.as_deref().filter(|_| now < done.replay_until);
    if record.response() != body || *record.head() != *done.head {
        return Err("other bytes".into());
    }
    if (record.completed_at(), record.expires_at()) != (done.at, done.expires) {
        return Err("other times".into());
    }
    if record.token().get() != done.token {
        return Err("another token".into());
    }
    Ok(())
}

pub fn check_interrupted(held: &Held, found: &Interrupted, now: u64) {
    let Phase::Interrupted { reason, .. } = held.phase_at(now) else {
        panic!("interrupted, but {held:?}");
    };
    assert_eq!(found.reason(), reason, "{held:?}");
    assert_eq!(found.holder_gone(), !held.lives, "{held:?}");
    assert_eq!(found.attempts(), held.attempt, "{held:?}");
    assert_eq!(found.checkpoint(), held.checkpoint.as_deref());
    let answer = found.answer().map(|answer| &answer[..]);
    assert_eq!(answer, held.answer_as_far_as(answer, now));
}

/// Whether a living store says of a key what the model does.
pub fn same(is: &Is, found: Option<&Entry>, now: u64) -> Result<(), String> {
    match (is, found) {
        (Is::Absent, None) => Ok(()),
        (Is::Held(held), Some(entry)) => {
            if (entry.token.get(), entry.attempts) != (held.token, held.attempt) {
                return Err(format!("another attempt: {}", short(entry)));
            }
            match (&entry.state, held.phase_at(now)) {
                (State::InFlight { checkpoint, .. }, Phase::InFlight { .. }) => {
                    if checkpoint.as_deref() != held.checkpoint.as_deref() {
                        return Err("another checkpoint".into());
                    }
                    Ok(())
                }
                (
                    State::Interrupted { reason, at, holder_gone, checkpoint, answer },
                    Phase::Interrupted { reason: r, at: a },
                ) => {
                    let says = (reason, at, holder_gone, checkpoint.as_deref(), answer.as_deref());
                    let gone = !held.lives;
                    let kept = held.answer_as_far_as(answer.as_deref(), now);
                    let is = (&r, &a, &gone, held.checkpoint.as_deref(), kept);
                    if says != is {
                        return Err(format!("{} instead of {}", short(&says), short(&is)));
                    }
                    Ok(())
                }
                (state, phase) => Err(format!("{} instead of {phase:?}", short(state))),
            }
        }
        (Is::Done(done), Some(entry)) => {
            let State::Completed(record) = &entry.state else {
                return Err(format!("{} instead of completed", short(entry)));
            };
            if (entry.token.get(), entry.attempts) != (done.token, done.attempt) {
                return Err(format!("another attempt: {}", short(entry)));
            }
            same_record(done, record, now)
        }
        (is, found) => Err(format!("{} instead of {is:?}", short(&found))),
    }
}
