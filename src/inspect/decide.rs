//! What the records and claims that were read make of their keys. The rules are those of
//! recovery: the highest token of a key wins.

use super::{Inspection, Problem};
use crate::{
    claims::Found,
    key::{KeyRef, OwnedKey},
    location::Location,
    log::{Frame, Kind},
    record::Reason,
};
use std::{
    collections::{HashMap, HashSet},
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
    /// Decisions that don't read back, so that their keys are unknown.
    pub lost: HashSet<Location>,
}

/// A key that is held or interrupted.
pub(crate) struct Undecided {
    pub found: Found,
    /// The answer that a failed holder left, and when.
    pub answer: Option<(Arc<[u8]>, u64)>,
}

/// The content of a location.
pub(super) enum Lies {
    Here(Frame),
    /// The segment has been used again since: what was there had expired.
    Gone,
    Damaged(String),
}

impl Inspection {
    /// Reads a frame that the segments list.
    pub(super) fn frame(&self, location: Location) -> Lies {
        let at = self.segments.binary_search_by_key(&location.slot(), |s| s.slot.number);
        let Ok(at) = at else { return Lies::Gone };
        let segment = &self.segments[at];
        match segment.frame_at(location.offset()) {
            Ok(Some(frame)) => Lies::Here(frame),
            _ if !segment.still_holds() => Lies::Gone,
            Ok(None) => Lies::Damaged("the record does not read back".into()),
            Err(error) => Lies::Damaged(format!("the record cannot be read: {error}")),
        }
    }

    /// The locations of the records of this hash.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = Location> + '_ {
        let records = &self.decided.records;
        let from = records.partition_point(|(of, _)| *of < hash);
        records[from..].iter().take_while(move |(of, _)| *of == hash).map(|(_, at)| *at)
    }

    pub(super) fn decide(&mut self, claims: Vec<Found>) {
        let hash = |found: &Found| self.hasher.hash(found.key.as_ref());
        let claimed: HashSet<u64> = claims.iter().map(hash).collect();
        let tokens: HashSet<u64> = claims.iter().map(|found| found.failed_as().get()).collect();
        let mut tombstones = Vec::new();
        let mut failures = Vec::new();
        for segment in &self.segments {
            for entry in segment.entries() {
                let place = (entry.hash, Location::new(segment.slot.number, entry.offset));
                match entry.kind {
                    Kind::Tombstone => tombstones.push(place),
                    Kind::Failed if claimed.contains(&entry.hash) => failures.push(place.1),
                    kind if kind.is_record() => self.decided.records.push(place),
                    _ => {}
                }
            }
        }
        self.decided.records.sort_unstable();
        // As an opening does, only those are read that something depends on.
        tombstones
            .retain(|(hash, _)| claimed.contains(hash) || self.candidates(*hash).next().is_some());
        let tombstones: Vec<Frame> =
            tombstones.into_iter().filter_map(|(_, location)| self.decision(location)).collect();
        let mut answers: HashMap<u64, (Arc<[u8]>, u64)> = HashMap::new();
        for location in failures {
            let Some(frame) = self.decision(location) else { continue };
            let (token, at) = (frame.header.token, frame.header.time_ms);
            let known = answers.get(&token).is_some_and(|(_, known)| *known > at);
            if tokens.contains(&token) && !known {
                answers.insert(token, (frame.body().into(), at));
            }
        }
        self.hide_replaced();
        let buried = self.bury(&tombstones);
        self.decided.undecided = self.still_undecided(claims, &buried, &mut answers);
    }

    /// A tombstone or a failure; one that doesn't read is a problem.
    fn decision(&mut self, location: Location) -> Option<Frame> {
        match self.frame(location) {
            Lies::Here(frame) => Some(frame),
            Lies::Gone => None,
            Lies::Damaged(_) => {
                let what = "a decision about a key does not read back";
                self.problems.push(Problem::at(location, what));
                self.decided.lost.insert(location);
                None
            }
        }
    }

    /// Of several records of one key only the one with the highest token counts.
    fn hide_replaced(&mut self) {
        let records = std::mem::take(&mut self.decided.records);
        for group in records.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let mut newest: HashMap<OwnedKey, (u64, Location)> = HashMap::new();
            for (_, location) in group {
                // A record that doesn't read stays, and is an error for its key.
                let Lies::Here(frame) = self.frame(*location) else { continue };
                let new = (frame.header.token, *location);
                let replaced = match newest.get(&frame.key().owned()).copied() {
                    Some(known) if known.0 > new.0 => Some(new),
                    known => {
                        newest.insert(frame.key().owned(), new);
                        known
                    }
                };
                self.decided.hidden.extend(replaced.map(|(_, location)| location));
            }
        }
        self.decided.records = records;
    }

    /// Hides what tombstones kill; the tokens of the tombstones by key.
    fn bury(&mut self, tombstones: &[Frame]) -> HashMap<OwnedKey, u64> {
        let mut buried: HashMap<OwnedKey, u64> = HashMap::new();
        for tombstone in tombstones {
            let token = tombstone.header.token;
            let known = buried.entry(tombstone.key().owned()).or_insert(0);
            *known = token.max(*known);
            let of_hash: Vec<_> = self.candidates(self.hasher.hash(tombstone.key())).collect();
            for location in of_hash {
                if let Lies::Here(frame) = self.frame(location)
                    && frame.key() == tombstone.key()
                    && frame.header.token < token
                {
                    self.decided.hidden.insert(location);
                }
            }
        }
        buried
    }

    /// The claims whose key has neither a record nor another claim with a token as high.
    fn still_undecided(
        &mut self,
        claims: Vec<Found>,
        buried: &HashMap<OwnedKey, u64>,
        failures: &mut HashMap<u64, (Arc<[u8]>, u64)>,
    ) -> Vec<Undecided> {
        let mut newest: HashMap<OwnedKey, Found> = HashMap::new();
        for found in claims {
            match newest.get(&found.key) {
                Some(known) if known.token >= found.token => {}
                _ => {
                    newest.insert(found.key.clone(), found);
                }
            }
        }
        let mut undecided = Vec::new();
        for found in newest.into_values() {
            let recorded = match self.recorded_token(found.key.as_ref()) {
                Ok(recorded) => recorded,
                Err((location, what)) => {
                    let what = format!("{what}; it may be that of an undecided claim");
                    let key = Some(Box::new(found.key));
                    self.problems.push(Problem { key, ..Problem::at(location, what) });
                    continue;
                }
            };
            // A tombstone under the token of a claim is for what came before it.
            if recorded.is_some_and(|token| token >= found.token.get())
                || buried.get(&found.key).is_some_and(|token| *token > found.token.get())
            {
                continue;
            }
            self.hide_outlived(&found);
            let answer = failures.remove(&found.failed_as().get());
            undecided.push(Undecided { found, answer });
        }
        undecided.sort_by_key(|undecided| undecided.found.token);
        undecided
    }

    /// Hides the records of a key that a claim on it has outlived. One that had not even expired
    /// when the claim was granted is a second truth, which an opening removes.
    fn hide_outlived(&mut self, claim: &Found) {
        let hash = self.hasher.hash(claim.key.as_ref());
        let candidates: Vec<_> = self.candidates(hash).collect();
        for location in candidates {
            let Lies::Here(frame) = self.frame(location) else { continue };
            let older = frame.key() == claim.key.as_ref()
                && frame.header.token < claim.token.get()
                && self.decided.hidden.insert(location);
            if older && frame.header.expires_ms > claim.started_ms {
                self.decided.twofold.push((claim.key.clone(), location));
            }
        }
    }

    /// The highest token of a record of this key; or what doesn't read and may be one.
    fn recorded_token(&self, key: KeyRef<'_>) -> Result<Option<u64>, (Location, String)> {
        let mut highest = None;
        for location in self.candidates(self.hasher.hash(key)) {
            match self.frame(location) {
                Lies::Here(frame) if frame.key() == key => {
                    highest = highest.max(Some(frame.header.token));
                }
                Lies::Here(_) | Lies::Gone => {}
                Lies::Damaged(what) => return Err((location, what)),
            }
        }
        Ok(highest)
    }

    /// Whether the location has a decision that doesn't read.
    pub(crate) fn is_lost(&self, slot: u32, offset: u64) -> bool {
        self.decided.lost.contains(&Location::new(slot, offset))
    }

    /// Whether this key is interrupted. A running store knows more of it than its files.
    pub(super) fn is_interrupted(&self, undecided: &Undecided) -> bool {
        self.interruption(undecided).is_some()
    }

    /// Why and since when an undecided key is interrupted; `None` if it is in flight as far as the
    /// files tell.
    pub(super) fn interruption(&self, undecided: &Undecided) -> Option<(Reason, u64)> {
        match (undecided.found.interrupted, &undecided.answer) {
            (Some(noted), _) => Some(noted),
            (None, Some((_, at))) if self.owner.is_some() => Some((Reason::Failed, *at)),
            // The holder may have continued after that; until when is not stored.
            (None, Some(_)) => Some((Reason::Failed, self.now_ms)),
            (None, None) if self.owner.is_some() => None,
            // The process has died; when is not stored.
            (None, None) => Some((Reason::Crashed, self.now_ms)),
        }
    }
}
