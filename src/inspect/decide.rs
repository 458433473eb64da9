//! The states of the keys that were read. The rules are those of an opening
//! ([`recover::decide`](crate::recover::decide)).

use super::{Inspection, Problem};
use crate::{
    claims::Found,
    key::{KeyRef, OwnedKey},
    location::Location,
    log::{FooterEntry, Frame},
    record::Reason,
    recover::decide::{self, Content, Outlived, Records},
    recover::segments::{Place, Segment},
};
use smallvec::SmallVec;
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
};

/// The state of the keys, without their records' bodies.
#[derive(Default)]
pub(crate) struct Decided {
    /// All records, by the hashes of their keys.
    pub records: Vec<(u64, Location)>,
    /// Those of them that a later record or a tombstone has replaced.
    pub hidden: HashSet<Location>,
    pub undecided: Vec<Undecided>,
    /// Live records of keys on which there is a later claim, too.
    pub twofold: Vec<(OwnedKey, Location)>,
    /// The answers of failed holders, by token, until their keys have them.
    answers: HashMap<u64, Arc<[u8]>>,
    /// Decisions that don't read back, so that their keys are unknown.
    pub lost: HashSet<Location>,
}

/// A key that is held or interrupted.
pub(crate) struct Undecided {
    pub found: Found,
    /// The answer that a failed holder left, and when.
    pub answer: Option<(Arc<[u8]>, u64)>,
}

impl Inspection {
    /// Reads a frame that the segments list.
    pub(super) fn frame(&self, location: Location) -> Content {
        let at = self.segments.binary_search_by_key(&location.slot(), |s| s.slot.number);
        let Ok(at) = at else { return Content::Gone };
        let segment = &self.segments[at];
        match segment.frame_at(location.offset()) {
            Ok(Place::Frame(frame)) => Content::Frame(frame),
            Ok(Place::Erased) => Content::Gone,
            _ if !segment.still_holds() => Content::Gone,
            Ok(Place::Damaged) => Content::Damaged("the record does not read back".into()),
            Err(error) => Content::Damaged(format!("the record cannot be read: {error}")),
        }
    }

    /// The locations of the records of this hash that count.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = Location> + '_ {
        let records = &self.decided.records;
        let from = records.partition_point(|(of, _)| *of < hash);
        let those = records[from..].iter().take_while(move |(of, _)| *of == hash);
        those.map(|(_, at)| *at).filter(|at| !self.decided.hidden.contains(at))
    }

    /// `only`: the keys of this hash.
    pub(super) fn decide(&mut self, mut claims: Vec<Found>, only: Option<u64>) {
        let wanted = |hash: u64| only.is_none_or(|only| only == hash);
        claims.retain(|found| wanted(self.hasher.hash(found.key.as_ref())));
        let listed = |segment: &Segment| {
            let slot = segment.slot.number;
            let place =
                |entry: &FooterEntry| (entry.kind, entry.hash, Location::new(slot, entry.offset));
            let entries = segment.entries().iter().filter(|entry| wanted(entry.hash));
            entries.map(place).collect::<Vec<_>>()
        };
        let listed: Vec<_> = self.segments.iter().flat_map(listed).collect();
        let records = listed.iter().filter(|(kind, ..)| kind.is_record());
        self.decided.records = records.map(|(_, hash, location)| (*hash, *location)).collect();
        self.decided.records.sort_unstable();
        self.hide_replaced();
        let Ok(decided) = decide::decide(self, listed.into_iter(), claims);
        let twofold = |it: &Outlived| (it.record.key().owned(), it.location);
        self.decided.twofold = decided.outlived.iter().map(twofold).collect();
        let answers = &mut self.decided.answers;
        let with_answer = |decide::Undecided { found, failure }| {
            let answer = answers.remove(&found.failed_as().get());
            Undecided { found, answer: answer.zip(failure.map(|failure| failure.at_ms)) }
        };
        self.decided.undecided = decided.undecided.into_iter().map(with_answer).collect();
    }

    /// Of several records of one key only one counts.
    fn hide_replaced(&mut self) {
        let records = std::mem::take(&mut self.decided.records);
        for group in records.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut newest: HashMap<OwnedKey, (Frame, Location)> = HashMap::new();
            for (_, location) in group {
                // A record that doesn't read stays, and is an error for its key.
                let Content::Frame(new) = self.frame(*location) else { continue };
                let key = new.key().owned();
                let replaced = match newest.get(&key) {
                    Some((known, _)) if !decide::replaces(&new, known) => Some(*location),
                    _ => newest.insert(key, (new, *location)).map(|(_, location)| location),
                };
                self.decided.hidden.extend(replaced);
            }
        }
        self.decided.records = records;
    }

    /// Whether a salvaged copy leaves out what is listed at this location: a decision that doesn't
    /// read, or a record that its key's claim has outlived. An opening removes the latter, and must
    /// read it for that; in the copy it need not be whole.
    pub(crate) fn is_left_out(&self, slot: u32, offset: u64) -> bool {
        let location = Location::new(slot, offset);
        let outlived = |(_, of): &(OwnedKey, Location)| *of == location;
        self.decided.lost.contains(&location) || self.decided.twofold.iter().any(outlived)
    }

    /// Whether this key is interrupted. A running store knows more of it than its files.
    pub(super) fn is_interrupted(&self, undecided: &Undecided) -> bool {
        self.interruption(undecided).is_some()
    }

    /// Why and since when an undecided key is interrupted; `None` if it is in flight as far as the
    /// files tell.
    pub(super) fn interruption(&self, undecided: &Undecided) -> Option<(Reason, u64)> {
        let Undecided { found, answer } = undecided;
        match (found.interrupted, answer) {
            // A running store has in its memory why a key is interrupted.
            (None, Some((_, at))) if self.owner.is_some() => Some((Reason::Failed, *at)),
            (None, None) if self.owner.is_some() => None,
            _ => Some(decide::interruption(found, answer.is_some(), self.now_ms)),
        }
    }
}

impl Records for Inspection {
    type Error = Infallible;

    fn hash(&self, key: KeyRef<'_>) -> u64 {
        self.hasher.hash(key)
    }

    fn candidates(&self, hash: u64) -> SmallVec<[Location; 4]> {
        Inspection::candidates(self, hash).collect()
    }

    fn is_recorded(&self, hash: u64) -> bool {
        Inspection::candidates(self, hash).next().is_some()
    }

    fn record(&self, location: Location) -> Result<Content, Infallible> {
        Ok(self.frame(location))
    }

    /// One that doesn't read is a problem.
    fn decision(&mut self, location: Location) -> Result<Option<Frame>, Infallible> {
        match self.frame(location) {
            Content::Frame(frame) => return Ok(Some(frame)),
            Content::Gone => {}
            Content::Damaged(_) => {
                let what = "a decision about a key does not read back";
                self.problems.push(Problem::at(location, what));
                self.decided.lost.insert(location);
            }
        }
        Ok(None)
    }

    fn failed(&mut self, failure: &Frame) {
        self.decided.answers.insert(failure.header.token, failure.body().into());
    }

    fn remove(&mut self, _: u64, location: Location) {
        self.decided.hidden.insert(location);
    }

    fn unreadable(
        &mut self,
        claim: Found,
        location: Location,
        what: String,
    ) -> Result<(), Infallible> {
        let what = format!("{what}; it may be that of an undecided claim");
        let key = Some(Box::new(claim.key));
        self.problems.push(Problem { key, ..Problem::at(location, what) });
        Ok(())
    }
}
