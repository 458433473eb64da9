//! How much memory a key takes while a store grows: of the index by its own account, and of the
//! whole process by the kernel's.

use measure::{
    Args, Folder, Machine, Memory, beside,
    work::{BUFFERED, key, new_series, pair, scope},
};
use onlyonce::{Options, Store};
use serde::Serialize;
use std::{fs, process::ExitCode, time::Duration};

const HELP: &str = "\
Memory a key, on average while the number of keys grows from a half of each size to all of it,
and at worst.

    --keys N,M   in millions (1,10,50; that takes some 8 GiB of disk)
    --quick      the same as --keys 1
    --dir DIR    for the store
    --json FILE  (memory.json beside this program)

Passes if the index takes at most 16 bytes on average and 21 at worst, at each size.
";

/// The responses are empty: only keys count here.
const AVERAGE_MAX: f64 = 16.0;
const WORST_MAX: f64 = 21.0;
/// How often it is looked at while the number of keys doubles.
const LOOKS: u64 = 256;

#[derive(Default, Serialize)]
struct Found {
    keys: u64,
    index_average: f64,
    index_worst: f64,
    /// Of the whole process beyond what the empty store took, without mapped files.
    process_average: f64,
    process_worst: f64,
    passed: bool,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    found: Vec<Found>,
}

fn main() -> ExitCode {
    let args = Args::read(HELP, &["--keys", "--dir", "--json"], &["--quick"]);
    let default = if args.has("--quick") { "1" } else { "1,10,50" };
    let words = args.text("--keys").unwrap_or(default).split(',');
    let number = |word: &str| match word.parse::<f64>() {
        Ok(millions) if millions > 0.0 => (millions * 1e6) as u64,
        _ => args.stop(&format!("{word}: not a number")),
    };
    let mut sizes: Vec<u64> = words.map(number).collect();
    sizes.sort_unstable();
    let folder = Folder::new("memory", args.text("--dir"));
    let machine = Machine::of(folder.path());
    println!("{machine}");
    let options = Options::new().durability(BUFFERED).capacity(64 << 30);
    let options = options.retention(Duration::from_secs(24 * 3600));
    let store = options.open(folder.path()).expect("the store opens");
    println!(
        "{:>12}{:>18}{:>10}{:>20}{:>10}",
        "keys", "index, average", "worst", "process", "worst"
    );
    let found = grow(&store, &sizes);
    let passed = found.iter().all(|found| found.passed);
    let path = args.text("--json").map_or_else(|| beside("memory.json"), Into::into);
    let json = serde_json::to_vec_pretty(&Report { machine, found }).expect("serializable");
    fs::write(path, json).expect("the JSON file");
    println!("bytes a key; {}", if passed { "PASS" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn grow(store: &Store, sizes: &[u64]) -> Vec<Found> {
    let (scope, series, empty) = (scope(), new_series(), Memory::now().anonymous);
    let (mut keys, mut all) = (0, Vec::new());
    for size in sizes {
        let (mut looks, mut found) = (0_u32, Found { keys: *size, ..Found::default() });
        while keys < *size {
            pair(store, &scope, &key(series, keys), &[]);
            keys += 1;
            if keys > size / 2 && keys % (size / 2 / LOOKS).max(1) == 0 {
                let each = |bytes: u64| bytes as f64 / keys as f64;
                let index = each(store.stats().index_bytes);
                let process = each(Memory::now().anonymous.saturating_sub(empty));
                looks += 1;
                found.index_average += index;
                found.process_average += process;
                found.index_worst = found.index_worst.max(index);
                found.process_worst = found.process_worst.max(process);
            }
        }
        found.index_average /= f64::from(looks);
        found.process_average /= f64::from(looks);
        found.passed = found.index_average <= AVERAGE_MAX && found.index_worst <= WORST_MAX;
        println!(
            "{:>12}{:>18.1}{:>10.1}{:>20.1}{:>10.1}",
            size,
            found.index_average,
            found.index_worst,
            found.process_average,
            found.process_worst
        );
        all.push(found);
    }
    all
}
