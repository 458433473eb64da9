//! `decisions`: what operators have decided.

use super::{
    args::Decisions,
    fail::Failure,
    names::{parse_key, parse_scope, put_bytes, show_key, show_scope, visible},
    out::{BOLD, DIM, Out, inspect},
    units::date,
};
use onlyonce::decisions::{Decision, Outcome, WasState};
use serde_json::{Map, Value};

pub fn run(args: &Decisions, out: &mut Out) -> Result<(), Failure> {
    let scope = args.scope.as_deref().map(parse_scope).transpose()?;
    let prefix = args.prefix.as_deref().map(parse_key).transpose()?.unwrap_or_default();
    let decisions = inspect(&args.of.store)?.decisions()?;
    let wanted = decisions.iter().filter(|decision| {
        let key = decision.key.as_ref();
        scope.as_ref().is_none_or(|scope| scope.as_bytes() == key.scope())
            && key.key().starts_with(&prefix)
    });
    show_all(wanted.map(to_json), out)
}

/// Oldest first.
pub fn show_all(all: impl Iterator<Item = Value>, out: &mut Out) -> Result<(), Failure> {
    let mut none = true;
    for decision in all {
        none = false;
        match out.json {
            true => out.value(&decision)?,
            false => show(&decision, out)?,
        }
    }
    match none && !out.json {
        true => out.line(format_args!("{DIM}no decisions{DIM:#}")),
        false => Ok(()),
    }
}

fn show(decision: &Value, out: &mut Out) -> Result<(), Failure> {
    let text = |name: &str| visible(decision[name].as_str().unwrap_or_default());
    let at = date(decision["at_ms"].as_u64().unwrap_or(0));
    let actor = match text("actor") {
        actor if actor.is_empty() => "unknown".into(),
        actor => actor,
    };
    let (what, was) = (text("decision"), text("was"));
    let (scope, key) = (text("scope"), text("key"));
    let outcome = match text("outcome") {
        outcome if outcome == "done" => String::new(),
        outcome => format!(" ({outcome})"),
    };
    out.line(format_args!("{at}  {BOLD}{what}{BOLD:#}{outcome}  {scope} {key}"))?;
    out.line(format_args!("  by {actor}; it was {was}, token {}", decision["token"]))?;
    match text("note") {
        note if note.is_empty() => Ok(()),
        note => out.line(format_args!("  {note}")),
    }
}

fn to_json(decision: &Decision) -> Value {
    let key = decision.key.as_ref();
    let was = match decision.was.state {
        WasState::InFlight => "in-flight".to_owned(),
        WasState::Interrupted(reason) => format!("interrupted: {}", reason.as_str()),
        _ => "completed".to_owned(),
    };
    let outcome = match &decision.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused(why) => format!("refused: {why}"),
        _ => "unknown: look at the key".to_owned(),
    };
    let mut map = Map::new();
    map.insert("number".into(), decision.number.into());
    map.insert("at_ms".into(), decision.at_ms.into());
    map.insert("actor".into(), decision.actor.clone().into());
    map.insert("note".into(), decision.note.clone().into());
    map.insert("decision".into(), decision.verdict.to_string().into());
    map.insert("outcome".into(), outcome.into());
    map.insert("scope".into(), show_scope(key.scope()).into());
    map.insert("key".into(), show_key(key.key()).into());
    map.insert("was".into(), was.into());
    map.insert("token".into(), decision.was.token.get().into());
    map.insert("attempts".into(), decision.was.attempts.into());
    for (name, bytes) in [
        ("checkpoint", &decision.was.checkpoint),
        ("before", &decision.was.answer),
        ("after", &decision.answer),
    ] {
        if let Some(bytes) = bytes {
            put_bytes(&mut map, name, bytes);
        }
    }
    for (name, bytes) in [("before_head", &decision.was.head), ("after_head", &decision.head)] {
        if !bytes.is_empty() {
            put_bytes(&mut map, name, bytes);
        }
    }
    Value::Object(map)
}
