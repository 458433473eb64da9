//! The files of the decisions: entries one after the other, each with a checksum that is seeded by
//! the one before. So nothing that stands behind a torn entry is taken for one that follows it.
//!
//! ```text
//! file:   "onlyonce decisions 1" and zeros, 24 bytes | store u64 | entries | zeros
//! entry:  length u32 | checksum u32 | bytes
//! ```
//!
//! A file is removed when its youngest entry has been kept long enough. One that has an entry has a
//! durable name: none is appended before.

use super::{
    Decision, Outcome,
    format::{self, Entry},
};
use crate::{
    error::{Full, StoreError},
    poison::Poison,
    storage::{Storage, StorageFile, is_failed_sync, is_no_room, is_zero},
    sync::Mutex,
};
use std::{collections::HashSet, io, sync::Arc};

const MAGIC: &[u8; 24] = b"onlyonce decisions 1\0\0\0\0";
const HEADER: usize = 32;
/// A file is not smaller.
const FILE_BYTES: u64 = 256 << 10;
const PREFIX: &str = "decisions-";

/// The end of what is written.
#[derive(Default)]
struct Tail {
    /// Whether the files of earlier lives have been looked at.
    known: bool,
    file: Option<Open>,
    /// The number of the last file and of the last decision.
    last_file: u32,
    last: u64,
    /// The youngest entry of each file that was written before, by its number.
    earlier: Vec<(u32, u64)>,
    /// The files may be another owner's by now.
    closed: bool,
}

struct Open {
    file: Arc<dyn StorageFile>,
    at: u64,
    chain: u32,
    youngest_ms: u64,
}

/// The decisions of one store.
#[derive(Default)]
pub(crate) struct Journal {
    tail: Mutex<Tail>,
    /// One sync at a time; those that wait for it are covered by the next.
    syncing: Mutex<(u32, u64)>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journal")
    }
}

/// What the journal writes with.
pub(crate) struct Pen<'a> {
    pub storage: &'a dyn Storage,
    pub poison: &'a Poison,
    pub store: u64,
    pub now_ms: u64,
    pub kept_ms: u64,
}

impl Pen<'_> {
    fn failed(&self, doing: &str, error: &io::Error) -> StoreError {
        if is_no_room(error) && !is_failed_sync(error) {
            return StoreError::StoreFull(Full::Disk);
        }
        self.poison.trip(doing, error).into()
    }
}

impl Journal {
    /// Notes a decision durably, before it is carried out. Returns its number.
    pub fn note(&self, pen: &Pen<'_>, mut decision: Decision) -> Result<u64, StoreError> {
        let (place, number) = {
            let mut tail = self.tail.lock();
            tail.know(pen)?;
            decision.number = tail.last + 1;
            let at = tail.append(pen, &format::noted(&decision), decision.at_ms)?;
            tail.last = decision.number;
            (at, decision.number)
        };
        let mut synced = self.syncing.lock();
        if *synced >= place {
            return Ok(number);
        }
        let (file, now) = {
            let tail = self.tail.lock();
            let open = tail.file.as_ref().ok_or(StoreError::Closed)?;
            (open.file.clone(), (tail.last_file, open.at))
        };
        if now.0 == place.0 {
            file.sync().map_err(|error| pen.failed("syncing a decision", &error))?;
        }
        // A file is synced before there is a next one.
        *synced = now;
        Ok(number)
    }

    /// Takes in a decision of another store, with its outcome and its time.
    pub fn adopt(&self, pen: &Pen<'_>, decision: Decision) -> Result<(), StoreError> {
        let outcome = decision.outcome.clone();
        let number = self.note(pen, decision)?;
        if outcome != Outcome::Unknown {
            self.ended(pen, number, &outcome);
        }
        Ok(())
    }

    /// Adds the outcome. It is in the kernel's hands when this returns; that it can't be written
    /// leaves it unknown.
    pub fn ended(&self, pen: &Pen<'_>, number: u64, outcome: &Outcome) {
        let mut tail = self.tail.lock();
        let _ = tail.append(pen, &format::outcome(number, outcome), pen.now_ms);
    }

    /// Forgets what was decided about the keys of a scope, and overwrites it; returns how many
    /// decisions that were. All others are written to new files first, durably, in their order; then
    /// the files of before are overwritten with zeros, and removed. A crash in between leaves some
    /// decisions in two files, and a reader takes each once.
    pub fn erase(&self, pen: &Pen<'_>, scope: &[u8]) -> Result<u64, StoreError> {
        let mut synced = self.syncing.lock();
        let mut tail = self.tail.lock();
        if tail.closed {
            return Err(StoreError::Closed);
        }
        tail.know(pen)?;
        let unavailable = |error: io::Error| StoreError::Unavailable { what: error.to_string() };
        let mut old = Vec::new();
        let (mut kept, mut seen, mut erased) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut torn = false;
        // (One above the last has no entry, and is made again.)
        let files = files(pen.storage).map_err(unavailable)?;
        for (_, name) in files.into_iter().filter(|(number, _)| *number <= tail.last_file) {
            let file = pen.storage.open(&name).map_err(unavailable)?;
            let mut bytes = vec![0; file.size() as usize];
            file.read_at(0, &mut bytes).map_err(unavailable)?;
            let end = scan(&*file, pen.store, |entry| match entry {
                Entry::Noted(decision) if seen.insert((decision.number, false)) => {
                    let bytes = match decision.key.scope() == scope {
                        true => format::erased(decision.number),
                        false => format::noted(&decision),
                    };
                    if decision.key.scope() == scope {
                        erased.insert(decision.number);
                    }
                    kept.push((decision.number, bytes, decision.at_ms));
                }
                Entry::Outcome(number, outcome)
                    if seen.insert((number, true)) && !erased.contains(&number) =>
                {
                    kept.push((number, format::outcome(number, &outcome), 0));
                }
                Entry::Erased(number) if seen.insert((number, false)) => {
                    kept.push((number, format::erased(number), 0));
                }
                _ => {}
            });
            let end = end.map_err(unavailable)?.map_or(0, |(at, _)| at);
            torn |= !is_zero(&bytes[end as usize..]);
            old.push((name, file));
        }
        if erased.is_empty() && !torn {
            return Ok(0);
        }
        // Where an erasure was interrupted they are not in their order; each before its outcome.
        kept.sort_by_key(|(number, ..)| *number);
        let mut written = || {
            tail.rewrite(pen, &kept)?;
            // Overwritten first: whatever has their bytes is gone before their names are.
            for (name, file) in &old {
                let zeros = vec![0; file.size() as usize];
                let blank = file.write_at(0, &zeros).and_then(|()| file.sync());
                blank.map_err(|error| pen.failed("overwriting decisions", &error))?;
                pen.storage.remove(name).map_err(unavailable)?;
            }
            let synced = pen.storage.sync_dir();
            synced.map_err(|error| pen.failed("syncing the directory", &error))
        };
        let done = written();
        match &tail.file {
            Some(open) if done.is_ok() => *synced = (tail.last_file, open.at),
            // The next call looks at what there is.
            _ => *tail = Tail { closed: tail.closed, ..Tail::default() },
        }
        done.map(|()| erased.len() as u64)
    }

    /// Writes nothing any more, and makes the outcomes durable as well as it can.
    pub fn close(&self) {
        let mut tail = self.tail.lock();
        tail.closed = true;
        if let Some(open) = tail.file.take() {
            let _ = open.file.sync();
        }
    }
}

impl Tail {
    /// Looks at what earlier lives have left.
    fn know(&mut self, pen: &Pen<'_>) -> Result<(), StoreError> {
        if self.known {
            return Ok(());
        }
        let unavailable = |error: io::Error| StoreError::Unavailable { what: error.to_string() };
        for (number, name) in files(pen.storage).map_err(unavailable)? {
            let file = pen.storage.open(&name).map_err(unavailable)?;
            let mut youngest_ms = 0;
            let end = scan(&*file, pen.store, |entry| match &entry {
                Entry::Noted(decision) => {
                    youngest_ms = youngest_ms.max(decision.at_ms);
                    self.last = self.last.max(decision.number);
                }
                Entry::Erased(number) => self.last = self.last.max(*number),
                Entry::Outcome(..) => {}
            });
            let end = end.map_err(unavailable)?;
            if let Some(Open { youngest_ms, .. }) = self.file.take() {
                self.earlier.push((self.last_file, youngest_ms));
            }
            self.last_file = number;
            match end {
                Some((at, chain)) => self.file = Some(Open { file, at, chain, youngest_ms }),
                // Not a file of this store's, or torn as it was made.
                None => self.earlier.push((number, pen.now_ms)),
            }
        }
        if let Some(open) = &self.file
            && open.at == HEADER as u64
        {
            // The life that made it may have ended before its name was durable: it is made again.
            (self.file, self.last_file) = (None, self.last_file.saturating_sub(1));
        }
        if let Some(open) = &self.file {
            // It may be in the page cache alone, after a sync that failed. What is appended counts
            // only behind it: both are covered by the next sync.
            let mut bytes = vec![0; open.at as usize];
            open.file.read_at(0, &mut bytes).map_err(unavailable)?;
            let written = open.file.write_at(0, &bytes);
            written.map_err(|error| pen.failed("writing decisions again", &error))?;
        }
        self.known = true;
        Ok(())
    }

    /// Appends an entry; returns where it ends.
    fn append(
        &mut self,
        pen: &Pen<'_>,
        bytes: &[u8],
        at_ms: u64,
    ) -> Result<(u32, u64), StoreError> {
        pen.poison.check_writer()?;
        if self.closed {
            return Err(StoreError::Closed);
        }
        let len = bytes.len() as u64 + 8;
        let room = |open: &Open| open.at + len <= open.file.size();
        if !self.file.as_ref().is_some_and(room) {
            self.next_file(pen, len)?;
        }
        let open = self.file.as_mut().expect("just made");
        let sum = checksum(open.chain, bytes);
        let mut entry = Vec::with_capacity(len as usize);
        entry.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        entry.extend_from_slice(&sum.to_le_bytes());
        entry.extend_from_slice(bytes);
        let written = open.file.write_at(open.at, &entry);
        written.map_err(|error| pen.failed("writing a decision", &error))?;
        (open.at, open.chain) = (open.at + len, sum);
        open.youngest_ms = open.youngest_ms.max(at_ms);
        Ok((self.last_file, open.at))
    }

    /// Writes all entries to new files, durably.
    fn rewrite(
        &mut self,
        pen: &Pen<'_>,
        entries: &[(u64, Vec<u8>, u64)],
    ) -> Result<(), StoreError> {
        if let Some(open) = self.file.take() {
            open.file.sync().map_err(|error| pen.failed("syncing decisions", &error))?;
        }
        self.earlier.clear();
        for (_, bytes, at_ms) in entries {
            self.append(pen, bytes, *at_ms)?;
        }
        let Some(open) = &self.file else { return Ok(()) };
        open.file.sync().map_err(|error| pen.failed("syncing decisions", &error))
    }

    /// Begins a file in which `len` bytes have room, and removes those that have been kept long
    /// enough.
    fn next_file(&mut self, pen: &Pen<'_>, len: u64) -> Result<(), StoreError> {
        if let Some(open) = &self.file {
            open.file.sync().map_err(|error| pen.failed("syncing decisions", &error))?;
        }
        let number = self.last_file + 1;
        let name = format!("{PREFIX}{number:06}");
        let bytes = (len + HEADER as u64).max(FILE_BYTES).next_multiple_of(4096);
        let header = header(pen.store);
        let made = pen.storage.create(&name, bytes).and_then(|file| {
            file.write_at(0, &header)?;
            Ok(file)
        });
        let file = made.map_err(|error| match is_no_room(&error) {
            true => StoreError::StoreFull(Full::Disk),
            false => StoreError::Unavailable { what: format!("creating {name}: {error}") },
        })?;
        file.sync().map_err(|error| pen.failed("syncing a file of decisions", &error))?;
        if let Some(Open { youngest_ms, .. }) = self.file.take() {
            self.earlier.push((self.last_file, youngest_ms));
        }
        let old = |youngest_ms: u64| youngest_ms.saturating_add(pen.kept_ms) <= pen.now_ms;
        self.earlier.retain(|(number, youngest_ms)| {
            let removed =
                old(*youngest_ms) && pen.storage.remove(&format!("{PREFIX}{number:06}")).is_ok();
            !removed
        });
        pen.storage.sync_dir().map_err(|error| pen.failed("syncing the directory", &error))?;
        let chain = checksum(0, &header);
        self.last_file = number;
        self.file = Some(Open { file, at: HEADER as u64, chain, youngest_ms: 0 });
        Ok(())
    }
}

fn checksum(chain: u32, bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(chain);
    sum.update(bytes);
    sum.finalize()
}

fn header(store: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..24].copy_from_slice(MAGIC);
    header[24..].copy_from_slice(&store.to_le_bytes());
    header
}

/// The files of decisions in a directory, in their order.
pub(crate) fn files(storage: &dyn Storage) -> io::Result<Vec<(u32, String)>> {
    let mut files: Vec<(u32, String)> = Vec::new();
    for name in storage.list()? {
        let number = name.strip_prefix(PREFIX).and_then(|digits| digits.parse().ok());
        files.extend(number.map(|number| (number, name)));
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads the entries of a file, up to the first that isn't whole; returns where they end, and the
/// checksum that seeds the next. `None` if it is no file of this store's decisions.
fn scan(
    file: &dyn StorageFile,
    store: u64,
    mut each: impl FnMut(Entry),
) -> io::Result<Option<(u64, u32)>> {
    let mut bytes = vec![0; file.size() as usize];
    file.read_at(0, &mut bytes)?;
    let header = header(store);
    if !bytes.starts_with(&header) {
        return Ok(None);
    }
    let (mut at, mut chain) = (HEADER, checksum(0, &header));
    while let Some((entry, sum)) = framed(&bytes, at).filter(|(e, sum)| checksum(chain, e) == *sum)
    {
        // A kind of a later version is passed over.
        if let Some(entry) = format::read(entry) {
            each(entry);
        }
        (at, chain) = (at + 8 + entry.len(), sum);
    }
    Ok(Some((at as u64, chain)))
}

/// The entry at `at`, whether or not it is whole, and the checksum that it should have.
fn framed(bytes: &[u8], at: usize) -> Option<(&[u8], u32)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (len, sum) = (word(at).filter(|len| *len > 0)?, word(at + 4)?);
    Some((bytes.get(at + 8..)?.get(..len as usize)?, sum))
}

/// What a verification finds.
#[derive(Default)]
pub(crate) struct Checked {
    /// Decisions that read back.
    pub decisions: u64,
    /// Where, and what is wrong there.
    pub problems: Vec<(String, u64, String)>,
}

/// Reads all files of decisions. What a loss of power can have torn, the end of what was written and
/// not yet synced, is no problem. What was synced and doesn't read back is: decisions are numbered
/// without gaps, and an outcome is written only after its decision, and all that stands before that,
/// has been synced.
pub(crate) fn check(storage: &dyn Storage, store: u64) -> io::Result<Checked> {
    let (mut checked, mut last, mut seen) = (Checked::default(), None, HashSet::new());
    for (_, name) in files(storage)? {
        let mut missing = 0;
        let read = storage.open(&name).and_then(|file| {
            let end = scan(&*file, store, |entry| {
                let number = match &entry {
                    Entry::Noted(decision) => decision.number,
                    Entry::Erased(number) => *number,
                    Entry::Outcome(..) => return,
                };
                missing += last.map_or(0, |last: u64| number.saturating_sub(last + 1));
                // An erasure that was interrupted has left some twice.
                let again = !seen.insert(number);
                checked.decisions += u64::from(!again && matches!(entry, Entry::Noted(_)));
                last = Some(number);
            })?;
            let mut bytes = vec![0; file.size() as usize];
            file.read_at(0, &mut bytes)?;
            Ok((end.map(|(at, _)| at), bytes))
        });
        let (end, bytes) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                checked.problems.push((name, 0, format!("the disk cannot read this: {error}")));
                continue;
            }
        };
        if missing > 0 {
            let what = format!("{missing} of operators' decisions before these don't read back");
            checked.problems.push((name.clone(), HEADER as u64, what));
        }
        let Some(end) = end else { continue };
        if is_synced_behind(&bytes, end as usize, last) {
            let what = "an operator's decision does not read back, and those behind it";
            checked.problems.push((name, end, what.into()));
        }
    }
    Ok(checked)
}

/// Whether there are whole entries behind one that isn't, which was synced before they were written.
fn is_synced_behind(bytes: &[u8], end: usize, last: Option<u64>) -> bool {
    let Some((torn, sum)) = framed(bytes, end) else { return false };
    let (mut at, mut chain) = (end + 8 + torn.len(), sum);
    while let Some((entry, sum)) = framed(bytes, at).filter(|(e, sum)| checksum(chain, e) == *sum) {
        if let Some(Entry::Outcome(number, _)) = format::read(entry)
            && last.is_none_or(|last| number > last)
        {
            return true;
        }
        (at, chain) = (at + 8 + entry.len(), sum);
    }
    false
}

/// All decisions of a store that were taken after `since_ms`, oldest first. Reads the files as they
/// are, also of a store that is open elsewhere.
pub(crate) fn read_all(
    storage: &dyn Storage,
    store: u64,
    since_ms: u64,
) -> io::Result<Vec<Decision>> {
    let mut decisions: Vec<Decision> = Vec::new();
    let mut seen = HashSet::new();
    for (_, name) in files(storage)? {
        let file = match storage.open(&name) {
            // Removed since it was listed: it had been kept long enough.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        scan(&*file, store, |entry| match entry {
            // An erasure that was interrupted has left some twice.
            Entry::Noted(decision) if seen.insert(decision.number) => decisions.push(*decision),
            Entry::Noted(_) | Entry::Erased(_) => {}
            Entry::Outcome(number, outcome) => {
                // An outcome comes soon after its decision.
                let known = decisions.iter_mut().rev().find(|known| known.number == number);
                if let Some(known) = known {
                    known.outcome = outcome;
                }
            }
        })?;
    }
    decisions.retain(|decision| decision.at_ms > since_ms);
    decisions.sort_by_key(|decision| decision.number);
    Ok(decisions)
}
