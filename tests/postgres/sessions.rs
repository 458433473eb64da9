//! A session stands for the holders of a store: who is silent and lives is told from who has gone,
//! and where that can't be known it is not claimed.

use crate::servers::{cluster::Cluster, proxy::Proxy, *};
use onlyonce::{postgres::*, *};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

const LEASE: Duration = Duration::from_secs(60);

type Store = AsyncStore<PostgresStore>;

async fn open(options: PostgresOptions) -> Store {
    AsyncStore::new(options.holder_session(true).connect().await.unwrap())
}

async fn claim(store: &Store, name: &str) -> Claim<Store> {
    match store.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        other => panic!("{name}: {other:?}"),
    }
}

async fn stuck(store: &Store, name: &str) -> Interrupted<Store> {
    match store.begin(key(name), print()).await.unwrap() {
        Begin::Interrupted(stuck) => stuck,
        other => panic!("{name}: {other:?}"),
    }
}

/// Whether its holder is known to be gone, as `begin`, `get` and a listing say.
async fn gone(store: &Store, name: &str) -> bool {
    gone_meanwhile(store, name, async || {}).await
}

/// The same; something happens between the first look and the next ones.
async fn gone_meanwhile(store: &Store, name: &str, mut between: impl AsyncFnMut()) -> bool {
    loop {
        let before = stuck(store, name).await.holder_gone();
        between().await;
        let listed = store.get_ref().entries(Filter::INTERRUPTED, None, 1000).await.unwrap();
        let listed = listed.entries.into_iter().find(|entry| entry.key.key() == name.as_bytes());
        let looked = [listed.unwrap(), store.get_ref().get(key(name)).await.unwrap().unwrap()];
        let seen = looked.map(|entry| match entry.state {
            State::Interrupted { holder_gone, .. } => holder_gone,
            state => panic!("{name}: {state:?}"),
        });
        // Sessions end when they will: the looks must agree only if the first and the last do.
        if stuck(store, name).await.holder_gone() == before {
            assert_eq!(seen, [before; 2], "{name}");
            return before;
        }
    }
}

/// A server of the test's own, with the tables and the clock of a store.
async fn own() -> Option<(Arc<Server>, ServerClock)> {
    let server = Arc::new(Server::start(programs()?));
    options(&server.dsn("postgres")).migrate().await.unwrap();
    let clock = ServerClock::new(&server, "postgres").await;
    Some((server, clock))
}

/// The server process of a store's session.
const PID: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
                   AND mode = 'ExclusiveLock' AND granted";

#[test]
fn a_store_that_is_gone() {
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        let asker = AsyncStore::new(clock.options().connect().await.unwrap());
        let holder = open(clock.options()).await;
        assert!(holder.get_ref().holds_session() && !asker.get_ref().holds_session());
        for name in ["taken", "settled", "ran"] {
            std::mem::forget(claim(&holder, name).await);
        }
        holder.get_ref().close();
        until(async || server.sql("postgres", PID).await.is_none()).await;
        // Its leases hold: it may have been cut off, and be at work.
        let found = asker.begin(key("taken"), print()).await.unwrap();
        assert!(matches!(found, Begin::InFlight(_)), "{found:?}");
        clock.advance(LEASE).await;
        assert!(gone(&asker, "taken").await);
        let seen = stuck(&asker, "taken").await;
        assert_eq!(seen.reason(), Reason::LeasePassed);
        let taken = seen.take_over().await.unwrap();
        assert!(matches!(&taken, Begin::Execute(claim) if claim.attempt() == 2), "{taken:?}");
        // Settling needs no opt-in.
        let once = asker.once(key("settled"), print());
        let settled = once.settle(async |_| Settled::Happened(b"it did".to_vec()));
        let ran =
            settled.run(async |_| -> Result<Vec<u8>, WorkError<()>> { panic!("again") }).await;
        assert!(matches!(&ran, Ok(Outcome::Replayed(_))), "{ran:?}");
        // Takers have no session of their own here: nothing is known of them.
        drop(taken);
    });
}

#[test]
fn a_process_that_is_killed() {
    const HOLD: &str = "ONLYONCE_TEST_HOLD_AT";
    if let Ok(dsn) = std::env::var(HOLD) {
        block_on(async {
            let store = open(options(&dsn).clock_us("test_now()")).await;
            let _claim = claim(&store, "k").await;
            println!("holds");
            std::future::pending::<()>().await;
        });
    }
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sessions::a_process_that_is_killed", "--nocapture"])
            .env(HOLD, server.dsn("postgres"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line.contains("holds")));
        let asker = open(clock.options()).await;
        clock.advance(LEASE).await;
        // Stopped in the middle, it is silent and lives.
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::STOP).unwrap();
        assert!(!gone(&asker, "k").await);
        kill_process(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
        until(async || gone(&asker, "k").await).await;
        let taken = stuck(&asker, "k").await.take_over().await.unwrap();
        assert!(matches!(&taken, Begin::Execute(claim) if claim.attempt() == 2), "{taken:?}");
    });
}

/// Looks at a key, as the other tests do, while its holder's session ends.
#[test]
fn a_session_that_ends_between_two_looks() {
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        let holder = open(clock.options()).await;
        std::mem::forget(claim(&holder, "k").await);
        clock.advance(LEASE).await;
        let asker = AsyncStore::new(clock.options().connect().await.unwrap());
        let end = async || {
            holder.get_ref().close();
            until(async || server.sql("postgres", PID).await.is_none()).await;
        };
        assert!(!gone(&asker, "k").await);
        assert!(gone_meanwhile(&asker, "k", end).await);
    });
}

#[test]
fn a_silent_holder_lives() {
    block_on(async {
        let Some((_server, clock)) = own().await else { return };
        let (holder, asker) = (open(clock.options()).await, open(clock.options()).await);
        let mut held = claim(&holder, "held").await;
        let mut failed = claim(&holder, "failed").await;
        failed.fail(b"500").await.unwrap();
        clock.advance(LEASE).await;
        assert!(!gone(&asker, "held").await && !gone(&asker, "failed").await);
        // Its key is not forgotten, nor is its row swept.
        clock.advance(Duration::from_secs(400 * 24 * 3600)).await;
        assert_eq!(asker.get_ref().sweep().await.unwrap().unwrap().removed, 0);
        assert!(!gone(&asker, "held").await && !gone(&asker, "failed").await);
        let import =
            Resolution::Complete { fingerprint: Some(print()), completion: Completion::default() };
        assert_eq!(asker.get_ref().resolve(key("failed"), import).await, Ok(()));
        held.complete(b"at last").await.unwrap();
        let replayed = asker.begin(key("held"), print()).await.unwrap();
        assert!(matches!(replayed, Begin::Replay(_)), "{replayed:?}");
        // A dropped handle is what it always was.
        drop(claim(&holder, "dropped").await);
        holder.get_ref().drain(LEASE).await;
        assert!(gone(&asker, "dropped").await);
    });
}

/// Only the era in which a session was made says anything of its end.
#[test]
fn a_server_that_restarts_knows_nothing_of_a_holder_that_is_cut_off() {
    block_on(async {
        for how in ["the process of a session", "the server", "the network"] {
            let Some((server, clock)) = own().await else { return };
            let proxy = Proxy::start(server.port).await;
            let app = "application_name='cut off'";
            let dsn = format!("host=127.0.0.1 port={} user=postgres {app}", proxy.port);
            let limits = |options: PostgresOptions| options.deadline(Duration::from_secs(4));
            let holder = open(limits(options(&dsn).clock_us("test_now()"))).await;
            let mut held = claim(&holder, "k").await;
            clock.advance(LEASE).await;
            let pid = server.sql("postgres", PID).await.unwrap();
            // From here on it can't come back, and doesn't stop.
            drop(proxy);
            match how {
                "the process of a session" => {
                    // All of the server's processes start anew.
                    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
                    kill_process(pid, Signal::KILL).unwrap();
                    until(async || {
                        let Ok(client) = server.connect("postgres").await else { return false };
                        client.query(PID, &[]).await.is_ok_and(|pids| pids.is_empty())
                    })
                    .await;
                }
                "the server" => {
                    server.kill();
                    server.resume();
                }
                _ => {
                    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                               WHERE application_name = 'cut off'";
                    server.sql("postgres", end).await;
                }
            }
            until(async || !holder.get_ref().holds_session()).await;
            // The server says so to its client before it lets go of the lock.
            until(async || server.sql("postgres", PID).await.is_none()).await;
            let asker = open(clock.options()).await;
            // A cut connection alone does end a session. Its holder is fenced, as ever.
            let cut = how == "the network";
            assert_eq!(gone(&asker, "k").await, cut, "{how}");
            let error = held.complete(b"late").await.unwrap_err();
            assert!(matches!(error, ClaimError::Unavailable { .. }), "{error:?}");
        }
    });
}

#[test]
fn a_holder_that_comes_back_is_known_again() {
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        let holder = open(clock.options()).await;
        let mut held = claim(&holder, "k").await;
        let kept = claim(&holder, "left").await;
        clock.advance(LEASE).await;
        let mut pid = server.sql("postgres", PID).await;
        for round in 0..3 {
            match round {
                0 => drop(
                    server
                        .sql(
                            "postgres",
                            &format!("SELECT pg_terminate_backend({})", pid.clone().unwrap()),
                        )
                        .await,
                ),
                1 => server.kill(),
                _ => server.stop(),
            }
            if round > 0 {
                server.resume();
            }
            // It makes another session by itself.
            until(async || {
                let now = server.sql("postgres", PID).await;
                now.is_some() && (round > 0 || now != pid) && holder.get_ref().holds_session()
            })
            .await;
            pid = server.sql("postgres", PID).await;
            let asker = AsyncStore::new(clock.options().connect().await.unwrap());
            assert!(!gone(&asker, "k").await);
            // A claim of afterwards is stood for as well.
            held.renew().await.unwrap();
            clock.advance(LEASE).await;
        }
        held.complete(b"done").await.unwrap();
        // And when it goes now, it is known again.
        std::mem::forget(kept);
        holder.get_ref().close();
        let asker = open(clock.options()).await;
        until(async || gone(&asker, "left").await).await;
    });
}

/// A claim that is made while the session is lost says so: nothing is known of its holder.
#[test]
fn claims_without_a_session() {
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        server.sql("postgres", "CREATE ROLE shop LOGIN SUPERUSER").await;
        let dsn = format!("host=127.0.0.1 port={} user=shop dbname=postgres", server.port);
        let holder = open(options(&dsn).clock_us("test_now()").connections(1)).await;
        claim(&holder, "k").await.release().await.unwrap();
        // Its connections stay, and it gets no other ones.
        server.sql("postgres", "ALTER ROLE shop NOLOGIN").await;
        let pid = server.sql("postgres", PID).await.unwrap();
        server.sql("postgres", &format!("SELECT pg_terminate_backend({pid})")).await;
        // The server says so to its client before it lets go of the lock.
        until(async || server.sql("postgres", PID).await.is_none()).await;
        until(async || !holder.get_ref().holds_session()).await;
        for name in ["without", "renewed"] {
            let mut held = claim(&holder, name).await;
            if name == "renewed" {
                server.sql("postgres", "ALTER ROLE shop LOGIN").await;
                until(async || holder.get_ref().holds_session()).await;
                held.renew().await.unwrap();
            }
            std::mem::forget(held);
        }
        holder.get_ref().close();
        until(async || server.sql("postgres", PID).await.is_none()).await;
        clock.advance(LEASE).await;
        let asker = open(clock.options()).await;
        assert!(!gone(&asker, "without").await && gone(&asker, "renewed").await);
    });
}

/// Sessions are known on the server that has the claims, and nothing of them on the next one.
#[test]
fn a_failover_ends_no_holder() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let mut cluster = Cluster::start(bin).await;
        let lease = Duration::from_millis(500);
        let options = cluster.options("postgres").lease(lease).holder_session(true);
        options.migrate().await.unwrap();
        let proxy = Proxy::start(cluster.primary().port).await;
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", proxy.port);
        let bound = PostgresOptions::new(dsn, Replication::Replicated).holder_session(true);
        let bound = AsyncStore::new(bound.lease(lease).connect().await.unwrap());
        let free = AsyncStore::new(options.connect().await.unwrap());
        let _bound = claim(&bound, "bound").await;
        let following = claim(&free, "following").await;
        let dead = cluster.primary;
        cluster.primary().kill();
        drop(proxy);
        cluster.promote().await;
        cluster.follow(dead).await;
        tokio::time::sleep(lease).await;
        // One can't reach the new primary, and the other has found it. It is asked there: the store
        // may not have noticed yet that its earlier session is no more.
        let primary = cluster.primary();
        until(async || {
            primary.sql("postgres", PID).await.is_some() && free.get_ref().holds_session()
        })
        .await;
        let asker = AsyncStore::new(options.connect().await.unwrap());
        assert!(!gone(&asker, "bound").await && !gone(&asker, "following").await);
        std::mem::forget(following);
        free.get_ref().close();
        until(async || gone(&asker, "following").await).await;
        assert!(!gone(&asker, "bound").await);
    });
}

/// What a session needs, an ordinary role may do; and ended ones are forgotten much later.
#[test]
fn an_ordinary_role_and_the_sweeper() {
    block_on(async {
        let Some((server, clock)) = own().await else { return };
        let role = "CREATE ROLE shop LOGIN; GRANT SELECT ON onlyonce_schema TO shop;
            GRANT SELECT ON test_clock TO shop;
            GRANT SELECT, INSERT, UPDATE, DELETE ON onlyonce, onlyonce_sessions TO shop";
        server.sql("postgres", role).await;
        let dsn = format!("host=127.0.0.1 port={} user=shop dbname=postgres", server.port);
        let ordinary = || options(&dsn).clock_us("test_now()");
        let (holder, asker) = (open(ordinary()).await, open(ordinary()).await);
        std::mem::forget(claim(&holder, "k").await);
        clock.advance(LEASE).await;
        assert!(!gone(&asker, "k").await);
        holder.get_ref().close();
        until(async || gone(&asker, "k").await).await;
        let sessions =
            async || server.sql("postgres", "SELECT count(*) FROM onlyonce_sessions").await;
        asker.get_ref().sweep().await.unwrap();
        assert_eq!(sessions().await.as_deref(), Some("2"));
        clock.advance(Duration::from_secs(91 * 24 * 3600)).await;
        asker.get_ref().sweep().await.unwrap();
        assert_eq!(sessions().await.as_deref(), Some("1"), "the asker's own is left");
        assert!(asker.get_ref().holds_session());
    });
}
