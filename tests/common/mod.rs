//! Shared by the behaviour tests: stores on simulated disks and manual clocks, a few words to ask
//! them with, futures polled by hand, and a disk whose syncs wait for the test.

#![allow(dead_code)]

pub mod futures;
pub mod gate;
#[cfg(onlyonce_shuttle)]
pub mod schedules;

use onlyonce::storage::SimStorage;
use onlyonce::*;
use std::{
    sync::{Arc, LazyLock, mpsc},
    time::Duration,
};

/// When the clocks of the tests start.
pub const T0: u64 = 1_800_000_000_000;
pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

pub static SCOPE: LazyLock<Scope> = LazyLock::new(|| Scope::of(["tenant", "orders"]));

pub fn key(name: &str) -> KeyRef<'_> {
    KeyRef::new(&SCOPE, name).unwrap()
}

pub fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "book"])
}

pub fn other_print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "pen"])
}

/// A small store's options, without threads unless said otherwise.
pub fn small(clock: &ManualClock) -> Options {
    Options::new()
        .clock(clock.clone())
        .background(false)
        .max_response(4096)
        .max_claims(64)
        .ring_bytes(64 << 10)
        .segment_bytes(1 << 20)
        .capacity(8 << 20)
}

/// A simulated disk, a manual clock, and the options of the stores that are opened on them.
pub struct Sim {
    pub disk: SimStorage,
    pub clock: ManualClock,
    pub options: Options,
}

impl Sim {
    pub fn new() -> Self {
        Sim::with(|options| options)
    }

    pub fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let clock = ManualClock::at(T0);
        let options = change(small(&clock));
        Sim { disk: SimStorage::new(1), clock, options }
    }

    pub fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Store, OpenError> {
        self.options.open_on(Arc::new(self.disk.clone()))
    }

    /// The process dies, and the store is opened by another one.
    pub fn kill_and_open(&mut self) -> Store {
        self.disk = self.disk.kill();
        self.open()
    }

    /// The power goes, and the store is opened when it has come back.
    pub fn power_cut_and_open(&mut self) -> Store {
        self.disk = self.disk.power_cut();
        self.open()
    }
}

/// A new store without threads on a simulated disk.
pub fn store() -> (Store, ManualClock) {
    let sim = Sim::new();
    (sim.open(), sim.clock)
}

/// A new store with threads, on a manual clock.
pub fn threaded() -> (Store, ManualClock) {
    let sim = Sim::with(|options| options.background(true));
    (sim.open(), sim.clock)
}

/// Short words for what the tests do all the time, always with the same fingerprint.
pub trait Ask {
    fn ask(&self, name: &str) -> Begin;
    /// The key must be free.
    fn claim(&self, name: &str) -> Claim;
    /// The key must be completed; its response.
    fn answer(&self, name: &str) -> Vec<u8>;
    /// Claims and completes.
    fn finish(&self, name: &str, response: &[u8]);
    fn is_in_flight(&self, name: &str) -> bool;
    /// The key must be interrupted.
    fn stuck(&self, name: &str) -> Interrupted;
    /// Whether nothing is known of the key.
    fn is_absent(&self, name: &str) -> bool;
}

impl Ask for Store {
    #[track_caller]
    fn ask(&self, name: &str) -> Begin {
        self.begin(key(name), print()).unwrap()
    }

    #[track_caller]
    fn claim(&self, name: &str) -> Claim {
        granted(self.ask(name))
    }

    #[track_caller]
    fn answer(&self, name: &str) -> Vec<u8> {
        replayed(self.ask(name)).response().expect("retained").to_vec()
    }

    #[track_caller]
    fn finish(&self, name: &str, response: &[u8]) {
        self.claim(name).complete(response).unwrap();
    }

    #[track_caller]
    fn is_in_flight(&self, name: &str) -> bool {
        matches!(self.ask(name), Begin::InFlight(_))
    }

    #[track_caller]
    fn stuck(&self, name: &str) -> Interrupted {
        interrupted(self.ask(name))
    }

    #[track_caller]
    fn is_absent(&self, name: &str) -> bool {
        self.get(key(name)).unwrap().is_none()
    }
}

#[track_caller]
pub fn granted<S: IdempotencyStore + std::fmt::Debug>(begin: Begin<S>) -> Claim<S> {
    match begin {
        Begin::Execute(claim) => claim,
        other => panic!("no claim but {other:?}"),
    }
}

#[track_caller]
pub fn replayed<S: IdempotencyStore + std::fmt::Debug>(begin: Begin<S>) -> Record {
    match begin {
        Begin::Replay(record) => record,
        other => panic!("no record but {other:?}"),
    }
}

#[track_caller]
pub fn pending<S: IdempotencyStore + std::fmt::Debug>(begin: Begin<S>) -> Pending<S> {
    match begin {
        Begin::InFlight(pending) => pending,
        other => panic!("not in flight but {other:?}"),
    }
}

#[track_caller]
pub fn interrupted<S: IdempotencyStore + std::fmt::Debug>(begin: Begin<S>) -> Interrupted<S> {
    match begin {
        Begin::Interrupted(interrupted) => interrupted,
        other => panic!("not interrupted but {other:?}"),
    }
}

#[track_caller]
pub fn assert_mismatch(store: &Store, name: &str) {
    let begin = store.begin(key(name), other_print()).unwrap();
    assert!(matches!(begin, Begin::Mismatch { scheme: 0 }), "no mismatch but {begin:?}");
}

/// Waits, without sleeping, for something that other threads bring about.
#[track_caller]
pub fn until(mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came about");
        std::thread::yield_now();
    }
}

/// Runs `test` on a thread of its own; a test that hangs fails.
pub fn must_end<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(test()));
    match ended.recv_timeout(Duration::from_secs(600)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}
