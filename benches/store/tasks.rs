//! A minimal executor: one thread that polls whatever was woken.

use crate::{
    measure::Run,
    plan::{RESPONSE_BYTES, key, new_series, print},
};
use onlyonce::{AsyncStore, Begin, KeyRef, Scope, Store};
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

struct Woken {
    tasks: Mutex<Vec<usize>>,
    thread: Thread,
}

struct Task {
    id: usize,
    woken: Arc<Woken>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.tasks.lock().unwrap().push(self.id);
        self.woken.thread.unpark();
    }
}

/// Polls all to their ends on this thread.
fn run_all(futures: Vec<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    let all = Mutex::new((0..futures.len()).collect());
    let woken = Arc::new(Woken { tasks: all, thread: thread::current() });
    let waker = |id| Waker::from(Arc::new(Task { id, woken: woken.clone() }));
    let mut tasks: Vec<_> =
        futures.into_iter().enumerate().map(|(id, future)| Some((future, waker(id)))).collect();
    let mut left = tasks.len();
    while left > 0 {
        let ids = std::mem::take(&mut *woken.tasks.lock().unwrap());
        if ids.is_empty() {
            thread::park();
        }
        for id in ids {
            let Some((future, waker)) = &mut tasks[id] else { continue };
            if future.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                tasks[id] = None;
                left -= 1;
            }
        }
    }
}

/// So many tasks claim and complete, each one key after the other.
pub fn pairs(store: &Store, tasks: usize, time: Duration) -> Run {
    let (store, scope) = (AsyncStore::new(store.clone()), Scope::global());
    let run = RefCell::new(Run::default());
    let began = Instant::now();
    let task = async || {
        let series = new_series();
        for i in 0.. {
            let start = Instant::now();
            if start - began >= time {
                break;
            }
            let key = key(series, i);
            match store.begin(KeyRef::new(&scope, &key).unwrap(), print()).await.unwrap() {
                Begin::Execute(mut claim) => claim.complete(&[7; RESPONSE_BYTES]).await.unwrap(),
                other => panic!("a new key was found to be {other:?}"),
            }
            let mut run = run.borrow_mut();
            run.ops += 1;
            run.latencies.add(start.elapsed());
        }
    };
    run_all((0..tasks).map(|_| Box::pin(task()) as Pin<Box<dyn Future<Output = ()>>>).collect());
    let mut run = run.into_inner();
    run.elapsed = began.elapsed();
    run
}
