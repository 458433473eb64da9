//! How cells reach the file.
//!
//! *Mapped*: by stores into the mapped file, in the kernel's hands at once. A claim costs tens
//! of nanoseconds. But a sync after a store through a map is expensive (measured on ext4: 300 us,
//! against 140 us after a write call, because the page fault joins the journal).
//!
//! *Shadowed*: by stores into memory, whose changed pages each commit writes. For stores whose
//! claims wait for the disk in any case: nothing that was answered is only in memory. What isn't
//! waited for (a completed claim is cleared) may be lost with the process: its completion is in
//! the log, and decides.

use super::format::{CELL_BYTES, FIRST_CELL};
use crate::storage::{PAGE_BYTES, Region, StorageFile, heap_region};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering, fence},
};

const _: () = assert!(PAGE_BYTES.is_multiple_of(CELL_BYTES));

#[derive(Debug)]
pub(super) enum Medium {
    Mapped(Region),
    Shadowed {
        memory: Region,
        /// One bit a page: changed since it was last written.
        changed: Box<[AtomicU64]>,
    },
}

impl Medium {
    pub fn new(file: &dyn StorageFile, shadowed: bool) -> io::Result<Self> {
        if !shadowed {
            return file.map_mut().map(Medium::Mapped);
        }
        let size = file.size() as usize;
        let memory = heap_region(size);
        // A page at a time: the allocator may keep the memory of a buffer for all of it.
        let mut page = [0; PAGE_BYTES];
        for offset in (0..size).step_by(PAGE_BYTES) {
            let page = &mut page[..PAGE_BYTES.min(size - offset)];
            file.read_at(offset as u64, page)?;
            memory.store(offset, page)?;
        }
        let pages = size.div_ceil(PAGE_BYTES);
        let changed = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Medium::Shadowed { memory, changed })
    }

    pub fn region(&self) -> &Region {
        match self {
            Medium::Mapped(region) => region,
            Medium::Shadowed { memory, .. } => memory,
        }
    }

    /// Stores what a cell says, before its word. The cell's word has said that it is free since before
    /// the call.
    pub fn store(&self, at: usize, bytes: &[u8]) -> io::Result<()> {
        // So that a copier who meets one of these bytes finds the word changed (`copy_page`).
        fence(Ordering::Release);
        self.region().store(at, bytes)
    }

    /// Stores a word; with it whatever was stored in the same cell before means something.
    pub fn store_word(&self, at: usize, word: u64) -> io::Result<()> {
        self.region().store_word(at, word)?;
        if let Medium::Shadowed { changed, .. } = self {
            let page = at / PAGE_BYTES;
            changed[page / 64].fetch_or(1 << (page % 64), Ordering::AcqRel);
        }
        Ok(())
    }

    /// Gives one word to the kernel at once.
    pub fn write_through(&self, file: &dyn StorageFile, at: usize, word: u64) -> io::Result<()> {
        match self {
            Medium::Mapped(_) => Ok(()),
            Medium::Shadowed { .. } => file.write_at(at as u64, &word.to_le_bytes()),
        }
    }

    /// Gives everything stored before the call to the kernel.
    pub fn flush(&self, file: &dyn StorageFile) -> io::Result<()> {
        let Medium::Shadowed { memory, changed } = self else {
            return Ok(());
        };
        let mut page = [0; PAGE_BYTES];
        for (at, bits) in changed.iter().enumerate() {
            let mut bits = bits.swap(0, Ordering::AcqRel);
            while bits != 0 {
                let offset = (at * 64 + bits.trailing_zeros() as usize) * PAGE_BYTES;
                bits &= bits - 1;
                let len = PAGE_BYTES.min(memory.len() - offset);
                copy_page(memory, offset, &mut page[..len]);
                file.write_at(offset as u64, &page[..len])?;
            }
        }
        Ok(())
    }
}

/// Copies a page while others store into it. A cell whose word is the same before and after was
/// not given to another claim in between, so what it means is whole.
fn copy_page(memory: &Region, offset: usize, page: &mut [u8]) {
    for (at, cell) in page.chunks_mut(CELL_BYTES).enumerate() {
        let at = offset + at * CELL_BYTES;
        if at < FIRST_CELL as usize * CELL_BYTES {
            // The hints change word by word, and each is whole by itself.
            for (word, at) in cell.chunks_mut(8).zip((at..).step_by(8)) {
                word.copy_from_slice(&memory.load_word(at).to_le_bytes());
            }
            continue;
        }
        loop {
            let before = memory.load_word(at);
            memory.load(at, cell);
            cell[..8].copy_from_slice(&before.to_le_bytes());
            // With the fence of `Medium::store`.
            fence(Ordering::Acquire);
            if memory.load_word(at) == before {
                break;
            }
        }
    }
}
