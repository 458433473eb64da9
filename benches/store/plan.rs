//! What to run, for how long, where, and the words that all sections share.

use onlyonce::{Begin, Fingerprint, KeyRef, Options, Scope, Store};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tempfile::TempDir;

pub const RESPONSE_BYTES: usize = 1024;
/// What a record takes in the log: header, key, response, padding.
pub const FRAME_BYTES: usize = 1152;
/// Retention of the stores that turn over.
pub const SHORT: Duration = Duration::from_millis(400);

pub struct Plan {
    pub short: bool,
    pub list: bool,
    filter: Option<String>,
    base: PathBuf,
}

impl Plan {
    /// Understands of criterion's arguments what concerns the loops that are not criterion's.
    pub fn from_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let takes_value = |arg: &String| arg.starts_with("--") && arg.contains("baseline");
        let filter = args
            .iter()
            .enumerate()
            .find(|(at, arg)| !arg.starts_with('-') && (*at == 0 || !takes_value(&args[at - 1])));
        let base = std::env::var_os("ONLYONCE_BENCH_DIR")
            .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        std::fs::create_dir_all(&base).expect("the directory for the stores");
        Plan {
            short: has("--test") || !has("--bench"),
            list: has("--list"),
            filter: filter.map(|(_, arg)| arg.clone()),
            base: base.into(),
        }
    }

    /// Whether the filter names this section, something in it, or nothing.
    pub fn wants(&self, section: &str) -> bool {
        let filter = self.filter.as_deref().unwrap_or_default();
        section.contains(filter) || filter.starts_with(section)
    }

    pub fn base(&self) -> &Path {
        &self.base
    }

    /// An empty directory, gone with its handle.
    pub fn dir(&self) -> TempDir {
        TempDir::with_prefix_in("onlyonce-bench-", &self.base).expect("a directory")
    }

    /// So long a loop runs.
    pub fn time(&self, ms: u64) -> Duration {
        Duration::from_millis(if self.short { 20 } else { ms })
    }

    /// So many records.
    pub fn count(&self, records: u64) -> u64 {
        if self.short { records / 100 } else { records }
    }

    pub fn rounds(&self) -> usize {
        if self.short { 1 } else { 3 }
    }
}

/// Options of a store that soon uses its segments again.
pub fn turning_over() -> Options {
    Options::new().lease(SHORT / 4).retention(SHORT).capacity(3 << 30)
}

pub fn scope() -> Scope {
    Scope::global()
}

pub fn print() -> Fingerprint {
    Fingerprint::from_bytes([1; 16])
}

pub type Key = [u8; 36];

/// The `i`th key of a series: 36 bytes that cost little to make.
pub fn key(series: u64, i: u64) -> Key {
    let mut key = *b"........-...-....-....-...-.........";
    let mixed = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..8].copy_from_slice(&(mixed ^ (mixed >> 32)).to_le_bytes());
    key[28..].copy_from_slice(&series.to_le_bytes());
    key
}

/// A series of keys that no other caller has.
pub fn new_series() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// After each number another one: one circle through all of them, in random order.
pub fn circle(numbers: u64) -> Vec<u32> {
    let mut next: Vec<u32> = (0..numbers as u32).collect();
    let mut random = 1_u64;
    for i in (1..next.len()).rev() {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        next.swap(i, (random >> 33) as usize % i);
    }
    next
}

pub fn execute(store: &Store, scope: &Scope, key: &Key) -> onlyonce::Claim {
    match store.begin(KeyRef::new(scope, key).unwrap(), print()).unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("a new key was found to be {other:?}"),
    }
}

/// Claims and completes.
pub fn pair(store: &Store, scope: &Scope, key: &Key, response: &[u8]) {
    execute(store, scope, key).complete(response).unwrap();
}
