//! A store of ten million keys beside an empty one, beside a map in memory, and beside the disk.

use measure::{
    Args, Circle, Folder, Left, Machine, Map, Spread, beside, disk_reads, time,
    trace::{Call, Trace, TracedStorage},
    work::{BUFFERED, Key, PAYLOAD_BYTES, RESPONSE_BYTES, begin, key, new_series, pair, scope},
};
use onlyonce::{Begin, KeyRef, Options, Store};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const HELP: &str = "\
A store of many keys of 36 bytes with responses of 1 KiB, in Buffered, each figure beside its limit.

    --keys N,M   in millions (1,10); ten take 15 GB of disk, 16 GB of memory (page cache
                 included) and some minutes
    --quick      the same as --keys 0.3, with short rounds
    --dir DIR    for the stores: on the disk that you want to know about
    --json FILE  (millions.json beside this program)

Passes if all of these hold, at each size, by the median of the rounds:
  claim + complete   by one thread: with all the keys in the store at least 0.9 x the rate of one
                     that has some hundred, in turns; both write where they have written before
  opening, warm      after a kill -9: at most 0.15 s, or 0.15 s for each million keys
  opening, cold      ditto: at most 1.2 x reading, as cold, what it can't do without (footers,
                     segments without one, ring and claims file), in turns

Warm means that those bytes have just been read. Cold means that each file of the store was synced
and then taken out of the page cache by posix_fadvise(DONTNEED); what of it a disk or a host keeps
in a cache of its own is not known here. The first round opens what the kill has left. For the
others the files that an opening changes are made again what they were.

Replays and gets have no rule. The map is in a process of its own, which has ended before a store
is filled. The first time round each record is read once; the rounds come after it.
";

/// Set in the environment of a child: what it is to do.
const CHILD: &str = "ONLYONCE_MILLIONS_CHILD";
/// Retention of what is written while something is measured.
const SHORT: Duration = Duration::from_millis(400);
/// So many records the writer into the map keeps: what the store has of [`SHORT`], about.
const KEPT: u64 = 400_000;
const PAIRS_MIN: f64 = 0.9;
const OPENING_MAX_NS: f64 = 0.15e9;
const COLD_MAX: f64 = 1.2;

struct Plan {
    rounds: usize,
    /// Of a round that is timed.
    time: Duration,
    /// Of a round that is counted.
    pairs: u64,
}

impl Plan {
    fn new(quick: bool) -> Plan {
        match quick {
            true => Plan { rounds: 3, time: Duration::from_millis(200), pairs: 100_000 },
            false => Plan { rounds: 7, time: Duration::from_secs(1), pairs: 1_000_000 },
        }
    }
}

/// A figure and its limit, each from all its rounds.
#[derive(Serialize)]
struct Row {
    what: String,
    unit: Unit,
    found: Vec<f64>,
    beside: String,
    limit: Vec<f64>,
    /// Of a round to its limit's, the median.
    ratio: f64,
    rule: Option<String>,
    holds: bool,
}

#[derive(Clone, Copy, Serialize)]
enum Unit {
    Nanoseconds,
    PairsPerSecond,
    Bytes,
}

#[derive(Serialize)]
struct Found {
    keys: u64,
    rows: Vec<Row>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    found: Vec<Found>,
}

fn main() -> ExitCode {
    if let Ok(task) = env::var(CHILD) {
        child(&task);
        return ExitCode::SUCCESS;
    }
    let args = Args::read(HELP, &["--keys", "--dir", "--json"], &["--quick"]);
    let quick = args.has("--quick");
    let words = args.text("--keys").unwrap_or(if quick { "0.3" } else { "1,10" }).split(',');
    let number = |word: &str| match word.parse::<f64>() {
        Ok(millions) if millions > 0.0 => (millions * 1e6) as u64,
        _ => args.stop(&format!("{word}: not a number")),
    };
    let sizes: Vec<u64> = words.map(number).collect();
    let folder = Folder::new("millions", args.text("--dir"));
    let machine = Machine::of(folder.path());
    println!("{machine}");
    let found: Vec<Found> =
        sizes.iter().map(|keys| Found::of(*keys, quick, folder.path())).collect();
    let passed = found.iter().flat_map(|found| &found.rows).all(|row| row.holds);
    let path = args.text("--json").map_or_else(|| beside("millions.json"), Into::into);
    let json = serde_json::to_vec_pretty(&Report { machine, found }).expect("serializable");
    fs::write(path, json).expect("the JSON file");
    println!("\n{}", if passed { "PASS" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Found {
    fn of(keys: u64, quick: bool, base: &Path) -> Found {
        println!("\n{keys} keys; median (least to most), and beneath it the limit");
        let plan = Plan::new(quick);
        let mut found = Found { keys, rows: Vec::new(), notes: Vec::new() };
        let map = map_in_a_child(keys, quick);
        let [busy, quiet, empty] = ["busy", "quiet", "empty"].map(|name| base.join(name));

        killed(&busy, keys, false);
        found.openings(&plan, &busy, "at full rate", false);
        fs::remove_dir_all(&busy).expect("its files can go");
        killed(&quiet, keys, true);
        found.openings(&plan, &quiet, "3 s after its last write", true);

        Left::of(&quiet).and_then(|left| left.warm()).expect("the files");
        // What is written from now on is of the main class again, and expires soon.
        without_small_segments(&empty);
        let open = |dir: &Path| options().retention(SHORT).lease(SHORT).open(dir);
        let [full, empty] = [&quiet, &empty].map(|dir| open(dir).expect("the store opens"));
        found.disk(&full);
        found.pairs(&plan, &full, &empty);
        drop(empty);
        found.reads(&reads_of_store(&plan, keys, &full), &map);
        drop(full);
        for dir in fs::read_dir(base).expect("the directory") {
            fs::remove_dir_all(dir.expect("its entries").path()).expect("its files can go");
        }
        found
    }

    fn row(&mut self, row: Row) {
        let said = |unit, rounds: &[f64]| {
            let Spread { min, median, max } = Spread::of(rounds.iter().copied());
            let [min, median, max] = [min, median, max].map(|value| shown(unit, value));
            if rounds.len() == 1 { median } else { format!("{median} ({min} to {max})") }
        };
        println!("{:<62}{}", row.what, said(row.unit, &row.found));
        print!("    {:<58}{:<36}", row.beside, said(row.unit, &row.limit));
        let holds = if row.holds { "holds" } else { "DOES NOT HOLD" };
        let rule = row.rule.as_ref().map_or(String::new(), |rule| format!("   {rule}: {holds}"));
        println!("{:>6.3}{rule}", row.ratio);
        self.rows.push(row);
    }

    fn note(&mut self, note: String) {
        println!("    {note}");
        self.notes.push(note);
    }

    /// Opens, again and again, what a killed process has left.
    fn openings(&mut self, plan: &Plan, dir: &Path, killed: &str, quiet: bool) {
        let left = Left::of(dir).expect("the files");
        let open = || {
            let began = Instant::now();
            let store = options().open(dir).expect("the store opens");
            let took = began.elapsed().as_nanos() as f64;
            assert!(store.stats().records >= self.keys, "records were lost");
            store.close().expect("the store closes");
            took
        };
        let read = || {
            let began = Instant::now();
            left.read();
            began.elapsed().as_nanos() as f64
        };
        let [mut warm, mut warm_read, mut cold, mut cold_read] = <[Vec<f64>; 4]>::default();
        for round in 0..plan.rounds {
            if round > 0 {
                left.restore().expect("the files");
            }
            // At rest everything had been synced; at full rate some had not.
            if quiet {
                left.sync().expect("the files");
            }
            warm_read.push(read());
            warm.push(open());
        }
        let (mut fetched, mut needed) = (0, 0);
        for round in 0..plan.rounds {
            for opens in [round % 2 == 0, round % 2 == 1] {
                left.restore().expect("the files");
                left.cool().expect("the files");
                let (before, now) = (disk_reads(), if opens { open() } else { read() });
                let (times, bytes) = match opens {
                    true => (&mut cold, &mut fetched),
                    false => (&mut cold_read, &mut needed),
                };
                times.push(now);
                *bytes += disk_reads() - before;
            }
        }
        let mib = |bytes: u64| bytes >> 20;
        let rounds = plan.rounds as u64;
        let needs = format!("reading the {} MiB that it can't do without", mib(left.bytes()));
        let what = format!("opening after kill -9 {killed}");
        let most = OPENING_MAX_NS * (self.keys as f64 / 1e6).max(1.0);
        let fast = Spread::of(warm.iter().copied()).median <= most;
        self.row(Row {
            what: format!("{what}, warm"),
            unit: Unit::Nanoseconds,
            ratio: ratio(&warm, &warm_read),
            found: warm,
            beside: format!("{needs}, warm"),
            limit: warm_read,
            rule: Some(format!("at most {}", time(most))),
            holds: fast,
        });
        let share = ratio(&cold, &cold_read);
        self.row(Row {
            what: format!("{what}, cold"),
            unit: Unit::Nanoseconds,
            ratio: share,
            found: cold,
            beside: format!("{needs}, cold"),
            limit: cold_read,
            rule: Some(format!("at most {COLD_MAX}")),
            holds: share <= COLD_MAX,
        });
        self.note(format!(
            "{} segments with a footer, {} without; read from the disk: {} MiB by an opening, {} \
             MiB by the reading",
            left.sealed,
            left.unsealed,
            mib(fetched / rounds),
            mib(needed / rounds)
        ));
        self.calls(dir, &left);
    }

    /// What an opening waits for, by a cold round in which each call to the disk is noted.
    fn calls(&mut self, dir: &Path, left: &Left) {
        left.restore().and_then(|()| left.cool()).expect("the files");
        let trace = Trace::default();
        let began = Instant::now();
        let storage = TracedStorage::open(dir, trace.clone()).expect("the directory");
        let store = options().open_on(Arc::new(storage)).expect("the store opens");
        let (took, calls) = (began.elapsed(), trace.take());
        store.close().expect("the store closes");
        // The ring is mapped after everything has been read; then the index is filled, and nothing
        // is written before that.
        let reads = |call: &&Call| call.what.starts_with("reading");
        let maps = |call: &&Call| call.what == "mapping a file";
        let writes = calls.iter().filter(|call| !reads(call) && !maps(call));
        let written = writes.map(|call| call.began).min().expect("it writes");
        let mapped = calls.iter().filter(|call| maps(call) && call.began < written);
        let read = mapped.map(|call| call.ended).max().expect("it maps");
        let more = calls.iter().filter(|call| reads(call) && call.began > read).count();
        let phases = [read - began, written - read, began + took - written];
        let [reading, indexing, writing] = phases.map(|phase| time(phase.as_nanos() as f64));
        let mut sums: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
        for call in calls {
            let (count, sum) = sums.entry(call.what).or_default();
            *count += 1;
            *sum += call.ended - call.began;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(_, (_, sum))| Reverse(*sum));
        let show = |(what, (count, sum)): &(&str, (u32, Duration))| {
            format!("{} in {count} x {what}", time(sum.as_nanos() as f64))
        };
        let shown: Vec<_> = sums.iter().take(6).map(show).collect();
        let took = time(took.as_nanos() as f64);
        self.note(format!(
            "one more, cold, of {took}: {reading} to read, {indexing} to fill the index, with {more} \
             more reads, {writing} to write and sync; calls: {}",
            shown.join(", ")
        ));
    }

    fn disk(&mut self, store: &Store) {
        let stats = store.stats();
        let (segments, payload) = (stats.segment_bytes as f64, (self.keys * PAYLOAD_BYTES) as f64);
        for (beside, live) in [
            ("keys, fingerprints and responses", payload),
            ("their records", stats.bytes_live as f64),
        ] {
            self.row(Row {
                what: "the segments".into(),
                unit: Unit::Bytes,
                found: vec![segments],
                beside: beside.into(),
                limit: vec![live],
                ratio: segments / live,
                rule: None,
                holds: true,
            });
        }
        self.note(format!(
            "{} segments, {} of them free; {:.1} bytes of memory a key in the index",
            stats.segments,
            stats.segments_free,
            stats.index_bytes as f64 / self.keys as f64
        ));
    }

    fn pairs(&mut self, plan: &Plan, full: &Store, empty: &Store) {
        let [few, many] = [empty, full].map(|store| store.stats().records);
        let turn = |store: &Store, before: u64| {
            let (scope, series) = (scope(), new_series());
            let began = Instant::now();
            let keys = (0..plan.pairs).map(|i| key(series, i));
            keys.for_each(|key| pair(store, &scope, &key, &[7; RESPONSE_BYTES]));
            let took = began.elapsed();
            while store.stats().records > before {
                assert!(began.elapsed() < Duration::from_secs(60), "nothing expires");
                thread::sleep(SHORT / 10);
            }
            thread::sleep(SHORT / 10);
            plan.pairs as f64 / took.as_secs_f64()
        };
        let segments = || full.stats().segments + empty.stats().segments;
        // Until they write where they have written before.
        for _ in 0..10 {
            let before = segments();
            turn(empty, few);
            turn(full, many);
            if segments() == before {
                break;
            }
        }
        let (before, mut found, mut limit) = (segments(), Vec::new(), Vec::new());
        for round in 0..plan.rounds {
            for with_keys in [round % 2 == 0, round % 2 == 1] {
                match with_keys {
                    true => found.push(turn(full, many)),
                    false => limit.push(turn(empty, few)),
                }
            }
        }
        let share = ratio(&found, &limit);
        self.row(Row {
            what: "claim + complete by one thread, with all the keys there".into(),
            unit: Unit::PairsPerSecond,
            found,
            beside: "on a store of next to no keys, in turns".into(),
            limit,
            ratio: share,
            rule: Some(format!("at least {PAIRS_MIN}")),
            holds: share >= PAIRS_MIN,
        });
        let made = segments() - before;
        self.note(format!("{made} new segments meanwhile, all others were used before"));
    }

    fn reads(&mut self, store: &Reads, map: &Reads) {
        let bare = "a bare sharded map, same copy + crc32fast";
        let busy = "the same map while another thread inserts and forgets";
        for (what, unit, beside, of) in [
            (
                "replay in random order, each known from the one before",
                Unit::Nanoseconds,
                bare,
                (|reads| &reads.replay) as fn(&Reads) -> &Vec<f64>,
            ),
            ("... the first time round", Unit::Nanoseconds, bare, |reads| &reads.first),
            ("... while another thread claims and completes", Unit::Nanoseconds, busy, |reads| {
                &reads.beside_writer
            }),
            ("... and that thread meanwhile", Unit::PairsPerSecond, "the map's", |reads| {
                &reads.writer
            }),
            ("get of absent keys", Unit::Nanoseconds, "a bare sharded map", |reads| &reads.absent),
        ] {
            self.row(Row {
                what: what.into(),
                unit,
                found: of(store).clone(),
                beside: beside.into(),
                limit: of(map).clone(),
                ratio: ratio(of(store), of(map)),
                rule: None,
                holds: true,
            });
        }
    }
}

fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Nanoseconds => time(value),
        Unit::PairsPerSecond => format!("{:.2} million/s", value / 1e6),
        Unit::Bytes => format!("{:.1} MiB", value / f64::from(1 << 20)),
    }
}

fn ratio(found: &[f64], limit: &[f64]) -> f64 {
    Spread::of(found.iter().zip(limit).map(|(found, limit)| found / limit)).median
}

/// Of a store while it is filled.
fn options() -> Options {
    Options::new().durability(BUFFERED).capacity(64 << 30).retention(Duration::from_secs(24 * 3600))
}

/// A store that has next to no keys, but has put its first segments, which are small, to lasting
/// use, as one with many keys has: the others write less often into the same bytes.
fn without_small_segments(dir: &Path) {
    let (store, scope, series) =
        (options().open(dir).expect("the store opens"), scope(), new_series());
    for i in (0..).take_while(|_| store.stats().segment_bytes < 192 << 20) {
        pair(&store, &scope, &key(series, i), &[7; 256 << 10]);
    }
    store.close().expect("the store closes");
}

/// What a look-up costs, in nanoseconds.
#[derive(Default, Serialize, Deserialize)]
struct Reads {
    /// Each record once, before everything else.
    first: Vec<f64>,
    replay: Vec<f64>,
    absent: Vec<f64>,
    beside_writer: Vec<f64>,
    /// Pairs a second of that writer.
    writer: Vec<f64>,
}

impl Reads {
    fn of(
        plan: &Plan,
        keys: u64,
        mut replay: impl FnMut(),
        mut absent: impl FnMut(&Key),
        mut pair: impl FnMut() + Send,
    ) -> Reads {
        let (mut found, series, mut i) = (Reads::default(), new_series(), 0);
        let began = Instant::now();
        (0..keys).for_each(|_| replay());
        found.first.push(began.elapsed().as_nanos() as f64 / keys as f64);
        for _ in 0..plan.rounds {
            found.replay.push(each(plan.time, &mut replay));
            found.absent.push(each(plan.time, || {
                absent(&key(series, i));
                i += 1;
            }));
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                let writer = scope.spawn(|| {
                    let (began, mut pairs) = (Instant::now(), 0_u64);
                    while !stop.load(Ordering::Relaxed) {
                        pair();
                        pairs += 1;
                    }
                    pairs as f64 / began.elapsed().as_secs_f64()
                });
                found.beside_writer.push(each(plan.time, &mut replay));
                stop.store(true, Ordering::Relaxed);
                found.writer.push(writer.join().expect("a writer"));
            });
            // What was written has expired by then.
            thread::sleep(3 * SHORT);
        }
        found
    }
}

/// Nanoseconds of a call, on average over some time.
fn each(time: Duration, mut call: impl FnMut()) -> f64 {
    let (began, mut calls) = (Instant::now(), 0);
    loop {
        (0..100).for_each(|_| call());
        calls += 100;
        let took = began.elapsed();
        if took >= time {
            return took.as_nanos() as f64 / f64::from(calls);
        }
    }
}

fn reads_of_store(plan: &Plan, keys: u64, store: &Store) -> Reads {
    let (scope, series, mut i, mut next) = (scope(), new_series(), 0, Circle::start());
    let replay = || match begin(store, &scope, &next) {
        Begin::Replay(record) => {
            next.copy_from_slice(&record.response().expect("retained")[..36]);
        }
        other => panic!("a completed key was found to be {other:?}"),
    };
    let absent = |key: &Key| {
        let key = KeyRef::new(&scope, key).expect("36 bytes");
        assert!(store.get(key).expect("the store works").is_none());
    };
    Reads::of(plan, keys, replay, absent, || {
        pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]);
        i += 1;
    })
}

fn reads_of_map(plan: &Plan, keys: u64) -> Reads {
    let map = Map::default();
    Circle::new(keys).each(|key, response| map.complete(key, response));
    let (series, mut i, mut next) = (new_series(), 0, Circle::start());
    let replay = || {
        let (response, crc) = map.replay(&next).expect("filled in");
        black_box(crc);
        next.copy_from_slice(&response[..36]);
    };
    let absent = |key: &Key| assert!(map.replay(key).is_none());
    let mut pair = || {
        let new = key(series, i);
        map.claim(&new);
        map.complete(&new, black_box(&[7; RESPONSE_BYTES]));
        if i >= KEPT {
            map.forget(&key(series, i - KEPT));
        }
        i += 1;
    };
    (0..KEPT).for_each(|_| pair());
    Reads::of(plan, keys, replay, absent, pair)
}

fn start(task: &str) -> Child {
    let program = env::current_exe().expect("this program");
    let child = Command::new(program).env(CHILD, task).stdout(Stdio::piped()).spawn();
    child.expect("a second process")
}

/// Its memory has to be free again before a store is filled, and an allocator may keep it.
fn map_in_a_child(keys: u64, quick: bool) -> Reads {
    let output = start(&format!("map {keys} {quick}")).wait_with_output().expect("a child");
    serde_json::from_slice(&output.stdout).expect("the child says what it found")
}

/// A store whose process was killed, after its last write or while it went on writing.
fn killed(dir: &Path, keys: u64, quiet: bool) {
    let mut child = start(&format!("fill {keys} {quiet} {}", dir.display()));
    let mut said = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut said).expect("the child says something");
    child.kill().and_then(|()| child.wait()).expect("a child can be killed");
    assert_eq!(said, "written\n");
}

fn child(task: &str) {
    let mut words = task.splitn(4, ' ');
    let mut word = || words.next().expect("one more word");
    let (what, keys, how) = (word(), word().parse().expect("keys"), word() == "true");
    match what {
        "map" => {
            let found = reads_of_map(&Plan::new(how), keys);
            println!("{}", serde_json::to_string(&found).expect("serializable"));
        }
        _ => fill(keys, how, Path::new(word())),
    }
}

fn fill(keys: u64, quiet: bool, dir: &Path) {
    let (store, scope) = (options().open(dir).expect("the store opens"), scope());
    Circle::new(keys).each(|key, response| pair(&store, &scope, key, response));
    if quiet {
        thread::sleep(Duration::from_secs(3));
    }
    println!("written");
    if !quiet {
        let series = new_series();
        let more = (0..keys.min(1_000_000)).map(|i| key(series, i));
        more.for_each(|key| pair(&store, &scope, &key, &[7; RESPONSE_BYTES]));
    }
    // The process that was to kill this one is gone.
    thread::sleep(Duration::from_secs(20));
}
