//! An idempotency store over a database, as one writes it.

use super::{
    Engine, Mode,
    batcher::Batcher,
    table::{Table, Write},
};
use dashmap::DashMap;
use measure::work::Key;
use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How many records are removed in one step.
const REMOVED_TOGETHER: usize = 1000;

pub struct Peer<T: Table> {
    /// Who is executing in this process. Entered before the look-up and left after the record can
    /// be seen, so that one claim is granted at a time without a transaction around look-up and
    /// claim, whatever the database.
    in_flight: DashMap<Key, ()>,
    mode: Mode,
    batcher: Option<Batcher>,
    syncer: Option<Syncer>,
    table: Arc<T>,
}

impl<T: Table> Peer<T> {
    pub fn new(table: T, mode: Mode, behind_writer: bool) -> Self {
        let table = Arc::new(table);
        Peer {
            in_flight: DashMap::new(),
            mode,
            batcher: behind_writer.then(|| Batcher::new(Arc::clone(&table))),
            syncer: (mode == Mode::Buffered).then(|| Syncer::new(Arc::clone(&table))),
            table,
        }
    }

    fn write(&self, write: Write, sync: bool) {
        let alone = !sync && self.mode == Mode::Completions && T::CLAIMS_ON_THEIR_OWN;
        match &self.batcher {
            Some(batcher) if !alone => batcher.write(write, sync),
            _ => self.table.write(&[write], sync),
        }
        if let Some(syncer) = &self.syncer {
            syncer.shared.dirty.store(true, Ordering::Relaxed);
        }
    }
}

impl<T: Table> Engine for Peer<T> {
    fn pair(&self, key: &Key, response: &Arc<[u8]>) {
        assert!(self.in_flight.insert(*key, ()).is_none(), "a new key is in flight");
        let mut found = Vec::new();
        assert!(!self.table.get(key, &mut found), "a new key has a record");
        self.write(Write::Claim(*key), self.mode.syncs_claims());
        self.write(Write::Complete(*key, Arc::clone(response)), self.mode.syncs_completions());
        self.in_flight.remove(key);
    }

    fn replay(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        self.table.get(key, into)
    }

    fn expire(&self, keys: &mut dyn Iterator<Item = Key>) -> u64 {
        let mut records = 0;
        loop {
            let writes: Vec<_> = keys.take(REMOVED_TOGETHER).map(Write::Remove).collect();
            if writes.is_empty() {
                break;
            }
            self.table.write(&writes, false);
            records += writes.len() as u64;
        }
        self.table.sync();
        self.table.reclaim();
        records
    }
}

/// Syncs what was written, once a second: no store that is called buffered may lose more.
struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dirty: AtomicBool,
    closed: Mutex<bool>,
    close: Condvar,
}

impl Syncer {
    fn new<T: Table>(table: Arc<T>) -> Self {
        let (closed, close) = (Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { dirty: AtomicBool::new(false), closed, close });
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            loop {
                let closed = own.closed.lock().unwrap();
                let second = Duration::from_secs(1);
                let (closed, _) = own.close.wait_timeout_while(closed, second, |c| !*c).unwrap();
                if *closed {
                    return;
                }
                drop(closed);
                if own.dirty.swap(false, Ordering::Relaxed) {
                    table.sync();
                }
            }
        });
        Syncer { shared, thread: Some(thread) }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        *self.shared.closed.lock().unwrap() = true;
        self.shared.close.notify_one();
        let ended = self.thread.take().expect("joined once").join();
        assert!(ended.is_ok() || thread::panicking(), "the syncing thread panicked");
    }
}
