//! The claims file: undecided keys, in cells of 256 bytes.
//!
//! Each version of a claim is a chain of one or more cells (more than one only for long keys and
//! for checkpoints). A cell is within one sector and is whole by itself:
//! ```text
//! 0     8      16       20     22     24    28      30  32
//! | word | token | version| index| count| next| length| 0 | payload, up to 224 bytes |
//! ```
//! `word` is a constant while the cell is free; while it means something it holds a tag and the
//! checksum of the rest (seeded with store and cell number), and it is stored last. So a process
//! that dies leaves no half cell, and neither does a loss of power (a sector is old or new).
//! Anything else in it is damage. The first cell of a chain is stored last: a chain whose later
//! cells are missing or another claim's was never acknowledged.
//!
//! A cell is never overwritten while it means anything. A takeover or a checkpoint writes a new
//! chain; the old one is cleared when the new one is durable. A completed claim is cleared when its
//! completion is. Renewals are not written: a crash ends every lease.
//!
//! The module `medium` brings cells to the file, by a map or by write calls.
//!
//! The first 512 bytes are the file's header and, behind it, two kinds of words that are stored
//! as they become known: the durable position of each class, and the highest time seen. They are
//! hints that may be lost with power (then older ones come back, which are also true).

use crate::{
    broken::{self, Broken},
    error::OpenError,
    fingerprint::Fingerprint,
    group_commit::{Commit, GroupCommit},
    key::{KeyRef, OwnedKey},
    limits::CLASSES,
    observe::{Timed, Timings, events},
    poison::{Poison, Poisoned},
    record::Reason,
    storage::StorageFile,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    token::Token,
};
use smallvec::SmallVec;
use std::{io, sync::Arc};

mod blank;
pub(crate) mod format;
mod free;
mod medium;
use format::{CELL_BYTES, FIRST_CELL, FREE, Header};
use free::{FreeCells, Spared};
use medium::Medium;

/// The purpose of a version of a claim, which decides whose spare cells it may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Purpose {
    /// A first claim. It leaves all spare cells to the others.
    Claim,
    /// The first version of an attempt that is not the key's first.
    Takeover,
    /// A later version: a checkpoint, or what is noted of a release or an interruption.
    Checkpoint,
}

/// The cells of one version of a claim, first cell first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chain {
    pub cells: SmallVec<[u32; 2]>,
    /// The version is durable when this file is, up to here.
    pub written_at: u64,
    /// The commit that covers this clears what the version has replaced, and the next one makes
    /// that durable; 0 if it has replaced nothing in this life.
    pub replaced_at: u64,
    /// A caller was told that this version is durable, or waits to be told: it is cleared only when
    /// what ends the claim is durable.
    pub promised: bool,
}

/// Everything that is stored of an undecided claim.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    pub token: Token,
    /// Grows with each rewriting under the same token.
    pub version: u32,
    pub attempt: u32,
    pub started_ms: u64,
    pub lease_ms: u64,
    pub replay_ms: u64,
    pub remember_ms: u64,
    pub reserve: u32,
    pub fingerprint: Fingerprint,
    pub history: bool,
    pub interrupted: Option<(Reason, u64)>,
    pub key: KeyRef<'a>,
    pub checkpoint: Option<&'a [u8]>,
    /// The attempt whose failure left the answer that is kept, if it is an earlier one.
    pub answer_of: Option<Token>,
}

/// An [`Entry`] that owns its bytes: what opening finds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub token: Token,
    pub version: u32,
    /// The highest version of this token in any cell, that of a chain which isn't whole included.
    /// Cells are tied by token and version: what is written next must be above this, or a loss of
    /// power could make a chain of two versions' cells.
    pub used: u32,
    pub attempt: u32,
    pub started_ms: u64,
    pub lease_ms: u64,
    pub replay_ms: u64,
    pub remember_ms: u64,
    pub reserve: u32,
    pub fingerprint: Fingerprint,
    pub history: bool,
    pub interrupted: Option<(Reason, u64)>,
    pub key: OwnedKey,
    pub checkpoint: Option<Arc<[u8]>>,
    /// The attempt whose failure left the answer that is kept, if it is an earlier one.
    pub answer_of: Option<Token>,
    pub chain: Chain,
}

impl Found {
    /// None of these has this token or a higher one.
    pub fn above_all(claims: &[Found]) -> u64 {
        claims.iter().map(|found| found.token.get() + 1).max().unwrap_or(0)
    }

    /// Under which token the log has the answer that is kept, if one is.
    pub fn failed_as(&self) -> Token {
        self.answer_of.unwrap_or(self.token)
    }

    /// Borrowed, to be written again.
    pub fn entry(&self) -> Entry<'_> {
        Entry {
            token: self.token,
            version: self.version,
            attempt: self.attempt,
            started_ms: self.started_ms,
            lease_ms: self.lease_ms,
            replay_ms: self.replay_ms,
            remember_ms: self.remember_ms,
            reserve: self.reserve,
            fingerprint: self.fingerprint,
            history: self.history,
            interrupted: self.interrupted,
            key: self.key.as_ref(),
            checkpoint: self.checkpoint.as_deref(),
            answer_of: self.answer_of,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cells {
    file: Arc<dyn StorageFile>,
    medium: Medium,
    /// The cells that the header counts. A longer file is one whose growth was interrupted.
    count: u32,
    store: u64,
    free: FreeCells,
    /// Counts the changes to the file: the position of its group commit.
    written: AtomicU64,
    /// Store time of the oldest change that no sync has covered; 0 if there is none. Noted in
    /// `Buffered` only.
    dirty_since: AtomicU64,
    /// The time that is noted. Read without the lock, changed under it.
    noted_time: AtomicU64,
    noting: Mutex<()>,
    pub group: GroupCommit,
    /// Chains to be cleared that were queued up to this position are cleared, durably.
    settled: AtomicU64,
    /// Chains to clear once a class (or, for `None`, this file) is durable up to a position.
    obsolete: [Mutex<Vec<(u64, Chain)>>; CLASSES + 1],
    /// Chains to clear once a class is in the kernel's hands up to a position.
    undrained: Mutex<Vec<(u8, u64, Chain)>>,
    poison: Arc<Poison>,
    timings: Timings,
}

impl Cells {
    /// Writes a new, empty claims file and makes its content durable.
    pub fn create(file: &dyn StorageFile, store: u64) -> io::Result<()> {
        let mut cell = [0; CELL_BYTES];
        cell[..8].copy_from_slice(&FREE.to_le_bytes());
        let mut bytes = cell.repeat(file.size() as usize / CELL_BYTES);
        let header = Header { store, cells: (file.size() as usize / CELL_BYTES) as u32 };
        bytes[..FIRST_CELL as usize * CELL_BYTES].fill(0);
        bytes[..format::HEADER_BYTES].copy_from_slice(&header.encode());
        file.write_at(0, &bytes)?;
        file.sync()
    }

    /// Whether these bytes are those of a new claims file, or of one that was being made.
    pub fn is_new(bytes: &[u8]) -> bool {
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        let (first, cells) = bytes.split_at(bytes.len().min(FIRST_CELL as usize * CELL_BYTES));
        let (header, hints) = first.split_at(first.len().min(format::HEADER_BYTES));
        (header.starts_with(&format::HEADER_MAGIC) || is_zero(header))
            && is_zero(hints)
            && cells.chunks(CELL_BYTES).all(|cell| match cell.split_first_chunk() {
                Some((word, rest)) => {
                    matches!(u64::from_le_bytes(*word), 0 | FREE) && is_zero(rest)
                }
                None => is_zero(cell),
            })
    }

    /// A claims file of `bytes`, or more if it takes more, that holds these claims and the time.
    pub fn image_of(store: u64, bytes: u64, claims: &[Found], now: u64) -> Vec<u8> {
        let mut next = FIRST_CELL;
        let mut written = Vec::new();
        for found in claims {
            let payload = format::payload(&found.entry());
            let pieces = payload.chunks(format::PAYLOAD_BYTES);
            let count = pieces.len() as u16;
            for (index, piece) in pieces.enumerate() {
                let index = index as u16;
                let last = index + 1 == count;
                let link = format::Link {
                    token: found.token.get(),
                    version: found.version,
                    index,
                    count,
                    next: if last { 0 } else { next + 1 },
                };
                let mut cell = [0; CELL_BYTES];
                let (word, _) = format::encode_cell(store, next, &link, piece, &mut cell);
                cell[..8].copy_from_slice(&word.to_le_bytes());
                written.extend_from_slice(&cell);
                next += 1;
            }
        }
        let bytes = bytes.max(Self::file_bytes(next - FIRST_CELL)) as usize;
        let mut free = [0; CELL_BYTES];
        free[..8].copy_from_slice(&FREE.to_le_bytes());
        let mut image = free.repeat(bytes / CELL_BYTES);
        let first = FIRST_CELL as usize * CELL_BYTES;
        image[..first].fill(0);
        let header = Header { store, cells: (bytes / CELL_BYTES) as u32 };
        image[..format::HEADER_BYTES].copy_from_slice(&header.encode());
        let time = format::time_word(store, now).to_le_bytes();
        image[format::TIME_AT..format::TIME_AT + 8].copy_from_slice(&time);
        image[first..first + written.len()].copy_from_slice(&written);
        image
    }

    /// Size of the file, as its header says it.
    pub fn bytes(&self) -> u64 {
        u64::from(self.count) * CELL_BYTES as u64
    }

    /// Frees what a file of `bytes` has behind its first `cells` cells, which its header counts.
    pub fn free_behind(file: &dyn StorageFile, cells: u32, bytes: u64) -> io::Result<()> {
        let mut free = [0; CELL_BYTES];
        free[..8].copy_from_slice(&FREE.to_le_bytes());
        let from = u64::from(cells) * CELL_BYTES as u64;
        file.write_at(from, &free.repeat(((bytes - from) / CELL_BYTES as u64) as usize))
    }

    /// Makes the header count all cells of a file of `bytes`. The new ones are durable before, so
    /// that a crash leaves the old size or the new one.
    pub fn count_all(file: &dyn StorageFile, store: u64, bytes: u64) -> io::Result<()> {
        file.sync()?;
        let header = Header { store, cells: (bytes / CELL_BYTES as u64) as u32 };
        file.write_at(0, &header.encode())?;
        file.sync()
    }

    /// Size of a file for `claims` claims.
    pub fn file_bytes(claims: u32) -> u64 {
        let cells = u64::from(claims) + u64::from(FIRST_CELL + Spared::LEAST);
        let mut bytes = (cells * CELL_BYTES as u64).next_multiple_of(4096);
        // A page adds more cells than the shares of it.
        while Self::claims_in(bytes) < u64::from(claims) {
            let missing = u64::from(claims) - Self::claims_in(bytes);
            bytes = (bytes + missing * CELL_BYTES as u64).next_multiple_of(4096);
        }
        bytes
    }

    /// How many claims of one cell fit into a file of this size.
    pub fn claims_in(bytes: u64) -> u64 {
        let cells = (bytes / CELL_BYTES as u64).saturating_sub(u64::from(FIRST_CELL));
        cells.saturating_sub(Spared::of(cells).sum())
    }

    /// `shadowed`: see `medium`. `count`: the cells that the header says.
    pub fn new(
        file: Arc<dyn StorageFile>,
        store: u64,
        count: u32,
        shadowed: bool,
        poison: Arc<Poison>,
        timings: Timings,
        group: GroupCommit,
    ) -> Result<Self, OpenError> {
        let medium = Medium::new(&*file, shadowed);
        Ok(Cells {
            medium: medium.map_err(OpenError::io("opening the claims file"))?,
            file,
            count,
            store,
            free: FreeCells::none(u64::from(count.saturating_sub(FIRST_CELL))),
            written: AtomicU64::new(0),
            dirty_since: AtomicU64::new(0),
            noted_time: AtomicU64::new(0),
            noting: Mutex::new(()),
            group,
            settled: AtomicU64::new(0),
            undrained: Mutex::default(),
            obsolete: std::array::from_fn(|_| Mutex::new(Vec::new())),
            poison,
            timings,
        })
    }

    /// Starts with the chains that recovery has found alive: all other cells are cleared and free.
    /// The lowest numbers are given out first, so that few pages are in use.
    pub fn adopt(&self, alive: impl Iterator<Item = u32>) -> Result<(), Poisoned> {
        let count = self.count;
        let mut used = vec![false; count as usize];
        alive.for_each(|cell| used[cell as usize] = true);
        for cell in (FIRST_CELL..count).rev().filter(|cell| !used[*cell as usize]) {
            if self.medium.region().load_word(place(cell)) != FREE {
                self.store_word(place(cell), FREE)?;
            }
            self.free.give(cell);
        }
        // Counted, so that the next sync really takes place.
        self.written.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// How many cells are not in use.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Counts a change that isn't a claim's, so that the next sync covers it.
    pub fn touch(&self) -> u64 {
        self.written.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Writes a version of a claim into free cells; `None` if there are not enough for this
    /// `purpose`.
    pub fn write(&self, purpose: Purpose, entry: &Entry<'_>) -> Result<Option<Chain>, Poisoned> {
        self.poison.check_writer()?;
        let len = format::payload_len(entry);
        let pieces = len.div_ceil(format::PAYLOAD_BYTES);
        let Some(cells) = self.free.take(pieces, purpose) else {
            return Ok(None);
        };
        if pieces == 1 {
            let mut bytes = [0; CELL_BYTES];
            let encoded = format::encode_single(self.store, cells[0], entry, len, &mut bytes);
            self.write_cell(cells[0], encoded, &bytes)?;
        } else {
            let link = |index: usize| format::Link {
                token: entry.token.get(),
                version: entry.version,
                index: index as u16,
                count: pieces as u16,
                next: cells.get(index + 1).copied().unwrap_or(0),
            };
            let payload = format::payload(entry);
            let chunks = payload.chunks(format::PAYLOAD_BYTES).enumerate();
            // Later cells first: the first one makes the chain mean something.
            for (index, piece) in chunks.rev() {
                let (cell, link, mut bytes) = (cells[index], link(index), [0; CELL_BYTES]);
                let encoded = format::encode_cell(self.store, cell, &link, piece, &mut bytes);
                self.write_cell(cell, encoded, &bytes)?;
            }
        }
        let written_at = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Some(Chain { cells, written_at, replaced_at: 0, promised: false }))
    }

    /// Writes a cell of which its word and how many bytes are in use are known.
    fn write_cell(
        &self,
        cell: u32,
        (word, len): (u64, usize),
        bytes: &[u8; CELL_BYTES],
    ) -> Result<(), Poisoned> {
        let at = place(cell);
        self.medium.store(at + 8, &bytes[8..len]).map_err(|e| self.trip(&e))?;
        self.store_word(at, word)
    }

    fn store_word(&self, at: usize, word: u64) -> Result<(), Poisoned> {
        self.medium.store_word(at, word).map_err(|e| self.trip(&e))
    }

    fn trip(&self, error: &io::Error) -> Poisoned {
        self.poison.trip("writing the claims file", error)
    }

    /// The claim of this chain is decided: its cells are free. First cell first, so that a crash
    /// in between leaves cells that belong to no chain.
    pub fn clear(&self, chain: &Chain) -> Result<(), Poisoned> {
        for cell in &chain.cells {
            self.store_word(place(*cell), FREE)?;
        }
        self.written.fetch_add(1, Ordering::SeqCst);
        chain.cells.iter().rev().for_each(|cell| self.free.give(*cell));
        Ok(())
    }

    /// Whether a loss of power would leave this version of its claim.
    pub fn is_durable(&self, chain: &Chain) -> bool {
        chain.written_at <= self.group.durable()
    }

    /// The position to wait for until nothing that `chain` has replaced can come back: not the
    /// process's death nor a loss of power then brings back an older version when this one is
    /// cleared. `None`: nothing.
    pub fn until_settled(&self, chain: &Chain) -> Option<u64> {
        if chain.replaced_at <= self.settled.load(Ordering::Acquire) {
            None
        } else if self.group.durable() < chain.replaced_at {
            Some(chain.replaced_at)
        } else {
            // What it has replaced was cleared then, which counts as written.
            Some(self.position())
        }
    }

    /// Clears `chain` once `class` is durable up to `position`.
    pub fn clear_after(&self, class: u8, position: u64, chain: Chain) {
        self.obsolete[class as usize].lock().push((position, chain));
    }

    /// Clears `chain` once the records of `class` up to `position` survive the process.
    pub fn clear_when_drained(&self, class: u8, position: u64, chain: Chain) {
        self.undrained.lock().push((class, position, chain));
    }

    /// The records of `class` up to `position` are in the kernel's hands.
    pub fn class_drained(&self, class: u8, position: u64) -> Result<(), Poisoned> {
        let mut ready = SmallVec::<[Chain; 8]>::new();
        self.undrained.lock().retain_mut(|(of, at, chain)| {
            let covered = *of == class && *at <= position;
            if covered {
                ready.push(std::mem::take(chain));
            }
            !covered
        });
        ready.iter().try_for_each(|chain| self.clear(chain))
    }

    /// Puts a newer version of a claim in the place of `chain`, which is cleared once this file,
    /// as written by now, is durable; and requests that commit.
    pub fn replace(&self, chain: &mut Chain, newer: Chain) {
        let old = std::mem::replace(chain, newer);
        let mut obsolete = self.obsolete[CLASSES].lock();
        // Counted under the lock of the queue: a commit that covers this position finds the old
        // version in it, and one that has passed the queue already does not cover it.
        let position = self.touch();
        obsolete.push((position, old));
        drop(obsolete);
        chain.replaced_at = position;
        self.group.request(position);
    }

    /// `class` is durable up to `position`.
    pub fn class_durable(&self, class: u8, position: u64) -> Result<(), Poisoned> {
        self.class_drained(class, position)?;
        self.clear_obsolete(class as usize, position)
    }

    fn clear_obsolete(&self, queue: usize, durable: u64) -> Result<(), Poisoned> {
        let mut ready = SmallVec::<[Chain; 64]>::new();
        self.obsolete[queue].lock().retain_mut(|(position, chain)| {
            let covered = *position <= durable;
            if covered {
                ready.push(std::mem::take(chain));
            }
            !covered
        });
        ready.iter().try_for_each(|chain| self.clear(chain))
    }

    /// The position that covers everything written by now.
    pub fn position(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Notes that there is something to sync in time; returns whether there was nothing before.
    pub fn became_dirty(&self, now: u64) -> bool {
        // Against `commit`, which clears the time and then reads the position: either that sees the
        // change, which its caller has counted before, or this the cleared time. So each of the four
        // accesses is sequentially consistent.
        self.dirty_since.load(Ordering::SeqCst) == 0
            && self
                .dirty_since
                .compare_exchange(0, now.max(1), Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
    }

    /// Store time of the oldest change that no sync has covered.
    pub fn dirty_since(&self) -> Option<u64> {
        match self.dirty_since.load(Ordering::SeqCst) {
            0 => None,
            since => Some(since),
        }
    }

    /// Notes what is durable in a class.
    pub fn note_durable(&self, class: u8, life: u32, position: u64) -> Result<(), Poisoned> {
        let word = format::durable_word(self.store, life, class, position);
        let at = format::durable_at(class);
        self.store_word(at, word)?;
        // Not with the next claim only: if the process dies before that, nothing else shows that
        // the last records are more than a torn end.
        let written = self.medium.write_through(&*self.file, at, word);
        written.map_err(|error| self.poison.trip("noting what is durable", &error))
    }

    /// Notes the time. A caller that read the clock before another one does not set it back.
    pub fn note_time(&self, now: u64) -> Result<(), Poisoned> {
        if now <= self.noted_time.load(Ordering::Acquire) {
            return Ok(());
        }
        let _noting = self.noting.lock();
        if now <= self.noted_time.load(Ordering::Acquire) {
            return Ok(());
        }
        self.store_word(format::TIME_AT, format::time_word(self.store, now))?;
        self.noted_time.store(now, Ordering::Release);
        Ok(())
    }

    #[cfg(test)]
    fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.medium.region().len()];
        self.medium.region().load(0, &mut bytes);
        bytes
    }
}

impl Commit for Cells {
    fn commit(&self) -> Result<u64, Poisoned> {
        self.poison.check_writer()?;
        self.dirty_since.store(0, Ordering::SeqCst);
        let position = self.position();
        // What was queued up to there, the last commit has cleared; this one makes that durable.
        let settled = self.group.durable();
        let sync = || match broken::is(Broken::SkipClaimsSync) {
            true => Ok(()),
            false => self.file.sync(),
        };
        let started = self.timings.start();
        let synced = self.medium.flush(&*self.file).and_then(|()| sync());
        self.timings.end(Timed::ClaimsSync, started);
        synced.map_err(|e| self.poison.trip("syncing the claims file", &e))?;
        self.settled.fetch_max(settled, Ordering::AcqRel);
        self.clear_obsolete(CLASSES, position)?;
        Ok(position)
    }

    fn committed(&self, callers: usize, position: u64) {
        if callers > 0 {
            self.timings.size(Timed::GroupSize, callers);
        }
        events::committed(u8::MAX, callers, position);
    }

    fn broke_off(&self) {
        self.trip(&io::Error::other("it panicked"));
    }
}

fn place(cell: u32) -> usize {
    cell as usize * CELL_BYTES
}

#[cfg(test)]
mod tests;
