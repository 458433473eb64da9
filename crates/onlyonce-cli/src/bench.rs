//! `bench`: what this disk and this machine give, with the limits beside.

use super::{
    args::Bench,
    fail::{Code, Failure},
    out::Out,
    units::count,
};
use onlyonce::{Begin, Durability, Fingerprint, KeyRef, Options, Scope, Store};
use serde_json::json;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

const RESPONSE: usize = 1024;
/// Keys that are replayed.
const KEYS: u64 = 10_000;

/// A directory that is removed when this is dropped.
struct Workplace(PathBuf);

impl Drop for Workplace {
    fn drop(&mut self) {
        // Best effort: what stays is named after this command.
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Row {
    name: &'static str,
    per_second: f64,
    /// The highest possible rate; `by` names what limits it.
    limit: f64,
    by: &'static str,
}

pub fn run(args: &Bench, out: &mut Out) -> Result<(), Failure> {
    let valid = args.seconds.is_finite() && args.seconds > 0.0 && args.seconds <= 600.0;
    if !valid || args.callers == 0 || args.callers > 1024 {
        let line = "--seconds must be above 0 and at most 600, --callers 1 to 1024";
        return Err(Failure::new(Code::Misused, line));
    }
    let place = args.directory.join(format!("onlyonce-bench-{}", std::process::id()));
    fs::create_dir(&place).map_err(Failure::io(format!("creating {}", place.display())))?;
    let place = Workplace(place);
    let time = Duration::from_secs_f64(args.seconds);
    let sync = sync_time(&place.0, time).map_err(Failure::io("measuring a sync"))?;
    let copy = copy_rate(time);
    let per_sync = 1.0 / sync.as_secs_f64();
    let pairs = |name, durability, callers, limit, by| -> Result<Row, Failure> {
        let per_second = pairs(&place.0.join(name), durability, callers, time)?;
        Ok(Row { name, per_second, limit, by })
    };
    let buffered = Durability::Buffered { max_delay: Duration::from_millis(100) };
    let callers = args.callers;
    let mut rows = vec![
        pairs("synced", Durability::Synced, 1, per_sync / 2.0, "two syncs a pair")?,
        pairs("synced-completions", Durability::SyncedCompletions, 1, per_sync, "one sync a pair")?,
        pairs(
            "synced, many callers",
            Durability::Synced,
            callers,
            per_sync / 2.0 * callers as f64,
            "two syncs for all callers",
        )?,
        pairs("buffered", buffered, 1, copy, "copying the response")?,
    ];
    rows.push(replays(&place.0.join("replays"), time, copy)?);
    match out.json {
        true => out.value(&json!({
            "sync_us": sync.as_secs_f64() * 1e6,
            "copies_per_second": copy,
            "response_bytes": RESPONSE,
            "callers": callers,
            "rows": rows.iter().map(|row| json!({
                "name": row.name,
                "per_second": row.per_second,
                "limit_per_second": row.limit,
                "limit_by": row.by,
            })).collect::<Vec<_>>(),
        })),
        false => show(args, sync, &rows, out),
    }
}

fn show(args: &Bench, sync: Duration, rows: &[Row], out: &mut Out) -> Result<(), Failure> {
    out.line(format_args!(
        "one sync (fdatasync after a write of 4 KiB) in {}: {:.0} us, the median",
        args.directory.display(),
        sync.as_secs_f64() * 1e6
    ))?;
    out.line(format_args!(
        "a pair is a claim and a completion with {RESPONSE} bytes; many callers are {}",
        args.callers
    ))?;
    out.line(format_args!("{:<22}{:>14}{:>14}   limit set by", "", "pairs/s", "limit/s"))?;
    for row in rows {
        out.line(format_args!(
            "{:<22}{:>14}{:>14}   {}",
            row.name,
            count(row.per_second as u64),
            count(row.limit as u64),
            row.by
        ))?;
    }
    out.line("from one short run beside whatever else this machine does: an order of magnitude")
}

/// The median time of a sync.
fn sync_time(place: &Path, time: Duration) -> io::Result<Duration> {
    let file = File::create_new(place.join("sync"))?;
    file.write_all_at(&vec![0; 1 << 20], 0)?;
    file.sync_all()?;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 3 || start.elapsed() < time {
        let at = (times.len() as u64 % 256) * 4096;
        let one = Instant::now();
        file.write_all_at(&[times.len() as u8; 4096], at)?;
        file.sync_data()?;
        times.push(one.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// How often a response can be copied into memory in a second.
fn copy_rate(time: Duration) -> f64 {
    let from = vec![7u8; RESPONSE];
    let mut ring = vec![0u8; 4 << 20];
    let (start, mut copies) = (Instant::now(), 0u64);
    while copies == 0 || start.elapsed() < time {
        for place in ring.chunks_exact_mut(RESPONSE) {
            place.copy_from_slice(std::hint::black_box(&from));
        }
        std::hint::black_box(&mut ring);
        copies += (ring.len() / RESPONSE) as u64;
    }
    copies as f64 / start.elapsed().as_secs_f64()
}

fn open(place: &Path, durability: Durability) -> Result<Store, Failure> {
    let options = Options::new().max_response(4096).capacity(1 << 30).durability(durability);
    Ok(options.open(place)?)
}

fn fingerprint() -> Fingerprint {
    Fingerprint::of(["POST", "/bench"])
}

/// Claims and completions in a second.
fn pairs(
    place: &Path,
    durability: Durability,
    callers: usize,
    time: Duration,
) -> Result<f64, Failure> {
    let store = open(place, durability)?;
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let scope = Scope::of(["bench"]);
    let call = |caller: usize| -> Result<(), Failure> {
        let response = vec![caller as u8; RESPONSE];
        for number in 0u64.. {
            // One at least, however slow the disk is.
            if number > 0 && stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("{caller}-{number}");
            let key = KeyRef::new(&scope, &key).expect("short");
            match store.begin(key, fingerprint()) {
                Ok(Begin::Execute(mut claim)) => claim.complete(&response)?,
                // A quick disk and a long time: what was done until then is the answer.
                Err(onlyonce::BeginError::StoreFull(_)) => break,
                Ok(other) => {
                    let line = format!("a new key was {other:?}");
                    return Err(Failure::new(Code::Failed, line));
                }
                Err(error) => return Err(error.into()),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let start = Instant::now();
    let ended = std::thread::scope(|threads| {
        let running: Vec<_> = (0..callers)
            .map(|caller| {
                let call = &call;
                threads.spawn(move || call(caller))
            })
            .collect();
        while start.elapsed() < time && !running.iter().all(|caller| caller.is_finished()) {
            std::thread::sleep(time.min(Duration::from_millis(10)));
        }
        stop.store(true, Ordering::Relaxed);
        running.into_iter().try_for_each(|caller| caller.join().expect("no caller panics"))
    });
    let taken = start.elapsed();
    ended?;
    store.close()?;
    fs::remove_dir_all(place).map_err(Failure::io(format!("removing {}", place.display())))?;
    Ok(done.into_inner() as f64 / taken.as_secs_f64())
}

fn replays(place: &Path, time: Duration, copy: f64) -> Result<Row, Failure> {
    let store = open(place, Durability::Buffered { max_delay: Duration::from_millis(100) })?;
    let scope = Scope::of(["bench"]);
    let names: Vec<String> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    let ask = |name: &String| store.begin(KeyRef::new(&scope, name).expect("short"), fingerprint());
    for name in &names {
        if let Begin::Execute(mut claim) = ask(name)? {
            claim.complete(&[7; RESPONSE])?;
        }
    }
    let (start, mut replays) = (Instant::now(), 0u64);
    while replays == 0 || start.elapsed() < time {
        for name in names.iter().take(1000) {
            let _ = std::hint::black_box(ask(name)?);
        }
        replays += 1000;
    }
    let per_second = replays as f64 / start.elapsed().as_secs_f64();
    store.close()?;
    Ok(Row { name: "replays", per_second, limit: copy, by: "copying the response" })
}
