//! The free cells.
//!
//! They are in stripes, and each thread takes from its own first: so threads that claim at the same
//! time don't meet here, and each writes the cells that it has just freed. A cell returns to the
//! stripe that its number names, whichever thread frees it, and each stripe gives out its lowest
//! numbers first, in whatever order they came back: the cells in use stay together in few pages,
//! because neighbours belong to different stripes, and few pages are written.

use super::{Purpose, format::FIRST_CELL};
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

/// How many cells first claims leave to takeovers and to checkpoints. Each has a share of its own,
/// so that neither can use up the other's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spared {
    pub takeovers: u64,
    pub checkpoints: u64,
}

impl Spared {
    /// The number of spare cells of both kinds in the smallest file. Half of it is more than the
    /// longest chain.
    pub const LEAST: u32 = 2 * Self::SHARE as u32;
    const SHARE: u64 = 24;
    /// First claims of the smallest file.
    const CLAIMS: u64 = 14;

    /// Of a file of so many cells, its header not counted.
    pub fn of(cells: u64) -> Self {
        // Of a small file checkpoints have less, so that claims fit into it at all.
        let left = cells.saturating_sub(Self::CLAIMS + Self::SHARE);
        Spared {
            takeovers: (cells / 32).max(Self::SHARE),
            checkpoints: (cells / 16).max(left.clamp(Self::SHARE, 2 * Self::SHARE)),
        }
    }

    pub fn sum(self) -> u64 {
        self.takeovers + self.checkpoints
    }
}

/// The spare cells that are free. Both pools are filled up before the stripes are.
#[derive(Debug, Default)]
struct Spare {
    takeovers: Vec<u32>,
    checkpoints: Vec<u32>,
}

impl Spare {
    fn of(&mut self, purpose: Purpose) -> Option<&mut Vec<u32>> {
        match purpose {
            Purpose::Claim => None,
            Purpose::Takeover => Some(&mut self.takeovers),
            Purpose::Checkpoint => Some(&mut self.checkpoints),
        }
    }

    /// Gives a cell to the pool of which less is left; to neither, if both are full.
    fn refill(&mut self, cell: u32, whole: Spared) -> bool {
        let takeovers = self.takeovers.len() as u64;
        let checkpoints = self.checkpoints.len() as u64;
        if takeovers >= whole.takeovers && checkpoints >= whole.checkpoints {
            return false;
        }
        if takeovers * whole.checkpoints <= checkpoints * whole.takeovers {
            self.takeovers.push(cell);
        } else {
            self.checkpoints.push(cell);
        }
        true
    }
}

#[derive(Debug)]
pub(super) struct FreeCells {
    stripes: [CachePadded<Mutex<Stripe>>; STRIPES],
    spare: Mutex<Spare>,
    /// The number of cells that each pool is filled up to.
    spared: Spared,
    /// Some of the spare ones are in use.
    short: AtomicBool,
}

impl FreeCells {
    /// None is free yet, of a file of so many cells, its header not counted.
    pub fn none(cells: u64) -> Self {
        FreeCells {
            stripes: std::array::from_fn(|_| CachePadded::default()),
            spare: Mutex::default(),
            spared: Spared::of(cells),
            short: AtomicBool::new(true),
        }
    }

    /// How many a first claim may take.
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len).sum()
    }

    /// Takes so many cells, or none: those that are not spare before the spare ones of this
    /// purpose.
    pub fn take(&self, count: usize, purpose: Purpose) -> Option<SmallVec<[u32; 2]>> {
        if count == 1
            && let Some(cell) = self.take_one()
        {
            return Some(SmallVec::from_elem(cell, 1));
        }
        // With all locks, so that two callers that each want several don't stop each other half
        // way.
        let mut stripes: [_; STRIPES] = std::array::from_fn(|at| self.stripes[at].lock());
        let mut spare = (purpose != Purpose::Claim).then(|| self.spare.lock());
        if spare.is_some() {
            self.short.store(true, Ordering::SeqCst);
        }
        let mut spare = spare.as_mut().and_then(|spare| spare.of(purpose));
        let spared = spare.as_ref().map_or(0, |spare| spare.len());
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

    /// Calls `what` with each cell that is free, which nothing else takes during the call.
    pub fn each<E>(&self, mut what: impl FnMut(u32) -> Result<(), E>) -> Result<(), E> {
        for (at, stripe) in self.stripes.iter().enumerate() {
            let words = stripe.lock().words.len();
            // The lock is held for a word's cells at a time.
            for word in 0..words {
                let stripe = stripe.lock();
                let mut bits = stripe.words.get(word).copied().unwrap_or(0);
                while bits != 0 {
                    what(cell(at, word * 64 + bits.trailing_zeros() as usize))?;
                    bits &= bits - 1;
                }
            }
        }
        let spare = self.spare.lock();
        spare.takeovers.iter().chain(&spare.checkpoints).try_for_each(|cell| what(*cell))
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
            if spare.refill(cell, self.spared) {
                return;
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
    use super::{super::Cells, *};
    use Purpose::*;

    /// `claims` cells beside the spare ones of a file of 1,024.
    fn with(claims: u32) -> FreeCells {
        let free = FreeCells::none(1024);
        let cells = claims + free.spared.sum() as u32;
        (FIRST_CELL..FIRST_CELL + cells).rev().for_each(|cell| free.give(cell));
        free
    }

    #[test]
    fn the_first_cells_are_given_out_first_and_again() {
        let free = with(800);
        let taken: Vec<u32> = (0..32).flat_map(|_| free.take(1, Claim).unwrap()).collect();
        // One thread takes from one stripe; eight of its neighbours are other threads'.
        assert!(taken.iter().all(|cell| *cell < FIRST_CELL + 32 * STRIPES as u32));
        let again = [7, 0, 20, 3].map(|at| taken[at]);
        again.iter().for_each(|cell| free.give(*cell));
        let lowest: Vec<u32> = (0..4).flat_map(|_| free.take(1, Claim).unwrap()).collect();
        assert_eq!(lowest, [0, 3, 7, 20].map(|at| taken[at]));
    }

    #[test]
    fn other_stripes_are_taken_from_when_the_own_is_empty() {
        let free = with(20);
        let taken: Vec<u32> = (0..20).flat_map(|_| free.take(1, Claim).unwrap()).collect();
        assert_eq!(free.take(1, Claim), None);
        assert_eq!(free.len(), 0);
        taken.iter().for_each(|cell| free.give(*cell));
        assert_eq!(free.len(), 20);
    }

    #[test]
    fn several_are_taken_at_once_or_none_at_all() {
        let free = with(20);
        assert_eq!(free.take(21, Claim), None);
        assert_eq!(free.len(), 20);
        let taken = free.take(20, Claim).unwrap();
        assert_eq!(taken.len(), 20);
    }

    #[test]
    fn each_purpose_has_its_own_spare_cells_which_are_filled_up_first() {
        for (uses, leaves) in [(Takeover, Checkpoint), (Checkpoint, Takeover)] {
            let free = with(2);
            let all = |purpose| match purpose {
                Takeover => free.spared.takeovers as usize,
                _ => free.spared.checkpoints as usize,
            };
            let first = free.take(2, Claim).unwrap();
            assert_eq!(free.take(1, Claim), None);
            let used = free.take(all(uses), uses).unwrap();
            assert_eq!(free.take(1, uses), None);
            // The other is whole.
            let others = free.take(all(leaves), leaves).unwrap();
            assert_eq!(free.take(1, leaves), None);
            first.iter().for_each(|cell| free.give(*cell));
            // Each has got one of the two.
            assert_eq!(free.take(1, Claim), None);
            let again = [uses, leaves].map(|purpose| free.take(1, purpose).unwrap());
            again.iter().flatten().for_each(|cell| free.give(*cell));
            used.iter().chain(&others).for_each(|cell| free.give(*cell));
            assert_eq!(free.len(), 2);
        }
    }

    #[test]
    fn a_file_for_so_many_claims_holds_them_and_a_page_less_does_not() {
        let few = 1..3000;
        let many = (3000..1 << 22).step_by(9973);
        for claims in few.chain(many).chain([1 << 22]) {
            let bytes = Cells::file_bytes(claims);
            assert!(Cells::claims_in(bytes) >= u64::from(claims), "{claims}");
            let smaller = Cells::claims_in(bytes - 4096);
            assert!(smaller < u64::from(claims), "{claims}: {smaller} in less");
        }
    }

    #[test]
    fn the_shares_grow_with_the_file() {
        let shares = |cells| (Spared::of(cells).takeovers, Spared::of(cells).checkpoints);
        // The smallest file that a store makes, and those of one and two pages more.
        assert_eq!([62, 78, 94].map(shares), [(24, 24), (24, 40), (24, 48)]);
        assert_eq!([768, 3200].map(shares), [(24, 48), (100, 200)]);
        // Never less for claims in a larger file.
        let claims: Vec<u64> = (1..300).map(|page| Cells::claims_in(page * 4096)).collect();
        assert!(claims.is_sorted());
        assert_eq!(claims[3], 14);
    }
}
