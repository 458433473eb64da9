//! What a store costs that has little to do: nothing at rest, one small write for a write.

use measure::{
    Args, Device, Folder, Machine, Memory, cpu_time, disk_bytes, kernel_writes, switches,
    work::{BUFFERED, RESPONSE_BYTES, key, new_series, pair, scope},
};
use onlyonce::{Durability, Options, Store};
use std::{
    path::Path,
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

const HELP: &str = "\
What a store takes when it is empty, at rest, and with a write a second; in each durability.

    --seconds N   of each phase (60)
    --quick       the same as --seconds 10
    --dir DIR     for the store

Passes if
  an empty store takes at most 32 MiB of disk, and opening it at most 16 MiB of memory;
  at rest, before any write and after some, none of its threads wakes up or writes: at most the
  two switches of the thread that measures, and no write call.
The bytes that reach the device are the whole device's: let nothing else write to it. Their bound
for a write a second is 64 KiB a write, and is checked only where nothing else wrote at rest.
";

const DISK_MAX: u64 = 32 << 20;
const MEMORY_MAX: u64 = 16 << 20;
const DEVICE_BYTES_MAX: u64 = 64 << 10;
/// Into the sleep of the thread that measures, and perhaps an interruption of it.
const OWN_SWITCHES: u64 = 2;

/// The durability of a process that this program has started.
const ONE: &str = "--one";

/// What happened in some time.
struct Cost {
    cpu: Duration,
    switches: u64,
    writes: u64,
    device_bytes: Option<u64>,
}

fn cost(device: Option<&Device>, phase: impl FnOnce()) -> Cost {
    let device_before = device.map(Device::written);
    let (cpu, switched, writes) = (cpu_time(), switches(), kernel_writes());
    phase();
    // Before the sync of the device below, which is a call of ours.
    let cost = Cost {
        cpu: cpu_time() - cpu,
        switches: switches() - switched,
        writes: kernel_writes() - writes,
        device_bytes: None,
    };
    let device_bytes = device.map(|device| device.written() - device_before.expect("a device"));
    Cost { device_bytes, ..cost }
}

fn main() -> ExitCode {
    let args = Args::read(HELP, &["--seconds", "--dir", ONE], &["--quick"]);
    let seconds = args.number("--seconds", if args.has("--quick") { 10 } else { 60 });
    let modes = [
        ("synced", Durability::Synced),
        ("completions", Durability::SyncedCompletions),
        ("buffered", BUFFERED),
    ];
    if let Some(wanted) = args.text(ONE) {
        let (name, durability) = modes.into_iter().find(|mode| mode.0 == wanted).expect("a mode");
        let folder = Folder::new(&format!("idle-{name}"), args.text("--dir"));
        let passed = one(name, durability, folder.path(), seconds);
        return if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let place = Folder::new("idle", args.text("--dir"));
    println!("{}", Machine::of(place.path()));
    println!(
        "{:<14}{:<26}{:>12}{:>12}{:>12}{:>14}",
        "", "", "CPU us", "switches", "writes", "device KiB"
    );
    // Each in a process of its own: what one has freed would hide what the next takes.
    let passed = modes.map(|(name, _)| {
        let mut child = Command::new(std::env::current_exe().expect("a program"));
        child.args(std::env::args_os().skip(1)).args([ONE, name]);
        child.status().expect("a process").success()
    });
    let passed = passed.into_iter().all(|passed| passed);
    println!("{}", if passed { "PASS" } else { "FAIL" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(name: &str, durability: Durability, dir: &Path, seconds: u64) -> bool {
    let before = Memory::now();
    let store = Options::new().durability(durability).open(dir).expect("the store opens");
    let device = Device::of(dir).expect("the directory");
    let device = device.as_ref();
    let after = Memory::now();
    let own = after.anonymous.saturating_sub(before.anonymous);
    let mapped = after.mapped.saturating_sub(before.mapped);
    let (memory, disk) = (own + mapped, disk_bytes(dir));
    println!(
        "{name:<14}empty: {:.1} MiB of disk, {:.1} MiB of memory, and {:.1} of mapped files \
         (the program's included)",
        mib(disk),
        mib(own),
        mib(mapped)
    );
    // What opening left to do.
    thread::sleep(Duration::from_secs(3));
    let rest = cost(device, || thread::sleep(Duration::from_secs(seconds)));
    print(name, "at rest", &rest);
    let written = cost(device, || write_slowly(&store, seconds));
    print(name, "a write a second", &written);
    // What the last write left to do: in Buffered its sync, and the mark after a second.
    thread::sleep(Duration::from_secs(3));
    let again = cost(device, || thread::sleep(Duration::from_secs(seconds)));
    print(name, "at rest again", &again);
    store.close().expect("the store closes");
    let quiet = |cost: &Cost| cost.switches <= OWN_SWITCHES && cost.writes == 0;
    let others_wrote = rest.device_bytes != Some(0) || again.device_bytes != Some(0);
    let small = others_wrote || written.device_bytes <= Some(seconds * DEVICE_BYTES_MAX);
    disk <= DISK_MAX && memory <= MEMORY_MAX && quiet(&rest) && quiet(&again) && small
}

fn write_slowly(store: &Store, seconds: u64) {
    let (scope, series, began) = (scope(), new_series(), Instant::now());
    for i in 0..seconds {
        pair(store, &scope, &key(series, i), &[7; RESPONSE_BYTES]);
        let next = began + Duration::from_secs(i + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn print(name: &str, phase: &str, cost: &Cost) {
    let device = cost.device_bytes.map_or("unknown".into(), |bytes| (bytes >> 10).to_string());
    println!(
        "{name:<14}{phase:<26}{:>12}{:>12}{:>12}{device:>14}",
        cost.cpu.as_micros(),
        cost.switches,
        cost.writes
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
