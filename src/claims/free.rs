//! Which cells are free.
//!
//! In stripes, each thread taking from its own first: so threads that claim at once don't meet
//! here, and each writes the cells that it has just freed. A cell goes back to the stripe that its
//! number names, whoever frees it, and each stripe gives out its lowest numbers first, in whatever
//! order they came back: the cells in use stay together in few pages, because neighbours belong to
//! different stripes, and few pages are written.

use super::{SPARE_CELLS, format::FIRST_CELL};
use crate::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
use crossbeam_utils::CachePadded;
use smallvec::SmallVec;
use std::{sync::atomic::AtomicUsize, thread_local};

const STRIPES: usize = 8;

thread_local! {
    /// Where this thread begins to look.
    static STRIPE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // A checker's schedule must not depend on those before it.
        let next = if cfg!(onlyonce_shuttle) { 0 } else { NEXT.fetch_add(1, Ordering::Relaxed) };
        next % STRIPES
    };
}

/// The free cells of one stripe, a bit each, numbered within the stripe.
#[derive(Debug, Default)]
struct Stripe {
    words: Vec<u64>,
    /// No word before this one has a bit.
    first: usize,
    len: usize,
}

impl Stripe {
    fn give(&mut self, nth: usize) {
        let word = nth / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (nth % 64);
        self.first = self.first.min(word);
        self.len += 1;
    }

    fn take_lowest(&mut self) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        self.first += self.words[self.first..].iter().position(|word| *word != 0)?;
        let word = &mut self.words[self.first];
        let bit = word.trailing_zeros() as usize;
        *word &= *word - 1;
        self.len -= 1;
        Some(self.first * 64 + bit)
    }
}

#[derive(Debug)]
pub(super) struct FreeCells {
    stripes: [CachePadded<Mutex<Stripe>>; STRIPES],
    /// What first claims leave to takeovers and checkpoints. Filled up before the stripes are.
    spare: Mutex<Vec<u32>>,
    /// Some of the spare ones are in use.
    short: AtomicBool,
}

impl FreeCells {
    pub fn none() -> Self {
        FreeCells {
            stripes: std::array::from_fn(|_| CachePadded::default()),
            spare: Mutex::default(),
            short: AtomicBool::new(true),
        }
    }

    /// How many a first claim may take.
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len).sum()
    }

    /// Takes so many cells, or none. A `first` claim gets none of the spare ones.
    pub fn take(&self, count: usize, first: bool) -> Option<SmallVec<[u32; 2]>> {
        if count == 1
            && let Some(cell) = self.take_one()
        {
            return Some(SmallVec::from_elem(cell, 1));
        }
        // Of all at once, so that two who each want several don't stop each other half way.
        let mut stripes: [_; STRIPES] = std::array::from_fn(|at| self.stripes[at].lock());
        let mut spare = (!first).then(|| self.spare.lock());
        let spared = spare.as_ref().map_or(0, |spare| spare.len());
        if spare.is_some() {
            self.short.store(true, Ordering::SeqCst);
        }
        if stripes.iter().map(|stripe| stripe.len).sum::<usize>() + spared < count {
            return None;
        }
        let free = stripes
            .iter_mut()
            .enumerate()
            .flat_map(|(at, stripe)| {
                std::iter::from_fn(move || Some(cell(at, stripe.take_lowest()?)))
            })
            .chain(std::iter::from_fn(|| spare.as_mut()?.pop()));
        Some(free.take(count).collect())
    }

    fn take_one(&self) -> Option<u32> {
        let own = STRIPE.with(|stripe| *stripe);
        (own..own + STRIPES).find_map(|at| {
            let at = at % STRIPES;
            self.stripes[at].lock().take_lowest().map(|nth| cell(at, nth))
        })
    }

    /// A cell is free again.
    pub fn give(&self, cell: u32) {
        if self.short.load(Ordering::SeqCst) {
            let mut spare = self.spare.lock();
            if spare.len() < SPARE_CELLS as usize {
                return spare.push(cell);
            }
            self.short.store(false, Ordering::SeqCst);
            drop(spare);
        }
        let number = (cell - FIRST_CELL) as usize;
        self.stripes[number % STRIPES].lock().give(number / STRIPES);
    }
}

/// The `nth` cell of a stripe.
fn cell(stripe: usize, nth: usize) -> u32 {
    FIRST_CELL + (nth * STRIPES + stripe) as u32
}

#[cfg(all(test, not(onlyonce_loom)))]
mod tests {
    use super::*;

    fn with(cells: u32) -> FreeCells {
        let free = FreeCells::none();
        (FIRST_CELL..FIRST_CELL + cells).rev().for_each(|cell| free.give(cell));
        free
    }

    #[test]
    fn the_first_cells_are_given_out_first_and_again() {
        let free = with(SPARE_CELLS + 800);
        let taken: Vec<u32> = (0..32).flat_map(|_| free.take(1, true).unwrap()).collect();
        // One thread takes from one stripe; eight of its neighbours are other threads'.
        assert!(taken.iter().all(|cell| *cell < FIRST_CELL + 32 * STRIPES as u32));
        let again = [7, 0, 20, 3].map(|at| taken[at]);
        again.iter().for_each(|cell| free.give(*cell));
        let lowest: Vec<u32> = (0..4).flat_map(|_| free.take(1, true).unwrap()).collect();
        assert_eq!(lowest, [0, 3, 7, 20].map(|at| taken[at]));
    }

    #[test]
    fn other_stripes_are_taken_from_when_the_own_is_empty() {
        let free = with(SPARE_CELLS + 20);
        let taken: Vec<u32> = (0..20).flat_map(|_| free.take(1, true).unwrap()).collect();
        assert_eq!(free.take(1, true), None);
        assert_eq!(free.len(), 0);
        taken.iter().for_each(|cell| free.give(*cell));
        assert_eq!(free.len(), 20);
    }

    #[test]
    fn several_are_taken_at_once_or_none_at_all() {
        let free = with(SPARE_CELLS + 20);
        assert_eq!(free.take(21, true), None);
        assert_eq!(free.len(), 20);
        let taken = free.take(20, true).unwrap();
        assert_eq!(taken.len(), 20);
    }

    #[test]
    fn spare_cells_are_for_later_versions_and_are_filled_up_first() {
        let free = with(SPARE_CELLS + 2);
        let first = free.take(2, true).unwrap();
        assert_eq!(free.take(1, true), None);
        let later = free.take(SPARE_CELLS as usize, false).unwrap();
        assert_eq!(free.take(1, false), None);
        first.iter().for_each(|cell| free.give(*cell));
        assert_eq!(free.take(1, true), None);
        later.iter().for_each(|cell| free.give(*cell));
        assert_eq!(free.len(), 2);
    }
}
