//! What the tests of the command share: running it, and stores for it to be run on.

#![allow(dead_code)]

use onlyonce::{Begin, Claim, Fingerprint, KeyRef, Options, Scope, Store};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

/// What a run of the command has led to.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub bytes: Vec<u8>,
    pub err: String,
}

impl Outcome {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, &self.err[..]), (0, ""), "{self:?}");
        self.out
    }

    /// The answer, a JSON object.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// The answer, a JSON object a line.
    #[track_caller]
    pub fn lines(self) -> Vec<serde_json::Value> {
        let out = self.ok();
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        out.lines().map(parse).collect()
    }

    /// One line on stderr that says `what`, and this exit code.
    #[track_caller]
    pub fn fails(self, code: i32, what: &str) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "not one line: {}", self.err);
        assert!(self.err.starts_with("onlyonce: ") && self.err.contains(what), "{}", self.err);
        self.err
    }
}

impl Outcome {
    /// The command line makes no sense; clap says why.
    #[track_caller]
    pub fn misused(self) {
        assert_eq!(self.code, 2, "{self:?}");
        assert!(self.err.contains("Usage") || self.err.contains("help"), "{}", self.err);
    }
}

pub fn run(args: &[&str]) -> Outcome {
    run_with(args, "")
}

pub fn run_with(args: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_onlyonce"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever doesn't read its input has gone before it is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let done = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome {
        code: done.status.code().expect("not killed"),
        out: text(&done.stdout),
        err: text(&done.stderr),
        bytes: done.stdout,
    }
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn options() -> Options {
    // A lease that passes while a test waits for the machine changes the key, and the claims file.
    let lease = std::time::Duration::from_secs(900);
    Options::new().max_response(8192).max_claims(200).segment_bytes(1 << 20).lease(lease)
}

pub fn scope() -> Scope {
    Scope::of(["tenant-7", "orders"])
}

/// How the command writes that scope.
pub const SCOPE: &str = "tenant-7/orders";

pub fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders"])
}

#[track_caller]
pub fn claim(store: &Store, key: &str) -> Claim {
    let scope = scope();
    match store.begin(KeyRef::new(&scope, key).unwrap(), print()).unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{key} is not granted: {other:?}"),
    }
}

pub fn response(number: usize) -> Vec<u8> {
    format!("order {number} ").repeat(1 + number * 13 % 90).into_bytes()
}

/// Keys order-0 to order-9, one interrupted and one in flight; still open.
pub fn fill(dir: &Path) -> (Store, Claim) {
    let store = options().open(dir).unwrap();
    (0..10).for_each(|n| claim(&store, &format!("order-{n}")).complete(&response(n)).unwrap());
    let mut stuck = claim(&store, "stuck");
    stuck.save_checkpoint(b"charged ch_1").unwrap();
    drop(stuck);
    let held = claim(&store, "held");
    (store, held)
}

/// The same, closed.
pub fn filled(dir: &Path) {
    let (store, _held) = fill(dir);
    store.close().unwrap();
}

/// Of each file and of the directory: times of change and content.
pub fn state(dir: &Path) -> BTreeMap<String, ([i64; 4], Vec<u8>)> {
    let times = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()]
    };
    let mut all = BTreeMap::from([(".".to_owned(), (times(dir), vec![]))]);
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        all.insert(name, (times(&path), fs::read(&path).unwrap()));
    }
    all
}
