//! The writer thread that an expert puts before a database: it takes what has come meanwhile,
//! writes it as one batch with one sync, and wakes those whose writes these were.

use super::table::{Table, Write};
use std::{
    mem,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

pub struct Batcher {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    closed: bool,
}

struct Request {
    write: Write,
    sync: bool,
    done: Arc<AtomicBool>,
    caller: Thread,
}

impl Batcher {
    pub fn new<T: Table>(table: Arc<T>) -> Self {
        let queue = Arc::new(Queue { waiting: Mutex::default(), came: Condvar::new() });
        let shared = Arc::clone(&queue);
        let thread = thread::spawn(move || serve(&*table, &shared));
        Batcher { queue, thread: Some(thread) }
    }

    /// Returns when the batch with this write has been written.
    pub fn write(&self, write: Write, sync: bool) {
        let done = Arc::new(AtomicBool::new(false));
        let caller = thread::current();
        let request = Request { write, sync, done: Arc::clone(&done), caller };
        let first = {
            let mut waiting = self.queue.waiting.lock().unwrap();
            waiting.requests.push(request);
            waiting.requests.len() == 1
        };
        // The writer only sleeps when nothing waits.
        if first {
            self.queue.came.notify_one();
        }
        while !done.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.queue.waiting.lock().unwrap().closed = true;
        self.queue.came.notify_one();
        let ended = self.thread.take().expect("joined once").join();
        assert!(ended.is_ok() || thread::panicking(), "the writer thread panicked");
    }
}

fn serve<T: Table>(table: &T, queue: &Queue) {
    let (mut batch, mut writes) = (Vec::new(), Vec::new());
    loop {
        {
            let waiting = queue.waiting.lock().unwrap();
            let idle = |waiting: &mut Waiting| waiting.requests.is_empty() && !waiting.closed;
            let mut waiting = queue.came.wait_while(waiting, idle).unwrap();
            if waiting.requests.is_empty() {
                return;
            }
            mem::swap(&mut waiting.requests, &mut batch);
        }
        let sync = batch.iter().any(|request| request.sync);
        writes.extend(batch.iter().map(|request| request.write.clone()));
        table.write(&writes, sync);
        writes.clear();
        for request in batch.drain(..) {
            request.done.store(true, Ordering::Release);
            request.caller.unpark();
        }
    }
}
