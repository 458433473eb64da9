//! What the machine allows, without the store.

#[path = "../system/src/map.rs"]
mod map;

use crate::{
    measure::{self, Run},
    plan::{FRAME_BYTES, RESPONSE_BYTES, key, new_series},
};
use crossbeam_utils::CachePadded;
pub use map::Map;
use memmap2::MmapMut;
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    hint::black_box,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const MIB: usize = 1 << 20;
/// Bytes of a ring.
pub const RING_BYTES: usize = 4 * MIB;
const FILE_BYTES: usize = 64 * MIB;
/// Records in a file of [`stream`].
pub const PER_FILE: f64 = (FILE_BYTES / FRAME_BYTES) as f64;

/// A file whose blocks are all written and on the disk.
pub fn written_file(path: &Path, bytes: usize) -> File {
    let options = OpenOptions::new().create(true).read(true).write(true).truncate(true).clone();
    let file = options.open(path).unwrap();
    for at in (0..bytes).step_by(MIB) {
        file.write_all_at(&[1; MIB], at as u64).unwrap();
    }
    file.sync_all().unwrap();
    file
}

/// A mapped file as large as a ring, all of whose pages are hot.
pub fn hot_map(dir: &Path) -> MmapMut {
    let file = written_file(&dir.join("mapped"), RING_BYTES);
    // SAFETY: the file is this function's own, and nothing else has it open.
    let mut map = unsafe { MmapMut::map_mut(&file).unwrap() };
    map.fill(2);
    map
}

/// Copies 1,100 bytes after 1,100 bytes into hot pages of a mapped file as large as the ring.
pub fn memcpy(dir: &Path, callers: usize, time: Duration) -> Run {
    let mut map = hot_map(dir);
    let part = map.len() / callers;
    measure::callers(map.chunks_exact_mut(part).map(copier::<1100>).collect(), time, false)
}

/// Copies `BYTES` behind the last ones, and begins again where they don't fit.
pub fn copier<const BYTES: usize>(part: &mut [u8]) -> impl FnMut() + Send {
    let (record, mut at) = ([3; BYTES], 0);
    move || {
        if at + record.len() > part.len() {
            at = 0;
        }
        part[at..at + record.len()].copy_from_slice(black_box(&record));
        at += record.len();
    }
}

impl Map {
    /// Claims and completes; keeps a hundred thousand records for each caller and drops the
    /// oldest.
    pub fn pairs(&self, callers: usize, time: Duration, kept: u64) -> Run {
        let worker = |_| {
            let (series, mut i) = (new_series(), 0);
            let mut pair = move || {
                let new = key(series, i);
                self.claim(&new);
                self.complete(&new, black_box(&[7; RESPONSE_BYTES]));
                if i >= kept {
                    self.forget(&key(series, i - kept));
                }
                i += 1;
            };
            (0..kept).for_each(|_| pair());
            pair
        };
        measure::callers((0..callers).map(worker).collect(), time, false)
    }
}

/// Writes and syncs a file whose blocks are written already.
pub struct Disk {
    file: File,
    group: Vec<u8>,
    at: usize,
}

impl Disk {
    /// `records` at a time.
    pub fn new(dir: &Path, records: usize) -> Self {
        let file = written_file(&dir.join(format!("disk-{records}")), FILE_BYTES);
        Disk { file, group: vec![5; records * FRAME_BYTES], at: 0 }
    }

    /// One pwrite and one fdatasync for each group.
    pub fn groups(&mut self, time: Duration) -> Run {
        let group = || {
            if self.at + self.group.len() > FILE_BYTES {
                self.at = 0;
            }
            self.file.write_all_at(&self.group, self.at as u64).unwrap();
            self.file.sync_data().unwrap();
            self.at += self.group.len();
        };
        measure::callers(vec![group], time, true)
    }
}

/// Files a second that the disk takes: three of 64 MiB, rewritten by pieces of 256 KiB
/// and each synced when it is full.
pub fn stream(dir: &Path, time: Duration) -> Run {
    let files: Vec<_> =
        (0..3).map(|n| written_file(&dir.join(format!("stream-{n}")), FILE_BYTES)).collect();
    let (piece, mut turn) = (vec![6; MIB / 4], 0);
    let file = || {
        let file = &files[turn % files.len()];
        (0..FILE_BYTES)
            .step_by(piece.len())
            .for_each(|at| file.write_all_at(&piece, at as u64).unwrap());
        file.sync_data().unwrap();
        turn += 1;
    };
    measure::callers(vec![file], time, false)
}

/// Callers that are woken by a committer which does nothing.
pub fn woken(callers: usize, time: Duration) -> Run {
    let (queue, notifier) = (Mutex::new(VecDeque::new()), Condvar::new());
    let over = AtomicBool::new(false);
    let done: Vec<_> = (0..callers).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let waiting = queue.lock().unwrap();
                let (mut waiting, _) = notifier
                    .wait_timeout_while(waiting, Duration::from_millis(10), |w| w.is_empty())
                    .unwrap();
                let group = std::mem::take(&mut *waiting);
                drop(waiting);
                for (caller, thread) in group {
                    let thread: thread::Thread = thread;
                    let caller: usize = caller;
                    done[caller].fetch_add(1, Ordering::Release);
                    thread.unpark();
                }
            }
        });
        let worker = |caller: usize| {
            let (queue, notifier, done) = (&queue, &notifier, &done);
            let mut calls = 0;
            move || {
                calls += 1;
                queue.lock().unwrap().push_back((caller, thread::current()));
                notifier.notify_one();
                while done[caller].load(Ordering::Acquire) < calls {
                    thread::park();
                }
            }
        };
        let run = measure::callers((0..callers).map(worker).collect(), time, false);
        over.store(true, Ordering::SeqCst);
        run
    })
}
