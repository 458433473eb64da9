//! Room in a ring, granted by hand.

use super::*;
use crate::{
    fingerprint::Fingerprint,
    group_commit::WaiterId,
    key::{KeyRef, Scope},
    log::{Draft, Space, largest_frame},
    poison::Poison,
    storage::{SimStorage, Storage},
    sync::wait::Notifier,
    token::Token,
};
use std::task::{Context, Poll, Waker};

const FRAME: usize = 4096;
/// Frames that the ring holds.
const FRAMES: usize = 4;

struct Log {
    appender: Appender,
    shared: Shared,
}

impl Log {
    fn new() -> Self {
        let disk = SimStorage::new(1);
        let ring = disk.create("ring", (FRAMES * FRAME) as u64).unwrap().map_mut().unwrap();
        let slot = Arc::new(Slot::create(&disk, 1, 1 << 20, 1).unwrap());
        let shared = Shared {
            life: 1,
            frame_max: largest_frame(FRAME) as u64,
            buffered: false,
            space: Space::default(),
            poison: Arc::new(Poison::default()),
            timings: Default::default(),
        };
        let usable = slot.usable(shared.frame_max);
        shared.space.give(slot, usable);
        let group = GroupCommit::new(Arc::default(), None);
        let appender = Appender::new(MAIN_CLASS, FIRST_POSITION, ring, group, Arc::default());
        Log { appender, shared }
    }

    /// Appends a frame of [`FRAME`] bytes; whether there was room.
    fn append(&self) -> bool {
        let mut frame = Encoded::default();
        let scope = Scope::new("").unwrap();
        let draft = |body: &[u8], frame: &mut Encoded| {
            frame.draft(&Draft {
                kind: Kind::Completed,
                key: KeyRef::new(&scope, "k").unwrap(),
                fingerprint: Fingerprint::from_bytes([1; 16]),
                attempt: 1,
                token: Token::new(1).unwrap(),
                time_ms: 1,
                replay_until_ms: 1,
                expires_ms: 1,
                head: &[],
                body,
            });
        };
        draft(&[], &mut frame);
        let body = vec![7; FRAME - frame.len()];
        draft(&body, &mut frame);
        let listing = Listing { hash: 1, kind: Kind::Completed, time_ms: 1, expires_ms: 1 };
        loop {
            match self.appender.append(&self.shared, &mut frame, listing, Roll::Any, 1) {
                Ok(_) => return true,
                Err(Busy::Ring { .. }) => return false,
                Err(Busy::Segment { .. }) => assert!(self.appender.roll(&self.shared).unwrap()),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

/// A thread that drains for itself grants room to the tasks that came first, and a caller that
/// comes later leaves it to them, until nothing is left to drain.
#[test]
fn room_that_was_granted_to_a_task_is_kept_for_it() {
    let log = Log::new();
    let mut context = Context::from_waker(Waker::noop());
    (0..FRAMES).for_each(|_| assert!(log.append()));
    assert!(!log.append());
    let mut places = [(); FRAMES].map(|()| WaiterId::default());
    let mut poll =
        |place: &mut WaiterId| log.appender.poll_space(FRAME as u64, place, &mut context);
    places.iter_mut().for_each(|place| assert_eq!(poll(place), Poll::Pending));
    // A piece is half of the ring.
    assert!(log.appender.serve(&log.shared, false).unwrap());
    let ready = places.iter_mut().map(|place| poll(place).is_ready()).collect::<Vec<_>>();
    assert_eq!(ready, [true, true, false, false]);
    assert!(!log.append(), "a newcomer takes what was granted");
    log.appender.leave_space(FRAME as u64, &mut places[0]);
    assert!(log.append());
    assert!(!log.append());
    // All of it is drained and granted; the tasks may not be polled for long.
    log.appender.drain(&log.shared).unwrap();
    assert!(log.append());
    for place in &mut places {
        log.appender.leave_space(FRAME as u64, place);
    }
    assert_eq!(log.appender.room.granted(), 0);
}

/// Of several threads that find no room one drains; the others sleep, each signals the draining
/// thread, and each is woken when a part of the ring is free, or when there is no more draining.
#[test]
fn threads_sleep_until_a_part_of_the_ring_is_free() {
    let log = Log::new();
    let appender = &log.appender;
    std::thread::scope(|threads| {
        threads.spawn(|| appender.drain_notifier.answer_here());
    });
    assert!(appender.is_served());
    let woken = [(); 3].map(|()| Arc::new(Notifier::default()));
    let poll = |index: usize| {
        let waker = Waker::from(woken[index].clone());
        let mut context = Context::from_waker(&waker);
        appender.poll_thread_space(&log.shared, FRAME as u64, &mut context)
    };
    let wakes = || woken.each_ref().map(|waker| waker.was_notified());

    (0..FRAMES).for_each(|_| assert!(log.append()));
    assert!(!log.append());
    let draining = appender.draining.lock();
    assert!(poll(0).is_pending() && appender.take_call());
    assert!(poll(1).is_pending() && appender.take_call());
    assert_eq!(wakes(), [false; 3]);
    drop(draining);
    assert!(poll(2).is_ready(), "no other thread drains");
    assert_eq!(wakes(), [true, true, false]);
    assert!(poll(0).is_ready() && poll(1).is_ready());

    while log.append() {}
    let draining = appender.draining.lock();
    assert!(poll(0).is_pending());
    drop(draining);
    assert!(appender.serve(&log.shared, true).unwrap());
    assert_eq!(wakes(), [true, false, false]);

    while log.append() {}
    let _draining = appender.draining.lock();
    assert!(poll(1).is_pending());
    appender.release_waiters();
    assert_eq!(wakes(), [false, true, false]);
}
