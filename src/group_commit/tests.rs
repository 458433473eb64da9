//! A lane polled by hand: who leads, who is woken, who rings the bell. The schedules of several
//! threads are loom's; here is one thread, except where a leader waits for others.

use super::*;
use std::{
    cell::{Cell, RefCell},
    sync::atomic::AtomicUsize as Count,
    task::Wake,
};

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(Count);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A disk for one thread: what is written, and how often it was synced.
#[derive(Default)]
struct Disk {
    written: Cell<u64>,
    syncs: Cell<u32>,
    fails: Cell<bool>,
}

impl Disk {
    fn write(&self) -> u64 {
        self.written.set(self.written.get() + 1);
        self.written.get()
    }

    /// The same disk, and what happens while its sync runs.
    fn and<F: Fn()>(&self, meanwhile: F) -> And<'_, F> {
        And { disk: self, meanwhile }
    }
}

impl Commit for Disk {
    fn commit(&self) -> Result<u64, Poisoned> {
        self.syncs.set(self.syncs.get() + 1);
        if self.fails.get() { Err(Poisoned) } else { Ok(self.written.get()) }
    }
}

struct And<'a, F> {
    disk: &'a Disk,
    meanwhile: F,
}

impl<F: Fn()> Commit for And<'_, F> {
    fn commit(&self) -> Result<u64, Poisoned> {
        let result = self.disk.commit();
        (self.meanwhile)();
        result
    }
}

/// Somebody who waits for a position.
struct Waiter<'a> {
    lane: &'a GroupCommit,
    position: u64,
    caller: Caller,
    place: WaiterId,
    woken: Arc<Woken>,
}

impl<'a> Waiter<'a> {
    fn new(lane: &'a GroupCommit, position: u64, caller: Caller) -> Self {
        Waiter { lane, position, caller, place: WaiterId::default(), woken: Arc::default() }
    }

    fn poll(&mut self, disk: &impl Commit) -> Poll<Result<(), Poisoned>> {
        let waker = self.woken.clone().into();
        let context = &mut Context::from_waker(&waker);
        self.lane.poll(disk, self.position, self.caller, &mut self.place, context)
    }

    fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }
}

const DONE: Poll<Result<(), Poisoned>> = Poll::Ready(Ok(()));
const FAILED: Poll<Result<(), Poisoned>> = Poll::Ready(Err(Poisoned));

/// A lane whose bell is answered, as that of a store with threads.
fn attended() -> (GroupCommit, Arc<Notifier>) {
    let bell = Arc::new(Notifier::default());
    bell.answer_here();
    (GroupCommit::new(bell.clone(), None), bell)
}

#[test]
fn a_thread_that_finds_nobody_leading_leads() {
    for (lane, bell) in [attended(), (GroupCommit::new(Arc::default(), None), Arc::default())] {
        let disk = Disk::default();
        let position = disk.write();
        assert_eq!(lane.durable(), 0);
        assert_eq!(Waiter::new(&lane, position, Caller::Thread).poll(&disk), DONE);
        assert_eq!((lane.durable(), disk.syncs.get(), bell.was_rung()), (1, 1, false));
    }
}

#[test]
fn a_task_leads_only_where_no_thread_does_it() {
    let lane = GroupCommit::new(Arc::default(), None);
    let disk = Disk::default();
    assert_eq!(Waiter::new(&lane, disk.write(), Caller::Task).poll(&disk), DONE);

    let (lane, bell) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&lane, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    assert_eq!((disk.syncs.get(), bell.was_rung()), (0, true));
    lane.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), task.wakes(), bell.was_rung()), (1, 1, false));
    assert_eq!(task.poll(&disk), DONE);
}

#[test]
fn what_is_durable_needs_no_sync_and_what_is_above_does() {
    let (lane, _) = attended();
    let disk = Disk::default();
    disk.written.set(5);
    lane.lead_once(&disk);
    disk.written.set(6);
    assert_eq!(Waiter::new(&lane, 5, Caller::Task).poll(&disk), DONE);
    assert_eq!(disk.syncs.get(), 1);
    assert_eq!(Waiter::new(&lane, 6, Caller::Thread).poll(&disk), DONE);
    assert_eq!(disk.syncs.get(), 2);
}

#[test]
fn the_store_s_thread_leads_when_somebody_waits_or_when_it_is_told_to() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    disk.write();
    lane.lead_if_needed(&disk);
    assert_eq!(disk.syncs.get(), 0);
    lane.lead_once(&disk);
    assert_eq!((disk.syncs.get(), lane.durable()), (1, 1));

    lane.request(disk.write());
    assert!(bell.was_rung());
    lane.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), lane.durable()), (2, 2));
    lane.wake_worker();
    assert!(bell.was_rung());
}

#[test]
fn nobody_leads_beside_a_leader() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let (thread, task) = (Caller::Thread, Caller::Task);
    let late = RefCell::new([thread, thread, task].map(|c| Waiter::new(&lane, first + 1, c)));
    let told: Arc<Woken> = Arc::default();
    let group = disk.and(|| {
        disk.write();
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
        lane.lead_if_needed(&disk);
        lane.lead_once(&disk);
        lane.request(first + 1);
        assert!(lane.wake_at(first + 1, told.clone().into()).is_none());
        assert_eq!(disk.syncs.get(), 1, "two leaders");
        assert!(!bell.was_rung(), "the leader looks after them");
    });
    assert_eq!(Waiter::new(&lane, first, Caller::Thread).poll(&group), DONE);
    assert_eq!((disk.syncs.get(), lane.durable()), (1, first));
    // One thread is told to lead on; it isn't done yet.
    let wakes = late.borrow().iter().map(Waiter::wakes).collect::<Vec<_>>();
    assert_eq!((wakes, bell.was_rung()), (vec![1, 0, 0], false));
    let [next, rest @ ..] = &mut *late.borrow_mut();
    assert_eq!(next.poll(&disk), DONE);
    assert_eq!((disk.syncs.get(), told.0.load(Ordering::SeqCst)), (2, 1));
    for waiter in rest {
        assert_eq!((waiter.wakes(), waiter.poll(&disk)), (1, DONE));
    }
    lane.lead_if_needed(&disk);
    assert_eq!(disk.syncs.get(), 2, "nobody is left");
}

#[test]
fn where_only_tasks_are_left_the_bell_is_rung() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let late = RefCell::new(Waiter::new(&lane, first + 1, Caller::Task));
    let group = disk.and(|| {
        disk.write();
        assert_eq!(late.borrow_mut().poll(&disk), Poll::Pending);
    });
    assert_eq!(Waiter::new(&lane, first, Caller::Thread).poll(&group), DONE);
    assert_eq!((late.borrow().wakes(), bell.was_rung()), (0, true));
}

#[test]
fn a_position_is_told_once_it_is_durable() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    let [first, second] = [disk.write(), disk.write()];
    let woken: Arc<Woken> = Arc::default();
    assert!(lane.wake_at(first, woken.clone().into()).is_none());
    assert!(bell.was_rung());
    disk.written.set(first);
    lane.lead_if_needed(&disk);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(lane.wake_at(first, woken.clone().into()).is_some());
    assert!(lane.wake_at(second, woken.clone().into()).is_none());
    lane.fail();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert!(lane.wake_at(second, woken.clone().into()).is_some());
}

#[test]
fn a_failure_reaches_those_who_wait_and_those_who_come() {
    let (lane, _) = attended();
    let disk = Disk::default();
    assert_eq!(Waiter::new(&lane, disk.write(), Caller::Thread).poll(&disk), DONE);
    let mut task = Waiter::new(&lane, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    disk.fails.set(true);
    lane.lead_if_needed(&disk);
    assert_eq!((task.wakes(), task.poll(&disk)), (1, FAILED));
    // Also when a later sync would succeed: it would prove nothing.
    disk.fails.set(false);
    assert_eq!(Waiter::new(&lane, 2, Caller::Thread).poll(&disk), FAILED);
    lane.lead_once(&disk);
    lane.request(3);
    lane.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), lane.durable()), (2, 1));
    assert_eq!(Waiter::new(&lane, 1, Caller::Thread).poll(&disk), DONE);
}

#[test]
fn who_polls_again_keeps_its_place_and_the_last_waker_counts() {
    let (lane, _) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&lane, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    let before = std::mem::take(&mut task.woken);
    assert_eq!(task.poll(&disk), Poll::Pending);
    assert_eq!(lane.state.lock().waiters.len(), 1);
    lane.lead_if_needed(&disk);
    assert_eq!((before.0.load(Ordering::SeqCst), task.wakes()), (0, 1));
}

#[test]
fn who_leaves_is_not_woken_and_its_write_becomes_durable() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    let mut tasks = [disk.write(), disk.write()].map(|at| Waiter::new(&lane, at, Caller::Task));
    tasks.iter_mut().for_each(|task| assert_eq!(task.poll(&disk), Poll::Pending));
    assert!(bell.was_rung());
    lane.leave(&mut tasks[1].place);
    assert!(!bell.was_rung());
    lane.lead_if_needed(&disk);
    assert_eq!((lane.durable(), tasks[0].wakes(), tasks[1].wakes()), (2, 1, 0));
    // Its place is gone, and nobody waits.
    tasks.iter_mut().for_each(|task| lane.leave(&mut task.place));
    assert!(!bell.was_rung());
}

#[test]
fn who_leaves_after_its_release_takes_nobody_else_s_waker() {
    let (lane, _) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&lane, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    let told: Arc<Woken> = Arc::default();
    assert!(lane.wake_at(2, told.clone().into()).is_none());
    lane.lead_if_needed(&disk);
    lane.leave(&mut task.place);
    disk.write();
    lane.lead_if_needed(&disk);
    assert_eq!((task.wakes(), told.0.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn who_was_to_lead_and_leaves_passes_it_on() {
    for others in [Caller::Thread, Caller::Task] {
        let (lane, bell) = attended();
        let disk = Disk::default();
        let first = disk.write();
        let late = RefCell::new(
            [Caller::Thread, others].map(|caller| Waiter::new(&lane, first + 1, caller)),
        );
        let group = disk.and(|| {
            disk.write();
            late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
        });
        assert_eq!(Waiter::new(&lane, first, Caller::Thread).poll(&group), DONE);
        let [next, other] = &mut *late.borrow_mut();
        assert_eq!((next.wakes(), other.wakes(), bell.was_rung()), (1, 0, false));
        lane.leave(&mut next.place);
        let told = (other.wakes(), bell.was_rung());
        assert_eq!(told, if others == Caller::Thread { (1, false) } else { (0, true) });
        lane.lead_if_needed(&disk);
        assert_eq!(other.poll(&disk), DONE);
    }
}

#[test]
fn who_leaves_while_another_leads_disturbs_nobody() {
    let (lane, bell) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let late = RefCell::new([first + 1; 2].map(|at| Waiter::new(&lane, at, Caller::Thread)));
    let group = disk.and(|| {
        disk.write();
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
    });
    assert_eq!(Waiter::new(&lane, first, Caller::Thread).poll(&group), DONE);
    // The first was told to lead; before it comes, the lane is led by somebody else.
    let group = disk.and(|| {
        let [next, other] = &mut *late.borrow_mut();
        lane.leave(&mut next.place);
        assert_eq!((other.wakes(), bell.was_rung()), (0, false));
    });
    lane.lead_once(&group);
    assert_eq!((late.borrow().each_ref().map(Waiter::wakes), lane.durable()), ([1, 1], 2));
}

#[test]
fn a_group_is_expected_to_be_as_large_as_the_larger_of_the_last_two() {
    let (mut lane, _) = attended();
    lane.rendezvous = Duration::ZERO;
    let disk = Disk::default();
    let groups = |lane: &GroupCommit| lane.state.lock().last_groups;
    // Two who wait and one who leads, and two who come meanwhile.
    let mut tasks = [disk.write(), disk.write()].map(|at| Waiter::new(&lane, at, Caller::Task));
    tasks.iter_mut().for_each(|task| assert_eq!(task.poll(&disk), Poll::Pending));
    let late = RefCell::new([6, 7].map(|at| Waiter::new(&lane, at, Caller::Task)));
    let group = disk.and(|| {
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
    });
    assert_eq!(Waiter::new(&lane, disk.write(), Caller::Thread).poll(&group), DONE);
    assert_eq!(groups(&lane), [5, 0]);
    disk.written.set(7);
    lane.lead_if_needed(&disk);
    assert_eq!(groups(&lane), [2, 5]);
    lane.lead_once(&disk);
    assert_eq!(groups(&lane), [0, 2]);
}

/// A disk that several threads write to.
#[derive(Default)]
struct Shared {
    written: AtomicU64,
    syncs: AtomicU64,
    /// A sync doesn't return while this is locked.
    gate: Mutex<()>,
}

impl Commit for Shared {
    fn commit(&self) -> Result<u64, Poisoned> {
        let upto = self.written.load(Ordering::SeqCst);
        self.syncs.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
        Ok(upto)
    }
}

/// A lane whose leaders wait for those whom they expect as long as it may take on a busy machine.
fn patient(turn: Option<Arc<Turn>>) -> GroupCommit {
    let mut lane = GroupCommit::new(Arc::default(), turn);
    lane.rendezvous = Duration::from_secs(60);
    lane
}

fn write_and_wait(lane: &GroupCommit, disk: &Shared) {
    let position = disk.written.fetch_add(1, Ordering::SeqCst) + 1;
    let mut place = WaiterId::default();
    let wait =
        |context: &mut Context<'_>| lane.poll(disk, position, Caller::Thread, &mut place, context);
    crate::sync::wait::block(wait).unwrap();
}

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came about");
        yield_now();
    }
}

/// Gives others time to do what they must not do.
fn dawdle() {
    (0..1000).for_each(|_| yield_now());
}

#[test]
fn a_leader_waits_for_the_callers_of_the_last_group() {
    let lane = patient(None);
    let disk = Shared::default();
    lane.state.lock().last_groups = [1, 2];
    std::thread::scope(|scope| {
        scope.spawn(|| write_and_wait(&lane, &disk));
        until(|| lane.state.lock().leading);
        dawdle();
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 0, "it didn't wait");
        write_and_wait(&lane, &disk);
    });
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn who_has_waited_for_its_turn_waits_for_those_whom_the_other_lane_released() {
    let turn = Arc::new(Turn::new());
    let lanes = [(); 2].map(|()| patient(Some(turn.clone())));
    let disks = [(); 2].map(|()| Shared::default());
    lanes[0].state.lock().last_groups = [2, 0];
    std::thread::scope(|scope| {
        let gate = disks[0].gate.lock();
        // Two in a group of the first lane, and one who waits for its turn in the second.
        for _ in 0..2 {
            scope.spawn(|| {
                write_and_wait(&lanes[0], &disks[0]);
                dawdle();
                write_and_wait(&lanes[1], &disks[1]);
            });
        }
        until(|| disks[0].syncs.load(Ordering::SeqCst) == 1);
        scope.spawn(|| write_and_wait(&lanes[1], &disks[1]));
        until(|| turn.waited.load(Ordering::SeqCst) == 1);
        drop(gate);
    });
    assert_eq!(disks[1].syncs.load(Ordering::SeqCst), 1, "all three in one group");
}
