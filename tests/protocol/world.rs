//! The world: its state, what can happen in it, and what must always hold.

use crate::{
    claim::{Held, NoTakeover, Phase, Released, Seen},
    fingerprint::Fingerprint,
    record::Reason,
    token::Token,
};
use stateright::{Model, Property};
use std::{
    hash::{Hash, Hasher},
    sync::LazyLock,
};

/// In ticks of the clock.
pub const LEASE: u64 = 1;
pub const KEEP: u64 = 2;

static PRINT: LazyLock<Fingerprint> = LazyLock::new(|| Fingerprint::of(["request"]));

/// How large the world is, and what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub clients: usize,
    pub ticks: u64,
    pub crashes: u8,
    pub attempts: u32,
    /// Grants, takeovers included.
    pub tokens: u64,
    pub flaw: Flaw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    ClaimAnsweredBeforeSync,
    CompletionAnsweredBeforeSync,
    VisibleBeforeDurable,
    ClearedBeforeDurable,
    LowestTokenWins,
    LeaseLapsesWhileCompleting,
    NobodyIsFenced,
    ReleaseForgets,
    ForgottenBeforeSettled,
}

/// The store's own state of an undecided key.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept(pub Held);

impl Eq for Kept {}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Held { token, attempt, started_ms, phase, holder_lives, history, .. } = &self.0;
        (token, attempt, started_ms, holder_lives, history).hash(hasher);
        format!("{phase:?}").hash(hasher);
    }
}

/// A version of a claim in the claims file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    pub held: Kept,
    pub version: u8,
    pub durable: bool,
    pub cleared: bool,
    /// To be cleared when the sync that makes its successor durable has returned.
    pub replaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub token: Token,
    pub response: usize,
    pub durable: bool,
    pub appended_at: u64,
}

/// What the holder has said that doesn't know the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failed {
    pub token: Token,
    pub durable: bool,
    pub at: u64,
}

/// What a client has called and not heard of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Waits {
    Granted { token: Token, after: Option<Reason> },
    Completed { response: usize },
    Released,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    /// The token of the claim that it holds, or believes to hold.
    pub holds: Option<Token>,
    /// The attempt that it was told is interrupted.
    pub told: Option<Token>,
    pub waits: Option<Waits>,
}

/// What has been seen from outside, whatever the store thinks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outside {
    /// Somebody may have executed, and it isn't settled what became of it.
    pub open: bool,
    /// The answer that somebody has been given.
    pub answer: Option<usize>,
    pub highest: u64,
    pub broken: Option<&'static str>,
    /// What the last action has shown.
    pub met: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: u64,
    pub held: Option<Kept>,
    pub version: u8,
    pub cells: Vec<Cell>,
    pub record: Option<Record>,
    pub failed: Option<Failed>,
    pub next_token: u64,
    pub clients: Vec<Client>,
    pub crashes: u8,
    pub outside: Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Begin(usize),
    TakeOver(usize),
    /// The response says who has executed.
    Complete(usize),
    Fail(usize),
    Release(usize),
    Renew(usize),
    Drop(usize),
    Tick,
    SyncClaims,
    SyncLog,
    /// Which of the changes that no sync has covered survive: one bit each.
    Crash(u32),
}

const UNWARNED: &str = "nobody executes anew unwarned";
const CHANGED: &str = "an answer never changes";
const FENCED: &str = "the newest token counts";

impl Outside {
    fn breaks(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    fn meets(&mut self, what: &'static str) {
        self.met = Some(what);
    }

    fn granted(&mut self, token: Token, after: Option<Reason>) {
        if token.get() < self.highest {
            // It was taken over before the claim reached its holder; whoever did that was told.
            return self.meets("a grant arrives late");
        }
        if self.answer.is_some() || (self.open && after.is_none()) {
            self.breaks(UNWARNED);
        }
        if token.get() == self.highest {
            self.breaks(FENCED);
        }
        self.highest = self.highest.max(token.get());
        self.open = true;
    }

    fn answered(&mut self, response: usize) {
        if self.answer.is_some_and(|known| known != response) {
            self.breaks(CHANGED);
        }
        self.answer = Some(response);
        self.open = false;
    }
}

impl State {
    fn write(&mut self) {
        self.cells.iter_mut().filter(|cell| !cell.cleared).for_each(|cell| cell.replaced = true);
        let held = self.held.clone().expect("written while it is held");
        let version = self.version;
        self.cells.push(Cell { held, version, durable: false, cleared: false, replaced: false });
    }

    /// The key is decided, or free: the present version of its claim is cleared. Earlier ones
    /// are when this one has become durable.
    fn clear(&mut self) {
        self.cells.iter_mut().filter(|cell| !cell.replaced).for_each(|cell| cell.cleared = true);
    }

    /// Whether nothing that the present version of the claim has replaced can come back.
    fn is_settled(&self) -> bool {
        self.cells.iter().all(|cell| !cell.replaced)
    }

    /// Whether a client's token is the one that counts.
    fn is_held_by(&self, client: usize) -> bool {
        let token = self.clients[client].holds;
        token.is_some() && self.held.as_ref().map(|held| held.0.token) == token
    }

    fn sync_claims(&mut self) {
        self.cells.retain(|cell| !cell.cleared);
        self.cells.iter_mut().for_each(|cell| cell.durable = true);
        self.cells.iter_mut().filter(|cell| cell.replaced).for_each(|cell| cell.cleared = true);
        for at in 0..self.clients.len() {
            match self.clients[at].waits {
                Some(Waits::Granted { token, after }) => self.grant(at, token, after),
                Some(Waits::Released) => self.clients[at].waits = None,
                _ => {}
            }
        }
    }

    fn grant(&mut self, client: usize, token: Token, after: Option<Reason>) {
        self.clients[client] = Client { holds: Some(token), ..Client::default() };
        self.outside.granted(token, after);
        if let Some(reason) = after {
            let took = match reason {
                Reason::Crashed => "a takeover after a crash",
                Reason::LeasePassed => "a takeover after a lease",
                Reason::GivenBack => "a takeover after a release",
                _ => "a takeover",
            };
            self.outside.meets(took);
        }
    }

    fn sync_log(&mut self) {
        if let Some(failed) = &mut self.failed {
            failed.durable = true;
        }
        let Some(record) = &mut self.record else { return };
        record.durable = true;
        self.clear();
        for at in 0..self.clients.len() {
            if let Some(Waits::Completed { response }) = self.clients[at].waits {
                self.clients[at].waits = None;
                self.outside.answered(response);
            }
        }
    }

    /// How many changes no sync has covered.
    fn at_risk(&self) -> u32 {
        let cells = self.cells.iter().map(|c| u32::from(!c.durable) + u32::from(c.cleared));
        cells.sum::<u32>()
            + u32::from(self.record.is_some_and(|record| !record.durable))
            + u32::from(self.failed.is_some_and(|failed| !failed.durable))
    }
}

impl World {
    fn grant(&self, state: &mut State, client: usize, held: Held, after: Option<Reason>) {
        let token = held.token;
        state.next_token += 1;
        state.version = 1;
        state.held = Some(Kept(held));
        state.write();
        match self.flaw {
            Flaw::ClaimAnsweredBeforeSync => state.grant(client, token, after),
            _ => state.clients[client].waits = Some(Waits::Granted { token, after }),
        }
    }

    /// Somebody begins; with `seen`, takes over.
    fn begin(&self, state: &mut State, client: usize, seen: Option<Token>) -> Option<()> {
        let (now, token) = (state.now, Token::new(state.next_token)?);
        let tokens_left = state.next_token <= self.tokens;
        if let Some(Kept(held)) = state.held.clone() {
            match held.seen(*PRINT, now, KEEP) {
                Seen::Mismatch => unreachable!("one request"),
                Seen::InFlight { .. } => return None,
                // Its answer is on its way to the disk.
                Seen::Interrupted { .. }
                    if state.failed.is_some_and(|f| f.token == held.token && !f.durable) =>
                {
                    return None;
                }
                Seen::Interrupted { reason, .. } if seen == Some(held.token) => {
                    if !tokens_left && held.attempt < self.attempts {
                        return None;
                    }
                    match held.take_over(held.token, token, self.attempts, now) {
                        Ok(taken) => self.grant(state, client, taken, Some(reason)),
                        Err(NoTakeover::Exhausted { .. }) => {
                            state.outside.meets("attempts are used up");
                        }
                        Err(NoTakeover::Changed) => unreachable!("interrupted, under this token"),
                    }
                    return Some(());
                }
                Seen::Interrupted { .. } => {
                    state.clients[client].told = Some(held.token);
                    return Some(());
                }
                Seen::Expired => self.forget(state)?,
            }
        }
        state.clients[client].told = None;
        let lapsed = |record: &Record| {
            self.flaw == Flaw::LeaseLapsesWhileCompleting && record.appended_at + LEASE <= now
        };
        match state.record {
            Some(record) if record.durable || self.flaw == Flaw::VisibleBeforeDurable => {
                state.outside.answered(record.response);
                state.outside.meets("a replay");
            }
            // On its way to the disk: in flight.
            Some(record) if !lapsed(&record) => return None,
            _ if !tokens_left => return None,
            _ => self.grant(state, client, Held::first(token, *PRINT, LEASE, now), None),
        }
        Some(())
    }

    /// Interrupted for longer than such keys are kept: that was the time to see it. `None`: what
    /// it has replaced must be gone from the disk first.
    fn forget(&self, state: &mut State) -> Option<()> {
        if !state.is_settled() && self.flaw != Flaw::ForgottenBeforeSettled {
            return None;
        }
        state.held = None;
        state.clear();
        state.outside.open = false;
        state.outside.meets("an interrupted key is forgotten");
        Some(())
    }

    fn complete(&self, state: &mut State, client: usize) -> Option<()> {
        let token = state.clients[client].holds?;
        if let Some(record) = state.record.filter(|record| record.token == token) {
            // Said again: the same answer, when that is durable.
            let response = record.response;
            match record.durable {
                true => state.outside.answered(response),
                false => state.clients[client].waits = Some(Waits::Completed { response }),
            }
            return Some(());
        }
        let fences = self.flaw != Flaw::NobodyIsFenced;
        if !state.is_held_by(client) && (fences || state.held.is_none()) {
            state.clients[client].holds = None;
            state.outside.meets("a late completion is fenced");
            return Some(());
        }
        let Kept(held) = state.held.take().expect("held by this client");
        if token.get() < state.outside.highest {
            state.outside.breaks(FENCED);
        }
        if matches!(held.seen(*PRINT, state.now, KEEP), Seen::Interrupted { .. }) {
            state.outside.meets("a late completion counts");
        }
        let response = client;
        let appended_at = state.now;
        state.record = Some(Record { token, response, durable: false, appended_at });
        if self.flaw == Flaw::ClearedBeforeDurable {
            state.clear();
        }
        match self.flaw {
            Flaw::CompletionAnsweredBeforeSync => state.outside.answered(response),
            _ => state.clients[client].waits = Some(Waits::Completed { response }),
        }
        Some(())
    }

    fn release(&self, state: &mut State, client: usize) -> Option<()> {
        let mine = state.is_held_by(client);
        state.clients[client].holds.take()?;
        if !mine {
            return Some(());
        }
        let Kept(held) = state.held.as_mut().expect("held by this client");
        let alone = !held.history;
        let released = match self.flaw {
            Flaw::ReleaseForgets => Released::Absent,
            _ => held.release(state.now),
        };
        match released {
            Released::Absent => {
                state.held = None;
                state.clear();
                // It says that it did nothing; the attempts before it say nothing.
                state.outside.open &= !alone;
            }
            Released::Interrupted => {
                // A takeover that is given back doesn't count, unless it has left an answer.
                let Kept(held) = state.held.as_mut().expect("it is interrupted");
                if held.attempt > 1 && state.failed.is_none_or(|failed| failed.token != held.token)
                {
                    held.attempt -= 1;
                }
                state.version += 1;
                state.write();
            }
        }
        state.clients[client].waits = Some(Waits::Released);
        Some(())
    }

    fn fail(&self, state: &mut State, client: usize) -> Option<()> {
        if !state.is_held_by(client) {
            return None;
        }
        let again = state.failed.map(|failed| failed.token) == state.clients[client].holds;
        let Kept(held) = state.held.as_ref().expect("held by this client");
        let is_failed = Phase::Interrupted { reason: Reason::Failed, at: state.now };
        if again && std::mem::discriminant(&held.phase) == std::mem::discriminant(&is_failed) {
            return None;
        }
        state.failed = state.clients[client].holds.map(|token| Failed {
            token,
            durable: false,
            at: state.now,
        });
        self.adjust(state, client, |held, now| held.interrupt(Reason::Failed, now))
    }

    /// A holder's call that changes only memory.
    fn adjust(
        &self,
        state: &mut State,
        client: usize,
        change: impl FnOnce(&mut Held, u64),
    ) -> Option<()> {
        let (mine, now) = (state.is_held_by(client), state.now);
        if let Some(Kept(held)) = state.held.as_mut().filter(|_| mine) {
            change(held, now);
        }
        Some(())
    }

    fn crash(&self, state: &mut State, lands: u32) {
        let mut at = 0;
        let mut landed = || {
            at += 1;
            lands & (1 << (at - 1)) != 0
        };
        state.cells.retain(|cell| {
            let written = cell.durable || landed();
            let cleared = cell.cleared && landed();
            written && !cleared
        });
        if state.record.is_some_and(|record| !record.durable) && !landed() {
            state.record = None;
        }
        if state.failed.is_some_and(|failed| !failed.durable) && !landed() {
            state.failed = None;
        }
        state.crashes += 1;
        state.clients.iter_mut().for_each(|client| *client = Client::default());
        // What is found is written again before anything is answered.
        if let Some(record) = &mut state.record {
            record.durable = true;
        }
        let of = |cell: &Cell| (cell.held.0.token, cell.version);
        let newest = match self.flaw {
            Flaw::LowestTokenWins => state.cells.iter().min_by_key(|cell| of(cell)),
            _ => state.cells.iter().max_by_key(|cell| of(cell)),
        };
        let recorded = state.record.map(|record| record.token);
        let claim = newest.filter(|cell| recorded < Some(cell.held.0.token)).cloned();
        state.cells.clear();
        state.held = None;
        let Some(Cell { held: Kept(mut held), version, .. }) = claim else {
            return;
        };
        // Interruptions before the crash are noted only where they were written down.
        let noted = matches!(held.phase, Phase::Interrupted { .. });
        if !noted {
            let failed = state.failed.is_some_and(|failed| failed.token == held.token);
            let reason = if failed { Reason::Failed } else { Reason::Crashed };
            held.interrupt(reason, state.now);
        }
        held.holder_lives = false;
        state.held = Some(Kept(held));
        state.version = version + u8::from(!noted);
        state.write();
        state.cells[0].durable = true;
        state.outside.meets("a crash interrupts");
    }

    pub fn start(&self) -> State {
        State {
            now: 0,
            held: None,
            version: 0,
            cells: vec![],
            record: None,
            failed: None,
            next_token: 1,
            clients: vec![Client::default(); self.clients],
            crashes: 0,
            outside: Outside::default(),
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, client) in state.clients.iter().enumerate() {
            if client.waits.is_some() {
                continue;
            }
            if client.holds.is_some() {
                actions.extend([
                    Action::Complete(at),
                    Action::Fail(at),
                    Action::Release(at),
                    Action::Renew(at),
                    Action::Drop(at),
                ]);
            } else {
                actions.push(Action::Begin(at));
                actions.extend(client.told.map(|_| Action::TakeOver(at)));
            }
        }
        if state.now < self.ticks {
            actions.push(Action::Tick);
        }
        actions.extend([Action::SyncClaims, Action::SyncLog]);
        if state.crashes < self.crashes {
            actions.extend((0..1 << state.at_risk()).map(Action::Crash));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        state.outside.met = None;
        match action {
            // `None`: in flight, or as far as this world goes.
            Action::Begin(client) => {
                let _ = self.begin(&mut state, client, None);
            }
            Action::TakeOver(client) => {
                let seen = state.clients[client].told.take();
                let _ = self.begin(&mut state, client, seen);
            }
            Action::Complete(client) => self.complete(&mut state, client)?,
            Action::Fail(client) => self.fail(&mut state, client)?,
            Action::Release(client) => self.release(&mut state, client)?,
            Action::Renew(client) => {
                self.adjust(&mut state, client, |held, now| held.renew(LEASE, now))?
            }
            Action::Drop(client) => {
                self.adjust(&mut state, client, |held, now| held.abandon(Reason::Dropped, now))?;
                state.clients[client].holds = None;
            }
            Action::Tick => {
                state.now += 1;
                if state.held.as_ref().is_some_and(|held| held.0.expired(state.now, KEEP)) {
                    let _ = self.forget(&mut state);
                }
            }
            Action::SyncClaims => state.sync_claims(),
            Action::SyncLog => state.sync_log(),
            Action::Crash(lands) => self.crash(&mut state, lands),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(UNWARNED, |_, s: &State| s.outside.broken != Some(UNWARNED)),
            Property::always(CHANGED, |_, s: &State| {
                let stays = |answer: usize| s.record.is_some_and(|r| r.response == answer);
                s.outside.broken != Some(CHANGED) && s.outside.answer.is_none_or(stays)
            }),
            Property::always(FENCED, |_, s: &State| {
                let newest = s.held.as_ref().is_none_or(|h| h.0.token.get() >= s.outside.highest);
                s.outside.broken != Some(FENCED) && newest
            }),
            Property::always("one live holder", |_, s: &State| {
                (0..s.clients.len()).filter(|client| s.is_held_by(*client)).count() <= 1
            }),
        ];
        if self.flaw == Flaw::None {
            let met = |what: &'static str, condition| Property::sometimes(what, condition);
            properties.extend([
                met("a crash interrupts", |_, s: &State| s.has_met("a crash interrupts")),
                met("a replay", |_, s: &State| s.has_met("a replay")),
                met("fenced", |_, s: &State| s.has_met("a late completion is fenced")),
                met("late", |_, s: &State| s.has_met("a late completion counts")),
                met("after a crash", |_, s: &State| s.has_met("a takeover after a crash")),
                met("after a lease", |_, s: &State| s.has_met("a takeover after a lease")),
            ]);
        }
        properties
    }
}

impl State {
    fn has_met(&self, what: &'static str) -> bool {
        self.outside.met == Some(what)
    }
}
