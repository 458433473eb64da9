//! This store. Options are the defaults, but for durability, and for a retention of a second
//! where records needn't last: so records expire and segments are used again while it is measured.

use super::{Engine, Mode};
use measure::{
    ShiftedClock,
    work::{self, BUFFERED, Key},
};
use onlyonce::{Begin, Durability, Options, Scope, Store};
use std::{path::Path, sync::Arc, thread, time::Duration};

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(24 * 3600);

pub struct OnlyOnce {
    store: Store,
    scope: Scope,
    clock: ShiftedClock,
    retention: Duration,
}

impl OnlyOnce {
    pub fn open(mode: Mode, dir: &Path, lasting: bool) -> Self {
        let durability = match mode {
            Mode::Synced => Durability::Synced,
            Mode::Completions => Durability::SyncedCompletions,
            Mode::Buffered => BUFFERED,
        };
        let retention = if lasting { LONG } else { SHORT };
        let clock = ShiftedClock::default();
        let options = Options::new()
            .durability(durability)
            .retention(retention)
            .lease(SHORT)
            .capacity(32 << 30)
            .clock(clock.clone());
        let store = options.open(dir).expect("the store opens");
        OnlyOnce { store, scope: work::scope(), clock, retention }
    }
}

impl Engine for OnlyOnce {
    fn pair(&self, key: &Key, response: &Arc<[u8]>) {
        work::pair(&self.store, &self.scope, key, response);
    }

    fn replay(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        match work::begin(&self.store, &self.scope, key) {
            Begin::Replay(record) => {
                // The record is an owned copy already; only what the caller reads is copied.
                into.clear();
                into.extend_from_slice(&record.response().expect("it was retained")[..36]);
                true
            }
            Begin::Execute(claim) => {
                claim.release().expect("the store works");
                false
            }
            other => panic!("a completed key was found to be {other:?}"),
        }
    }

    fn expire(&self, _keys: &mut dyn Iterator<Item = Key>) -> u64 {
        let records = self.store.stats().records;
        self.clock.advance(2 * self.retention);
        while self.store.stats().records > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        records
    }
}
