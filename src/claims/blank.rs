//! Blanking cells: what they held of claims that are over is overwritten.
//!
//! A cell that is free, or is used again for a shorter claim, still has bytes of the earlier one. They
//! mean nothing, so they are overwritten in place while the store works: of a free cell under the lock
//! of those that give it out, of a used one under the lock of its key's shard.

use super::{
    Cells, Chain,
    format::{CELL_BYTES, FIRST_CELL, LINK_BYTES},
    place,
};
use crate::{poison::Poisoned, storage::is_zero};

/// The cells that an erasure has not come to yet.
pub(crate) struct Unblanked {
    cells: Box<[bool]>,
    left: usize,
}

impl Unblanked {
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Whether the erasure comes to this cell for the first time.
    fn take(&mut self, cell: u32) -> bool {
        let is_left = std::mem::replace(&mut self.cells[cell as usize], false);
        self.left -= usize::from(is_left);
        is_left
    }
}

impl Cells {
    /// All cells, to be blanked.
    pub fn unblanked(&self) -> Unblanked {
        let cells: Box<[bool]> = (0..self.count).map(|cell| cell >= FIRST_CELL).collect();
        Unblanked { left: cells.iter().filter(|left| **left).count(), cells }
    }

    /// Overwrites with zeros what free cells hold behind their words.
    pub fn blank_free(&self, left: &mut Unblanked) -> Result<(), Poisoned> {
        self.poison.check_writer()?;
        self.free.each(|cell| match left.take(cell) {
            true => self.blank_behind(cell, 8),
            false => Ok(()),
        })?;
        self.touch();
        Ok(())
    }

    /// Overwrites with zeros what a chain's cells hold behind what they say. The caller holds the
    /// lock of the shard whose undecided key has the chain, so its cells stay what they are.
    pub fn blank_behind_chain(&self, chain: &Chain, left: &mut Unblanked) -> Result<(), Poisoned> {
        for cell in chain.cells.iter().filter(|cell| left.take(**cell)) {
            let mut fixed = [0; LINK_BYTES];
            self.medium.region().load(place(*cell), &mut fixed);
            let said = LINK_BYTES + usize::from(u16::from_le_bytes([fixed[28], fixed[29]]));
            self.blank_behind(*cell, said.next_multiple_of(8))?;
        }
        Ok(())
    }

    fn blank_behind(&self, cell: u32, from: usize) -> Result<(), Poisoned> {
        let (at, mut bytes) = (place(cell), [0; CELL_BYTES]);
        let Some(behind) = bytes.get_mut(from..).filter(|behind| !behind.is_empty()) else {
            return Ok(());
        };
        self.medium.region().load(at + from, behind);
        if is_zero(behind) {
            return Ok(());
        }
        behind.fill(0);
        self.medium.store(at + from, behind).map_err(|e| self.trip(&e))?;
        // The same again: the next commit writes its page.
        self.store_word(at, self.medium.region().load_word(at))
    }
}
