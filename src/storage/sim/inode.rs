//! One file of the simulated disk: what the cache holds, what the platter holds, and which
//! sectors the cache still has to write.

use std::{collections::BTreeMap, ops::Range, sync::atomic::Ordering};

use super::rng::Rng;
use crate::storage::{Region, SECTOR_BYTES};

/// How many versions between the platter's and the newest one a sector keeps.
const VERSIONS: usize = 3;

/// How much of a new file is looked at at once, to see whether it is zero.
const PIECE: usize = 4096;

/// How many sectors the cache keeps together.
const PAGE_SECTORS: usize = 8;

type Sector = [u8; SECTOR_BYTES];

/// The bytes of a file, twice.
///
/// A sector is dirty when it was written or stored to, with equal bytes or not, since the cache
/// last believed that the platter has it. Only dirty sectors are ever written back, so bytes
/// that a failed sync lost stay lost until someone writes them again.
pub(super) struct Inode {
    /// The page cache. Shared with every view of the file, and keeps the dirty bits.
    live: Region,
    /// The platter.
    durable: Vec<u8>,
    /// Of some dirty sectors, what they held at some moment since the last sync.
    versions: BTreeMap<usize, Vec<Sector>>,
    /// Sectors are written back while they are stored to.
    tears: bool,
    /// Bytes that the platter does not give back, until they are written.
    unreadable: Range<usize>,
}

/// How eager the kernel was to write back before the power went: sectors are kept independently
/// of each other, but not always in equal parts, or with many sectors nearly all old and nearly
/// all new would never be seen.
struct Eagerness(usize);

impl Eagerness {
    const STEPS: [usize; 5] = [0, 1, 4, 7, 8];

    fn roll(rng: &mut Rng) -> Self {
        Eagerness(Eagerness::STEPS[rng.below(Eagerness::STEPS.len())])
    }

    fn writes(&self, rng: &mut Rng) -> bool {
        rng.below(8) < self.0
    }
}

impl Inode {
    /// A file of zeros, durable ones.
    pub(super) fn zeroed(len: usize) -> Self {
        Inode {
            live: Region::heap(len),
            durable: vec![0; len],
            versions: BTreeMap::new(),
            tears: false,
            unreadable: 0..0,
        }
    }

    /// A file with these bytes, all of them durable.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let live = Region::heap(bytes.len());
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            // Most files are mostly zero, and fresh memory is so already.
            if *piece != [0; PIECE][..piece.len()] {
                live.write_bytes(index * PIECE, piece);
            }
        }
        live.dirty().iter().for_each(|bits| bits.store(0, Ordering::Relaxed));
        Inode { live, durable: bytes, versions: BTreeMap::new(), tears: false, unreadable: 0..0 }
    }

    /// Zeros at the end, durable ones. Views that exist keep the old bytes.
    pub(super) fn grow(&mut self, len: usize) {
        self.live = self.live.longer(len);
        self.durable.resize(len, 0);
    }

    pub(super) fn make_unreadable(&mut self, range: Range<usize>) {
        self.unreadable = range;
    }

    /// Whether the platter gives these bytes.
    pub(super) fn is_readable(&self, range: Range<usize>) -> bool {
        let Range { start, end } = &self.unreadable;
        *start.max(&range.start) >= *end.min(&range.end)
    }

    /// Allows a sector to be torn between its words from now on.
    pub(super) fn tears(&mut self) {
        self.tears = true;
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn region(&self) -> &Region {
        &self.live
    }

    /// The bytes as the running system sees them.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.live.load(0, &mut bytes);
        bytes
    }

    /// A write call.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], rng: &mut Rng) {
        for sector in offset / SECTOR_BYTES..(offset + bytes.len()).div_ceil(SECTOR_BYTES) {
            if self.is_dirty(sector) {
                self.remember(sector, rng);
            }
        }
        self.live.write_bytes(offset, bytes);
        if !self.is_readable(offset..offset + bytes.len()) {
            // The platter puts what it can't read elsewhere when it is written.
            self.unreadable = 0..0;
        }
    }

    /// A sync that succeeds.
    pub(super) fn sync(&mut self) {
        for sector in self.take_dirty() {
            let range = self.range(sector);
            self.live.load(range.start, &mut self.durable[range]);
        }
        self.versions.clear();
    }

    /// A sync that fails: each dirty sector reaches the platter or not, and the cache believes
    /// that all did; or, if it `forgets`, some pages go back to what the platter has.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng, forgets: bool) {
        let eagerness = Eagerness::roll(rng);
        let dirty = self.take_dirty();
        for sector in dirty.iter().copied() {
            if eagerness.writes(rng) {
                let bytes = self.any_version(sector, rng);
                let range = self.range(sector);
                self.durable[range.clone()].copy_from_slice(&bytes[..range.len()]);
            }
        }
        self.versions.clear();
        if forgets && rng.below(2) == 0 {
            let mut pages: Vec<usize> = dirty.iter().map(|sector| sector / PAGE_SECTORS).collect();
            pages.dedup();
            pages.retain(|_| rng.below(2) == 0);
            pages.into_iter().for_each(|page| self.forget(page));
        }
    }

    /// The page is read from the platter again.
    fn forget(&mut self, page: usize) {
        let start = page * PAGE_SECTORS * SECTOR_BYTES;
        let end = (start + PAGE_SECTORS * SECTOR_BYTES).min(self.len());
        self.live.write_bytes(start, &self.durable[start..end]);
        // A page's bits are in one word.
        let (word, first) = (page * PAGE_SECTORS / 64, page * PAGE_SECTORS % 64);
        self.live.dirty()[word].fetch_and(!(0xff << first), Ordering::AcqRel);
    }

    /// Some dirty sectors reach the platter, and the cache does not know it yet.
    pub(super) fn write_back(&mut self, rng: &mut Rng) {
        let durable = self.roll_platter(rng);
        self.durable = durable;
    }

    /// The file as it is found when the power comes back.
    pub(super) fn after_power_cut(&self, rng: &mut Rng) -> Self {
        Inode::new(self.roll_platter(rng))
    }

    fn roll_platter(&self, rng: &mut Rng) -> Vec<u8> {
        let eagerness = Eagerness::roll(rng);
        let mut platter = self.durable.clone();
        for sector in self.dirty_sectors() {
            if eagerness.writes(rng) {
                let bytes = self.any_version(sector, rng);
                let range = self.range(sector);
                platter[range.clone()].copy_from_slice(&bytes[..range.len()]);
            }
        }
        platter
    }

    /// The same file in a system whose processes died: dirty sectors stay dirty.
    pub(super) fn duplicate(&self) -> Self {
        Inode {
            live: self.live.duplicate(),
            durable: self.durable.clone(),
            versions: self.versions.clone(),
            tears: self.tears,
            unreadable: self.unreadable.clone(),
        }
    }

    /// Makes all views that were handed out views of something else.
    pub(super) fn detach(&mut self) {
        if self.live.is_shared() {
            self.live = self.live.duplicate();
        }
    }

    /// Changes bytes in the cache and on the platter, without making them dirty.
    pub(super) fn damage(&mut self, range: Range<usize>, change: impl Fn(&mut [u8])) {
        change(&mut self.durable[range.clone()]);
        let mut bytes = vec![0; range.len()];
        self.live.read_bytes(range.start, &mut bytes);
        change(&mut bytes);
        let dirty: Vec<u64> = self.live.dirty().iter().map(|b| b.load(Ordering::Acquire)).collect();
        self.live.write_bytes(range.start, &bytes);
        for (bits, before) in self.live.dirty().iter().zip(dirty) {
            bits.store(before, Ordering::Release);
        }
        let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
        self.versions.retain(|sector, _| !sectors.contains(sector));
    }

    /// Keeps what a random dirty sector, if there is one, holds right now.
    pub(super) fn remember_a_dirty_sector(&mut self, rng: &mut Rng) {
        let words = self.live.dirty();
        if words.is_empty() {
            return;
        }
        let first = rng.below(words.len());
        let turn = rng.below(64) as u32;
        let (late, early) = words.split_at(first);
        for (index, word) in (first..).zip(early).chain((0..).zip(late)) {
            let bits = word.load(Ordering::Acquire);
            if bits != 0 {
                let bit = (bits.rotate_right(turn).trailing_zeros() + turn) % 64;
                return self.remember(index * 64 + bit as usize, rng);
            }
        }
    }

    fn remember(&mut self, sector: usize, rng: &mut Rng) {
        let now = self.current(sector);
        let kept = self.versions.entry(sector).or_default();
        if kept.len() < VERSIONS {
            kept.push(now);
        } else {
            kept[rng.below(VERSIONS)] = now;
        }
    }

    /// The newest version of a sector, one on the way to it, or a mixture.
    fn any_version(&self, sector: usize, rng: &mut Rng) -> Sector {
        let mut bytes = self.whole_version(sector, rng);
        if self.tears && rng.below(2) == 0 {
            let mut other = self.whole_version(sector, rng);
            if rng.below(2) == 0 {
                let range = self.range(sector);
                other[..range.len()].copy_from_slice(&self.durable[range]);
            }
            for (word, other) in bytes.chunks_exact_mut(8).zip(other.chunks_exact(8)) {
                if rng.below(2) == 0 {
                    word.copy_from_slice(other);
                }
            }
        }
        bytes
    }

    fn whole_version(&self, sector: usize, rng: &mut Rng) -> Sector {
        let between = self.versions.get(&sector).map_or(&[][..], Vec::as_slice);
        match rng.below(between.len() + 1) {
            0 => self.current(sector),
            chosen => between[chosen - 1],
        }
    }

    fn current(&self, sector: usize) -> Sector {
        let mut bytes = [0; SECTOR_BYTES];
        let range = self.range(sector);
        self.live.load(range.start, &mut bytes[..range.len()]);
        bytes
    }

    fn range(&self, sector: usize) -> Range<usize> {
        let start = sector * SECTOR_BYTES;
        start..(start + SECTOR_BYTES).min(self.len())
    }

    fn is_dirty(&self, sector: usize) -> bool {
        self.live.dirty()[sector / 64].load(Ordering::Acquire) & (1 << (sector % 64)) != 0
    }

    fn dirty_sectors(&self) -> Vec<usize> {
        sectors(self.live.dirty().iter().map(|bits| bits.load(Ordering::Acquire)))
    }

    /// Clears the bits before anyone copies the sectors, so that a store that comes later is
    /// found dirty by the next sync.
    fn take_dirty(&mut self) -> Vec<usize> {
        sectors(self.live.dirty().iter().map(|bits| bits.swap(0, Ordering::AcqRel)))
    }
}

/// The positions of the set bits.
fn sectors(words: impl Iterator<Item = u64>) -> Vec<usize> {
    let mut found = Vec::new();
    for (index, mut bits) in words.enumerate() {
        while bits != 0 {
            found.push(index * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
    found
}
