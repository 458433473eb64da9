//! The bytes of the claims file.

use super::{Chain, Entry, Found};
use crate::{
    crc::{crc32_from, seed_of},
    fingerprint::Fingerprint,
    key::KeyRef,
    limits::{
        CHECKPOINT_BYTES_MAX, CLASSES, COUNT_MAX, LEASE_MAX_MS, POSITION_MAX, RETENTION_MAX_MS,
        TIME_MAX_MS,
    },
    record::Reason,
    storage::SECTOR_BYTES,
    token::Token,
};
use crc32fast::Hasher;
use std::collections::{BTreeMap, HashMap};

pub(crate) const CELL_BYTES: usize = 256;
pub(super) const LINK_BYTES: usize = 32;
pub(crate) const PAYLOAD_BYTES: usize = CELL_BYTES - LINK_BYTES;
/// Cells before this one hold the header and the hints.
pub(crate) const FIRST_CELL: u32 = 2;
/// The first word of a free cell: not zero, so that zeroed blocks are noticed.
pub(crate) const FREE: u64 = u64::from_le_bytes(*b"freecell");
const TAG: u64 = 0x1ce0_c1a1;

pub(crate) const CLAIMS_VERSION: u32 = 2;
pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const HEADER_MAGIC: [u8; 8] = *b"1ce-clms";
const DURABLE_AT: usize = 64;
pub(crate) const TIME_AT: usize = DURABLE_AT + CLASSES * 8;

// A cell never straddles a sector; header and hints fit into the first one.
const _: () = assert!(SECTOR_BYTES.is_multiple_of(CELL_BYTES));
const _: () = assert!(TIME_AT + 8 <= SECTOR_BYTES);
const _: () = assert!(FIRST_CELL as usize * CELL_BYTES == SECTOR_BYTES);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub store: u64,
    pub cells: u32,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    Newer(u32),
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut b = [0; HEADER_BYTES];
        b[..8].copy_from_slice(&HEADER_MAGIC);
        b[8..12].copy_from_slice(&CLAIMS_VERSION.to_le_bytes());
        b[12..16].copy_from_slice(&self.cells.to_le_bytes());
        b[16..24].copy_from_slice(&self.store.to_le_bytes());
        let crc = crc32fast::hash(&b[..28]);
        b[28..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    pub fn decode(b: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
        if b[..8] != HEADER_MAGIC || u32_at(28) != crc32fast::hash(&b[..28]) {
            return Err(HeaderError::Damaged);
        }
        match u32_at(8) {
            // The header's own sector, at least.
            0..=CLAIMS_VERSION if u32_at(12) < FIRST_CELL => Err(HeaderError::Damaged),
            0..=CLAIMS_VERSION => Ok(Header {
                cells: u32_at(12),
                store: u64::from_le_bytes(b[16..24].try_into().unwrap()),
            }),
            newer => Err(HeaderError::Newer(newer)),
        }
    }
}

/// A cell's links to the other cells of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub token: u64,
    pub version: u32,
    pub index: u16,
    pub count: u16,
    pub next: u32,
}

fn cell_seed(store: u64, cell: u32) -> u32 {
    seed_of([store, u64::from(cell), 1])
}

fn cell_crc(store: u64, cell: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(cell_seed(store, cell));
    hasher.update(bytes);
    hasher.finalize()
}

/// Fills in a cell from byte 8 on; returns its word and how many bytes are in use.
pub(crate) fn encode_cell(
    store: u64,
    cell: u32,
    link: &Link,
    piece: &[u8],
    b: &mut [u8; CELL_BYTES],
) -> (u64, usize) {
    let used = LINK_BYTES + piece.len();
    b[LINK_BYTES..used].copy_from_slice(piece);
    finish_cell(store, cell, link, used, b)
}

/// The same of a claim that fits into one cell, whose payload has `len` bytes.
pub(crate) fn encode_single(
    store: u64,
    cell: u32,
    entry: &Entry<'_>,
    len: usize,
    b: &mut [u8; CELL_BYTES],
) -> (u64, usize) {
    let (token, version) = (entry.token.get(), entry.version);
    write_payload(entry, &mut b[LINK_BYTES..LINK_BYTES + len]);
    let link = Link { token, version, index: 0, count: 1, next: 0 };
    finish_cell(store, cell, &link, LINK_BYTES + len, b)
}

fn finish_cell(
    store: u64,
    cell: u32,
    link: &Link,
    used: usize,
    b: &mut [u8; CELL_BYTES],
) -> (u64, usize) {
    b[8..16].copy_from_slice(&link.token.to_le_bytes());
    b[16..20].copy_from_slice(&link.version.to_le_bytes());
    b[20..22].copy_from_slice(&link.index.to_le_bytes());
    b[22..24].copy_from_slice(&link.count.to_le_bytes());
    b[24..28].copy_from_slice(&link.next.to_le_bytes());
    b[28..30].copy_from_slice(&((used - LINK_BYTES) as u16).to_le_bytes());
    let crc = crc32_from(cell_seed(store, cell), &mut b[8..used]);
    (TAG << 32 | u64::from(crc), used.next_multiple_of(8))
}

/// The contents of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Free,
    Part(Link, &'a [u8]),
    /// Its word says that it means something, and the checksum doesn't fit: what a loss of power
    /// leaves of a cell that is being stored to through a map. A word itself is never torn.
    Torn,
    /// Its word is one that is never stored.
    Damaged,
}

pub(crate) fn decode_cell<'a>(store: u64, cell: u32, b: &'a [u8]) -> Cell<'a> {
    let u16_at = |at: usize| u16::from_le_bytes(b[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    let word = u64_at(0);
    if word == FREE {
        return Cell::Free;
    }
    let used = LINK_BYTES + u16_at(28) as usize;
    if word >> 32 != TAG {
        return Cell::Damaged;
    }
    if used > CELL_BYTES || word as u32 != cell_crc(store, cell, &b[8..used]) {
        return Cell::Torn;
    }
    let link = Link {
        token: u64_at(8),
        version: u32_at(16),
        index: u16_at(20),
        count: u16_at(22),
        next: u32_at(24),
    };
    Cell::Part(link, &b[LINK_BYTES..used])
}

const FIXED_BYTES: usize = 76;
/// With the token of the attempt whose answer is kept.
const FIXED_BYTES_MAX: usize = FIXED_BYTES + 8;
const HISTORY: u8 = 1;
const CHECKPOINT: u8 = 2;
const ANSWER: u8 = 4;

/// Bytes that a claim's cells hold of it.
pub(crate) fn payload_len(entry: &Entry<'_>) -> usize {
    let fixed = if entry.answer_of.is_some() { FIXED_BYTES_MAX } else { FIXED_BYTES };
    let names = entry.key.scope().len() + entry.key.key().len();
    fixed + names + entry.checkpoint.map_or(0, <[u8]>::len)
}

/// A claim as its cells hold it, one part after the other: what has a fixed length, scope, key,
/// checkpoint. `b` has [`payload_len`] bytes.
pub(crate) fn write_payload(entry: &Entry<'_>, b: &mut [u8]) {
    let (fixed, mut rest) =
        b.split_first_chunk_mut::<FIXED_BYTES>().expect("it has at least these");
    let (reason, at) = entry.interrupted.map_or((0, 0), |(reason, at)| (reason as u8, at));
    let mut flags = 0;
    flags |= if entry.history { HISTORY } else { 0 };
    flags |= if entry.checkpoint.is_some() { CHECKPOINT } else { 0 };
    flags |= if entry.answer_of.is_some() { ANSWER } else { 0 };
    let checkpoint = entry.checkpoint.unwrap_or_default();
    fixed[..16].copy_from_slice(entry.fingerprint.as_bytes());
    fixed[16] = entry.fingerprint.scheme();
    fixed[17] = entry.key.scope().len() as u8;
    fixed[18] = entry.key.key().len() as u8;
    fixed[19] = flags;
    fixed[20] = reason;
    fixed[22..24].copy_from_slice(&(checkpoint.len() as u16).to_le_bytes());
    fixed[24..28].copy_from_slice(&entry.attempt.to_le_bytes());
    fixed[28..32].copy_from_slice(&entry.reserve.to_le_bytes());
    fixed[32..40].copy_from_slice(&entry.lease_ms.to_le_bytes());
    fixed[40..48].copy_from_slice(&entry.replay_ms.to_le_bytes());
    fixed[48..56].copy_from_slice(&entry.remember_ms.to_le_bytes());
    fixed[56..64].copy_from_slice(&entry.started_ms.to_le_bytes());
    fixed[64..72].copy_from_slice(&at.to_le_bytes());
    if let Some(token) = entry.answer_of {
        let (answer_of, behind) = rest.split_at_mut(FIXED_BYTES_MAX - FIXED_BYTES);
        answer_of.copy_from_slice(&token.get().to_le_bytes());
        rest = behind;
    }
    for part in [entry.key.scope(), entry.key.key(), checkpoint] {
        if !part.is_empty() {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
    }
}

/// The same in memory of its own.
pub(crate) fn payload(entry: &Entry<'_>) -> Vec<u8> {
    let mut payload = vec![0; payload_len(entry)];
    write_payload(entry, &mut payload);
    payload
}

fn decode_payload(link: &Link, chain: Chain, b: &[u8]) -> Option<Found> {
    let (fixed, rest) = b.split_at_checked(FIXED_BYTES)?;
    let (answer_of, rest) = match fixed[19] & ANSWER {
        0 => (None, rest),
        _ => {
            let (token, rest) = rest.split_first_chunk()?;
            (Some(Token::new(u64::from_le_bytes(*token))?), rest)
        }
    };
    let u32_at = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().unwrap());
    let (scope_len, key_len) = (fixed[17] as usize, fixed[18] as usize);
    let checkpoint_len = u16::from_le_bytes([fixed[22], fixed[23]]) as usize;
    if rest.len() != scope_len + key_len + checkpoint_len || checkpoint_len > CHECKPOINT_BYTES_MAX {
        return None;
    }
    let times = [64, 56].map(u64_at);
    let possible = times.iter().all(|time| *time <= TIME_MAX_MS)
        && u64_at(32) <= LEASE_MAX_MS
        && [40, 48].map(u64_at).iter().all(|ms| *ms <= RETENTION_MAX_MS)
        && link.version <= COUNT_MAX
        && u32_at(24) <= COUNT_MAX;
    if !possible {
        return None;
    }
    let (names, checkpoint) = rest.split_at(scope_len + key_len);
    let (scope, key) = names.split_at(scope_len);
    Some(Found {
        token: Token::new(link.token)?,
        version: link.version,
        used: link.version,
        attempt: u32_at(24),
        reserve: u32_at(28),
        lease_ms: u64_at(32),
        replay_ms: u64_at(40),
        remember_ms: u64_at(48),
        started_ms: u64_at(56),
        fingerprint: Fingerprint::from_bytes(fixed[..16].try_into().unwrap())
            .with_scheme(fixed[16]),
        history: fixed[19] & HISTORY != 0,
        interrupted: Reason::from_byte(fixed[20]).map(|reason| (reason, u64_at(64))),
        key: KeyRef::from_parts(scope, key).ok()?.owned(),
        checkpoint: (fixed[19] & CHECKPOINT != 0).then(|| checkpoint.into()),
        answer_of,
        chain,
    })
}

/// The contents of a claims file.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// The newest whole version of each claim.
    pub claims: Vec<Found>,
    /// How many the header counts.
    pub cells: u32,
    /// Offsets of damaged cells.
    pub damaged: Vec<u64>,
    /// Offsets of cells that are a mixture of what they held before and after.
    pub torn: Vec<u64>,
    /// Cells that are not free, whatever they hold.
    pub in_use: Vec<u32>,
    pub newest_ms: u64,
}

/// Reads all cells of a file.
pub(crate) fn decode_all(store: u64, bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    // In the order of tokens: an opening is repeated exactly.
    let mut newest: BTreeMap<u64, Found> = BTreeMap::new();
    let mut used: HashMap<u64, u32> = HashMap::new();
    let cells = (bytes.len() / CELL_BYTES) as u32;
    for cell in FIRST_CELL..cells {
        let at = cell as usize * CELL_BYTES;
        let decoded = decode_cell(store, cell, &bytes[at..at + CELL_BYTES]);
        if let Cell::Part(link, _) = decoded
            && link.version <= COUNT_MAX
        {
            let highest = used.entry(link.token).or_default();
            *highest = link.version.max(*highest);
        }
        if decoded != Cell::Free {
            contents.in_use.push(cell);
        }
        match decoded {
            Cell::Free => {}
            Cell::Damaged => contents.damaged.push(at as u64),
            Cell::Torn => contents.torn.push(at as u64),
            Cell::Part(link, _) if link.index != 0 => {}
            Cell::Part(link, _) => {
                let Some((chain, payload)) = follow(store, bytes, cell, &link) else {
                    continue;
                };
                let Some(found) = decode_payload(&link, chain, &payload) else {
                    contents.damaged.push(at as u64);
                    continue;
                };
                let at = found.interrupted.map_or(0, |(_, at)| at);
                contents.newest_ms = contents.newest_ms.max(found.started_ms).max(at);
                let known = newest.entry(link.token).or_insert_with(|| found.clone());
                if known.version < found.version {
                    *known = found;
                }
            }
        }
    }
    let above = |mut found: Found| {
        found.used = used.get(&found.token.get()).map_or(found.version, |used| *used);
        found
    };
    contents.claims = newest.into_values().map(above).collect();
    contents
}

/// Collects a chain. `None` if a later cell is free or another claim's: then this version never
/// became durable as a whole, and was never acknowledged (or has been replaced since).
fn follow(store: u64, bytes: &[u8], first: u32, link: &Link) -> Option<(Chain, Vec<u8>)> {
    let mut chain = Chain::default();
    let mut payload = Vec::new();
    let mut cell = first;
    for index in 0..link.count {
        let at = cell as usize * CELL_BYTES;
        let b = bytes.get(at..at + CELL_BYTES).filter(|_| cell >= FIRST_CELL)?;
        let Cell::Part(part, piece) = decode_cell(store, cell, b) else {
            return None;
        };
        let ours = part.token == link.token && part.version == link.version;
        if !ours || part.index != index || part.count != link.count {
            return None;
        }
        chain.cells.push(cell);
        payload.extend_from_slice(piece);
        cell = part.next;
    }
    (link.count > 0).then_some((chain, payload))
}

pub(crate) fn durable_at(class: u8) -> usize {
    DURABLE_AT + class as usize * 8
}

fn tagged(store: u64, what: [u32; 2], value: u64) -> u64 {
    let what = u64::from(what[0]) << 32 | u64::from(what[1]);
    value << 16 | u64::from(seed_of([store, what, value]) as u16)
}

/// A hint is one word, so it is never torn; sixteen of its bits check it. A position for which the
/// other 48 are too few is noted in larger units, rounded down, which is true as well.
pub(crate) fn durable_word(store: u64, life: u32, class: u8, position: u64) -> u64 {
    match position >> 48 {
        0 => tagged(store, [life, u32::from(class)], position),
        _ => far_word(store, life, class, position >> FAR_SHIFT),
    }
}

/// Positions below [`POSITION_MAX`] in these units have 48 bits.
const FAR_SHIFT: u32 = 14;
const _: () = assert!(POSITION_MAX >> FAR_SHIFT <= 1 << 48);
/// Fewer units are never noted: such a position is noted as it is.
const FAR_LEAST: u64 = 1 << (48 - FAR_SHIFT);

fn far_word(store: u64, life: u32, class: u8, units: u64) -> u64 {
    const FAR: u32 = 1 << 8;
    tagged(store, [life, FAR | u32::from(class)], units)
}

pub(crate) fn time_word(store: u64, now: u64) -> u64 {
    tagged(store, [u32::MAX, u32::MAX], now)
}

fn hint(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The durable position noted for a class in a life, if it is that life's.
pub(crate) fn read_durable(bytes: &[u8], store: u64, life: u32, class: u8) -> Option<u64> {
    let word = hint(bytes, durable_at(class));
    let value = word >> 16;
    if durable_word(store, life, class, value) == word {
        return Some(value);
    }
    // A word of an earlier life passes the check by chance, once in 65,536 lives. Taken for a far
    // position it would promise more than was ever written.
    let is_far = value >= FAR_LEAST && far_word(store, life, class, value) == word;
    is_far.then_some(value << FAR_SHIFT)
}

/// The time noted.
pub(crate) fn read_time(bytes: &[u8], store: u64) -> Option<u64> {
    let word = hint(bytes, TIME_AT);
    (time_word(store, word >> 16) == word).then_some(word >> 16)
}
