//! Waiting, written once: everything that waits is polled with a [`Context`]; a blocking call
//! polls on its own thread and parks in between.

pub(crate) use crate::sync::queue::Queue;
use crate::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering, fence},
    thread::{self, Thread},
    thread_local,
};
use std::{
    cell::Cell,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// The kind of a waiter: a thread that may do the work it waits for, or a task that must not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Thread,
    Task,
}

/// Wakers that are woken when this is dropped. Declared before a lock's guard it is dropped after
/// it, so no task is woken under a lock: a waker may run its task's code, or drop it, at once.
#[derive(Debug, Default)]
pub(crate) struct WakeList(Vec<Waker>);

impl WakeList {
    pub fn with_room_for(count: usize) -> Self {
        WakeList(Vec::with_capacity(count))
    }

    pub fn add(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.0.extend(wakers);
    }
}

impl Drop for WakeList {
    #[inline]
    fn drop(&mut self) {
        // Mostly there is none, and looking is all that it costs.
        if !self.0.is_empty() {
            wake_all(self.0.drain(..));
        }
    }
}

/// Wakes them all. A waker is code of others, and one that panics keeps no other waiter waiting:
/// its panic has been reported by the panic hook, and ends here, because the caller or the thread
/// that happens to wake it has done nothing wrong.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}

struct Parker {
    thread: Thread,
    woken: std::sync::atomic::AtomicBool,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

/// Polls until ready, parking this thread in between.
pub(crate) fn block<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    thread_local! {
        static PARKER: (Arc<Parker>, Waker, Cell<u32>) = {
            let parker = Arc::new(Parker {
                thread: thread::current(),
                woken: std::sync::atomic::AtomicBool::new(false),
            });
            (parker.clone(), parker.into(), Cell::new(0))
        };
    }
    PARKER.with(|(parker, waker, depth)| {
        let mut context = Context::from_waker(waker);
        depth.set(depth.get() + 1);
        loop {
            if let Poll::Ready(value) = poll(&mut context) {
                depth.set(depth.get() - 1);
                if depth.get() > 0 {
                    // A call that a waker made in the middle of another: it may have used up what
                    // was for the outer one, which looks once more.
                    parker.woken.store(true, Ordering::Release);
                }
                return value;
            }
            while !parker.woken.swap(false, Ordering::Acquire) {
                thread::park();
            }
        }
    })
}

/// Something that happens again and again, and that others wait for: space came back, the ring
/// was drained. A waiter reads the count first, looks whether it can continue, and if not waits for
/// the count to change.
#[derive(Debug)]
pub(crate) struct Event {
    count: AtomicU64,
    waited_for: AtomicBool,
    waiters: Mutex<Waiters>,
}

/// In the order in which they came, each once, however often it looks.
#[derive(Debug, Default)]
struct Waiters {
    wakers: Vec<Waker>,
    known: HashSet<[usize; 2]>,
}

impl Waiters {
    fn add(&mut self, waker: &Waker) {
        // What `Waker::will_wake` compares. Of ten thousand each would else look at all others.
        let identity = [waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr()];
        if self.known.insert(identity) {
            self.wakers.push(waker.clone());
        }
    }
}

impl Event {
    pub fn new() -> Self {
        Event {
            count: AtomicU64::new(0),
            waited_for: AtomicBool::new(false),
            waiters: Mutex::new(Waiters::default()),
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// It happened. Without waiters this is one atomic addition.
    pub fn notify(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        // Against the fence of `poll_since`: either that sees the count move, or this the flag.
        fence(Ordering::SeqCst);
        if self.waited_for.load(Ordering::Acquire) {
            let waiters = {
                let mut waiters = self.waiters.lock();
                self.waited_for.store(false, Ordering::Release);
                std::mem::take(&mut *waiters)
            };
            wake_all(waiters.wakers);
        }
    }

    /// Whether some wait for it.
    pub fn is_waited_for(&self) -> bool {
        self.waited_for.load(Ordering::Acquire)
    }

    /// Ready as soon as it has happened since the count was `since`.
    pub fn poll_since(&self, since: u64, context: &mut Context<'_>) -> Poll<()> {
        if self.count() != since {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.lock();
        waiters.add(context.waker());
        self.waited_for.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.count() != since { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Wakes one background thread.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    notified: std::sync::atomic::AtomicBool,
    thread: OnceLock<Thread>,
    #[cfg(onlyonce_loom)]
    notifications: AtomicU64,
}

impl Notifier {
    /// The calling thread is the one to wake from now on.
    pub fn answer_here(&self) {
        let _ = self.thread.set(thread::current());
    }

    /// Whether a thread comes when it is notified; for that thread itself none does, because it is
    /// not to wait for itself. A waker can make it a caller.
    pub fn has_listener(&self) -> bool {
        self.thread.get().is_some_and(|thread| thread.id() != thread::current().id())
    }

    /// Whether the calling thread is the one that it wakes.
    pub fn is_answered_here(&self) -> bool {
        self.thread.get().is_some_and(|thread| thread.id() == thread::current().id())
    }

    pub fn notify(&self) {
        #[cfg(onlyonce_loom)]
        self.notifications.fetch_add(1, Ordering::SeqCst);
        if !self.notified.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Whether it was notified since this was asked last.
    #[cfg(all(test, not(onlyonce_loom)))]
    pub fn was_notified(&self) -> bool {
        self.notified.swap(false, Ordering::SeqCst)
    }

    /// How often it was notified, for models, in which no thread sleeps for real.
    #[cfg(all(test, onlyonce_loom))]
    pub fn notifications(&self) -> u64 {
        self.notifications.load(Ordering::SeqCst)
    }

    /// Sleeps until notified, or for at most `at_most`.
    pub fn wait(&self, at_most: Option<Duration>) {
        if self.notified.swap(false, Ordering::SeqCst) {
            return;
        }
        match at_most {
            Some(duration) => thread::park_timeout(duration),
            None => thread::park(),
        }
        // Reads what the notifying thread had written before.
        self.notified.swap(false, Ordering::SeqCst);
    }
}

impl Wake for Notifier {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

#[cfg(all(test, onlyonce_loom))]
mod loom_tests {
    use super::*;
    use loom::{future::block_on, thread};
    use std::future::poll_fn;

    /// A waiter that has read the count before it looked never misses what happens after.
    #[test]
    fn an_event_is_not_missed() {
        loom::model(|| {
            let event = Arc::new(Event::new());
            let happened = Arc::new(AtomicBool::new(false));
            let waiter = {
                let (event, happened) = (event.clone(), happened.clone());
                thread::spawn(move || {
                    loop {
                        let since = event.count();
                        if happened.load(Ordering::SeqCst) {
                            break;
                        }
                        block_on(poll_fn(|context| event.poll_since(since, context)));
                    }
                })
            };
            happened.store(true, Ordering::SeqCst);
            event.notify();
            waiter.join().unwrap();
        });
    }
}
