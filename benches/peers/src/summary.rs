//! The few figures that a reader asks for first, as a Markdown table.

use crate::{
    engines::{Mode, Name},
    pairs::{Round, median_rate},
    plan::Plan,
    reads::Reads,
};

/// A row an engine: in each column the better of its forms. Columns that weren't run are left out.
pub fn print(plan: &Plan, rounds: &[Round], reads: &[Reads]) {
    let [few, many] = [plan.callers.iter().min(), plan.callers.iter().max()];
    let (few, many) = (*few.expect("some callers"), *many.expect("some callers"));
    let mut rates = Vec::new();
    for mode in [Mode::Synced, Mode::Completions, Mode::Buffered] {
        if plan.pairs && plan.modes.contains(&mode) {
            rates.push((mode, few));
            rates.push((mode, many));
        }
    }
    rates.dedup();
    let mut header: Vec<String> = rates
        .iter()
        .map(|(mode, callers)| {
            let callers =
                if *callers == 1 { "one caller".into() } else { format!("{callers} callers") };
            format!("{}, {callers}: pairs/s", mode.name())
        })
        .collect();
    if plan.reads {
        header.extend(["replay of 1 KiB", "open after kill -9"].map(String::from));
    }
    println!("\n| | {} |\n|---|{}", header.join(" | "), "---:|".repeat(header.len()));
    for engine in Name::ALL {
        let forms = || plan.contenders.iter().filter(|contender| contender.engine == engine);
        if forms().next().is_none() {
            continue;
        }
        let best = |(mode, callers): &(Mode, usize)| {
            let rates = forms().filter_map(|form| {
                Some((median_rate(rounds, *form, *mode, *callers)?, form.behind_writer))
            });
            let (rate, writer) = rates.max_by(|a, b| a.0.total_cmp(&b.0))?;
            Some(format!("{rate:.0}{}", if writer { " (w)" } else { "" }))
        };
        let mut cells: Vec<String> =
            rates.iter().map(|rate| best(rate).unwrap_or_else(|| "-".into())).collect();
        if let Some(found) = reads.iter().find(|reads| reads.engine() == engine) {
            cells.extend(found.in_short());
        }
        println!("| {} | {} |", engine.name(), cells.join(" | "));
    }
    println!("\n(w): behind a writer thread, which was quicker than alone.");
}
