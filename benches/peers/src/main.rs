//! The same work by onlyonce and by embedded databases that could be used for it: `--help`, and
//! docs/performance.md for what the columns mean.
#![deny(unsafe_code)]

mod child;
mod engines;
mod pairs;
mod plan;
mod process;
mod reads;
mod summary;
mod workload;

use measure::Machine;
use plan::Plan;
use serde::Serialize;
use std::fs;

#[derive(Serialize)]
struct Report {
    machine: Machine,
    load_at_the_end: String,
    rounds: Vec<pairs::Round>,
    reads: Vec<reads::Reads>,
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(child::CHILD) {
        return child::run(&args.next().expect("who it is"));
    }
    let plan = Plan::from_args();
    fs::create_dir_all(&plan.dir).expect("the directory for the stores");
    let machine = Machine::of(&plan.dir);
    println!("{machine}");
    let (mut rounds, mut reads) = (Vec::new(), Vec::new());
    if plan.pairs {
        for mode in &plan.modes {
            let of_mode = pairs::run(&plan, *mode);
            pairs::print(&plan, *mode, &of_mode);
            rounds.extend(of_mode);
        }
    }
    if plan.reads {
        reads = reads::run(&plan);
        reads::print(&plan, &reads);
    }
    summary::print(&plan, &rounds, &reads);
    let load_at_the_end = Machine::of(&plan.dir).load;
    let report = Report { machine, load_at_the_end, rounds, reads };
    let json = serde_json::to_vec_pretty(&report).expect("serializable");
    fs::write(&plan.json, json).expect("the JSON file");
    println!("\neach round: {}", plan.json.display());
    println!("{}", LEGEND);
}

const LEGEND: &str = "
synced: claim and completion are on the disk when their call returns. completions: the completion
is; LMDB syncs its claims too. buffered: neither; what isn't synced by itself is once a second.
+ writer: one thread writes in batches for all callers. map: in memory, with a boxed response.
pairs/s: median, least and most of the rounds; 5 % of the calls are retries beside them, in the
same time. CPU/pair: of all threads, background work included. device: bytes written to the
device, by its own counter, for each byte of key, fingerprint and response; expired: the same
with what removing them writes. expiry: processor time to remove a record (onlyonce also removes
while it is written to). memory: MiB, without mapped files. disk: bytes on it for each byte of
payload. open: until the first answer, page cache warm. kept: of the thousand records that were
acknowledged right before the kill; redb has no mode that keeps them without a sync.";
