//! The connection is lost at every statement, before the server has it or before its answer is
//! back: each call answers as if nothing had been lost, and has been done once.

use crate::servers::{
    proxy::{Lose, Proxy},
    *,
};
use onlyonce::{postgres::PostgresStore, *};
use std::time::Duration;

type Store = AsyncStore<PostgresStore>;

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

/// Every call there is, on keys of this prefix. None may notice anything.
async fn program(store: &Store, prefix: &str) {
    let name = |n: &str| format!("{prefix}-{n}");
    let (done, failed, free) = (name("done"), name("failed"), name("free"));
    let mut first = claim(store, &done).await;
    assert_eq!((first.attempt(), first.after()), (1, None));
    first.save_checkpoint(b"half").await.unwrap();
    first.renew().await.unwrap();
    first.ensure_durable().await.unwrap();
    first.complete(b"order 1").await.unwrap();
    match store.begin(key(&done), print()).await.unwrap() {
        Begin::Replay(record) => assert_eq!(record.response(), Some(&b"order 1"[..])),
        other => panic!("{other:?}"),
    }
    let other = store.begin(key(&done), Fingerprint::of(["other"])).await.unwrap();
    assert!(matches!(other, Begin::Mismatch { scheme: 0 }));
    let mut claim_2 = claim(store, &failed).await;
    claim_2.fail(b"500").await.unwrap();
    drop(claim_2);
    assert_eq!(store.get_ref().drain(Duration::from_secs(20)).await, 0);
    let seen = stuck(store, &failed).await;
    assert_eq!((seen.reason(), seen.attempts(), seen.holder_gone()), (Reason::Failed, 1, true));
    let Begin::Execute(taken) = seen.take_over().await.unwrap() else { panic!("not taken") };
    assert_eq!((taken.attempt(), taken.after()), (2, Some(Reason::Failed)));
    taken.release().await.unwrap();
    let given = stuck(store, &failed).await;
    assert_eq!((given.reason(), given.attempts()), (Reason::GivenBack, 1));
    let Begin::Execute(taken) = given.take_over().await.unwrap() else { panic!("not taken") };
    taken.undo().await.unwrap();
    let undone = stuck(store, &failed).await;
    assert_eq!((undone.reason(), undone.attempts()), (Reason::GivenBack, 1));
    claim(store, &free).await.release().await.unwrap();
    assert!(store.get_ref().get(key(&free)).await.unwrap().is_none());
    let held = claim(store, &free).await;
    let forced =
        store.get_ref().resolve_with(key(&free), Resolution::Free, ResolveOptions::forced()).await;
    assert_eq!(forced, Ok(()));
    assert_eq!(held.release().await, Err(ClaimError::Fenced));
    let page = store.get_ref().entries(Filter::COMPLETED, None, 10_000).await.unwrap();
    assert!(page.entries.iter().any(|entry| entry.key.key() == done.as_bytes()));
}

fn lost(lose: Lose) {
    block_on(async {
        let Some(server) = Server::shared() else { return };
        let database = server.database().await;
        let proxy = Proxy::start(server.port).await;
        let dsn = format!("host=127.0.0.1 port={} user=postgres dbname={database}", proxy.port);
        // One connection, so that the statements come one after the other.
        let options = options(&dsn).connections(1).notify(false);
        let mut statement = 0;
        loop {
            let store = AsyncStore::new(options.connect().await.unwrap());
            let before = proxy.struck();
            proxy.strike(statement, lose);
            program(&store, &format!("{statement}")).await;
            if proxy.struck() == before {
                break;
            }
            statement += 1;
        }
        println!("{statement} statements");
        assert!(statement > 20, "only {statement} statements were struck");
    });
}

#[test]
fn before_the_server_has_it() {
    lost(Lose::Request);
}

#[test]
fn before_its_answer_is_back() {
    lost(Lose::Answer);
}
