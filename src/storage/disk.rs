//! Storage in a real directory.
//!
//! Everything is relative to a descriptor of the directory that is opened once, so a directory
//! that is renamed stays the same place, and the lock is on the directory itself and not on a file
//! in it that could be deleted.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::{Region, Storage, StorageFile};

/// How much of a file is zeroed by one write where the file system cannot allocate.
const ZERO_PIECE: usize = 1 << 20;

/// Files in one directory of the operating system.
#[derive(Debug)]
pub struct DiskStorage {
    directory: File,
    path: PathBuf,
    /// See [`stores_may_need_space`].
    write_through: bool,
    read_only: bool,
}

/// One open file.
#[derive(Debug)]
struct DiskFile {
    file: File,
    path: PathBuf,
    size: u64,
    write_through: bool,
}

/// The lock of one directory. The kernel gives it back when the last copy of the descriptor is
/// closed; a child that was forked and did not call `exec` holds one.
struct Lock {
    descriptor: OwnedFd,
    process: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Unlocking ends the lock for all copies of the descriptor. That is right for its owner; in
        // a forked child it would end the parent's lock.
        if std::process::id() == self.process {
            // It cannot fail, and if it did, closing the descriptor still follows.
            let _ = fs::flock(&self.descriptor, FlockOperation::Unlock);
        }
    }
}

impl DiskStorage {
    /// Opens the directory at `path`, creating it and its parents if they are missing.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotADirectory`] if there is something else, and whatever the operating
    /// system says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        create_durably(path.as_ref(), sync_directory)?;
        Self::at(path.as_ref(), false)
    }

    /// Opens the directory at `path`, which must exist. Nothing is created.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it doesn't exist, [`io::ErrorKind::NotADirectory`] if there
    /// is something else, and whatever the operating system says.
    pub fn open_existing(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::at(path.as_ref(), false)
    }

    /// Opens the directory at `path` for looking only: nothing is created, files are opened for
    /// reading, and whatever would change something is refused by the operating system.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it doesn't exist, [`io::ErrorKind::NotADirectory`] if there
    /// is something else, and whatever the operating system says.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::at(path.as_ref(), true)
    }

    fn at(path: &Path, read_only: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            fs::open(path, flags, Mode::empty()).map_err(|e| named("open", path, e.into()))?;
        let directory = File::from(directory);
        let write_through = stores_may_need_space(&directory);
        Ok(DiskStorage { directory, path: path.to_owned(), write_through, read_only })
    }

    /// The process that holds this directory's lock, as far as the operating system shows: on
    /// Linux from `/proc/locks`, so a process in another container may not be seen. Takes no lock
    /// itself.
    pub fn locked_by(&self) -> Option<u32> {
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let stat = fs::fstat(&self.directory).ok()?;
        holder(&locks, (fs::major(stat.st_dev), fs::minor(stat.st_dev)), stat.st_ino)
    }

    fn take_lock(&self) -> io::Result<Lock> {
        // A descriptor of its own: the lock belongs to the open file description, so a second
        // opener in this process is refused like one in another.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = fs::openat(&self.directory, ".", flags, Mode::empty())?;
        fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock { descriptor, process: std::process::id() })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        check_name(name)?;
        // A link could lead anywhere, and waiting for the other end of a pipe takes forever.
        let access = match self.read_only {
            true if flags.contains(OFlags::CREATE) => return Err(Errno::ROFS.into()),
            true => OFlags::RDONLY,
            false => OFlags::RDWR,
        };
        let flags = flags | access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(fs::openat(&self.directory, name, flags, mode)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// Creates an empty file in the place of a regular one, if there is one of this name.
    fn create_file(&self, name: &str) -> io::Result<File> {
        let create = || self.open_file(name, OFlags::CREATE | OFlags::EXCL);
        match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.open_file(name, OFlags::empty())?;
                fs::unlinkat(&self.directory, name, AtFlags::empty())?;
                create()
            }
            answer => answer,
        }
    }

    fn file(&self, file: File, path: PathBuf, size: u64) -> Arc<dyn StorageFile> {
        Arc::new(DiskFile { file, path, size, write_through: self.write_through })
    }
}

impl Storage for DiskStorage {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let lock = self.take_lock().map_err(|e| named("lock", &self.path, e))?;
        Ok(Box::new(lock))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::Dir::read_from(&self.directory)? {
                let entry = entry?;
                if entry.file_type() != FileType::Directory {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            Ok(names)
        };
        read().map_err(|e| named("list", &self.path, e))
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path.join(name);
        let fail = |e| named("create", &path, e);
        let file = self.create_file(name).map_err(fail)?;
        let failed = match allocate(&file, len) {
            Err(error) => fail(error),
            Ok(()) => match file.sync_all() {
                Ok(()) => return Ok(self.file(file, path, len)),
                Err(error) => failed_sync(fail(error)),
            },
        };
        // Best effort: the caller learns of the first error, and a file that stays behind is
        // replaced by the next attempt.
        let _ = fs::unlinkat(&self.directory, name, AtFlags::empty());
        Err(failed)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path.join(name);
        let open = || {
            let file = self.open_file(name, OFlags::empty())?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|e| named("open", &path, e))?;
        Ok(self.file(file, path, size))
    }

    fn grow(&self, name: &str, len: u64) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.path.join(name);
        let fail = |e| named("enlarge", &path, e);
        let file = self.open_file(name, OFlags::empty()).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        if size < len {
            let grown = extend(&file, size, len).map_err(fail);
            let grown = grown.and_then(|()| file.sync_all().map_err(|e| failed_sync(fail(e))));
            if let Err(error) = grown {
                // Allocated blocks are given back, best effort: the caller gets the first
                // error, and what is behind the old end means nothing.
                let _ = file.set_len(size);
                return Err(error);
            }
        }
        Ok(self.file(file, path, size.max(len)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let allowed = if self.read_only { Err(Errno::ROFS.into()) } else { check_name(name) };
        allowed
            .and_then(|()| Ok(fs::unlinkat(&self.directory, name, AtFlags::empty())?))
            .map_err(|e| named("remove", &self.path.join(name), e))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all().map_err(|e| named("sync", &self.path, e))
    }

    fn locked_by(&self) -> Option<u32> {
        DiskStorage::locked_by(self)
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

impl DiskFile {
    /// Checks that `len` bytes at `offset` are inside; a write beyond the end would make the file
    /// grow.
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        if offset.checked_add(len as u64).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let size = self.size;
        let what = format!("{len} bytes at {offset} of a file of {size}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, what))
    }

    /// Checks that the file has not been truncated. A write call would make it grow again, with
    /// zeros in place of what was lost, without notice.
    fn check_whole(&self) -> io::Result<()> {
        // Not by its metadata: asking for a file's times makes the next write note a finer one, in
        // the journal (Linux 6.13 and later; measured, 20 us a sync). The descriptor's position is
        // not used otherwise.
        let now = fs::seek(&self.file, fs::SeekFrom::End(0))?;
        if now < self.size {
            let what = format!("the file shrank from {} to {now} bytes", self.size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
    }

    /// The length to map. Touching a mapped page that the file no longer has is a signal.
    fn mapped_len(&self) -> io::Result<usize> {
        self.check_whole()?;
        usize::try_from(self.size).map_err(|_| io::ErrorKind::FileTooLarge.into())
    }

    fn named(&self, verb: &str, error: io::Error) -> io::Error {
        named(verb, &self.path, error)
    }
}

/// See [`super::leave_descriptors`].
pub(super) fn leave_descriptors(like: BorrowedFd<'_>, count: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // The lowest number that is free is the next file's.
    let next = like.try_clone_to_owned()?.as_raw_fd() as u64;
    if next + count < limit {
        return Ok(());
    }
    let what = format!("too many open files: the last {count} of {limit} are left to others");
    Err(io::Error::other(what))
}

#[cfg(target_os = "linux")]
pub(super) fn share_blocks(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn share_blocks(_from: BorrowedFd<'_>, _to: BorrowedFd<'_>) -> bool {
    false
}

impl StorageFile for DiskFile {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check(offset, into.len())
            .and_then(|()| self.file.read_exact_at(into, offset))
            .map_err(|e| self.named("read", e))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check(offset, bytes.len())
            .and_then(|()| self.check_whole())
            .and_then(|()| self.file.write_all_at(bytes, offset))
            .map_err(|e| self.named("write", e))
    }

    fn write_region(
        &self,
        offset: u64,
        region: &Region,
        from: usize,
        len: usize,
    ) -> io::Result<()> {
        self.check(offset, len)
            .and_then(|()| region.write_to(&self.file, offset, from, len))
            .map_err(|e| self.named("write", e))
    }

    fn sync(&self) -> io::Result<()> {
        // After it: what was written to a file that had been cut has made it grow, but seldom
        // whole.
        self.file.sync_data().and_then(|()| self.check_whole()).map_err(|e| self.named("sync", e))
    }

    /// Measured on ext4: a claims file that had been written or read ahead in one go was kept in
    /// pieces of 2 MiB, and each sync of one claim wrote so much.
    #[cfg(target_os = "linux")]
    fn expect_small_changes(&self) {
        // No more reading ahead, which makes larger pieces; and what is kept in them goes, if it
        // is not in use.
        let _ = fs::fadvise(&self.file, 0, None, fs::Advice::Random);
        let _ = fs::fadvise(&self.file, 0, None, fs::Advice::DontNeed);
    }

    fn map(&self) -> io::Result<Region> {
        self.mapped_len()
            .and_then(|len| Region::read_only(&self.file, len))
            .map_err(|e| self.named("map", e))
    }

    fn map_mut(&self) -> io::Result<Region> {
        self.mapped_len()
            .and_then(|len| match self.write_through {
                true => Region::write_through(&self.file, len),
                false => Region::writable(&self.file, len),
            })
            .map_err(|e| self.named("map", e))
    }
}

/// Checks that a name is that of an entry in the directory, and leads nowhere else.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file's name"));
    }
    Ok(())
}

/// Who holds a lock of the kind that a store takes on the file `inode` of `device`, by the text of
/// `/proc/locks`.
fn holder(locks: &str, device: (u32, u32), inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", device.0, device.1);
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        // "->" marks processes that wait for the lock.
        let (kind, _, access) = (words.next()?, words.next()?, words.next()?);
        let (process, file) = (words.next()?, words.next()?);
        (kind == "FLOCK" && access == "WRITE" && file == wanted).then(|| process.parse().ok())?
    })
}

/// The same error, saying what was done to which file.
fn named(verb: &str, path: &Path, error: io::Error) -> io::Error {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        // To the caller, out of quota is out of space.
        Some(Errno::DQUOT) => io::ErrorKind::StorageFull,
        _ => error.kind(),
    };
    io::Error::new(kind, format!("{verb} {}: {error}", path.display()))
}

/// The same error, marked as that of a sync.
fn failed_sync(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), super::SyncFailed(error))
}

/// Gives an empty file `len` zero bytes with blocks behind them.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    extend(file, 0, len)
}

/// The same for a file that ends at `from`.
fn extend(file: &File, from: u64, len: u64) -> io::Result<()> {
    if len == from {
        return Ok(());
    }
    match reserve(file, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, from, len),
        answer => Ok(answer?),
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, len: u64) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| fs::fallocate(file, fs::FallocateFlags::empty(), 0, len))
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _len: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

fn write_zeros(file: &File, from: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_PIECE];
    let mut done = from;
    while done < len {
        let piece = (len - done).min(ZERO_PIECE as u64);
        file.write_all_at(&zeros[..piece as usize], done)?;
        done += piece;
    }
    Ok(())
}

/// Whether a store to a mapped page that is already allocated may still need space: a copy-on-write
/// file system allocates a new place for every page that it writes back, and on a full disk the
/// store is a signal. Those known to write in place are listed, everything else is suspect.
#[cfg(target_os = "linux")]
fn stores_may_need_space(directory: &File) -> bool {
    const EXT: u32 = 0xEF53;
    const XFS: u32 = 0x5846_5342;
    const TMPFS: u32 = 0x0102_1994;
    const F2FS: u32 = 0xF2F5_2010;
    match fs::fstatfs(directory) {
        Ok(answer) => !matches!(answer.f_type as u32, EXT | XFS | TMPFS | F2FS),
        Err(_) => true,
    }
}

#[cfg(not(target_os = "linux"))]
fn stores_may_need_space(_directory: &File) -> bool {
    true
}

/// Creates a directory and its missing parents so that a loss of power leaves them there.
fn create_durably(path: &Path, sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut above = path;
    while !above.try_exists().map_err(|e| named("open", above, e))? {
        missing.push(above);
        if parent(above) == above {
            break;
        }
        above = parent(above);
    }
    // An earlier opener may have created this one and died before it synced the entry. A process
    // that may not read the parent did not create it either.
    let _ = sync(parent(above));
    for directory in missing.into_iter().rev() {
        match std::fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(named("create", directory, error));
            }
            _ => sync(parent(directory)).inspect_err(|_| {
                // The next opener must make it again: a sync that succeeds then would prove
                // nothing of a name that is there already. It is empty, unless another opener
                // uses it.
                let _ = std::fs::remove_dir(directory);
            })?,
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(|e| named("sync", path, e))
}

/// The directory that holds `path`, as something that can be opened.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests;
