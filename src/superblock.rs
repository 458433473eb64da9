//! The superblock is read before anything else: it has the store's identity and the numbers that
//! never go back. Two copies, a page each; both are written and synced, one after the other, before
//! what they say is relied on, so that damage to either loses nothing.
//!
//! ```text
//! 0     8       12   16    24     32   48 52    56   64    72   80 84
//! |magic|version|life|store|number|hash|  |slots|ring|token|time|  |crc|
//! |     |       |    |     |      |seed|  |     |size|limit|seen|  |   |
//! ```
//! At 48: the durability that the store was opened with the last time. At 80: whether it was
//! closed in order after that.
//!
//! ```text
//! 88    96         104 108 112
//! |shift|clock jump| 0 |crc|
//! ```
//! All zero in a superblock from before this part was added. Both parts are within one sector.

use crate::{
    broken::{self, Broken},
    error::OpenError,
    limits::{COUNT_MAX, RING_BYTES_MAX, SLOTS_MAX, TIME_MAX_MS, TOKEN_MAX},
    storage::{self, Storage, StorageFile},
};
use std::{io, sync::Arc};

pub(crate) const FILE: &str = "superblock";
pub(crate) const FORMAT_VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"onlyonce";
const COPY_BYTES: usize = 112;
const COPY_AT: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;
const CLOSED: u32 = 1;

/// The content of the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Grows with each writing.
    pub number: u64,
    pub store: u64,
    /// Keys the hash of keys, so that clients cannot choose colliding ones.
    pub hash_seed: [u8; 16],
    /// How often this store has been opened.
    pub life: u32,
    /// Slots that exist, numbered from 1: a missing file is noticed.
    pub slots: u32,
    /// Size of the ring, so that a cut is noticed.
    pub ring_bytes: u64,
    /// Tokens below this may have been given out.
    pub token_limit: u64,
    /// The highest store time that is known to have been reached.
    pub time_ms: u64,
    /// How the store was opened the last time: `Durability::code`. In its lowest byte 2 and 3 are
    /// the settings that store claims through a map.
    pub durability: u32,
    /// Closed in order since then: everything is on the disk as the running store had it. False in
    /// stores of before this was noted.
    pub closed: bool,
    /// The difference between the wall clock and store time, in milliseconds: not zero once an
    /// operator has accepted a clock and kept the windows.
    pub shift_ms: i64,
    /// The bound on jumps that the store was opened with the last time, for readers from outside;
    /// 0: not known.
    pub jump_max_ms: u64,
}

impl Superblock {
    fn encode(&self) -> [u8; COPY_BYTES] {
        let mut b = [0; COPY_BYTES];
        b[..8].copy_from_slice(&MAGIC);
        b[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        b[12..16].copy_from_slice(&self.life.to_le_bytes());
        b[16..24].copy_from_slice(&self.store.to_le_bytes());
        b[24..32].copy_from_slice(&self.number.to_le_bytes());
        b[32..48].copy_from_slice(&self.hash_seed);
        b[48..52].copy_from_slice(&self.durability.to_le_bytes());
        b[52..56].copy_from_slice(&self.slots.to_le_bytes());
        b[56..64].copy_from_slice(&self.ring_bytes.to_le_bytes());
        b[64..72].copy_from_slice(&self.token_limit.to_le_bytes());
        b[72..80].copy_from_slice(&self.time_ms.to_le_bytes());
        b[80..84].copy_from_slice(&u32::from(self.closed).to_le_bytes());
        let crc = crc32fast::hash(&b[..84]);
        b[84..88].copy_from_slice(&crc.to_le_bytes());
        b[88..96].copy_from_slice(&self.shift_ms.to_le_bytes());
        b[96..104].copy_from_slice(&self.jump_max_ms.to_le_bytes());
        let crc = crc32fast::hash(&b[88..108]);
        b[108..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn decode(b: &[u8; COPY_BYTES]) -> Result<Self, Copy> {
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        if b[..8] != MAGIC || u32_at(84) != crc32fast::hash(&b[..84]) {
            return Err(Copy::Damaged);
        }
        if u32_at(8) > FORMAT_VERSION {
            return Err(Copy::Newer(u32_at(8)));
        }
        let is_old = b[88..] == [0; COPY_BYTES - 88];
        if !is_old && u32_at(108) != crc32fast::hash(&b[88..108]) {
            return Err(Copy::Damaged);
        }
        let superblock = Superblock {
            number: u64_at(24),
            store: u64_at(16),
            hash_seed: b[32..48].try_into().unwrap(),
            life: u32_at(12),
            slots: u32_at(52),
            ring_bytes: u64_at(56),
            token_limit: u64_at(64),
            time_ms: u64_at(72),
            durability: u32_at(48),
            closed: u32_at(80) == CLOSED,
            shift_ms: u64_at(88) as i64,
            jump_max_ms: u64_at(96),
        };
        superblock.is_possible().then_some(superblock).ok_or(Copy::Damaged)
    }

    /// Whether the claims file may have cells that a loss of power has torn and that were never
    /// promised: the last opener stored claims through a map, and did not close the store in order.
    ///
    /// The kernel may write a page back while a cell in it is being stored to, and the disk then
    /// gets some words of before and some of after. That can befall only a cell that has changed
    /// since the last sync that succeeded, and what a mapped store changes without having synced it
    /// was never promised to survive a loss of power: a cell is free, or its claim is decided
    /// durably, before it is stored to; a version takes the place of an older one only when it has
    /// been synced, until then the older one stays in cells of its own; and what waits for the disk
    /// (a checkpoint, a takeover where that waits, `ensure_durable`) is answered after a sync that
    /// began when all its cells had been stored, and these don't change afterwards until the claim
    /// is decided. After a close in order everything was synced after the last store, and where
    /// claims are written by write calls nothing is given out before its sync: a cell that doesn't
    /// read is damage then.
    pub fn leaves_torn_claims(&self) -> bool {
        !self.closed && matches!(self.durability & 0xff, 2 | 3)
    }

    /// The number of the next writing. At its maximum it stays, which no store reaches by writing.
    pub fn next_number(&self) -> u64 {
        self.number.saturating_add(1)
    }

    /// Whether a store can have written this. Forged bytes with a correct checksum must not decide
    /// how much is allocated, or how many files are looked for.
    fn is_possible(&self) -> bool {
        self.life <= COUNT_MAX
            && self.slots <= SLOTS_MAX
            && self.ring_bytes <= RING_BYTES_MAX
            && self.ring_bytes.is_multiple_of(4096)
            && self.token_limit < 2 * TOKEN_MAX
            && self.time_ms <= TIME_MAX_MS
            && self.shift_ms.unsigned_abs() <= TIME_MAX_MS
    }
}

/// Why a copy is of no use.
#[derive(Debug)]
enum Copy {
    /// Never written.
    Blank,
    Damaged,
    Newer(u32),
    /// The disk doesn't give it.
    Unread(io::Error),
}

/// The superblock's file.
#[derive(Debug)]
pub(crate) struct SuperblockFile(Arc<dyn StorageFile>);

impl SuperblockFile {
    /// Creates the file without content. Until its first [`write`](Self::write) the directory
    /// counts as empty.
    pub fn create(storage: &dyn Storage) -> io::Result<Self> {
        storage.create(FILE, FILE_BYTES).map(SuperblockFile)
    }

    /// Opens the file and reads the newer whole copy. `Ok(None)`: it was never written, so the
    /// store was never finished.
    pub fn open(storage: &dyn Storage) -> Result<Option<(Self, Superblock)>, OpenError> {
        let doing = "reading the superblock";
        let file = match storage.open(FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(OpenError::io(doing))?,
        };
        let damaged = |offset| OpenError::Damaged {
            file: FILE.into(),
            offset,
            what: "neither copy of the superblock is whole",
        };
        if file.size() < FILE_BYTES {
            // It has its size before anything is written to it.
            return match storage::is_blank(&*file).map_err(OpenError::io(doing))? {
                true => Ok(None),
                false => Err(damaged(file.size())),
            };
        }
        let this = SuperblockFile(file);
        // Each by itself: what can't be read of one is in the other, too.
        let copies = COPY_AT.map(|at| this.copy(at));
        // The first copy is written, and synced, before the second: while that is blank, nothing
        // has been promised.
        if let [Err(Copy::Blank | Copy::Damaged), Err(Copy::Blank)] = copies {
            return Ok(None);
        }
        let mut newest: Option<Superblock> = None;
        let mut unread = None;
        for (copy, at) in copies.into_iter().zip(COPY_AT) {
            match copy {
                Ok(copy) if newest.is_some_and(|known| known.number > copy.number) => {}
                Ok(copy) => newest = Some(copy),
                Err(Copy::Newer(found)) => {
                    let file = FILE.into();
                    return Err(OpenError::Newer { file, found, known: FORMAT_VERSION });
                }
                Err(Copy::Unread(error)) => unread = unread.or(Some((at, error))),
                Err(Copy::Blank | Copy::Damaged) => {}
            }
        }
        match (newest, unread) {
            // Both say the same, or the older one says all that has been relied upon.
            (Some(superblock), _) => Ok(Some((this, superblock))),
            (None, None) => Err(damaged(0)),
            (None, Some((at, error))) => Err(OpenError::io(format!(
                "reading the superblock's copy at byte {at}, while the other one is of no use"
            ))(error)),
        }
    }

    /// The open file.
    pub fn file(&self) -> &dyn StorageFile {
        &*self.0
    }

    fn copy(&self, at: u64) -> Result<Superblock, Copy> {
        let mut bytes = [0; COPY_BYTES];
        self.0.read_at(at, &mut bytes).map_err(Copy::Unread)?;
        match bytes == [0; COPY_BYTES] {
            true => Err(Copy::Blank),
            false => Superblock::decode(&bytes),
        }
    }

    /// Which copies are of no use, by their offsets, and why: one alone loses nothing.
    pub fn damaged_copies(&self) -> Vec<(u64, &'static str)> {
        let why = |at| match self.copy(at) {
            Ok(_) => None,
            Err(Copy::Unread(_)) => {
                Some((at, "one of the superblock's two copies can't be read; the other one serves"))
            }
            Err(_) => {
                Some((at, "one of the superblock's two copies is not whole; the other one serves"))
            }
        };
        COPY_AT.into_iter().filter_map(why).collect()
    }

    /// Writes both copies; what they say may be relied on when this returns.
    pub fn write(&self, superblock: &Superblock) -> io::Result<()> {
        for at in COPY_AT {
            self.0.write_at(at, &superblock.encode())?;
            if !broken::is(Broken::SkipSuperblockSync) {
                self.0.sync()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;

    fn sample(number: u64) -> Superblock {
        Superblock {
            number,
            store: 3,
            hash_seed: [7; 16],
            life: 4,
            slots: 5,
            ring_bytes: 4096,
            token_limit: 6 + number,
            time_ms: 7,
            durability: 1,
            closed: number.is_multiple_of(2),
            shift_ms: -3,
            jump_max_ms: 9,
        }
    }

    fn read(disk: &SimStorage) -> Option<Superblock> {
        SuperblockFile::open(disk).unwrap().map(|(_, superblock)| superblock)
    }

    #[test]
    fn either_copy_is_enough() {
        let disk = SimStorage::new(1);
        let file = SuperblockFile::create(&disk).unwrap();
        assert_eq!(read(&disk), None);
        file.write(&sample(1)).unwrap();
        assert_eq!(read(&disk), Some(sample(1)));
        for at in COPY_AT {
            for bit in 0..COPY_BYTES as u64 * 8 {
                disk.flip_bit(FILE, at * 8 + bit);
                assert_eq!(read(&disk), Some(sample(1)));
                disk.flip_bit(FILE, at * 8 + bit);
            }
        }
        disk.flip_bit(FILE, 100);
        disk.flip_bit(FILE, 4096 * 8 + 100);
        assert!(matches!(SuperblockFile::open(&disk), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn the_newer_copy_counts() {
        let disk = SimStorage::new(1);
        let file = SuperblockFile::create(&disk).unwrap();
        file.write(&sample(1)).unwrap();
        file.0.write_at(0, &sample(2).encode()).unwrap();
        assert_eq!(read(&disk), Some(sample(2)));
    }
}
