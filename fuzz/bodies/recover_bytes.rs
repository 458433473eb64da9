//! Any bytes as the files of a store.
//!
//! An input is a byte of flags (1: change a whole store, else there are no files; 2: one that a
//! killed process left, else a closed one; 4: make the checksums right at the end), then pieces:
//! ```text
//! file + 8 * 0, pages, length u16, bytes    the file is these bytes, filled up with zeros
//! file + 8 * 1, offset u24, length, bytes   these bytes are somewhere in the file
//! file + 8 * 2                              there is no such file
//! file + 8 * 3, pages                       the file is cut or grows
//! ```

use super::{
    files::{Files, repair},
    input::Input,
    program::{ops, world},
    reference::{KEYS, Setting, name, open, print_of_named, scope},
};
use onlyonce::{
    Begin, BeginError, Filter, Fingerprint, KeyRef, ManualClock, OpenError, Recovery, Store,
    inspect::Inspection, storage::SimStorage,
};
use std::sync::{Arc, OnceLock};

pub const NAMES: [&str; 5] = ["superblock", "claims", "ring", "segment-000001", "segment-000002"];
const PAGES_MAX: usize = 33;
const SETTING: Setting = Setting { durability: 0, hash_bits: 64, tight: true };

/// A store with keys in every state: completed in two lives, failed, dropped, with a checkpoint,
/// forgotten, held.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    45,
    0, 0, 0, 0,  13, 0, 4, 3,   0, 1, 0, 0,  13, 0, 4, 0x83,
    0, 2, 0, 2,  13, 0, 5, 0,   0, 2, 0, 0,  37, 0, 0, 0,
    0, 3, 0, 0,  24, 0, 4, 0,   26, 0, 0, 0,
    0, 4, 0, 0,  24, 0, 2, 0,   21, 0, 3, 0,  33, 0, 0, 0,  30, 0, 0, 0x80,
    0, 0, 0, 1,
];

/// The files of such a store, as a closed or a killed process left them.
pub fn template(killed: bool) -> &'static Files {
    static FILES: [OnceLock<Files>; 2] = [OnceLock::new(), OnceLock::new()];
    FILES[usize::from(killed)].get_or_init(|| {
        let mut world = world(SETTING, 1, 0x1ce);
        for op in ops(&mut Input(PROGRAM)) {
            world.apply(op).expect("no fault was asked for");
        }
        if !killed {
            world.store.take().expect("open").close().expect("closes");
        }
        world.disk.kill().snapshot()
    })
}

fn files(input: &mut Input) -> Files {
    let flags = input.byte();
    let mut files = match flags & 1 {
        0 => Files::new(),
        _ => template(flags & 2 != 0).clone(),
    };
    while !input.is_empty() {
        let byte = input.byte();
        let name = NAMES[byte as usize % 8 % NAMES.len()];
        match byte / 8 % 4 {
            0 => {
                let pages = input.below(PAGES_MAX);
                let len = input.number::<2>() as usize;
                let mut bytes = input.take(len).to_vec();
                if pages > 0 {
                    bytes.resize(pages * 4096, 0);
                }
                files.insert(name.into(), bytes);
            }
            1 => {
                let offset = input.number::<3>() as usize;
                let len = input.byte() as usize;
                let bytes = input.take(len);
                if let Some(file) = files.get_mut(name).filter(|file| !file.is_empty()) {
                    let offset = offset % file.len();
                    let len = bytes.len().min(file.len() - offset);
                    file[offset..offset + len].copy_from_slice(&bytes[..len]);
                }
            }
            2 => drop(files.remove(name)),
            _ => {
                let pages = input.below(PAGES_MAX);
                if let Some(file) = files.get_mut(name) {
                    file.resize(pages * 4096, 0);
                }
            }
        }
    }
    if flags & 4 != 0 {
        repair(&mut files);
    }
    files
}

/// Opens in both modes. Whatever is said, nothing panics or hangs; what opens can be used, and
/// opens again. Reading from outside writes nothing, and a salvaged copy opens strictly.
pub fn recover_bytes(bytes: &[u8]) {
    let files = files(&mut Input(bytes));
    inspect(&files);
    for recovery in [Recovery::Strict, Recovery::Salvage] {
        let clock = ManualClock::at(super::reference::T0);
        let options = SETTING.options(&clock).recovery(recovery);
        let disk = SimStorage::from_files(1, files.clone());
        match open(&options, &disk) {
            Ok(store) => use_it(store),
            Err(error) => {
                let refused = matches!(
                    error,
                    OpenError::Damaged { .. }
                        | OpenError::Foreign { .. }
                        | OpenError::Newer { .. }
                        | OpenError::Missing { .. }
                );
                let unchanged = recovery == Recovery::Salvage || disk.snapshot() == files;
                assert!(!refused || unchanged, "a refused opening has written: {error}");
            }
        }
    }
}

/// The largest ring that is worth its memory here.
const RING_MAX: u64 = 1 << 20;

fn inspect(files: &Files) {
    let clock = ManualClock::at(super::reference::T0);
    let disk = SimStorage::from_files(1, files.clone());
    let Ok(inspection) = Inspection::open_on(Arc::new(disk.clone()), clock.clone(), None) else {
        return;
    };
    let report = inspection.verify(|_| {});
    let keys: Vec<_> = inspection.items().flatten().map(|item| item.entry.key).collect();
    for key in keys.iter().take(100) {
        let _ = inspection.get(key.as_ref());
    }
    assert!(disk.snapshot() == *files, "an inspection has written");
    if inspection.info().ring_bytes > RING_MAX {
        return;
    }
    let copy = SimStorage::new(2);
    inspection.salvage_on(&copy).expect("nothing keeps it from being written");
    let seen = SETTING.options(&clock).recovery(Recovery::Strict);
    match open(&seen, &copy) {
        Ok(store) => use_it(store),
        // The ring is one for other options.
        Err(OpenError::Options { .. }) => {}
        Err(error) => panic!("what was salvaged does not open: {error}; {report:?}"),
    }
}

/// Every call is answered, whatever the answer is.
fn use_it(store: Store) {
    let listed: Vec<_> = store.entries(Filter::ALL).flatten().map(|entry| entry.key).collect();
    for key in listed.iter().take(100) {
        let _ = store.get(key.as_ref());
        tried(store.begin(key.as_ref(), Fingerprint::of(["another request"])));
    }
    let scope = scope();
    for key in 0..KEYS {
        let name = name(key);
        let key = KeyRef::new(&scope, &name).unwrap();
        for other in [true, false] {
            tried(store.begin(key, print_of_named(&name, other)));
        }
    }
    let _ = store.flush();
    let _ = store.housekeep();
    let _ = store.stats();
    let _ = store.close();
}

fn tried(begun: Result<Begin, BeginError>) {
    match begun {
        Ok(Begin::Execute(mut claim)) => {
            let _ = claim.save_checkpoint(b"half way");
            let _ = claim.complete(b"done");
        }
        Ok(Begin::Interrupted(stuck)) => {
            if let Ok(Begin::Execute(claim)) = stuck.take_over() {
                let _ = claim.release();
            }
        }
        _ => {}
    }
}
