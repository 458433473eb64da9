//! Group commit under every schedule: no caller is acknowledged early or waits for ever.

use super::*;
use crate::sync::atomic::AtomicBool;
use loom::{future::block_on, thread};
use std::future::poll_fn;

/// The position that is written, and the one that has reached the disk.
struct Disk {
    written: AtomicU64,
    synced: AtomicU64,
    syncing: AtomicBool,
    /// The sync with this number fails.
    fails_at: u64,
    syncs: AtomicU64,
}

impl Disk {
    fn new(fails_at: u64) -> Arc<Self> {
        Arc::new(Disk {
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            fails_at,
            syncs: AtomicU64::new(0),
        })
    }

    fn write(&self) -> u64 {
        self.written.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Commit for Disk {
    fn commit(&self) -> Result<u64, Poisoned> {
        assert!(!self.syncing.swap(true, Ordering::SeqCst), "two leaders at once");
        let upto = self.written.load(Ordering::SeqCst);
        let fails = self.syncs.fetch_add(1, Ordering::SeqCst) + 1 == self.fails_at;
        if !fails {
            self.synced.store(upto, Ordering::SeqCst);
        }
        self.syncing.store(false, Ordering::SeqCst);
        if fails { Err(Poisoned) } else { Ok(upto) }
    }
}

fn wait(group: &GroupCommit, disk: &Disk, position: u64, caller: Caller) -> Result<(), Poisoned> {
    let mut place = WaiterId::default();
    block_on(poll_fn(|context| group.poll(disk, position, caller, &mut place, context)))
}

/// Writes, waits, and checks what it was told.
fn caller(group: Arc<GroupCommit>, disk: Arc<Disk>) -> thread::JoinHandle<Result<(), Poisoned>> {
    thread::spawn(move || {
        let position = disk.write();
        let result = wait(&group, &disk, position, Caller::Thread);
        if result.is_ok() {
            assert!(disk.synced.load(Ordering::SeqCst) >= position, "acknowledged early");
        }
        result
    })
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

#[test]
fn callers_lead_and_follow() {
    model(|| {
        let group = Arc::new(GroupCommit::new(Arc::default(), None));
        let disk = Disk::new(0);
        let callers: Vec<_> = (0..2).map(|_| caller(group.clone(), disk.clone())).collect();
        let position = disk.write();
        wait(&group, &disk, position, Caller::Thread).unwrap();
        assert!(disk.synced.load(Ordering::SeqCst) >= position);
        callers.into_iter().for_each(|c| c.join().unwrap().unwrap());
    });
}

#[test]
fn after_a_failed_sync_nobody_is_acknowledged_and_nobody_waits() {
    model(|| {
        let group = Arc::new(GroupCommit::new(Arc::default(), None));
        let disk = Disk::new(1);
        let other = caller(group.clone(), disk.clone());
        let position = disk.write();
        assert_eq!(wait(&group, &disk, position, Caller::Thread), Err(Poisoned));
        assert_eq!(other.join().unwrap(), Err(Poisoned));
    });
}

#[test]
fn a_task_is_served_by_a_leading_thread_or_rings_the_bell() {
    model(|| {
        let notifier = Arc::new(Notifier::default());
        notifier.answer_here();
        let group = Arc::new(GroupCommit::new(notifier.clone(), None));
        let disk = Disk::new(0);
        let task = {
            let (group, disk) = (group.clone(), disk.clone());
            thread::spawn(move || {
                let position = disk.write();
                wait(&group, &disk, position, Caller::Task).unwrap();
                assert!(disk.synced.load(Ordering::SeqCst) >= position);
            })
        };
        caller(group.clone(), disk.clone()).join().unwrap().unwrap();
        // The store's thread: it comes when notified. Twice is enough, for a notification may
        // precede or follow the commit above.
        for seen in 0..2 {
            while notifier.notifications() <= seen && group.durable() < 2 {
                loom::thread::yield_now();
            }
            group.lead_if_needed(&*disk);
        }
        task.join().unwrap();
    });
}

#[test]
fn two_lanes_take_turns() {
    model(|| {
        let turn = Arc::new(Turn::new());
        let groups =
            [(); 2].map(|()| Arc::new(GroupCommit::new(Arc::default(), Some(turn.clone()))));
        let disks = [(); 2].map(|()| Disk::new(0));
        let other = caller(groups[0].clone(), disks[0].clone());
        caller(groups[1].clone(), disks[1].clone()).join().unwrap().unwrap();
        other.join().unwrap().unwrap();
    });
}

/// The one whom a leader chooses to follow it may have gone: then the next one is told.
#[test]
fn who_leaves_hands_on_the_lead() {
    model(|| {
        let group = Arc::new(GroupCommit::new(Arc::default(), None));
        let disk = Disk::new(0);
        let other = caller(group.clone(), disk.clone());
        let leaver = {
            let (group, disk) = (group.clone(), disk.clone());
            thread::spawn(move || {
                let (position, mut place) = (disk.write(), WaiterId::default());
                let once = |context: &mut Context<'_>| {
                    Poll::Ready(group.poll(&*disk, position, Caller::Thread, &mut place, context))
                };
                let _ = block_on(poll_fn(once));
                group.leave(&mut place);
            })
        };
        let position = disk.write();
        wait(&group, &disk, position, Caller::Thread).unwrap();
        leaver.join().unwrap();
        other.join().unwrap().unwrap();
    });
}

/// A waiter for a key that another caller has completed waits for that record in a group commit.
fn is_told(fails_at: u64) {
    model(move || {
        let group = Arc::new(GroupCommit::new(Arc::default(), None));
        let disk = Disk::new(fails_at);
        let position = disk.write();
        let watcher = {
            let (group, disk) = (group.clone(), disk.clone());
            thread::spawn(move || {
                let mut registered = false;
                block_on(poll_fn(|context| {
                    let over = group.durable() >= position || group.state.lock().failed;
                    if !std::mem::replace(&mut registered, true) {
                        return match group.wake_at(position, context.waker().clone()) {
                            Some(_) => Poll::Ready(()),
                            None => Poll::Pending,
                        };
                    }
                    if over { Poll::Ready(()) } else { Poll::Pending }
                }));
                if fails_at == 0 {
                    assert!(disk.synced.load(Ordering::SeqCst) >= position, "told early");
                }
            })
        };
        assert_eq!(wait(&group, &disk, position, Caller::Thread).is_ok(), fails_at == 0);
        watcher.join().unwrap();
    });
}

#[test]
fn who_waits_for_a_record_is_told() {
    is_told(0);
}

#[test]
fn who_waits_for_a_record_is_told_of_a_failure() {
    is_told(1);
}
