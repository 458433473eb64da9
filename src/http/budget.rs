//! Bounds on what waits in memory: bytes of request bodies, and requests that wait for one key.

use crate::key::OwnedKey;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes of request bodies that may be held by all requests together.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicUsize);

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    pub fn none(budget: &Arc<Budget>) -> Self {
        Held { budget: budget.clone(), bytes: 0 }
    }

    /// Takes more, unless that were more than `limit` for all.
    pub fn take(&mut self, bytes: usize, limit: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= limit);
        let taken = self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Budget {
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who waits, by key.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<HashMap<OwnedKey, usize>>);

/// A place among those who wait for a key, given up when dropped.
pub(super) struct Place<'a> {
    waiters: &'a Waiters,
    key: &'a OwnedKey,
}

impl Waiters {
    /// A place, if fewer than `limit` are taken.
    pub fn enter<'a>(&'a self, key: &'a OwnedKey, limit: usize) -> Option<Place<'a>> {
        let mut waiters = self.0.lock();
        match waiters.get_mut(key) {
            Some(count) if *count >= limit => return None,
            Some(count) => *count += 1,
            None if limit == 0 => return None,
            None => {
                waiters.insert(key.clone(), 1);
            }
        }
        Some(Place { waiters: self, key })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock();
        if let Some(count) = waiters.get_mut(self.key) {
            *count -= 1;
            if *count == 0 {
                waiters.remove(self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyRef, Scope};

    #[test]
    fn bytes_are_bounded_and_come_back() {
        let budget = Arc::new(Budget::default());
        let (mut one, mut two) = (Held::none(&budget), Held::none(&budget));
        assert!(one.take(6, 10) && !two.take(5, 10) && two.take(4, 10));
        assert!(!two.take(usize::MAX, 10));
        drop(one);
        assert_eq!(budget.held(), 4);
        drop(two);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn places_are_bounded_for_each_key() {
        let (waiters, scope) = (Waiters::default(), Scope::global());
        let [a, b] = ["a", "b"].map(|key| OwnedKey::from(KeyRef::new(&scope, key).unwrap()));
        let place = waiters.enter(&a, 1).unwrap();
        assert!(waiters.enter(&a, 1).is_none());
        assert!(waiters.enter(&b, 1).is_some());
        drop(place);
        assert!(waiters.enter(&a, 1).is_some());
        assert!(waiters.0.lock().is_empty());
    }
}
