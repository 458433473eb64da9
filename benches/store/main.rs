//! What the store costs, beside what the machine allows: each figure is printed with its limit,
//! measured in the same run.
//!
//! `cargo bench --bench store [-- FILTER]`; `-- --test` runs everything once, very short. Costs
//! of single operations go through criterion, throughput of several callers through timed loops.
//! The stores lie in a directory of `ONLYONCE_BENCH_DIR`, or of cargo's target directory.

mod bench;
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

use bench::{Bench, Section};
use plan::SHORT;

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
    let conditions = format!(
        "1 KiB responses, 36-byte keys, empty scope; Options as by default except: Buffered \
         {{ max_delay: 1 s }} where it says buffered;\nlease {:?}, retention {SHORT:?}, capacity \
         3 GiB in the stores that turn over.",
        SHORT / 4
    );
    bench::run(&SECTIONS, &conditions);
}
