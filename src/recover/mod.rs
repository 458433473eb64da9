//! What the files of a store that is not open hold: reading them, writing again what isn't proven
//! durable, creating them. `decide` has the rules of what a key's state is then.

pub(crate) mod claims;
pub(crate) mod create;
pub(crate) mod decide;
mod records;
pub(crate) mod segments;

use crate::{
    error::OpenError,
    index::{Index, KeyHasher},
    limits::{CLASSES, RESUMED_BASE_MAX, TIME_MAX_MS},
    log::{DATA_START, FIRST_POSITION, FOOTER_ENTRY_BYTES, Slot},
    options::Sizes,
    storage::{Storage, StorageFile},
    superblock::Superblock,
};
use decide::Decided;
use segments::{Care, Segment};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

pub(crate) const CLAIMS_FILE: &str = "claims";
pub(crate) const RING_FILE: &str = "ring";

/// Everything that was read before the first write.
pub(crate) struct Read {
    pub claims: claims::ClaimsFile,
    pub ring: Arc<dyn StorageFile>,
    pub segments: Vec<Segment>,
    pub damaged_places: u64,
}

impl Read {
    pub fn all(
        storage: &dyn Storage,
        superblock: &Superblock,
        sizes: &Sizes,
        hasher: KeyHasher,
        salvage: bool,
    ) -> Result<Self, OpenError> {
        let claims = claims::read(storage, superblock, sizes, salvage)?;
        let ring = create::open_ring(storage, superblock, salvage)?;
        let hints = |life, class| claims.durable_hint(superblock, life, class);
        let care = if salvage { Care::Salvage } else { Care::Strict };
        let reader = segments::Reader { storage, superblock, hasher, care };
        let (segments, damaged) = reader.read_all(&ring.bytes, hints)?;
        let damaged_places = damaged.len() as u64 + claims.damaged_places + ring.damaged_places;
        Ok(Read { claims, ring: ring.file, segments, damaged_places })
    }

    /// Gives the ring the size that the options want, if that is larger; after everything is settled.
    pub fn grow_ring(
        &mut self,
        storage: &dyn Storage,
        superblock: &Superblock,
        sizes: &Sizes,
    ) -> Result<(), OpenError> {
        self.ring = create::grow_ring(storage, &self.ring, superblock, sizes)?;
        Ok(())
    }

    /// The highest time that the files know of; 0 if there is none.
    pub fn seen_ms(&self, superblock: &Superblock) -> u64 {
        let newest = self.segments.iter().map(Segment::newest_ms).max().unwrap_or(0);
        let hinted = self.claims.time_hint(superblock);
        newest.max(self.claims.newest_ms()).max(superblock.time_ms).max(hinted).min(TIME_MAX_MS)
    }

    /// Fills the index, and decides about the claims.
    pub fn decide(&mut self, index: &mut Index, salvage: bool) -> Result<Decided, OpenError> {
        let claims = self.claims.take_claims();
        let (decided, damaged) = records::index(index, &self.segments, claims, salvage)?;
        self.damaged_places += damaged;
        Ok(decided)
    }
}

/// A segment that the new life continues to fill.
pub(crate) struct Begun {
    pub slot: Arc<Slot>,
    pub class: u8,
    /// The position at which its frames end.
    pub end: u64,
    /// The room it has left, as the account of free space counts it.
    pub room: i64,
}

/// Of each class the newest segment that has room for the largest record of today's options.
pub(crate) fn begun_of(segments: &[Segment], frame_max: u64) -> Vec<Begun> {
    let mut newest: BTreeMap<u8, ((u32, u64), Begun)> = BTreeMap::new();
    for segment in segments {
        let (Some(since), Some(summary)) = (segment.since(), segment.summary()) else {
            continue;
        };
        let slot = segment.slot.clone();
        let footer = segment.entries().len() * FOOTER_ENTRY_BYTES;
        let used = (summary.data_end - DATA_START) as i64 + footer as i64;
        let room = slot.usable(frame_max) - used;
        let age = (since.life.max(summary.life), since.base);
        let newer = newest.get(&since.class).is_none_or(|(known, _)| *known < age);
        // Positions are whole words, but a forged header may say anything.
        let end = since.base.saturating_add(summary.data_end);
        if room > 0 && since.base <= RESUMED_BASE_MAX && end.is_multiple_of(8) && newer {
            newest.insert(since.class, (age, Begun { slot, class: since.class, end, room }));
        }
    }
    newest.into_values().map(|(_, begun)| begun).collect()
}

/// How many bytes records may take in the segments that exist, if the largest frame is not larger.
pub(crate) fn room_in(segments: &[Segment], frame_max: u64) -> u64 {
    let free = segments.iter().filter(|segment| segment.summary().is_none());
    let free = free.map(|segment| segment.slot.usable(frame_max));
    let begun = begun_of(segments, frame_max);
    let room = free.chain(begun.iter().map(|begun| begun.room));
    room.map(|bytes| bytes.max(0) as u64).sum()
}

/// Where the positions of each class begin.
pub(crate) fn starts_of(begun: &[Begun]) -> [u64; CLASSES] {
    let mut starts = [FIRST_POSITION; CLASSES];
    begun.iter().for_each(|begun| starts[usize::from(begun.class)] = begun.end);
    starts
}

/// How many threads read segments, or fill the index: one, which is the caller's own, where there is
/// less to do than `worthwhile`.
fn threads(work: u64, worthwhile: u64) -> usize {
    // Asking the system takes as long as opening a small store.
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    if work < worthwhile { 1 } else { (*PROCESSORS).min(8) }
}

/// Whether a name is one of a store's files.
pub(crate) fn is_store_file(name: &str) -> bool {
    name == CLAIMS_FILE || name == RING_FILE || name.starts_with("segment-")
}

/// Reads a file in pieces; those that can't be read stay as they are, and are returned by their
/// offsets.
pub(crate) fn read_pieces(file: &dyn StorageFile, into: &mut [u8]) -> Vec<(u64, std::io::Error)> {
    const PIECE: usize = 4096;
    let mut failed = Vec::new();
    for (number, piece) in into.chunks_mut(PIECE).enumerate() {
        let offset = (number * PIECE) as u64;
        if let Err(error) = file.read_at(offset, piece) {
            piece.fill(0);
            failed.push((offset, error));
        }
    }
    failed
}

/// Bytes of a file, by read calls.
fn read_file(file: &dyn StorageFile, name: &str) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(0, &mut bytes).map_err(OpenError::io(format!("reading {name}")))?;
    Ok(bytes)
}
