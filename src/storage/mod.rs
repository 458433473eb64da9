//! The storage interface: everything that touches a disk goes through these two traits.
//!
//! The engine runs unchanged over files ([`DiskStorage`]) and over a simulated disk
//! ([`SimStorage`]) that can lose power, tear writes, run full and fail. What each call
//! promises *after a crash* is part of its contract, because that is what the engine builds on:
//!
//! * bytes given to [`StorageFile::write_at`] or stored through a writable [`Region`] survive the
//!   death of the process at once, and a loss of power only after a later, successful
//!   [`StorageFile::sync`] of that file;
//! * a file that was created or removed survives a loss of power in that form only after a
//!   later, successful [`Storage::sync_dir`];
//! * a sector of 512 bytes that is being written when the power fails holds its old or its new
//!   bytes, never a mixture;
//! * after a failed sync nothing is known about the bytes written since the last successful one:
//!   the disk may hold them or not, and a later successful sync does not mean that it does.
//!   Only writing them again and syncing does;
//! * the same holds of names: after a failed [`Storage::sync_dir`] only one that is created again
//!   (or removed) is covered by a later one. The process may have died since, and another one
//!   finds the name: that it is there does not mean that it is durable.

mod disk;
mod map;
mod sim;

use std::{
    fmt, io,
    os::fd::BorrowedFd,
    sync::{Arc, OnceLock},
};

pub use disk::DiskStorage;
pub(crate) use map::ForkGuard;
pub use map::Region;
pub use sim::{Fault, SimStorage};

/// Bytes that a disk writes as one, or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Bytes that the kernel keeps together at least.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Bytes that this kernel keeps together: on aarch64 also 16 or 64 KiB. A write that ends in the middle
/// of them may have to wait until the rest has been read.
pub(crate) fn page_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| rustix::param::page_size().max(PAGE_BYTES) as u64)
}

/// A flat directory of files of fixed size.
pub trait Storage: Send + Sync + fmt::Debug + 'static {
    /// Takes the exclusive right to this directory; it ends when the value is dropped or the
    /// process dies.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another opener has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;

    /// Returns the names of all files, in no particular order; files that are not the store's
    /// included.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file of exactly `len` bytes, all zero, whose blocks are really allocated.
    /// [`io::ErrorKind::StorageFull`] if there is no room; nothing stays behind then.
    ///
    /// A file of this name is removed first, and not emptied: the name must be written again, as
    /// nothing may be known of the one that is there (see above).
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>>;

    /// Opens an existing file. [`io::ErrorKind::NotFound`] if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;

    /// Makes an existing file `len` bytes long, if it is shorter: the new bytes are zero, their
    /// blocks are really allocated, and they survive a loss of power when this returns. Returns the
    /// file, opened again; one that was opened before keeps its size.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if there is no room, and [`io::ErrorKind::Unsupported`],
    /// which the default implementation returns. After any error the file is as it was, or longer
    /// by zeros.
    fn grow(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let what = format!("this storage can't make {name} grow to {len} bytes");
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations and removals durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Returns the process that has the exclusive right to this directory, as far as the system
    /// shows it.
    fn locked_by(&self) -> Option<u32> {
        None
    }

    /// Returns the name of this place for error messages.
    fn place(&self) -> String;
}

/// One open file. All offsets and lengths are bytes; access beyond the end is an error, never
/// a longer file.
pub trait StorageFile: Send + Sync + fmt::Debug + 'static {
    /// Size of the file as it was when opened or created.
    fn size(&self) -> u64;

    /// Fills `into` from `offset` by a read call, not through a map.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Writes `len` bytes of `region`, from `from` on and round at its end, at `offset`, without
    /// copying them first.
    fn write_region(&self, offset: u64, region: &Region, from: usize, len: usize)
    -> io::Result<()>;

    /// Makes everything written so far durable (data and what is needed to find it).
    fn sync(&self) -> io::Result<()>;

    /// Announces that single pages of the file will be changed, through a map, and synced often. A
    /// system that caches a file in larger pieces than pages writes all of a piece that has
    /// changed; what is read of this file from now on should be cached by pages. Only a hint.
    fn expect_small_changes(&self) {}

    /// Maps the whole file for reading; later writes to the file are visible in the map at once.
    fn map(&self) -> io::Result<Region>;

    /// Maps the whole file for reading and writing.
    fn map_mut(&self) -> io::Result<Region>;

    /// Returns the operating system's file, if there is one: two of them may be able to share
    /// blocks.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A sync failed within a call that does more than that: nothing is known of the bytes that it was
/// to cover.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct SyncFailed(pub io::Error);

/// Whether the system has no room: on the disk, in a quota, or in the largest file that it allows.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Whether it was a sync that failed.
pub(crate) fn is_failed_sync(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SyncFailed>())
}

/// Whether these bytes are nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    bytes.chunks(PAGE_BYTES).all(|piece| *piece == ZEROS[..piece.len()])
}

/// Whether a file has nothing but zeros, by read calls.
pub(crate) fn is_blank(file: &dyn StorageFile) -> io::Result<bool> {
    let mut piece = [0; PAGE_BYTES];
    for from in (0..file.size()).step_by(PAGE_BYTES) {
        let len = (file.size() - from).min(PAGE_BYTES as u64) as usize;
        file.read_at(from, &mut piece[..len])?;
        if !is_zero(&piece[..len]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes `to`, of the same size, share the blocks of `from`: a copy that costs next to nothing.
/// False where that can't be done; then `to` is as it was.
pub(crate) fn share_blocks(from: &dyn StorageFile, to: &dyn StorageFile) -> bool {
    match (from.descriptor(), to.descriptor()) {
        (Some(from), Some(to)) => disk::share_blocks(from, to),
        _ => false,
    }
}

/// Refuses if the next file of this process would have one of its last `count` descriptors. `like`:
/// any open file of the same storage.
pub(crate) fn leave_descriptors(like: &dyn StorageFile, count: u64) -> io::Result<()> {
    match like.descriptor() {
        Some(like) => disk::leave_descriptors(like, count),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

/// Zeroed memory of this process, with the interface of a mapped file.
pub(crate) fn heap_region(bytes: usize) -> Region {
    Region::heap(bytes)
}
