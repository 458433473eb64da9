//! The last alarms, with their keys, and which scopes mismatches come from: for the admin service.

use crate::{
    key::{KeyRef, OwnedKey},
    stats::Count,
    token::Token,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// The number of alarms that are remembered.
const REMEMBERED: usize = 200;
/// The number of scopes that are counted at a time.
const SCOPES: usize = 64;

/// Something that may mean money.
#[derive(Clone, Debug)]
pub(crate) struct Alarm {
    pub count: Count,
    pub at_ms: u64,
    pub hash: u64,
    pub key: OwnedKey,
    pub token: Option<Token>,
}

#[derive(Default)]
pub(crate) struct Alarms(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    last: VecDeque<Alarm>,
    /// Mismatches by scope, and by how many the count may be too high.
    mismatches: HashMap<Box<[u8]>, (u64, u64)>,
}

impl Alarms {
    pub fn push(&self, alarm: Alarm) {
        let mut remembered = self.0.lock();
        if alarm.count == Count::Mismatched {
            // Clients make these at will; they would push out the others.
            return remembered.mismatch(alarm.key.as_ref());
        }
        if remembered.last.len() == REMEMBERED {
            remembered.last.pop_front();
        }
        remembered.last.push_back(alarm);
    }

    /// Newest first.
    pub fn last(&self) -> Vec<Alarm> {
        self.0.lock().last.iter().rev().cloned().collect()
    }

    /// Scopes by their mismatches, most first: scope, count, and by how many the count may be too
    /// high.
    pub fn mismatches(&self) -> Vec<(Box<[u8]>, u64, u64)> {
        let mut scopes = Vec::new();
        for (scope, (count, over)) in &self.0.lock().mismatches {
            scopes.push((scope.clone(), *count, *over));
        }
        scopes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        scopes
    }
}

impl Remembered {
    /// Counts by the "space saving" algorithm: a scope that isn't counted yet takes the place, and
    /// the count, of the scope with the fewest. A scope with many mismatches is never missed.
    fn mismatch(&mut self, key: KeyRef<'_>) {
        if let Some((count, _)) = self.mismatches.get_mut(key.scope()) {
            *count += 1;
            return;
        }
        let mut over = 0;
        if self.mismatches.len() == SCOPES {
            let fewest = self.mismatches.iter().min_by_key(|(_, (count, _))| *count);
            let (scope, (count, _)) = fewest.expect("full");
            let (scope, count) = (scope.clone(), *count);
            self.mismatches.remove(&scope);
            over = count;
        }
        self.mismatches.insert(key.scope().into(), (over + 1, over));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(count: Count, scope: &str, at_ms: u64) -> Alarm {
        let key = KeyRef::from_parts(scope.as_bytes(), b"k").unwrap().owned();
        Alarm { count, at_ms, hash: 1, key, token: None }
    }

    #[test]
    fn the_last_are_kept_newest_first() {
        let alarms = Alarms::default();
        (0..REMEMBERED as u64 + 5).for_each(|n| alarms.push(alarm(Count::Fenced, "s", n)));
        let times: Vec<_> = alarms.last().iter().map(|alarm| alarm.at_ms).collect();
        assert_eq!(times.len(), REMEMBERED);
        assert_eq!(times[..2], [204, 203]);
        assert!(alarms.mismatches().is_empty());
    }

    #[test]
    fn a_scope_with_many_mismatches_is_not_hidden_by_many_scopes() {
        let alarms = Alarms::default();
        for n in 0..1000 {
            alarms.push(alarm(Count::Mismatched, &format!("one of many {n}"), 0));
            if n % 4 == 0 {
                alarms.push(alarm(Count::Mismatched, "loud", 0));
            }
        }
        let scopes = alarms.mismatches();
        assert_eq!(scopes.len(), SCOPES);
        let (scope, count, over) = &scopes[0];
        assert_eq!(&**scope, b"loud");
        assert!(*count >= 250 && count - over <= 250);
        assert!(alarms.last().is_empty());
    }
}
