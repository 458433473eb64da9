//! Bounds on what waits in memory: bytes of request bodies, and requests that wait for one key. No
//! scope uses up what the others need.

use crate::key::OwnedKey;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A body of so many bytes is held whatever the bounds are: as many connections as there are hold
/// no more than this each.
pub(super) const SMALL: usize = 4 << 10;

/// How much a scope may have when so much is left of the whole: such a part of what is left as what
/// is left is of the whole, as in the store.
fn share(left: usize, whole: usize) -> usize {
    let (left, whole) = (left.min(whole) as u128, whole.max(1) as u128);
    (left * left / whole) as usize
}

/// Scopes that were refused because they have their shares.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Of a process, so that no reader of logs can try scopes against what it makes.
    secret: RandomState,
    counts: Mutex<HashMap<u64, u64>>,
}

impl Refused {
    /// As many scopes are counted at a time; then from the start.
    const SCOPES_MAX: usize = 1024;

    /// Counts a refusal, and tells of it: the first, the second, the fourth and so on, so that a
    /// storm of refusals is none of events.
    pub fn count(&self, scope: &[u8], of_what: &'static str) {
        let hash = self.secret.hash_one(scope);
        let mut counts = self.counts.lock();
        if counts.len() >= Self::SCOPES_MAX && !counts.contains_key(&hash) {
            counts.clear();
        }
        let count = counts.entry(hash).or_default();
        *count += 1;
        let refusals = *count;
        drop(counts);
        if refusals.is_power_of_two() {
            let scope = format_args!("{hash:016x}");
            tracing::warn!(
                target: "onlyonce", %scope, refusals, of_what,
                "a scope is refused what others need: it has its share"
            );
        }
    }
}

/// Bytes of request bodies that may be held by all requests together.
#[derive(Debug, Default)]
pub(super) struct Budget {
    all: AtomicUsize,
    /// Of bodies that are not small, by scope.
    scopes: Mutex<HashMap<Box<[u8]>, usize>>,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
    /// The scope of the bytes, if they are counted by scope.
    scope: Option<Box<[u8]>>,
}

/// Why no more is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// All have as much as they may have together.
    All,
    /// The scope has its share.
    Share,
}

impl Held {
    pub fn none(budget: &Arc<Budget>) -> Self {
        Held { budget: budget.clone(), bytes: 0, scope: None }
    }

    /// Holds `bytes` in all, unless that is more than `limit` for all, or more than the share of
    /// `scope` if there are others.
    pub fn take(&mut self, bytes: usize, limit: usize, scope: Option<&[u8]>) -> Result<(), Beyond> {
        let more = bytes.saturating_sub(self.bytes);
        if bytes > SMALL {
            self.take_large(bytes, more, limit, scope)?;
        }
        self.budget.all.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        Ok(())
    }

    fn take_large(
        &mut self,
        bytes: usize,
        more: usize,
        limit: usize,
        scope: Option<&[u8]>,
    ) -> Result<(), Beyond> {
        // Large ones take one after the other; small ones, which are not refused, come between.
        let mut scopes = self.budget.scopes.lock();
        let all = self.budget.held();
        let left = limit.checked_sub(all.saturating_add(more)).ok_or(Beyond::All)?;
        let Some(scope) = scope else { return Ok(()) };
        let counted = if self.scope.is_some() { more } else { bytes };
        let has = scopes.get(scope).map_or(0, |bytes| *bytes);
        if has + counted > share(left, limit) {
            return Err(Beyond::Share);
        }
        match scopes.get_mut(scope) {
            Some(bytes) => *bytes += counted,
            None => _ = scopes.insert(scope.into(), counted),
        }
        self.scope.get_or_insert_with(|| scope.into());
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(scope) = &self.scope {
            let mut scopes = self.budget.scopes.lock();
            if let Some(bytes) = scopes.get_mut(scope) {
                *bytes -= self.bytes.min(*bytes);
                if *bytes == 0 {
                    scopes.remove(scope);
                }
            }
        }
        self.budget.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    pub fn held(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }
}

/// The waiters, by key and by scope.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    keys: HashMap<OwnedKey, usize>,
    scopes: HashMap<Box<[u8]>, usize>,
    all: usize,
}

/// A place among the waiters for a key, given up when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    waiters: &'a Waiters,
    key: &'a OwnedKey,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// For this key, or for all.
    Taken,
    /// The scope has its share.
    Share,
}

/// How many may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub each_key: usize,
    pub all: usize,
    /// Scopes share them.
    pub shared: bool,
}

impl Waiters {
    /// A place, if there is one.
    pub fn enter<'a>(&'a self, key: &'a OwnedKey, places: Places) -> Result<Place<'a>, NoPlace> {
        let mut waiting = self.0.lock();
        let here = waiting.keys.get(key).map_or(0, |count| *count);
        let has = waiting.scopes.get(key.scope()).map_or(0, |count| *count);
        let left = places.all.saturating_sub(waiting.all);
        if here >= places.each_key || left == 0 {
            return Err(NoPlace::Taken);
        }
        if places.shared && has >= share(left, places.all).max(1) {
            return Err(NoPlace::Share);
        }
        waiting.all += 1;
        *waiting.keys.entry(key.clone()).or_default() += 1;
        *waiting.scopes.entry(key.scope().into()).or_default() += 1;
        drop(waiting);
        Ok(Place { waiters: self, key })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.0.lock();
        let Waiting { keys, scopes, all } = &mut *waiting;
        *all -= 1;
        if let Some(count) = keys.get_mut(self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(self.key);
            }
        }
        if let Some(count) = scopes.get_mut(self.key.scope()) {
            *count -= 1;
            if *count == 0 {
                scopes.remove(self.key.scope());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyRef, Scope};

    const KIB: usize = 1 << 10;

    #[test]
    fn bytes_are_bounded_and_come_back() {
        let budget = Arc::new(Budget::default());
        let (mut one, mut two) = (Held::none(&budget), Held::none(&budget));
        assert_eq!(one.take(60 * KIB, 100 * KIB, None), Ok(()));
        assert_eq!(two.take(50 * KIB, 100 * KIB, None), Err(Beyond::All));
        assert_eq!(two.take(40 * KIB, 100 * KIB, None), Ok(()));
        assert_eq!(two.take(usize::MAX, 100 * KIB, None), Err(Beyond::All));
        // A small one is held all the same.
        let mut small = Held::none(&budget);
        assert_eq!(small.take(SMALL, 100 * KIB, None), Ok(()));
        assert_eq!(small.take(SMALL + 1, 100 * KIB, None), Err(Beyond::All));
        drop((one, small));
        assert_eq!(budget.held(), 40 * KIB);
        drop(two);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn scopes_leave_room_for_others() {
        let budget = Arc::new(Budget::default());
        let mut all = Vec::new();
        let mut fill = |scope: &[u8]| {
            let before = all.len();
            loop {
                let mut held = Held::none(&budget);
                // In two steps, as bodies come.
                let taken = held.take(SMALL, 1000 * KIB, Some(scope));
                if taken.and_then(|()| held.take(8 * KIB, 1000 * KIB, Some(scope))).is_err() {
                    return all.len() - before;
                }
                all.push(held);
            }
        };
        let taken: Vec<_> = (0..5).map(|scope| fill(&[scope])).collect();
        assert!(taken[0] < 80 && taken[4] > 1, "{taken:?}");
        all.clear();
        assert!(budget.scopes.lock().is_empty());
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn places_are_bounded_for_each_key_and_scope() {
        let (waiters, scopes) = (Waiters::default(), ["a", "b"].map(|name| Scope::of([name])));
        let key =
            |scope: usize, key: &str| OwnedKey::from(KeyRef::new(&scopes[scope], key).unwrap());
        let (a, b) = (key(0, "a"), key(0, "b"));
        let one = Places { each_key: 1, all: 100, shared: false };
        let place = waiters.enter(&a, one).unwrap();
        assert!(waiters.enter(&a, one).is_err());
        assert!(waiters.enter(&b, one).is_ok());
        drop(place);
        assert!(waiters.enter(&a, one).is_ok());
        let many = Places { each_key: 1000, all: 100, shared: true };
        let places: Vec<_> = (0..100).map_while(|_| waiters.enter(&a, many).ok()).collect();
        assert!(places.len() < 50);
        assert_eq!(waiters.enter(&b, many).err(), Some(NoPlace::Share));
        assert!(waiters.enter(&key(1, "a"), many).is_ok());
        drop(places);
        let waiting = waiters.0.lock();
        assert!(waiting.keys.is_empty() && waiting.scopes.is_empty() && waiting.all == 0);
    }
}
