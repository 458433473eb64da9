//! The description of a segment in itself: the header at its start, the footer at its end.
//!
//! Header, in the first sector; written when the slot is prepared (`free`) and again when it is
//! taken into use (`active`, unsynced: it becomes durable with the first group):
//! ```text
//! 0     8       12    16    24     28     32    36     40    48     56  60
//! |magic|version|slot |store|epoch |state |life |class |base |bytes |from|crc |
//! ```
//! Of `class` the lowest byte is the class, and the rest counts how often frames of the segment were
//! erased: a copy of it from before is known by that.
//!
//! Footer, at the very end of the file; written once the content is durable. `count` entries,
//! then the trailer. Its checksum covers the entries and the trailer's other fields, and is
//! seeded like a frame's:
//! ```text
//! entry:   | hash 8 | offset/8 3, kind 1 | length/8 4 |
//! trailer: | magic 8 | count 4 | life 4 | data end 8 | drop time 8 | newest 8 | epoch 4 | crc 4 |
//! ```

use super::frame::{FOOTER_ENTRY_BYTES, Kind, Seed};
use crate::{
    crc::seed_of,
    limits::{BASE_MAX, CLASSES, COUNT_MAX, SEGMENT_BYTES_MAX},
};
use crc32fast::Hasher;

pub(crate) const SEGMENT_VERSION: u32 = 2;
/// Data starts here: a page, so that rewriting the header never touches records.
pub(crate) const DATA_START: u64 = 4096;
pub(crate) const TRAILER_BYTES: usize = 48;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;

/// It has 24 bits.
pub(crate) const ERASURES_MAX: u32 = (1 << 24) - 1;

const HEADER_MAGIC: [u8; 8] = *b"1ce-segm";
const TRAILER_MAGIC: [u8; 8] = *b"1ce-foot";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub slot: u32,
    pub store: u64,
    pub epoch: u32,
    pub bytes: u64,
    /// `None`: free, in the pool.
    pub active: Option<ActiveSince>,
    /// How often frames of this use were erased, counted up to [`ERASURES_MAX`]; 0 if it is free.
    pub erasures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActiveSince {
    pub life: u32,
    pub class: u8,
    /// The position of a byte of this segment is `base` plus its offset.
    pub base: u64,
    /// Where the part begins that this life fills. The part before it was sealed by an earlier
    /// life, in the same sequence of positions.
    pub from: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    Newer(u32),
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut b = [0; SEGMENT_HEADER_BYTES];
        b[..8].copy_from_slice(&HEADER_MAGIC);
        b[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        b[12..16].copy_from_slice(&self.slot.to_le_bytes());
        b[16..24].copy_from_slice(&self.store.to_le_bytes());
        b[24..28].copy_from_slice(&self.epoch.to_le_bytes());
        if let Some(ActiveSince { life, class, base, from }) = self.active {
            b[28..32].copy_from_slice(&1u32.to_le_bytes());
            b[32..36].copy_from_slice(&life.to_le_bytes());
            b[36..40].copy_from_slice(&(u32::from(class) | self.erasures << 8).to_le_bytes());
            b[40..48].copy_from_slice(&base.to_le_bytes());
            b[56..60].copy_from_slice(&(from as u32).to_le_bytes());
        }
        b[48..56].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32fast::hash(&b[..60]);
        b[60..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    pub fn decode(b: &[u8; SEGMENT_HEADER_BYTES]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        if b[..8] != HEADER_MAGIC || u32_at(60) != crc32fast::hash(&b[..60]) {
            return Err(HeaderError::Damaged);
        }
        if u32_at(8) > SEGMENT_VERSION {
            return Err(HeaderError::Newer(u32_at(8)));
        }
        let active = (u32_at(28) == 1).then(|| ActiveSince {
            life: u32_at(32),
            class: b[36],
            base: u64_at(40),
            // In format 1 each segment was filled in one life.
            from: if u32_at(8) < 2 { DATA_START } else { u64::from(u32_at(56)) },
        });
        let header = SegmentHeader {
            slot: u32_at(12),
            store: u64_at(16),
            epoch: u32_at(24),
            bytes: u64_at(48),
            active,
            erasures: if active.is_some() { u32_at(36) >> 8 } else { 0 },
        };
        // Forged bytes with a correct checksum.
        let possible = header.epoch <= COUNT_MAX
            && (DATA_START + TRAILER_BYTES as u64..=SEGMENT_BYTES_MAX).contains(&header.bytes)
            && active.is_none_or(|since| {
                usize::from(since.class) < CLASSES
                    && since.base <= BASE_MAX
                    && (DATA_START..=header.bytes).contains(&since.from)
                    && since.from.is_multiple_of(8)
            });
        possible.then_some(header).ok_or(HeaderError::Damaged)
    }
}

/// One frame of a segment, as its footer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterEntry {
    pub hash: u64,
    pub offset: u64,
    pub kind: Kind,
    pub len: u32,
}

/// The values that hold for a whole segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub life: u32,
    /// Where the frames end.
    pub data_end: u64,
    /// When the last of them has expired.
    pub drop_ms: u64,
    /// The latest time in any of them.
    pub newest_ms: u64,
}

fn crc(seed: Seed, bytes: &[u8]) -> u32 {
    let place = u64::from(seed.slot) << 32 | u64::from(seed.epoch);
    let mut hasher = Hasher::new_with_initial(seed_of([seed.store, place, 0]));
    hasher.update(bytes);
    hasher.finalize()
}

/// Entries and trailer, to be written so that they end with the file.
pub(crate) fn encode(seed: Seed, entries: &[FooterEntry], summary: &Summary) -> Vec<u8> {
    let mut b = Vec::with_capacity(entries.len() * FOOTER_ENTRY_BYTES + TRAILER_BYTES);
    for entry in entries {
        b.extend_from_slice(&entry.hash.to_le_bytes());
        let place = (entry.offset / 8) as u32 | (entry.kind as u32) << 24;
        b.extend_from_slice(&place.to_le_bytes());
        b.extend_from_slice(&entry.len.div_ceil(8).to_le_bytes());
    }
    b.extend_from_slice(&TRAILER_MAGIC);
    b.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    b.extend_from_slice(&summary.life.to_le_bytes());
    b.extend_from_slice(&summary.data_end.to_le_bytes());
    b.extend_from_slice(&summary.drop_ms.to_le_bytes());
    b.extend_from_slice(&summary.newest_ms.to_le_bytes());
    b.extend_from_slice(&seed.epoch.to_le_bytes());
    let crc = crc(seed, &b);
    b.extend_from_slice(&crc.to_le_bytes());
    b
}

/// How many entries the trailer claims; not to be believed before [`Footer::decode`] has passed,
/// but a bound on what to read.
pub(crate) fn claimed_entries(trailer: &[u8; TRAILER_BYTES], seed: Seed) -> Option<u32> {
    let epoch = u32::from_le_bytes(trailer[40..44].try_into().unwrap());
    (trailer[..8] == TRAILER_MAGIC && epoch == seed.epoch)
        .then(|| u32::from_le_bytes(trailer[8..12].try_into().unwrap()))
}

/// A footer whose checksum has passed, and whose entries are within the data.
#[derive(Debug)]
pub(crate) struct Footer {
    bytes: Vec<u8>,
    pub summary: Summary,
}

impl Footer {
    /// `bytes` (entries and trailer) of a segment of `segment_bytes`; `None` unless they are whole.
    pub fn decode(seed: Seed, bytes: Vec<u8>, segment_bytes: u64) -> Option<Footer> {
        let (listed, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_BYTES)?)?;
        let u64_at = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().unwrap());
        let whole = trailer[..8] == TRAILER_MAGIC
            && u32_at(44) == crc(seed, &bytes[..bytes.len() - 4])
            && u32_at(8) as usize * FOOTER_ENTRY_BYTES == listed.len();
        if !whole {
            return None;
        }
        let summary = Summary {
            life: u32_at(12),
            data_end: u64_at(16),
            drop_ms: u64_at(24),
            newest_ms: u64_at(32),
        };
        let inside = |e: FooterEntry| {
            e.offset >= DATA_START && e.offset + u64::from(e.len) <= summary.data_end
        };
        let fits = summary.data_end <= segment_bytes
            && listed.as_chunks().0.iter().all(|e| entry(e).is_some_and(inside));
        fits.then_some(Footer { bytes, summary })
    }

    /// The listed records, in the order of the segment. Costs little more than reading the bytes.
    pub fn entries(&self) -> impl Iterator<Item = FooterEntry> + Clone + '_ {
        let listed = &self.bytes[..self.bytes.len() - TRAILER_BYTES];
        listed.as_chunks().0.iter().map(|e| entry(e).expect("checked when it was decoded"))
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

fn entry(bytes: &[u8; FOOTER_ENTRY_BYTES]) -> Option<FooterEntry> {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let place = u32_at(8);
    Some(FooterEntry {
        hash: u64::from_le_bytes(bytes[..8].try_into().unwrap()),
        offset: u64::from(place & 0xff_ffff) * 8,
        kind: Kind::from_byte((place >> 24) as u8)?,
        len: u32_at(12).checked_mul(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: Seed = Seed { store: 5, slot: 2, epoch: 7 };

    fn decode(seed: Seed, bytes: &[u8], segment: u64) -> Option<(Vec<FooterEntry>, Summary)> {
        let footer = Footer::decode(seed, bytes.to_vec(), segment)?;
        Some((footer.entries().collect(), footer.summary))
    }

    fn sample() -> (Vec<FooterEntry>, Summary) {
        let entry = |i: u64| FooterEntry {
            hash: i * 77,
            offset: DATA_START + i * 128,
            kind: Kind::Completed,
            len: 128,
        };
        let entries: Vec<_> = (0..5).map(entry).collect();
        let data_end = DATA_START + 5 * 128;
        (entries, Summary { life: 3, data_end, drop_ms: 99, newest_ms: 42 })
    }

    #[test]
    fn footer_goes_round_and_every_bit_counts() {
        let (entries, summary) = sample();
        let bytes = encode(SEED, &entries, &summary);
        assert_eq!(decode(SEED, &bytes, 1 << 20), Some((entries, summary)));
        assert_eq!(decode(Seed { epoch: 8, ..SEED }, &bytes, 1 << 20), None);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(SEED, &bad, 1 << 20), None, "bit {bit}");
        }
    }

    #[test]
    fn header_goes_round_and_every_bit_counts() {
        let since = ActiveSince { life: 4, class: 9, base: 1 << 40, from: DATA_START };
        let resumed = ActiveSince { from: DATA_START + 800, ..since };
        for (active, erasures) in [(None, 0), (Some(since), 0), (Some(resumed), ERASURES_MAX)] {
            let header =
                SegmentHeader { slot: 1, store: 2, epoch: 3, bytes: 1 << 20, active, erasures };
            let bytes = header.encode();
            assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(SegmentHeader::decode(&bad), Err(HeaderError::Damaged));
            }
        }
    }

    #[test]
    fn headers_are_believed_up_to_their_bounds() {
        let with = |epoch, base| {
            let active = Some(ActiveSince { life: 1, class: 0, base, from: DATA_START });
            let header =
                SegmentHeader { slot: 1, store: 2, epoch, bytes: 1 << 20, active, erasures: 0 };
            SegmentHeader::decode(&header.encode()).is_ok()
        };
        assert!(with(COUNT_MAX, BASE_MAX));
        assert!(!with(COUNT_MAX + 1, BASE_MAX));
        assert!(!with(COUNT_MAX, BASE_MAX + 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(SEED, &bytes, 1 << 20), None);
        }
    }
}
