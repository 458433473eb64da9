//! What takes part: one file an engine. Their settings are what their manuals recommend for this
//! work, and are said at the top of each file.

mod batcher;
mod fjall;
mod lmdb;
mod map;
mod onlyonce;
mod peer;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sqlite;
mod table;

use measure::work::Key;
use peer::Peer;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path, sync::Arc};
use table::Table;

/// What is on the disk when a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Claims and completions.
    Synced,
    /// Completions. Claims are written, and on the disk with the next completion at the latest.
    Completions,
    /// Nothing: everything is in the kernel's hands, and on the disk within a second.
    Buffered,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Synced, Mode::Completions, Mode::Buffered];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Synced => "synced",
            Mode::Completions => "completions",
            Mode::Buffered => "buffered",
        }
    }

    fn syncs_claims(self) -> bool {
        self == Mode::Synced
    }

    fn syncs_completions(self) -> bool {
        self != Mode::Buffered
    }
}

/// A store for the one workload. All calls are by many threads at once.
pub trait Engine: Send + Sync {
    /// Looks a key up that isn't there, claims it, completes it, and removes the claim.
    fn pair(&self, key: &Key, response: &Arc<[u8]>);

    /// A retry: copies the response. `false` if the key has none.
    fn replay(&self, key: &Key, into: &mut Vec<u8>) -> bool;

    /// Removes all records and gets the space back for new ones; returns how many there were.
    /// `keys` are all that were written. Databases are told them, so that they are spared an index
    /// by time.
    fn expire(&self, keys: &mut dyn Iterator<Item = Key>) -> u64;
}

/// An engine in one of its forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    pub engine: Name,
    /// One thread writes in batches for all callers.
    pub behind_writer: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    OnlyOnce,
    RocksDb,
    Lmdb,
    Redb,
    Fjall,
    Sqlite,
    /// In memory: the bound.
    Map,
    /// In memory, with a checksum at each replay.
    MapCrc,
}

impl Name {
    pub const ALL: [Name; 8] = [
        Name::OnlyOnce,
        Name::RocksDb,
        Name::Lmdb,
        Name::Redb,
        Name::Fjall,
        Name::Sqlite,
        Name::Map,
        Name::MapCrc,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Name::OnlyOnce => "onlyonce",
            Name::RocksDb => "rocksdb",
            Name::Lmdb => "lmdb",
            Name::Redb => "redb",
            Name::Fjall => "fjall",
            Name::Sqlite => "sqlite",
            Name::Map => "map",
            Name::MapCrc => "map+crc",
        }
    }

    /// RocksDB is a feature of this package, because it takes long to compile.
    pub fn is_built(self) -> bool {
        self != Name::RocksDb || cfg!(feature = "rocksdb")
    }

    pub fn is_map(self) -> bool {
        matches!(self, Name::Map | Name::MapCrc)
    }
}

impl Contender {
    /// Every form of an engine: alone and, of the databases, behind a writer thread.
    pub fn all() -> Vec<Contender> {
        let forms = |engine: Name| {
            let database = !engine.is_map() && engine != Name::OnlyOnce;
            let behind = [false, true].into_iter().filter(move |behind| database || !behind);
            behind.map(move |behind_writer| Contender { engine, behind_writer })
        };
        Name::ALL.into_iter().filter(|name| name.is_built()).flat_map(forms).collect()
    }

    /// The map knows no disk, so it takes part in one mode.
    pub fn has(self, mode: Mode) -> bool {
        !self.engine.is_map() || mode == Mode::Buffered
    }

    /// Opens, or makes, what lies in `dir`. `lasting`: records stay until they are told to go;
    /// otherwise what expires by itself may do so after a second.
    pub fn open(self, mode: Mode, dir: &Path, lasting: bool) -> Box<dyn Engine> {
        match self.engine {
            Name::OnlyOnce => Box::new(onlyonce::OnlyOnce::open(mode, dir, lasting)),
            #[cfg(feature = "rocksdb")]
            Name::RocksDb => self.peer(rocksdb::RocksDb::open(dir), mode),
            #[cfg(not(feature = "rocksdb"))]
            Name::RocksDb => panic!("this was built without the feature rocksdb"),
            Name::Lmdb => self.peer(lmdb::Lmdb::open(dir, mode), mode),
            Name::Redb => self.peer(redb::Redb::open(dir), mode),
            Name::Fjall => self.peer(fjall::Fjall::open(dir), mode),
            Name::Sqlite => self.peer(sqlite::Sqlite::open(dir), mode),
            Name::Map => Box::new(map::Map::new(false)),
            Name::MapCrc => Box::new(map::Map::new(true)),
        }
    }

    fn peer<T: Table>(self, table: T, mode: Mode) -> Box<dyn Engine> {
        Box::new(Peer::new(table, mode, self.behind_writer))
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = if self.behind_writer { " + writer" } else { "" };
        f.pad(&format!("{}{writer}", self.engine.name()))
    }
}
