//! `backup`, `restore`, `salvage`: from one directory to another.

use super::{
    args::{Backup, FromTo},
    fail::Failure,
    out::{BAD, Busy, Out, inspect},
    units::{date, many, size},
};
use onlyonce::backup::{self, BackupOptions};
use serde_json::json;

pub fn backup(args: &Backup, out: &mut Out) -> Result<(), Failure> {
    let FromTo { from, to } = &args.from_to;
    let mut options = BackupOptions::new().share(!args.no_share);
    if let Some(earlier) = &args.since {
        options = options.since(earlier);
    }
    let inspection = inspect(from)?;
    let copying = Busy::with("copying the store");
    let done = inspection.backup(to, &options)?;
    drop(copying);
    say(&done, args.from_to.to.display(), out)?;
    super::list::told(from, &done.problems)
}

pub fn salvage(args: &FromTo, out: &mut Out) -> Result<(), Failure> {
    let inspection = inspect(&args.from)?;
    let copying = Busy::with("copying what can be read");
    let done = inspection.salvage(&args.to)?;
    drop(copying);
    if !out.json {
        for problem in &done.problems {
            out.line(format_args!("{BAD}lost or damaged{BAD:#} {problem}"))?;
        }
    }
    say(&done, args.to.display(), out)
}

fn say(done: &backup::Backup, to: impl std::fmt::Display, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        let problems: Vec<String> = done.problems.iter().map(ToString::to_string).collect();
        return out.value(&json!({
            "to": to.to_string(),
            "taken_ms": done.taken_ms,
            "claims": done.claims,
            "segments": done.segments,
            "unchanged": done.unchanged,
            "copied_bytes": done.copied_bytes,
            "shared_bytes": done.shared_bytes,
            "problems": problems,
        }));
    }
    out.line(format_args!(
        "{to}: as of {}, {} ({} unchanged since the earlier backup), {}; {} copied, {} shared",
        date(done.taken_ms),
        many(done.segments, "segment"),
        done.unchanged,
        many(done.claims, "undecided claim"),
        size(done.copied_bytes),
        size(done.shared_bytes),
    ))
}

pub fn restore(args: &FromTo, out: &mut Out) -> Result<(), Failure> {
    let copying = Busy::with("copying and checking the backup");
    let bytes = backup::restore(&args.from, &args.to)?;
    drop(copying);
    let to = args.to.display();
    match out.json {
        true => out.value(&json!({ "to": to.to_string(), "copied_bytes": bytes })),
        false => out.line(format_args!(
            "{to}: {} copied and checked. It doesn't know what happened after the backup: compare it \
             with the effects, and `import` what is missing.",
            size(bytes)
        )),
    }
}
