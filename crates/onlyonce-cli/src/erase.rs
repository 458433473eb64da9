//! `erase`: all keys of a scope in a table.

use super::{
    args::Erase,
    fail::{Code, Failure},
    names::parse_scope,
    out::{DIM, Out},
    table::Here,
    units::many,
};
use serde_json::json;

pub fn run(args: &Erase, out: &mut Out) -> Result<(), Failure> {
    let scope = parse_scope(&args.scope)?;
    let Some(dsn) = &args.table.dsn else {
        let line = format!(
            "in a directory a scope is erased by copying the rest: stop the service, and run \
             `onlyonce compact {} NEW --without-scope {}`",
            args.of.store.display(),
            args.scope
        );
        return Err(Failure::new(Code::Refused, line));
    };
    let here = Here::connect(dsn, &args.table)?;
    if !args.yes {
        let mut keys = 0;
        here.items(|item| {
            keys += u64::from(item.entry.key.scope() == scope.as_bytes());
            Ok(())
        })?;
        let decisions = here.decisions_of(&scope)?;
        if out.json {
            return out.value(&json!({ "keys": keys, "decisions": decisions, "erased": false }));
        }
        out.line(format_args!("{} and {}", many(keys, "key"), many(decisions, "decision")))?;
        return out.line(format_args!("{DIM}nothing is erased without --yes{DIM:#}"));
    }
    let (keys, decisions, held) = here.erase(&scope, args.force)?;
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
