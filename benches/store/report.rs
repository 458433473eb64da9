//! The table at the end.

use crate::{measure::Run, plan::Plan};
use serde_json::{Value, json};
use std::{fs, io::Write, path::Path};

#[derive(Default)]
pub struct Report {
    lines: Vec<String>,
    /// The same for programs: what `docs/plots/make` draws.
    points: Vec<Value>,
    title: String,
}

impl Report {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn title(&mut self, text: &str) {
        self.lines.push(format!("\n{text}"));
        self.title = text.into();
    }

    fn point(&mut self, kind: &str, what: &str, mut value: Value) {
        value["title"] = self.title.clone().into();
        value["kind"] = kind.into();
        value["what"] = what.into();
        self.points.push(value);
    }

    /// Something for programs only.
    pub fn series(&mut self, what: &str, value: Value) {
        self.point("series", what, value);
    }

    pub fn note(&mut self, text: impl std::fmt::Display) {
        self.lines.push(format!("  ({text})"));
    }

    /// A throughput, with what was timed of its calls.
    pub fn rate(&mut self, what: &str, run: &Run) {
        let value = format!("{:.0}/s", run.per_second());
        self.lines.push(format!("  {what:<58}{value:>14}{}", latencies(run)));
        self.point("rate", what, of_run(run));
    }

    /// A limit of the throughput `of`: `each` times what the calls of a run were.
    pub fn rate_limit(&mut self, what: &str, limit: &Run, each: f64, of: &Run) {
        let (value, ratio) =
            (limit.per_second() * each, of.per_second() / limit.per_second() / each);
        let mut point = of_run(limit);
        point["per_second"] = value.into();
        self.point("limit", what, point);
        let value = format!("{value:.0}/s");
        self.lines.push(format!("      {what:<54}{value:>14}{}{ratio:>9.2} x", latencies(limit)));
    }

    /// A cost.
    pub fn cost(&mut self, what: &str, ns: f64) {
        self.lines.push(format!("  {what:<58}{:>14}", time(ns)));
        self.point("cost", what, json!({ "ns": ns }));
    }

    /// A limit of the cost `of`.
    pub fn cost_limit(&mut self, what: &str, limit: f64, of: f64) {
        let ratio = of / limit;
        self.lines.push(format!("      {what:<54}{:>14}{ratio:>45.2} x", time(limit)));
        self.point("limit", what, json!({ "ns": limit }));
    }

    /// `conditions` are what all of it was measured under.
    pub fn print(&self, plan: &Plan, conditions: &str) {
        println!("\n{}", machine(plan.base()));
        println!(
            "{conditions} x: figure / its limit (of rates: higher is better; of times: lower)."
        );
        if plan.short {
            println!("A TEST RUN: too short for any figure to mean something.");
        }
        println!(
            "\n{:<60}{:>14}{:>9}{:>9}{:>9}{:>9}{:>11}",
            "", "", "p50", "p99", "p99.9", "max", "ratio"
        );
        self.lines.iter().for_each(|line| println!("{line}"));
        if let Some(path) = std::env::var_os("ONLYONCE_BENCH_JSON") {
            let mut file = fs::File::options().create(true).append(true).open(&path).unwrap();
            let machine =
                json!({ "kind": "machine", "what": machine(plan.base()), "short": plan.short });
            for point in [machine].iter().chain(&self.points) {
                writeln!(file, "{point}").unwrap();
            }
        }
    }
}

fn of_run(run: &Run) -> Value {
    json!({
        "per_second": run.per_second(),
        "p50": run.latencies.quantile(0.5),
        "p99": run.latencies.quantile(0.99),
        "p999": run.latencies.quantile(0.999),
    })
}

/// Four columns, empty if nothing was timed.
fn latencies(run: &Run) -> String {
    let quantiles = [0.5, 0.99, 0.999].map(|share| run.latencies.quantile(share));
    let max = quantiles[0].map(|_| run.latencies.max_ns as f64);
    let columns = quantiles.into_iter().chain([max]);
    columns.map(|ns| format!("{:>9}", ns.map(time).unwrap_or_default())).collect()
}

/// Three digits and a unit.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

fn machine(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "{cores} cores ({}), kernel {}, load {}, huge pages {}; {} on {}",
        model.map_or("unknown", |(_, model)| model),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        read("/sys/kernel/mm/transparent_hugepage/enabled").trim(),
        dir.display(),
        file_system(dir).unwrap_or_else(|| "an unknown file system".into())
    )
}

fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mount = mounts.lines().map(fields).filter(|mount| dir.starts_with(&mount[1]));
    let deepest = mount.max_by_key(|mount| mount[1].len())?;
    Some(format!("{} ({}, {})", deepest[2], deepest[0], deepest[3]))
}
