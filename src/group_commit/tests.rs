//! A group commit polled by hand: who leads, who is woken, who notifies the store's thread. The
//! schedules of several threads are loom's; here is one thread, except where a leader waits for
//! others.

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

/// A caller that waits for a position.
struct Waiter<'a> {
    group_commit: &'a GroupCommit,
    position: u64,
    caller: Caller,
    place: WaiterId,
    woken: Arc<Woken>,
}

impl<'a> Waiter<'a> {
    fn new(group_commit: &'a GroupCommit, position: u64, caller: Caller) -> Self {
        Waiter { group_commit, position, caller, place: WaiterId::default(), woken: Arc::default() }
    }

    fn poll(&mut self, disk: &impl Commit) -> Poll<Result<(), Poisoned>> {
        let waker = self.woken.clone().into();
        let context = &mut Context::from_waker(&waker);
        self.group_commit.poll(disk, self.position, self.caller, &mut self.place, context)
    }

    fn wakes(&self) -> usize {
        self.woken.0.load(Ordering::SeqCst)
    }
}

const DONE: Poll<Result<(), Poisoned>> = Poll::Ready(Ok(()));
const FAILED: Poll<Result<(), Poisoned>> = Poll::Ready(Err(Poisoned));

/// A group commit whose notifier is answered, as that of a store with threads.
fn attended() -> (GroupCommit, Arc<Notifier>) {
    let notifier = Arc::new(Notifier::default());
    let answers = notifier.clone();
    std::thread::spawn(move || answers.answer_here()).join().unwrap();
    (GroupCommit::new(notifier.clone(), None), notifier)
}

#[test]
fn a_thread_that_finds_nobody_leading_leads() {
    for (group_commit, notifier) in
        [attended(), (GroupCommit::new(Arc::default(), None), Arc::default())]
    {
        let disk = Disk::default();
        let position = disk.write();
        assert_eq!(group_commit.durable(), 0);
        assert_eq!(Waiter::new(&group_commit, position, Caller::Thread).poll(&disk), DONE);
        assert_eq!(
            (group_commit.durable(), disk.syncs.get(), notifier.was_notified()),
            (1, 1, false)
        );
    }
}

#[test]
fn a_task_leads_only_where_no_thread_does_it() {
    let group_commit = GroupCommit::new(Arc::default(), None);
    let disk = Disk::default();
    assert_eq!(Waiter::new(&group_commit, disk.write(), Caller::Task).poll(&disk), DONE);

    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&group_commit, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    assert_eq!((disk.syncs.get(), notifier.was_notified()), (0, true));
    group_commit.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), task.wakes(), notifier.was_notified()), (1, 1, false));
    assert_eq!(task.poll(&disk), DONE);
}

#[test]
fn what_is_durable_needs_no_sync_and_what_is_above_does() {
    let (group_commit, _) = attended();
    let disk = Disk::default();
    disk.written.set(5);
    group_commit.lead_once(&disk);
    disk.written.set(6);
    assert_eq!(Waiter::new(&group_commit, 5, Caller::Task).poll(&disk), DONE);
    assert_eq!(disk.syncs.get(), 1);
    assert_eq!(Waiter::new(&group_commit, 6, Caller::Thread).poll(&disk), DONE);
    assert_eq!(disk.syncs.get(), 2);
}

#[test]
fn the_store_s_thread_leads_when_somebody_waits_or_when_it_is_told_to() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    disk.write();
    group_commit.lead_if_needed(&disk);
    assert_eq!(disk.syncs.get(), 0);
    group_commit.lead_once(&disk);
    assert_eq!((disk.syncs.get(), group_commit.durable()), (1, 1));

    group_commit.request(disk.write());
    assert!(notifier.was_notified());
    group_commit.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), group_commit.durable()), (2, 2));
    group_commit.wake_worker();
    assert!(notifier.was_notified());
}

#[test]
fn nobody_leads_beside_a_leader() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let (thread, task) = (Caller::Thread, Caller::Task);
    let late =
        RefCell::new([thread, thread, task].map(|c| Waiter::new(&group_commit, first + 1, c)));
    let told: Arc<Woken> = Arc::default();
    let group = disk.and(|| {
        disk.write();
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
        group_commit.lead_if_needed(&disk);
        group_commit.lead_once(&disk);
        group_commit.request(first + 1);
        assert!(group_commit.wake_at(first + 1, told.clone().into()).is_none());
        assert_eq!(disk.syncs.get(), 1, "two leaders");
        assert!(!notifier.was_notified(), "the leader looks after them");
    });
    assert_eq!(Waiter::new(&group_commit, first, Caller::Thread).poll(&group), DONE);
    assert_eq!((disk.syncs.get(), group_commit.durable()), (1, first));
    // One thread is told to lead on; it isn't done yet.
    let wakes = late.borrow().iter().map(Waiter::wakes).collect::<Vec<_>>();
    assert_eq!((wakes, notifier.was_notified()), (vec![1, 0, 0], false));
    let [next, rest @ ..] = &mut *late.borrow_mut();
    assert_eq!(next.poll(&disk), DONE);
    assert_eq!((disk.syncs.get(), told.0.load(Ordering::SeqCst)), (2, 1));
    for waiter in rest {
        assert_eq!((waiter.wakes(), waiter.poll(&disk)), (1, DONE));
    }
    group_commit.lead_if_needed(&disk);
    assert_eq!(disk.syncs.get(), 2, "none is left");
}

#[test]
fn where_only_tasks_are_left_the_bell_is_rung() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let late = RefCell::new(Waiter::new(&group_commit, first + 1, Caller::Task));
    let group = disk.and(|| {
        disk.write();
        assert_eq!(late.borrow_mut().poll(&disk), Poll::Pending);
    });
    assert_eq!(Waiter::new(&group_commit, first, Caller::Thread).poll(&group), DONE);
    assert_eq!((late.borrow().wakes(), notifier.was_notified()), (0, true));
}

#[test]
fn a_position_is_told_once_it_is_durable() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let [first, second] = [disk.write(), disk.write()];
    let woken: Arc<Woken> = Arc::default();
    assert!(group_commit.wake_at(first, woken.clone().into()).is_none());
    assert!(notifier.was_notified());
    disk.written.set(first);
    group_commit.lead_if_needed(&disk);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(group_commit.wake_at(first, woken.clone().into()).is_some());
    assert!(group_commit.wake_at(second, woken.clone().into()).is_none());
    group_commit.fail();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert!(group_commit.wake_at(second, woken.clone().into()).is_some());
}

#[test]
fn a_failure_reaches_those_who_wait_and_those_who_come() {
    let (group_commit, _) = attended();
    let disk = Disk::default();
    assert_eq!(Waiter::new(&group_commit, disk.write(), Caller::Thread).poll(&disk), DONE);
    let mut task = Waiter::new(&group_commit, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    disk.fails.set(true);
    group_commit.lead_if_needed(&disk);
    assert_eq!((task.wakes(), task.poll(&disk)), (1, FAILED));
    // Also when a later sync would succeed: it would prove nothing.
    disk.fails.set(false);
    assert_eq!(Waiter::new(&group_commit, 2, Caller::Thread).poll(&disk), FAILED);
    group_commit.lead_once(&disk);
    group_commit.request(3);
    group_commit.lead_if_needed(&disk);
    assert_eq!((disk.syncs.get(), group_commit.durable()), (2, 1));
    assert_eq!(Waiter::new(&group_commit, 1, Caller::Thread).poll(&disk), DONE);
}

#[test]
fn who_polls_again_keeps_its_place_and_the_last_waker_counts() {
    let (group_commit, _) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&group_commit, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    let before = std::mem::take(&mut task.woken);
    assert_eq!(task.poll(&disk), Poll::Pending);
    assert_eq!(group_commit.state.lock().waiters.len(), 1);
    group_commit.lead_if_needed(&disk);
    assert_eq!((before.0.load(Ordering::SeqCst), task.wakes()), (0, 1));
}

#[test]
fn who_leaves_is_not_woken_and_its_write_becomes_durable() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let mut tasks =
        [disk.write(), disk.write()].map(|at| Waiter::new(&group_commit, at, Caller::Task));
    tasks.iter_mut().for_each(|task| assert_eq!(task.poll(&disk), Poll::Pending));
    assert!(notifier.was_notified());
    group_commit.leave(&mut tasks[1].place);
    assert!(!notifier.was_notified());
    group_commit.lead_if_needed(&disk);
    assert_eq!((group_commit.durable(), tasks[0].wakes(), tasks[1].wakes()), (2, 1, 0));
    // Its place is gone, and there are no waiters.
    tasks.iter_mut().for_each(|task| group_commit.leave(&mut task.place));
    assert!(!notifier.was_notified());
}

#[test]
fn who_leaves_after_its_release_takes_nobody_else_s_waker() {
    let (group_commit, _) = attended();
    let disk = Disk::default();
    let mut task = Waiter::new(&group_commit, disk.write(), Caller::Task);
    assert_eq!(task.poll(&disk), Poll::Pending);
    let told: Arc<Woken> = Arc::default();
    assert!(group_commit.wake_at(2, told.clone().into()).is_none());
    group_commit.lead_if_needed(&disk);
    group_commit.leave(&mut task.place);
    disk.write();
    group_commit.lead_if_needed(&disk);
    assert_eq!((task.wakes(), told.0.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn who_was_to_lead_and_leaves_passes_it_on() {
    for others in [Caller::Thread, Caller::Task] {
        let (group_commit, notifier) = attended();
        let disk = Disk::default();
        let first = disk.write();
        let late = RefCell::new(
            [Caller::Thread, others].map(|caller| Waiter::new(&group_commit, first + 1, caller)),
        );
        let group = disk.and(|| {
            disk.write();
            late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
        });
        assert_eq!(Waiter::new(&group_commit, first, Caller::Thread).poll(&group), DONE);
        let [next, other] = &mut *late.borrow_mut();
        assert_eq!((next.wakes(), other.wakes(), notifier.was_notified()), (1, 0, false));
        group_commit.leave(&mut next.place);
        let told = (other.wakes(), notifier.was_notified());
        assert_eq!(told, if others == Caller::Thread { (1, false) } else { (0, true) });
        group_commit.lead_if_needed(&disk);
        assert_eq!(other.poll(&disk), DONE);
    }
}

#[test]
fn who_leaves_while_another_leads_disturbs_nobody() {
    let (group_commit, notifier) = attended();
    let disk = Disk::default();
    let first = disk.write();
    let late =
        RefCell::new([first + 1; 2].map(|at| Waiter::new(&group_commit, at, Caller::Thread)));
    let group = disk.and(|| {
        disk.write();
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
    });
    assert_eq!(Waiter::new(&group_commit, first, Caller::Thread).poll(&group), DONE);
    // The first was woken to lead; before it comes, another caller leads.
    let group = disk.and(|| {
        let [next, other] = &mut *late.borrow_mut();
        group_commit.leave(&mut next.place);
        assert_eq!((other.wakes(), notifier.was_notified()), (0, false));
    });
    group_commit.lead_once(&group);
    assert_eq!((late.borrow().each_ref().map(Waiter::wakes), group_commit.durable()), ([1, 1], 2));
}

#[test]
fn a_group_is_expected_to_be_as_large_as_the_larger_of_the_last_two() {
    let (mut group_commit, _) = attended();
    group_commit.rendezvous = Duration::ZERO;
    let disk = Disk::default();
    let groups = |group_commit: &GroupCommit| group_commit.state.lock().last_groups;
    // Two who wait and one who leads, and two who come meanwhile.
    let mut tasks =
        [disk.write(), disk.write()].map(|at| Waiter::new(&group_commit, at, Caller::Task));
    tasks.iter_mut().for_each(|task| assert_eq!(task.poll(&disk), Poll::Pending));
    let late = RefCell::new([6, 7].map(|at| Waiter::new(&group_commit, at, Caller::Task)));
    let group = disk.and(|| {
        late.borrow_mut().iter_mut().for_each(|w| assert_eq!(w.poll(&disk), Poll::Pending));
    });
    assert_eq!(Waiter::new(&group_commit, disk.write(), Caller::Thread).poll(&group), DONE);
    assert_eq!(groups(&group_commit), [5, 0]);
    disk.written.set(7);
    group_commit.lead_if_needed(&disk);
    assert_eq!(groups(&group_commit), [2, 5]);
    group_commit.lead_once(&disk);
    assert_eq!(groups(&group_commit), [0, 2]);
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

/// A group commit whose leaders wait for those whom they expect as long as it may take on a busy
/// machine.
fn patient(turn: Option<Arc<Turn>>) -> GroupCommit {
    let mut group_commit = GroupCommit::new(Arc::default(), turn);
    group_commit.rendezvous = Duration::from_secs(60);
    group_commit
}

fn write_and_wait(group_commit: &GroupCommit, disk: &Shared) {
    let position = disk.written.fetch_add(1, Ordering::SeqCst) + 1;
    let mut place = WaiterId::default();
    let wait = |context: &mut Context<'_>| {
        group_commit.poll(disk, position, Caller::Thread, &mut place, context)
    };
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
    let group_commit = patient(None);
    let disk = Shared::default();
    group_commit.state.lock().last_groups = [1, 2];
    std::thread::scope(|scope| {
        scope.spawn(|| write_and_wait(&group_commit, &disk));
        until(|| group_commit.state.lock().leading);
        dawdle();
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 0, "it didn't wait");
        write_and_wait(&group_commit, &disk);
    });
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn who_has_waited_for_its_turn_waits_for_those_whom_the_other_lane_released() {
    let turn = Arc::new(Turn::new());
    let group_commits = [(); 2].map(|()| patient(Some(turn.clone())));
    let disks = [(); 2].map(|()| Shared::default());
    group_commits[0].state.lock().last_groups = [2, 0];
    std::thread::scope(|scope| {
        let gate = disks[0].gate.lock();
        // Two in a group of the first group commit, and one waiter for its turn in the second.
        for _ in 0..2 {
            scope.spawn(|| {
                write_and_wait(&group_commits[0], &disks[0]);
                dawdle();
                write_and_wait(&group_commits[1], &disks[1]);
            });
        }
        until(|| disks[0].syncs.load(Ordering::SeqCst) == 1);
        scope.spawn(|| write_and_wait(&group_commits[1], &disks[1]));
        until(|| turn.waited.load(Ordering::SeqCst) == 1);
        drop(gate);
    });
    assert_eq!(disks[1].syncs.load(Ordering::SeqCst), 1, "all three in one group");
}
