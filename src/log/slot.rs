//! Segments: numbered slots, each a preallocated file that is written, sealed, expired as a whole
//! and written again.

use super::{
    footer::{
        self, ActiveSince, DATA_START, ERASURES_MAX, Footer, FooterEntry, SEGMENT_HEADER_BYTES,
        SegmentHeader, Summary, TRAILER_BYTES,
    },
    frame::{FOOTER_ENTRY_BYTES, Seed},
};
use crate::{
    broken::{self, Broken},
    limits::{COUNT_MAX, MIB, SLOTS_MAX},
    storage::{Region, Storage, StorageFile},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use std::{
    io,
    sync::{Arc, OnceLock},
};

/// The file of slot `number`.
pub(crate) fn file_name(number: u32) -> String {
    format!("segment-{number:06}")
}

/// The epoch of a slot that is freed; the last one is only passed through, see `begin_again`.
pub(crate) fn next_epoch(epoch: u32) -> u32 {
    epoch.saturating_add(1).min(COUNT_MAX)
}

/// One slot. File and size never change; what it holds does, with each epoch.
#[derive(Debug)]
pub(crate) struct Slot {
    pub number: u32,
    pub bytes: u64,
    pub file: Arc<dyn StorageFile>,
    map: Region,
    store: u64,
    /// Grows each time the slot goes back to the pool; seeds the frames' checksums.
    epoch: AtomicU32,
    /// How often frames of this use were erased, as the header says it.
    erasures: AtomicU32,
    /// Position of a byte minus its offset, in the appender that fills this slot.
    base: AtomicU64,
    class: AtomicU32,
    /// Bytes below this offset are in the file.
    drained: AtomicU64,
    /// Bytes below this offset are on the disk.
    durable: AtomicU64,
    /// When the last record in it has expired.
    drop_ms: AtomicU64,
    /// Where the records end that were recovered; 0 if it was filled in this life.
    recovered_end: AtomicU64,
    used: AtomicU32,
}

/// The use of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Use {
    /// It holds nothing.
    Free = 0,
    /// Records are appended, or it is full and has no footer yet.
    Filling = 1,
    /// It has its footer.
    Sealed = 2,
    /// Its records have expired and leave the index; then it is recycled.
    Retired = 3,
}

impl Slot {
    pub fn new(
        number: u32,
        epoch: u32,
        store: u64,
        file: Arc<dyn StorageFile>,
    ) -> io::Result<Self> {
        Ok(Slot {
            number,
            bytes: file.size(),
            map: file.map()?,
            file,
            store,
            epoch: AtomicU32::new(epoch),
            erasures: AtomicU32::new(0),
            base: AtomicU64::new(0),
            class: AtomicU32::new(0),
            drained: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            drop_ms: AtomicU64::new(0),
            used: AtomicU32::new(Use::Free as u32),
            recovered_end: AtomicU64::new(0),
        })
    }

    /// Creates the file of a slot and makes its header (free, `epoch`) durable; the directory
    /// entry is the caller's to sync.
    pub fn create(storage: &dyn Storage, number: u32, bytes: u64, store: u64) -> io::Result<Self> {
        let slot = Slot::create_unsynced(storage, number, bytes, store)?;
        slot.file.sync()?;
        Ok(slot)
    }

    /// The same without the sync.
    pub fn create_unsynced(
        storage: &dyn Storage,
        number: u32,
        bytes: u64,
        store: u64,
    ) -> io::Result<Self> {
        let file = storage.create(&file_name(number), bytes)?;
        let slot = Slot::new(number, 1, store, file)?;
        slot.file.write_at(0, &slot.header(None).encode())?;
        Ok(slot)
    }

    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn erasures(&self) -> u32 {
        self.erasures.load(Ordering::Relaxed)
    }

    /// With what the header says of the use that it is in.
    pub fn with_erasures(self, erasures: u32) -> Self {
        self.erasures.store(erasures, Ordering::Relaxed);
        self
    }

    pub fn seed(&self) -> Seed {
        Seed {
            store: self.store,
            slot: if broken::is(Broken::SlotNotSeeded) { 0 } else { self.number },
            epoch: if broken::is(Broken::EpochNotSeeded) { 0 } else { self.epoch() },
        }
    }

    pub fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed) as u8
    }

    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Acquire)
    }

    pub fn set_drained(&self, offset: u64) {
        self.drained.store(offset, Ordering::Release);
    }

    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub fn raise_durable(&self, offset: u64) {
        self.durable.fetch_max(offset, Ordering::AcqRel);
    }

    pub fn used_as(&self) -> Use {
        match self.used.load(Ordering::Acquire) {
            0 => Use::Free,
            1 => Use::Filling,
            2 => Use::Sealed,
            _ => Use::Retired,
        }
    }

    pub fn use_as(&self, used: Use) {
        self.used.store(used as u32, Ordering::Release);
    }

    pub fn drop_ms(&self) -> u64 {
        self.drop_ms.load(Ordering::Acquire)
    }

    pub fn raise_drop(&self, ms: u64) {
        self.drop_ms.fetch_max(ms, Ordering::AcqRel);
    }

    /// Bytes of records in the file; of a slot that isn't free.
    pub fn record_bytes(&self) -> u64 {
        let end = match self.recovered_end.load(Ordering::Relaxed) {
            0 => self.drained(),
            end => end,
        };
        end.saturating_sub(DATA_START)
    }

    /// Bytes that records (footer entries included) may take so that even the largest frame
    /// still fits: what the account of free space counts.
    pub fn usable(&self, frame_max: u64) -> i64 {
        (self.bytes - DATA_START - TRAILER_BYTES as u64) as i64 - frame_max as i64
    }

    /// The header of this slot when it is free.
    pub fn free_header(&self, epoch: u32) -> SegmentHeader {
        SegmentHeader { epoch, erasures: 0, ..self.header(None) }
    }

    fn header(&self, active: Option<ActiveSince>) -> SegmentHeader {
        SegmentHeader {
            slot: self.number,
            store: self.store,
            epoch: self.epoch(),
            bytes: self.bytes,
            active,
            erasures: if active.is_some() { self.erasures() } else { 0 },
        }
    }

    /// Counts an erasure in the header, which the caller syncs. Not while the slot is taken into use
    /// or recycled.
    pub fn count_erasure(&self) -> io::Result<()> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        self.file.read_at(0, &mut bytes)?;
        let not_whole = |_| io::Error::new(io::ErrorKind::InvalidData, "its header is not whole");
        let header = SegmentHeader::decode(&bytes).map_err(|_| ()).map_err(not_whole)?;
        let erasures = (self.erasures() + 1).min(ERASURES_MAX);
        self.erasures.store(erasures, Ordering::Relaxed);
        self.file.write_at(0, &SegmentHeader { erasures, ..header }.encode())
    }

    /// Takes the slot into use. The header is not synced here: the first group's sync covers it
    /// together with the first records, and before that nothing was promised.
    pub fn activate(&self, life: u32, class: u8, position: u64) -> io::Result<()> {
        let base = position - DATA_START;
        self.erasures.store(0, Ordering::Relaxed);
        self.reactivate(ActiveSince { life, class, base, from: DATA_START })?;
        self.base.store(base, Ordering::Relaxed);
        self.class.store(u32::from(class), Ordering::Relaxed);
        self.drop_ms.store(0, Ordering::Relaxed);
        self.recovered_end.store(0, Ordering::Relaxed);
        self.durable.store(DATA_START, Ordering::Release);
        self.drained.store(DATA_START, Ordering::Release);
        self.use_as(Use::Filling);
        Ok(())
    }

    /// Takes a sealed slot of an earlier life into use again, from where its frames end. The header
    /// is not synced here either: if it is lost with power the slot is sealed as before. The footer
    /// stays in the file until the next one is written over it; what is appended never reaches it.
    pub fn resume(&self, life: u32, from: u64) -> io::Result<()> {
        let (class, base) = (self.class(), self.base());
        self.reactivate(ActiveSince { life, class, base, from })?;
        self.recovered_end.store(0, Ordering::Relaxed);
        // Concurrent readers read below `from`.
        self.durable.store(from, Ordering::Release);
        self.drained.store(from, Ordering::Release);
        Ok(())
    }

    /// Writes the header of a slot in use.
    pub fn reactivate(&self, since: ActiveSince) -> io::Result<()> {
        self.file.write_at(0, &self.header(Some(since)).encode())
    }

    /// All that was recovered is in the file and on the disk.
    pub fn recovered(&self, summary: &Summary, class: u8, base: u64) {
        self.base.store(base, Ordering::Relaxed);
        self.class.store(u32::from(class), Ordering::Relaxed);
        self.drop_ms.store(summary.drop_ms, Ordering::Relaxed);
        self.recovered_end.store(summary.data_end, Ordering::Relaxed);
        self.durable.store(self.bytes, Ordering::Release);
        self.drained.store(self.bytes, Ordering::Release);
        self.use_as(Use::Sealed);
    }

    /// Makes the slot fit for the pool: with the next epoch no frame of the last one passes.
    /// Durable when this returns.
    pub fn recycle(&self) -> io::Result<()> {
        let next = next_epoch(self.epoch());
        self.file.write_at(0, &self.free_header(next).encode())?;
        if !broken::is(Broken::SkipRecycleSync) {
            self.file.sync()?;
        }
        self.epoch.store(next, Ordering::Release);
        self.begin_again()?;
        self.use_as(Use::Free);
        Ok(())
    }

    /// Writes the header of a free slot again. Durable when this returns.
    pub fn confirm_free(&self) -> io::Result<()> {
        self.file.write_at(0, &self.header(None).encode())?;
        self.file.sync()?;
        self.begin_again()
    }

    /// A free slot of the last epoch begins with the first one again, when nothing is left in it
    /// that would pass as a frame of that. It is not filled before: a crash on the way is repeated.
    fn begin_again(&self) -> io::Result<()> {
        const FIRST_EPOCH: u32 = 1;
        if self.epoch() < COUNT_MAX {
            return Ok(());
        }
        let zeros = vec![0; self.bytes.min(MIB) as usize];
        for from in (DATA_START..self.bytes).step_by(zeros.len()) {
            let len = (self.bytes - from).min(zeros.len() as u64);
            self.file.write_at(from, &zeros[..len as usize])?;
        }
        self.file.sync()?;
        self.file.write_at(0, &self.free_header(FIRST_EPOCH).encode())?;
        self.file.sync()?;
        self.epoch.store(FIRST_EPOCH, Ordering::Release);
        Ok(())
    }

    /// Writes the footer; the content must be durable already. Durable when this returns.
    pub fn seal(&self, entries: &[FooterEntry], summary: &Summary) -> io::Result<()> {
        let bytes = footer::encode(self.seed(), entries, summary);
        self.file.write_at(self.bytes - bytes.len() as u64, &bytes)?;
        if !broken::is(Broken::SkipSealSync) {
            self.file.sync()?;
        }
        self.use_as(Use::Sealed);
        Ok(())
    }

    /// Reads the footer, by read calls.
    pub fn footer(&self) -> io::Result<Option<(Vec<FooterEntry>, Summary)>> {
        let footer = self.read_footer()?;
        Ok(footer.map(|footer| (footer.entries().collect(), footer.summary)))
    }

    /// Where the frames end that a footer lists, and where that begins, by its trailer alone: of a
    /// footer that has been read whole before.
    pub fn footer_extent(&self) -> io::Result<Option<(u64, u64)>> {
        let mut trailer = [0; TRAILER_BYTES];
        self.file.read_at(self.bytes - TRAILER_BYTES as u64, &mut trailer)?;
        let data_end = u64::from_le_bytes(trailer[16..24].try_into().unwrap());
        let count = footer::claimed_entries(&trailer, self.seed());
        let len = count.map(|n| u64::from(n) * FOOTER_ENTRY_BYTES as u64 + TRAILER_BYTES as u64);
        let from = len.and_then(|len| self.bytes.checked_sub(len));
        Ok(from.filter(|from| *from >= data_end).map(|from| (data_end, from)))
    }

    /// Reads the footer, by read calls, and leaves its entries as they are.
    pub fn read_footer(&self) -> io::Result<Option<Footer>> {
        let mut trailer = [0; TRAILER_BYTES];
        self.file.read_at(self.bytes - TRAILER_BYTES as u64, &mut trailer)?;
        let Some(count) = footer::claimed_entries(&trailer, self.seed()) else {
            return Ok(None);
        };
        let len = u64::from(count) * FOOTER_ENTRY_BYTES as u64 + TRAILER_BYTES as u64;
        if len > self.bytes - DATA_START {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_at(self.bytes - len, &mut bytes)?;
        Ok(Footer::decode(self.seed(), bytes, self.bytes))
    }

    /// Copies bytes out of the map. The caller has checked the range against `bytes`.
    pub fn load(&self, offset: u64, into: &mut [u8]) {
        self.map.load(offset as usize, into);
    }
}

const CHUNK: usize = 256;

/// The slots of one range of numbers; made when the first of them is added.
type Chunk = Box<[OnceLock<Arc<Slot>>]>;

/// All slots, by number. Slots are added and never removed, so that a lookup takes no lock.
#[derive(Debug)]
pub(crate) struct Slots {
    chunks: Box<[OnceLock<Chunk>]>,
}

impl Slots {
    pub fn new() -> Self {
        let chunks = (SLOTS_MAX as usize).div_ceil(CHUNK);
        Slots { chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    pub fn get(&self, number: u32) -> Option<&Arc<Slot>> {
        let chunk = self.chunks.get(number as usize / CHUNK)?.get()?;
        chunk[number as usize % CHUNK].get()
    }

    pub fn add(&self, slot: Arc<Slot>) {
        let number = slot.number as usize;
        let chunk = self.chunks[number / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let new = chunk[number % CHUNK].set(slot).is_ok();
        debug_assert!(new, "slot numbers are given once");
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.chunks
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|c| c.iter().filter_map(OnceLock::get))
    }
}
