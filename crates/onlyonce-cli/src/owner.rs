//! Opening a store to change it.

use super::{fail::Failure, out::Busy};
use onlyonce::{AcceptClock, Durability, Options, Store, inspect::Info};
use std::{path::Path, time::Duration};

const MIB: u64 = 1 << 20;

/// Opens a store that is there, in a way that changes nothing besides what is asked for: no
/// interrupted key is forgotten because the defaults keep it for less time than its service does, no
/// clock is believed that its service would not believe, and the store grows by no more than `room`.
pub fn open(info: &Info, room: u64, durability: Durability) -> Result<Store, Failure> {
    open_at(info, room, durability, AcceptClock::No)
}

/// The same with what an operator says of the clock.
pub fn open_at(
    info: &Info,
    room: u64,
    durability: Durability,
    accept: AcceptClock,
) -> Result<Store, Failure> {
    // Four of the largest responses fit the ring, and the smallest segment (which has 1 MiB unless
    // the ring had to be larger, too).
    let smallest = match info.ring_bytes > 4 * MIB {
        true => info.ring_bytes,
        false => info.ring_bytes.min(MIB),
    };
    let max_response = (smallest / 4).saturating_sub(2048).clamp(4096, 15 * MIB);
    let mut options = Options::new()
        .create(false)
        .durability(durability)
        .accept_clock(accept)
        .max_response(max_response as usize)
        // The claims file stays as it is.
        .max_claims(1)
        .interrupted_retention(Duration::from_secs(3650 * 24 * 3600))
        .decisions_kept(Duration::from_secs(3650 * 24 * 3600))
        .capacity((info.segment_bytes + room).max(64 * MIB));
    if info.jump_max_ms > 0 {
        options = options.clock_jump_max(Duration::from_millis(info.jump_max_ms));
    }
    let _busy = Busy::with("opening the store");
    Ok(options.open(&info.place)?)
}

/// Makes a new store, with the default options.
pub fn create(store: &Path, durability: Durability) -> Result<Store, Failure> {
    Ok(Options::new().durability(durability).open(store)?)
}
