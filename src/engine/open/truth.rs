//! One truth for each key: at most one live record or undecided entry, in the index and on the
//! disk.

use crate::{
    engine::{Engine, Step, driver as drive},
    error::StoreError,
    key::OwnedKey,
    observe::Call,
    poison::Poisoned,
    recover::decide::Outlived,
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

impl Engine {
    /// Sees to it that records which a claim has outlived stay out of the index at all later
    /// openings, when the claim is gone too: by tombstones under the claims' tokens. Without room
    /// for one the claim, for as long as it is there, says the same to the next opening.
    pub(super) fn bury_outlived(self: &Arc<Self>, outlived: Vec<Outlived>) -> Result<(), Poisoned> {
        if outlived.is_empty() {
            return Ok(());
        }
        for Outlived { record, token, .. } in outlived {
            let hash = self.index.hash(record.key());
            let call = Call::plain(&self.timings, "recover", hash);
            let buried = drive::run(self, call, |engine| {
                let _shard = engine.index.shard(hash);
                engine.bury(hash, &record, token, engine.now()).map(|_| Step::now(()))
            });
            if buried == Err(StoreError::Poisoned) {
                return Err(Poisoned);
            }
        }
        self.commit_all()
    }

    /// Cheap: only entries that look alike, and those of undecided keys, are read.
    pub(super) fn assert_one_truth(&self) {
        let now = self.now();
        for shard in self.index.shards() {
            let mut alike: HashMap<_, Vec<_>> = HashMap::new();
            for entry in shard.entries() {
                alike.entry(entry.tag().spread()).or_default().push(entry.location());
            }
            let mut keys: HashSet<OwnedKey> = HashSet::new();
            let mut looked_at: Vec<_> =
                alike.into_values().filter(|places| places.len() > 1).flatten().collect();
            for (_, undecided) in shard.undecided.iter() {
                looked_at.extend(shard.candidates(undecided.hash));
                assert!(keys.insert(undecided.key.clone()), "two claims on one key");
            }
            looked_at.sort_unstable();
            looked_at.dedup();
            for location in looked_at {
                let Some(frame) = self.log.read(location) else { continue };
                let live = frame.header.expires_ms > now;
                assert!(!live || keys.insert(frame.key().owned()), "two truths of one key");
            }
        }
    }
}
