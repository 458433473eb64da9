//! Fills the index from what the segments list: all records, then what the tombstones take away.
//!
//! A record's place is listed with its hash, so it need not be read. Of tombstones and failures
//! only those are read that something depends on: a store that has been failing for weeks lists
//! millions of them.

use super::segments::Segment;
use crate::{
    broken::{self, Broken},
    error::OpenError,
    index::{Entry, Index, Shard, Sorted},
    key::{KeyRef, OwnedKey},
    limits::SHARDS,
    location::Location,
    log::{Frame, Kind, file_name},
    sync::thread,
    token::Token,
};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};

/// The log's decisions about keys that have no record in it.
#[derive(Default)]
pub(super) struct Decisions {
    /// The highest token of a tombstone, of keys that may have a claim.
    pub buried: HashMap<OwnedKey, u64>,
    /// The locations of failures with the hashes of claims.
    failures: Vec<(u64, Location)>,
    /// Locations that don't read, which only salvage passes over.
    pub damaged: u64,
}

/// By token: where the answer lies that a failed holder left, when it did, and until when the log
/// has it.
pub(super) type Failures = HashMap<u64, Failure>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub location: Location,
    at: u64,
    pub expires_ms: u64,
}

impl Decisions {
    fn buries(&mut self, frame: &Frame) {
        let token = self.buried.entry(frame.key().owned()).or_insert(0);
        *token = frame.header.token.max(*token);
    }

    /// The answers of failed holders, for those of these claims (by hash and token) that have
    /// failed. Other failures are not read: their keys are decided.
    pub fn failures(
        &mut self,
        frames: &Frames<'_>,
        claims: impl Iterator<Item = (u64, u64)>,
    ) -> Result<Failures, OpenError> {
        let claims: HashSet<(u64, u64)> = claims.collect();
        let hashes: HashSet<u64> = claims.iter().map(|(hash, _)| *hash).collect();
        let mut failures = Failures::new();
        for (hash, location) in std::mem::take(&mut self.failures) {
            if !hashes.contains(&hash) {
                continue;
            }
            let Some(frame) = frames.decision(location, &mut self.damaged)? else { continue };
            let (token, at) = (frame.header.token, frame.header.time_ms);
            // A holder may have failed, continued, and failed again: the last answer counts.
            let known = failures.get(&token).is_some_and(|known| known.at > at);
            if claims.contains(&(hash, token)) && !known {
                let expires_ms = frame.header.expires_ms;
                failures.insert(token, Failure { location, at, expires_ms });
            }
        }
        Ok(failures)
    }
}

/// The frames of all segments, before the log is there to read them.
pub(super) struct Frames<'a> {
    pub segments: &'a [Segment],
    pub salvage: bool,
}

impl Frames<'_> {
    /// Slots are numbered without gaps, unless salvaging.
    fn segment_of(&self, location: Location) -> Option<&Segment> {
        let at = self.segments.binary_search_by_key(&location.slot(), |s| s.slot.number);
        at.ok().map(|at| &self.segments[at])
    }

    /// The hash that is listed for this location.
    fn hash_at(&self, location: Location) -> Option<u64> {
        let entries = self.segment_of(location)?.entries();
        let at = entries.binary_search_by_key(&location.offset(), |entry| entry.offset);
        at.ok().map(|at| entries[at].hash)
    }

    /// `None` if it is damaged. A read that fails is not taken for that: what can't be read now may
    /// be there the next time, and a tombstone would have killed it. Salvage takes what it can get.
    pub fn at(&self, location: Location) -> Result<Option<Frame>, OpenError> {
        let Some(segment) = self.segment_of(location) else { return Ok(None) };
        match segment.frame_at(location.offset()) {
            Err(_) if self.salvage => Ok(None),
            Err(error) => {
                Err(OpenError::io(format!("reading {}", file_name(location.slot())))(error))
            }
            Ok(frame) => Ok(frame),
        }
    }

    /// A tombstone or a failure that something depends on. One that is damaged has been promised:
    /// only salvage passes it over, and counts it.
    fn decision(&self, location: Location, damaged: &mut u64) -> Result<Option<Frame>, OpenError> {
        let frame = self.at(location)?;
        if frame.is_none() && !self.salvage {
            return Err(OpenError::Damaged {
                file: file_name(location.slot()),
                offset: location.offset(),
                what: "a decision about a key does not read back",
            });
        }
        *damaged += u64::from(frame.is_none());
        Ok(frame)
    }

    /// Whether the index has a record of this hash. Reads nothing.
    fn is_recorded(&self, index: &Index, hash: u64) -> bool {
        // An entry keeps a part of its hash; the list has the rest.
        let shard = index.shard(hash);
        let mut candidates = shard.candidates(hash);
        candidates.any(|location| self.hash_at(location) == Some(hash))
    }

    /// The highest token of a record of this key; or the location of damage that may be one.
    pub fn highest_token(
        &self,
        index: &Index,
        key: KeyRef<'_>,
    ) -> Result<Result<Option<u64>, Location>, OpenError> {
        let hash = index.hash(key);
        let mut highest = None;
        for location in index.shard(hash).candidates(hash) {
            let Some(frame) = self.at(location)? else {
                return Ok(Err(location));
            };
            if frame.key() == key {
                highest = highest.max(Some(frame.header.token));
            }
        }
        Ok(Ok(highest))
    }

    /// Takes the records out of the index that a claim has outlived, and returns those of them that
    /// had not expired by themselves when it was granted.
    pub fn outlive(
        &self,
        index: &Index,
        claim: &crate::claims::Found,
    ) -> Result<Vec<(Frame, Token)>, OpenError> {
        let hash = index.hash(claim.key.as_ref());
        let mut shard = index.shard(hash);
        let candidates: SmallVec<[_; 4]> = shard.candidates(hash).collect();
        let mut outlived = Vec::new();
        for location in candidates {
            let Some(frame) = self.at(location)? else { continue };
            if frame.key() != claim.key.as_ref() || frame.header.token >= claim.token.get() {
                continue;
            }
            shard.remove(hash, location);
            if frame.header.expires_ms > claim.started_ms {
                outlived.push((frame, claim.token));
            }
        }
        Ok(outlived)
    }

    fn listed(&self) -> impl Iterator<Item = (Kind, u64, Location)> + Clone {
        self.segments.iter().flat_map(|segment| {
            let slot = segment.slot.number;
            let entries = segment.entries().iter();
            entries.map(move |e| (e.kind, e.hash, Location::new(slot, e.offset)))
        })
    }

    fn records(&self) -> impl Iterator<Item = (u64, Location)> + Clone {
        self.listed().filter(|(kind, ..)| kind.is_record()).map(|(_, hash, at)| (hash, at))
    }
}

/// `claimed`: the hashes of all keys that have a claim.
pub(super) fn index(
    index: &mut Index,
    frames: &Frames<'_>,
    claimed: &HashSet<u64>,
) -> Result<Decisions, OpenError> {
    let share = SHARDS.div_ceil(super::threads());
    let mut shards: Vec<&mut Shard> = index.shards_mut().collect();
    thread::scope(|scope| {
        let shares = shards.chunks_mut(share).enumerate();
        let shares: Vec<_> = shares
            .map(|(nth, shards)| scope.spawn(move || index_records(shards, nth * share, frames)))
            .collect();
        let joined = shares.into_iter().map(|share| share.join().expect("indexing doesn't panic"));
        joined.collect::<Result<(), OpenError>>()
    })?;

    let mut decisions = Decisions::default();
    for (kind, hash, location) in frames.listed() {
        match kind {
            Kind::Failed if claimed.contains(&hash) => decisions.failures.push((hash, location)),
            Kind::Tombstone if claimed.contains(&hash) || frames.is_recorded(index, hash) => {
                if let Some(frame) = frames.decision(location, &mut decisions.damaged)? {
                    bury(index, frames, &frame)?;
                    decisions.buries(&frame);
                }
            }
            _ => {}
        }
    }
    Ok(decisions)
}

/// Adds the records of some shards, of which `first` is the first, shard by shard: a table's memory
/// is fetched once. It gets its size at once, because growing step by step would cost as much again
/// as filling it.
fn index_records(
    shards: &mut [&mut Shard],
    first: usize,
    frames: &Frames<'_>,
) -> Result<(), OpenError> {
    let sorted = Sorted::new(first..first + shards.len(), frames.records());
    for (shard, entries) in shards.iter_mut().zip(sorted.shards()) {
        shard.reserve(entries.len());
        entries.iter().try_for_each(|entry| index_record(shard, frames, *entry))?;
    }
    Ok(())
}

/// Adds a record. Of two of one key the higher token stays.
fn index_record(shard: &mut Shard, frames: &Frames<'_>, entry: Entry) -> Result<(), OpenError> {
    let location = entry.location();
    let others: SmallVec<[_; 4]> = shard.like(entry).collect();
    for other in others {
        // Nearly always there is none. An entry keeps a part of its hash, so among millions
        // thousands look alike; the listed hashes distinguish them without reading the records.
        if frames.hash_at(location) != frames.hash_at(other) {
            continue;
        }
        // Damaged ones are kept, and answer for themselves.
        let (Some(new), Some(old)) = (frames.at(location)?, frames.at(other)?) else {
            continue;
        };
        if new.key() != old.key() {
            continue;
        }
        if (new.header.token < old.header.token) != broken::is(Broken::LowestTokenWins) {
            return Ok(());
        }
        shard.remove_entry(entry.at(other));
    }
    shard.insert_entry(entry);
    Ok(())
}

/// Removes the records that a tombstone kills.
fn bury(index: &Index, frames: &Frames<'_>, tombstone: &Frame) -> Result<(), OpenError> {
    let hash = index.hash(tombstone.key());
    let mut shard = index.shard(hash);
    let all: SmallVec<[_; 4]> = shard.candidates(hash).collect();
    for location in all {
        let killed = frames.at(location)?.is_some_and(|frame| {
            frame.key() == tombstone.key() && frame.header.token < tombstone.header.token
        });
        if killed {
            shard.remove(hash, location);
        }
    }
    Ok(())
}
