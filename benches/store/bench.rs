//! A program of sections.

use crate::{measure, plan::Plan, report::Report};
use criterion::Criterion;
use std::time::Duration;

/// What every section needs.
pub struct Bench {
    pub plan: Plan,
    pub criterion: Criterion,
    pub report: Report,
}

/// A name for the filter, and what is measured under it.
pub type Section = (&'static str, fn(&mut Bench));

/// Runs what the arguments ask for, and prints the table.
pub fn run(sections: &[Section], conditions: &str) {
    let plan = Plan::from_args();
    if plan.list {
        return sections.iter().for_each(|(name, _)| println!("{name}: benchmark"));
    }
    let criterion = Criterion::default()
        .without_plots()
        .sample_size(measure::SAMPLES)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    let mut bench = Bench { report: Report::new(), plan, criterion };
    for (name, section) in sections {
        if bench.plan.wants(name) {
            eprintln!("-- {name}");
            section(&mut bench);
        }
    }
    bench.criterion.final_summary();
    bench.report.print(&bench.plan, conditions);
}
