//! Shared memory as bounds-checked, race-free words. The only module of this crate with `unsafe`.
//!
//! A mapped file is memory that changes while it is read: by another thread, the kernel, in
//! principle another process. A `&[u8]` over it would promise the compiler that it doesn't, so
//! none is ever formed. Every access copies, as relaxed atomics do: a reader that meets a writer
//! gets a mixture of old and new bytes, which a checksum then refuses, and never undefined
//! behaviour. Who needs a word whole, or an order between words, uses [`Region::store_word`]
//! (release) and [`Region::load_word`] (acquire).
//!
//! What no check here can prevent: when someone truncates a mapped file, or the disk cannot read
//! a sector of it, touching the page is a signal (`SIGBUS`), not an error.
#![allow(unsafe_code)]

use std::{
    fmt,
    fs::File,
    io,
    os::fd::AsRawFd,
    os::unix::fs::FileExt,
    ptr::NonNull,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::SECTOR_BYTES;
use crate::error::Forked;

/// Bytes of one word, the unit of every access.
const WORD: usize = size_of::<u64>();

/// Words that one turn of the copy loops moves.
const STRIDE: usize = 8;
const STRIDE_BYTES: usize = STRIDE * WORD;

// Four moves of two words.
const _: () = assert!(STRIDE_BYTES == 64);

// A file is mapped whole, and an atomic load of a word from memory that is mapped read-only is
// only defined where the hardware does it with a plain load: 64-bit targets.
const _: () = assert!(usize::BITS == 64, "a 64-bit target is needed");

/// A window over shared memory that copies bytes in and out, whole words at a time.
///
/// Clones are cheap and show the same memory, which lives as long as any of them. Offsets are
/// bytes and must be multiples of 8.
#[derive(Clone)]
pub struct Region {
    /// First word, inside `backing`'s memory. A copy, so that a load follows one pointer.
    base: NonNull<AtomicU64>,
    len: usize,
    backing: Arc<Backing>,
}

/// The owner of the memory, and what a store to it does.
enum Backing {
    Heap {
        /// Also the last, partial word of a length that is no multiple of 8.
        words: Box<[AtomicU64]>,
        /// One bit for each sector: stored to since the simulated disk last looked.
        dirty: Box<[AtomicU64]>,
    },
    /// Stores are refused.
    ReadOnly { _memory: MmapRaw },
    /// Stores go to the memory.
    Writable { _memory: MmapRaw },
    /// Stores are `pwrite`s, which the map (read-only itself) shows at once. A store to a page
    /// that a copy-on-write file system cannot place on a full disk would be a signal; a write
    /// call is an error.
    WriteThrough { _memory: MmapRaw, file: File },
}

// SAFETY: `base` points into the memory that `backing` keeps alive and that never moves; it is
// only ever used as `&[AtomicU64]`, which may be shared between threads. The other fields are
// `Send` and `Sync` themselves.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory of `len` zero bytes that belongs to no file.
    pub(super) fn heap(len: usize) -> Self {
        let words = zeros(len.div_ceil(WORD));
        let dirty = zeros(len.div_ceil(SECTOR_BYTES).div_ceil(64));
        let backing = Arc::new(Backing::Heap { words, dirty });
        // Only now that the box is where it stays: moving a box asserts that no other pointer leads
        // into it.
        let base = match &*backing {
            Backing::Heap { words, .. } => NonNull::from(&**words).cast(),
            _ => unreachable!("made above"),
        };
        Region { base, len, backing }
    }

    /// The first `len` bytes of `file`, for reading. The caller has checked that they exist.
    pub(super) fn read_only(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Region::mapped(map, |_memory| Backing::ReadOnly { _memory })
    }

    /// The first `len` bytes of `file`, for reading and writing.
    pub(super) fn writable(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file)?;
        Region::mapped(map, |_memory| Backing::Writable { _memory })
    }

    /// The first `len` bytes of `file`, whose stores are write calls.
    pub(super) fn write_through(file: &File, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        let file = file.try_clone()?;
        Region::mapped(map, |_memory| Backing::WriteThrough { _memory, file })
    }

    fn mapped(map: MmapRaw, backing: impl FnOnce(MmapRaw) -> Backing) -> io::Result<Self> {
        let len = map.len();
        let base = NonNull::new(map.as_mut_ptr().cast())
            .ok_or_else(|| io::Error::other("the kernel mapped a file at address zero"))?;
        Ok(Region { base, len, backing: Arc::new(backing(map)) })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `into.len()` bytes from `offset` on, in no particular order.
    ///
    /// # Panics
    /// If `offset` is no multiple of 8 or the bytes are not all inside.
    #[inline]
    pub fn load(&self, offset: usize, into: &mut [u8]) {
        copy_out(self.words(offset, into.len()), into);
    }

    /// Copies `bytes` to `offset`, in no particular order.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] if this is a view for reading, and whatever a write
    /// call says where stores are write calls. Then any part of `bytes` may have been stored.
    ///
    /// # Panics
    /// If `offset` or the length is no multiple of 8 or the bytes are not all inside.
    #[inline]
    pub fn store(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len().is_multiple_of(WORD), "a store of {} bytes", bytes.len());
        let words = self.words(offset, bytes.len());
        match &*self.backing {
            Backing::Writable { .. } => copy_in(words, bytes),
            Backing::Heap { dirty, .. } => {
                copy_in(words, bytes);
                mark(dirty, offset, bytes.len());
            }
            Backing::WriteThrough { file, .. } => file.write_all_at(bytes, offset as u64)?,
            Backing::ReadOnly { .. } => return Err(refused()),
        }
        Ok(())
    }

    /// The little-endian word at `offset`. Everything stored by this process before the
    /// [`store_word`](Region::store_word) that it sees is seen by later loads, too.
    ///
    /// # Panics
    /// If `offset` is no multiple of 8 or the word is not inside.
    #[inline]
    pub fn load_word(&self, offset: usize) -> u64 {
        u64::from_le(self.words(offset, WORD)[0].load(Ordering::Acquire))
    }

    /// Stores a word, little-endian, at `offset`, after everything stored before it.
    ///
    /// Where stores are write calls, the kernel does not promise that a thread that loads at
    /// that very moment sees the word whole.
    ///
    /// # Errors
    /// As [`store`](Region::store).
    ///
    /// # Panics
    /// If `offset` is no multiple of 8 or the word is not inside.
    #[inline]
    pub fn store_word(&self, offset: usize, word: u64) -> io::Result<()> {
        let cell = &self.words(offset, WORD)[0];
        match &*self.backing {
            Backing::Writable { .. } => cell.store(word.to_le(), Ordering::Release),
            Backing::Heap { dirty, .. } => {
                cell.store(word.to_le(), Ordering::Release);
                mark(dirty, offset, WORD);
            }
            Backing::WriteThrough { file, .. } => {
                fence(Ordering::Release);
                file.write_all_at(&word.to_le_bytes(), offset as u64)?;
            }
            Backing::ReadOnly { .. } => return Err(refused()),
        }
        Ok(())
    }

    /// The words that hold `len` bytes from `offset` on, the last one perhaps in part.
    #[inline]
    fn words(&self, offset: usize, len: usize) -> &[AtomicU64] {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || !offset.is_multiple_of(WORD) {
            outside(offset, len, self.len);
        }
        // SAFETY: `base` starts memory that `backing` owns, so it lives as long as `self`. It is
        // aligned: a map starts at a page, the heap's words are words. `offset + len <= self.len`
        // and all words that overlap the first `self.len` bytes exist: the heap's box is rounded
        // up, a map is whole pages. (Of a file that is truncated later the pages are gone, but not
        // the addresses: touching them ends the process, see above, and nothing else gets there.)
        // All other writes to the memory are through atomics too, or by the kernel (a
        // segment that is used again) or another process (a forked child has the same map),
        // outside the abstract machine. `AtomicU64`
        // has no invalid values and permits the memory to change behind a shared reference; on a
        // read-only map it is only loaded from (a plain load on 64-bit targets, see above), for
        // every store above first asks `backing`.
        unsafe {
            let first = self.base.as_ptr().add(offset / WORD);
            std::slice::from_raw_parts(first, len.div_ceil(WORD))
        }
    }

    /// Writes `len` of the bytes, from `from` on and round at the end, to `file` at `offset`,
    /// without a copy of them in between.
    pub(super) fn write_to(
        &self,
        file: &File,
        offset: u64,
        from: usize,
        len: usize,
    ) -> io::Result<()> {
        self.check_round(from, len)?;
        if i64::try_from(offset.saturating_add(len as u64)).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut done = 0;
        while done < len {
            let at = (from + done) % self.len;
            let first = (len - done).min(self.len - at);
            // SAFETY: `at` up to `at + first` is inside the memory that `backing` owns, and so do
            // its first `len - done - first` bytes, because `len <= self.len`. The kernel reads
            // them as bytes, by itself: no Rust reference to them exists, so a store by another
            // thread at the same time races with nothing that Rust knows of. A page that cannot be
            // read makes the call fail with EFAULT. The descriptor is open as long as `file` is
            // borrowed, and `parts` outlives the call.
            let wrote = unsafe {
                let base = self.base.as_ptr().cast::<u8>();
                let parts = [
                    libc::iovec { iov_base: base.add(at).cast(), iov_len: first },
                    libc::iovec { iov_base: base.cast(), iov_len: len - done - first },
                ];
                let at = (offset + done as u64) as libc::off_t;
                libc::pwritev(file.as_raw_fd(), parts.as_ptr(), 2, at)
            };
            match wrote {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                1.. => done += wrote as usize,
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks that a range that may wrap at the end contains no byte twice.
    pub(super) fn check_round(&self, from: usize, len: usize) -> io::Result<()> {
        match from <= self.len && len <= self.len {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Copies bytes out as a read call does: at any offset.
    pub(super) fn read_bytes(&self, offset: usize, into: &mut [u8]) {
        let skip = offset % WORD;
        let (head, rest) = into.split_at_mut(into.len().min((WORD - skip) % WORD));
        if !head.is_empty() {
            let word = self.words(offset - skip, skip + head.len())[0].load(Ordering::Relaxed);
            head.copy_from_slice(&word.to_ne_bytes()[skip..skip + head.len()]);
        }
        if !rest.is_empty() {
            self.load(offset + head.len(), rest);
        }
    }

    /// Copies bytes in as a write call does: at any offset, and without touching their
    /// neighbours in the first and the last word. For heap memory.
    pub(super) fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let Backing::Heap { dirty, .. } = &*self.backing else {
            unreachable!("files are written by write calls")
        };
        let skip = offset % WORD;
        let (head, rest) = bytes.split_at(bytes.len().min((WORD - skip) % WORD));
        let (middle, tail) = rest.split_at(rest.len() / WORD * WORD);
        if !head.is_empty() {
            patch(&self.words(offset - skip, skip + head.len())[0], skip, head);
        }
        let at = offset + head.len();
        if !middle.is_empty() {
            copy_in(self.words(at, middle.len()), middle);
        }
        if !tail.is_empty() {
            patch(&self.words(at + middle.len(), tail.len())[0], 0, tail);
        }
        mark(dirty, offset, bytes.len());
    }

    /// One bit for each sector of heap memory that was stored to since the bit was last cleared.
    /// A bit is set after the bytes are there: who swaps it out (acquire) and then copies the
    /// sector misses no store whose bit it took. Empty for a map.
    pub(super) fn dirty(&self) -> &[AtomicU64] {
        match &*self.backing {
            Backing::Heap { dirty, .. } => dirty,
            _ => &[],
        }
    }

    /// Whether anybody else has a view of this memory.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.backing) > 1
    }

    /// Heap memory with a copy of these bytes and of their dirty bits.
    pub(super) fn duplicate(&self) -> Self {
        self.longer(self.len)
    }

    /// The same with zeros up to `len` bytes, which is at least its own length and, if it is not
    /// the same, a multiple of 8 behind whole words.
    pub(super) fn longer(&self, len: usize) -> Self {
        let copy = Region::heap(len);
        for (to, from) in copy.words(0, self.len).iter().zip(self.words(0, self.len)) {
            let word = from.load(Ordering::Relaxed);
            // Words that are zero already are better not touched, see `zeros`.
            if word != 0 {
                to.store(word, Ordering::Relaxed);
            }
        }
        for (to, from) in copy.dirty().iter().zip(self.dirty()) {
            to.store(from.load(Ordering::Acquire), Ordering::Relaxed);
        }
        copy
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.backing {
            Backing::Heap { .. } => "heap",
            Backing::ReadOnly { .. } => "read-only map",
            Backing::Writable { .. } => "writable map",
            Backing::WriteThrough { .. } => "write-through map",
        };
        f.debug_struct("Region").field("kind", &kind).field("len", &self.len).finish()
    }
}

/// Words that the allocator promises to be zero; the pages of a large box come into being when
/// they are touched, so a file that is mostly empty costs little.
fn zeros(count: usize) -> Box<[AtomicU64]> {
    let words: *mut [u64] = Box::into_raw(vec![0; count].into_boxed_slice());
    // SAFETY: the pointer comes from a box, and `AtomicU64` has the size and on this target (see
    // above) the alignment of `u64`, and the same valid values.
    unsafe { Box::from_raw(words as *mut [AtomicU64]) }
}

/// `words` covers `into`, the last word perhaps in part.
#[inline]
fn copy_out(words: &[AtomicU64], into: &mut [u8]) {
    let (strides, _) = words.as_chunks::<STRIDE>();
    let (chunks, rest) = into.as_chunks_mut::<STRIDE_BYTES>();
    let done = chunks.len() * STRIDE;
    strides::copy_out(strides, chunks);
    let (cells, last) = rest.as_chunks_mut::<WORD>();
    let mut words = words[done..].iter();
    for (cell, word) in cells.iter_mut().zip(words.by_ref()) {
        *cell = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    if let Some(word) = words.next().filter(|_| !last.is_empty()) {
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        last.copy_from_slice(&bytes[..last.len()]);
    }
}

/// `words` covers `bytes`, which are whole words.
#[inline]
fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    let (strides, _) = words.as_chunks::<STRIDE>();
    let (chunks, rest) = bytes.as_chunks::<STRIDE_BYTES>();
    let done = chunks.len() * STRIDE;
    strides::copy_in(strides, chunks);
    for (word, cell) in words[done..].iter().zip(rest.as_chunks::<WORD>().0) {
        word.store(u64::from_ne_bytes(*cell), Ordering::Relaxed);
    }
}

/// How whole strides are copied: as many as there are on either side.
#[cfg(any(not(target_arch = "x86_64"), miri, onlyonce_loom, onlyonce_shuttle))]
mod strides {
    use super::*;
    use crate::sync::preempt;

    pub fn copy_out(strides: &[[AtomicU64; STRIDE]], chunks: &mut [[u8; STRIDE_BYTES]]) {
        for (stride, chunk) in strides.iter().zip(chunks) {
            preempt();
            for (word, cell) in stride.iter().zip(chunk.as_chunks_mut::<WORD>().0) {
                *cell = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
    }

    pub fn copy_in(strides: &[[AtomicU64; STRIDE]], chunks: &[[u8; STRIDE_BYTES]]) {
        for (stride, chunk) in strides.iter().zip(chunks) {
            preempt();
            for (word, cell) in stride.iter().zip(chunk.as_chunks::<WORD>().0) {
                word.store(u64::from_ne_bytes(*cell), Ordering::Relaxed);
            }
        }
    }
}

/// The same by instructions that move two words at a time: a third of the instructions, and of the
/// time, that loads and stores of single words take.
#[cfg(not(any(not(target_arch = "x86_64"), miri, onlyonce_loom, onlyonce_shuttle)))]
mod strides {
    use super::*;

    #[inline]
    pub fn copy_out(strides: &[[AtomicU64; STRIDE]], chunks: &mut [[u8; STRIDE_BYTES]]) {
        let len = strides.len().min(chunks.len()) * STRIDE_BYTES;
        // SAFETY: both sides have `len` bytes at least, and the bytes are ours alone.
        unsafe { move_all(strides.as_ptr().cast(), chunks.as_mut_ptr().cast(), len) }
    }

    #[inline]
    pub fn copy_in(strides: &[[AtomicU64; STRIDE]], chunks: &[[u8; STRIDE_BYTES]]) {
        let len = strides.len().min(chunks.len()) * STRIDE_BYTES;
        // SAFETY: as above. The words are atomics, which may be stored to behind a shared reference.
        unsafe { move_all(chunks.as_ptr().cast(), strides.as_ptr().cast_mut().cast(), len) }
    }

    /// Copies `len` bytes, whole strides, while others may read or write one side.
    ///
    /// Not by Rust's own copy, which may assume that none does. What these instructions do is what
    /// relaxed loads and stores of atomic bytes would do, in some order: it races with nothing
    /// that is atomic or outside of the program.
    ///
    /// # Safety
    /// `len` bytes can be read at `from` and written at `to`; the two don't overlap.
    #[inline]
    unsafe fn move_all(from: *const u8, to: *mut u8, len: usize) {
        if len == 0 {
            return;
        }
        // SAFETY: `at` runs from `-len` up to 0 by strides, and is added to the ends of both sides: each
        // turn moves one stride that is inside. All registers that change are named, the stack
        // isn't touched, and SSE2 is part of the target.
        unsafe {
            std::arch::asm!(
                "2:",
                "movups {a}, [{from} + {at}]",
                "movups {b}, [{from} + {at} + 16]",
                "movups {c}, [{from} + {at} + 32]",
                "movups {d}, [{from} + {at} + 48]",
                "movups [{to} + {at}], {a}",
                "movups [{to} + {at} + 16], {b}",
                "movups [{to} + {at} + 32], {c}",
                "movups [{to} + {at} + 48], {d}",
                "add {at}, {stride}",
                "jnz 2b",
                stride = const STRIDE_BYTES,
                from = in(reg) from.add(len),
                to = in(reg) to.add(len),
                at = inout(reg) len.wrapping_neg() => _,
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                options(nostack),
            );
        }
    }
}

/// Changes `bytes` of a word, from its byte `skip` on, and no other.
fn patch(word: &AtomicU64, skip: usize, bytes: &[u8]) {
    let update = |old: u64| {
        let mut new = old.to_ne_bytes();
        new[skip..skip + bytes.len()].copy_from_slice(bytes);
        Some(u64::from_ne_bytes(new))
    };
    // The closure never declines, so neither does this.
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
}

/// Sets the bits of the sectors that `len` bytes at `offset` touch.
fn mark(dirty: &[AtomicU64], offset: usize, len: usize) {
    if len == 0 {
        return;
    }
    for sector in offset / SECTOR_BYTES..(offset + len).div_ceil(SECTOR_BYTES) {
        dirty[sector / 64].fetch_or(1 << (sector % 64), Ordering::Release);
    }
}

#[cold]
fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a store to a file that is mapped for reading")
}

#[cold]
#[inline(never)]
fn outside(offset: usize, len: usize, size: usize) -> ! {
    panic!("{len} bytes at {offset} of a region of {size}, in words of {WORD}")
}

/// Notices that this process is a forked child, which shares the parent's maps and locks and
/// must touch neither.
pub(crate) struct ForkGuard {
    /// A page whose first byte is not zero and that the kernel wipes in a child; `None` where it
    /// cannot.
    page: Option<MmapMut>,
    process: u32,
}

impl ForkGuard {
    /// A guard for the current process.
    pub(crate) fn new() -> Self {
        ForkGuard { page: wiped_page().ok(), process: std::process::id() }
    }

    /// Whether the current process is not the one that made the guard.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        match &self.page {
            Some(page) => page[0] == 0,
            None => std::process::id() != self.process,
        }
    }

    /// Refuses a forked child.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Forked> {
        if self.is_forked() { Err(Forked) } else { Ok(()) }
    }
}

impl Default for ForkGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ForkGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkGuard").field("process", &self.process).finish_non_exhaustive()
    }
}

#[cfg(target_os = "linux")]
fn wiped_page() -> io::Result<MmapMut> {
    let mut page = MmapMut::map_anon(WORD)?;
    // SAFETY: the address is the start of a private anonymous map that we own, and the advice
    // changes nothing in this process. In a child it does, before anything can run there: no
    // reference into the page is alive across a fork, for each look at it takes a new one.
    let answer =
        unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_WIPEONFORK) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    page[0] = 1;
    Ok(page)
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> io::Result<MmapMut> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests;
