//! The keys, one by one.

use super::{Inspection, Problem, decide::Undecided};
use crate::{
    engine::entries::{Entry, State},
    engine::replay::record_of,
    fingerprint::Fingerprint,
    key::KeyRef,
    location::Location,
    log::Frame,
    record::Retention,
    recover::{
        decide::Content,
        segments::{Place, Segment},
    },
    token::Token,
};
use std::time::Duration;

/// A key, and everything that the files have of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Item {
    /// Key, token, attempts and state.
    pub entry: Entry,
    /// The fingerprint of the request that claimed the key first.
    pub fingerprint: Fingerprint,
    /// When it was completed, or when the last attempt was begun; milliseconds since 1970.
    pub at_ms: u64,
    /// The retention of the record, from its completion on.
    pub retention: Retention,
}

impl Inspection {
    /// Returns what is known of a key; `None` if it is absent.
    ///
    /// # Errors
    /// A [`Problem`] if the record that is, or may be, this key's doesn't read back.
    pub fn get(&self, key: KeyRef<'_>) -> Result<Option<Item>, Problem> {
        let is_this = |undecided: &&Undecided| undecided.found.key.as_ref() == key;
        if let Some(undecided) = self.decided.undecided.iter().find(is_this) {
            return Ok(Some(self.undecided_item(undecided)));
        }
        for location in self.candidates(self.hasher.hash(key)) {
            match self.frame(location) {
                Content::Frame(frame) if frame.key() == key => {
                    if let Some(item) = self.completed_item(frame, location) {
                        return Ok(Some(item));
                    }
                }
                Content::Frame(_) | Content::Gone => {}
                Content::Damaged(what) => {
                    let what = format!("{what}; it may be this key's");
                    return Err(Problem::at(location, what));
                }
            }
        }
        Ok(None)
    }

    /// Lists all keys, undecided ones first, then the records in the order of the segments. Reads
    /// the whole log, a segment at a time. A record that doesn't read is an `Err` in its place.
    pub fn items(&self) -> impl Iterator<Item = Result<Item, Problem>> + '_ {
        let undecided = self.decided.undecided.iter().map(|u| Ok(self.undecided_item(u)));
        undecided.chain(self.segments.iter().flat_map(|segment| self.items_of(segment)))
    }

    /// Lists only the undecided keys; reads nothing.
    pub fn undecided(&self) -> impl Iterator<Item = Item> + '_ {
        self.decided.undecided.iter().map(|undecided| self.undecided_item(undecided))
    }

    fn items_of(&self, segment: &Segment) -> Vec<Result<Item, Problem>> {
        let image = segment.image();
        let mut items = Vec::new();
        for entry in segment.entries().iter().filter(|entry| entry.kind.is_record()) {
            let location = Location::new(segment.slot.number, entry.offset);
            match segment.frame_in(&image, entry) {
                Place::Frame(frame) => items.extend(self.completed_item(frame, location).map(Ok)),
                Place::Erased => {}
                Place::Damaged if segment.still_holds() => {
                    let what = "the record does not read back";
                    items.push(Err(Problem::at(location, what)));
                }
                // Used again since: all of it had expired.
                Place::Damaged => break,
            }
        }
        items
    }

    /// The record, unless it has expired or been replaced.
    fn completed_item(&self, frame: Frame, location: Location) -> Option<Item> {
        let header = frame.header;
        if header.expires_ms <= self.now_ms || self.decided.hidden.contains(&location) {
            return None;
        }
        let ms = |until: u64| Duration::from_millis(until.saturating_sub(header.time_ms));
        let retention = Retention {
            replay_for: ms(header.replay_until_ms),
            remember_for: ms(header.expires_ms),
        };
        let entry = Entry {
            key: frame.key().owned(),
            fingerprint: header.fingerprint,
            token: Token::new(header.token)?,
            attempts: header.attempt,
            state: State::Completed(record_of(frame, self.now_ms, self.superblock.shift_ms)),
        };
        let (fingerprint, at_ms) = (header.fingerprint, self.shown(header.time_ms));
        Some(Item { entry, fingerprint, at_ms, retention })
    }

    fn undecided_item(&self, undecided: &Undecided) -> Item {
        let found = &undecided.found;
        let checkpoint = found.checkpoint.clone();
        let state = match self.interruption(undecided) {
            Some((reason, at)) => State::Interrupted {
                reason,
                at: self.shown(at),
                holder_gone: self.owner.is_none(),
                checkpoint,
                answer: undecided.answer.as_ref().map(|(answer, _)| answer.clone()),
            },
            None => State::InFlight {
                running_for: Duration::from_millis(self.now_ms.saturating_sub(found.started_ms)),
                checkpoint,
            },
        };
        let entry = Entry {
            key: found.key.clone(),
            fingerprint: found.fingerprint,
            token: found.token,
            attempts: found.attempt,
            state,
        };
        let retention = Retention {
            replay_for: Duration::from_millis(found.replay_ms),
            remember_for: Duration::from_millis(found.remember_ms),
        };
        Item {
            entry,
            fingerprint: found.fingerprint,
            at_ms: self.shown(found.started_ms),
            retention,
        }
    }
}
