//! The process that an engine works in: alone in it, so that its memory and its processor time
//! are known, and that it can be killed. It does what it reads, and answers by a line of JSON.

use crate::{
    engines::{Contender, Engine, Mode},
    workload::{self, Circle, Series, Turn},
};
use measure::{Device, Memory, cpu_time, disk_bytes, work::key};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The argument by which this program knows that it is one; what follows is a [`Child`].
pub const CHILD: &str = "--child";

/// Who a child is.
#[derive(Serialize, Deserialize)]
pub struct Child {
    pub contender: Contender,
    pub mode: Mode,
    pub dir: PathBuf,
    /// See [`Contender::open`].
    pub lasting: bool,
}

/// What a child is asked to do.
#[derive(Serialize, Deserialize)]
pub enum Ask {
    /// Claims and completes, and replays some of it: a [`Measured`].
    Pairs { callers: usize, time: Duration },
    /// Removes all records that it has written: an [`Expired`].
    Expire,
    /// Writes records that each name the next one, in one circle: a [`Filled`].
    Fill(Circle),
    /// Looks up for so long: nanoseconds a look-up, as `f64`.
    Replay { circle: Circle, dependent: bool, time: Duration },
    /// How many of these have a response: `u64`.
    Count(Series),
    /// These are in the store too, written by an earlier process: `()`.
    Adopt(Vec<Series>),
}

/// What a child says first.
#[derive(Serialize, Deserialize)]
pub struct Opened {
    pub took: Duration,
}

#[derive(Serialize, Deserialize)]
pub struct Measured {
    pub turn: Turn,
    pub cpu: Duration,
    /// `None` if the file system has no device of its own.
    pub device_bytes: Option<u64>,
    pub memory: Memory,
}

#[derive(Serialize, Deserialize)]
pub struct Expired {
    /// Those that were there; of onlyonce's some have gone before.
    pub records: u64,
    pub took: Duration,
    pub cpu: Duration,
    pub device_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub struct Filled {
    pub took: Duration,
    pub disk_bytes: u64,
    pub memory: Memory,
}

pub fn run(child: &str) {
    let Child { contender, mode, dir, lasting } = serde_json::from_str(child).expect("a child");
    let device = Device::of(&dir).expect("the directory for the stores");
    let began = Instant::now();
    let engine = contender.open(mode, &dir, lasting);
    say(&Opened { took: began.elapsed() });
    let mut own = Own { engine: &*engine, dir, device, written: Vec::new() };
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line.expect("stdin")).expect("something to do") {
            Ask::Pairs { callers, time } => say(&own.pairs(callers, time)),
            Ask::Expire => say(&own.expire()),
            Ask::Fill(circle) => say(&own.fill(circle)),
            Ask::Replay { circle, dependent, time } => {
                say(&workload::replays(&*engine, circle, dependent, time));
            }
            Ask::Count(series) => say(&workload::count(&*engine, series)),
            Ask::Adopt(series) => say(&own.written.extend(series)),
        }
    }
}

fn say(what: &impl Serialize) {
    let mut line = serde_json::to_vec(what).expect("serializable");
    line.push(b'\n');
    io::stdout().write_all(&line).and_then(|()| io::stdout().flush()).expect("stdout");
}

struct Own<'a> {
    engine: &'a dyn Engine,
    dir: PathBuf,
    device: Option<Device>,
    /// What lies in the store, unless it has expired.
    written: Vec<Series>,
}

impl Own<'_> {
    fn pairs(&mut self, callers: usize, time: Duration) -> Measured {
        let before = self.device.as_ref().map(Device::written);
        let spent = cpu_time();
        let (turn, series) = workload::pairs(self.engine, callers, time);
        self.written.extend(series);
        let memory = Memory::now();
        settle();
        Measured { turn, cpu: cpu_time() - spent, device_bytes: self.device_bytes(before), memory }
    }

    fn expire(&mut self) -> Expired {
        let written = std::mem::take(&mut self.written);
        let before = self.device.as_ref().map(Device::written);
        let (began, spent) = (Instant::now(), cpu_time());
        let keys = |series: Series| (0..series.keys).map(move |i| key(series.number, i));
        let records = self.engine.expire(&mut written.into_iter().flat_map(keys));
        let took = began.elapsed();
        settle();
        let cpu = cpu_time() - spent;
        Expired { records, took, cpu, device_bytes: self.device_bytes(before) }
    }

    fn fill(&mut self, circle: Circle) -> Filled {
        let began = Instant::now();
        self.written.push(circle.0);
        circle.each(|key, response| self.engine.pair(&key, &Arc::from(response.as_slice())));
        let took = began.elapsed();
        Filled { took, disk_bytes: disk_bytes(&self.dir), memory: Memory::now() }
    }

    fn device_bytes(&self, before: Option<u64>) -> Option<u64> {
        Some(self.device.as_ref()?.written() - before?)
    }
}

/// Waits until the engine's own threads have nothing to do, for at most 2 s, so that what they
/// do is charged to this turn and not to the next engine's.
fn settle() {
    let began = Instant::now();
    let pause = Duration::from_millis(40);
    let mut spent = cpu_time();
    while began.elapsed() < Duration::from_secs(2) {
        thread::sleep(pause);
        let now = cpu_time();
        if now - spent < pause / 20 {
            return;
        }
        spent = now;
    }
}
