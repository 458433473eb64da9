//! Many clients that send the same orders at once and never give up.

use super::client::{Answer, Client, Delivered};
use crate::orders::NewOrder;
use anyhow::Context;
use indicatif::ProgressBar;
use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Clients that send each order.
pub const CLIENTS: u32 = 3;
/// Orders that are being sent at a time.
const AT_ONCE: usize = 64;
/// Of a hundred tries, how many hang up before the answer.
const HANG_UP: u32 = 8;
/// How long a client tries before it gives an order up. That is a breach.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were sent.
    pub sent: u64,
    /// Answers 201 of the execution itself.
    pub first: u64,
    /// Answers 201 that were replayed.
    pub replayed: u64,
    /// Answers 409.
    pub conflicts: u64,
    /// Requests whose client hung up before the answer.
    pub hung_up: u64,
    /// Connections that were refused or broke.
    pub broken: u64,
    /// Answers 500 and 503.
    pub failed: u64,
    /// Other answers, which are not expected.
    pub unexpected: Vec<String>,
    /// Clients that were never answered.
    pub unanswered: u64,
    /// How often the server, or its database, was killed.
    pub kills: u64,
    /// Requests that it found half done after a kill.
    pub interrupted: u64,
}

/// An order that is sent, and how it was answered.
pub struct Sent {
    /// Its item is its own, so that it can be told apart in the orders database.
    pub order: NewOrder,
    key: String,
    seen: Mutex<Seen>,
}

/// The answers to one order.
#[derive(Clone, Default)]
pub struct Seen {
    /// The first 201 that any client got.
    pub answer: Option<Answer>,
    /// How often it was answered 201.
    pub answered: u32,
    /// Answers 201 that did not say that they were replayed: executions.
    pub executions: u32,
    /// Answers 201 that differ from the first.
    pub differing: u32,
}

/// The whole storm.
pub struct Storm {
    client: Client,
    /// The orders.
    pub sent: Vec<Sent>,
    /// Starts the items of all orders of this run.
    pub run: String,
    /// What is killed.
    pub killed: &'static str,
    tally: Mutex<Tally>,
    progress: watch::Sender<u64>,
}

impl Storm {
    /// Makes up orders.
    pub fn new(client: Client, orders: u32, killed: &'static str) -> Self {
        let run = format!("{:012x}/", fastrand::u64(..1 << 48));
        let sent = (0..orders).map(|number| Sent::new(&run, number)).collect();
        let (tally, progress) = (Mutex::default(), watch::Sender::new(0));
        Storm { client, sent, run, killed, tally, progress }
    }

    /// Counts something.
    pub fn tally(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().expect("counting doesn't panic"));
    }

    /// What was counted so far.
    pub fn counted(&self) -> Tally {
        self.tally.lock().expect("counting doesn't panic").clone()
    }

    /// Waits until `orders` orders have been answered to all their clients.
    pub async fn answered(&self, orders: u64) {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|done| *done >= orders).await;
        reached.expect("self has the sender");
    }

    /// Sends one order until it is answered.
    async fn insist(&self, sent: &Sent, client: u32) {
        // Every other client quotes the key: it is the same.
        let key = match client % 2 {
            0 => sent.key.clone(),
            _ => format!("\"{}\"", sent.key),
        };
        let mut backoff = Backoff::new();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            self.tally(|tally| tally.sent += 1);
            let request = self.client.send(&key, &sent.order);
            let answer = match fastrand::u32(..100) < HANG_UP {
                false => request.await,
                true => match timeout(jitter(Duration::from_millis(10)), request).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        self.tally(|tally| tally.hung_up += 1);
                        continue;
                    }
                },
            };
            match answer {
                Ok(delivered) if delivered.answer.status == 201 => {
                    return self.note(sent, delivered);
                }
                Ok(Delivered { answer: Answer { status: 409, .. }, retry_after, .. }) => {
                    self.tally(|tally| tally.conflicts += 1);
                    let wait = retry_after.unwrap_or(Duration::from_secs(1));
                    sleep(wait + jitter(wait / 4)).await;
                }
                Ok(Delivered { answer: Answer { status: 500 | 503, .. }, .. }) => {
                    self.tally(|tally| tally.failed += 1);
                    backoff.wait().await;
                }
                Ok(Delivered { answer, .. }) => {
                    let Answer { status, body, .. } = answer;
                    let text = format!("{status}: {}", String::from_utf8_lossy(&body));
                    return self.tally(|tally| tally.unexpected.push(text));
                }
                Err(_) => {
                    self.tally(|tally| tally.broken += 1);
                    backoff.wait().await;
                }
            }
        }
        self.tally(|tally| tally.unanswered += 1);
    }

    fn note(&self, sent: &Sent, delivered: Delivered) {
        let Delivered { answer, replayed, .. } = delivered;
        self.tally(|tally| match replayed {
            true => tally.replayed += 1,
            false => tally.first += 1,
        });
        let mut seen = sent.seen();
        seen.answered += 1;
        seen.executions += u32::from(!replayed);
        match &seen.answer {
            Some(first) => seen.differing += u32::from(*first != answer),
            None => seen.answer = Some(answer),
        }
    }
}

impl Sent {
    fn new(run: &str, number: u32) -> Self {
        // Some are slow enough to be hit by a kill, a few so slow that duplicates are sent away.
        let delay_ms = match fastrand::u32(..100) {
            0 => 800,
            1..15 => fastrand::u32(5..50),
            _ => 0,
        };
        Sent {
            order: NewOrder {
                item: format!("{run}{number}"),
                quantity: fastrand::u32(1..10),
                delay_ms,
            },
            key: format!("{run}key-{number}"),
            seen: Mutex::default(),
        }
    }

    /// How it was answered.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("noting doesn't panic")
    }
}

/// Sends every order by `clients` clients at once, and ends when all are answered.
pub fn start(
    storm: &Arc<Storm>,
    clients: u32,
    bar: &ProgressBar,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let (storm, bar) = (storm.clone(), bar.clone());
    storm.progress.send_replace(0);
    let all = tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut orders = JoinSet::new();
        for number in 0..storm.sent.len() {
            let place = room.clone().acquire_owned().await?;
            let (storm, bar) = (storm.clone(), bar.clone());
            orders.spawn(async move {
                let mut insisting = JoinSet::new();
                for client in 0..clients {
                    let storm = storm.clone();
                    insisting.spawn(async move {
                        storm.insist(&storm.sent[number], client).await;
                    });
                }
                insisting.join_all().await;
                storm.progress.send_modify(|done| *done += 1);
                bar.inc(1);
                drop(place);
            });
        }
        orders.join_all().await;
        anyhow::Ok(())
    });
    async move { all.await.context("the storm")? }
}

/// Longer waits from try to try, never two clients alike.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Backoff(Duration::from_millis(10))
    }

    async fn wait(&mut self) {
        sleep(self.0 / 2 + jitter(self.0 / 2)).await;
        self.0 = (self.0 * 2).min(Duration::from_millis(500));
    }
}

fn jitter(at_most: Duration) -> Duration {
    at_most.mul_f64(fastrand::f64())
}
