//! `list`: the keys, a line each.

use super::{
    args::{List, Wanted},
    fail::{Code, Failure},
    item::{since, state_of, to_json},
    names::{parse_key, parse_scope, show_key, show_scope},
    out::{BAD, BOLD, DIM, GOOD, Out, WARN},
    units::span,
};
use onlyonce::{
    State,
    inspect::{Inspection, Item},
};
use std::path::Path;

pub fn run(list: &List, out: &mut Out) -> Result<(), Failure> {
    let scope = list.scope.as_deref().map(parse_scope).transpose()?;
    let prefix = list.prefix.as_deref().map(parse_key).transpose()?.unwrap_or_default();
    let inspection = Inspection::open(&list.of.store)?;
    let now = inspection.info().now_ms;
    let older_than = list.older_than.map_or(0, |time| time.as_millis() as u64);
    let wants = |item: &Item| {
        let state = match &item.entry.state {
            State::InFlight { .. } => Wanted::InFlight,
            State::Interrupted { .. } => Wanted::Interrupted,
            _ => Wanted::Completed,
        };
        let key = item.entry.key.as_ref();
        list.state.is_none_or(|wanted| wanted == state)
            && scope.as_ref().is_none_or(|scope| scope.as_bytes() == key.scope())
            && key.key().starts_with(&prefix)
            && now.saturating_sub(since(item)) >= older_than
    };
    if !out.json {
        let (state, age, attempts) = ("STATE", "FOR", "ATTEMPTS");
        out.line(format_args!("{BOLD}{state:<12}{age:>8} {attempts:>9}  SCOPE KEY{BOLD:#}"))?;
    }
    let mut damaged = inspection.problems().to_vec();
    let undecided_only = matches!(list.state, Some(Wanted::InFlight | Wanted::Interrupted));
    let all: Box<dyn Iterator<Item = _>> = match undecided_only {
        true => Box::new(inspection.undecided().map(Ok)),
        false => Box::new(inspection.items()),
    };
    let mut listed = 0;
    for item in all {
        match item {
            Ok(item) if wants(&item) => {
                listed += 1;
                show(&item, now, out)?;
            }
            Ok(_) => {}
            Err(problem) => damaged.push(problem),
        }
    }
    if !out.json && listed == 0 {
        out.line(format_args!("{DIM}no keys{DIM:#}"))?;
    }
    told(&list.of.store, &damaged)
}

/// The command's end: damage doesn't keep the rest from being listed, but is reported.
pub fn told(store: &Path, damaged: &[onlyonce::inspect::Problem]) -> Result<(), Failure> {
    match damaged {
        [] => Ok(()),
        [first, ..] => {
            let line = format!(
                "{} could not be read, the first: {first}; `onlyonce verify {}` names all",
                if damaged.len() == 1 {
                    "one place".into()
                } else {
                    format!("{} places", damaged.len())
                },
                store.display()
            );
            Err(Failure::new(Code::Damaged, line))
        }
    }
}

fn show(item: &Item, now: u64, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.value(&to_json(item, true));
    }
    let style = match &item.entry.state {
        State::Completed(_) => GOOD,
        State::InFlight { .. } => WARN,
        _ => BAD,
    };
    let key = item.entry.key.as_ref();
    let (state, age) = (state_of(item), span(now.saturating_sub(since(item))));
    let more = match &item.entry.state {
        State::Interrupted { reason, .. } => format!("  ({reason})"),
        _ => String::new(),
    };
    let (scope, name, attempts) =
        (show_scope(key.scope()), show_key(key.key()), item.entry.attempts);
    out.line(format_args!(
        "{style}{state:<12}{style:#}{age:>8} {attempts:>9}  {scope} {name}{DIM}{more}{DIM:#}"
    ))
}
