//! Everybody judges a key by one time: whoever reads the clock does so when nobody else can get
//! at the key until it has been judged. Else a lease could run for one caller after another has
//! seen it pass.

use crate::common::*;
use onlyonce::*;
use std::{
    fmt,
    sync::{Arc, Mutex, mpsc},
    thread::{self, ThreadId},
};

type Meddler = Box<dyn FnOnce() + Send>;

/// A manual clock that lets somebody act between one thread's reading and what it is read for.
#[derive(Clone)]
struct Meddled {
    clock: ManualClock,
    next: Arc<Mutex<Option<(ThreadId, Meddler)>>>,
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clock.fmt(f)
    }
}

impl Clock for Meddled {
    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn boot_ms(&self) -> u64 {
        let read = self.clock.boot_ms();
        let meddler = {
            let mut next = self.next.lock().unwrap();
            next.take_if(|(thread, _)| *thread == thread::current().id())
        };
        if let Some((_, meddle)) = meddler {
            meddle();
        }
        read
    }
}

/// What another caller found of the key `k`, whose lease had passed, if it found anything while
/// `judge` had read the clock and had not judged yet; and what `judge` came to. Where the key is
/// locked meanwhile the other caller gets nothing; how long it is waited for changes nothing
/// but how surely a mistake is noticed.
fn in_between<T>(judge: impl FnOnce(&Store, Claim) -> T) -> (Option<Reason>, T) {
    let meddled = Meddled { clock: ManualClock::at(T0), next: Arc::default() };
    let options = small(&meddled.clock).clock(meddled.clone()).lease(MINUTE).hash_bits(0);
    let store = options.open_on(Arc::new(onlyonce::storage::SimStorage::new(1))).unwrap();
    let claim = store.claim("k");
    let (other, clock) = (store.clone(), meddled.clock.clone());
    let (found, mut seen) = (Arc::new(Mutex::new(None)), None);
    let noted = found.clone();
    let meddle = move || {
        clock.advance(MINUTE);
        let (tell, told) = mpsc::channel();
        // One that comes late may find that `judge` has freed the key.
        let asks = thread::spawn(move || match other.ask("k") {
            Begin::Interrupted(interrupted) => tell.send(Some(interrupted.reason())),
            _ => tell.send(None),
        });
        let reason = told.recv_timeout(200 * MS).ok().flatten();
        *noted.lock().unwrap() = Some((reason, asks));
    };
    *meddled.next.lock().unwrap() = Some((thread::current().id(), Box::new(meddle)));
    let judged = judge(&store, claim);
    if let Some((reason, asks)) = found.lock().unwrap().take() {
        seen = reason;
        asks.join().unwrap().ok();
    }
    (seen, judged)
}

#[test]
fn an_operator_s_decision() {
    let (seen, judged) = in_between(|store, claim| {
        let judged = store.resolve(key("k"), Resolution::Free);
        drop(claim);
        judged
    });
    let needs_force = Err(StoreError::NeedsForce { state: "in flight" });
    assert!(seen.is_none() || judged != needs_force, "{seen:?} before {judged:?}");
}

#[test]
fn another_caller() {
    let (seen, judged) = in_between(|store, claim| {
        let in_flight = store.is_in_flight("k");
        drop(claim);
        in_flight
    });
    assert!(seen.is_none() || !judged, "{seen:?} before it was in flight");
}

#[test]
fn who_looks() {
    let (seen, judged) = in_between(|store, claim| {
        let state = store.get(key("k")).unwrap().unwrap().state;
        drop(claim);
        state
    });
    let in_flight = matches!(judged, State::InFlight { .. });
    assert!(seen.is_none() || !in_flight, "{seen:?} before {judged:?}");
}

#[test]
fn who_lists() {
    let (seen, judged) = in_between(|store, claim| {
        let entry = store.entries(Filter::ALL).next().unwrap().unwrap();
        drop(claim);
        entry.state
    });
    let in_flight = matches!(judged, State::InFlight { .. });
    assert!(seen.is_none() || !in_flight, "{seen:?} before {judged:?}");
}

/// Why the key is interrupted doesn't change when its handle is dropped afterwards.
#[test]
fn a_handle_that_is_dropped() {
    let (seen, reason) = in_between(|store, claim| {
        drop(claim);
        store.stuck("k").reason()
    });
    assert!(seen.is_none_or(|seen| seen == reason), "{seen:?}, then {reason:?}");
}
