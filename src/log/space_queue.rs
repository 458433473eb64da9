//! Tasks that wait for room in a ring, in the order in which they came.
//!
//! As many are woken as there is room for: otherwise, of ten thousand that wait for a ring of four
//! thousand records, all would look each time that a few places become free.
//!
//! Ground rules. The thread that has drained grants room, whichever it is. What is granted is kept
//! for those tasks: an append of another caller leaves it alone, as long as something is left to
//! drain. A queued task signals the draining thread. A task that has been granted room, or gives
//! up, leaves the queue, and signals it again if others wait. When the thread is signalled it drains
//! until no task waits or the ring is empty. If then no task has been woken, because all of the ring
//! is granted to tasks that may not be polled for long, all are woken.

use crate::{
    group_commit::WaiterId,
    sync::wait::{Queue, WakeList},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(crate) struct SpaceQueue {
    /// Bytes granted to tasks that were woken and have not left yet. Changes under the lock.
    granted: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    tasks: Queue<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    /// Bytes of its frame.
    len: u64,
    waker: Waker,
}

impl SpaceQueue {
    /// Ready when room for `len` bytes has been granted. The first call queues.
    pub fn poll(&self, len: u64, place: &mut WaiterId, context: &mut Context<'_>) -> Poll<()> {
        let mut waker = context.waker().clone();
        let mut waiting = self.waiting.lock();
        let Some(id) = place.id else {
            place.id = Some(waiting.tasks.push(Waiter { len, waker }));
            return Poll::Pending;
        };
        let Some(waiter) = waiting.tasks.get_mut(id) else {
            return Poll::Ready(());
        };
        // The old one is dropped after the lock: a waker's own code runs under none.
        std::mem::swap(&mut waiter.waker, &mut waker);
        drop(waiting);
        Poll::Pending
    }

    /// Takes out a task that is about to try again, or is gone. Returns whether others wait.
    pub fn leave(&self, len: u64, place: &mut WaiterId) -> bool {
        let Some(id) = place.id.take() else { return false };
        let mut waiting = self.waiting.lock();
        let gone = waiting.tasks.remove(id);
        if gone.is_none() {
            self.granted.fetch_sub(len, Ordering::AcqRel);
        }
        let others = !waiting.tasks.is_empty();
        drop(waiting);
        drop(gone);
        others
    }

    /// Wakes the first tasks, as many as `free` bytes are enough for; with an `empty` ring all of
    /// them, if otherwise none would be woken. Returns whether some are left.
    pub fn grant(&self, free: u64, empty: bool) -> bool {
        let mut wakes = WakeList::default();
        let mut waiting = self.waiting.lock();
        let waited = waiting.tasks.len();
        self.wake_within(&mut waiting, free, &mut wakes);
        if empty && waiting.tasks.len() == waited {
            self.wake_within(&mut waiting, u64::MAX, &mut wakes);
        }
        !waiting.tasks.is_empty()
    }

    /// Bytes that are kept for tasks which have been woken.
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Acquire)
    }

    /// There will be no more draining: wakes all tasks, so that they find out why.
    pub fn release(&self) {
        let mut wakes = WakeList::default();
        self.wake_within(&mut self.waiting.lock(), u64::MAX, &mut wakes);
    }

    fn wake_within(&self, waiting: &mut Waiting, free: u64, wakes: &mut WakeList) {
        let fits = |first: &Waiter| self.granted() + first.len <= free;
        while waiting.tasks.front().is_some_and(fits) {
            let Waiter { len, waker } = waiting.tasks.pop_front().expect("seen above");
            self.granted.fetch_add(len, Ordering::AcqRel);
            wakes.add([waker]);
        }
    }
}

#[cfg(all(test, not(any(onlyonce_loom, onlyonce_shuttle))))]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Task {
        woken: Arc<Woken>,
        place: WaiterId,
    }

    impl Task {
        fn new() -> Self {
            Task { woken: Arc::default(), place: WaiterId::default() }
        }

        fn poll(&mut self, room: &SpaceQueue, len: u64) -> Poll<()> {
            let waker = Waker::from(self.woken.clone());
            room.poll(len, &mut self.place, &mut Context::from_waker(&waker))
        }
    }

    fn waiting<const N: usize>(room: &SpaceQueue) -> [Task; N] {
        [(); N].map(|()| {
            let mut task = Task::new();
            assert!(task.poll(room, 100).is_pending());
            task
        })
    }

    fn wakes<const N: usize>(tasks: &[Task; N]) -> [usize; N] {
        tasks.each_ref().map(|task| task.woken.0.load(Ordering::SeqCst))
    }

    #[test]
    fn as_many_are_woken_as_there_is_room_for() {
        let room = SpaceQueue::default();
        let mut tasks: [_; 4] = waiting(&room);
        assert!(room.grant(99, false), "none fits");
        assert!(room.grant(250, false));
        assert_eq!(wakes(&tasks), [1, 1, 0, 0]);
        // What was granted is not granted again.
        assert!(room.grant(250, false));
        assert_eq!(wakes(&tasks), [1, 1, 0, 0]);
        assert!(tasks[0].poll(&room, 100).is_ready());
        assert!(room.leave(100, &mut tasks[0].place), "two wait");
        assert!(room.grant(250, false));
        assert_eq!(wakes(&tasks), [1, 1, 1, 0]);
        assert!(!room.grant(400, false));
        assert_eq!(wakes(&tasks), [1; 4]);
    }

    #[test]
    fn those_who_are_woken_and_not_polled_keep_nobody_waiting() {
        let room = SpaceQueue::default();
        let tasks: [_; 3] = waiting(&room);
        assert!(room.grant(100, true));
        assert_eq!(wakes(&tasks), [1, 0, 0]);
        assert!(!room.grant(100, true));
        assert_eq!(wakes(&tasks), [1; 3]);
        assert!(!room.grant(100, true));
    }

    #[test]
    fn who_gives_up_keeps_nobody_waiting() {
        let room = SpaceQueue::default();
        let mut tasks: [_; 3] = waiting(&room);
        assert!(room.leave(100, &mut tasks[0].place));
        assert!(room.grant(100, false));
        assert_eq!(wakes(&tasks), [0, 1, 0]);
        // Woken, and dropped instead of polled.
        assert!(room.leave(100, &mut tasks[1].place));
        assert!(!room.grant(100, false));
        assert_eq!(wakes(&tasks), [0, 1, 1]);
        assert!(!room.leave(100, &mut tasks[2].place), "none is left");
        assert!(!room.leave(100, &mut tasks[2].place), "leaving twice is nothing");
        assert!(!room.grant(0, true));
    }

    #[test]
    fn all_are_released_in_the_end() {
        let room = SpaceQueue::default();
        let mut tasks: [_; 3] = waiting(&room);
        room.release();
        assert_eq!(wakes(&tasks), [1; 3]);
        for task in &mut tasks {
            assert!(task.poll(&room, 100).is_ready());
            assert!(!room.leave(100, &mut task.place));
        }
    }
}
