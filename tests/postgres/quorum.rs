//! Three servers with synchronous replication to a quorum: the primary dies under load, and a
//! standby takes its place; standbys freeze, and what is answered meanwhile is what they have.
//!
//! Where a primary is killed the stores read strictly. When its first process dies, those whose commit
//! waits for the standbys stop waiting, and for a moment others that have not noticed yet see such a
//! commit, which may be lost.

use crate::servers::{cluster::Cluster, load::*, *};
use onlyonce::{postgres::*, *};
use rustix::process::{Signal, kill_process};
use std::time::Duration;

#[test]
fn the_primary_is_killed_under_load() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let mut cluster = Cluster::start(bin).await;
        let options = cluster.options("postgres").lease(LEASE).connections(8).strict_read(true);
        options.migrate().await.unwrap();
        let stores = [options.connect().await.unwrap(), options.connect().await.unwrap()];
        let load = Load::start(&stores, 24);
        load.acknowledges(300).await;
        let dead = cluster.primary;
        cluster.primary().kill();
        cluster.promote().await;
        // A server that takes writes, and waits for nobody: it gets none of ours.
        let refused = options.connect().await;
        assert!(matches!(refused, Err(OpenError::NotReplicated { .. })), "{refused:?}");
        let written = cluster.primary().sql("postgres", "SELECT count(*) FROM onlyonce").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let later = cluster.primary().sql("postgres", "SELECT count(*) FROM onlyonce").await;
        assert_eq!(written, later, "written without a standby");
        cluster.follow(dead).await;
        load.acknowledges(300).await;
        load.judge(&stores[0]).await;
    });
}

/// Standbys are cut off, clients go on for a while, and then the primary dies.
async fn the_last_words_are_unheard(replication: Replication) -> Option<Vec<String>> {
    let mut cluster = Cluster::start(programs()?).await;
    let is_replicated = replication == Replication::Replicated;
    if !is_replicated {
        cluster.primary().configure("synchronous_standby_names", "").await;
    }
    let options = PostgresOptions::new(cluster.dsn("postgres"), replication);
    let options = options.sweep_every(None).max_response(4096).lease(LEASE).connections(8);
    let options = options.lock_timeout(Duration::from_millis(100));
    let options = options.statement_limit(Duration::from_secs(1));
    let options = options.deadline(Duration::from_secs(3)).strict_read(is_replicated);
    options.migrate().await.unwrap();
    let stores = [options.connect().await.unwrap(), options.connect().await.unwrap()];
    let load = Load::start(&stores, 16);
    load.acknowledges(100).await;
    cluster.part().await;
    if is_replicated {
        // What was on its way may still be acknowledged; nothing else is.
        load.fails(20).await;
    } else {
        load.acknowledges(50).await;
    }
    let dead = cluster.primary;
    cluster.primary().kill();
    cluster.promote().await;
    if is_replicated {
        cluster.follow(dead).await;
    }
    load.acknowledges(50).await;
    Some(load.wrong(&stores[0]).await)
}

#[test]
fn a_quorum_loses_nothing_that_was_acknowledged() {
    block_on(async {
        let wrong = the_last_words_are_unheard(Replication::Replicated).await;
        assert!(wrong.as_ref().is_none_or(Vec::is_empty), "{wrong:#?}");
    });
}

/// The witness can see a loss: asynchronous replication has one.
#[test]
fn without_a_quorum_the_loss_is_seen() {
    block_on(async {
        let Some(wrong) = the_last_words_are_unheard(Replication::SingleServer).await else {
            return;
        };
        let lost = wrong.iter().filter(|what| what.contains("granted after")).count();
        println!("{lost} acknowledged completions were lost");
        assert!(lost >= 10, "{wrong:#?}");
    });
}

/// Reads what a key is, for a short while.
async fn asked(options: &PostgresOptions) -> Result<Begin<AsyncStore<PostgresStore>>, BeginError> {
    let options = options.clone().statement_limit(Duration::from_secs(3));
    let store = options.deadline(Duration::from_secs(6)).connect().await.unwrap();
    AsyncStore::new(store).begin(key("k"), print()).await
}

#[test]
fn frozen_standbys_and_the_barrier() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let cluster = Cluster::start(bin).await;
        // Far below the other limits: a commit that waits for standbys holds its key's lock.
        let options = cluster.options("postgres").lock_timeout(Duration::from_millis(100));
        options.migrate().await.unwrap();
        let short = options.clone().statement_limit(Duration::from_secs(3));
        let short = short.deadline(Duration::from_secs(6)).connect().await.unwrap();
        let store = AsyncStore::new(short);
        let Begin::Execute(mut claim) = store.begin(key("k"), print()).await.unwrap() else {
            panic!("not granted")
        };
        let receivers = cluster.receivers().await;
        receivers.iter().for_each(|&pid| kill_process(pid, Signal::STOP).unwrap());
        // It waits for standbys that don't answer: what became of it is not known.
        let completed = claim.complete(b"done").await;
        assert!(matches!(completed, Err(ClaimError::Unavailable { .. })), "{completed:?}");
        let asking = asked(&options).await;
        assert!(matches!(asking, Ok(Begin::InFlight(_))), "{asking:?}");
        // Somebody cancels the wait: the commit is visible, and no standby has it.
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                      WHERE wait_event = 'SyncRep' AND query LIKE 'UPDATE%'";
        until(async || {
            cluster.primary().sql("postgres", cancel).await;
            matches!(asked(&options).await, Ok(Begin::Replay(_)))
        })
        .await;
        // Whoever reads strictly doesn't answer from it.
        let strict = asked(&options.clone().strict_read(true)).await;
        assert!(matches!(strict, Err(BeginError::Unavailable { .. })), "{strict:?}");
        receivers.iter().for_each(|&pid| kill_process(pid, Signal::CONT).unwrap());
        // A server that stops replicating under its connections is found out soon.
        cluster.primary().configure("synchronous_standby_names", "").await;
        until(async || {
            let begun = store.begin(key("unreplicated"), print()).await;
            matches!(begun, Err(BeginError::Unavailable { what }) if what.contains("standby"))
        })
        .await;
        cluster.primary().configure("synchronous_standby_names", "ANY 1 (n2, n3)").await;
        let strict = options.clone().strict_read(true).connect().await.unwrap();
        let replayed = AsyncStore::new(strict).begin(key("k"), print()).await.unwrap();
        assert!(matches!(replayed, Begin::Replay(_)), "{replayed:?}");
    });
}
