//! Reads the claims file and decides about its claims.

use super::{
    CLAIMS_FILE, read_file,
    records::{Decisions, Failure, Frames},
};
use crate::{
    broken::{self, Broken},
    claim::{Held, Phase},
    claims::{
        Cells, Found,
        format::{self, Header, HeaderError},
    },
    engine::Engine,
    engine::outlived,
    error::OpenError,
    group_commit::GroupCommit,
    index::{Answer, HeldTerms, Index, KEPT_IN_MEMORY, Undecided},
    key::OwnedKey,
    log::{Frame, file_name},
    observe::{Timings, events},
    options::Sizes,
    poison::{Poison, Poisoned},
    record::Reason,
    stats::Count,
    storage::{Storage, StorageFile, is_blank, is_failed_sync, is_no_room},
    superblock::Superblock,
    token::Token,
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

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
pub(super) struct ClaimsFile {
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

    /// The hashes of the keys of all claims.
    pub fn hashes(&self, index: &Index) -> HashSet<u64> {
        self.contents.claims.iter().map(|found| index.hash(found.key.as_ref())).collect()
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
    /// been written again. Says whether it has become larger. If there is no room, or the system
    /// refuses it for another reason, it stays as it was, which is reported. Not after a sync that
    /// failed, or a write of the header: then what the file holds is not known.
    pub fn grow(
        &mut self,
        storage: &dyn Storage,
        superblock: &Superblock,
        wanted: u32,
    ) -> io::Result<bool> {
        let (bytes, now) = (Cells::file_bytes(wanted), self.bytes.len() as u64);
        if bytes <= now {
            let fits = Cells::claims_in(now);
            if bytes < now {
                events::claims_kept(u64::from(wanted), fits);
            }
            return Ok(false);
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
                return Ok(false);
            }
        };
        Cells::count_all(&*file, superblock.store, bytes)?;
        file.expect_small_changes();
        self.file = file;
        self.contents.cells = (bytes / format::CELL_BYTES as u64) as u32;
        Ok(true)
    }

    /// Writes the whole file again and syncs it: what was only in the page cache, cleared cells
    /// included, is then on the disk. After that all cells that mean nothing any more are freed,
    /// and that is synced too: what is written from now on has no remains beside it that it could
    /// be taken together with. (Not in one step: what has replaced them, or decided them, must be
    /// on the disk before they go.)
    pub fn rewrite(&self, alive: &[Kept]) -> io::Result<()> {
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

/// An undecided key, to be taken into the new life.
pub(crate) struct Kept {
    found: Found,
    interrupted: (Reason, u64),
    failure: Option<Failure>,
}

/// The cells of the claims that stay.
fn cells_of(kept: &[Kept]) -> impl Iterator<Item = u32> {
    kept.iter().flat_map(|kept| kept.found.chain.cells.iter().copied())
}

/// The decisions about the claims.
pub(super) struct Decided {
    pub kept: Vec<Kept>,
    /// Records that have a later claim on their key beside them, and the tokens of those claims.
    pub outlived: Vec<(Frame, Token)>,
}

impl Engine {
    /// Which claims are still undecided: those whose key has neither a record nor another claim
    /// with a token as high. What they have outlived (the record of a key that was forgotten, or
    /// had expired, before they were granted) leaves the index.
    pub(super) fn decide_claims(
        &self,
        claims: &ClaimsFile,
        frames: &Frames<'_>,
        decisions: &mut Decisions,
    ) -> Result<Decided, OpenError> {
        let now = self.now();
        let mut outlived = Vec::new();
        let mut newest: HashMap<&OwnedKey, &Found> = HashMap::new();
        for found in &claims.contents.claims {
            let known = newest.entry(&found.key).or_insert(found);
            if (known.token < found.token) != broken::is(Broken::LowestTokenWins) {
                *known = found;
            }
        }
        let mut undecided = Vec::new();
        let mut newest: Vec<&Found> = newest.into_values().collect();
        newest.sort_unstable_by_key(|found| found.token);
        for found in newest {
            let recorded = match frames.highest_token(&self.index, found.key.as_ref())? {
                Ok(recorded) => recorded,
                // The damaged record may be this key's completion: with the claim gone, the key
                // answers that it is damaged.
                Err(_) if frames.salvage => continue,
                Err(location) => {
                    return Err(OpenError::Damaged {
                        file: file_name(location.slot()),
                        offset: location.offset(),
                        what: "a record that an undecided claim needs does not read back",
                    });
                }
            };
            // A tombstone under the token of a claim is for what came before it.
            let buried = decisions.buried.get(&found.key).copied();
            if recorded.is_some_and(|token| token >= found.token.get())
                || buried.is_some_and(|token| token > found.token.get())
            {
                continue;
            }
            outlived.extend(frames.outlive(&self.index, found)?);
            undecided.push(found);
        }
        let hash = |found: &&Found| (self.index.hash(found.key.as_ref()), found.failed_as().get());
        let mut failures = decisions.failures(frames, undecided.iter().map(hash))?;
        let kept = |found: &Found| {
            let failure = failures.remove(&found.failed_as().get());
            let interrupted = match (&failure, found.interrupted) {
                (_, Some(noted)) => noted,
                // Since when isn't known: the holder may have continued after it had failed, and
                // renewals are not written. From now, then, and noted below.
                (Some(_), None) => (Reason::Failed, now),
                (None, None) => (Reason::Crashed, now),
            };
            Kept { found: found.clone(), interrupted, failure }
        };
        Ok(Decided { kept: undecided.into_iter().map(kept).collect(), outlived })
    }

    /// Takes the undecided claims into the new life, all interrupted, and writes down since when.
    pub(super) fn adopt_claims(&self, kept: Vec<Kept>) -> Result<(), Poisoned> {
        let now = self.now();
        self.cells.adopt(cells_of(&kept))?;
        let mut expired = Vec::new();
        let mut in_memory = 0;
        for Kept { found, interrupted, failure } in kept {
            let (reason, at) = interrupted;
            let (noted, failed_as) = (found.interrupted.is_some(), found.failed_as());
            let hash = self.index.hash(found.key.as_ref());
            let lives = outlived::lives(self.id, found.token);
            let keep_ms = self.interrupted_ms(found.remember_ms);
            let until = if lives { u64::MAX } else { at.saturating_add(keep_ms) };
            let answer = failure
                .and_then(|failure| self.answer_found(failed_as, failure, until, &mut in_memory));
            let mut undecided = Undecided {
                hash,
                held: Held {
                    token: found.token,
                    fingerprint: found.fingerprint,
                    attempt: found.attempt,
                    started_ms: found.started_ms,
                    lease_ms: found.lease_ms,
                    phase: Phase::Interrupted { reason, at },
                    holder_lives: false,
                    history: found.history,
                },
                terms: HeldTerms {
                    replay_ms: found.replay_ms,
                    remember_ms: found.remember_ms,
                    // No more than today's options can promise.
                    reserve: found.reserve.min(self.config.max_response as u32),
                },
                key: found.key,
                chain: found.chain,
                // Never one that an earlier life has used.
                version: match broken::is(Broken::ReuseVersions) {
                    true => found.version,
                    false => found.used,
                },
                checkpoint: found.checkpoint,
                answer,
                adopted: false,
                earlier: false,
                before: None,
                unsure: Default::default(),
                exhausted: false,
                waiters: Default::default(),
                timer: None,
            };
            // A handle of it may have outlived the store that this process had open before.
            undecided.held.holder_lives = lives;
            if undecided.held.expired(now, self.interrupted_ms(undecided.terms.remember_ms)) {
                let token = Some(undecided.held.token);
                self.alarm(Count::InterruptedExpired, hash, undecided.key.as_ref(), token);
                expired.push(undecided.chain);
                continue;
            }
            if !noted {
                // Without a free cell the time of the interruption is that of the next opening;
                // nothing else is lost.
                if undecided.next_version()
                    && let Some(chain) = self.write_cells(&undecided)?
                {
                    self.cells.replace(&mut undecided.chain, chain);
                }
            }
            let mut shard = self.index.shard(hash);
            undecided.held.holder_lives = outlived::lives(self.id, undecided.held.token);
            if undecided.held.holder_lives {
                undecided.earlier = true;
                self.holders.begun(hash);
            }
            let at = shard.hold(undecided);
            self.rearm(&mut shard, at, now);
        }
        self.sync_claims()?;
        // The versions that they had replaced are gone from the disk.
        expired.iter().try_for_each(|chain| self.cells.clear(chain))?;
        self.sync_claims()
    }

    /// The answer of a failed holder whose key is kept `until` then. If the log has it for so long,
    /// it stays there; if not, because the key is kept from the opening on or by a living handle, it
    /// is kept in memory, as far as there is room; then it is known for as long as the log has it.
    fn answer_found(
        &self,
        token: Token,
        failure: Failure,
        until: u64,
        in_memory: &mut usize,
    ) -> Option<Answer> {
        let Failure { location, expires_ms, .. } = failure;
        if expires_ms < until {
            let frame = self.log.read(location)?;
            if *in_memory + frame.body().len() <= KEPT_IN_MEMORY {
                *in_memory += frame.body().len();
                return Some(Answer { token, bytes: Some(frame.body().into()), location: None });
            }
        }
        let there = (location, self.log.epoch(location.slot()));
        Some(Answer { token, bytes: None, location: Some(there) })
    }
}
