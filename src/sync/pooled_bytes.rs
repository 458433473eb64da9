//! Bytes that were copied out for a caller: shared as an `Arc` is, and the memory is used again.
//!
//! What a thread lets go of last is kept for its next copy. Memory of more than a kilobyte costs an
//! allocator more than all the rest of a small copy, and needn't be zeroed again.

use crate::sync::thread_local;
use std::{cell::Cell, fmt, iter::repeat_n, ops::Deref, sync::Arc};

/// Largest memory that a thread keeps.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Memory comes in multiples of this, so that copies of nearly the same length fit.
const STEP: usize = 128;

thread_local! {
    static SPARE: Cell<Option<Arc<[u8]>>> = const { Cell::new(None) };
}

/// The first `len` bytes of some memory, which are never changed once they are shared.
#[derive(Clone)]
pub(crate) struct Copied {
    /// Always there, until it is dropped.
    memory: Option<Arc<[u8]>>,
    len: usize,
}

impl Copied {
    /// `len` bytes that `fill` writes, all of them: it is given zeros or an earlier copy.
    pub fn new(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        // Not much too large: the caller may keep it.
        let mut memory = spare
            .filter(|spare| (len..=2 * len + STEP).contains(&spare.len()))
            .unwrap_or_else(|| repeat_n(0, len.next_multiple_of(STEP)).collect());
        let bytes = Arc::get_mut(&mut memory).expect("it is the only reference");
        fill(&mut bytes[..len]);
        Copied { memory: Some(memory), len }
    }
}

impl Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.as_ref().expect("there until it is dropped")[..self.len]
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // There are no weak references: the only reference owns the memory.
        let only = |memory: &Arc<[u8]>| Arc::strong_count(memory) == 1;
        let memory = self.memory.take().filter(only);
        if memory.as_ref().is_some_and(|memory| memory.len() <= KEPT_BYTES_MAX) {
            // A thread that is ending keeps nothing.
            let _ = SPARE.try_with(|spare| spare.set(memory));
        }
    }
}

impl From<&[u8]> for Copied {
    fn from(bytes: &[u8]) -> Self {
        Copied::new(bytes.len(), |copy| copy.copy_from_slice(bytes))
    }
}

impl PartialEq for Copied {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Copied {}

impl fmt::Debug for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the memory is.
    fn place(copy: &Copied) -> *const u8 {
        copy.as_ptr()
    }

    #[test]
    fn memory_is_used_again_by_the_next_copy_that_fits() {
        let first = Copied::from(&[1; 1060][..]);
        let at = place(&first);
        drop(first);
        let second = Copied::from(&[2; 1000][..]);
        assert_eq!((place(&second), &second[..]), (at, &[2; 1000][..]));
        drop(second);
        // Much too large for this one, and too small for that one.
        let small = Copied::from(&[3; 10][..]);
        assert_ne!(place(&small), at);
        let large = Copied::from(&vec![4; KEPT_BYTES_MAX + 1][..]);
        assert_eq!(large[..], vec![4; KEPT_BYTES_MAX + 1][..]);
    }

    proptest! {
        #[test]
        fn nobody_sees_anothers_bytes(steps in prop::collection::vec((0..5_usize, 0..3000_usize), 1..60)) {
            // Some are kept, some cloned, some dropped here or on another thread.
            let mut held: Vec<(Copied, Vec<u8>)> = Vec::new();
            for (n, (what, len)) in steps.into_iter().enumerate() {
                match what {
                    0 if !held.is_empty() => drop(held.swap_remove(len % held.len())),
                    1 if !held.is_empty() => {
                        let (copy, bytes) = &held[len % held.len()];
                        let twin = (copy.clone(), bytes.clone());
                        held.push(twin);
                    }
                    2 if !held.is_empty() => {
                        let gone = held.swap_remove(len % held.len());
                        std::thread::spawn(move || drop(gone)).join().unwrap();
                    }
                    _ => {
                        let bytes = vec![n as u8; len];
                        held.push((Copied::from(&bytes[..]), bytes));
                    }
                }
                prop_assert!(held.iter().all(|(copy, bytes)| copy[..] == bytes[..]));
            }
        }
    }
}
