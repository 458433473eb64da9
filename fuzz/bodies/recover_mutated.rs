//! What a program leaves, damaged, and what an opening says of it, against the model.
//!
//! An input is: setting; end (1: closed, else killed; 2, 4: what is damaged); seed u16; calls (see
//! `program`); then up to six times eight bytes of damage, see [`Damage::apply`].

use super::{
    files::Files,
    input::Input,
    program::{ops, setting, world},
    reference::{Is, KEYS, KeyModel, Setting, World, name, open, scope, short},
};
use onlyonce::{
    BeginError, Entry, Filter, KeyRef, OpenError, Recovery, State, Store, StoreError,
    storage::SimStorage,
};
use std::sync::OnceLock;

const DAMAGES_MAX: usize = 6;
const SECTOR: usize = 512;

/// Files that are damaged together. More than one of these groups at a time could hide the damage
/// to one by that to another: what was durable in the log, the claims file says.
#[derive(Clone, Copy, PartialEq)]
enum Group {
    Log,
    Claims,
    Superblock,
}

impl Group {
    fn has(self, file: &str) -> bool {
        match self {
            Group::Superblock => file == "superblock",
            Group::Claims => file == "claims",
            Group::Log => file == "ring" || file.starts_with("segment-"),
        }
    }
}

/// The store after a program, with all that each key has been.
struct Left {
    world: World,
    files: Files,
    been: Vec<Vec<Is>>,
}

fn left(setting: Setting, seed: u64, closed: bool, input: &mut Input) -> Left {
    let mut world = world(setting, seed, 0x1ce);
    let mut been = vec![vec![Is::Absent]; KEYS];
    for op in ops(input) {
        world.apply(op).expect("no fault was asked for");
        for (been, key) in been.iter_mut().zip(&world.model.keys) {
            if been.last() != Some(&key.is) {
                been.push(key.is.clone());
            }
        }
    }
    if closed {
        world.store.take().expect("open").close().expect("closes");
    }
    let disk = world.disk.kill();
    world.leave();
    Left { world, files: disk.snapshot(), been }
}

/// The files of another store.
fn others() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let setting = Setting { durability: 0, hash_bits: 64, tight: true };
        let program = [9, 0, 0, 0, 0, 13, 0, 4, 0, 0, 1, 0, 1, 13, 0, 4, 0];
        let mut world = world(setting, 2, 0xbad);
        for op in ops(&mut Input(&program)) {
            world.apply(op).expect("no fault was asked for");
        }
        world.store.take().expect("open").close().expect("closes");
        world.disk.snapshot()
    })
}

/// What is done to one file.
struct Damage {
    what: u8,
    file: u8,
    at: usize,
    to: usize,
    len: usize,
}

impl Damage {
    fn read(input: &mut Input) -> Self {
        let (what, file) = (input.byte(), input.byte());
        let [at, to, len] = [(); 3].map(|()| input.number::<2>() as usize);
        Damage { what, file, at, to, len }
    }

    /// A place in a file: nearly always near something that isn't zero.
    fn place(&self, bytes: &[u8], number: usize) -> usize {
        let used = || (0..bytes.len()).step_by(64).filter(|at| in_use(bytes, *at));
        let count = used().count();
        let place = match (self.what & 0x40 == 0, count) {
            (true, 1..) => used().nth(number / 64 % count).unwrap() + number % 64,
            _ => number * 8,
        };
        let place = place % bytes.len();
        if self.what & 0x80 == 0 { place } else { place / SECTOR * SECTOR }
    }

    fn apply(&self, files: &mut Files, group: Group) {
        let names: Vec<_> = files.keys().filter(|name| group.has(name)).cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = &names[self.file as usize % names.len()];
        let other = &names[self.file as usize / 16 % names.len()];
        let mut bytes = files[name].clone();
        if bytes.is_empty() {
            return;
        }
        let (at, to) = (self.place(&bytes, self.at), self.place(&bytes, self.to));
        let mut len = (self.len % 8192).max(1);
        if self.what & 0x80 != 0 {
            len = len.next_multiple_of(SECTOR);
        }
        let len = len.min(bytes.len() - at.max(to));
        match self.what & 0x3f {
            0..16 => bytes[at] ^= 1 << (self.len % 8),
            16..28 => bytes[at..at + len].fill(0),
            28..32 => bytes.truncate(at),
            32..40 => {
                let mut moved = bytes.clone();
                moved[at..at + len].copy_from_slice(&bytes[to..to + len]);
                moved[to..to + len].copy_from_slice(&bytes[at..at + len]);
                bytes = moved;
            }
            // Nothing tells that a free cell lies where another one was.
            40..52 if group == Group::Claims => bytes[at..at + len].fill(0),
            40..52 => bytes.copy_within(at..at + len, to),
            52..54 => drop(files.insert(other.clone(), bytes.clone())),
            54..56 => bytes = files.insert(other.clone(), bytes).expect("it has a name"),
            56..58 => {
                files.remove(name);
                return;
            }
            _ => match others().get(name) {
                Some(others) => bytes = others.clone(),
                None => return,
            },
        }
        files.insert(name.clone(), bytes);
    }
}

fn in_use(bytes: &[u8], at: usize) -> bool {
    let block = &bytes[at..(at + 64).min(bytes.len())];
    // Free cells are many, and all the same.
    block.iter().any(|b| *b != 0) && !block.starts_with(b"freecell")
}

/// Opening says that it is damaged, or everything is as it was: never a wrong byte, never a fresh
/// claim on a key that is decided, or held unless torn claims were counted.
pub fn recover_mutated(bytes: &[u8]) {
    let mut input = Input(bytes);
    let setting = setting(&mut input);
    let end = input.byte();
    let seed = input.number::<2>();
    let group = match end / 2 % 4 {
        0 | 1 => Group::Log,
        2 => Group::Claims,
        _ => Group::Superblock,
    };
    let left = left(setting, seed, end & 1 != 0, &mut input);
    let mut files = left.files.clone();
    for _ in 0..DAMAGES_MAX {
        if !input.is_empty() {
            Damage::read(&mut input).apply(&mut files, group);
        }
    }
    strict(&left, &files, group);
    salvaged(&left, &files);
}

fn strict(left: &Left, files: &Files, group: Group) {
    let disk = SimStorage::from_files(3, files.clone());
    let options = left.world.model.setting.options(&left.world.clock);
    let store = match open(&options, &disk) {
        Ok(store) => store,
        Err(error) => {
            assert!(*files != left.files, "undamaged, and does not open: {error}");
            let named = match &error {
                OpenError::Damaged { file, .. }
                | OpenError::Foreign { file }
                | OpenError::Newer { file, .. }
                | OpenError::Missing { file } => file,
                OpenError::NotAStore { .. } if group == Group::Superblock => return,
                _ => panic!("{error:?}"),
            };
            assert!(group.has(named) || group == Group::Superblock, "names {named}");
            assert!(disk.snapshot() == *files, "a refused opening has written");
            return;
        }
    };
    let (now, torn) = (store.stats().now_ms, store.stats().torn_claims > 0);
    listed(&store);
    let mut after = left.world.again(disk.clone());
    after.store = Some(store);
    for key in 0..KEYS {
        let found = get(after.store(), key);
        let Ok(found) = found else {
            begin_is_damaged(&after, key);
            continue;
        };
        let model = &left.world.model.keys[key];
        let mut may = vec![&model.is];
        // What was not durable may go without being missed.
        may.extend(model.past.iter().filter(|_| group == Group::Log));
        match judge(&left.world, &may, key, found.as_ref(), now) {
            Ok(is) => after.model.keys[key] = KeyModel { is, past: vec![], maybe: vec![] },
            // Told from a cell that the power has torn by nothing; so it is counted with those.
            Err(_) if torn && found.is_none() && matches!(model.is, Is::Held(_)) => {
                after.model.keys[key] = KeyModel { is: Is::Absent, past: vec![], maybe: vec![] };
            }
            Err(why) => panic!("key {key} is {}, none of {may:?}: {why:?}", short(&found)),
        }
        after.check_by_begin(key);
    }
    after.forget_handles();
    after.store.take().expect("open").close().expect("closes");
    if let Err(error) = open(&options, &disk) {
        panic!("opened once, but not again: {error:?}");
    }
}

/// What is found may be older than the last, or be lost, but then it is reported.
fn salvaged(left: &Left, files: &Files) {
    let disk = SimStorage::from_files(3, files.clone());
    let options = left.world.model.setting.options(&left.world.clock);
    let Ok(store) = open(&options.recovery(Recovery::Salvage), &disk) else {
        return;
    };
    let stats = store.stats();
    listed(&store);
    for key in 0..KEYS {
        let Ok(found) = get(&store, key) else {
            continue;
        };
        let model = &left.world.model.keys[key];
        let may: Vec<_> = [&model.is].into_iter().chain(&model.past).collect();
        if judge(&left.world, &may, key, found.as_ref(), stats.now_ms).is_ok() {
            continue;
        }
        let reported = stats.damaged_places > 0 || stats.torn_claims > 0;
        assert!(reported, "key {key} is {}, unreported", short(&found));
        if let Some(Entry { state: State::Completed(record), token, .. }) = &found {
            let known = left.been[key].iter().any(|is| match is {
                Is::Done(done) => {
                    let body = done.body.as_deref().filter(|_| stats.now_ms < done.replay_until);
                    done.token == token.get()
                        && *done.head == *record.head()
                        && body == record.response()
                }
                _ => false,
            });
            assert!(known, "key {key} was never {}", short(&found));
        }
    }
}

/// No other keys are there.
fn listed(store: &Store) {
    for entry in store.entries(Filter::ALL).flatten() {
        assert!((0..KEYS).any(|key| name(key) == entry.key.key()), "{:?} is a stranger", entry.key);
    }
}

fn get(store: &Store, key: usize) -> Result<Option<Entry>, ()> {
    let (scope, name) = (scope(), name(key));
    match store.get(KeyRef::new(&scope, &name).unwrap()) {
        Ok(found) => Ok(found),
        Err(StoreError::Damaged { .. }) => Err(()),
        Err(error) => panic!("key {key}: {error:?}"),
    }
}

fn begin_is_damaged(world: &World, key: usize) {
    let (scope, name) = (scope(), name(key));
    for other in [false, true] {
        let print = super::reference::print_of_named(&name, other);
        let begun = world.store().begin(KeyRef::new(&scope, &name).unwrap(), print);
        assert!(matches!(begun, Err(BeginError::Damaged { .. })), "key {key} is {begun:?}");
    }
}

/// Which of the states that a key may have it has.
fn judge(
    world: &World,
    may: &[&Is],
    key: usize,
    found: Option<&Entry>,
    now: u64,
) -> Result<Is, Vec<String>> {
    let mut answers = vec![];
    if world.model.setting.durability == 2 && !world.model.keys[key].past.is_empty() {
        answers = may.iter().filter_map(|is| is.answer()).collect();
    }
    let mut why = Vec::new();
    for is in may {
        match world.after_crash(is, found, now, &answers) {
            Ok(is) => return Ok(is),
            Err(because) => why.push(because),
        }
    }
    Err(why)
}
