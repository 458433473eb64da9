//! On what machine something was measured.

use rustix::fs::{major, minor};
use serde::Serialize;
use std::{fmt, fs, os::unix::fs::MetadataExt, path::Path};

/// A machine, as far as it matters to figures of a store in one directory.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub file_system: String,
    pub disk: String,
    pub huge_pages: String,
    /// Average number of running threads over the last minute, when this was asked.
    pub load: String,
}

impl Machine {
    pub fn of(dir: &Path) -> Machine {
        let cpu = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        Machine {
            cpu: after(&cpu, "model name").unwrap_or("unknown").into(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: after(&memory, "MemTotal")
                .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
                .unwrap_or_default()
                >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            file_system: file_system(dir).unwrap_or_else(|| "unknown".into()),
            disk: disk(dir).unwrap_or_else(|| "unknown".into()),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").trim().into(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), {} MiB, kernel {}, huge pages {}, load {};\n{}; {}",
            self.cores,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.huge_pages,
            self.load,
            self.file_system,
            self.disk
        )
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What follows a name and a colon.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim()))
}

fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = read("/proc/self/mounts");
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mount = mounts.lines().map(fields).filter(|mount| dir.starts_with(&mount[1]));
    let deepest = mount.max_by_key(|mount| mount[1].len())?;
    Some(format!("{} ({}, {})", deepest[2], deepest[0], deepest[3]))
}

fn disk(dir: &Path) -> Option<String> {
    let id = dir.metadata().ok()?.dev();
    let device = Path::new("/sys/dev/block").join(format!("{}:{}", major(id), minor(id)));
    let name = fs::canonicalize(&device).ok()?.file_name()?.to_str()?.to_owned();
    // A partition has its disk's queue one folder up.
    let queue = [device.join("queue"), device.join("../queue")].into_iter().find(|q| q.is_dir())?;
    let of = |file: &str| read(queue.join(file)).trim().to_owned();
    let model = read(queue.join("../device/model")).trim().to_owned();
    Some(format!(
        "disk {name} {model}: {} GB, write cache {}, scheduler {}, rotational {}",
        read(device.join("size")).trim().parse::<u64>().ok()? * 512 / 1_000_000_000,
        of("write_cache"),
        of("scheduler"),
        of("rotational")
    ))
}
