//! Random walks that the world and a real store take together, step by step: what every call
//! answers, and what the key then is, must be the same.

use crate::{
    claim::Phase,
    world::{Action, Flaw, KEEP, State as Modelled, World},
};
use onlyonce::{
    Begin, BeginError, Claim, ClaimError, Fingerprint, Interrupted, KeyRef, ManualClock, Options,
    Reason, Scope, State, Store, storage::SimStorage,
};
use stateright::Model;
use std::{collections::HashMap, sync::Arc, time::Duration};

const TICK_MS: u64 = 60_000;
const T0: u64 = 1_800_000_000_000;
const WORLD: World = World {
    clients: 3,
    ticks: u64::MAX,
    crashes: u8::MAX,
    attempts: 3,
    tokens: u64::MAX,
    flaw: Flaw::None,
};

struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % end as u64) as usize
    }
}

struct Pair {
    model: Modelled,
    disk: SimStorage,
    clock: ManualClock,
    store: Option<Store>,
    claims: Vec<Option<Claim>>,
    stuck: Vec<Option<Interrupted>>,
    /// The store's tokens by the model's.
    tokens: HashMap<u64, u64>,
}

fn options(clock: &ManualClock) -> Options {
    let tick = Duration::from_millis(TICK_MS);
    Options::new()
        .clock(clock.clone())
        .background(false)
        .lease(tick)
        .interrupted_retention(tick * KEEP as u32)
        .retention(Duration::from_secs(1 << 24))
        .max_attempts(WORLD.attempts)
        .max_response(4096)
        .max_claims(64)
        .ring_bytes(64 << 10)
        .segment_bytes(64 << 10)
        .capacity(1 << 20)
}

fn open(disk: &SimStorage, clock: &ManualClock) -> Store {
    options(clock).open_on(Arc::new(disk.clone())).unwrap()
}

impl Pair {
    fn new(seed: u64) -> Self {
        let (disk, clock) = (SimStorage::new(seed), ManualClock::at(T0));
        let store = Some(open(&disk, &clock));
        let none = |_| None;
        Pair {
            model: WORLD.start(),
            disk,
            clock,
            store,
            claims: (0..WORLD.clients).map(none).collect(),
            stuck: (0..WORLD.clients).map(|_| None).collect(),
            tokens: HashMap::new(),
        }
    }

    fn with_key<R>(&self, f: impl FnOnce(&Store, KeyRef<'_>) -> R) -> R {
        let scope = Scope::of(["walk"]);
        f(self.store.as_ref().unwrap(), KeyRef::new(&scope, "key").unwrap())
    }

    /// What the model does, with the syncs that a call of the store includes.
    fn step(&mut self, action: Action) -> Modelled {
        let before = self.model.clone();
        self.model.outside.met = None;
        if let Some(next) = WORLD.next_state(&before, action) {
            self.model = next;
        }
        let met = self.model.outside.met;
        for sync in [Action::SyncClaims, Action::SyncLog, Action::SyncClaims, Action::SyncClaims] {
            self.model = WORLD.next_state(&self.model, sync).expect("a sync always goes");
        }
        let broken = self.model.outside.broken;
        assert_eq!(broken, None);
        self.model.outside.met = met.or(self.model.outside.met);
        before
    }

    fn take(&mut self, action: Action) {
        let before = self.step(action);
        match action {
            Action::Begin(client) => {
                let begun = self.with_key(|store, key| store.begin(key, Fingerprint::of(["r"])));
                self.hear(client, begun);
            }
            Action::TakeOver(client) => {
                let stuck = self.stuck[client].take().expect("the model was told too");
                self.hear(client, stuck.take_over());
            }
            Action::Complete(client) => {
                let response = before.record.map_or(client, |record| record.response);
                let claim = self.claims[client].as_mut().expect("it holds one");
                let result = claim.complete(&[response as u8]);
                match self.model.record {
                    Some(record) if Some(record.token) == before.clients[client].holds => {
                        assert_eq!(result, Ok(()));
                    }
                    _ => {
                        assert_eq!(result, Err(ClaimError::Fenced));
                        self.claims[client] = None;
                    }
                }
            }
            Action::Fail(client) => {
                let claim = self.claims[client].as_mut().expect("it holds one");
                let result = claim_result(claim.fail(b""));
                self.same_right(&before, client, &result);
            }
            Action::Renew(client) => {
                let claim = self.claims[client].as_mut().expect("it holds one");
                let result = claim_result(claim.renew());
                self.same_right(&before, client, &result);
            }
            Action::Release(client) => {
                let claim = self.claims[client].take().expect("it holds one");
                self.same_right(&before, client, &claim_result(claim.release()));
            }
            Action::Drop(client) => self.claims[client] = None,
            Action::Tick => {
                self.clock.advance(Duration::from_millis(TICK_MS));
                self.store.as_ref().unwrap().housekeep().unwrap();
            }
            Action::SyncClaims | Action::SyncLog => {}
            Action::Crash(_) => {
                self.disk = match self.model.crashes % 2 {
                    0 => self.disk.kill(),
                    _ => self.disk.power_cut(),
                };
                self.claims.iter_mut().for_each(|claim| *claim = None);
                self.stuck.iter_mut().for_each(|stuck| *stuck = None);
                self.store = None;
                self.store = Some(open(&self.disk, &self.clock));
            }
        }
    }

    /// A holder's call is heard if the model's client holds the key, and refused if not.
    fn same_right(&self, before: &Modelled, client: usize, result: &Result<(), ClaimError>) {
        let holds = before.held.as_ref().map(|held| held.0.token);
        match holds.is_some() && holds == before.clients[client].holds {
            true => assert_eq!(*result, Ok(())),
            false => assert!(
                matches!(result, Err(ClaimError::Fenced | ClaimError::AlreadyCompleted)),
                "{result:?}"
            ),
        }
    }

    /// What a begin or a takeover has said.
    fn hear(&mut self, client: usize, begun: Result<Begin, BeginError>) {
        let now = &self.model.clients[client];
        match begun {
            Ok(Begin::Execute(claim)) => {
                let token = now.holds.expect("granted by the store alone");
                let held = &self.model.held.as_ref().expect("granted").0;
                assert_eq!(claim.attempt(), held.attempt);
                self.tokens.insert(token.get(), claim.token().get());
                self.claims[client] = Some(claim);
            }
            Ok(Begin::Interrupted(stuck)) => {
                let told = now.told.expect("interrupted for the store alone");
                let held = &self.model.held.as_ref().expect("interrupted").0;
                assert_eq!((held.token, held.attempt), (told, stuck.attempts()));
                self.stuck[client] = Some(stuck);
            }
            Ok(Begin::Replay(record)) => {
                assert_eq!(self.model.outside.met, Some("a replay"));
                let response = self.model.record.expect("replayed").response;
                assert_eq!(record.response(), Some(&[response as u8][..]));
            }
            Ok(Begin::InFlight(_)) => {
                assert!(now.holds.is_none(), "in flight, {:?}", self.model);
                let held = self.model.held.as_ref().expect("somebody holds it");
                assert!(matches!(held.0.phase_at(self.model.now), Phase::InFlight { .. }));
            }
            Err(BeginError::AttemptsExhausted { .. }) => {
                assert_eq!(self.model.outside.met, Some("attempts are used up"));
            }
            other => panic!("{other:?}, {:?}", self.model),
        }
    }

    /// What the key is, for both.
    fn compare(&self) {
        let found = self.with_key(|store, key| store.get(key)).unwrap();
        let now = self.model.now;
        let held = self.model.held.as_ref().filter(|held| !held.0.expired(now, KEEP));
        match (held, self.model.record, found) {
            (Some(held), None, Some(entry)) => {
                assert_eq!(entry.token.get(), self.tokens[&held.0.token.get()]);
                assert_eq!(entry.attempts, held.0.attempt);
                match (held.0.phase_at(now), entry.state) {
                    (Phase::InFlight { .. }, State::InFlight { .. }) => {}
                    (
                        Phase::Interrupted { reason, at },
                        State::Interrupted { reason: says, at: since, holder_gone, .. },
                    ) => {
                        let since = (since - T0) / TICK_MS;
                        assert_eq!((since, !holder_gone), (at, held.0.holder_lives));
                        // What a failed holder said is kept for as long as such keys are.
                        let old = self.model.failed.is_some_and(|f| f.at + KEEP <= now);
                        let gone = reason == Reason::Failed && says == Reason::Crashed && old;
                        assert!(says == reason || gone, "{says:?} instead of {reason:?}");
                    }
                    (phase, state) => panic!("{state:?} instead of {phase:?}"),
                }
            }
            (None, Some(record), Some(entry)) => {
                let State::Completed(stored) = entry.state else { panic!("{entry:?}") };
                assert_eq!(stored.response(), Some(&[record.response as u8][..]));
            }
            (None, None, None) => {}
            (held, record, found) => panic!("{found:?} instead of {held:?}, {record:?}"),
        }
    }
}

fn claim_result<T>(result: Result<T, ClaimError>) -> Result<(), ClaimError> {
    result.map(|_| ())
}

#[test]
fn the_store_takes_the_same_walks() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WALKS").unwrap_or(300),
    };
    for seed in seeds {
        let mut rng = Rng(seed);
        let mut pair = Pair::new(seed);
        let mut walk = Vec::new();
        for _ in 0..60 {
            let mut actions = Vec::new();
            let bounded = World { crashes: 0, ..WORLD };
            bounded.actions(&pair.model, &mut actions);
            // What is decided ends the walk's interest soon; so not too often.
            let mut action = actions[rng.below(actions.len())];
            if matches!(action, Action::Complete(_)) && rng.below(4) > 0 {
                action = Action::Tick;
            }
            if rng.below(12) == 0 {
                action = Action::Crash(u32::MAX);
            }
            walk.push(action);
            let step = std::panic::AssertUnwindSafe(|| {
                pair.take(action);
                pair.compare();
            });
            if let Err(panic) = std::panic::catch_unwind(step) {
                eprintln!("repeat with SEED={seed}: {walk:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}
