//! What the store costs, beside what the machine allows: each figure is printed with its limit,
//! measured in the same run.
//!
//! `cargo bench --bench store [-- FILTER]`; `-- --test` runs everything once, very short. Costs
//! of single operations go through criterion, throughput of several callers through timed loops.
//! The stores lie in a directory of `ONLYONCE_BENCH_DIR`, or of cargo's target directory.
#![allow(missing_docs)]

mod day;
mod expiry;
mod limits;
mod measure;
mod plan;
mod read;
mod report;
mod tasks;
mod tend;
mod write;

use criterion::Criterion;
use plan::Plan;
use report::Report;
use std::time::Duration;

/// What every section needs.
pub struct Bench {
    pub plan: Plan,
    pub criterion: Criterion,
    pub report: Report,
}

type Section = (&'static str, fn(&mut Bench));

/// Names for the filter, and what is measured under them.
const SECTIONS: [Section; 8] = [
    ("buffered", write::buffered),
    ("synced", write::synced),
    ("replay", read::replay),
    ("miss", read::miss),
    ("expiry", expiry::expiry),
    ("open", tend::open),
    ("sizes", tend::sizes),
    ("day", day::day),
];

fn main() {
    if let Some(how) = std::env::var_os(tend::CHILD) {
        return tend::child(how.to_str().expect("given by ourselves"));
    }
    let plan = Plan::from_args();
    if plan.list {
        return SECTIONS.iter().for_each(|(name, _)| println!("{name}: benchmark"));
    }
    let criterion = Criterion::default()
        .without_plots()
        .sample_size(measure::SAMPLES)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    let mut bench = Bench { report: Report::new(), plan, criterion };
    for (name, section) in SECTIONS {
        if bench.plan.wants(name) {
            eprintln!("-- {name}");
            section(&mut bench);
        }
    }
    bench.criterion.final_summary();
    bench.report.print(&bench.plan);
}
