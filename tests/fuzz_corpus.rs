//! The bodies of the fuzz targets, over the corpus that is checked in and over random inputs.
//!
//! `SEED=<n>` chooses other inputs, `INPUTS=<n>` is how many for each target. A failure leaves
//! the input in a file, and says in which. `INPUT=<file>` runs that one only, with the name of the
//! target as the filter. `WRITE_SEEDS=1` writes the corpus's seeds anew.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
};

/// No single allocation is far beyond the largest input and what a store needs anyway: inputs make
/// files of a few hundred KiB.
const ALLOCATION_MAX: usize = 8 << 20;

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: everything is handed to the system's allocator, or refused with null.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ALLOCATION_MAX {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above; what was allocated here came from there.
        unsafe { System.dealloc(place, layout) }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn write_seeds(target: &str) {
    fs::create_dir_all(corpus(target)).unwrap();
    for (of, name, input) in bodies::seeds() {
        if of == target {
            fs::write(corpus(target).join(name), input).unwrap();
        }
    }
}

fn run(target: &str, what: &str, input: &[u8], body: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-failures");
        let _ = fs::create_dir_all(&folder);
        let file = folder.join(target);
        let _ = fs::write(&file, input);
        eprintln!("{target} fails on {what}, which is in {}", file.display());
        resume_unwind(panic);
    }
}

/// Runs a body over its corpus, then over the corpus's files with a few bytes changed and over
/// random bytes, in turn.
fn smoke(target: &str, inputs: u64, body: fn(&[u8])) {
    if let Some(file) = std::env::var_os("INPUT") {
        return body(&fs::read(file).unwrap());
    }
    if std::env::var_os("WRITE_SEEDS").is_some() {
        write_seeds(target);
    }
    let mut files: Vec<_> =
        fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    let mut known = Vec::new();
    for file in &files {
        let input = fs::read(file).unwrap();
        run(target, &file.display().to_string(), &input, body);
        known.push(input);
    }
    let (seed, inputs) = (number("SEED", 1), number("INPUTS", inputs));
    println!("{target}: {} files, {inputs} inputs of SEED={seed}", files.len());
    let mut rng = Rng(seed);
    for n in 0..inputs {
        let mut input = known[rng.below(known.len())].clone();
        if n % 2 == 0 || input.is_empty() {
            let len = rng.below(400);
            input = (0..len).map(|_| rng.next() as u8).collect();
        } else {
            for _ in 0..1 + rng.below(8) {
                let at = rng.below(input.len());
                input[at] = rng.next() as u8;
            }
        }
        run(target, &format!("input {n} of SEED={seed}"), &input, body);
    }
}

macro_rules! targets {
    ($($name:ident: $inputs:expr,)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name), $inputs, bodies::$name);
        })*

        /// A target that isn't here would not be tried without a nightly compiler.
        #[test]
        fn every_target_is_here() {
            let here = [$(stringify!($name)),*];
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
            for file in fs::read_dir(folder).unwrap() {
                let file = file.unwrap().path();
                let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
                assert!(name == "canary" || here.contains(&&name[..]), "{name}");
            }
        }
    };
}

targets! {
    recover_bytes: 300,
    recover_mutated: 200,
    operations: 200,
    frame: 2000,
    scan: 2000,
    footer: 1000,
    cells: 1000,
    superblock: 1000,
    wheel: 1000,
    answer: 2000,
    key: 2000,
}
