//! Tries to make the service take an order twice, and looks whether it did.
//!
//! A server runs as a child process. Each order is sent by several clients at once, with one
//! key; some hang up before the answer. The server is killed in the middle, again and again, and
//! started again on the same directory. With PostgreSQL it is the cluster's primary that is killed,
//! and a standby takes its place. At the end every order is sent once more, and then the orders
//! database and all the answers must agree.

mod child;
mod client;
mod cluster;
mod proof;
mod storm;

use crate::backend::{Choice, Kind};
use anyhow::Context;
use child::Server;
use clap::{Args, value_parser};
use client::Client;
use cluster::Cluster;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};
use storm::Storm;

/// How hard to try.
#[derive(Args)]
pub struct Demo {
    /// How many orders.
    #[arg(long, default_value_t = 25_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    orders: u32,
    /// How often the server (with PostgreSQL, the primary) is killed with SIGKILL.
    #[arg(long, default_value_t = 12, value_parser = value_parser!(u32).range(..=10_000))]
    kills: u32,
    /// Where the server keeps its files. Default: a temporary directory, deleted if all is well.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// With PostgreSQL and --dsn: a shell command that kills the primary and returns when another
    /// server has taken its place. (Without --dsn the demo starts a cluster of its own.)
    #[arg(long)]
    kill_with: Option<String>,
    #[command(flatten)]
    choice: Choice,
}

/// Runs the demo; the exit code is the verdict.
pub async fn run(demo: &Demo) -> anyhow::Result<ExitCode> {
    let (dir, temporary) = match &demo.dir {
        Some(dir) => (dir.clone(), None),
        None => {
            let temporary = tempfile::Builder::new()
                .prefix("onlyonce-demo-")
                .tempdir()
                .context("creating a temporary directory")?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let start = Instant::now();
    let mut choice = demo.choice.clone();
    let cluster = match (choice.backend, &choice.dsn) {
        (Kind::Embedded | Kind::SqliteTx, _) => None,
        (Kind::Postgres, Some(_)) => Some(Cluster::given(demo.kill_with.clone(), demo.kills)?),
        (Kind::Postgres, None) => {
            let own = Cluster::start().await?;
            choice.dsn = Some(own.dsn().to_owned());
            Some(own)
        }
    };
    let storm = storm_and_kill(demo, &choice, cluster.as_ref(), &dir).await?;
    let proof = proof::Proof::of(&storm, &choice, &dir).await?;
    proof.print(&storm, start.elapsed());
    if proof.holds() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(temporary) = temporary {
        println!("the evidence is kept in {}", temporary.keep().display());
    }
    Ok(ExitCode::FAILURE)
}

async fn storm_and_kill(
    demo: &Demo,
    choice: &Choice,
    cluster: Option<&Cluster>,
    dir: &Path,
) -> anyhow::Result<Arc<Storm>> {
    let mut server = Server::start(dir, choice).await?;
    let killed = match cluster {
        None => "server killed (SIGKILL)",
        Some(_) => "primary killed (SIGKILL)",
    };
    let storm = Arc::new(Storm::new(Client::new(server.address()), demo.orders, killed));
    println!(
        "{} orders, each sent by {} clients at once, to a server at {} {} {} times",
        demo.orders,
        storm::CLIENTS,
        server.address(),
        match cluster {
            None => "that is killed",
            Some(_) => "whose database's primary is killed",
        },
        demo.kills,
    );

    let bar = progress(demo.orders)?;
    let all = storm::start(&storm, storm::CLIENTS, &bar);
    for kill in 1..=demo.kills {
        let part = u64::from(demo.orders) * u64::from(kill) / u64::from(demo.kills + 1);
        storm.answered(part).await;
        bar.set_message(format!("kill {kill} of {}", demo.kills));
        match cluster {
            None => {
                server.kill().await?;
                server.start_again().await?;
            }
            Some(cluster) => cluster.kill_primary().await?,
        }
        storm.tally(|tally| {
            tally.kills += 1;
            tally.interrupted += server.found_interrupted();
        });
    }
    all.await?;
    bar.finish_and_clear();

    println!("all answered; stopping the server, starting it again, sending everything once more");
    server.stop().await?;
    server.start_again().await?;
    let bar = progress(demo.orders)?;
    storm::start(&storm, 1, &bar).await?;
    bar.finish_and_clear();
    server.stop().await?;
    Ok(storm)
}

fn progress(orders: u32) -> anyhow::Result<ProgressBar> {
    let style = "{bar:40} {pos}/{len} orders answered  {elapsed}  {msg}";
    Ok(ProgressBar::new(orders.into()).with_style(ProgressStyle::with_template(style)?))
}
