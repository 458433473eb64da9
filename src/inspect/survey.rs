//! One reading of all files, in the order that keeps it true while they change.

use crate::{
    claims::{Found, format},
    error::OpenError,
    index::KeyHasher,
    recover::{
        CLAIMS_FILE, RING_FILE, claims,
        create::{behind_ring, possible_ring},
        is_store_file, read_pieces,
        segments::{Care, Reader, Segment},
    },
    storage::Storage,
    superblock::{Superblock, SuperblockFile},
};
use std::{
    collections::{HashMap, HashSet},
    io,
};

/// How often a reading is repeated because the store has been opened, has grown or has used a
/// segment again during it. The last one counts as it is.
const TRIES: usize = 5;

/// The files as they were read.
pub(super) struct Survey {
    pub superblock: Superblock,
    pub hasher: KeyHasher,
    /// The newest version of each claim in the claims file.
    pub claims: Vec<Found>,
    /// Cells that a loss of power has torn and that had not been promised.
    pub torn_claims: u64,
    pub claims_bytes: u64,
    pub segments: Vec<Segment>,
    pub problems: Vec<OpenError>,
    /// The highest time that the files know of.
    pub seen_ms: u64,
}

/// `is_open`: a process has the store open.
pub(super) fn take(
    storage: &dyn Storage,
    hasher: Option<KeyHasher>,
    is_open: bool,
) -> Result<Survey, OpenError> {
    let mut tries = 1..TRIES;
    let mut changes = is_open;
    loop {
        let last = tries.next().is_none();
        let survey = take_once(storage, hasher, is_open, changes);
        changes = true;
        let survey = match survey {
            // Perhaps met in the middle of being written.
            Err(OpenError::Damaged { .. }) if !last => continue,
            survey => survey?,
        };
        let now = read_superblock(storage).map(|(_, now)| (now.life, now.slots));
        let then = (survey.superblock.life, survey.superblock.slots);
        let settled = now.is_ok_and(|now| now == then) && survey.segments.iter().all(stays);
        if settled || last {
            return Ok(survey);
        }
    }
}

fn stays(segment: &Segment) -> bool {
    segment.is_unchanged()
}

fn read_superblock(storage: &dyn Storage) -> Result<(SuperblockFile, Superblock), OpenError> {
    if let Some(found) = SuperblockFile::open(storage)? {
        return Ok(found);
    }
    let place = storage.place();
    let names = storage.list().map_err(OpenError::io(format!("listing {place}")))?;
    match names.into_iter().find(|name| is_store_file(name)) {
        Some(file) => Err(OpenError::NotAStore { place, file }),
        None => Err(OpenError::NoStore { place }),
    }
}

fn take_once(
    storage: &dyn Storage,
    hasher: Option<KeyHasher>,
    is_open: bool,
    changes: bool,
) -> Result<Survey, OpenError> {
    let (file, superblock) = read_superblock(storage)?;
    let hasher = hasher.unwrap_or_else(|| KeyHasher::new(superblock.hash_seed, 64));
    let mut problems = Vec::new();
    let copy =
        |(offset, what)| OpenError::Damaged { file: crate::superblock::FILE.into(), offset, what };
    // A copy that is being written is not whole, and is a moment later.
    let damaged = (0..3).map(|_| file.damaged_copies()).min_by_key(Vec::len);
    problems.extend(damaged.unwrap_or_default().into_iter().map(copy));
    let cells = read_claims(storage, &superblock, is_open, changes, &mut problems);
    let ring = read_ring(storage, &superblock, &mut problems);
    let hints = |life, class| match cells.bytes.is_empty() {
        true => None,
        false => format::read_durable(&cells.bytes, superblock.store, life, class),
    };
    let reader = Reader { storage, superblock: &superblock, hasher, care: Care::Outside };
    let (segments, damaged) = reader.read_all(&ring, hints)?;
    problems.extend(damaged);
    let hinted = match cells.bytes.is_empty() {
        true => None,
        false => format::read_time(&cells.bytes, superblock.store),
    };
    let newest = segments.iter().map(Segment::newest_ms).max().unwrap_or(0);
    let seen_ms = newest.max(cells.newest_ms).max(superblock.time_ms).max(hinted.unwrap_or(0));
    let claims_bytes = cells.bytes.len() as u64;
    let (claims, torn_claims) = (cells.claims, cells.torn);
    Ok(Survey {
        superblock,
        hasher,
        claims,
        torn_claims,
        claims_bytes,
        segments,
        problems,
        seen_ms,
    })
}

#[derive(Default)]
struct ClaimsRead {
    /// As of the last pass; empty if there is no whole file.
    bytes: Vec<u8>,
    claims: Vec<Found>,
    torn: u64,
    newest_ms: u64,
}

/// Reads the claims, more than once where they may change: while one pass goes over the file, a
/// takeover may write its claim behind it and clear the old one before it. Nothing moves twice in
/// that way unseen.
fn read_claims(
    storage: &dyn Storage,
    superblock: &Superblock,
    is_open: bool,
    changes: bool,
    problems: &mut Vec<OpenError>,
) -> ClaimsRead {
    const PASSES: usize = 3;
    let mut read = ClaimsRead::default();
    let mut newest: HashMap<u64, Found> = HashMap::new();
    let mut damaged: Option<HashSet<u64>> = None;
    for _ in 0..PASSES {
        let contents = read_file(storage, CLAIMS_FILE).and_then(|bytes| {
            let contents = claims::decode(&bytes, superblock)?;
            Ok((bytes, contents))
        });
        let (bytes, contents) = match contents {
            Ok(found) => found,
            Err(error) => {
                problems.push(error);
                return ClaimsRead::default();
            }
        };
        read.bytes = bytes;
        read.bytes.truncate(contents.cells as usize * format::CELL_BYTES);
        read.newest_ms = read.newest_ms.max(contents.newest_ms);
        // A cell that is being written doesn't read, for a moment.
        read.torn = contents.torn.len() as u64;
        // No claim moves in a store that isn't open; that it stayed so is seen by its life. (One that
        // is being opened has its cells written again.)
        let once = !changes && contents.torn.is_empty() && contents.damaged.is_empty();
        let mut these: HashSet<u64> = contents.damaged.into_iter().collect();
        if is_open {
            // Its opening has freed what was torn.
            read.torn = 0;
            these.extend(contents.torn);
        }
        damaged = Some(match damaged {
            None => these,
            Some(before) => before.intersection(&these).copied().collect(),
        });
        for found in contents.claims {
            let known = newest.entry(found.token.get()).or_insert_with(|| found.clone());
            if known.version < found.version {
                *known = found;
            }
        }
        if once {
            break;
        }
    }
    let mut damaged: Vec<u64> = damaged.unwrap_or_default().into_iter().collect();
    damaged.sort_unstable();
    let what = "a claim does not read back";
    let file = || CLAIMS_FILE.into();
    problems.extend(damaged.iter().map(|&offset| OpenError::Damaged {
        file: file(),
        offset,
        what,
    }));
    read.claims = newest.into_values().collect();
    read
}

fn read_ring(
    storage: &dyn Storage,
    superblock: &Superblock,
    problems: &mut Vec<OpenError>,
) -> Vec<u8> {
    match read_file(storage, RING_FILE) {
        Ok(mut bytes) if possible_ring(bytes.len() as u64, superblock) => {
            problems.extend(behind_ring(&mut bytes, superblock));
            bytes
        }
        Ok(bytes) => {
            problems.push(OpenError::Damaged {
                file: RING_FILE.into(),
                offset: bytes.len() as u64,
                what: "the ring has another size than it was made with",
            });
            Vec::new()
        }
        Err(error) => {
            problems.push(error);
            Vec::new()
        }
    }
}

/// A whole file; pieces that can't be read are zeros, which are damage there.
fn read_file(storage: &dyn Storage, name: &str) -> Result<Vec<u8>, OpenError> {
    let file = storage.open(name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { file: name.into() },
        _ => OpenError::io(format!("opening {name}"))(error),
    })?;
    let mut bytes = vec![0; file.size() as usize];
    if file.read_at(0, &mut bytes).is_err() {
        read_pieces(&*file, &mut bytes);
    }
    Ok(bytes)
}
