//! Opening after a crash or a clean end.

use crate::{
    Bench,
    expiry::table,
    measure::{median, once},
    plan::{RESPONSE_BYTES, key, new_series, pair, scope},
    write::BUFFERED,
};
use onlyonce::{Options, Store};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

pub fn fill(store: &Store, records: u64) -> u64 {
    let (scope, series) = (scope(), new_series());
    (0..records).for_each(|i| pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]));
    series
}

/// Set in the environment of a child that is to be killed: how many records it is to write,
/// whether it is then quiet, and where.
pub const CHILD: &str = "ONLYONCE_BENCH_CHILD";

/// The child: writes, says so, and is quiet or writes on until it is killed.
pub fn child(how: &str) {
    let mut words = how.splitn(3, ' ');
    let mut word = || words.next().expect("three words");
    let (records, quiet, dir) = (word().parse().unwrap(), word() == "quiet", word());
    let store = Options::new().durability(BUFFERED).open(dir).unwrap();
    fill(&store, records);
    if quiet {
        thread::sleep(Duration::from_secs(3));
    }
    println!("written");
    if !quiet {
        fill(&store, records);
    }
    // The process that was to kill it is gone.
    thread::sleep(Duration::from_secs(20));
}

/// A store in `dir` whose process was killed.
fn killed(dir: &Path, records: u64, quiet: bool) {
    let how = format!("{records} {} {}", if quiet { "quiet" } else { "busy" }, dir.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, how)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(said, "written\n");
}

pub fn open(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    let records = plan.count(1_000_000);
    report.title(&format!("open, {records} records of 1 KiB, page cache warm"));
    let open = |dir: &Path| {
        let mut store = None;
        let took = once(|| store = Some(Options::new().durability(BUFFERED).open(dir).unwrap()));
        (store.expect("opened"), took)
    };
    for quiet in [true, false] {
        let dir = plan.dir();
        killed(dir.path(), records, quiet);
        let mut bytes = 0;
        let read = once(|| bytes = read_all(dir.path()));
        let (store, took) = open(dir.path());
        let when = if quiet { "3 s after the last write" } else { "at full rate" };
        report.cost(&format!("after kill -9 {when}"), took);
        let all = format!("reading all {} MiB once + crc32fast, one thread", bytes >> 20);
        report.cost_limit(&all, read, took);
        report.note(format_args!("{} records", store.stats().records));
        assert!(store.stats().records >= records);
        store.close().unwrap();
        if quiet {
            let mut clean = [(); 3].map(|()| open(dir.path()).1);
            let took = median(&mut clean);
            report.cost("after a clean close", took);
            let limit = median(&mut [(); 3].map(|()| once(|| drop(table(records)))));
            report.cost_limit(
                "inserting as many hashes into a bare table, one thread",
                limit,
                took,
            );
        }
    }
}

/// Opening stores of several sizes.
pub fn sizes(bench: &mut Bench) {
    let Bench { plan, report, .. } = bench;
    for records in [30_000, 100_000, 300_000, 1_000_000] {
        let records = plan.count(records);
        let dir = plan.dir();
        killed(dir.path(), records, true);
        report.title(&format!("opening {records} records of 1 KiB"));
        let read = once(|| {
            std::hint::black_box(read_all(dir.path()));
        });
        let open = || {
            let mut store = None;
            let open = || Options::new().durability(BUFFERED).open(dir.path()).unwrap();
            let took = once(|| store = Some(open()));
            (store.expect("opened"), took)
        };
        let (store, took) = open();
        assert_eq!(store.stats().records, records);
        store.close().unwrap();
        report.cost("after kill -9", took);
        report.cost_limit("reading all files once, with a checksum", read, took);
        let mut clean = [(); 3].map(|()| open().1);
        report.cost("after a clean close", median(&mut clean));
    }
}

fn read_all(dir: &Path) -> u64 {
    let mut piece = vec![0; 1 << 20];
    let mut bytes = 0;
    for file in fs::read_dir(dir).unwrap() {
        let mut file = File::open(file.unwrap().path()).unwrap();
        loop {
            let read = file.read(&mut piece).unwrap();
            if read == 0 {
                break;
            }
            std::hint::black_box(crc32fast::hash(&piece[..read]));
            bytes += read as u64;
        }
    }
    bytes
}
