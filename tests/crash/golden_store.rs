//! Every version opens the stores of every format version that there has been, and finds exactly
//! what they hold: `tests/golden/v<format>/{closed,killed}`, a store that was closed and one whose
//! process was killed, each with an `expected.txt` beside.
//!
//! A new format version gets new stores; those of the others are never made anew (until 0.1.0 is
//! released, format 1 is, when it changes: remove `tests/golden/v1` first).
//! `cargo test --test golden_store -- --ignored make_golden` writes `tests/golden/v<format>` if it
//! is not there.

use onlyonce::{
    inspect::{Inspection, Item},
    storage::SimStorage,
    *,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const T0: u64 = 1_800_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// When the stores are opened again.
const LATER: Duration = Duration::from_secs(3 * 24 * 3600);

type Files = BTreeMap<String, Vec<u8>>;

fn options(clock: &ManualClock) -> Options {
    Options::new()
        .clock(clock.clone())
        .background(false)
        .retention(3000 * DAY)
        .interrupted_retention(3000 * DAY)
        .max_response(4096)
        .max_claims(14)
        .segment_bytes(64 << 10)
        .ring_bytes(64 << 10)
        .capacity(512 << 10)
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn scope() -> Scope {
    Scope::of(["tenant-7", "orders"])
}

fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "book"])
}

fn claim(store: &Store, name: &str) -> Claim {
    let scope = scope();
    match store.begin(KeyRef::new(&scope, name).unwrap(), print()).unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{name}: {other:?}"),
    }
}

/// A bit of everything that a store can hold.
fn fill(store: &Store, clock: &ManualClock, life: usize) {
    let name = |name: &str| format!("{name}-{life}");
    for n in 0..12 {
        let response = format!("order {life}.{n} ").repeat(n * 30);
        claim(store, &name(&format!("order-{n}"))).complete(response.as_bytes()).unwrap();
        clock.advance(Duration::from_millis(7));
    }
    let with = |response, head, retention| Completion { response, head, retention };
    let week = Some(Retention { replay_for: DAY, remember_for: 3000 * DAY });
    claim(store, &name("only remembered")).complete_with(with(Some(b"1"), b"", week)).unwrap();
    let long = Some(Retention::of(2000 * DAY));
    claim(store, &name("with head")).complete_with(with(Some(b"1"), b"201", long)).unwrap();
    claim(store, &name("not retained")).complete_without_response(b"201").unwrap();
    claim(store, &"k".repeat(255 - life)).complete(b"a long key").unwrap();
    let scope = scope();
    let forgotten = name("forgotten");
    claim(store, &forgotten).complete(b"1").unwrap();
    let key = KeyRef::new(&scope, &forgotten).unwrap();
    store.resolve_with(key, Resolution::Forget, ResolveOptions::forced()).unwrap();
    claim(store, &name("released")).release().unwrap();
    claim(store, &name("half way")).save_checkpoint(&[life as u8; 300]).unwrap();
    claim(store, &name("failed")).fail(b"500").unwrap();
    drop(claim(store, &name("dropped")));
    let taken_over = name("taken over");
    drop(claim(store, &taken_over));
    match store.begin(KeyRef::new(&scope, &taken_over).unwrap(), print()).unwrap() {
        Begin::Interrupted(stuck) => match stuck.take_over().unwrap() {
            Begin::Execute(claim) => claim.release().unwrap(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Two lives; the second one is closed, or killed.
fn make(closed: bool) -> Files {
    let clock = ManualClock::at(T0);
    let disk = SimStorage::new(1);
    let open = |options: Options| options.open_on(Arc::new(disk.clone())).unwrap();
    let store = open(options(&clock));
    fill(&store, &clock, 1);
    store.housekeep().unwrap();
    store.close().unwrap();
    clock.advance(DAY);
    // The killed one leaves records that only the ring has.
    let buffered = Durability::Buffered { max_delay: Duration::from_secs(3600) };
    let store = match closed {
        true => open(options(&clock)),
        false => open(options(&clock).durability(buffered)),
    };
    fill(&store, &clock, 2);
    let _held = claim(&store, "held");
    if closed {
        store.close().unwrap();
        return disk.snapshot();
    }
    disk.kill().snapshot()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A response as it can be compared: its length, and its beginning.
fn short(bytes: Option<&[u8]>) -> String {
    bytes.map_or("-".into(), |b| format!("{}:{}", b.len(), hex(&b[..b.len().min(12)])))
}

/// Everything that is to stay as it is, a line a key.
fn line(item: &Item) -> String {
    let key = &item.entry.key;
    let ms = |time: Duration| time.as_millis();
    let state = match &item.entry.state {
        State::Completed(record) => format!(
            "completed {} {} {} {}",
            record.completed_at(),
            record.expires_at(),
            short(record.response()),
            short(Some(record.head()))
        ),
        State::Interrupted { reason, at, checkpoint, answer, .. } => format!(
            "interrupted {} {at} {} {}",
            *reason as u8,
            short(checkpoint.as_deref()),
            short(answer.as_deref())
        ),
        other => format!("{other:?}"),
    };
    format!(
        "{} {} {} {} {}.{} {} {} {state}",
        hex(key.scope()),
        hex(key.key()),
        item.entry.token,
        item.entry.attempts,
        hex(item.fingerprint.as_bytes()),
        item.fingerprint.scheme(),
        ms(item.retention.replay_for),
        ms(item.retention.remember_for),
    )
}

fn later() -> ManualClock {
    let clock = ManualClock::at(T0);
    clock.advance(LATER);
    clock
}

fn seen(disk: &SimStorage) -> Vec<String> {
    let inspection = Inspection::open_on(Arc::new(disk.clone()), later(), None).unwrap();
    assert_eq!(inspection.verify(|_| {}).problems, []);
    let mut lines: Vec<_> = inspection.items().map(|item| line(&item.unwrap())).collect();
    lines.sort();
    lines
}

fn format_version() -> u32 {
    let disk = SimStorage::new(1);
    options(&later()).open_on(Arc::new(disk.clone())).unwrap().close().unwrap();
    Inspection::open_on(Arc::new(disk), later(), None).unwrap().info().format
}

#[test]
#[ignore = "writes the golden stores of a new format version"]
fn make_golden() {
    let dir = golden().join(format!("v{}", format_version()));
    assert!(!dir.exists(), "{} is there: golden stores are never made anew", dir.display());
    for (name, closed) in [("closed", true), ("killed", false)] {
        let files = make(closed);
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        let lines = seen(&SimStorage::from_files(1, files.clone()));
        fs::write(dir.join("expected.txt"), lines.join("\n") + "\n").unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
    }
}

/// What is made today is read as it was written.
#[test]
fn the_maker_makes_what_is_wanted() {
    for closed in [true, false] {
        let lines = seen(&SimStorage::from_files(1, make(closed)));
        let count = |state: &str| lines.iter().filter(|line| line.contains(state)).count();
        // Twelve orders and four of other kinds, twice.
        assert_eq!(count(" completed "), 2 * (12 + 4), "{lines:#?}");
        assert_eq!(count(" interrupted "), 2 * 4 + 1, "{lines:#?}");
        assert_eq!(lines.len(), 2 * 20 + 1);
    }
}

fn stores() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for version in fs::read_dir(golden()).unwrap() {
        for store in fs::read_dir(version.unwrap().path()).unwrap() {
            found.push(store.unwrap().path());
        }
    }
    found.sort();
    found
}

fn read(dir: &Path) -> (Files, Vec<String>) {
    let mut files = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.insert(name, fs::read(&path).unwrap());
    }
    let expected = String::from_utf8(files.remove("expected.txt").unwrap()).unwrap();
    (files, expected.lines().map(str::to_owned).collect())
}

#[test]
fn there_is_a_store_of_this_format() {
    let dir = golden().join(format!("v{}", format_version()));
    for name in ["closed", "killed"] {
        assert!(dir.join(name).join("superblock").exists(), "make it: see the head of this file");
    }
}

#[test]
fn inspected_they_hold_what_they_held() {
    for dir in stores() {
        let (files, expected) = read(&dir);
        assert_eq!(seen(&SimStorage::from_files(1, files)), expected, "{}", dir.display());
    }
}

#[test]
fn opened_they_hold_what_they_held() {
    for dir in stores() {
        let (files, expected) = read(&dir);
        let disk = SimStorage::from_files(1, files);
        for opening in 0..2 {
            let store = options(&later()).open_on(Arc::new(disk.clone())).unwrap();
            let scope = scope();
            for line in &expected {
                let field: Vec<_> = line.split(' ').collect();
                let name = unhex(field[1]);
                let entry = store.get(KeyRef::new(&scope, &name).unwrap()).unwrap().unwrap();
                assert_eq!(entry.token.to_string(), field[2], "{line}");
                assert_eq!(entry.attempts.to_string(), field[3], "{line}");
                let begin = store.begin(KeyRef::new(&scope, &name).unwrap(), print()).unwrap();
                match (begin, field[7]) {
                    (Begin::Replay(record), "completed") => {
                        assert_eq!(short(record.response()), field[10], "{line}");
                        assert_eq!(short(Some(record.head())), field[11], "{line}");
                        assert_eq!(record.expires_at().to_string(), field[9], "{line}");
                    }
                    (Begin::Interrupted(stuck), "interrupted") => {
                        assert_eq!((stuck.reason() as u8).to_string(), field[8], "{line}");
                        assert_eq!(short(stuck.checkpoint()), field[10], "{line}");
                        let answer = stuck.answer().map(|answer| &answer[..]);
                        assert_eq!(short(answer), field[11], "{line}");
                    }
                    (begin, _) => panic!("{line}: {begin:?}"),
                }
                let other = Fingerprint::of(["another"]);
                let begin = store.begin(KeyRef::new(&scope, &name).unwrap(), other).unwrap();
                assert!(matches!(begin, Begin::Mismatch { .. }), "{line}: {begin:?}");
            }
            assert_eq!(store.entries(Filter::ALL).count(), expected.len() + opening);
            // It goes on.
            let token = |line: &String| line.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
            let highest = expected.iter().map(token).max().unwrap();
            let mut claim = claim(&store, &format!("new-{opening}"));
            assert!(claim.token().get() > highest, "an old token");
            claim.complete(b"order").unwrap();
            store.close().unwrap();
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Whatever file says that it is of a later version: nothing is opened, and the message says so.
#[test]
fn later_versions_are_refused_by_name() {
    let (whole, _) = read(&golden().join("v1/closed"));
    for (name, sealed) in [("superblock", 84), ("claims", 28), ("segment-000001", 60)] {
        let mut files = whole.clone();
        let bytes = files.get_mut(name).unwrap();
        let copies: &[usize] = if name == "superblock" { &[0, 4096] } else { &[0] };
        for at in copies {
            bytes[at + 8] = 9;
            let crc = crc32fast::hash(&bytes[*at..at + sealed]).to_le_bytes();
            bytes[at + sealed..at + sealed + 4].copy_from_slice(&crc);
        }
        let disk = SimStorage::from_files(1, files.clone());
        let error = options(&later()).open_on(Arc::new(disk.clone())).unwrap_err();
        assert!(
            matches!(&error, OpenError::Newer { file, found: 9, .. } if file == name),
            "{error}"
        );
        assert!(error.to_string().contains("has format 9"), "{error}");
        assert_eq!(disk.snapshot(), files, "{name}: something has been written");
    }
}
