//! `info`: a store at a glance.

use super::{
    args::Of,
    fail::Failure,
    names::show_scope,
    out::{BAD, GOOD, Out, WARN, inspect},
    units::{count, date, many, size, span},
};
use onlyonce::{
    Durability,
    inspect::{Info, Inspection},
};
use serde_json::json;
use std::collections::BTreeMap;

pub fn run(of: &Of, out: &mut Out) -> Result<(), Failure> {
    let inspection = inspect(&of.store)?;
    let info = inspection.info();
    match out.json {
        true => as_json(&info, out),
        false => as_text(&info, &inspection, out),
    }
}

/// The scopes with the most undecided keys, most first.
fn most_undecided(inspection: &Inspection) -> Vec<(String, u64)> {
    let mut scopes: BTreeMap<String, u64> = BTreeMap::new();
    for item in inspection.undecided() {
        *scopes.entry(show_scope(item.entry.key.scope())).or_default() += 1;
    }
    let mut scopes: Vec<_> = scopes.into_iter().collect();
    scopes.sort_by_key(|(_, keys)| std::cmp::Reverse(*keys));
    scopes.truncate(8);
    scopes
}

fn durability(info: &Info) -> String {
    match info.durability {
        Some(Durability::Synced) => "synced".into(),
        Some(Durability::SyncedCompletions) => "synced completions".into(),
        Some(Durability::Buffered { max_delay }) => {
            format!("buffered, for at most {} ms", max_delay.as_millis())
        }
        None => "not known".into(),
    }
}

/// The space that another key would find. How large the store may become is its service's option,
/// and whether the disk has room shows when it grows.
fn space(info: &Info) -> String {
    let (free, promised) = (info.space_free, info.space_promised);
    let mut text = format!("{} free in segments", size(free));
    if promised > 0 {
        text += &format!(", {} promised to keys in flight", size(promised));
    }
    if free.saturating_sub(promised) < info.space_largest.max(1) {
        text += &format!(
            "; {WARN}another key needs another segment{WARN:#}, if capacity and disk have room for one: \
             a running service says that (`info --url`)"
        );
    }
    text
}

fn as_text(info: &Info, inspection: &Inspection, out: &mut Out) -> Result<(), Failure> {
    out.row("store", &info.place)?;
    match info.owner {
        Some(process) => out.row("open", format_args!("by process {process}"))?,
        None => out.row("open", "no, as far as this system can tell")?,
    }
    out.row("format", info.format)?;
    out.row(
        "identity",
        format_args!("{:016x}, opened {}", info.store, many(info.life.into(), "time")),
    )?;
    if info.created {
        out.row("created", "by its only opening; it knows no key from before")?;
    }
    out.row("durability", durability(info))?;
    let stuck = if info.interrupted > 0 { WARN } else { GOOD };
    out.row(
        "keys",
        format_args!(
            "{} in flight, {stuck}{} interrupted{stuck:#}, {} completed (including expired ones \
             whose segment has not been swept)",
            count(info.in_flight),
            count(info.interrupted),
            count(info.records),
        ),
    )?;
    let reasons = info.interrupted_by.iter().filter(|(_, keys)| *keys > 0);
    let reasons: Vec<_> =
        reasons.map(|(reason, keys)| format!("{} {}", count(keys), reason.as_str())).collect();
    if !reasons.is_empty() {
        out.row("interrupted", reasons.join(", "))?;
    }
    if info.clock_held {
        let more = "the wall clock is not believed; see `onlyonce accept-clock --help`";
        out.row("time", format_args!("{WARN}{}{WARN:#}: {more}", date(info.now_ms)))?;
    }
    if let Some((oldest, newest)) = info.oldest_newest_ms {
        let ago = |ms: u64| span(info.now_ms.saturating_sub(ms));
        out.row("oldest", format_args!("{} ({} ago)", date(oldest), ago(oldest)))?;
        out.row("newest", format_args!("{} ({} ago)", date(newest), ago(newest)))?;
    }
    let disk = info.segment_bytes + info.claims_bytes + info.ring_bytes;
    out.row("disk", format_args!("{}, of them {} records", size(disk), size(info.record_bytes)))?;
    out.row(
        "segments",
        format_args!(
            "{} ({}): {} free, {} without a footer",
            info.segments,
            size(info.segment_bytes),
            info.segments_free,
            info.segments_open
        ),
    )?;
    out.row("space", space(info))?;
    let used = info.in_flight + info.interrupted;
    let how_full = if used >= info.claims_max {
        format!("; {BAD}all used{BAD:#}: new keys are refused until some are decided")
    } else if used * 5 >= info.claims_max * 4 {
        format!("; {WARN}nearly used up{WARN:#}: {} keys are undecided", count(used))
    } else {
        String::new()
    };
    let claims = (size(info.claims_bytes), count(info.claims_max));
    out.row("claims", format_args!("{}, room for {}{how_full}", claims.0, claims.1))?;
    if !how_full.is_empty() {
        for (scope, keys) in most_undecided(inspection) {
            out.line(format_args!("            {scope}: {}", many(keys, "undecided key")))?;
        }
    }
    if info.torn_claims > 0 {
        let torn = info.torn_claims;
        out.row(
            "torn",
            format_args!(
                "{torn} claims by a loss of power; they had not been promised to survive it"
            ),
        )?;
    }
    out.row("ring", size(info.ring_bytes))?;
    out.row("tokens", format_args!("below {}", info.token_limit))?;
    match info.problems.len() {
        0 => {
            out.row("problems", format_args!("{GOOD}none seen{GOOD:#} (`verify` reads everything)"))
        }
        n => {
            let more = "`onlyonce verify` names all damage";
            out.row("problems", format_args!("{BAD}{n}{BAD:#}; {more}"))?;
            info.problems.iter().try_for_each(|problem| out.line(format_args!("  {problem}")))
        }
    }
}

fn as_json(info: &Info, out: &mut Out) -> Result<(), Failure> {
    let problems: Vec<String> = info.problems.iter().map(ToString::to_string).collect();
    out.value(&json!({
        "store": info.place,
        "owner": info.owner,
        "format": info.format,
        "identity": format!("{:016x}", info.store),
        "life": info.life,
        "created": info.created,
        "durability": match info.durability {
            Some(Durability::Synced) => "synced",
            Some(Durability::SyncedCompletions) => "synced_completions",
            Some(Durability::Buffered { .. }) => "buffered",
            None => "unknown",
        },
        "max_delay_ms": match info.durability {
            Some(Durability::Buffered { max_delay }) => Some(max_delay.as_millis() as u64),
            _ => None,
        },
        "in_flight": info.in_flight,
        "interrupted": info.interrupted,
        "interrupted_by": info
            .interrupted_by
            .iter()
            .map(|(reason, keys)| (reason.as_str(), keys))
            .collect::<std::collections::BTreeMap<_, _>>(),
        "records": info.records,
        "oldest_ms": info.oldest_newest_ms.map(|(oldest, _)| oldest),
        "newest_ms": info.oldest_newest_ms.map(|(_, newest)| newest),
        "now_ms": info.now_ms,
        "clock_held": info.clock_held,
        "clock_jump_max_ms": info.jump_max_ms,
        "segments": info.segments,
        "segments_free": info.segments_free,
        "segments_open": info.segments_open,
        "segment_bytes": info.segment_bytes,
        "record_bytes": info.record_bytes,
        "space_free": info.space_free,
        "space_promised": info.space_promised,
        "space_largest": info.space_largest,
        "claims_bytes": info.claims_bytes,
        "claims_max": info.claims_max,
        "torn_claims": info.torn_claims,
        "closed_in_order": info.closed,
        "ring_bytes": info.ring_bytes,
        "token_limit": info.token_limit,
        "problems": problems,
    }))
}
