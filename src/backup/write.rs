//! The files of a backup, written so that it counts only when it is whole: the superblock's
//! content after everything that it speaks of, the manifest after that.

use super::{
    Backup, BackupError, BackupOptions, MANIFEST,
    manifest::{Entry, Manifest, Where},
};
use crate::{
    claims::{Cells, Found},
    clock::shifted,
    engine::tokens,
    inspect::{Inspection, Problem},
    log::{FooterEntry, Slot, Summary, file_name, next_epoch},
    recover::{
        CLAIMS_FILE, RING_FILE,
        create::create_ring,
        segments::{Place, Segment},
    },
    storage::{DiskStorage, Storage, StorageFile, share_blocks},
    superblock::{self, Superblock, SuperblockFile},
};
use std::{path::Path, sync::Arc};

/// How much is copied by one call.
const PIECE: usize = 1 << 20;

/// A directory to write to: made if it isn't there.
pub(super) fn destination(path: &Path) -> Result<DiskStorage, BackupError> {
    let doing = format!("opening the directory {}", path.display());
    DiskStorage::open(path).map_err(BackupError::io(doing))
}

/// Everything that a copy is made of.
pub(super) struct Snapshot<'a> {
    pub superblock: Superblock,
    pub taken_ms: u64,
    pub claims: Vec<Found>,
    pub claims_bytes: u64,
    pub segments: &'a [Segment],
    /// The operators' decisions: files and what they hold.
    pub decisions: Vec<(String, Vec<u8>)>,
    /// Leave out what doesn't read.
    pub salvage: Option<&'a Inspection>,
}

pub(super) struct Writer<'a> {
    dst: &'a dyn Storage,
    share: bool,
    earlier: Option<Manifest>,
    done: Backup,
}

impl<'a> Writer<'a> {
    pub fn new(dst: &'a dyn Storage, options: &BackupOptions) -> Result<Self, BackupError> {
        let place = dst.place();
        let names = dst.list().map_err(BackupError::io(format!("listing {place}")))?;
        if let Some(file) = names.into_iter().next() {
            return Err(BackupError::NotEmpty { place, file });
        }
        let earlier = match &options.since {
            Some(path) => Some(Manifest::read(path)?),
            None => None,
        };
        Ok(Writer { dst, share: options.share, earlier, done: Backup::default() })
    }

    /// Writes everything; `check` says, last of all, whether what was read may be believed.
    pub fn write(
        mut self,
        cut: Snapshot<'_>,
        check: &mut dyn FnMut() -> Result<(), BackupError>,
    ) -> Result<Backup, BackupError> {
        let place = self.dst.place();
        let io = || BackupError::io(format!("writing to {place}"));
        if let Some(earlier) = &self.earlier
            && earlier.store != cut.superblock.store
        {
            return Err(BackupError::OtherStore { place: earlier.place.display().to_string() });
        }
        self.done.taken_ms = cut.taken_ms;
        self.done.claims = cut.claims.len() as u64;
        let superblock = superblock_of_copy(&cut);
        // Segments without a superblock are nothing that could be taken for a new store.
        let mut entries = Vec::new();
        for number in 1..=cut.superblock.slots {
            let at = cut.segments.binary_search_by_key(&number, |segment| segment.slot.number);
            let segment = at.ok().map(|at| &cut.segments[at]);
            entries.push(self.segment(&cut, number, segment)?);
        }
        // Without them what a loss of power leaves of a claims file or a ring that hold nothing yet
        // would be taken for one.
        self.dst.sync_dir().map_err(io())?;
        entries.push(self.claims(&cut)?);
        for (name, bytes) in &cut.decisions {
            let file = self.dst.create(name, bytes.len() as u64).map_err(io())?;
            file.write_at(0, bytes).and_then(|()| file.sync()).map_err(io())?;
            self.done.copied_bytes += bytes.len() as u64;
            entries.push(entry_of(name, &*file, String::new()).map_err(io())?);
        }
        let ring = create_ring(self.dst, cut.superblock.ring_bytes).map_err(io())?;
        self.done.copied_bytes += ring.size();
        entries.push(entry_of(RING_FILE, &*ring, String::new()).map_err(io())?);
        check()?;
        self.dst.sync_dir().map_err(io())?;
        let superblock_file = SuperblockFile::create(self.dst).map_err(io())?;
        self.dst.sync_dir().map_err(io())?;
        superblock_file.write(&superblock).map_err(io())?;
        let file = self.dst.open(superblock::FILE).map_err(io())?;
        entries.push(entry_of(superblock::FILE, &*file, String::new()).map_err(io())?);
        let manifest = Manifest {
            place: Path::new(&place).to_owned(),
            store: superblock.store,
            taken_ms: cut.taken_ms,
            earlier: self.earlier.as_ref().map(|earlier| earlier.place.clone()),
            entries,
        };
        let text = manifest.encode();
        let file = self.dst.create(MANIFEST, text.len() as u64).map_err(io())?;
        file.write_at(0, text.as_bytes()).and_then(|()| file.sync()).map_err(io())?;
        self.dst.sync_dir().map_err(io())?;
        Ok(self.done)
    }

    fn claims(&mut self, cut: &Snapshot<'_>) -> Result<Entry, BackupError> {
        let io = || BackupError::io(format!("writing to {}", self.dst.place()));
        let store = cut.superblock.store;
        let image = Cells::image_of(store, cut.claims_bytes, &cut.claims, cut.taken_ms);
        let file = self.dst.create(CLAIMS_FILE, image.len() as u64).map_err(io())?;
        file.write_at(0, &image).and_then(|()| file.sync()).map_err(io())?;
        self.done.copied_bytes += image.len() as u64;
        entry_of(CLAIMS_FILE, &*file, String::new()).map_err(io())
    }

    fn segment(
        &mut self,
        cut: &Snapshot<'_>,
        number: u32,
        segment: Option<&Segment>,
    ) -> Result<Entry, BackupError> {
        let name = file_name(number);
        let io = || BackupError::io(format!("copying {name} to {}", self.dst.place()));
        let Some(segment) = segment else {
            // Salvage: the file is missing, and opening must not stumble over that. Too small to
            // be of use.
            let slot = Slot::create(self.dst, number, 8192, cut.superblock.store);
            return entry_of(&name, &*slot.map_err(io())?.file, String::new()).map_err(io());
        };
        let Some(summary) = segment.summary() else {
            return self.free(segment, segment.slot.epoch()).map_err(io());
        };
        let mut entries = segment.entries().to_vec();
        if let Some(inspection) = cut.salvage {
            entries.retain(|entry| !inspection.is_left_out(number, entry.offset));
        }
        let seal = segment.seal_of(&entries, &summary);
        let known = self.earlier.as_ref().and_then(|earlier| earlier.find(&name));
        self.done.segments += 1;
        if let Some(known) = known.filter(|known| !seal.is_empty() && known.seal == seal) {
            self.done.unchanged += 1;
            return Ok(Entry { at: Where::Earlier, ..known.clone() });
        }
        let file = self.dst.create(&name, segment.slot.bytes).map_err(io())?;
        self.copy(segment, &entries, &summary, &file).map_err(io())?;
        if !segment.still_holds() {
            // Used again since, by an owner elsewhere: what it held has expired.
            self.dst.remove(&name).map_err(io())?;
            return self.free(segment, next_epoch(segment.slot.epoch())).map_err(io());
        }
        entry_of(&name, &*file, seal).map_err(io())
    }

    /// A segment that holds nothing. The next epoch, so that no frame of this one passes.
    fn free(&self, segment: &Segment, epoch: u32) -> std::io::Result<Entry> {
        let slot = &segment.slot;
        let name = file_name(slot.number);
        let file = self.dst.create(&name, slot.bytes)?;
        file.write_at(0, &slot.free_header(epoch).encode())?;
        file.sync()?;
        entry_of(&name, &*file, String::new())
    }

    fn copy(
        &mut self,
        segment: &Segment,
        entries: &[FooterEntry],
        summary: &Summary,
        file: &Arc<dyn StorageFile>,
    ) -> std::io::Result<()> {
        let bytes = segment.slot.bytes;
        let image = segment.image();
        let is_damaged = |e: &&FooterEntry| matches!(segment.frame_in(&image, e), Place::Damaged);
        let damaged = segment.entries().iter().filter(is_damaged);
        let damaged: Vec<_> = damaged.map(|e| Problem::unreadable(segment, e)).collect();
        if segment.still_holds() {
            self.done.problems.extend(damaged);
        }
        let whole = !segment.is_open() && entries.len() == segment.entries().len();
        if whole && self.share && share_blocks(&*segment.slot.file, &**file) {
            self.done.shared_bytes += bytes;
        } else {
            for (number, piece) in image.bytes.chunks(PIECE).enumerate() {
                file.write_at((number * PIECE) as u64, piece)?;
            }
            self.done.copied_bytes += image.bytes.len() as u64;
        }
        // Of shared blocks too: a later life may be filling the original further by now.
        file.write_at(0, &segment.header().encode())?;
        let footer = segment.footer_of(entries, summary);
        file.write_at(bytes - footer.len() as u64, &footer)?;
        self.done.copied_bytes += footer.len() as u64;
        file.sync()
    }
}

/// The manifest's line of a file that has been written.
fn entry_of(name: &str, file: &dyn StorageFile, seal: String) -> std::io::Result<Entry> {
    let hash = hash_of(file)?;
    Ok(Entry { name: name.to_owned(), bytes: file.size(), hash, seal, at: Where::Here })
}

/// BLAKE3 of a file's bytes.
pub(super) fn hash_of(file: &dyn StorageFile) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    while offset < file.size() {
        let len = (file.size() - offset).min(PIECE as u64) as usize;
        file.read_at(offset, &mut piece[..len])?;
        hasher.update(&piece[..len]);
        offset += len as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The superblock of the copy: time continues from the snapshot, tokens from above what the
/// original can have given out by then, with a day's worth more for a clock that is behind.
fn superblock_of_copy(cut: &Snapshot<'_>) -> Superblock {
    let Snapshot { superblock: original, taken_ms, claims, .. } = cut;
    // A salvaged copy may have claims that its superblock doesn't allow.
    let limit = original.token_limit.max(Found::above_all(claims));
    // Tokens go by the wall clock.
    let by_time = tokens::Tokens::first(limit, shifted(*taken_ms, original.shift_ms));
    Superblock {
        token_limit: tokens::a_day_later(by_time),
        time_ms: original.time_ms.max(*taken_ms),
        // The copied files are written and synced before the superblock is.
        closed: true,
        number: original.next_number(),
        ..*original
    }
}
