//! A hierarchical timing wheel: which of many deadlines have passed, in constant time each.
//!
//! The wheel is pure: it reads no clock, takes no lock and does no I/O. Its caller says what time
//! it is, in milliseconds from any origin it likes, and one tick is one millisecond.
//!
//! A time is read as eleven digits to the base 64, and a level of the wheel belongs to each digit.
//! A timer lies on the level of the *highest digit in which its deadline differs from the wheel's
//! time*, in the slot named by the deadline's digit there:
//!
//! ```text
//! time      0 0 0 0 0 0 0 0 | 5 | 17 | 40
//! deadline  0 0 0 0 0 0 0 0 | 5 | 21 |  3      differs first on level 1: slot 21 there
//! ```
//!
//! What follows from that rule, and what the code below relies on:
//!
//! * eleven levels cover all of `u64`, so there is no deadline "beyond the wheel", no span to
//!   configure and no overflow list that could hide a near timer behind a far one;
//! * on a level above 0 every occupied slot is later than the time's own digit, and everything on
//!   a level is earlier than everything on the levels above it; the wheel never wraps round;
//! * a level-0 slot holds a single tick, except the slot of the current time: it also takes what
//!   was inserted when already due;
//! * when time enters a slot of level `n`, its timers agree with the time in digit `n` and all
//!   above, so they move to lower levels only: a timer moves at most ten times in its life, and
//!   re-placing can never refill the slot that is being emptied.
//!
//! Timers live in a slab whose free nodes are reused; slots are doubly linked lists of slab
//! indices. The slab grows to the largest number of timers ever pending at once and stays there.

#[cfg(test)]
mod tests;

use std::{mem, num::NonZeroU32};

/// Bits of time that one level resolves: one digit.
const DIGIT_BITS: usize = 6;
/// Slots a level: one for each value of a digit, and one bit each in a `u64`.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Levels: as many digits as a `u64` has. The topmost has 4 bits and uses 16 of its slots.
const LEVELS: usize = u64::BITS.div_ceil(DIGIT_BITS as u32) as usize;
/// "No node": the end of a list.
const NIL: u32 = u32::MAX;
/// Set in [`Node::prev`] of a list's first node; the other bits are then the list's bucket.
const HEAD: u32 = 1 << 31;

// A level's slots are the bits of one word; a bucket must fit beside the HEAD bit.
const _: () = assert!(SLOTS == u64::BITS as usize && LEVELS * SLOTS < HEAD as usize);
// Index entries keep one of these for each pending key.
const _: () = assert!(size_of::<TimerId>() == 8 && size_of::<Option<TimerId>>() == 8);

/// Names one timer of one wheel, and never another timer of that wheel: after the timer has fired
/// or was cancelled, its id is dead and using it has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    /// The node of the slab.
    node: u32,
    /// The node's generation when the timer was inserted.
    generation: NonZeroU32,
}

/// Pending timers, each with a value that is handed out when its deadline has passed.
pub(crate) struct TimingWheel<T> {
    /// The latest time given to [`advance`](Self::advance). It only grows.
    elapsed: u64,
    /// Absent until the first insert: most of a store's many wheels never see one.
    pending: Option<Box<Pending<T>>>,
}

/// Everything a wheel that was used at least once needs.
struct Pending<T> {
    /// For each level, bit `s` is set exactly if slot `s` holds a timer.
    occupied: [u64; LEVELS],
    /// The slab.
    nodes: Vec<Node<T>>,
    /// The first free node, or [`NIL`]; free nodes are chained by `next`.
    free: u32,
    /// How many timers are pending.
    len: usize,
    /// The first node of each bucket (level * SLOTS + slot), or [`NIL`].
    heads: [u32; LEVELS * SLOTS],
}

/// One place in the slab.
struct Node<T> {
    /// When the timer is due.
    deadline: u64,
    /// The next node of the same list, or [`NIL`].
    next: u32,
    /// The previous node of the same list, or [`HEAD`] with the bucket.
    prev: u32,
    /// Grows with each reuse, so that an id of an earlier timer does not match.
    generation: NonZeroU32,
    /// Present exactly while a timer is pending here.
    value: Option<T>,
}

impl<T> TimingWheel<T> {
    /// An empty wheel whose time is `now`. Allocates nothing.
    pub(crate) fn new(now: u64) -> Self {
        Self { elapsed: now, pending: None }
    }

    /// Adds a timer. If its deadline has already passed, it fires at the next
    /// [`advance`](Self::advance).
    ///
    /// # Panics
    ///
    /// If 2^31 timers are pending.
    pub(crate) fn insert(&mut self, deadline: u64, value: T) -> TimerId {
        let pending = self.pending.get_or_insert_with(Pending::boxed);
        let id = pending.allocate(deadline, value);
        pending.link(id.node, self.elapsed);
        id
    }

    /// Removes a timer and returns its value; `None` if it has fired or was cancelled before.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        let pending = self.pending.as_deref_mut()?;
        let node = pending.nodes.get(id.node as usize)?;
        if node.generation != id.generation || node.value.is_none() {
            return None;
        }
        pending.unlink(id.node);
        pending.release(id.node)
    }

    /// Moves time to `now` and hands every value whose deadline is `now` or earlier to `fired`.
    /// Does nothing if `now` is before a time already reached.
    ///
    /// Each timer is touched at most twice, however far time jumps. If `fired` panics, the value
    /// it was given is gone and all others that are due fire at the next call.
    pub(crate) fn advance(&mut self, now: u64, fired: &mut impl FnMut(T)) {
        if now < self.elapsed {
            return;
        }
        let Some(pending) = self.pending.as_deref_mut().filter(|pending| pending.len > 0) else {
            self.elapsed = now;
            return;
        };
        // The highest digit that changes. Every slot below it is passed as a whole, and on its
        // own level those before the new digit; timers above it are still in the right slots.
        let top = level(self.elapsed, now);
        for level in 0..top {
            pending.drain(level, u64::MAX, fired);
        }
        let slot = digit(now, top);
        pending.drain(top, (1 << slot) - 1, fired);
        // Only here, with nothing left that is placed by the digits that change: should `fired`
        // panic above, all that remains is still placed by the old time, and found again.
        self.elapsed = now;
        if top > 0 {
            pending.cascade(bucket(top, slot), now);
        }
        pending.drain(0, 1 << digit(now, 0), fired);
    }

    /// The time until which [`advance`](Self::advance) has nothing to do; `None` if no timer is
    /// pending.
    ///
    /// It is never later than the earliest deadline, and may be earlier: the moment a slot of a
    /// higher level is entered and its timers move down. It is later than the wheel's time unless
    /// something is due already; then it is the wheel's time.
    pub(crate) fn next_wakeup(&self) -> Option<u64> {
        let pending = self.pending.as_deref()?;
        let level = pending.occupied.iter().position(|&slots| slots != 0)?;
        let slot = u64::from(pending.occupied[level].trailing_zeros());
        let shift = level * DIGIT_BITS;
        let above = (self.elapsed >> shift) & !(SLOTS as u64 - 1);
        Some((above | slot) << shift)
    }

    /// How many timers are pending.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.len)
    }

    /// Whether no timer is pending.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Pending<T> {
    /// Nothing pending, and no slab yet.
    fn boxed() -> Box<Self> {
        Box::new(Self {
            occupied: [0; LEVELS],
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            heads: [NIL; LEVELS * SLOTS],
        })
    }

    /// Puts a timer in a free node, which is not in any list yet.
    fn allocate(&mut self, deadline: u64, value: T) -> TimerId {
        if let Some(node) = self.nodes.get_mut(self.free as usize) {
            let id = TimerId { node: self.free, generation: node.generation };
            self.free = node.next;
            node.deadline = deadline;
            node.value = Some(value);
            self.len += 1;
            return id;
        }
        assert!(self.nodes.len() < HEAD as usize, "2^31 timers are pending");
        let id = TimerId { node: self.nodes.len() as u32, generation: NonZeroU32::MIN };
        self.nodes.push(Node {
            deadline,
            next: NIL,
            prev: NIL,
            generation: id.generation,
            value: Some(value),
        });
        self.len += 1;
        id
    }

    /// Frees a node that is in no list, and returns what it held.
    fn release(&mut self, index: u32) -> Option<T> {
        self.len -= 1;
        let node = &mut self.nodes[index as usize];
        // A node whose generations are used up is retired, else an old id could name a new timer.
        // A busy store spends 2^32 of them on one node within hours; the loss is one node each.
        if let Some(generation) = node.generation.checked_add(1) {
            node.generation = generation;
            node.next = self.free;
            self.free = index;
        }
        node.value.take()
    }

    /// Adds a node to the list in which its deadline belongs at the time `elapsed`.
    fn link(&mut self, index: u32, elapsed: u64) {
        let node = &mut self.nodes[index as usize];
        // Overdue timers are in the slot of the current tick.
        let deadline = node.deadline.max(elapsed);
        let level = level(elapsed, deadline);
        let slot = digit(deadline, level);
        let bucket = bucket(level, slot);
        let next = mem::replace(&mut self.heads[bucket], index);
        node.next = next;
        node.prev = HEAD | bucket as u32;
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.prev = index;
        }
        self.occupied[level] |= 1 << slot;
    }

    /// Takes a node out of its list.
    fn unlink(&mut self, index: u32) {
        let Node { next, prev, .. } = self.nodes[index as usize];
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.prev = prev;
        }
        if prev & HEAD == 0 {
            self.nodes[prev as usize].next = next;
            return;
        }
        let bucket = (prev & !HEAD) as usize;
        self.heads[bucket] = next;
        if next == NIL {
            self.vacate(bucket);
        }
    }

    /// Notes that a bucket has become empty.
    fn vacate(&mut self, bucket: usize) {
        self.occupied[bucket / SLOTS] &= !(1 << (bucket % SLOTS));
    }

    /// Fires all timers in those slots of a level that `mask` names, earlier slots first.
    fn drain(&mut self, level: usize, mask: u64, fired: &mut impl FnMut(T)) {
        loop {
            let slots = self.occupied[level] & mask;
            if slots == 0 {
                return;
            }
            let bucket = bucket(level, slots.trailing_zeros() as usize);
            // One at a time: the wheel is whole whenever foreign code runs.
            let index = self.heads[bucket];
            self.unlink(index);
            if let Some(value) = self.release(index) {
                fired(value);
            }
        }
    }

    /// Moves the timers of a slot that time has entered to the lower levels where they belong now.
    fn cascade(&mut self, bucket: usize, elapsed: u64) {
        let mut index = mem::replace(&mut self.heads[bucket], NIL);
        self.vacate(bucket);
        while let Some(node) = self.nodes.get(index as usize) {
            let next = node.next;
            self.link(index, elapsed);
            index = next;
        }
        debug_assert_eq!(self.heads[bucket], NIL, "a cascade refilled its own slot");
    }
}

/// The highest digit in which two times differ; 0 if they are equal.
fn level(a: u64, b: u64) -> usize {
    ((a ^ b) | 1).ilog2() as usize / DIGIT_BITS
}

/// The digit of a time on a level.
fn digit(time: u64, level: usize) -> usize {
    (time >> (level * DIGIT_BITS)) as usize % SLOTS
}

/// Where the list of a slot begins among all levels' lists.
fn bucket(level: usize, slot: usize) -> usize {
    level * SLOTS + slot
}
