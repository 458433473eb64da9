//! `compact`: a store with other sizes, and without what has expired.

use super::{
    args::Compact,
    fail::{Code, Failure},
    names::parse_scope,
    out::{Busy, Out, inspect},
    owner, resolve,
    units::{many, size},
};
use onlyonce::{Durability, Full, KeyRef, Options, StoreError, inspect::Info};
use serde_json::json;
use std::{fs, io, time::Duration};

pub fn run(args: &Compact, out: &mut Out) -> Result<(), Failure> {
    let left_out = args.without_scope.iter().map(|scope| parse_scope(scope));
    let left_out = left_out.collect::<Result<Vec<_>, _>>()?;
    let before = inspect(&args.of.store)?.info();
    let place = args.to.display();
    match fs::read_dir(&args.to) {
        Ok(mut files) => {
            if let Some(file) = files.next().transpose().map_err(Failure::io(&place))? {
                let file = file.path();
                let line = format!("{place} is not empty: {} is there", file.display());
                return Err(Failure::new(Code::Refused, line));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io(&place)(error)),
    }
    let from = owner::open(&before, resolve::ROOM, Durability::Synced)?;
    let into = options(args, &before).open(&args.to)?;
    let busy = Busy::with("copying the keys");
    let kept = |key: KeyRef<'_>| left_out.iter().all(|scope| scope.as_bytes() != key.scope());
    let copied = from.copy_keys(&into, &kept);
    let decisions = copied.and_then(|keys| Ok((keys, from.copy_decisions(&into, &kept)?)));
    let closed = into.close();
    let left = from.close();
    drop(busy);
    let (keys, decisions) = decisions.map_err(|error| failed(error, args))?;
    closed?;
    left?;
    let after = inspect(&args.to)?.info();
    if out.json {
        return out.value(&json!({
            "to": place.to_string(), "keys": keys, "decisions": decisions,
            "bytes_before": bytes(&before), "bytes": bytes(&after),
            "claims_max": after.claims_max, "ring_bytes": after.ring_bytes,
        }));
    }
    out.line(format_args!(
        "{place}: {} and {}; {} instead of {}. Start the service with it, and never again with {}.",
        many(keys, "key"),
        many(decisions, "decision"),
        size(bytes(&after)),
        size(bytes(&before)),
        args.of.store.display(),
    ))
}

fn bytes(info: &Info) -> u64 {
    info.segment_bytes + info.claims_bytes + info.ring_bytes
}

fn options(args: &Compact, before: &Info) -> Options {
    let years = Duration::from_secs(3650 * 24 * 3600);
    let ring = args.ring.unwrap_or(before.ring_bytes);
    // What is there has room, and four of the largest fit the ring.
    let fits = (ring / 4).saturating_sub(16 << 10).clamp(4096, 15 << 20);
    let most = args.max_response.unwrap_or(before.space_largest.max(256 << 10).min(fits));
    let claims = u32::try_from(before.claims_max).unwrap_or(u32::MAX);
    let mut options = Options::new()
        // One sync at the end is for all.
        .durability(Durability::Buffered { max_delay: Duration::from_secs(1) })
        .max_claims(args.max_claims.unwrap_or(claims))
        .ring_bytes(ring)
        .max_response(usize::try_from(most).unwrap_or(usize::MAX))
        .interrupted_retention(years)
        .decisions_kept(years)
        .capacity((2 * before.segment_bytes).saturating_add(1 << 30));
    if before.jump_max_ms > 0 {
        options = options.clock_jump_max(Duration::from_millis(before.jump_max_ms));
    }
    options
}

fn failed(error: StoreError, args: &Compact) -> Failure {
    let to = args.to.display();
    let line = match &error {
        StoreError::StoreFull(Full::Claims) => {
            format!(
                "more keys are undecided than --max-claims allows; decide some, and remove {to}"
            )
        }
        StoreError::ResponseTooLarge { .. } => format!(
            "an answer is larger than the new store has room for: {error}; remove {to}, and try again \
             with larger --ring and --max-response"
        ),
        _ => return error.into(),
    };
    Failure::new(Code::Refused, line)
}
