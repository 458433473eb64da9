//! `list`: the keys, a line each.

use super::{
    args::{List, Wanted},
    fail::{Code, Failure},
    item::{since, state_of, to_json},
    names::{parse_key, parse_scope, show_key, show_scope},
    out::{BAD, BOLD, DIM, GOOD, Out, WARN, inspect},
    units::span,
};
use anstyle::Style;
use onlyonce::{State, inspect::Item};
use std::path::Path;

pub fn run(list: &List, out: &mut Out) -> Result<(), Failure> {
    let scope = list.scope.as_deref().map(parse_scope).transpose()?;
    let prefix = list.prefix.as_deref().map(parse_key).transpose()?.unwrap_or_default();
    let inspection = inspect(&list.of.store)?;
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
    let mut damaged = inspection.problems().to_vec();
    let undecided_only = matches!(list.state, Some(Wanted::InFlight | Wanted::Interrupted));
    let all: Box<dyn Iterator<Item = _>> = match undecided_only {
        true => Box::new(inspection.undecided().map(Ok)),
        false => Box::new(inspection.items()),
    };
    let mut table = Table::default();
    for item in all {
        match item {
            Ok(item) if wants(&item) => match out.json {
                true => out.value(&to_json(&item, true))?,
                false => table.add(row(&item, now), out)?,
            },
            Ok(_) => {}
            Err(problem) => damaged.push(problem),
        }
    }
    if !out.json {
        table.end(out)?;
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

fn row(item: &Item, now: u64) -> Row {
    let key = item.entry.key.as_ref();
    Row {
        style: style_of(state_of(item)),
        state: state_of(item).to_owned(),
        age: span(now.saturating_sub(since(item))),
        attempts: item.entry.attempts.to_string(),
        scope: show_scope(key.scope()),
        key: show_key(key.key()),
        more: match &item.entry.state {
            State::Interrupted { reason, .. } => Some(reason.to_string()),
            _ => None,
        },
    }
}

/// The colour of a state.
pub fn style_of(state: &str) -> Style {
    match state {
        "completed" => GOOD,
        "in-flight" => WARN,
        _ => BAD,
    }
}

/// A key's line in a list.
pub struct Row {
    pub style: Style,
    pub state: String,
    pub age: String,
    pub attempts: String,
    pub scope: String,
    pub key: String,
    pub more: Option<String>,
}

/// Lines in columns. A list may be longer than what memory has room for, so the widths are those of
/// the rows that are printed together; a longer name moves only its own line.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
    begun: bool,
}

impl Table {
    /// Rows that are printed together.
    const TOGETHER: usize = 1000;
    /// The widest column.
    const WIDEST: usize = 48;

    pub fn is_empty(&self) -> bool {
        !self.begun && self.rows.is_empty()
    }

    pub fn add(&mut self, row: Row, out: &mut Out) -> Result<(), Failure> {
        self.rows.push(row);
        if self.rows.len() == Self::TOGETHER { self.print(out) } else { Ok(()) }
    }

    /// Prints what is left; or that there is nothing.
    pub fn end(&mut self, out: &mut Out) -> Result<(), Failure> {
        match self.is_empty() {
            true => out.line(format_args!("{DIM}no keys{DIM:#}")),
            false => self.print(out),
        }
    }

    fn print(&mut self, out: &mut Out) -> Result<(), Failure> {
        let rows = std::mem::take(&mut self.rows);
        let wide = |of: fn(&Row) -> &str, name: &str| {
            let widths = rows.iter().map(|row| of(row).chars().count());
            widths.filter(|width| *width <= Self::WIDEST).max().unwrap_or(0).max(name.len())
        };
        let (scope, key) = (wide(|row| &row.scope, "SCOPE"), wide(|row| &row.key, "KEY"));
        if !std::mem::replace(&mut self.begun, true) {
            let (state, age, attempts) = ("STATE", "FOR", "ATTEMPTS");
            out.line(format_args!(
                "{BOLD}{state:<12}{age:>8} {attempts:>9}  {:<scope$} KEY{BOLD:#}",
                "SCOPE"
            ))?;
        }
        for row in &rows {
            let Row { style, state, age, attempts, scope: of, key: name, more } = row;
            let start = format!("{style}{state:<12}{style:#}{age:>8} {attempts:>9}  {of:<scope$} ");
            match more {
                None => out.line(format_args!("{start}{name}"))?,
                Some(more) => {
                    out.line(format_args!("{start}{name:<key$}  {DIM}({more}){DIM:#}"))?
                }
            }
        }
        Ok(())
    }
}
