//! What this process costs the machine.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::{fs, time::Duration};

/// Resident memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of the heap and the stacks.
    pub anonymous: u64,
    /// Of mapped files: page cache, which the kernel can take back.
    pub mapped: u64,
}

impl Memory {
    pub fn now() -> Memory {
        let status = fs::read_to_string("/proc/self/status").expect("/proc");
        Memory { anonymous: kib(&status, "RssAnon:"), mapped: kib(&status, "RssFile:") }
    }
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() << 10
}

/// Processor time of all threads so far, in the kernel and outside.
pub fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// How often threads of this process that still live went to sleep or were interrupted.
pub fn switches() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    let of_one = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        counts.map(|(_, count)| count.trim().parse::<u64>().unwrap_or_default()).sum::<u64>()
    };
    tasks.flatten().map(of_one).sum()
}

/// Write calls of this process so far.
pub fn kernel_writes() -> u64 {
    io("syscw: ")
}

/// Bytes that came from a disk for this process so far, and not out of the page cache.
pub fn disk_reads() -> u64 {
    io("read_bytes: ")
}

fn io(name: &str) -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("/proc");
    let value = io.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}
