//! Every bound of the store in one place, checked against each other when it is compiled.

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest scope in bytes.
pub const SCOPE_BYTES_MAX: usize = 255;
/// Longest head of a response in bytes: the part that is kept when the response is not.
pub const HEAD_BYTES_MAX: usize = 4096;
/// Longest checkpoint in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 4096;
/// Largest response that `Options::max_response` accepts, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
/// Tokens stay below this: they fit the integers of JSON and of a signed 64-bit column.
pub const TOKEN_MAX: u64 = 1 << 53;
/// Longest retention: ten years.
pub const RETENTION_MAX_MS: u64 = 10 * 366 * 24 * 3_600_000;
/// Longest lease: thirty days.
pub const LEASE_MAX_MS: u64 = 30 * 24 * 3_600_000;

/// The latest time: what a hint has bits for, some nine thousand years from now.
pub(crate) const TIME_MAX_MS: u64 = (1 << 48) - 1;
/// The last position in a class and life: ditto.
pub(crate) const POSITION_MAX: u64 = (1 << 48) - 1;

pub(crate) const MIB: u64 = 1 << 20;
/// Largest segment: its offsets in units of eight bytes fit `index::Location`.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 64 * MIB;
/// Largest ring in bytes.
pub(crate) const RING_BYTES_MAX: u64 = 1 << 30;
/// Highest number of segment slots a store can have.
pub(crate) const SLOTS_MAX: u32 = (1 << 17) - 1;
/// Classes of retention: the store's own, and one for each power of two in seconds.
pub(crate) const CLASSES: usize = 34;
/// Shards of the index. Small tables: none takes long to grow, and 24 bits of hash are all that
/// a table of this many shards needs to do it without reading the log.
/// A model of schedules has a few, so that its threads meet in them.
pub(crate) const SHARDS: usize = if cfg!(onlyonce_shuttle) { 4 } else { 1024 };

const _: () = assert!(SHARDS.is_power_of_two());
// A segment holds at least four of the largest frames (16 MiB responses need 64 MiB and a
// little, so the largest allowed response is bounded again when the options are checked).
const _: () = assert!(SEGMENT_BYTES_MAX >= 4 * MIB);
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);
