//! Doors to the decoders and the wheel for the fuzz targets. Not part of the public interface:
//! what is here changes without notice.
//!
//! Each function takes bytes that may be anything, and asserts that what it could read out of
//! them is read again after it has been written.

use crate::{
    claims::{
        Cells,
        format::{self, CELL_BYTES},
    },
    http::{answer_round_trip, encoded_answer, parse_key},
    log::{
        ActiveSince, DATA_START, Draft, Encoded, Frame, Kind, SegmentHeader, Slot,
        frame::{Header, Placed, Seed},
        scan::{Found as Scanned, scan_ring, scan_segment},
    },
    storage::{SimStorage, Storage},
    superblock::{self, SuperblockFile},
    wheel::{TimerId, TimingWheel},
};
use std::collections::BTreeMap;

/// Store, slot and epoch of the frames that [`frame`] and [`scan`] read.
pub const SEED: (u64, u32, u32) = (0x1ce, 1, 1);

fn seed() -> Seed {
    let (store, slot, epoch) = SEED;
    Seed { store, slot, epoch }
}

fn one_file(name: &str, bytes: &[u8]) -> SimStorage {
    SimStorage::from_files(1, BTreeMap::from([(name.to_owned(), bytes.to_vec())]))
}

/// Reads a frame. Whether there is one.
pub fn frame(bytes: &[u8]) -> bool {
    let Some(frame) = Frame::parse(seed(), bytes) else {
        return false;
    };
    let header = frame.header;
    if header.kind == Kind::Void {
        return true;
    }
    let mut encoded = Encoded::default();
    encoded.draft(&Draft {
        kind: header.kind,
        key: frame.key(),
        fingerprint: header.fingerprint,
        attempt: header.attempt,
        token: header.token().expect("it is no void"),
        time_ms: header.time_ms,
        replay_until_ms: header.replay_until_ms,
        expires_ms: header.expires_ms,
        head: frame.head(),
        body: frame.body(),
    });
    let Header { class, life, position, .. } = header;
    let placed = Placed { seed: seed(), class, life, position, durable: header.durable_known() };
    let again = Frame::parse(seed(), encoded.place(&placed)).expect("a whole frame");
    let same = Header { durable_lag: header.durable_lag, ..again.header };
    assert_eq!((same, again.rest), (header, frame.rest));
    true
}

/// Looks for frames as in a segment and as in a ring. How many there are.
pub fn scan(bytes: &[u8], base: u64, life: u32) -> usize {
    let since = ActiveSince { life, class: 0, base, from: 0 };
    let scan = scan_segment(bytes, 0, seed(), &since);
    let holes = scan.holes.iter().cloned();
    let erased = scan.erased.iter().map(|(at, len)| *at..at + u64::from(*len));
    let frames = scan.frames.iter().map(|Scanned { offset, header }| {
        assert!(Frame::parse(seed(), &bytes[*offset as usize..]).is_some());
        *offset..offset + header.padded() as u64
    });
    let mut ranges: Vec<_> = holes.chain(erased).chain(frames).collect();
    ranges.sort_by_key(|range| range.start);
    let covered = ranges.iter().fold(0, |end, range| {
        assert_eq!(range.start, end, "neither frame nor hole");
        range.end
    });
    assert!(covered == scan.end && covered <= bytes.len() as u64);
    let (found, unrolled) = scan_ring(bytes, |_, _| Some(seed()));
    for Scanned { offset, .. } in &found {
        assert!(Frame::parse(seed(), &unrolled[*offset as usize..]).is_some());
    }
    scan.frames.len() + found.len()
}

/// Reads the header and the footer of a segment. Whether both are whole.
pub fn segment(bytes: &[u8]) -> bool {
    let Some(Ok(header)) = bytes.first_chunk().map(SegmentHeader::decode) else {
        return false;
    };
    assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    let slot = || {
        let file = one_file("a", bytes).open("a").expect("it is there");
        Slot::new(header.slot, header.epoch, header.store, file).expect("it has a map")
    };
    if bytes.len() < DATA_START as usize {
        return false;
    }
    let Some((entries, summary)) = slot().footer().expect("it can be read") else {
        return false;
    };
    let again = slot();
    again.seal(&entries, &summary).expect("it fits");
    assert_eq!(again.footer().expect("it can be read"), Some((entries, summary)));
    let since =
        header.active.unwrap_or(ActiveSince { life: 0, class: 0, base: 0, from: DATA_START });
    again.reactivate(since).expect("it can be written");
    true
}

/// Reads the cells and hints of a claims file. How many claims there are.
pub fn claims(bytes: &[u8]) -> usize {
    let Some(Ok(header)) = bytes.first_chunk().map(format::Header::decode) else {
        return 0;
    };
    assert_eq!(format::Header::decode(&header.encode()), Ok(header));
    for (number, cell) in bytes.chunks_exact(CELL_BYTES).enumerate() {
        format::decode_cell(header.store, number as u32, cell);
    }
    let contents = format::decode_all(header.store, bytes);
    for found in &contents.claims {
        let written = Cells::image_of(header.store, 0, std::slice::from_ref(found), 0);
        let mut again = format::decode_all(header.store, &written);
        assert!(again.damaged.is_empty());
        let mut again = again.claims.pop().expect("a whole claim");
        again.chain = found.chain.clone();
        // The other cells of its token, which count too, are not written.
        assert!(again.used <= found.used);
        again.used = found.used;
        assert_eq!(again, *found);
    }
    contents.claims.len()
}

/// Reads a superblock. Whether a copy of it is whole.
pub fn superblock(bytes: &[u8]) -> bool {
    let disk = one_file(superblock::FILE, bytes);
    let Ok(Some((file, superblock))) = SuperblockFile::open(&disk) else {
        return false;
    };
    file.write(&superblock).expect("it can be written");
    let (_, again) = SuperblockFile::open(&disk).expect("it is whole").expect("and not blank");
    assert_eq!(again, superblock);
    true
}

/// Reads a stored answer of the HTTP layer. Whether it is one.
pub fn answer(bytes: &[u8]) -> bool {
    answer_round_trip(bytes)
}

/// Stores an answer with these headers and trailers, as far as they are any; it must be readable.
pub fn made_answer(status: u16, lists: [&[(&[u8], &[u8])]; 2], body: &[u8]) {
    let bytes = encoded_answer(status, lists, body);
    assert!(answer_round_trip(&bytes), "what was stored can't be read");
    assert!(bytes.ends_with(body));
}

/// The key that a line of the HTTP layer's header says.
pub fn key(line: &[u8]) -> Option<Vec<u8>> {
    parse_key(line).ok().map(Into::into)
}

/// A timing wheel whose timers are numbered.
pub struct Wheel(TimingWheel<usize>, Vec<TimerId>);

impl Wheel {
    /// An empty wheel whose time is `now`.
    pub fn new(now: u64) -> Self {
        Wheel(TimingWheel::new(now), Vec::new())
    }

    /// Adds a timer; its number.
    pub fn insert(&mut self, deadline: u64) -> usize {
        let number = self.1.len();
        self.1.push(self.0.insert(deadline, number));
        number
    }

    /// Removes a timer. Whether it was pending.
    pub fn cancel(&mut self, number: usize) -> bool {
        let cancelled = self.0.cancel(self.1[number]);
        assert!(cancelled.is_none_or(|cancelled| cancelled == number));
        cancelled.is_some()
    }

    /// Moves time; the numbers of the timers that have fired.
    pub fn advance(&mut self, now: u64) -> Vec<usize> {
        let mut fired = Vec::new();
        self.0.advance(now, &mut |number| fired.push(number));
        fired
    }

    /// When to advance next.
    pub fn next_wakeup(&self) -> Option<u64> {
        self.0.next_wakeup()
    }
}
