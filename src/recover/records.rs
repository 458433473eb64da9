//! Fills the index from what the segments list: all records, then what tombstones and later claims
//! take away.
//!
//! A record's place is listed with its hash, so it need not be read.

use super::{
    decide::{self, Content, Decided, Records},
    segments::{Place, Segment},
};
use crate::{
    claims::Found,
    error::OpenError,
    index::{Entry, Index, Shard, Sorted},
    key::KeyRef,
    limits::SHARDS,
    location::Location,
    log::{Frame, Kind, file_name},
    sync::thread,
};
use smallvec::SmallVec;

/// The frames of all segments, before the log is there to read them.
#[derive(Clone, Copy)]
struct Frames<'a> {
    segments: &'a [Segment],
    salvage: bool,
}

impl<'a> Frames<'a> {
    /// Slots are numbered without gaps, unless salvaging.
    fn segment_of(&self, location: Location) -> Option<&'a Segment> {
        let at = self.segments.binary_search_by_key(&location.slot(), |s| s.slot.number);
        at.ok().map(|at| &self.segments[at])
    }

    /// The hash that is listed for this location.
    fn hash_at(&self, location: Location) -> Option<u64> {
        let entries = self.segment_of(location)?.entries();
        let at = entries.binary_search_by_key(&location.offset(), |entry| entry.offset);
        at.ok().map(|at| entries[at].hash)
    }

    /// A read that fails is not taken for that: what can't be read now may
    /// be there the next time, and a tombstone would have killed it. Salvage takes what it can get.
    fn at(&self, location: Location) -> Result<Place, OpenError> {
        let Some(segment) = self.segment_of(location) else { return Ok(Place::Damaged) };
        match segment.frame_at(location.offset()) {
            Err(_) if self.salvage => Ok(Place::Damaged),
            Err(error) => {
                Err(OpenError::io(format!("reading {}", file_name(location.slot())))(error))
            }
            Ok(place) => Ok(place),
        }
    }

    fn listed(&self) -> impl Iterator<Item = (Kind, u64, Location)> + Clone + use<'a> {
        self.segments.iter().flat_map(|segment| {
            let slot = segment.slot.number;
            let entries = segment.entries().iter();
            entries.map(move |e| (e.kind, e.hash, Location::new(slot, e.offset)))
        })
    }

    fn records(&self) -> impl Iterator<Item = (u64, Location)> + Clone + use<'a> {
        self.listed().filter(|(kind, ..)| kind.is_record()).map(|(_, hash, at)| (hash, at))
    }
}

/// The records of the index, and what it takes to decide about their keys.
struct Indexed<'a> {
    index: &'a Index,
    frames: Frames<'a>,
    damaged: u64,
}

impl Records for Indexed<'_> {
    type Error = OpenError;

    fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.index.hash(key)
    }

    fn candidates(&self, hash: u64) -> SmallVec<[Location; 4]> {
        self.index.shard(hash).candidates(hash).collect()
    }

    fn is_recorded(&self, hash: u64) -> bool {
        // An entry keeps a part of its hash; the list has the rest.
        let candidates = self.candidates(hash);
        candidates.into_iter().any(|location| self.frames.hash_at(location) == Some(hash))
    }

    fn record(&self, location: Location) -> Result<Content, OpenError> {
        Ok(match self.frames.at(location)? {
            Place::Frame(frame) => Content::Frame(frame),
            Place::Erased => Content::Gone,
            Place::Damaged => Content::Damaged(String::new()),
        })
    }

    /// One that is damaged has been promised: only salvage passes it over, and counts it.
    fn decision(&mut self, location: Location) -> Result<Option<Frame>, OpenError> {
        match self.frames.at(location)? {
            Place::Frame(frame) => return Ok(Some(frame)),
            Place::Erased => {}
            Place::Damaged if self.frames.salvage => self.damaged += 1,
            Place::Damaged => {
                return Err(damaged(location, "a decision about a key does not read back"));
            }
        }
        Ok(None)
    }

    fn remove(&mut self, hash: u64, location: Location) {
        self.index.shard(hash).remove(hash, location);
    }

    fn unreadable(&mut self, _: Found, location: Location, _: String) -> Result<(), OpenError> {
        if self.frames.salvage {
            // Its key answers that it is damaged, until that record expires; then it is absent.
            self.damaged += 1;
            return Ok(());
        }
        Err(damaged(location, "a record that an undecided claim needs does not read back"))
    }
}

fn damaged(location: Location, what: &'static str) -> OpenError {
    OpenError::Damaged { file: file_name(location.slot()), offset: location.offset(), what }
}

/// Fills the index, and decides about the claims. Also returns how many decisions don't read, and how
/// many claims are passed over because of records that don't: only salvage does so.
pub(super) fn index(
    index: &mut Index,
    segments: &[Segment],
    claims: Vec<Found>,
    salvage: bool,
) -> Result<(Decided, u64), OpenError> {
    let frames = Frames { segments, salvage };
    index_all(index, &frames)?;
    let mut records = Indexed { index, frames, damaged: 0 };
    let decided = decide::decide(&mut records, frames.listed(), claims)?;
    Ok((decided, records.damaged))
}

fn index_all(index: &mut Index, frames: &Frames<'_>) -> Result<(), OpenError> {
    let listed: usize = frames.segments.iter().map(|segment| segment.entries().len()).sum();
    let threads = super::threads(listed as u64, 1000);
    let mut shards: Vec<&mut Shard> = index.shards_mut().collect();
    if threads == 1 {
        return index_records(&mut shards, 0, frames);
    }
    let share = SHARDS.div_ceil(threads);
    thread::scope(|scope| {
        let shares = shards.chunks_mut(share).enumerate();
        let shares: Vec<_> = shares
            .map(|(nth, shards)| scope.spawn(move || index_records(shards, nth * share, frames)))
            .collect();
        let joined = shares.into_iter().map(|share| share.join().expect("indexing doesn't panic"));
        joined.collect()
    })
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
        // Damaged ones are kept, and answer for themselves. So are erased ones: they are passed over.
        let (Some(new), Some(old)) = (frames.at(location)?.frame(), frames.at(other)?.frame())
        else {
            continue;
        };
        if new.key() != old.key() {
            continue;
        }
        if !decide::replaces(&new, &old) {
            return Ok(());
        }
        shard.remove_entry(entry.at(other));
    }
    shard.insert_entry(entry);
    Ok(())
}
