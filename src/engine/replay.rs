//! Replays: a stored response is copied out and verified before it is returned.
//!
//! Records are read without any lock: the location comes from the index, the bytes are copied,
//! and the checksum (seeded with the segment's epoch) says whether they are what they should be.
//! If not, the location is looked up again under the lock of its shard, which no sweep passes
//! while it is held: what doesn't read back then is damage.

use crate::{
    broken::{self, Broken},
    clock::shifted,
    engine::Engine,
    key::KeyRef,
    location::Location,
    log::{Frame, Kind},
    record::{Record, RecordMeta},
};

/// The content of a location.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// This key's record.
    Here(Frame),
    /// A record of this key that has expired.
    Expired,
    /// Another key's record, or one that was erased.
    OtherKey,
    /// The index no longer has this location.
    Gone,
    Damaged,
}

impl Engine {
    /// Reads the record at a location that the index gave for `hash`, and judges it.
    pub fn look(&self, hash: u64, location: Location, key: KeyRef<'_>, now: u64) -> Lookup {
        let frame = match self.log.read(location) {
            Some(frame) => frame,
            None => {
                let shard = self.index.shard(hash);
                if !shard.contains(hash, location) {
                    return Lookup::Gone;
                }
                match self.log.read(location) {
                    Some(frame) => frame,
                    None => return self.unreadable(location, key),
                }
            }
        };
        Self::judge(frame, key, now)
    }

    /// Like [`Engine::look`], for a caller that holds the shard's lock.
    pub fn look_locked(&self, location: Location, key: KeyRef<'_>, now: u64) -> Lookup {
        match self.log.read(location) {
            Some(frame) => Self::judge(frame, key, now),
            None => self.unreadable(location, key),
        }
    }

    fn unreadable(&self, location: Location, key: KeyRef<'_>) -> Lookup {
        if self.log.is_erased(location) {
            return Lookup::OtherKey;
        }
        if broken::is(Broken::KeyBeforeChecksum) && !self.log.names_unchecked(location, key) {
            return Lookup::OtherKey;
        }
        Lookup::Damaged
    }

    /// A frame is another key's only once its checksum has passed, which it has.
    fn judge(frame: Frame, key: KeyRef<'_>, now: u64) -> Lookup {
        if !frame.header.kind.is_record() || frame.key() != key {
            Lookup::OtherKey
        } else if frame.header.expires_ms <= now {
            Lookup::Expired
        } else {
            Lookup::Here(frame)
        }
    }
}

/// The record that a frame holds, as of `now`; its times are shown moved by `shift_ms`.
pub(crate) fn record_of(frame: Frame, now: u64, shift_ms: i64) -> Record {
    let header = frame.header;
    let from = header.scope_len as usize + header.key_len as usize;
    let meta = RecordMeta {
        retained: header.kind == Kind::Completed && now < header.replay_until_ms,
        token: header.token,
        completed_ms: shifted(header.time_ms, shift_ms),
        expires_ms: shifted(header.expires_ms, shift_ms),
        age_ms: now.saturating_sub(header.time_ms),
    };
    Record::new(frame.rest, from, from + header.head_len as usize, meta)
}
