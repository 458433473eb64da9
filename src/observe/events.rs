//! Events, as `docs/operations.md` lists them. Their target is `onlyonce`.
//!
//! A key is never written out: `key` is its hash under the store's own secret, the same in all
//! events of a store, its admin service included, and nothing that a reader of logs could try
//! keys against.

#![cfg_attr(not(feature = "tracing"), allow(unused_variables, dead_code))]

use crate::{stats::Count, token::Token};
use std::fmt;

/// A key's hash, as it is written into logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(pub u64);

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

macro_rules! event {
    ($level:ident, $($what:tt)*) => {{
        #[cfg(feature = "tracing")]
        {
            tracing::$level!(target: "onlyonce", $($what)*);
        }
    }};
}

/// The event of a count that is not an alarm.
pub(crate) fn counted(hash: u64, count: Count) {
    let key = KeyHash(hash);
    match count {
        Count::Granted => event!(trace, %key, "claim granted"),
        Count::TakenOver => event!(debug, %key, "claim granted by takeover"),
        Count::Replayed => event!(trace, %key, "replayed"),
        Count::SawInFlight => event!(debug, %key, "found in flight"),
        Count::SawInterrupted => event!(debug, %key, "found interrupted"),
        Count::Completed => event!(trace, %key, "completed"),
        Count::Failed => event!(debug, %key, "failed, outcome unknown"),
        Count::Released => event!(debug, %key, "released"),
        Count::Abandoned => event!(warn, %key, "claim dropped undecided"),
        Count::LeasePassed => event!(warn, %key, "lease passed, the holder is silent"),
        Count::RefusedFull => event!(debug, %key, "claim refused, the store is full"),
        Count::RefusedScope => event!(debug, %key, "claim refused, its scope has its share"),
        // Said by `recycled`.
        Count::Recycled => {}
        Count::Undelivered => event!(debug, %key, "claim undone, its caller was gone"),
        Count::Undone => event!(debug, %key, "takeover undone, nothing was learned"),
        // Said by `alarm`.
        Count::Mismatched
        | Count::Exhausted
        | Count::Fenced
        | Count::Late
        | Count::InterruptedExpired
        | Count::BeganAfterExpiry => {}
    }
}

/// An event that may mean a second execution. `token`: of the claim that it is about.
pub(crate) fn alarm(count: Count, hash: u64, token: Option<Token>) {
    let key = KeyHash(hash);
    #[cfg(feature = "tracing")]
    let token = token.map(Token::get);
    match count {
        Count::Mismatched => event!(debug, %key, token, "key used for another request"),
        Count::Fenced => event!(
            error, %key, token,
            "a holder was fenced: the operation may have taken effect twice"
        ),
        Count::Exhausted => event!(
            error, %key, token,
            "all attempts at a key were interrupted: only an operator can go on"
        ),
        Count::Late => event!(
            error, %key, token,
            "a holder called after its store had been closed: what it did is not recorded, and the \
             operation may take effect twice"
        ),
        Count::InterruptedExpired => event!(
            error, %key, token,
            "an interrupted key expired unresolved: a retry executes again"
        ),
        Count::BeganAfterExpiry => event!(
            warn, %key, token,
            "a claim was granted for a key whose record had just expired"
        ),
        other => counted(hash, other),
    }
}

/// Keys that a sweeper of a table has found: only their number is known.
pub(crate) fn interrupted_expired(keys: u64) {
    event!(error, keys, "interrupted keys expired unresolved: a retry executes again");
}

/// A scope is refused new keys from now on, until some of what it has ends. `scope` is its hash
/// under the store's own secret.
pub(crate) fn share_used(scope: u64) {
    let scope = KeyHash(scope);
    event!(warn, %scope, "a scope has its share of unfinished keys: it is refused new ones");
}

/// An opening waits until another store of this directory is closed.
pub(crate) fn waits_for_owner(place: &str, owner: Option<u32>) {
    event!(info, place, owner, "the directory is open elsewhere: waiting for it");
}

/// A group commit is over.
pub(crate) fn committed(group: u8, callers: usize, position: u64) {
    event!(trace, group, callers, position, "group commit");
}

/// A class has taken a free segment into use.
pub(crate) fn rolled(segment: u32, class: u8) {
    event!(debug, segment, class, "segment taken into use");
}

/// A segment was made.
pub(crate) fn created(segment: u32, bytes: u64) {
    event!(info, segment, bytes, "segment created");
}

/// The system gives no further segment.
pub(crate) fn starved(bytes: u64, no_room: bool, why: &str) {
    let what = if no_room {
        "no room on the disk for another segment"
    } else {
        "another segment cannot be created"
    };
    event!(error, bytes, why, "{what}");
}

/// A full segment has its footer.
pub(crate) fn sealed(segment: u32) {
    event!(debug, segment, "segment sealed");
}

/// A segment whose records have all expired is free again.
pub(crate) fn recycled(segment: u32) {
    event!(debug, segment, "segment recycled");
}

/// The findings of an opening.
#[derive(Debug)]
pub(crate) struct Opened {
    pub life: u32,
    pub records: u64,
    pub interrupted: u64,
    pub segments: u64,
    pub took_ms: u64,
}

/// A store was opened.
pub(crate) fn opened(place: &str, found: &Opened) {
    let Opened { life, records, interrupted, segments, took_ms } = *found;
    event!(info, place, life, records, interrupted, segments, took_ms, "store opened");
}

/// An opening made the store.
pub(crate) fn store_created(place: &str) {
    event!(warn, place, "store created: no key from before is known");
}

/// An opening passed over damage.
pub(crate) fn salvaged(damaged_places: u64) {
    event!(error, damaged_places, "opened past damage: keys may have been lost");
}

/// An opening passed over claims that a loss of power had torn.
pub(crate) fn torn(torn_claims: u64) {
    event!(warn, torn_claims, "claims were torn by a loss of power before they were promised");
}

/// The claims file has more room than the options ask for, and keeps it.
pub(crate) fn claims_kept(max_claims: u64, in_force: u64) {
    event!(info, max_claims, in_force, "the claims file keeps its room for more claims");
}

/// The claims file could not become as large as the options want it.
pub(crate) fn claims_not_grown(max_claims: u64, in_force: u64, why: &std::io::Error) {
    event!(error, max_claims, in_force, %why, "the claims file can't be made larger");
}

/// The ring could not become as large as the options want it.
pub(crate) fn ring_not_grown(wanted: u64, in_force: u64, why: &std::io::Error) {
    event!(error, wanted, in_force, %why, "the ring can't be made larger");
}

/// The wall clock was not believed.
pub(crate) fn clock_held(now_ms: u64) {
    event!(error, now_ms, "the wall clock jumped too far ahead and is not believed");
}

/// The first failed write or sync.
pub(crate) fn poisoned(why: &str) {
    event!(error, why, "poisoned: nothing is acknowledged until the store is opened again");
}

/// An operator has decided about a key.
pub(crate) fn resolved(hash: u64, decision: &'static str) {
    let key = KeyHash(hash);
    event!(info, %key, decision, "resolved by an operator");
}

/// A scope was erased through the admin service: how many keys and decisions, and how many keys are
/// left. The scope is not said.
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
pub(crate) fn erased(keys: u64, decisions: u64, held: u64, actor: &str, note: &str) {
    event!(info, keys, decisions, held, actor, note, "a scope was erased by an operator");
}

/// No more claims are granted.
pub(crate) fn draining(holders: u64) {
    event!(info, holders, "draining: no more claims are granted");
}

/// A store was closed.
pub(crate) fn closed(place: &str, in_order: bool) {
    event!(info, place, in_order, "store closed");
}
