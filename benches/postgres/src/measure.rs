//! Rounds of clients at work, and what they come to.

use crate::contenders::Contender;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How much to measure.
pub struct Plan {
    pub seconds: f64,
    pub rounds: usize,
    pub clients: Vec<usize>,
}

impl Plan {
    pub fn from_environment() -> Self {
        let read = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.to_owned());
        let clients = read("CLIENTS", "1,16,64");
        Plan {
            seconds: read("SECONDS", "3").parse().expect("SECONDS is a number"),
            rounds: read("ROUNDS", "3").parse::<usize>().expect("ROUNDS is a number").max(1),
            clients: clients.split(',').map(|n| n.parse().expect("CLIENTS are numbers")).collect(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seconds, rounds, .. } = self;
        write!(f, "median of {rounds} rounds of {seconds} s, contenders in turns; ")?;
        write!(f, "{} processors", std::thread::available_parallelism().map_or(0, usize::from))
    }
}

/// What a contender came to.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub per_second: f64,
    p50: Duration,
    p99: Duration,
    /// Processor time of one operation, of this process and of all others, which are the servers.
    client: Duration,
    servers: Duration,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1000.0;
        let us = |d: Duration| d.as_micros();
        write!(f, "{:.0} | {:.2} | {:.2} | ", self.per_second, ms(self.p50), ms(self.p99))?;
        write!(f, "{} + {}", us(self.client), us(self.servers))
    }
}

/// Measures contenders in turns, each in all rounds.
pub async fn side_by_side<const N: usize>(
    contenders: [Arc<dyn Contender>; N],
    clients: usize,
    plan: &Plan,
) -> [Figure; N] {
    let mut figures: [Vec<Figure>; N] = std::array::from_fn(|_| Vec::new());
    for contender in &contenders {
        // Statements are prepared, pages are in memory.
        round(contender, clients, plan.seconds.min(0.5)).await;
    }
    for _ in 0..plan.rounds {
        for (contender, figures) in contenders.iter().zip(&mut figures) {
            figures.push(round(contender, clients, plan.seconds).await);
        }
    }
    figures.map(|mut rounds| {
        rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        rounds[rounds.len() / 2]
    })
}

async fn round(contender: &Arc<dyn Contender>, clients: usize, seconds: f64) -> Figure {
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let (all, own) = busy();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (contender, stop) = (contender.clone(), stop.clone());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    contender.run(client).await;
                    took.push(start.elapsed());
                }
                took
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let elapsed = start.elapsed().as_secs_f64();
    let (all_then, own_then) = busy();
    let (client, all) = (own_then - own, all_then - all);
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    Figure {
        per_second: took.len() as f64 / elapsed,
        p50: at(0.5),
        p99: at(0.99),
        client: client.div_f64(took.len() as f64),
        servers: all.saturating_sub(client).div_f64(took.len() as f64),
    }
}

/// Processor time that the machine, and of it this process, has used so far (Linux counts
/// hundredths of a second).
fn busy() -> (Duration, Duration) {
    let ticks = |text: &str, columns: &[usize]| {
        let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap_or(0)).collect();
        Duration::from_millis(10 * columns.iter().map(|at| numbers[*at]).sum::<u64>())
    };
    let all = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let line = all.lines().next().and_then(|line| line.strip_prefix("cpu  "));
    // Behind the name, which may hold spaces.
    let behind = own.rsplit_once(") ").map(|(_, behind)| behind);
    match (line, behind) {
        // User, nice, system, irq, softirq; utime, stime.
        (Some(line), Some(behind)) => (ticks(line, &[0, 1, 2, 5, 6]), ticks(behind, &[11, 12])),
        _ => Default::default(),
    }
}
