//! `get`: one key, and what it would answer.

use super::{
    args::Get,
    fail::{Code, Failure},
    item::{state_of, to_json},
    names::{parse_key, parse_scope, show_key, show_scope, visible},
    out::{DIM, Out, inspect_key},
    resolve::read_by,
    units::{date, size, span},
};
use onlyonce::{KeyRef, State, http::StoredAnswer, inspect::Item};

pub fn run(get: &Get, out: &mut Out) -> Result<(), Failure> {
    let (scope, key) = (parse_scope(&get.named.scope)?, parse_key(&get.named.key)?);
    let key_ref = KeyRef::new(&scope, &key).expect("parsed");
    let inspection = inspect_key(&get.named.of.store, key_ref)?;
    let now = inspection.info().now_ms;
    let Some(item) = inspection.get(key_ref)? else {
        let line = format!(
            "no key {} in scope {}; `onlyonce list` shows the keys",
            get.named.key, get.named.scope
        );
        return Err(Failure::new(Code::NoKey, line));
    };
    if get.raw {
        return raw(&item, out);
    }
    match out.json {
        true => out.value(&to_json(&item, true)),
        false => show(&item, now, out),
    }
}

fn raw(item: &Item, out: &mut Out) -> Result<(), Failure> {
    let bytes = match &item.entry.state {
        State::Completed(record) => record.response().map(<[u8]>::to_vec),
        State::Interrupted { answer, .. } => answer.as_ref().map(|answer| answer.to_vec()),
        _ => None,
    };
    match bytes {
        Some(bytes) => out.raw(&bytes),
        None => {
            let line = format!("the key is {} and no answer of it is kept", state_of(item));
            Err(Failure::new(Code::NoKey, line))
        }
    }
}

fn show(item: &Item, now: u64, out: &mut Out) -> Result<(), Failure> {
    let key = item.entry.key.as_ref();
    out.row("key", show_key(key.key()))?;
    out.row("scope", show_scope(key.scope()))?;
    out.row("state", state_of(item))?;
    out.row("token", item.entry.token)?;
    out.row("attempts", item.entry.attempts)?;
    if !matches!(item.entry.state, State::Completed(_)) {
        out.row("answers", read_by(StoredAnswer::is_of(&item.entry)))?;
    }
    let at = |ms: u64| format!("{} ({} ago)", date(ms), span(now.saturating_sub(ms)));
    match &item.entry.state {
        State::Completed(record) => {
            out.row("completed", at(record.completed_at()))?;
            let left = span(record.expires_at().saturating_sub(now));
            out.row("expires", format!("{} (in {left})", date(record.expires_at())))?;
            if !record.head().is_empty() && record.response().is_some() {
                answer("head", record.head(), out)?;
            }
            match record.response() {
                Some(response) => answer("response", response, out),
                None if record.head().is_empty() => out.row("response", "not retained"),
                None => {
                    out.row("response", "not retained; what was kept of it:")?;
                    answer("head", record.head(), out)
                }
            }
        }
        State::Interrupted { reason, at: when, checkpoint, answer: left, .. } => {
            out.row("begun", at(item.at_ms))?;
            out.row("interrupted", format!("{}: {reason}", at(*when)))?;
            if let Some(checkpoint) = checkpoint {
                answer("checkpoint", checkpoint, out)?;
            }
            match left {
                Some(left) => answer("answer left", left, out),
                None => Ok(()),
            }
        }
        State::InFlight { checkpoint, .. } => {
            out.row("begun", at(item.at_ms))?;
            match checkpoint {
                Some(checkpoint) => answer("checkpoint", checkpoint, out),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Bytes of the service's: an HTTP answer, text, or only their number.
fn answer(name: &str, bytes: &[u8], out: &mut Out) -> Result<(), Failure> {
    match StoredAnswer::read(bytes) {
        Some(StoredAnswer::Open { status, headers, trailers, body }) => {
            out.row(name, format_args!("HTTP {status}"))?;
            for (header, value) in headers.iter().chain(&trailers) {
                out.line(format_args!(
                    "  {header}: {}",
                    visible(&String::from_utf8_lossy(value.as_bytes()))
                ))?;
            }
            if !body.is_empty() {
                text(&body, out)?;
            }
            Ok(())
        }
        Some(_) => {
            out.row(name, format_args!("an HTTP answer, sealed ({})", size(bytes.len() as u64)))
        }
        None => {
            out.row(name, size(bytes.len() as u64))?;
            text(bytes, out)
        }
    }
}

fn text(bytes: &[u8], out: &mut Out) -> Result<(), Failure> {
    match std::str::from_utf8(bytes) {
        Ok(text) => out.line(visible(text)),
        Err(_) => out.line(format_args!("{DIM}(not text; --raw writes the bytes){DIM:#}")),
    }
}
