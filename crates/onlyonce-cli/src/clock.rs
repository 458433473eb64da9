//! `accept-clock`: an operator says what a clock that the store holds means.

use super::{
    args::AcceptClock as Args,
    fail::Failure,
    out::{Out, inspect},
    owner,
    units::date,
};
use onlyonce::{AcceptClock, Durability};
use serde_json::json;

pub fn accept(args: &Args, out: &mut Out) -> Result<(), Failure> {
    let info = inspect(&args.of.store)?.info();
    let accept = match args.how.keep_windows {
        true => AcceptClock::KeepingWindows,
        false => AcceptClock::AsIs,
    };
    // The store keeps the durability that its service opened it with, for outside readers.
    let durability = info.durability.unwrap_or(Durability::Synced);
    let store = owner::open_at(&info, 0, durability, accept)?;
    let now_ms = store.stats().now_ms;
    store.close()?;
    match out.json {
        true => out.value(&json!({ "was_ms": info.now_ms, "now_ms": now_ms })),
        false => out.line(format_args!(
            "the store's time was {}, and is {} now",
            date(info.now_ms),
            date(now_ms)
        )),
    }
}
