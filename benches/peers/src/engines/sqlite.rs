//! SQLite with a write-ahead log: one connection that syncs at each commit, one that doesn't,
//! and as many to read with as there are readers at a time.

use super::table::{CLAIM, Table, Write};
use measure::work::Key;
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Mutex,
};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, response BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, print BLOB NOT NULL) WITHOUT ROWID;";

pub struct Sqlite {
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
}

struct Writer {
    synced: Connection,
    unsynced: Connection,
}

impl Sqlite {
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("peer.sqlite");
        let (synced, unsynced) = (connect(&path, "FULL"), connect(&path, "NORMAL"));
        synced.execute_batch(TABLES).expect("SQLite writes");
        let writer = Mutex::new(Writer { synced, unsynced });
        Sqlite { path, writer, readers: Mutex::default() }
    }

    fn log(&self) -> PathBuf {
        self.path.with_extension("sqlite-wal")
    }
}

/// With a cache of 64 MiB, the rest by a map, and a checkpoint for each 64 MiB of log.
fn connect(path: &Path, synchronous: &str) -> Connection {
    let connection = Connection::open(path).expect("SQLite opens");
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
             PRAGMA cache_size = -65536; PRAGMA mmap_size = 68719476736;
             PRAGMA wal_autocheckpoint = 16384; PRAGMA busy_timeout = 10000;"
        ))
        .expect("SQLite's settings");
    connection.set_prepared_statement_cache_capacity(16);
    connection
}

fn apply(connection: &Connection, write: &Write) -> rusqlite::Result<usize> {
    let run = |sql, values: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql).and_then(|mut statement| statement.execute(values))
    };
    match write {
        Write::Claim(key) => run("INSERT INTO claims VALUES (?1, ?2)", params![key, CLAIM]),
        Write::Complete(key, response) => {
            run("INSERT INTO records VALUES (?1, ?2)", params![key, &response[..]])?;
            run("DELETE FROM claims WHERE key = ?1", params![key])
        }
        Write::Remove(key) => run("DELETE FROM records WHERE key = ?1", params![key]),
    }
}

impl Table for Sqlite {
    const CLAIMS_ON_THEIR_OWN: bool = false;

    fn get(&self, key: &Key, into: &mut Vec<u8>) -> bool {
        let free = self.readers.lock().unwrap().pop();
        let reader = free.unwrap_or_else(|| connect(&self.path, "NORMAL"));
        let found = {
            let sql = "SELECT response FROM records WHERE key = ?1";
            let mut statement = reader.prepare_cached(sql).expect("SQLite reads");
            let copy = |row: &rusqlite::Row<'_>| {
                into.clear();
                into.extend_from_slice(row.get_ref(0)?.as_blob()?);
                Ok(())
            };
            statement.query_row(params![key], copy).optional().expect("SQLite reads")
        };
        self.readers.lock().unwrap().push(reader);
        found.is_some()
    }

    fn write(&self, writes: &[Write], sync: bool) {
        let writer = self.writer.lock().unwrap();
        let connection = if sync { &writer.synced } else { &writer.unsynced };
        let batch = || {
            connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            writes.iter().try_for_each(|write| apply(connection, write).map(drop))?;
            connection.prepare_cached("COMMIT")?.execute([])
        };
        batch().expect("SQLite writes");
    }

    /// Of what isn't in the log any more a checkpoint has synced the rest.
    fn sync(&self) {
        File::open(self.log()).and_then(|log| log.sync_data()).expect("SQLite's log syncs");
    }

    /// Freed pages are used again by themselves; the log is moved into the database.
    fn reclaim(&self) {
        let writer = self.writer.lock().unwrap();
        let done = |_: &rusqlite::Row<'_>| Ok(());
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        writer.unsynced.query_row(checkpoint, [], done).expect("SQLite's checkpoint");
    }
}
