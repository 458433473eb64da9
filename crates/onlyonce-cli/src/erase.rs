//! `erase`: all keys of a scope, in a directory, in a running store, or in a table.

use super::{
    args::Erase,
    fail::{Code, Failure},
    names::parse_scope,
    out::{DIM, Out, inspect},
    owner,
    remote::Remote,
    resolve,
    units::many,
};
use onlyonce::Durability;
use serde_json::json;

/// What the notes that a key is forgotten take beside its names, generously; and some segments.
const ROOM_OF_KEY: u64 = 1024;
const ROOM: u64 = 8 << 20;

/// Keys, decisions, and keys that are left.
type Erased = (u64, u64, u64);

/// In a directory that no service has open.
pub fn run(args: &Erase, out: &mut Out) -> Result<(), Failure> {
    let scope = parse_scope(&args.scope)?;
    let inspection = inspect(&args.of.store)?;
    let mut keys = 0;
    for item in inspection.items() {
        keys += u64::from(item.is_ok_and(|item| item.entry.key.scope() == scope.as_bytes()));
    }
    if !args.yes {
        let decisions = inspection.decisions()?;
        let of_it = decisions.iter().filter(|one| one.key.scope() == scope.as_bytes()).count();
        return counted(keys, of_it as u64, out);
    }
    let info = inspection.info();
    drop(inspection);
    let store = owner::open(&info, ROOM + ROOM_OF_KEY * keys, Durability::Synced)?;
    let erased = store.erase_scope(&scope, args.force);
    let closed = store.close();
    let erased = erased.map_err(resolve::refused)?;
    closed?;
    told((erased.keys, erased.decisions, erased.held), out)
}

/// In a running store, or in a table.
pub fn run_at(remote: &Remote, args: &Erase, out: &mut Out) -> Result<(), Failure> {
    parse_scope(&args.scope)?;
    if !args.yes {
        let of_it = [("scope", args.scope.clone())];
        let mut keys = 0;
        remote.keys(&["undecided", "completed"], &of_it, &mut |_| {
            keys += 1;
            Ok(())
        })?;
        let decisions = remote.all_decisions(&of_it)?.len() as u64;
        return counted(keys, decisions, out);
    }
    let asked = json!({
        "scope": args.scope, "confirm": args.scope, "force": args.force,
        "actor": args.by.actor(), "note": args.by.note,
    });
    let answer = remote.change("erase", &asked)?;
    if let Some(waits) = answer["waits"].as_str() {
        return Err(Failure::new(Code::Refused, waits));
    }
    let count = |name: &str| answer[name].as_u64().unwrap_or(0);
    told((count("keys"), count("decisions"), count("held")), out)
}

fn counted(keys: u64, decisions: u64, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.value(&json!({ "keys": keys, "decisions": decisions, "erased": false }));
    }
    out.line(format_args!("{} and {}", many(keys, "key"), many(decisions, "decision")))?;
    out.line(format_args!("{DIM}nothing is erased without --yes{DIM:#}"))
}

fn told((keys, decisions, held): Erased, out: &mut Out) -> Result<(), Failure> {
    match out.json {
        true => out.value(&json!({
            "keys": keys, "decisions": decisions, "held": held, "erased": true,
        }))?,
        false => out.line(format_args!(
            "erased {} and {}",
            many(keys, "key"),
            many(decisions, "decision")
        ))?,
    }
    match held {
        0 => Ok(()),
        held => {
            let held = many(held, "key");
            let line = format!(
                "{held} in flight or new since are left; add --force, or run it again later"
            );
            Err(Failure::new(Code::Refused, line))
        }
    }
}
