//! A key, for people and for programs.

use super::names::{put_bytes, show_key, show_scope};
use onlyonce::{State, http::StoredAnswer, inspect::Item};
use serde_json::{Map, Value, json};

/// The state's name.
pub fn state_of(item: &Item) -> &'static str {
    match &item.entry.state {
        State::InFlight { .. } => "in-flight",
        State::Interrupted { .. } => "interrupted",
        State::Completed(_) => "completed",
        _ => "unknown",
    }
}

/// Since when it is as it is, in milliseconds since 1970.
pub fn since(item: &Item) -> u64 {
    match &item.entry.state {
        State::Interrupted { at, .. } => *at,
        _ => item.at_ms,
    }
}

/// All that is known of a key, as `import` reads it again. With `http`, answers of the HTTP layer
/// are taken apart beside.
pub fn to_json(item: &Item, http: bool) -> Value {
    let key = item.entry.key.as_ref();
    let mut map = Map::new();
    map.insert("scope".into(), show_scope(key.scope()).into());
    map.insert("key".into(), show_key(key.key()).into());
    map.insert("state".into(), state_of(item).into());
    let print = item.fingerprint.as_bytes().iter().map(|byte| format!("{byte:02x}"));
    map.insert("fingerprint".into(), print.collect::<String>().into());
    map.insert("scheme".into(), item.fingerprint.scheme().into());
    map.insert("token".into(), item.entry.token.get().into());
    map.insert("attempts".into(), item.entry.attempts.into());
    if http && !matches!(item.entry.state, State::Completed(_)) {
        let layer = if StoredAnswer::is_of(&item.entry) { "http" } else { "own" };
        map.insert("layer".into(), layer.into());
    }
    let retention = item.retention;
    map.insert("replay_for_ms".into(), (retention.replay_for.as_millis() as u64).into());
    map.insert("remember_for_ms".into(), (retention.remember_for.as_millis() as u64).into());
    match &item.entry.state {
        State::Completed(record) => {
            map.insert("completed_at".into(), record.completed_at().into());
            map.insert("expires_at".into(), record.expires_at().into());
            map.insert("retained".into(), record.response().is_some().into());
            if !record.head().is_empty() {
                put_bytes(&mut map, "head", record.head());
            }
            if let Some(response) = record.response() {
                put_bytes(&mut map, "response", response);
            }
            if http
                && let Some(answer) = record.response().or(Some(record.head())).and_then(http_of)
            {
                map.insert("http".into(), answer);
            }
        }
        State::Interrupted { reason: why, at, checkpoint, answer, .. } => {
            map.insert("begun_at".into(), item.at_ms.into());
            map.insert("interrupted_at".into(), (*at).into());
            map.insert("reason".into(), why.as_str().into());
            if let Some(checkpoint) = checkpoint {
                put_bytes(&mut map, "checkpoint", checkpoint);
            }
            if let Some(answer) = answer {
                put_bytes(&mut map, "answer", answer);
                if http && let Some(answer) = http_of(answer) {
                    map.insert("http".into(), answer);
                }
            }
        }
        State::InFlight { checkpoint, .. } => {
            map.insert("begun_at".into(), item.at_ms.into());
            if let Some(checkpoint) = checkpoint {
                put_bytes(&mut map, "checkpoint", checkpoint);
            }
        }
        _ => {}
    }
    Value::Object(map)
}

fn http_of(bytes: &[u8]) -> Option<Value> {
    let StoredAnswer::Open { status, headers, trailers, body } = StoredAnswer::read(bytes)? else {
        return Some(json!({ "sealed": true }));
    };
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    let mut map = Map::new();
    map.insert("status".into(), status.as_u16().into());
    map.insert("headers".into(), headers.iter().map(line).collect());
    if !trailers.is_empty() {
        map.insert("trailers".into(), trailers.iter().map(line).collect());
    }
    put_bytes(&mut map, "body", &body);
    Some(Value::Object(map))
}
