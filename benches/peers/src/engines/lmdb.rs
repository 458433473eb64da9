//! LMDB by heed. Synced: as it is by default, without a writable map, because a store through a
//! map makes its sync slower on ext4. Buffered: a writable map and no syncs of its own, which is
//! its quickest way; a loss of power may then leave a database that can't be read.

use super::{
    Mode,
    table::{CLAIM, Table, Write},
};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, types::Bytes};
use measure::work::Key;
use std::path::Path;

/// Address space, not memory.
const MAP_BYTES: usize = 64 << 30;

type Bytemap = Database<'static, Bytes, Bytes>;

pub struct Lmdb {
    env: Env,
    records: Bytemap,
    claims: Bytemap,
}

impl Lmdb {
    #[allow(unsafe_code, reason = "heed's way to open: the directory is this process's alone")]
    pub fn open(dir: &Path, mode: Mode) -> Self {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(2).max_readers(512);
        let mut flags = EnvFlags::NO_READ_AHEAD;
        if mode == Mode::Buffered {
            flags |= EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC;
        }
        // SAFETY: nothing else opens or changes the files of this directory meanwhile, and NO_SYNC
        // matters only to a database that is opened after a loss of power.
        let env = unsafe { options.flags(flags).open(dir).expect("LMDB opens") };
        let (records, claims) = {
            let txn = env.write_txn().expect("LMDB writes");
            let made: heed::Result<_> = env.create_databases_and_commit(txn, |opener, txn| {
                let records = opener.create_database::<Bytes, Bytes>(txn, Some("records"))?;
                let claims = opener.create_database::<Bytes, Bytes>(txn, Some("claims"))?;
                Ok(CommitOrAbort::<_, ()>::Commit((records, claims)))
            });
            made.expect("LMDB writes").commit().expect("committed")
        };
        Lmdb { env, records, claims }
    }
}

impl Table for Lmdb {
    /// A transaction that isn't synced may use pages again that the last synced state needs.
    const CLAIMS_ON_THEIR_OWN: bool = false;

    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        let txn = self.env.read_txn().expect("LMDB reads");
        let Some(response) = self.records.get(&txn, key).expect("LMDB reads") else { return false };
        into.clear();
        into.extend_from_slice(response);
        true
    }

    /// In the synced modes every transaction is synced, claims or not.
    fn write(&self, writes: &[Write], _sync: bool) {
        let mut txn = self.env.write_txn().expect("LMDB writes");
        for write in writes {
            let done = match write {
                Write::Claim(key) => self.claims.put(&mut txn, key, &CLAIM),
                Write::Complete(key, response) => self
                    .records
                    .put(&mut txn, key, response)
                    .and_then(|()| self.claims.delete(&mut txn, key).map(drop)),
                Write::Remove(key) => self.records.delete(&mut txn, key).map(drop),
            };
            done.expect("LMDB writes");
        }
        txn.commit().expect("LMDB commits");
    }

    fn sync(&self) {
        self.env.force_sync().expect("LMDB syncs");
    }

    /// Freed pages are used again by themselves.
    fn reclaim(&self) {}
}
