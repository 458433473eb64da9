//! The bytes of one record.
//!
//! ```text
//!  0        4        8        12   13    14     15        16      17  18       20      24
//!  | crc    | length | body   |kind|class|scheme|scope len|key len| 0 | head   | attempt|
//!  |        |        | crc    |    |     |      |         |       |   | length |        |
//! 24        32        40            48         56        64         68     72          88
//!  | token   | time    | replay until| expires | position| durable  | life | fingerprint|
//!  |         |         |             |         |         | lag      |      |            |
//! 88: scope, key, head, body, zero bytes up to a multiple of eight
//! ```
//!
//! All integers little-endian. `crc` covers everything from byte 4 up to the end of the key; it is
//! seeded with the store, slot, epoch and life, so that a frame of another store, of an earlier use
//! of the same segment or of an earlier life never passes. `body crc` covers head and body, and is
//! itself covered by `crc`. Until `crc` has passed, no length here is believed. `position` is the
//! byte's place in its appender's sequence (see `appender`); `durable lag` is how many units of
//! eight bytes behind it the durable position was when the frame was written, `u32::MAX` for "far
//! behind or unknown".

use crate::{
    broken::{self, Broken},
    crc::{crc32, crc32_from, seed_of},
    fingerprint::Fingerprint,
    key::KeyRef,
    limits::*,
    sync::pooled_bytes::Copied,
    token::Token,
};
use crc32fast::Hasher;

pub(crate) const HEADER_BYTES: usize = 88;

/// Bytes of a frame's entry in the footer of its segment.
pub(crate) const FOOTER_ENTRY_BYTES: usize = 16;

/// Bytes on the disk that the largest record with a response of `response` bytes takes, its
/// footer entry included.
pub(crate) const fn largest_frame(response: usize) -> usize {
    (HEADER_BYTES + SCOPE_BYTES_MAX + KEY_BYTES_MAX + response).next_multiple_of(8)
        + FOOTER_ENTRY_BYTES
}

/// Bytes that a claim with this reserve takes out of the account of free space.
pub(crate) fn claim_bytes(reserve: u32) -> u64 {
    largest_frame((reserve as usize).max(HEAD_BYTES_MAX)) as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A response.
    Completed = 1,
    /// Done, but only the head was kept.
    NotRetained = 2,
    /// The answer of a holder that doesn't know the outcome.
    Failed = 3,
    /// The key was forgotten: kills every record of it with a lower token.
    Tombstone = 4,
    /// Fills a hole. Has no key.
    Void = 5,
}

impl Kind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        use Kind::*;
        [Completed, NotRetained, Failed, Tombstone, Void].into_iter().find(|k| *k as u8 == byte)
    }

    /// Records of these kinds answer a `begin`.
    pub fn is_record(self) -> bool {
        matches!(self, Kind::Completed | Kind::NotRetained)
    }
}

/// The seed of a frame's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    pub store: u64,
    pub slot: u32,
    pub epoch: u32,
}

/// The fields of a header, decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Header {
    /// Exact length in bytes, padding not included.
    pub len: u32,
    pub body_crc: u32,
    pub kind: Kind,
    pub class: u8,
    pub scope_len: u8,
    pub key_len: u8,
    pub head_len: u16,
    pub attempt: u32,
    /// 0 only in a void.
    pub token: u64,
    pub time_ms: u64,
    pub replay_until_ms: u64,
    pub expires_ms: u64,
    pub position: u64,
    pub durable_lag: u32,
    pub life: u32,
    pub fingerprint: Fingerprint,
}

impl Header {
    /// Bytes that the frame takes in a segment.
    pub fn padded(&self) -> usize {
        (self.len as usize).next_multiple_of(8)
    }

    /// Where the head starts in the frame.
    pub fn head_at(&self) -> usize {
        HEADER_BYTES + self.scope_len as usize + self.key_len as usize
    }

    /// Where the body starts in the frame.
    pub fn body_at(&self) -> usize {
        self.head_at() + self.head_len as usize
    }

    /// The token; checked when the header was decoded.
    pub fn token(&self) -> Option<Token> {
        Token::new(self.token)
    }

    /// The position that was known to be durable when the frame was written.
    pub fn durable_known(&self) -> u64 {
        match self.durable_lag {
            u32::MAX => 0,
            lag => self.position.saturating_sub(u64::from(lag) * 8),
        }
    }

    /// Reads the fields and checks that the lengths fit each other and `room` bytes. The caller
    /// has still to check the checksum, over `crc_range()`, before it believes any of them.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_BYTES], room: usize) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let kind = Kind::from_byte(bytes[12])?;
        let header = Header {
            len: u32_at(4),
            body_crc: u32_at(8),
            kind,
            class: bytes[13],
            scope_len: bytes[15],
            key_len: bytes[16],
            head_len: u16::from_le_bytes([bytes[18], bytes[19]]),
            attempt: u32_at(20),
            token: u64_at(24),
            time_ms: u64_at(32),
            replay_until_ms: u64_at(40),
            expires_ms: u64_at(48),
            position: u64_at(56),
            durable_lag: u32_at(64),
            life: u32_at(68),
            fingerprint: Fingerprint::from_bytes(bytes[72..88].try_into().unwrap())
                .with_scheme(bytes[14]),
        };
        let fits = header.padded() <= room
            && header.body_at() <= header.len as usize
            && (kind == Kind::Void || (header.key_len > 0 && header.token().is_some()));
        fits.then_some(header)
    }
}

/// The seed of the checksum of a header with its scope and key, which covers everything from byte 4
/// to the end of the key.
fn header_seed(seed: Seed, life: u32) -> u32 {
    let place = u64::from(seed.slot) << 32 | u64::from(seed.epoch);
    let life = if broken::is(Broken::LifeNotSeeded) { 0 } else { u64::from(life) };
    seed_of([seed.store, place, life])
}

/// The checksum as it is stored. Never zero: bytes that were never written don't pass.
fn stored(crc: u32) -> u32 {
    crc.max(1)
}

fn life_and_crc(bytes: &[u8; HEADER_BYTES]) -> (u32, u32) {
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    (u32_at(68), u32_at(0))
}

/// Whether `header` bytes and the `names` (scope and key) behind them are whole.
pub(crate) fn check_header(seed: Seed, bytes: &[u8; HEADER_BYTES], names: &[u8]) -> bool {
    let (life, crc) = life_and_crc(bytes);
    let mut hasher = Hasher::new_with_initial(header_seed(seed, life));
    hasher.update(&bytes[4..]);
    hasher.update(names);
    stored(hasher.finalize()) == crc
}

/// The same where they are in one piece, which is as before when this returns.
pub(crate) fn check_start(seed: Seed, start: &mut [u8]) -> bool {
    let (life, crc) = life_and_crc(start.first_chunk().expect("a header"));
    stored(crc32_from(header_seed(seed, life), &mut start[4..])) == crc
}

/// Whether head and body are whole.
pub(crate) fn check_body(header: &Header, bytes: &[u8]) -> bool {
    crc32(bytes) == header.body_crc
}

/// The contents of a frame before it has a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub kind: Kind,
    pub key: KeyRef<'a>,
    pub fingerprint: Fingerprint,
    pub attempt: u32,
    pub token: Token,
    pub time_ms: u64,
    pub replay_until_ms: u64,
    pub expires_ms: u64,
    pub head: &'a [u8],
    pub body: &'a [u8],
}

/// A frame that lacks only what its place decides. Its buffer is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    names_end: usize,
}

/// The fields of a frame that its place decides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub seed: Seed,
    pub class: u8,
    pub life: u32,
    pub position: u64,
    pub durable: u64,
}

impl Encoded {
    /// Gives back its memory if that is more than `most` bytes.
    pub fn keep(&mut self, most: usize) {
        if self.bytes.capacity() > most {
            *self = Encoded::default();
        }
    }

    /// Writes everything that doesn't depend on the place, checksum of the body included.
    pub fn draft(&mut self, draft: &Draft<'_>) {
        let Draft { key, head, body, .. } = draft;
        let names = key.scope().len() + key.key().len();
        let len = HEADER_BYTES + names + head.len() + body.len();
        let mut fixed = [0; HEADER_BYTES];
        fixed[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        fixed[12] = draft.kind as u8;
        fixed[14] = draft.fingerprint.scheme();
        fixed[15] = key.scope().len() as u8;
        fixed[16] = key.key().len() as u8;
        fixed[18..20].copy_from_slice(&(head.len() as u16).to_le_bytes());
        fixed[20..24].copy_from_slice(&draft.attempt.to_le_bytes());
        fixed[24..32].copy_from_slice(&draft.token.get().to_le_bytes());
        fixed[32..40].copy_from_slice(&draft.time_ms.to_le_bytes());
        fixed[40..48].copy_from_slice(&draft.replay_until_ms.to_le_bytes());
        fixed[48..56].copy_from_slice(&draft.expires_ms.to_le_bytes());
        fixed[72..].copy_from_slice(draft.fingerprint.as_bytes());
        let b = &mut self.bytes;
        b.clear();
        b.reserve(len.next_multiple_of(8));
        b.extend_from_slice(&fixed);
        b.extend_from_slice(key.scope());
        b.extend_from_slice(key.key());
        self.names_end = b.len();
        b.extend_from_slice(head);
        b.extend_from_slice(body);
        let body_crc = crc32(&b[self.names_end..]);
        b[8..12].copy_from_slice(&body_crc.to_le_bytes());
        b.resize(len.next_multiple_of(8), 0);
    }

    /// A frame of `len` bytes (a multiple of eight, at least a header) that says nothing.
    pub fn void(&mut self, len: usize) {
        self.bytes.clear();
        self.bytes.resize(len, 0);
        self.bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        self.bytes[12] = Kind::Void as u8;
        self.names_end = HEADER_BYTES;
        let body_crc = crc32(&self.bytes[HEADER_BYTES..]);
        self.bytes[8..12].copy_from_slice(&body_crc.to_le_bytes());
    }

    /// Bytes that the frame takes in a segment.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that it takes with its footer entry.
    pub fn used(&self) -> u64 {
        (self.len() + FOOTER_ENTRY_BYTES) as u64
    }

    /// Adds what the place decides; the frame is then whole.
    pub fn place(&mut self, placed: &Placed) -> &[u8] {
        let lag = placed.position.saturating_sub(placed.durable) / 8;
        let lag = u32::try_from(lag).unwrap_or(u32::MAX);
        let b = &mut self.bytes;
        b[13] = placed.class;
        b[56..64].copy_from_slice(&placed.position.to_le_bytes());
        b[64..68].copy_from_slice(&lag.to_le_bytes());
        b[68..72].copy_from_slice(&placed.life.to_le_bytes());
        let seed = header_seed(placed.seed, placed.life);
        let crc = crc32_from(seed, &mut b[4..self.names_end]);
        b[..4].copy_from_slice(&stored(crc).to_le_bytes());
        b
    }
}

/// A frame that has been copied out and whose checksums have passed.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub header: Header,
    /// Scope, key, head, body: everything behind the fixed header.
    pub rest: Copied,
}

impl Frame {
    pub fn key(&self) -> KeyRef<'_> {
        let (scope, key) = (self.header.scope_len as usize, self.header.key_len as usize);
        KeyRef::from_parts(&self.rest[..scope], &self.rest[scope..scope + key])
            .expect("lengths were checked")
    }

    pub fn head_and_body(&self) -> &[u8] {
        &self.rest[self.header.head_at() - HEADER_BYTES..]
    }

    pub fn head(&self) -> &[u8] {
        &self.head_and_body()[..self.header.head_len as usize]
    }

    pub fn body(&self) -> &[u8] {
        &self.head_and_body()[self.header.head_len as usize..]
    }

    /// Decodes and checks the frame at the start of `bytes`.
    pub fn parse(seed: Seed, bytes: &[u8]) -> Option<Frame> {
        let fixed = bytes.first_chunk::<HEADER_BYTES>()?;
        let header = Header::decode(fixed, bytes.len())?;
        if !check_header(seed, fixed, &bytes[HEADER_BYTES..header.head_at()]) {
            return None;
        }
        let rest = Copied::from(&bytes[HEADER_BYTES..header.len as usize]);
        let frame = Frame { header, rest };
        check_body(&header, frame.head_and_body()).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Scope;
    use proptest::prelude::*;

    const SEED: Seed = Seed { store: 7, slot: 3, epoch: 9 };

    fn encode(scope: &[u8], key: &[u8], head: &[u8], body: &[u8]) -> Vec<u8> {
        let scope = Scope::new(scope).unwrap();
        let mut encoded = Encoded::default();
        encoded.draft(&Draft {
            kind: Kind::Completed,
            key: KeyRef::new(&scope, key).unwrap(),
            fingerprint: Fingerprint::of(["x"]).with_scheme(4),
            attempt: 2,
            token: Token::new(77).unwrap(),
            time_ms: 1000,
            replay_until_ms: 2000,
            expires_ms: 3000,
            head,
            body,
        });
        let placed = Placed { seed: SEED, class: 1, life: 5, position: 640, durable: 320 };
        encoded.place(&placed).to_vec()
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            scope in prop::collection::vec(any::<u8>(), 0..=255),
            key in prop::collection::vec(any::<u8>(), 1..=255),
            head in prop::collection::vec(any::<u8>(), 0..100),
            body in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let bytes = encode(&scope, &key, &head, &body);
            prop_assert_eq!(bytes.len() % 8, 0);
            let frame = Frame::parse(SEED, &bytes).unwrap();
            prop_assert_eq!(frame.key().scope(), &scope[..]);
            prop_assert_eq!(frame.key().key(), &key[..]);
            prop_assert_eq!(frame.head(), &head[..]);
            prop_assert_eq!(frame.body(), &body[..]);
            prop_assert_eq!(frame.header.durable_known(), 320);
            prop_assert_eq!(frame.header.fingerprint, Fingerprint::of(["x"]).with_scheme(4));
        }

        #[test]
        fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Frame::parse(SEED, &bytes).is_none());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(b"s", b"key", b"head", b"body-body");
        let exact = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        for bit in 0..exact * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::parse(SEED, &bad).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn another_store_slot_epoch_or_life_does_not_pass() {
        let bytes = encode(b"", b"k", b"", b"");
        for seed in [Seed { store: 8, ..SEED }, Seed { slot: 4, ..SEED }, Seed { epoch: 8, ..SEED }]
        {
            assert!(Frame::parse(seed, &bytes).is_none());
        }
        let mut other_life = bytes.clone();
        other_life[68] ^= 1;
        assert!(Frame::parse(SEED, &other_life).is_none());
    }

    #[test]
    fn blank_space_is_not_a_frame() {
        assert!(Frame::parse(SEED, &[0; 4096]).is_none());
        assert!(Frame::parse(SEED, &[0xff; 4096]).is_none());
    }

    #[test]
    fn a_void_is_whole_and_has_no_key() {
        let mut encoded = Encoded::default();
        encoded.void(96);
        let placed = Placed { seed: SEED, class: 0, life: 1, position: 0, durable: 0 };
        let bytes = encoded.place(&placed).to_vec();
        let frame = Frame::parse(SEED, &bytes).unwrap();
        assert_eq!((frame.header.kind, frame.header.padded()), (Kind::Void, 96));
    }
}
