//! What a store tells to a subscriber of `tracing`: the events of docs/operations.md, each at its
//! point, with a hash and never with a key.

mod common;
#[path = "common/listener.rs"]
mod listener;

use common::*;
use onlyonce::{storage::Fault, *};
use std::{
    fmt::{Debug, Write},
    io::ErrorKind,
    sync::{Arc, Mutex},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// What was told: level, message, then the other fields.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<(Level, String, String)>>>);

impl Told {
    /// Runs `what` and gives back its events.
    fn of<R>(what: impl FnOnce() -> R) -> (R, Told) {
        listener::listen();
        let told = Told::default();
        let result = tracing::subscriber::with_default(told.clone(), what);
        (result, told)
    }

    fn all(&self) -> Vec<(Level, String, String)> {
        self.0.lock().unwrap().clone()
    }

    #[track_caller]
    fn has(&self, level: Level, message: &str) -> String {
        let told = self.all();
        let found = told.iter().find(|(l, m, _)| *l == level && m.contains(message));
        found.unwrap_or_else(|| panic!("no {level} '{message}' in {told:#?}")).2.clone()
    }

    fn says(&self, message: &str) -> bool {
        self.all().iter().any(|(_, m, _)| m.contains(message))
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.message, "{value:?}").unwrap(),
            name => write!(self.others, "{name}={value:?} ").unwrap(),
        }
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "onlyonce"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let mut told = self.0.lock().unwrap();
        let name = format!("span {}", span.metadata().name());
        told.push((*span.metadata().level(), name, fields.others));
        Id::from_u64(told.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut told = self.0.lock().unwrap();
        told.push((*event.metadata().level(), fields.message, fields.others));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn the_way_of_a_request_is_told_without_its_key() {
    let sim = Sim::new();
    let (_, told) = Told::of(|| {
        let store = sim.open();
        store.finish("a secret key", b"the answer");
        assert_eq!(store.answer("a secret key"), b"the answer");
        let claim = store.claim("another secret key");
        assert!(store.is_in_flight("another secret key"));
        assert!(matches!(
            store.begin(key("a secret key"), other_print()).unwrap(),
            Begin::Mismatch { .. }
        ));
        drop(claim);
        let stuck = store.stuck("another secret key");
        let Begin::Execute(claim) = stuck.take_over().unwrap() else { panic!() };
        claim.release().unwrap();
        store.close().unwrap();
    });
    told.has(Level::INFO, "store opened");
    let granted = told.has(Level::TRACE, "claim granted");
    assert!(granted.starts_with("key=") && granted.trim().len() == "key=".len() + 16, "{granted}");
    told.has(Level::DEBUG, "span call");
    told.has(Level::TRACE, "completed");
    told.has(Level::TRACE, "replayed");
    told.has(Level::TRACE, "group commit");
    told.has(Level::DEBUG, "segment taken into use");
    told.has(Level::INFO, "segment created");
    told.has(Level::DEBUG, "found in flight");
    told.has(Level::DEBUG, "key used for another request");
    told.has(Level::WARN, "claim dropped undecided");
    told.has(Level::DEBUG, "found interrupted");
    told.has(Level::DEBUG, "claim granted by takeover");
    told.has(Level::DEBUG, "released");
    told.has(Level::DEBUG, "segment sealed");
    assert!(told.has(Level::INFO, "store closed").contains("in_order=true"));
    for (_, message, fields) in told.all() {
        for secret in ["secret", "answer", "tenant"] {
            assert!(!message.contains(secret) && !fields.contains(secret), "{message} {fields}");
        }
    }
}

#[test]
fn one_key_has_one_hash_in_all_lives() {
    let sim = Sim::new();
    let hash_of = |name: &str| {
        let (_, told) = Told::of(|| sim.open().claim(name).release().unwrap());
        told.has(Level::TRACE, "claim granted")
    };
    assert_eq!(hash_of("k"), hash_of("k"));
    assert_ne!(hash_of("k"), hash_of("l"));
}

#[test]
fn what_means_money_is_told_loudly() {
    let sim = Sim::new();
    let (_, told) = Told::of(|| {
        let store = sim.open();
        // A late holder is fenced.
        let mut late = store.claim("late");
        sim.clock.advance(2 * MINUTE);
        store.housekeep().unwrap();
        let Begin::Execute(mut next) = store.stuck("late").take_over().unwrap() else { panic!() };
        next.complete(b"second").unwrap();
        assert_eq!(late.complete(b"first"), Err(ClaimError::Fenced));
        // Each attempt is interrupted.
        drop(store.claim("hopeless"));
        for _ in 2..=5 {
            drop(store.stuck("hopeless").take_over().unwrap());
        }
        for _ in 0..2 {
            let refused = store.stuck("hopeless").take_over();
            assert!(matches!(refused, Err(BeginError::AttemptsExhausted { attempts: 5 })));
        }
        assert_eq!(store.stats().exhausted, 1);
        // An interrupted key is never resolved.
        drop(store.claim("forgotten"));
        sim.clock.advance(8 * DAY);
        // Another segment first, then this one is closed and sealed, then swept.
        for _ in 0..3 {
            store.housekeep().unwrap();
            sim.clock.advance(SECOND);
        }
        assert_eq!(store.stats().interrupted_expired, 2);
    });
    told.has(Level::WARN, "lease passed");
    let exhausted = told.has(Level::ERROR, "all attempts at a key were interrupted");
    assert!(exhausted.contains("token="));
    assert!(told.has(Level::ERROR, "a holder was fenced").contains("token="));
    told.has(Level::ERROR, "expired unresolved");
    told.has(Level::DEBUG, "segment recycled");

    let (_, told) = Told::of(|| {
        let store = sim.open();
        store.finish("again", b"first");
        sim.clock.advance(DAY);
        store.finish("again", b"second");
    });
    assert!(told.has(Level::WARN, "had just expired").contains("token="));
}

#[test]
fn an_operators_decision_is_told() {
    let sim = Sim::new();
    let (_, told) = Told::of(|| {
        let store = sim.open();
        drop(store.claim("k"));
        store.resolve(key("k"), Resolution::Free).unwrap();
        store.drain(MS);
    });
    assert!(told.has(Level::INFO, "resolved by an operator").contains("free"));
    told.has(Level::INFO, "draining");
}

#[test]
fn a_poisoned_store_is_told_once() {
    let sim = Sim::new();
    let store = sim.open();
    let (_, told) = Told::of(|| {
        let mut claim = store.claim("k");
        for call in 1..=20 {
            sim.disk.fault_at(sim.disk.calls() + call, Fault::Error(ErrorKind::Other));
        }
        assert!(claim.complete(b"lost").is_err());
        assert!(store.begin(key("l"), print()).is_err());
    });
    told.has(Level::ERROR, "poisoned");
    let all = told.all();
    assert_eq!(all.iter().filter(|(_, message, _)| message.starts_with("poisoned")).count(), 1);
}

#[test]
fn a_store_that_is_created_is_told() {
    let sim = Sim::new();
    let (store, told) = Told::of(|| sim.open());
    told.has(Level::WARN, "store created");
    store.close().unwrap();
    let (_, told) = Told::of(|| sim.open());
    told.has(Level::INFO, "store opened");
    assert!(!told.says("store created"));
}

#[test]
fn a_clock_that_is_not_believed_is_told() {
    let sim = Sim::new();
    sim.open().finish("k", b"kept");
    sim.clock.set_wall(T0 + 400 * 24 * 3_600_000);
    let (_, told) = Told::of(|| sim.open());
    told.has(Level::ERROR, "not believed");
    assert!(!told.says("poisoned"));
}

#[test]
fn a_full_disk_is_told_once() {
    let sim = Sim::with(|options| options.capacity(64 << 20).max_claims(4096));
    let store = sim.open();
    sim.disk.set_capacity(Some(sim.disk.len_total()));
    let (_, told) = Told::of(|| {
        let claims: Vec<_> = (0..1000)
            .map_while(|n| match store.begin(key(&n.to_string()), print()) {
                Ok(Begin::Execute(claim)) => Some(claim),
                _ => None,
            })
            .collect();
        assert!((10..1000).contains(&claims.len()), "{}", claims.len());
        for _ in 0..3 {
            assert!(matches!(store.begin(key("k"), print()), Err(BeginError::StoreFull(_))));
        }
    });
    told.has(Level::DEBUG, "claim refused, the store is full");
    told.has(Level::ERROR, "no room on the disk");
    let all = told.all();
    assert_eq!(all.iter().filter(|(_, m, _)| m.starts_with("no room on the disk")).count(), 1);
}

#[test]
fn damage_that_was_passed_over_is_told() {
    let sim = Sim::with(|options| options.recovery(Recovery::Salvage));
    let (store, told) = Told::of(|| sim.open());
    assert!(!told.says("opened past damage"));
    store.finish("k", b"lost");
    store.close().unwrap();
    sim.disk.remove_file("segment-000001");
    let (_, told) = Told::of(|| sim.open());
    assert!(told.has(Level::ERROR, "opened past damage").contains("damaged_places=1"));
}

#[test]
fn claims_that_were_torn_are_told() {
    let durability = Durability::SyncedCompletions;
    let mut sim = Sim::with(|options| options.durability(durability));
    let store = sim.open();
    let _claim = store.claim("k");
    sim.disk = sim.disk.kill();
    // The cell in use: its checksum doesn't fit any more.
    let claims = &sim.disk.snapshot()["claims"];
    let used = claims.chunks(256).skip(2).position(|cell| cell[..8] != *b"freecell").unwrap();
    sim.disk.flip_bit("claims", (256 * (used as u64 + 2) + 100) * 8);
    let (_, told) = Told::of(|| sim.open());
    assert!(told.has(Level::WARN, "claims were torn").contains("torn_claims=1"));
}
