//! What the inner parts of the store cost, each alone, beside what the machine allows: each
//! figure is printed with its limit, measured in the same run.
//!
//! `cargo bench --features __internals --bench parts [-- FILTER]`; `-- --test` runs everything once,
//! very short. What is around the parts (replay, opening, expiry) is measured in `benches/store`,
//! whose limits, loops and table these are.

#[path = "../store/bench.rs"]
mod bench;
mod index;
// Of these, each program needs a part.
#[allow(dead_code)]
#[path = "../store/limits.rs"]
mod limits;
mod log;
#[allow(dead_code)]
#[path = "../store/measure.rs"]
mod measure;
#[allow(dead_code)]
#[path = "../store/plan.rs"]
mod plan;
#[allow(dead_code)]
#[path = "../store/report.rs"]
mod report;
mod wheel;

use bench::{Bench, Section};

const SECTIONS: [Section; 5] = [
    ("encode", log::encode),
    ("append", log::append),
    ("commit", log::commit),
    ("index", index::index),
    ("wheel", wheel::wheel),
];

fn main() {
    bench::run(&SECTIONS, "1 KiB responses, 36-byte keys, empty scope; one thread.");
}
