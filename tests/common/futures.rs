//! Futures polled by hand.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// A waker that counts.
pub struct Woken {
    count: AtomicU64,
    thread: Thread,
}

impl Woken {
    /// Unparks the calling thread as well.
    pub fn new() -> Arc<Self> {
        Arc::new(Woken { count: AtomicU64::new(0), thread: thread::current() })
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub fn poll<F: Future + ?Sized>(self: &Arc<Self>, future: Pin<&mut F>) -> Poll<F::Output> {
        let waker = Waker::from(self.clone());
        future.poll(&mut Context::from_waker(&waker))
    }

    /// Sleeps until woken more than `seen` times.
    pub fn wait(&self, seen: u64) {
        while self.count() == seen {
            thread::park();
        }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Polls to the end, each time only after having been woken.
pub fn block_on<F: Future>(future: F) -> F::Output {
    drop_after(future, u64::MAX).expect("polled without end")
}

/// Polls `polls` times at the most, each time only after having been woken, then drops the
/// future. `Err`: dropped before its end.
#[allow(clippy::result_unit_err)]
pub fn drop_after<F: Future>(future: F, polls: u64) -> Result<F::Output, ()> {
    let mut future = pin!(future);
    let woken = Woken::new();
    for poll in 0..polls {
        let seen = woken.count();
        if let Poll::Ready(value) = woken.poll(future.as_mut()) {
            return Ok(value);
        }
        if poll + 1 < polls {
            woken.wait(seen);
        }
    }
    Err(())
}
