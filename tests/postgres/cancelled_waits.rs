//! A commit whose wait for the standbys is cancelled is reported as a success by the server, with a
//! warning beside it. The store doesn't: such an answer waits for the standbys all the same, or its
//! outcome is unknown. And what gave up in an outage leaves no key that has no holder.

use crate::servers::{cluster::Cluster, *};
use onlyonce::{postgres::*, *};
use std::time::Duration;

/// Cancels whatever waits for a standby, again and again until `call` has ended; at least once.
async fn cancelling<T: Send + 'static>(
    cluster: &Cluster,
    call: impl Future<Output = T> + Send + 'static,
) -> T {
    let call = tokio::spawn(call);
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity \
                  WHERE wait_event = 'SyncRep'";
    let mut cancelled = 0;
    until(async || {
        let now = cluster.primary().sql("postgres", cancel).await.unwrap();
        cancelled += now.parse::<u64>().unwrap();
        call.is_finished()
    })
    .await;
    assert!(cancelled > 0, "nothing was cancelled");
    call.await.unwrap()
}

fn is_unknown(what: &str) -> bool {
    what.contains("unknown")
}

fn options_of(cluster: &Cluster) -> PostgresOptions {
    let options = cluster.options("postgres").lock_timeout(Duration::from_millis(100));
    options.statement_limit(Duration::from_secs(1)).deadline(Duration::from_secs(3))
}

async fn granted<S: IdempotencyStore>(store: &AsyncStore<S>, name: &str) -> Claim<AsyncStore<S>> {
    match store.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        _ => panic!("{name}: not granted"),
    }
}

#[test]
fn a_cancelled_wait_is_no_success() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let cluster = Cluster::start(bin).await;
        let options = options_of(&cluster);
        options.migrate().await.unwrap();
        let plain = options.connect().await.unwrap();
        let strict = options.clone().strict_read(true).connect().await.unwrap();
        cluster.primary().sql("postgres", "CREATE TABLE orders (request text)").await;
        let shop = AsyncStore::new(plain.in_transactions());
        let (store, strict) = (AsyncStore::new(plain.clone()), AsyncStore::new(strict));
        let mut first = granted(&store, "first").await;
        let mut second = granted(&strict, "second").await;
        let mut order = granted(&shop, "order").await;
        let insert = "SET synchronous_commit = local; INSERT INTO orders VALUES ('order')";
        order.transaction().await.unwrap().as_ref().batch_execute(insert).await.unwrap();
        cluster.part().await;
        // A handler can't have its own commit not wait: no standby is there, and none is waited for
        // in vain as a success.
        let done = order.complete(b"201").await;
        assert!(matches!(&done, Err(ClaimError::Unavailable { .. })), "{done:?}");
        // A completion, whether or not it reads strictly, and a claim.
        let completed = cancelling(&cluster, async move {
            let done = first.complete(b"charged").await;
            (first, done)
        });
        let (mut first, done) = completed.await;
        assert!(
            matches!(&done, Err(ClaimError::Unavailable { what }) if is_unknown(what)),
            "{done:?}"
        );
        let completed = cancelling(&cluster, async move { second.complete(b"charged").await });
        let done = completed.await;
        assert!(matches!(done, Err(ClaimError::Unavailable { .. })), "{done:?}");
        let begun = cancelling(&cluster, {
            let store = store.clone();
            async move { store.begin(key("begun"), print()).await.map(|_| ()) }
        });
        let begun = begun.await;
        assert!(
            matches!(&begun, Err(BeginError::Unavailable { what }) if is_unknown(what)),
            "{begun:?}"
        );
        assert!(plain.drain(Duration::ZERO).await > 0, "the end of what may have begun is pending");
        // The standbys are back: all that was open is decided.
        cluster.rejoin().await;
        until(async || first.complete(b"charged").await == Ok(())).await;
        assert_eq!(plain.drain(PATIENCE).await, 0);
        assert!(plain.get(key("begun")).await.unwrap().is_none());
    });
}

/// Callers that gave up while no standby answered: their claims commit when one is back, and have no
/// holder. Each is released by its owner.
#[test]
fn an_outage_leaves_no_key_without_a_holder() {
    block_on(async {
        let Some(bin) = programs() else { return };
        let cluster = Cluster::start(bin).await;
        // A lease that ends nothing within this test.
        let hour = Duration::from_secs(3600);
        let options = options_of(&cluster).lease(hour).execution_limit(hour).holder_session(true);
        options.migrate().await.unwrap();
        let holder = options.connect().await.unwrap();
        let other = options.connect().await.unwrap();
        let (store, asker) = (AsyncStore::new(holder.clone()), AsyncStore::new(other.clone()));
        let taken = granted(&asker, "taken").await;
        drop(taken);
        assert_eq!(other.drain(PATIENCE).await, 0);
        let Begin::Interrupted(stuck) = store.begin(key("taken"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        cluster.part().await;
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..12 {
            let store = store.clone();
            callers.spawn(
                async move { store.begin(key(&format!("k{n}")), print()).await.map(|_| ()) },
            );
        }
        callers.spawn(async move { stuck.take_over().await.map(|_| ()) });
        while let Some(given_up) = callers.join_next().await {
            let given_up = given_up.unwrap();
            assert!(matches!(&given_up, Err(BeginError::Unavailable { .. })), "{given_up:?}");
        }
        assert!(holder.drain(Duration::ZERO).await > 0);
        cluster.rejoin().await;
        assert_eq!(holder.drain(PATIENCE).await, 0);
        for n in 0..12 {
            let name = format!("k{n}");
            let claim = granted(&asker, &name).await;
            assert_eq!((claim.attempt(), claim.after()), (1, None), "{name}");
        }
        // The takeover is undone: the same attempts as before.
        let Begin::Interrupted(stuck) = asker.begin(key("taken"), print()).await.unwrap() else {
            panic!("not interrupted")
        };
        assert_eq!((stuck.attempts(), stuck.reason()), (1, Reason::Dropped));
        assert!(stuck.holder_gone());
    });
}
