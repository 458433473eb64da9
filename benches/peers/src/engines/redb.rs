//! redb, with a cache of 1 GiB. A commit without durability stays in the process's memory until
//! the next one with it: what is called buffered here loses up to a second at kill -9 already.

use super::table::{CLAIM, Table, Write};
use measure::work::Key;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use std::path::Path;

const CACHE_BYTES: usize = 1 << 30;
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims");

pub struct Redb(Database);

impl Redb {
    pub fn open(dir: &Path) -> Self {
        let mut builder = Database::builder();
        let opened = builder.set_cache_size(CACHE_BYTES).create(dir.join("peer.redb"));
        let redb = Redb(opened.expect("redb opens"));
        // Makes the tables.
        redb.write(&[], true);
        redb
    }
}

impl Table for Redb {
    const CLAIMS_ON_THEIR_OWN: bool = false;

    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        let txn = self.0.begin_read().expect("redb reads");
        let records = txn.open_table(RECORDS).expect("redb reads");
        let Some(found) = records.get(&key[..]).expect("redb reads") else { return false };
        into.clear();
        into.extend_from_slice(found.value());
        true
    }

    fn write(&self, writes: &[Write], sync: bool) {
        let mut txn = self.0.begin_write().expect("redb writes");
        let durability = if sync { Durability::Immediate } else { Durability::None };
        txn.set_durability(durability).expect("redb writes");
        {
            let mut records = txn.open_table(RECORDS).expect("redb writes");
            let mut claims = txn.open_table(CLAIMS).expect("redb writes");
            for write in writes {
                match write {
                    Write::Claim(key) => {
                        claims.insert(&key[..], &CLAIM[..]).expect("redb writes");
                    }
                    Write::Complete(key, response) => {
                        records.insert(&key[..], &response[..]).expect("redb writes");
                        claims.remove(&key[..]).expect("redb writes");
                    }
                    Write::Remove(key) => {
                        records.remove(&key[..]).expect("redb writes");
                    }
                }
            }
        }
        txn.commit().expect("redb commits");
    }

    fn sync(&self) {
        self.write(&[], true);
    }

    /// Freed pages are used again by themselves.
    fn reclaim(&self) {}
}
