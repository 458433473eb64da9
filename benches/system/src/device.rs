//! What reaches a block device, and what files take on it.

use rustix::fs;
use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The block device under a directory. Its counters are the whole device's: whatever else
/// writes to it is counted too.
pub struct Device {
    stat: PathBuf,
    dir: File,
}

impl Device {
    /// `None` where the file system has no device of its own (tmpfs, overlays, btrfs).
    pub fn of(dir: &Path) -> io::Result<Option<Device>> {
        let id = dir.metadata()?.dev();
        let stat = format!("/sys/dev/block/{}:{}/stat", fs::major(id), fs::minor(id)).into();
        let device = Device { stat, dir: File::open(dir)? };
        Ok(device.sectors().map(|_| device))
    }

    fn sectors(&self) -> Option<u64> {
        // Field 7 of the kernel's Documentation/block/stat.rst: sectors of 512 bytes, written.
        std::fs::read_to_string(&self.stat).ok()?.split_whitespace().nth(6)?.parse().ok()
    }

    /// Bytes written to the device so far, without waiting for what is still to be written.
    pub fn written_now(&self) -> u64 {
        self.sectors().expect("it could be read before") * 512
    }

    /// Bytes written to the device so far, once everything that lies in the page cache of this
    /// file system has been.
    pub fn written(&self) -> u64 {
        fs::syncfs(&self.dir).expect("a sync of the file system");
        self.written_now()
    }
}

/// Bytes that the files below a directory take on the disk. Files that go meanwhile count as
/// nothing.
pub fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}
