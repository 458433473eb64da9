//! The ring in front of the log: a few megabytes that stay hot, into which appenders copy and from
//! which large writes move records to the segments.
//!
//! Ground rules. A position is handed out once (by the appender, under its lock), and only while
//! less than the ring's size is between it and the drained position: so appenders never write the
//! same bytes at once, and never bytes that are still to be drained. An appender copies its frame
//! and then marks it as written, in the memory of the process and not in the ring, where an earlier
//! lap's bytes could look like a mark. The mark of a frame is the position at which it ends, kept
//! at the place where it starts; marks only grow, so a mark at or below a position is an earlier
//! lap's. The written prefix is found by walking marks. A reader copies without a lock and may meet
//! an appender that laps it; all copying is by atomic words, and the frame's checksum (seeded with
//! what cannot repeat) shows it.

use crate::{
    storage::{Region, StorageFile},
    sync::atomic::{AtomicU64, Ordering},
};
use std::{io, ops::Range, sync::atomic::fence};

/// Bytes of the ring that share a mark: at most one frame starts in them.
const GRANULE: u64 = 64;
const _: () = assert!(GRANULE as usize <= super::frame::HEADER_BYTES);

#[derive(Debug)]
pub(crate) struct Ring {
    region: Region,
    bytes: u64,
    marks: Box<[AtomicU64]>,
}

impl Ring {
    /// A ring over the whole of `region`, whose first position is `start`.
    pub fn new(region: Region, start: u64) -> Self {
        let bytes = region.len() as u64;
        assert!(bytes.is_multiple_of(GRANULE), "a ring is a whole number of granules");
        let marks = (0..bytes / GRANULE).map(|_| AtomicU64::new(start)).collect();
        Ring { region, bytes, marks }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn mark_of(&self, position: u64) -> &AtomicU64 {
        &self.marks[(position % self.bytes / GRANULE) as usize]
    }

    /// Splits a range at the end of the ring: (place, length) of the first part and the length
    /// of the second, which starts at place 0.
    fn split(&self, position: u64, len: usize) -> (usize, usize, usize) {
        let at = (position % self.bytes) as usize;
        let first = len.min(self.bytes as usize - at);
        (at, first, len - first)
    }

    /// Copies a frame in, and marks it.
    pub fn write(&self, position: u64, frame: &[u8]) -> io::Result<()> {
        let (at, first, rest) = self.split(position, frame.len());
        self.region.store(at, &frame[..first])?;
        if rest > 0 {
            self.region.store(0, &frame[first..])?;
        }
        self.mark_of(position).store(position + frame.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Where the frames that are written without a gap from `from` on end; beyond `enough` no
    /// further frame is looked at.
    pub fn written_within(&self, from: u64, enough: u64) -> u64 {
        let mut position = from;
        while position < enough {
            let end = self.mark_of(position).load(Ordering::Acquire);
            if end <= position {
                break;
            }
            position = end;
        }
        position
    }

    /// Copies bytes out. They may be torn if the range has been lapped.
    pub fn load(&self, position: u64, into: &mut [u8]) {
        if into.len() as u64 > self.bytes {
            // The record of an earlier use of a segment, asked for by a reader that doesn't know
            // yet that it has gone.
            into.fill(0);
            return;
        }
        let (at, first, rest) = self.split(position, into.len());
        let (head, tail) = into.split_at_mut(first);
        self.region.load(at, head);
        if rest > 0 {
            self.region.load(0, tail);
        }
    }

    /// The places of the ring in pieces of a moderate size.
    pub fn pieces(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        const PIECE: u64 = 256 << 10;
        let bytes = self.bytes;
        (0..bytes).step_by(PIECE as usize).map(move |from| from..(from + PIECE).min(bytes))
    }

    /// Overwrites with zeros those places of a piece that the positions `free`, at most a lap, have.
    /// The caller has seen that what they held before was drained, and no appender is given one.
    pub fn blank(&self, piece: Range<u64>, free: Range<u64>) -> io::Result<()> {
        // A reader that meets one of these bytes sees next how far the ring was drained.
        fence(Ordering::Release);
        let zeros = [0; 4096];
        let (at, first, rest) = self.split(free.start, (free.end - free.start) as usize);
        for (from, len) in [(at as u64, first as u64), (0, rest as u64)] {
            let (mut from, to) = (from.max(piece.start), (from + len).min(piece.end));
            while from < to {
                let len = (to - from).min(zeros.len() as u64);
                self.region.store(from as usize, &zeros[..len as usize])?;
                from += len;
            }
        }
        Ok(())
    }

    /// Moves a written, undrained range into a file.
    pub fn drain_to(
        &self,
        position: u64,
        len: u64,
        file: &dyn StorageFile,
        offset: u64,
    ) -> io::Result<()> {
        file.write_region(offset, &self.region, (position % self.bytes) as usize, len as usize)
    }
}

#[cfg(all(test, onlyonce_loom))]
mod loom_tests {
    use super::*;
    use crate::storage::heap_region;
    use loom::thread;
    use std::sync::Arc;

    /// Two appenders finish in any order: the written prefix never includes bytes that are not
    /// there yet, and in the end includes all.
    #[test]
    fn the_written_prefix_has_no_holes() {
        loom::model(|| {
            let ring = Arc::new(Ring::new(heap_region(512), 512));
            let frame = |byte: u8| [byte; 128];
            let other = {
                let ring = ring.clone();
                thread::spawn(move || ring.write(512, &frame(1)).unwrap())
            };
            let second = {
                let ring = ring.clone();
                thread::spawn(move || ring.write(640, &frame(2)).unwrap())
            };
            let prefix = ring.written_within(512, u64::MAX);
            assert!([512, 640, 768].contains(&prefix));
            let mut read = [0; 128];
            if prefix >= 640 {
                ring.load(512, &mut read);
                assert_eq!(read, frame(1));
            }
            other.join().unwrap();
            second.join().unwrap();
            assert_eq!(ring.written_within(512, u64::MAX), 768);
        });
    }
}
