//! The PostgreSQL backend beside a hand-written minimum, on the same servers in the same run.
//!
//! ```sh
//! cargo run --release                          # in benches/postgres: some 4 minutes
//! SECONDS=1 ROUNDS=1 CLIENTS=4 cargo run --release
//! ```
//!
//! Starts one server, and then three of which a commit waits for two, all on this machine, with
//! fsync. Each figure is the median of ROUNDS rounds (3) of SECONDS seconds (3); ours and the
//! minimum take turns. CLIENTS (1,16,64) are tasks, each with a connection at its disposal.

#[path = "../../../tests/postgres/servers/mod.rs"]
mod servers;

mod contenders;
mod measure;

use contenders::{Business, Contender, Hand, Ours, Replays, SameTransaction};
use measure::{Figure, Plan, side_by_side};
use onlyonce::postgres::{PostgresOptions, Replication};
use servers::{Server, cluster::Cluster, programs};
use std::{sync::Arc, time::Instant};

/// As it is run where it matters.
const SYNCED: &str = "fsync = on\nshared_buffers = 256MB\nmax_wal_size = 4GB\nmax_connections = 200";

#[tokio::main]
async fn main() {
    let Some(bin) = programs() else { return };
    let plan = Plan::from_environment();
    println!("{plan}\n");
    let one = Server::start_with(bin, SYNCED);
    let dsn = one.dsn("postgres");
    let best = measured("one server", &dsn, Replication::SingleServer, &plan).await;
    let swept = sweeping(&one).await;
    drop(one);
    let three = Cluster::start_with(bin, SYNCED).await;
    let dsn = three.dsn("postgres");
    let quorum = measured("three servers, a commit waits for two", &dsn, Replication::Replicated, &plan);
    let best_of_three = quorum.await;
    thousand("one server", best, swept);
    thousand("three servers", best_of_three, swept);
}

fn options(dsn: &str, replication: Replication, clients: usize) -> PostgresOptions {
    PostgresOptions::new(dsn, replication).connections(clients).sweep_every(None)
}

/// Runs everything on a cluster; the most pairs a second of ours.
async fn measured(what: &str, dsn: &str, replication: Replication, plan: &Plan) -> f64 {
    println!("## {what}\n");
    options(dsn, replication, 1).migrate().await.unwrap();
    Hand::create(dsn).await;
    Business::create(dsn).await;
    println!("| clients | | a second | p50 ms | p99 ms | us of processor: client + servers | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let mut best = 0.0_f64;
    for &clients in &plan.clients {
        let store = options(dsn, replication, clients).connect().await.unwrap();
        let hand: Arc<dyn Contender> = Arc::new(Hand::connect(dsn, clients).await);
        let ours: Arc<dyn Contender> = Arc::new(Ours(store.clone()));
        let [ours, hand] = side_by_side([ours, hand], clients, plan).await;
        best = best.max(ours.per_second);
        pair(clients, ("claim and complete", ours), ("minimum: insert, update", hand));
        let business: Arc<dyn Contender> = Arc::new(Business::connect(dsn, clients).await);
        let same: Arc<dyn Contender> =
            Arc::new(SameTransaction::connect(dsn, clients, store.clone()).await);
        let [same, business] = side_by_side([same, business], clients, plan).await;
        pair(clients, ("order with its key, one transaction", same), ("the order alone", business));
        let replays: Arc<dyn Contender> = Arc::new(Replays::new(store).await);
        let [replays] = side_by_side([replays], clients, plan).await;
        println!("| {clients} | replay | {replays} | |");
    }
    println!();
    best
}

fn pair(clients: usize, ours: (&str, Figure), other: (&str, Figure)) {
    let ratio = ours.1.per_second / other.1.per_second;
    println!("| {clients} | {} | {} | {ratio:.2} |", ours.0, ours.1);
    println!("| {clients} | {} | {} | |", other.0, other.1);
}

/// Rows removed a second.
async fn sweeping(server: &Server) -> f64 {
    const ROWS: u64 = 200_000;
    let dsn = server.dsn("postgres");
    let options = options(&dsn, Replication::SingleServer, 1).table("swept");
    options.migrate().await.unwrap();
    let fill = format!(
        "INSERT INTO swept (scope, key, owner, fingerprint, token, lease_ms, replay_ms, remember_ms,
             keep_ms, started_at, lease_until, expires_at, reserve, sweep_hour, slot, state, response)
         SELECT 'tenant', int8send(n), int8send(n) || int8send(n), '\\x00000000000000000000000000000000',
             n, 60000, 1, 1, 1, 0, 0, 0, 0, 0, 0, 3, decode(repeat('07', 200), 'hex')
         FROM generate_series(1, {ROWS}) AS n"
    );
    server.sql("postgres", &fill).await;
    server.sql("postgres", "CHECKPOINT").await;
    let store = options.connect().await.unwrap();
    let start = Instant::now();
    let swept = store.sweep().await.unwrap().expect("no other sweeper");
    let rate = swept.removed as f64 / start.elapsed().as_secs_f64();
    assert_eq!(swept.removed, ROWS);
    println!("sweeping: {rate:.0} rows a second ({ROWS} of 200-byte responses)\n");
    rate
}

/// What a thousand shards of what was measured are good for.
fn thousand(what: &str, pairs: f64, swept: f64) {
    let slots = f64::from(onlyonce::SLOTS) / 1000.0;
    // The fullest shard has 17 slots, the mean 16.4: it is full first.
    let fullest = slots.ceil() / slots;
    println!("a thousand shards, each like {what}:");
    println!("  pairs a second, keys spread evenly      {:>14.0}", 1000.0 * pairs / fullest);
    println!("  rows living on each, retention of 24 h  {:>14.0}", pairs * 86_400.0);
    println!("  share of time spent sweeping            {:>13.0} %", 100.0 * pairs / swept);
    println!("  (not counted: that 1,000 such machines are not one)");
}
