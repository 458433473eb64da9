//! What a store on the caller's connections does and finds is counted, by the statements' own
//! answers, and published.

use onlyonce::{sql::*, *};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const PATIENCE: Duration = Duration::from_secs(60);

fn key(name: &str) -> KeyRef<'_> {
    static SCOPE: std::sync::LazyLock<Scope> =
        std::sync::LazyLock::new(|| Scope::of(["tenant", "counted"]));
    KeyRef::new(&SCOPE, name).unwrap()
}

fn print() -> Fingerprint {
    Fingerprint::of(["POST", "/orders", "book"])
}

/// Two stores on one table, each with two attempts for a key.
pub async fn outcomes_and_alarms_are_counted<P: Pool>(
    plain: SqlStore<P>,
    other: SqlStore<P>,
    advance: impl AsyncFn(Duration),
) {
    let store = AsyncStore::new(plain.clone());
    let begin = async |name: &str| store.begin(key(name), print()).await.unwrap();
    let granted = async |name: &str| match begin(name).await {
        Begin::Execute(claim) => claim,
        found => panic!("{name}: {found:?}"),
    };
    granted("done").await.complete(b"done").await.unwrap();
    assert!(matches!(begin("done").await, Begin::Replay(_)));
    let mismatch = store.begin(key("done"), Fingerprint::of(["other"])).await.unwrap();
    assert!(matches!(mismatch, Begin::Mismatch { .. }));
    let held = granted("held").await;
    assert!(matches!(begin("held").await, Begin::InFlight(_)));
    other.resolve_with(key("held"), Resolution::Free, ResolveOptions::forced()).await.unwrap();
    assert_eq!(held.release().await, Err(ClaimError::Fenced));
    let mut failed = granted("failed").await;
    failed.fail(b"500").await.unwrap();
    drop(granted("dropped").await);
    granted("free").await.release().await.unwrap();
    drop(failed);
    assert_eq!(plain.drain(PATIENCE).await, 0);
    let Begin::Interrupted(stuck) = begin("dropped").await else { panic!("not interrupted") };
    let Begin::Execute(taken) = stuck.take_over().await.unwrap() else { panic!("not taken") };
    taken.undo().await.unwrap();
    let Begin::Interrupted(stuck) = begin("dropped").await else { panic!("not interrupted") };
    let Begin::Execute(taken) = stuck.take_over().await.unwrap() else { panic!("not taken") };
    drop(taken);
    assert_eq!(plain.drain(PATIENCE).await, 0);
    let Begin::Interrupted(stuck) = begin("dropped").await else { panic!("not interrupted") };
    let exhausted = stuck.take_over().await.map(|_| ());
    assert!(matches!(exhausted, Err(BeginError::AttemptsExhausted { .. })), "{exhausted:?}");
    let now = plain.counts();
    assert_eq!((now.granted, now.taken_over, now.undone, now.exhausted), (5, 2, 1, 1));
    assert_eq!((now.replayed, now.mismatched, now.saw_in_flight), (1, 1, 1));
    assert_eq!((now.completed, now.failed, now.released, now.fenced), (1, 1, 1, 1));
    assert_eq!((now.saw_interrupted, now.abandoned), (3, 3));
    assert_eq!((now.interrupted_expired, now.began_after_expiry), (0, 0));
    // The record expires, and the interrupted keys are forgotten: one is granted again, the other is
    // found by the sweeper. A key that was freed or released has been forgotten by nothing.
    advance(DAY * 8).await;
    for name in ["done", "dropped", "held", "free"] {
        granted(name).await.complete(b"again").await.unwrap();
    }
    let now = plain.counts();
    assert_eq!((now.interrupted_expired, now.began_after_expiry), (1, 1));
    other.sweep().await.unwrap();
    let swept = other.counts();
    assert_eq!((swept.interrupted_expired, swept.rows_swept), (1, 1));
    assert_eq!(plain.counts(), now);
    // Transactions are counted with the store that they are of.
    let shop = AsyncStore::new(plain.in_transactions());
    let in_transaction = async |name: &str| match shop.begin(key(name), print()).await.unwrap() {
        Begin::Execute(claim) => claim,
        found => panic!("{name}: {found:?}"),
    };
    in_transaction("order").await.complete(b"order").await.unwrap();
    in_transaction("refused").await.release().await.unwrap();
    drop(in_transaction("lost").await);
    assert_eq!(plain.drain(PATIENCE).await, 0);
    let after = plain.counts();
    assert_eq!((after.granted - now.granted, after.completed - now.completed), (3, 1));
    assert_eq!((after.released - now.released, after.abandoned - now.abandoned), (1, 1));
    #[cfg(feature = "metrics")]
    is_published(&plain);
}

#[cfg(feature = "metrics")]
fn is_published<P: Pool>(store: &SqlStore<P>) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        assert!(onlyonce::metrics::Publisher::new(store).publish());
    });
    let text = recorder.handle().render();
    for line in [
        "onlyonce_begins_total{outcome=\"granted\"} 12",
        "onlyonce_interrupted_expired_total 1",
        "onlyonce_began_after_expiry_total 1",
        "onlyonce_fenced_total 1",
        "onlyonce_exhausted_total 1",
        "onlyonce_ends_under_way 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    // What the caller's pool and the table have is for others to say.
    for absent in ["connections", "onlyonce_keys", "unreachable", "table_bytes", "segment"] {
        assert!(!text.contains(absent), "{absent} is in\n{text}");
    }
}
