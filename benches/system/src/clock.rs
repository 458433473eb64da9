//! A clock that runs by itself and can be moved on.

use onlyonce::{Clock, SystemClock};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

/// The machine's clock, and what it was moved on by: so a retention of an hour can pass at once.
#[derive(Clone, Debug, Default)]
pub struct ShiftedClock(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ahead_ms: AtomicU64,
    listeners: Mutex<Vec<Waker>>,
}

impl ShiftedClock {
    pub fn advance(&self, by: Duration) {
        self.0.ahead_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        let listeners = self.0.listeners.lock().expect("no listener panics").clone();
        listeners.iter().for_each(Waker::wake_by_ref);
    }

    fn ahead(&self) -> u64 {
        self.0.ahead_ms.load(Ordering::Relaxed)
    }
}

impl Clock for ShiftedClock {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms() + self.ahead()
    }

    fn boot_ms(&self) -> u64 {
        SystemClock.boot_ms() + self.ahead()
    }

    fn on_change(&self, waker: Waker) {
        let mut listeners = self.0.listeners.lock().expect("no listener panics");
        listeners.retain(|known| !known.will_wake(&waker));
        listeners.push(waker);
    }
}
