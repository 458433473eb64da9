//! Full write rate for an hour, with a retention so short that the store turns over many times:
//! throughput, latencies, memory and disk have to stay what they were.

use measure::{
    Args, Device, Folder, Latencies, Machine, Memory, beside, disk_bytes,
    plot::{self, Curve},
    work::{BUFFERED, PAYLOAD_BYTES, RESPONSE_BYTES, key, new_series, pair, scope},
};
use onlyonce::{Durability, Options, Store};
use serde::Serialize;
use std::{
    fs,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const HELP: &str = "\
Full write rate, with a retention so short that the store turns over many times.

    --minutes N      (60)
    --quick          two minutes
    --durability D   buffered, completions or synced (buffered)
    --callers N      (2 buffered, 64 otherwise)
    --retention MS   (2000)
    --dir DIR        for the store: on the disk that you want to know about
    --out PREFIX     for PREFIX.csv, PREFIX.json and PREFIX.svg (beside this program)

Passes if all of these hold. Of the samples, one a second, the first tenth (at least ten) is left
out; the rest is cut into three; compared are the medians of the first and of the last third.
  throughput    the last at least 0.9 x the first
  p99.9         the last at most 1.5 x the first
  memory        the last at most 1.1 x the first + 8 MiB (without mapped files)
  disk          the last at most 1.05 x the first
  turned over   at least ten times: what was written is ten times what the segments hold
";

/// What one second was like.
#[derive(Clone, Serialize)]
struct Sample {
    second: f64,
    pairs_per_second: f64,
    p50_us: f64,
    p999_us: f64,
    max_us: f64,
    memory_mib: f64,
    mapped_mib: f64,
    disk_mib: f64,
    records: u64,
    segments_free: u64,
    device_mib: f64,
}

#[derive(Serialize)]
struct Check {
    what: &'static str,
    first: f64,
    last: f64,
    rule: &'static str,
    holds: bool,
}

#[derive(Serialize)]
struct Summary {
    machine: Machine,
    durability: String,
    callers: u64,
    retention_ms: u64,
    turned_over: f64,
    /// Written to the device for each byte of key, fingerprint and response.
    device_bytes_per_payload: Option<f64>,
    checks: Vec<Check>,
    samples: Vec<Sample>,
}

fn main() -> ExitCode {
    let names = ["--minutes", "--durability", "--callers", "--retention", "--dir", "--out"];
    let args = Args::read(HELP, &names, &["--quick"]);
    let durability = match args.text("--durability").unwrap_or("buffered") {
        "buffered" => BUFFERED,
        "completions" => Durability::SyncedCompletions,
        "synced" => Durability::Synced,
        other => args.stop(&format!("{other}: no such durability")),
    };
    let callers = args.number("--callers", if durability == BUFFERED { 2 } else { 64 });
    let minutes = args.number("--minutes", if args.has("--quick") { 2 } else { 60 });
    let retention = Duration::from_millis(args.number("--retention", 2000));
    let folder = Folder::new("endurance", args.text("--dir"));
    let machine = Machine::of(folder.path());
    println!("{machine}");
    let options = Options::new().durability(durability).retention(retention).lease(retention);
    let store = options.capacity(64 << 30).open(folder.path()).expect("the store opens");
    let device = Device::of(folder.path()).expect("the directory");
    let before = device.as_ref().map(Device::written);
    let samples = run(&store, callers, minutes * 60, &folder, device.as_ref());
    let stats = store.stats();
    let payload = (stats.completed * PAYLOAD_BYTES) as f64;
    let written = device.map(|device| device.written() - before.expect("a device"));
    let turned_over = payload / stats.segment_bytes as f64;
    let summary = Summary {
        machine,
        durability: format!("{durability:?}"),
        callers,
        retention_ms: retention.as_millis() as u64,
        turned_over,
        device_bytes_per_payload: written.map(|bytes| bytes as f64 / payload),
        checks: checks(&samples, turned_over),
        samples,
    };
    write(&summary, args.text("--out"));
    report(&summary)
}

/// One caller's times since the last look.
type Seen = Mutex<Latencies>;

fn run(
    store: &Store,
    callers: u64,
    seconds: u64,
    folder: &Folder,
    device: Option<&Device>,
) -> Vec<Sample> {
    let stop = AtomicBool::new(false);
    let seen: Vec<Seen> = (0..callers).map(|_| Seen::default()).collect();
    let mut samples = Vec::new();
    thread::scope(|scope| {
        for own in &seen {
            scope.spawn(|| caller(store, own, &stop));
        }
        let began = Instant::now();
        let (mut last, mut device_before) = (began, device.map(Device::written_now));
        for second in 1..=seconds {
            let due = began + Duration::from_secs(second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut times = Latencies::default();
            for own in &seen {
                times.merge(&std::mem::take(&mut *own.lock().unwrap()));
            }
            let now = Instant::now();
            let device_now = device.map(Device::written_now);
            let device_bytes = device_now.zip(device_before).map_or(0, |(now, was)| now - was);
            samples.push(sample(store, folder, &times, now - began, now - last, device_bytes));
            (last, device_before) = (now, device_now);
            if second % 60 == 0 {
                let latest = samples.last().expect("pushed");
                eprintln!("{} min: {:.0} pairs/s", second / 60, latest.pairs_per_second);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    samples
}

fn caller(store: &Store, own: &Seen, stop: &AtomicBool) {
    let (scope, series, mut mine) = (scope(), new_series(), Latencies::default());
    let (mut i, mut last) = (0_u64, Instant::now());
    let mut handed_over = last;
    while !stop.load(Ordering::Relaxed) {
        pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]);
        let now = Instant::now();
        mine.add(now - last);
        (i, last) = (i + 1, now);
        if now - handed_over > Duration::from_millis(100) {
            own.lock().unwrap().merge(&std::mem::take(&mut mine));
            handed_over = now;
        }
    }
}

fn sample(
    store: &Store,
    folder: &Folder,
    times: &Latencies,
    at: Duration,
    took: Duration,
    device_bytes: u64,
) -> Sample {
    let (stats, memory, found) = (store.stats(), Memory::now(), times.quantiles());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Sample {
        second: at.as_secs_f64(),
        pairs_per_second: found.count as f64 / took.as_secs_f64(),
        p50_us: found.p50_ns as f64 / 1e3,
        p999_us: found.p999_ns as f64 / 1e3,
        max_us: found.max_ns as f64 / 1e3,
        memory_mib: mib(memory.anonymous),
        mapped_mib: mib(memory.mapped),
        disk_mib: mib(disk_bytes(folder.path())),
        records: stats.records,
        segments_free: stats.segments_free,
        device_mib: mib(device_bytes),
    }
}

fn checks(samples: &[Sample], turned_over: f64) -> Vec<Check> {
    let rest = &samples[(samples.len() / 10).max(10).min(samples.len())..];
    let third = rest.len() / 3;
    let median =
        |of: &[Sample], what: fn(&Sample) -> f64| measure::Spread::of(of.iter().map(what)).median;
    let ends = |what| (median(&rest[..third], what), median(&rest[rest.len() - third..], what));
    let check = |what, (first, last), rule, holds: fn(f64, f64) -> bool| Check {
        what,
        first,
        last,
        rule,
        holds: holds(first, last),
    };
    vec![
        check("pairs/s", ends(|s| s.pairs_per_second), "last >= 0.9 x first", |first, last| {
            first > 0.0 && last >= 0.9 * first
        }),
        check("p99.9, us", ends(|s| s.p999_us), "last <= 1.5 x first", |first, last| {
            last <= 1.5 * first
        }),
        check("memory, MiB", ends(|s| s.memory_mib), "last <= 1.1 x first + 8", |first, last| {
            last <= 1.1 * first + 8.0
        }),
        check("disk, MiB", ends(|s| s.disk_mib), "last <= 1.05 x first", |first, last| {
            last <= 1.05 * first
        }),
        check("turned over", (10.0, turned_over), "at least 10 times", |least, times| {
            times >= least
        }),
    ]
}

fn write(summary: &Summary, out: Option<&str>) {
    let out = out.map_or_else(|| beside("endurance"), Into::into);
    let json = serde_json::to_vec_pretty(summary).expect("serializable");
    let mut csv = String::from(
        "second,pairs_per_second,p50_us,p999_us,max_us,memory_mib,mapped_mib,disk_mib,records,\
         segments_free,device_mib\n",
    );
    for s in &summary.samples {
        csv += &format!(
            "{:.2},{:.0},{:.1},{:.1},{:.1},{:.1},{:.1},{:.1},{},{},{:.1}\n",
            s.second,
            s.pairs_per_second,
            s.p50_us,
            s.p999_us,
            s.max_us,
            s.memory_mib,
            s.mapped_mib,
            s.disk_mib,
            s.records,
            s.segments_free,
            s.device_mib
        );
    }
    let curve = |title: &str, value: fn(&Sample) -> f64| Curve {
        title: title.into(),
        points: summary.samples.iter().map(|sample| (sample.second, value(sample))).collect(),
    };
    let curves = [
        curve("pairs a second", |s| s.pairs_per_second),
        curve("p99.9, microseconds", |s| s.p999_us),
        curve("memory without mapped files, MiB", |s| s.memory_mib),
        curve("disk, MiB", |s| s.disk_mib),
        curve("written to the device, MiB a second", |s| s.device_mib),
    ];
    for (ending, bytes) in
        [("csv", csv.into_bytes()), ("json", json), ("svg", plot::svg(&curves).into_bytes())]
    {
        let path = out.with_extension(ending);
        fs::write(&path, bytes).expect("a file for the results");
        println!("{}", path.display());
    }
}

fn report(summary: &Summary) -> ExitCode {
    let device = summary.device_bytes_per_payload;
    println!(
        "turned over {:.1} times; written to the device for each byte of payload: {}",
        summary.turned_over,
        device.map_or("unknown".into(), |share| format!("{share:.3}"))
    );
    for check in &summary.checks {
        println!(
            "{:<14}{:>14.1}{:>14.1}   {:<26}{}",
            check.what,
            check.first,
            check.last,
            check.rule,
            if check.holds { "holds" } else { "DOES NOT HOLD" }
        );
    }
    let passed = summary.checks.iter().all(|check| check.holds);
    println!("{}", if passed { "PASS: flat" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
