//! A queue that is left from anywhere: waiters give up in any order, and of a hundred
//! thousand none may have to look at all others.

use std::collections::VecDeque;

/// Entries by numbers that grow, in their order.
///
/// An entry that is taken out of the middle leaves a gap, so that nothing moves; when most are
/// gaps they are squeezed out. The first one is never a gap.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    last: u64,
    entries: VecDeque<(u64, Option<T>)>,
    gaps: usize,
    /// Entries looked at or moved, for tests.
    #[cfg(test)]
    pub steps: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            last: 0,
            entries: VecDeque::new(),
            gaps: 0,
            #[cfg(test)]
            steps: 0,
        }
    }
}

impl<T> Queue<T> {
    pub fn len(&self) -> usize {
        self.entries.len() - self.gaps
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds it at the end; returns its number, by which it is found.
    pub fn push(&mut self, entry: T) -> u64 {
        self.last += 1;
        self.entries.push_back((self.last, Some(entry)));
        self.last
    }

    fn find(&mut self, id: u64) -> Option<usize> {
        #[cfg(test)]
        {
            self.steps += 1 + self.entries.len().checked_ilog2().unwrap_or(0) as usize;
        }
        self.entries.binary_search_by_key(&id, |(known, _)| *known).ok()
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let at = self.find(id)?;
        self.entries[at].1.as_mut()
    }

    /// Takes it out, wherever it is.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let at = self.find(id)?;
        let entry = self.entries[at].1.take()?;
        self.gaps += 1;
        self.settle();
        Some(entry)
    }

    pub fn front(&self) -> Option<&T> {
        self.entries.front()?.1.as_ref()
    }

    pub fn pop_front(&mut self) -> Option<T> {
        let (_, entry) = self.entries.pop_front()?;
        self.settle();
        entry
    }

    /// Takes all out, in their order.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.gaps = 0;
        std::mem::take(&mut self.entries).into_iter().filter_map(|(_, entry)| entry)
    }

    /// Takes out those for which `leaves` is true. Looks at all.
    pub fn drain_if(&mut self, mut leaves: impl FnMut(&T) -> bool, mut to: impl FnMut(T)) {
        self.entries.retain_mut(|(_, entry)| {
            if !entry.as_ref().is_some_and(&mut leaves) {
                return entry.is_some();
            }
            entry.take().into_iter().for_each(&mut to);
            false
        });
        self.gaps = 0;
    }

    /// No gap comes first, and half of the entries at least are none.
    fn settle(&mut self) {
        while self.entries.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.entries.pop_front();
            self.gaps -= 1;
            #[cfg(test)]
            {
                self.steps += 1;
            }
        }
        if self.gaps > 32 && self.gaps * 2 > self.entries.len() {
            #[cfg(test)]
            {
                self.steps += self.entries.len();
            }
            self.entries.retain(|(_, entry)| entry.is_some());
            self.gaps = 0;
        }
    }
}

#[cfg(all(test, not(any(onlyonce_loom, onlyonce_shuttle))))]
mod tests {
    use super::*;

    const MANY: u64 = 100_000;

    /// Whatever the order, giving up costs no more than a search.
    #[test]
    fn a_hundred_thousand_leave_in_any_order_and_none_looks_at_all() {
        let orders: [fn(u64) -> u64; 4] = [
            |n| n,
            |n| MANY - 1 - n,
            // Every second one first.
            |n| if n < MANY / 2 { 2 * n } else { 2 * (n - MANY / 2) + 1 },
            // 7919 has no factor in common with so many.
            |n| n * 7919 % MANY,
        ];
        for order in orders {
            let mut queue = Queue::default();
            let ids: Vec<_> = (0..MANY).map(|n| queue.push(n)).collect();
            for n in 0..MANY {
                let n = order(n);
                assert_eq!(queue.remove(ids[n as usize]), Some(n));
                assert_eq!(queue.remove(ids[n as usize]), None);
            }
            assert!(queue.is_empty());
            assert!(queue.steps < 50 * MANY as usize, "{} steps", queue.steps);
            assert!(queue.entries.len() <= 64, "{} gaps are kept", queue.entries.len());
        }
    }

    #[test]
    fn those_who_are_left_keep_their_order() {
        let mut queue = Queue::default();
        let ids: Vec<_> = (0..1000).map(|n| queue.push(n)).collect();
        ids.iter().filter(|id| **id % 3 != 0).for_each(|id| assert!(queue.remove(*id).is_some()));
        assert_eq!(queue.get_mut(ids[2]).copied(), Some(2));
        assert_eq!(queue.get_mut(ids[3]), None);
        assert_eq!((queue.len(), queue.front().copied()), (333, Some(2)));
        assert_eq!(queue.pop_front(), Some(2));
        assert_eq!(queue.front().copied(), Some(5));
        let mut out = Vec::new();
        queue.drain_if(|n| *n < 100, |n| out.push(n));
        assert!(out.iter().eq(&(5..100).step_by(3).collect::<Vec<_>>()));
        assert!(queue.take_all().eq((101..1000).step_by(3)));
        assert!(queue.is_empty() && queue.pop_front().is_none());
        assert!(queue.push(7) > ids[999]);
    }
}
