//! The rules by which the claims and records that were read are one state for each key. An opening
//! and an inspection follow them alike; each has the records in its own way ([`Records`]).
//!
//! - Of two records of one key the one with the higher token counts, and so it is with two claims.
//! - A tombstone ends the records of its key that have lower tokens.
//! - A claim is undecided unless its key has a record whose token is at least as high, or a
//!   tombstone whose token is higher.
//! - A claim that is undecided has outlived the records of its key: they had been forgotten, or had
//!   expired, before it was granted.

use crate::{
    broken::{self, Broken},
    claims::Found,
    key::{KeyRef, OwnedKey},
    location::Location,
    log::{Frame, Kind},
    record::Reason,
    token::Token,
};
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};

/// What reading at a location gives.
pub(crate) enum Content {
    Frame(Frame),
    /// It was erased; or the segment has been used again since: what was there had expired.
    Gone,
    Damaged(String),
}

/// The records that count, as an opening or an inspection has them.
pub(crate) trait Records {
    type Error;

    fn hash(&self, key: KeyRef<'_>) -> u64;

    /// The locations of the records that may be of a key with this hash.
    fn candidates(&self, hash: u64) -> SmallVec<[Location; 4]>;

    /// Whether there is a record of this hash. Reads nothing.
    fn is_recorded(&self, hash: u64) -> bool;

    fn record(&self, location: Location) -> Result<Content, Self::Error>;

    /// A tombstone or a failure that something depends on; `None` if it was erased, or doesn't read
    /// and that is passed over.
    fn decision(&mut self, location: Location) -> Result<Option<Frame>, Self::Error>;

    /// The answer of a failed holder whose key is undecided; of one holder the last counts.
    fn failed(&mut self, _failure: &Frame) {}

    /// The record counts no more.
    fn remove(&mut self, hash: u64, location: Location);

    /// A record that may be that of an undecided claim doesn't read. Without an error the claim is
    /// passed over: its key answers that it is damaged.
    fn unreadable(
        &mut self,
        claim: Found,
        location: Location,
        what: String,
    ) -> Result<(), Self::Error>;
}

/// The keys that are undecided, and what else must be known of them.
pub(crate) struct Decided {
    /// By token.
    pub undecided: Vec<Undecided>,
    pub outlived: Vec<Outlived>,
}

/// A claim whose outcome is not recorded.
pub(crate) struct Undecided {
    pub found: Found,
    /// Its holder has failed.
    pub failure: Option<Failure>,
}

/// The answer that a failed holder left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub location: Location,
    /// When the holder failed.
    pub at_ms: u64,
    /// Until when the log has the answer.
    pub expires_ms: u64,
}

/// A record that had not expired by itself when a later claim on its key was granted: a second
/// truth, until it is buried.
pub(crate) struct Outlived {
    pub record: Frame,
    pub location: Location,
    /// The claim's token.
    pub token: Token,
}

/// Whether `new` counts of two records of one key.
pub(crate) fn replaces(new: &Frame, old: &Frame) -> bool {
    (new.header.token >= old.header.token) != broken::is(Broken::LowestTokenWins)
}

/// Why and since when an undecided key is interrupted of which no process has a handle, and when it
/// was found so `now`: as it was noted; otherwise its holder has failed, or crashed. Since when the
/// files don't say then: the holder may have continued after it had failed, and renewals are not
/// written.
pub(crate) fn interruption(found: &Found, has_failed: bool, now: u64) -> (Reason, u64) {
    let reason = if has_failed { Reason::Failed } else { Reason::Crashed };
    found.interrupted.unwrap_or((reason, now))
}

/// Decides about all keys, given what the segments list (of failures and tombstones only those are
/// read that something depends on: a store that has been failing for weeks lists millions of them)
/// and the newest version of each claim. Of records that replace each other only one is known by
/// now.
pub(crate) fn decide<R: Records>(
    records: &mut R,
    listed: impl Iterator<Item = (Kind, u64, Location)>,
    claims: Vec<Found>,
) -> Result<Decided, R::Error> {
    let claimed: HashSet<u64> =
        claims.iter().map(|found| records.hash(found.key.as_ref())).collect();
    let mut failures = Vec::new();
    // The highest token of a tombstone, of keys that may have a claim.
    let mut buried: HashMap<OwnedKey, u64> = HashMap::new();
    for (kind, hash, location) in listed {
        match kind {
            Kind::Failed if claimed.contains(&hash) => failures.push((hash, location)),
            Kind::Tombstone if claimed.contains(&hash) || records.is_recorded(hash) => {
                let Some(tombstone) = records.decision(location)? else { continue };
                bury(records, &tombstone)?;
                let token = buried.entry(tombstone.key().owned()).or_insert(0);
                *token = tombstone.header.token.max(*token);
            }
            _ => {}
        }
    }
    let mut undecided = Vec::new();
    let mut outlived = Vec::new();
    for found in newest(claims) {
        let recorded = match highest_token(records, found.key.as_ref())? {
            Ok(recorded) => recorded,
            Err(Unreadable(location, what)) => {
                records.unreadable(found, location, what)?;
                continue;
            }
        };
        // A tombstone under the token of a claim is for what came before it.
        if recorded.is_some_and(|token| token >= found.token.get())
            || buried.get(&found.key).is_some_and(|token| *token > found.token.get())
        {
            continue;
        }
        outlive(records, &found, &mut outlived)?;
        undecided.push(found);
    }
    let mut failures = read_failures(records, failures, &undecided)?;
    let with_failure = |found: Found| {
        let failure = failures.remove(&found.failed_as().get());
        Undecided { found, failure }
    };
    Ok(Decided { undecided: undecided.into_iter().map(with_failure).collect(), outlived })
}

/// Of several claims on one key the one with the highest token; by token.
fn newest(claims: Vec<Found>) -> Vec<Found> {
    let mut newest: HashMap<OwnedKey, Found> = HashMap::new();
    for found in claims {
        match newest.get_mut(&found.key) {
            None => {
                newest.insert(found.key.clone(), found);
            }
            Some(known) => {
                if (known.token < found.token) != broken::is(Broken::LowestTokenWins) {
                    *known = found;
                }
            }
        }
    }
    let mut newest: Vec<Found> = newest.into_values().collect();
    newest.sort_unstable_by_key(|found| found.token);
    newest
}

/// Removes the records that a tombstone ends.
fn bury<R: Records>(records: &mut R, tombstone: &Frame) -> Result<(), R::Error> {
    let hash = records.hash(tombstone.key());
    for location in records.candidates(hash) {
        if let Content::Frame(frame) = records.record(location)?
            && frame.key() == tombstone.key()
            && frame.header.token < tombstone.header.token
        {
            records.remove(hash, location);
        }
    }
    Ok(())
}

/// A record that doesn't read, and why.
struct Unreadable(Location, String);

/// The highest token of a record of this key; or what doesn't read and may be one.
fn highest_token<R: Records>(
    records: &R,
    key: KeyRef<'_>,
) -> Result<Result<Option<u64>, Unreadable>, R::Error> {
    let mut highest = None;
    for location in records.candidates(records.hash(key)) {
        match records.record(location)? {
            Content::Frame(frame) if frame.key() == key => {
                highest = highest.max(Some(frame.header.token));
            }
            Content::Frame(_) | Content::Gone => {}
            Content::Damaged(what) => return Ok(Err(Unreadable(location, what))),
        }
    }
    Ok(Ok(highest))
}

/// Removes the records that a claim has outlived.
fn outlive<R: Records>(
    records: &mut R,
    claim: &Found,
    outlived: &mut Vec<Outlived>,
) -> Result<(), R::Error> {
    let hash = records.hash(claim.key.as_ref());
    for location in records.candidates(hash) {
        let Content::Frame(record) = records.record(location)? else { continue };
        if record.key() != claim.key.as_ref() || record.header.token >= claim.token.get() {
            continue;
        }
        records.remove(hash, location);
        if record.header.expires_ms > claim.started_ms {
            outlived.push(Outlived { record, location, token: claim.token });
        }
    }
    Ok(())
}

/// By token, the answers of the holders of these claims that have failed. Other failures are not
/// read: their keys are decided.
fn read_failures<R: Records>(
    records: &mut R,
    listed: Vec<(u64, Location)>,
    undecided: &[Found],
) -> Result<HashMap<u64, Failure>, R::Error> {
    let of = |found: &Found| (records.hash(found.key.as_ref()), found.failed_as().get());
    let claims: HashSet<(u64, u64)> = undecided.iter().map(of).collect();
    let hashes: HashSet<u64> = claims.iter().map(|(hash, _)| *hash).collect();
    let mut failures: HashMap<u64, Failure> = HashMap::new();
    for (hash, location) in listed {
        if !hashes.contains(&hash) {
            continue;
        }
        let Some(frame) = records.decision(location)? else { continue };
        let (token, at_ms) = (frame.header.token, frame.header.time_ms);
        // A holder may have failed, continued, and failed again: the last answer counts.
        let known = failures.get(&token).is_some_and(|known| known.at_ms > at_ms);
        if claims.contains(&(hash, token)) && !known {
            records.failed(&frame);
            let expires_ms = frame.header.expires_ms;
            failures.insert(token, Failure { location, at_ms, expires_ms });
        }
    }
    Ok(failures)
}
