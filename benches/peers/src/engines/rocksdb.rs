//! RocksDB: its own group commit, its write-ahead logs used again (so that a sync has no new size
//! to write), a bloom filter of 10 bits, a block cache of 1 GiB, and no compression: responses
//! here can't be compressed.

use super::table::{CLAIM, Table, Write};
use measure::work::Key;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, DB, DBCompressionType, DBRecoveryMode, Options,
    WriteBatch, WriteOptions,
};
use std::path::Path;

const CACHE_BYTES: usize = 1 << 30;
const RECORDS: &str = "records";
const CLAIMS: &str = "claims";

pub struct RocksDb(DB);

impl RocksDb {
    pub fn open(dir: &Path) -> Self {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_compression_type(DBCompressionType::None);
        options.set_block_based_table_factory(&blocks);
        options.increase_parallelism(2);
        options.set_write_buffer_size(64 << 20);
        options.set_max_write_buffer_number(4);
        // Only these of its recovery modes go with logs that are used again.
        options.set_recycle_log_file_num(4);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        let families = [RECORDS, CLAIMS].map(|name| (name, options.clone()));
        RocksDb(DB::open_cf_with_opts(&options, dir, families).expect("RocksDB opens"))
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.0.cf_handle(name).expect("made when it was opened")
    }
}

impl Table for RocksDb {
    const CLAIMS_ON_THEIR_OWN: bool = true;

    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        let found = self.0.get_pinned_cf(self.family(RECORDS), key).expect("RocksDB reads");
        let Some(response) = found else { return false };
        into.clear();
        into.extend_from_slice(&response);
        true
    }

    fn write(&self, writes: &[Write], sync: bool) {
        let (records, claims) = (self.family(RECORDS), self.family(CLAIMS));
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Claim(key) => batch.put_cf(claims, key, CLAIM),
                Write::Complete(key, response) => {
                    batch.put_cf(records, key, response);
                    batch.delete_cf(claims, key);
                }
                Write::Remove(key) => batch.delete_cf(records, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.0.write_opt(batch, &options).expect("RocksDB writes");
    }

    fn sync(&self) {
        self.0.flush_wal(true).expect("RocksDB syncs");
    }

    fn reclaim(&self) {
        for name in [RECORDS, CLAIMS] {
            self.0.compact_range_cf(self.family(name), None::<&[u8]>, None::<&[u8]>);
        }
    }
}
