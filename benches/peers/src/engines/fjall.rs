//! fjall, with a cache of 1 GiB and no compression: responses here can't be compressed.

use super::table::{CLAIM, Table, Write};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    config::CompressionPolicy,
};
use measure::work::Key;
use std::path::Path;

const CACHE_BYTES: u64 = 1 << 30;

pub struct Fjall {
    database: Database,
    records: Keyspace,
    claims: Keyspace,
}

impl Fjall {
    pub fn open(dir: &Path) -> Self {
        let builder = Database::builder(dir).cache_size(CACHE_BYTES);
        let builder = builder.journal_compression(CompressionType::None);
        let database = builder.open().expect("fjall opens");
        let options = || {
            KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        let keyspace = |name| database.keyspace(name, options).expect("fjall opens");
        Fjall { records: keyspace("records"), claims: keyspace("claims"), database }
    }
}

impl Table for Fjall {
    const CLAIMS_ON_THEIR_OWN: bool = true;

    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        let Some(response) = self.records.get(key).expect("fjall reads") else { return false };
        into.clear();
        into.extend_from_slice(&response);
        true
    }

    /// A batch that isn't synced is in the kernel's hands when it is committed.
    fn write(&self, writes: &[Write], sync: bool) {
        let persist = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = self.database.batch().durability(Some(persist));
        for write in writes {
            match write {
                Write::Claim(key) => batch.insert(&self.claims, key, CLAIM),
                Write::Complete(key, response) => {
                    batch.insert(&self.records, key, &response[..]);
                    // Each claim is written once and removed once.
                    batch.remove_weak(&self.claims, key);
                }
                Write::Remove(key) => batch.remove(&self.records, key),
            }
        }
        batch.commit().expect("fjall commits");
    }

    fn sync(&self) {
        self.database.persist(PersistMode::SyncData).expect("fjall syncs");
    }

    fn reclaim(&self) {
        for keyspace in [&self.records, &self.claims] {
            keyspace.rotate_memtable_and_wait().expect("fjall flushes");
            keyspace.major_compact().expect("fjall compacts");
        }
    }
}
