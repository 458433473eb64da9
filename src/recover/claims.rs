//! The claims file at an opening: read, written again, enlarged.

use super::{CLAIMS_FILE, decide::Undecided, read_file};
use crate::{
    broken::{self, Broken},
    claims::{
        Cells, Found,
        format::{self, Header, HeaderError},
    },
    error::OpenError,
    group_commit::GroupCommit,
    observe::{Timings, events},
    options::Sizes,
    poison::Poison,
    storage::{Storage, StorageFile, is_blank, is_failed_sync, is_no_room},
    superblock::Superblock,
};
use std::{collections::HashSet, io, sync::Arc};

fn damaged(offset: u64, what: &'static str) -> OpenError {
    OpenError::Damaged { file: CLAIMS_FILE.into(), offset, what }
}

/// Decodes a claims file. An error if it is not this store's, or not whole.
pub(crate) fn decode(bytes: &[u8], superblock: &Superblock) -> Result<format::Contents, OpenError> {
    let header = bytes.first_chunk().ok_or(damaged(0, "the claims file has been cut short"))?;
    let header = Header::decode(header).map_err(|error| match error {
        HeaderError::Damaged => damaged(0, "the claims file's header is not whole"),
        HeaderError::Newer(found) => {
            OpenError::Newer { file: CLAIMS_FILE.into(), found, known: format::CLAIMS_VERSION }
        }
    })?;
    if header.store != superblock.store {
        return Err(OpenError::Foreign { file: CLAIMS_FILE.into() });
    }
    // Bytes behind the last cell come from a growth that was not finished.
    let Some(bytes) = bytes.get(..header.cells as usize * format::CELL_BYTES) else {
        return Err(damaged(bytes.len() as u64, "the claims file has been cut short"));
    };
    let mut contents = format::decode_all(superblock.store, bytes);
    contents.cells = header.cells;
    if !superblock.leaves_torn_claims() {
        contents.damaged.append(&mut contents.torn);
        contents.damaged.sort_unstable();
    }
    Ok(contents)
}

/// The claims file, read.
pub(crate) struct ClaimsFile {
    file: Arc<dyn StorageFile>,
    bytes: Vec<u8>,
    contents: format::Contents,
    pub damaged_places: u64,
}

pub(super) fn read(
    storage: &dyn Storage,
    superblock: &Superblock,
    sizes: &Sizes,
    salvage: bool,
) -> Result<ClaimsFile, OpenError> {
    let io = |doing: &str| OpenError::io(format!("{doing} the claims file"));
    let mut made_anew = 0;
    let again = || {
        let file = storage.create(CLAIMS_FILE, Cells::file_bytes(sizes.cells))?;
        // Blank until its name is durable: if that fails, the next salvage begins here again.
        storage.sync_dir()?;
        Cells::create(&*file, superblock.store)?;
        Ok(file)
    };
    let file = match storage.open(CLAIMS_FILE) {
        Ok(file) if salvage && is_blank(&*file).unwrap_or(false) => {
            made_anew = 1;
            again().map_err(io("creating"))?
        }
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && salvage => {
            made_anew = 1;
            again().map_err(io("creating"))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { file: CLAIMS_FILE.into() });
        }
        Err(error) => return Err(io("opening")(error)),
    };
    file.expect_small_changes();
    let mut bytes = read_file(&*file, CLAIMS_FILE)?;
    let contents = decode(&bytes, superblock)?;
    bytes.truncate(contents.cells as usize * format::CELL_BYTES);
    if let Some(offset) = contents.damaged.first()
        && !salvage
    {
        return Err(damaged(*offset, "a claim does not read back"));
    }
    let damaged_places = contents.damaged.len() as u64 + made_anew;
    Ok(ClaimsFile { file, bytes, contents, damaged_places })
}

impl ClaimsFile {
    /// The durable position noted for a class, if the note is of that life.
    pub fn durable_hint(&self, superblock: &Superblock, life: u32, class: u8) -> Option<u64> {
        format::read_durable(&self.bytes, superblock.store, life, class)
    }

    pub fn newest_ms(&self) -> u64 {
        self.contents.newest_ms
    }

    /// How many cells a loss of power has torn that had not been promised.
    pub fn torn(&self) -> u64 {
        self.contents.torn.len() as u64
    }

    pub fn above_all_tokens(&self) -> u64 {
        Found::above_all(&self.contents.claims)
    }

    pub fn time_hint(&self, superblock: &Superblock) -> u64 {
        format::read_time(&self.bytes, superblock.store).unwrap_or(0)
    }

    /// The newest version of each claim, once.
    pub fn take_claims(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.contents.claims)
    }

    /// Opens it for use.
    pub fn open(
        &self,
        superblock: &Superblock,
        shadowed: bool,
        poison: Arc<Poison>,
        timings: Timings,
        group: GroupCommit,
    ) -> Result<Cells, OpenError> {
        let cells = self.contents.cells;
        Cells::new(self.file.clone(), superblock.store, cells, shadowed, poison, timings, group)
    }

    /// Makes the file as large as the options want it, if it is smaller: after everything in it has
    /// been written again. If there is no room, or the system refuses it for another reason, it
    /// stays as it was, which is reported. Not after a sync that failed, or a write of the header:
    /// then what the file holds is not known.
    pub fn grow(
        &mut self,
        storage: &dyn Storage,
        superblock: &Superblock,
        wanted: u32,
    ) -> io::Result<()> {
        let (bytes, now) = (Cells::file_bytes(wanted), self.bytes.len() as u64);
        if bytes <= now {
            let fits = Cells::claims_in(now);
            if bytes < now {
                events::claims_kept(u64::from(wanted), fits);
            }
            return Ok(());
        }
        let larger = storage.grow(CLAIMS_FILE, bytes).and_then(|file| {
            Cells::free_behind(&*file, self.contents.cells, bytes)?;
            Ok(file)
        });
        let file = match larger {
            Ok(file) => file,
            Err(error) if is_failed_sync(&error) && !is_no_room(&error) => return Err(error),
            Err(error) => {
                events::claims_not_grown(u64::from(wanted), Cells::claims_in(now), &error);
                return Ok(());
            }
        };
        Cells::count_all(&*file, superblock.store, bytes)?;
        file.expect_small_changes();
        self.file = file;
        self.contents.cells = (bytes / format::CELL_BYTES as u64) as u32;
        Ok(())
    }

    /// Writes the whole file again and syncs it: what was only in the page cache, cleared cells
    /// included, is then on the disk. After that all cells that mean nothing any more are freed,
    /// and that is synced too: what is written from now on has no remains beside it that it could
    /// be taken together with. (Not in one step: what has replaced them, or decided them, must be
    /// on the disk before they go.)
    pub fn rewrite(&self, alive: &[Undecided]) -> io::Result<()> {
        if !broken::is(Broken::SyncInsteadOfWriting) {
            self.file.write_at(0, &self.bytes)?;
        }
        self.file.sync()?;
        let alive: HashSet<u32> = cells_of(alive).collect();
        let mut dead = self.contents.in_use.iter().filter(|cell| !alive.contains(cell));
        let Some(first) = dead.next() else { return Ok(()) };
        let last = dead.next_back().unwrap_or(first);
        if broken::is(Broken::ReuseVersions) {
            return Ok(());
        }
        let place = |cell: u32| cell as usize * format::CELL_BYTES;
        let mut bytes = self.bytes[place(*first)..place(last + 1)].to_vec();
        for cell in [first, last].into_iter().chain(dead) {
            let at = place(*cell) - place(*first);
            bytes[at..at + 8].copy_from_slice(&format::FREE.to_le_bytes());
        }
        self.file.write_at(place(*first) as u64, &bytes)?;
        self.file.sync()
    }
}

/// The cells of the claims that stay.
pub(crate) fn cells_of(undecided: &[Undecided]) -> impl Iterator<Item = u32> {
    undecided.iter().flat_map(|undecided| undecided.found.chain.cells.iter().copied())
}
