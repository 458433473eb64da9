//! No task waits for the disk on its executor's thread: neither for a sync nor for a write, nor for
//! somebody who is at one. The store's threads do it, and tell.

use crate::common::{
    futures::{Woken, block_on},
    gate::{Gated, Shut},
    *,
};
use onlyonce::{storage::Fault, *};
use std::{pin::Pin, sync::Arc, task::Poll, time::Duration};

type Async = AsyncStore<Store>;
type Completing = Pin<Box<dyn Future<Output = Result<(), ClaimError>>>>;

const BUFFERED: Durability = Durability::Buffered { max_delay: MINUTE };
const ALL: [Durability; 3] = [Durability::Synced, Durability::SyncedCompletions, BUFFERED];
/// Of the class of records that are kept for the store's own retention, and of another one.
const RETENTIONS: [Option<Duration>; 2] = [None, Some(Duration::from_secs(60))];

/// A store with a ring of 64 KiB whose disk can be held up, and fail.
fn gated_sim(durability: Durability) -> (Sim, Store, Gated) {
    let sim = Sim::with(|options| options.background(true).durability(durability));
    let disk = Gated::new(&sim.disk);
    let store = sim.options.open_on(Arc::new(disk.clone())).unwrap();
    (sim, store, disk)
}

fn gated(durability: Durability) -> (Store, Gated) {
    let (_, store, disk) = gated_sim(durability);
    (store, disk)
}

/// A completion of a key of its own.
fn completing(face: &Async, name: usize, retention: Option<Duration>) -> Completing {
    let begin = block_on(face.begin(key(&format!("key-{name}")), print())).unwrap();
    let mut claim = granted(begin);
    Box::pin(async move {
        let response = vec![name as u8; 4000];
        let retention = retention.map(Retention::from);
        claim.complete_with(Completion { response: Some(&response), retention, head: b"" }).await
    })
}

/// Fifty tasks that complete while the segments can't be written to; those that wait, each of which
/// has been polled once. The ring holds a third of them.
fn waiting(face: &Async, disk: &Gated, retention: Option<Duration>) -> (Shut, Vec<Completing>) {
    block_on(completing(face, 0, retention)).unwrap();
    let mut tasks: Vec<_> = (1..50).map(|name| completing(face, name, retention)).collect();
    let shut = disk.shut_writes("segment-");
    let woken = Woken::new();
    tasks.retain_mut(|task| woken.poll(task.as_mut()).is_pending());
    assert!(tasks.len() > 20, "{} wait", tasks.len());
    (shut, tasks)
}

fn assert_completed(store: &Store, name: usize) {
    assert_eq!(store.answer(&format!("key-{name}")), vec![name as u8; 4000], "key {name}");
}

#[test]
fn no_future_blocks_its_thread_on_the_disk() {
    for durability in ALL {
        must_end(move || {
            let (store, disk) = gated(durability);
            let face = AsyncStore::new(store.clone());
            let mut claim = granted(block_on(face.begin(key("k"), print())).unwrap());
            let shut = disk.shut_writes("");
            let woken = Woken::new();
            let mut begin = Box::pin(face.begin(key("l"), print()));
            let mut begun = woken.poll(begin.as_mut());
            assert_eq!(begun.is_pending(), durability == Durability::Synced);
            let mut saved = Box::pin(claim.save_checkpoint(b"half"));
            let _ = woken.poll(saved.as_mut());
            drop(saved);
            let mut complete = Box::pin(claim.complete(b"order 1"));
            assert!(woken.poll(complete.as_mut()).is_pending());
            drop(shut);
            block_on(complete).unwrap();
            if begun.is_pending() {
                begun = Poll::Ready(block_on(begin));
            }
            let Poll::Ready(begun) = begun else { unreachable!() };
            drop(granted(begun.unwrap()));
        });
    }
}

#[test]
fn tasks_that_find_the_ring_full_wait_for_the_draining_thread() {
    for durability in ALL {
        for retention in RETENTIONS {
            must_end(move || {
                let (store, disk) = gated(durability);
                let (shut, tasks) = waiting(&AsyncStore::new(store.clone()), &disk, retention);
                drop(shut);
                tasks.into_iter().for_each(|task| block_on(task).unwrap());
                (0..50).for_each(|name| assert_completed(&store, name));
            });
        }
    }
}

/// The next one has its turn when a task that waits, or has been woken, is dropped instead of
/// polled.
#[test]
fn tasks_that_are_dropped_while_they_wait_for_room_keep_nobody_waiting() {
    for durability in ALL {
        must_end(move || {
            let (store, disk) = gated(durability);
            let face = AsyncStore::new(store.clone());
            block_on(completing(&face, 0, None)).unwrap();
            let claimed: Vec<_> = (1..60).map(|name| completing(&face, name, None)).collect();
            let shut = disk.shut_writes("segment-");
            let mut tasks: Vec<_> = claimed
                .into_iter()
                .map(|mut task| {
                    let woken = Woken::new();
                    let waits = woken.poll(task.as_mut()).is_pending();
                    (woken, waits.then_some(task))
                })
                .collect();
            // Every third gives up before anything is drained.
            tasks.iter_mut().step_by(3).for_each(|(_, task)| drop(task.take()));
            drop(shut);
            // Every second one of the others when it has been woken.
            let mut dropped = false;
            for (at, (woken, task)) in tasks.into_iter().enumerate() {
                let Some(task) = task else { continue };
                woken.wait(0);
                if !dropped {
                    drop(task);
                } else {
                    block_on(task).unwrap();
                    assert_completed(&store, at + 1);
                }
                dropped = !dropped;
            }
        });
    }
}

/// What a task that waited could not write is interrupted.
#[test]
fn tasks_that_wait_for_room_learn_that_the_store_is_closed() {
    for durability in ALL {
        must_end(move || {
            let (store, disk) = gated(durability);
            let face = AsyncStore::new(store.clone());
            let (shut, tasks) = waiting(&face, &disk, None);
            let closing = std::thread::spawn(move || store.close());
            until(|| matches!(face.get_ref().get(key("k")), Err(StoreError::Closed)));
            drop(shut);
            closing.join().unwrap().unwrap();
            let ended: Vec<_> = tasks.into_iter().map(block_on).collect();
            let closed = ended.iter().filter(|ended| **ended == Err(ClaimError::Closed)).count();
            let done = ended.iter().filter(|ended| ended.is_ok()).count();
            assert_eq!(closed + done, ended.len(), "{ended:?}");
            assert!(closed > 0);
        });
    }
}

#[test]
fn tasks_that_wait_for_room_learn_that_the_store_is_poisoned() {
    for durability in ALL {
        must_end(move || {
            let (sim, store, disk) = gated_sim(durability);
            let (shut, tasks) = waiting(&AsyncStore::new(store), &disk, None);
            shut.until_reached();
            sim.disk.fault_at(sim.disk.calls() + 1, Fault::Crash);
            drop(shut);
            for task in tasks {
                assert_eq!(block_on(task), Err(ClaimError::Poisoned));
            }
        });
    }
}
