//! The part that all handles of a store share: it is closed once, by the first that asks for it or
//! with the last handle.

use super::Closed;
use crate::{
    engine::Engine,
    engine::open::DirectoryLock,
    error::StoreError,
    sync::wait::{Event, block},
    sync::{
        Mutex,
        thread::{JoinHandle, ThreadId, current},
    },
};
use std::{sync::Arc, task::Poll};

/// Ends the store with its last handle.
pub(super) struct Owner {
    pub(super) engine: Arc<Engine>,
    state: Mutex<State>,
    /// The store has been closed.
    ended: Event,
}

enum State {
    Open(Running),
    /// By this thread.
    Closing(ThreadId),
    Closed,
}

/// The parts that end when the store is closed.
pub(super) struct Running {
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Given up last.
    pub(super) _lock: DirectoryLock,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.engine.place())
    }
}

/// Ends the closing when dropped.
struct Ending<'a>(&'a Owner);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        *self.0.state.lock() = State::Closed;
        self.0.ended.notify();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.engine.check_process().is_err() {
            // Threads that don't exist here, descriptors and maps that the parent has too: all
            // stay as they are until the process ends.
            std::mem::forget(std::mem::replace(self.state.get_mut(), State::Closed));
            std::mem::forget(self.engine.clone());
            return;
        }
        let _ = self.close();
    }
}

impl Owner {
    pub(super) fn new(engine: Arc<Engine>, running: Running) -> Self {
        Owner { engine, state: Mutex::new(State::Open(running)), ended: Event::new() }
    }

    /// No lock of the store's is held while it is closed: wakers are called, which may call this.
    pub(super) fn close(&self) -> Result<Closed, StoreError> {
        self.engine.check_process()?;
        let Some(running) = self.begin_closing() else {
            return Ok(Closed::now(&self.engine));
        };
        // Those that wait for it are woken, also if a subscriber of events panics.
        let _ending = Ending(self);
        self.close_running(running)
    }

    /// The parts to close; `None` if another closes or has closed it, and then, if the calling
    /// thread can wait for that, it has been closed.
    fn begin_closing(&self) -> Option<Running> {
        let this = current().id();
        block(|context| {
            let since = self.ended.count();
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Closing(this)) {
                State::Open(running) => return Poll::Ready(Some(running)),
                State::Closed => {
                    *state = State::Closed;
                    return Poll::Ready(None);
                }
                State::Closing(closer) => *state = State::Closing(closer),
            }
            // In a waker: the closer's own, or one that a thread of the store has called, which
            // the closer waits for.
            if matches!(*state, State::Closing(closer) if closer == this)
                || self.engine.is_own_thread()
            {
                return Poll::Ready(None);
            }
            drop(state);
            if self.ended.poll_since(since, context).is_ready() {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
    }

    fn close_running(&self, running: Running) -> Result<Closed, StoreError> {
        let Running { threads, _lock } = running;
        self.engine.close(threads)?;
        Ok(Closed::now(&self.engine))
    }
}
