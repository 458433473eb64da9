//! Finding frames in bytes whose footer is missing: what a crash left of a segment, or a ring.
//!
//! Every frame whose checksum, life and position fit is accepted, wherever it is (in the part of a
//! segment that earlier lives have filled: of any life that is not later). Bytes between accepted
//! frames are reported, and recovery decides by the durable position whether they are damage or
//! were never promised:
//!
//! | bytes | below the durable position | above it |
//! |---|---|---|
//! | a whole frame, at its position | accept | accept |
//! | a whole frame that says another position | damage | skip |
//! | no whole frame, another one behind it | damage | hole: never acknowledged |
//! | no whole frame up to the end | damage | the end |
//!
//! The mark of an erased frame is passed over like a void.

use super::{
    erased,
    footer::ActiveSince,
    frame::{HEADER_BYTES, Header, Seed, check_body, check_header},
};
use crate::broken::{self, Broken};
use std::ops::Range;

/// A whole frame, and its place in the scanned bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub offset: u64,
    pub header: Header,
}

/// The frames and the end that a scan has found in a segment.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub frames: Vec<Found>,
    /// Offset and length of frames that have been erased.
    pub erased: Vec<(u64, u32)>,
    /// Unreadable bytes with accepted frames behind them.
    pub holes: Vec<Range<u64>>,
    /// Where the last accepted frame ends.
    pub end: u64,
}

/// The whole frame at `at`, if there is one.
fn frame_at(bytes: &[u8], at: usize, seed: Seed) -> Option<Header> {
    let fixed = bytes.get(at..)?.first_chunk::<HEADER_BYTES>()?;
    // A length of zero is never valid: skips blank space quickly.
    if fixed[4..8] == [0; 4] {
        return None;
    }
    let header = Header::decode(fixed, bytes.len() - at)?;
    let names = &bytes[at + HEADER_BYTES..at + header.head_at()];
    let body = &bytes[at + header.head_at()..at + header.len as usize];
    (check_header(seed, fixed, names) && check_body(&header, body)).then_some(header)
}

/// Scans a segment's bytes from `from` on, by what its header says of it.
pub(crate) fn scan_segment(bytes: &[u8], from: u64, seed: Seed, since: &ActiveSince) -> Scan {
    let base = since.base;
    let mut scan = Scan { end: from, ..Scan::default() };
    let mut at = from;
    let life_fits = |header: &Header, at: u64| match at < since.from {
        true => header.life <= since.life,
        false => header.life == since.life || broken::is(Broken::LifeNotSeeded),
    };
    while at + HEADER_BYTES as u64 <= bytes.len() as u64 {
        let header = frame_at(bytes, at as usize, seed)
            .filter(|header| header.position == base + at && life_fits(header, at));
        let word = bytes[at as usize..].first_chunk().expect("there is room for a header");
        let len = match (header, erased::len_of(seed, at, word)) {
            (Some(header), _) => header.padded() as u64,
            (None, Some(len)) if at + u64::from(len) <= bytes.len() as u64 => u64::from(len),
            (None, _) => {
                at += 8;
                continue;
            }
        };
        if at > scan.end {
            scan.holes.push(scan.end..at);
        }
        match header {
            Some(header) => scan.frames.push(Found { offset: at, header }),
            None => scan.erased.push((at, len as u32)),
        }
        at += len;
        scan.end = at;
    }
    scan
}

/// Scans a ring. `home` returns the seed of the segment that the frame of a life at a position
/// belongs to. The offsets found are into `ring` followed by its first half, which is returned too:
/// the longest frame takes a quarter.
pub(crate) fn scan_ring(
    ring: &[u8],
    home: impl Fn(u32, u64) -> Option<Seed>,
) -> (Vec<Found>, Vec<u8>) {
    let mut unrolled = Vec::with_capacity(ring.len() + ring.len() / 2);
    unrolled.extend_from_slice(ring);
    unrolled.extend_from_slice(&ring[..ring.len() / 2]);
    let mut found = Vec::new();
    for at in (0..ring.len()).step_by(8) {
        let Some(fixed) = unrolled[at..].first_chunk::<HEADER_BYTES>() else {
            break;
        };
        if fixed[4..8] == [0; 4] {
            continue;
        }
        let Some(header) = Header::decode(fixed, unrolled.len() - at) else {
            continue;
        };
        if header.position % ring.len() as u64 != at as u64 {
            continue;
        }
        let seed = home(header.life, header.position);
        if seed.and_then(|seed| frame_at(&unrolled, at, seed)).is_some() {
            found.push(Found { offset: at as u64, header });
        }
    }
    (found, unrolled)
}
