//! Every bound of the store in one place, checked against each other at compile time.

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest scope in bytes.
pub const SCOPE_BYTES_MAX: usize = 255;
/// Longest head of a response in bytes: the part that is kept when the response is not.
pub const HEAD_BYTES_MAX: usize = 4096;
/// Longest checkpoint in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 4096;
/// Largest response that `Options::max_response` accepts, in bytes: four of the largest records,
/// with the longest scope and key, fit a segment of 64 MiB. A little less than 16 MiB.
pub const RESPONSE_BYTES_MAX: usize = {
    // Of the segment: header and trailer, with something over. Of each: a frame's fixed part (88)
    // and its entry in the footer (16). `options` checks it against the sizes themselves.
    let segment = SEGMENT_BYTES_MAX as usize - 8192;
    segment / 4 - 88 - 16 - SCOPE_BYTES_MAX - KEY_BYTES_MAX
};
/// Tokens stay below this: they fit the integers of JSON and of a signed 64-bit column.
pub const TOKEN_MAX: u64 = 1 << 53;
/// Longest retention: ten years.
pub const RETENTION_MAX_MS: u64 = 10 * 366 * 24 * 3_600_000;
/// Longest lease: thirty days.
pub const LEASE_MAX_MS: u64 = 30 * 24 * 3_600_000;

/// The latest time: what a hint has bits for, some nine thousand years from now.
pub(crate) const TIME_MAX_MS: u64 = (1 << 48) - 1;
/// No life starts at a later time because of its wall clock, so that time can continue for centuries.
pub(crate) const START_MAX_MS: u64 = TIME_MAX_MS - (1 << 43);
/// Positions stay below this: far enough from the end of 64 bits that no sum of a position and the
/// size of a segment or a ring wraps. At ten gigabytes a second a class gets there in 14 years.
pub(crate) const POSITION_MAX: u64 = 1 << 62;
/// The highest base of a segment: all of its bytes have positions.
pub(crate) const BASE_MAX: u64 = POSITION_MAX - SEGMENT_BYTES_MAX;
/// A segment of a higher base is not taken into use again by a later life: the positions of its
/// class begin from the start then.
pub(crate) const RESUMED_BASE_MAX: u64 = POSITION_MAX / 2;

/// The highest number of a life, an epoch, a version of a claim and an attempt: the next one would be
/// refused by its reader, so it is never written.
pub(crate) const COUNT_MAX: u32 = u32::MAX - 1;

pub(crate) const MIB: u64 = 1 << 20;
/// Largest segment: its offsets in units of eight bytes fit `index::Location`.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 * MIB;
/// Largest ring in bytes.
pub(crate) const RING_BYTES_MAX: u64 = 1 << 30;
/// Highest number of segment slots that a store can have.
pub(crate) const SLOTS_MAX: u32 = (1 << 17) - 1;
/// Classes of retention: the store's own, and one for each power of two in seconds.
pub(crate) const CLASSES: usize = 34;
/// Shards of the index. Their tables are small, so none takes long to grow, and 24 bits of hash are
/// all that a table needs to grow without reading the log. A model of schedules has a few, so that
/// its threads meet in them; and so has a build for long runs of crashes, each of which opens ten
/// stores and more.
pub(crate) const SHARDS: usize = match (cfg!(onlyonce_shuttle), cfg!(onlyonce_broken)) {
    (true, _) => 4,
    (false, true) => 16,
    (false, false) => 1024,
};

const _: () = assert!(SHARDS.is_power_of_two());
// A segment holds at least four of the largest frames.
const _: () = assert!(SEGMENT_BYTES_MAX >= 4 * MIB);
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);

/// How long it is waited after so many looks in vain at what became of an interrupted key: a second,
/// then twice as long each time, up to five minutes.
pub(crate) fn settle_delay_ms(times: u32) -> u64 {
    match times {
        0 => 0,
        times => (1000_u64 << (times - 1).min(16)).min(300_000),
    }
}
