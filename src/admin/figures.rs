//! The store's figures: counts, sizes, times, alarms, and its health.

use super::{
    Config,
    keys::{shown, shown_scope},
};
use crate::{
    names,
    observe::{Counts, Timed, alarms::Alarm, events::KeyHash},
    operate::figures::{self, Figure, full_of},
    operate::{Figures, Operated, Settings},
    stats::{Count, ScopeUse, Stats},
    token::Token,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// Everything that the page shows beside keys.
pub(super) fn stats(store: &dyn Operated, config: &Config) -> Value {
    let figures = store.figures();
    let stats = &figures.stats;
    config.hour.look(store, stats);
    let (set, timings) = (store.settings(), store.timings());
    // A database's syncs are its own.
    let steps = if figures.table.is_some() { &STEPS[..2] } else { &STEPS[..] };
    let times: serde_json::Map<String, Value> = steps
        .iter()
        .map(|(timed, name)| ((*name).into(), times(&timings.counts(*timed))))
        .collect();
    let alarms: Vec<_> = timings.alarms().last().iter().map(alarm).collect();
    let mismatches: Vec<_> = timings
        .alarms()
        .mismatches()
        .iter()
        .map(|(scope, count, over)| {
            json!({
                "scope": names::of_scope(scope), "shown": shown_scope(scope),
                "count": count, "at_most_too_many": over,
            })
        })
        .collect();
    json!({
        "store": config.name,
        "read_only": config.read_only,
        "note_required": config.note_required,
        "second_person": config.second_person,
        "backend": set.backend,
        "draining": set.draining,
        "can_drain": set.can_drain,
        "durability": set.durability,
        "lease_ms": set.lease_ms,
        "replay_for_ms": set.replay_ms,
        "remember_for_ms": set.remember_ms,
        "max_response": set.max_response,
        "max_attempts": set.max_attempts,
        "health": troubles(stats, &set),
        "counts": listed(&figures::SINCE_OPENING, &figures),
        "now": listed(&figures::NOW, &figures),
        "scopes": figures.scopes.iter().map(scope).collect::<Vec<_>>(),
        "times": times,
        "hour": config.hour.shown(),
        "alarms": alarms,
        "mismatches": mismatches,
    })
}

/// A scope with many undecided keys, by name.
fn scope((scope, of): &(Box<[u8]>, ScopeUse)) -> Value {
    json!({
        "scope": names::of_scope(scope), "shown": shown_scope(scope),
        "hash": KeyHash(of.scope).to_string(),
        "undecided": of.undecided, "interrupted": of.interrupted,
    })
}

const STEPS: [(Timed, &str); 7] = [
    (Timed::Begin, "begin"),
    (Timed::Complete, "complete"),
    (Timed::Replay, "replay"),
    (Timed::CommitWait, "commit_wait"),
    (Timed::LogSync, "sync_log"),
    (Timed::ClaimsSync, "sync_claims"),
    (Timed::GroupSize, "group_size"),
];

/// Since the service was made: quantiles, and the counts of all buckets that are not empty. The
/// difference of two answers is the time between. Nanoseconds; sizes are numbers.
fn times(counts: &Counts) -> Value {
    let buckets: Vec<_> = counts.filled().map(|(value, count)| json!([value, count])).collect();
    json!({
        "count": counts.total(),
        "p50": counts.quantile(0.5),
        "p90": counts.quantile(0.9),
        "p99": counts.quantile(0.99),
        "p999": counts.quantile(0.999),
        "buckets": buckets,
    })
}

/// The figures of a list that this store has.
fn listed(list: &[Figure], figures: &Figures) -> Value {
    let shown = |figure: &Figure| {
        let value = match figure.value(figures)? {
            figures::Value::Number(number) | figures::Value::Ms(number) => number.into(),
            figures::Value::Yes(yes) => yes.into(),
            figures::Value::Text(text) => text.into(),
        };
        Some((figure.name?.to_owned(), value))
    };
    Value::Object(list.iter().filter_map(shown).collect())
}

fn leave_out(of: &mut Value, names: &[&str]) {
    if let Some(map) = of.as_object_mut() {
        names.iter().for_each(|name| drop(map.remove(*name)));
    }
}

fn alarm(alarm: &Alarm) -> Value {
    json!({
        "what": match alarm.count {
            Count::Fenced => "fenced",
            Count::Late => "late",
            Count::Exhausted => "exhausted",
            Count::InterruptedExpired => "interrupted_expired",
            _ => "began_after_expiry",
        },
        "at_ms": alarm.at_ms,
        "hash": KeyHash(alarm.hash).to_string(),
        "scope": names::of_scope(alarm.key.scope()),
        "key": names::of_key(alarm.key.key()),
        "shown": shown(alarm.key.as_ref()),
        "token": alarm.token.map(Token::get),
    })
}

/// What a probe or a script may want to tell apart; scopes by their hashes only.
fn facts(stats: &Stats) -> Value {
    let scopes: Vec<_> = stats
        .scopes
        .iter()
        .map(|of| {
            let hash = KeyHash(of.scope).to_string();
            json!({ "hash": hash, "undecided": of.undecided, "interrupted": of.interrupted })
        })
        .collect();
    let full = stats.full.as_ref().map(|why| {
        json!({
            "of": full_of(stats), "since_ms": stats.full_since_ms,
            "refused": stats.refused_full, "why": why,
        })
    });
    json!({
        "full": full,
        "claims": {
            "max": stats.claims_max, "undecided": stats.in_flight + stats.interrupted,
            "cells_free": stats.cells_free, "low": stats.claims_low, "scopes": scopes,
        },
        "exhausted_keys": stats.exhausted_keys,
        "clock_held": stats.clock_held,
        "poisoned": stats.poisoned,
        "damaged_places": stats.damaged_places,
    })
}

/// The troubles of a store, worst first.
fn troubles(stats: &Stats, set: &Settings) -> Vec<String> {
    let mut troubles = Vec::new();
    if let Some(why) = &stats.poisoned {
        troubles.push(format!("poisoned; open the store again: {why}"));
    }
    if let Some(why) = &stats.full {
        let (refused, of) = (stats.refused_full, full_of(stats));
        let since = Duration::from_millis(stats.now_ms.saturating_sub(stats.full_since_ms));
        let since = since.as_secs();
        troubles.push(format!(
            "full ({of}) for {since} s; {refused} begins were refused since the opening: {why}"
        ));
    } else if stats.claims_low {
        let used = stats.in_flight + stats.interrupted;
        let most = stats.scopes.first().map(|most| {
            let (n, stuck) = (most.undecided, most.interrupted);
            format!("; scope {} has {n}, of them {stuck} interrupted", KeyHash(most.scope))
        });
        troubles.push(format!(
            "claims nearly used up: {used} keys are undecided, {} cells are left{}",
            stats.cells_free,
            most.unwrap_or_default()
        ));
    }
    if stats.exhausted_keys > 0 {
        let keys = stats.exhausted_keys;
        troubles.push(format!("attempts used up at {keys} keys: only an operator can end them"));
    }
    if stats.damaged_places > 0 {
        troubles.push(format!("opened in spite of {} damaged places", stats.damaged_places));
    }
    if stats.clock_held {
        troubles.push("the wall clock is not believed".into());
    }
    if set.draining {
        troubles.push("draining: no more claims are granted".into());
    }
    troubles
}

/// 200 if requests can be taken, 503 if not.
pub(super) fn health(store: &dyn Operated) -> (StatusCode, Value) {
    // A probe doesn't wait until keys are counted.
    let (figures, set) = (store.figures_at_hand(), store.settings());
    let (stats, answers) = (&figures.stats, store.answers());
    let well = stats.poisoned.is_none() && stats.full.is_none() && answers;
    let ready = well && !set.draining && !set.closed;
    let mut troubles = troubles(stats, &set);
    if !answers {
        troubles.push("the database doesn't answer".into());
    }
    if set.closed {
        troubles.push("closed".into());
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = facts(stats);
    if figures.table.is_some() {
        leave_out(&mut answer, &["full", "claims", "clock_held", "poisoned", "damaged_places"]);
    }
    answer["ready"] = ready.into();
    answer["troubles"] = troubles.into();
    (status, answer)
}
