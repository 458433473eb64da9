//! Keys: listed by what they are, looked up by what they are called.

use super::{answer::Refusal, query};
use crate::{
    decisions::{Decision, Outcome, WasState},
    engine::entries::{Entry, Filter, State},
    error::StoreError,
    http::StoredAnswer,
    key::{KeyRef, OwnedKey},
    names::{self, escape as text},
    observe::events::KeyHash,
    operate::{Asked, AskedDecisions, Operated, Unanswered, age},
    record::Record,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// The number of keys that are listed at a time, unless fewer are asked for.
const LIMIT: u64 = 1000;
/// The number of bytes of an answer that are shown.
const SHOWN_BYTES: usize = 64 << 10;

/// `GET api/keys`, page by page: undecided keys by age, oldest first; completed ones in an order of
/// the store's own.
pub(super) fn list(store: &dyn Operated, asked: &str) -> Result<Value, Refusal> {
    let state = query::get(asked, "state")?.unwrap_or_else(|| "undecided".into());
    let said = |name: &str| Ok(query::get(asked, name)?.filter(|text| !text.is_empty()));
    let scope = said("scope")?.map(|scope| names::parse_scope(&scope).map_err(Refusal::bad));
    let prefix = said("prefix")?.map(|prefix| names::parse_key(&prefix).map_err(Refusal::bad));
    let asked = Asked {
        filter: match &*state {
            "undecided" => Filter { completed: false, ..Filter::ALL },
            "in_flight" => Filter::IN_FLIGHT,
            "interrupted" => Filter::INTERRUPTED,
            "completed" => Filter::COMPLETED,
            _ => {
                let why = "state is undecided, in_flight, interrupted or completed";
                return Err(Refusal::bad(why));
            }
        },
        scope: scope.transpose()?,
        prefix: prefix.transpose()?.unwrap_or_default(),
        older_than: Duration::from_millis(query::number(asked, "older_than_ms", 0)?),
        reason: said("reason")?,
        limit: query::number(asked, "limit", 100)?.clamp(1, LIMIT) as usize,
        cursor: said("cursor")?.filter(|cursor| cursor != "0"),
    };
    let page = store.page(&asked).map_err(|unanswered| match unanswered {
        Unanswered::Cursor => Refusal::bad("the cursor is not one of this store's"),
        Unanswered::Store(error) => unavailable(&error),
    })?;
    let keys: Vec<_> = page.entries.iter().map(|entry| base(store, entry, page.now_ms)).collect();
    // A number where it is one, as clients of an earlier version expect it.
    let next =
        page.next.map(|next| next.parse::<u64>().map_or(json!(next), |number| json!(number)));
    Ok(json!({ "keys": keys, "total": page.total, "next": next, "damaged": page.damaged }))
}

/// `GET api/key`: all there is of a key, by scope and key or by hash.
pub(super) fn look_up(store: &dyn Operated, asked: &str) -> Result<Value, Refusal> {
    let entry = match query::get(asked, "hash")? {
        Some(hash) => {
            let hash = u64::from_str_radix(&hash, 16)
                .map_err(|_| Refusal::bad("a hash is up to 16 hexadecimal digits"))?;
            store.with_hash(hash).map_err(|error| unavailable(&error))?
        }
        None => {
            let scope = query::get(asked, "scope")?.unwrap_or_default();
            let key = query::get(asked, "key")?.ok_or_else(|| Refusal::bad("which key?"))?;
            let key = key_of(&scope, &key)?;
            store.get(key.as_ref()).map_err(|error| unavailable(&error))?
        }
    };
    let absent = || Refusal::new(StatusCode::NOT_FOUND, "nothing is known of this key");
    Ok(long(store, &entry.ok_or_else(absent)?))
}

/// `GET api/decisions`: what operators have decided, the newest first; of one key, of a scope, or of
/// all, at most a thousand.
pub(super) fn decisions(store: &dyn Operated, asked: &str) -> Result<Value, Refusal> {
    let parse = |name: &str| query::get(asked, name);
    let scope = parse("scope")?.map(|scope| names::parse_scope(&scope)).transpose();
    let named = |text: Option<String>| -> Result<Option<Vec<u8>>, Refusal> {
        let key = text.filter(|text| !text.is_empty()).map(|text| names::parse_key(&text));
        key.transpose().map_err(Refusal::bad)
    };
    let asked = AskedDecisions {
        scope: scope.map_err(Refusal::bad)?,
        key: named(parse("key")?)?,
        prefix: named(parse("prefix")?)?.unwrap_or_default(),
        before: match query::number(asked, "before", u64::MAX)? {
            u64::MAX => None,
            before => Some(before),
        },
        limit: query::number(asked, "limit", LIMIT)?.clamp(1, LIMIT) as usize,
    };
    let kept = store
        .decisions(&asked)
        .map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let shown: Vec<_> = kept.iter().map(decision).collect();
    let more = kept.len() == asked.limit;
    let next = kept.last().filter(|_| more).map(|last| last.number);
    Ok(json!({ "decisions": shown, "next": next }))
}

fn decision(decision: &Decision) -> Value {
    let key = decision.key.as_ref();
    let was = match decision.was.state {
        WasState::InFlight => "in-flight".to_owned(),
        WasState::Interrupted(reason) => format!("interrupted: {reason}"),
        WasState::Completed => "completed".to_owned(),
    };
    let outcome = match &decision.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
        Outcome::Unknown => "unknown: look at the key".to_owned(),
    };
    json!({
        "number": decision.number,
        "at_ms": decision.at_ms,
        "actor": decision.actor,
        "note": decision.note,
        "decision": decision.verdict.to_string(),
        "outcome": outcome,
        "scope": names::of_scope(key.scope()),
        "key": names::of_key(key.key()),
        "shown": shown(key),
        "was": was,
        "token": decision.was.token.get(),
        "attempts": decision.was.attempts,
        "checkpoint": decision.was.checkpoint.as_deref().map(text::of),
        "before": decision.was.answer.as_deref().map(stored),
        "after": decision.answer.as_deref().map(stored),
    })
}

/// A key from its two names.
pub(super) fn key_of(scope: &str, key: &str) -> Result<OwnedKey, Refusal> {
    let scope = names::parse_scope(scope).map_err(Refusal::bad)?;
    let key = names::parse_key(key).map_err(Refusal::bad)?;
    let both = KeyRef::new(&scope, &key).map_err(|error| Refusal::bad(error.to_string()))?;
    Ok(both.owned())
}

pub(super) fn bytes_of(text: &str, what: &str) -> Result<Vec<u8>, Refusal> {
    let why = || Refusal::bad(format!("{what}: after a backslash comes another, or xNN"));
    text::bytes(text).ok_or_else(why)
}

pub(super) fn unavailable(error: &StoreError) -> Refusal {
    let status = match error {
        StoreError::Closed
        | StoreError::Poisoned
        | StoreError::Forked
        | StoreError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, error.to_string())
}

/// Scope and key for a screen: what can be seen stands as it is, a space too.
pub(super) fn shown(key: KeyRef<'_>) -> Value {
    json!({ "scope": shown_scope(key.scope()), "key": text::of(key.key()) })
}

pub(super) fn shown_scope(scope: &[u8]) -> String {
    match names::of_scope(scope) {
        name if name == "-" => String::new(),
        name if name.starts_with("hex:") => text::of(scope),
        name => name.strip_prefix('=').map(str::to_owned).unwrap_or(name),
    }
}

/// Whether a key's answers are the HTTP layer's. An answer that the layer can't read, on a key of
/// it, is one to be replaced.
pub(super) fn is_http(entry: &Entry) -> bool {
    StoredAnswer::is_of(entry)
        || matches!(entry.state, State::Completed(_)) && entry.fingerprint.scheme() != 0
}

/// A key as a list shows it.
fn base(store: &dyn Operated, entry: &Entry, now_ms: u64) -> Value {
    let (state, reason, holder_gone) = match &entry.state {
        State::InFlight { .. } => ("in_flight", None, None),
        State::Interrupted { reason, holder_gone, .. } => {
            ("interrupted", Some(reason.to_string()), Some(*holder_gone))
        }
        State::Completed(_) => ("completed", None, None),
    };
    let layer = if is_http(entry) { "http" } else { "own" };
    json!({
        "scope": names::of_scope(entry.key.scope()),
        "key": names::of_key(entry.key.key()),
        "shown": shown(entry.key.as_ref()),
        "hash": KeyHash(store.hash(entry.key.as_ref())).to_string(),
        "state": state,
        "age_ms": age(entry, now_ms).as_millis() as u64,
        "token": entry.token.get(),
        "attempts": entry.attempts,
        "reason": reason,
        "holder_gone": holder_gone,
        "layer": layer,
    })
}

/// A key as a look-up shows it.
fn long(store: &dyn Operated, entry: &Entry) -> Value {
    let mut value = base(store, entry, store.now_ms());
    match &entry.state {
        State::InFlight { checkpoint, .. } => {
            value["checkpoint"] = json!(checkpoint.as_deref().map(text::of));
        }
        State::Interrupted { checkpoint, answer, at, .. } => {
            value["interrupted_at_ms"] = json!(at);
            value["checkpoint"] = json!(checkpoint.as_deref().map(text::of));
            value["answer"] = json!(answer.as_deref().map(stored));
        }
        State::Completed(record) => completed_value(&mut value, record),
    }
    if let Ok(Some(earlier)) = store.earlier(entry.key.as_ref()) {
        value["earlier"] = json!({
            "attempt": earlier.attempt,
            "reason": earlier.reason.to_string(),
            "interrupted_at_ms": earlier.at_ms,
            "answer": earlier.answer.as_deref().map(stored),
        });
    }
    value
}

fn completed_value(value: &mut Value, record: &Record) {
    value["completed_at_ms"] = json!(record.completed_at());
    value["expires_at_ms"] = json!(record.expires_at());
    value["retained"] = json!(record.response().is_some());
    value["answer"] = json!(record.response().map(stored));
    if !record.head().is_empty() {
        value["head"] = stored(record.head());
    }
}

/// Bytes that were stored: as an answer of the HTTP layer if they are one, else as they are.
fn stored(bytes: &[u8]) -> Value {
    let cut = |bytes: &[u8]| {
        let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
        json!({ "bytes": bytes.len(), "text": text::of(shown), "cut": shown.len() < bytes.len() })
    };
    match StoredAnswer::read(bytes) {
        None => cut(bytes),
        Some(StoredAnswer::Sealed) => json!({ "bytes": bytes.len(), "sealed": true }),
        Some(StoredAnswer::Open { status, headers, trailers, body }) => {
            let lines: Vec<_> = headers
                .iter()
                .chain(&trailers)
                .map(|(name, value)| json!([name.as_str(), text::of(value.as_bytes())]))
                .collect();
            let mut value = cut(&body);
            value["http"] = json!({ "status": status.as_u16(), "headers": lines });
            value
        }
    }
}
