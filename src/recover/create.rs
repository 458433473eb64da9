//! A store that isn't there yet.

use super::{CLAIMS_FILE, RING_FILE, is_store_file, read_file};
use crate::{
    claims::Cells,
    error::OpenError,
    limits::RING_BYTES_MAX,
    observe::events,
    options::{Sizes, four_frames},
    storage::{Storage, StorageFile, is_blank, is_failed_sync, is_no_room},
    superblock::{Superblock, SuperblockFile},
    sync,
};
use std::{io, sync::Arc};

/// Says that there is no store here; [`OpenError::NotAStore`] if there is a part of one.
pub(crate) fn check_absent(storage: &dyn Storage) -> Result<(), OpenError> {
    let place = storage.place();
    let names = storage.list().map_err(OpenError::io(format!("listing {place}")))?;
    let blank_superblock = names.iter().any(|name| name == crate::superblock::FILE);
    for file in names.into_iter().filter(|name| is_store_file(name)) {
        let left = match &file[..] {
            CLAIMS_FILE | RING_FILE if blank_superblock => true,
            CLAIMS_FILE => holds_nothing(storage, &file, Cells::is_new)?,
            RING_FILE => holds_nothing(storage, &file, |bytes| bytes.iter().all(|b| *b == 0))?,
            _ => false,
        };
        if !left {
            return Err(OpenError::NotAStore { place, file });
        }
    }
    Ok(())
}

/// Whether nothing but a creation has written to a file.
fn holds_nothing(
    storage: &dyn Storage,
    name: &str,
    is_new: impl Fn(&[u8]) -> bool,
) -> Result<bool, OpenError> {
    let file = storage.open(name).map_err(OpenError::io(format!("opening {name}")))?;
    Ok(is_new(&read_file(&*file, name)?))
}

/// Creates an empty store. The superblock's content comes last, when the names of all files are
/// durable: a directory with a blank superblock and no segment is one whose creation was
/// interrupted, and is created again. After a loss of power any of these files may be left, without
/// the superblock too; they hold nothing yet.
pub(crate) fn create(
    storage: &dyn Storage,
    sizes: &Sizes,
) -> Result<(SuperblockFile, Superblock), OpenError> {
    check_absent(storage)?;
    let place = storage.place();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => OpenError::NoSpace {
            place: place.clone(),
            bytes: sizes.ring + Cells::file_bytes(sizes.cells) + sizes.segment_min,
        },
        _ => OpenError::io(format!("creating a store in {place}"))(error),
    };
    let mut random = [0; 24];
    sync::random(&mut random)
        .map_err(|error| failed(io::Error::other(format!("no randomness: {error}"))))?;
    let superblock = Superblock {
        number: 1,
        store: u64::from_le_bytes(random[..8].try_into().unwrap()),
        hash_seed: random[8..].try_into().unwrap(),
        life: 0,
        slots: 0,
        ring_bytes: sizes.ring,
        token_limit: 0,
        time_ms: 0,
        durability: 0,
        closed: true,
        shift_ms: 0,
        jump_max_ms: 0,
    };
    let file = SuperblockFile::create(storage).map_err(failed)?;
    let claims = storage.create(CLAIMS_FILE, Cells::file_bytes(sizes.cells));
    claims.and_then(|file| Cells::create(&*file, superblock.store)).map_err(failed)?;
    create_ring(storage, sizes.ring).map_err(failed)?;
    storage.sync_dir().map_err(failed)?;
    file.write(&superblock).map_err(failed)?;
    Ok((file, superblock))
}

/// Creates the ring. It is written once here, so that its blocks are real ones from the start.
pub(crate) fn create_ring(storage: &dyn Storage, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
    let file = storage.create(RING_FILE, bytes)?;
    file.write_at(0, &vec![0; bytes as usize])?;
    file.sync()?;
    Ok(file)
}

/// Begins a ring that a salvage makes, until its name is durable: if that fails, the file is there
/// and counts as missing.
const UNFINISHED: &[u8; 32] = b"onlyonce: a ring being salvaged\0";

/// Creates a missing ring of a store that exists.
fn create_ring_again(storage: &dyn Storage, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
    let file = storage.create(RING_FILE, bytes)?;
    file.write_at(0, UNFINISHED)?;
    storage.sync_dir()?;
    file.write_at(0, &vec![0; bytes as usize])?;
    file.sync()?;
    Ok(file)
}

/// Whether a salvage that was interrupted has left this ring.
fn is_unfinished(file: &dyn StorageFile, bytes: u64, salvage: bool) -> bool {
    let mut first = [0; UNFINISHED.len()];
    let marked = file.read_at(0, &mut first).is_ok() && first == *UNFINISHED;
    // It died when a part of it was there.
    marked || salvage && file.size() < bytes && is_blank(file).unwrap_or(false)
}

/// The ring as it was found.
pub(super) struct Ring {
    pub file: Arc<dyn StorageFile>,
    /// Empty if it was created again.
    pub bytes: Vec<u8>,
    /// Those that were passed over.
    pub damaged_places: u64,
}

/// Opens the ring and reads it: of a file that is longer, because its growth was interrupted, as much
/// as the superblock says. A missing ring is created again when salvaging.
pub(super) fn open_ring(
    storage: &dyn Storage,
    superblock: &Superblock,
    salvage: bool,
) -> Result<Ring, OpenError> {
    let doing = || OpenError::io("opening the ring");
    let found = match storage.open(RING_FILE) {
        Ok(file) if is_unfinished(&*file, superblock.ring_bytes, salvage) => {
            Err(io::ErrorKind::NotFound.into())
        }
        found => found,
    };
    match found {
        Ok(file) if !possible_ring(file.size(), superblock) => Err(OpenError::Damaged {
            file: RING_FILE.into(),
            offset: file.size(),
            what: "the ring has another size than it was made with",
        }),
        Ok(file) => {
            file.expect_small_changes();
            let mut bytes = read_file(&*file, RING_FILE)?;
            let behind = behind_ring(&mut bytes, superblock);
            match behind {
                Some(error) if !salvage => Err(error),
                _ => Ok(Ring { file, bytes, damaged_places: u64::from(behind.is_some()) }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && salvage => {
            let file = create_ring_again(storage, superblock.ring_bytes).map_err(doing())?;
            Ok(Ring { file, bytes: Vec::new(), damaged_places: 1 })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::Missing { file: RING_FILE.into() })
        }
        Err(error) => Err(doing()(error)),
    }
}

/// Whether a ring's file may be so large: a longer one is being made larger.
pub(crate) fn possible_ring(bytes: u64, superblock: &Superblock) -> bool {
    (superblock.ring_bytes..=RING_BYTES_MAX).contains(&bytes)
}

/// Takes from a ring's file what the superblock doesn't count. An interrupted growth leaves zeros
/// there: the longer ring is used only when the superblock counts all of it, durably. Anything else is
/// damage.
pub(crate) fn behind_ring(bytes: &mut Vec<u8>, superblock: &Superblock) -> Option<OpenError> {
    let behind = bytes.split_off(superblock.ring_bytes as usize);
    let at = behind.iter().position(|byte| *byte != 0)?;
    Some(OpenError::Damaged {
        file: RING_FILE.into(),
        offset: superblock.ring_bytes + at as u64,
        what: "the ring is longer than the superblock says, and not blank there",
    })
}

/// Makes the ring as large as the options want it, if it is smaller; of a growth that was interrupted
/// the rest. After all segments of the last life are sealed: what the ring holds means nothing then. The
/// superblock counts the new bytes when the next life begins; until then they are not looked at. If
/// there is no room, or the system refuses it for another reason, it stays as it was, which is
/// reported, unless the largest records would not fit.
pub(super) fn grow_ring(
    storage: &dyn Storage,
    ring: &Arc<dyn StorageFile>,
    superblock: &Superblock,
    sizes: &Sizes,
) -> Result<Arc<dyn StorageFile>, OpenError> {
    let now = ring.size();
    let fits = superblock.ring_bytes >= 4 * sizes.frame_max;
    let least = if fits { 0 } else { four_frames(sizes.frame_max) };
    let wanted = sizes.ring_asked.max(least).max(now).next_multiple_of(4096);
    if wanted == superblock.ring_bytes {
        return Ok(ring.clone());
    }
    if now > superblock.ring_bytes {
        // What a salvage has found behind the ring becomes a part of it.
        let blank = || {
            ring.write_at(superblock.ring_bytes, &vec![0; (now - superblock.ring_bytes) as usize])?;
            ring.sync()
        };
        blank().map_err(OpenError::io("blanking what is behind the ring"))?;
    }
    match storage.grow(RING_FILE, wanted) {
        Ok(file) => {
            file.expect_small_changes();
            Ok(file)
        }
        Err(error) if is_failed_sync(&error) && !is_no_room(&error) => {
            Err(OpenError::io("enlarging the ring")(error))
        }
        // A record that the ring can't hold would wait for room for ever.
        Err(error) if now != superblock.ring_bytes || !fits => {
            let what = format!(
                "enlarging the ring, which has {} bytes; four of the largest responses must fit, so \
                 a max_response of at most {} needs none",
                superblock.ring_bytes,
                (superblock.ring_bytes / 4).saturating_sub(1024)
            );
            Err(OpenError::io(what)(error))
        }
        Err(error) => {
            events::ring_not_grown(wanted, now, &error);
            Ok(ring.clone())
        }
    }
}
