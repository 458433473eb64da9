//! `verify`: does it all read?

use super::{
    args::Of,
    fail::{Code, Failure},
    names::{show_key, show_scope},
    out::{BAD, GOOD, Out, inspect, progress},
    units::{many, size},
};
use onlyonce::inspect::Problem;
use serde_json::json;

pub fn run(of: &Of, out: &mut Out) -> Result<(), Failure> {
    let inspection = inspect(&of.store)?;
    let bar = progress(0);
    let report = inspection.verify(|progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    if out.json {
        out.value(&json!({
            "store": inspection.info().place,
            "segments": report.segments,
            "records": report.frames,
            "claims": report.claims,
            "decisions": report.decisions,
            "torn_claims": report.torn_claims,
            "bytes": report.bytes,
            "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        }))?;
    } else {
        report
            .problems
            .iter()
            .try_for_each(|problem| out.line(format_args!("{BAD}damaged{BAD:#} {problem}")))?;
        out.line(format_args!(
            "read {} in {}: {} and {} are whole",
            size(report.bytes),
            many(report.segments, "segment"),
            many(report.frames, "record"),
            many(report.claims, "undecided claim"),
        ))?;
        if report.decisions > 0 {
            let decisions = many(report.decisions, "operator's decision");
            out.line(format_args!("{decisions} read back"))?;
        }
        if report.torn_claims > 0 {
            let torn = many(report.torn_claims, "claim");
            out.line(format_args!(
                "{torn} torn by a loss of power, which had not been promised to survive it"
            ))?;
        }
    }
    match report.problems.len() {
        0 if out.json => Ok(()),
        0 => out.line(format_args!("{GOOD}no damage{GOOD:#}")),
        n => {
            let line = format!(
                "{} could not be read; `onlyonce restore` brings back a backup, `onlyonce salvage \
                 {} NEW` copies what can be read",
                if n == 1 { "one place".into() } else { format!("{n} places") },
                of.store.display()
            );
            Err(Failure::new(Code::Damaged, line))
        }
    }
}

fn problem(problem: &Problem) -> serde_json::Value {
    json!({
        "file": problem.file,
        "offset": problem.offset,
        "what": problem.what,
        "scope": problem.key.as_ref().map(|key| show_scope(key.scope())),
        "key": problem.key.as_ref().map(|key| show_key(key.key())),
    })
}
