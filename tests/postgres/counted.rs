//! What a store does and finds is counted, by the server's own answers.

use crate::servers::*;
use onlyonce::*;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn outcomes_and_alarms_are_counted() {
    block_on(async {
        let Some((_, clock, _server)) = manual().await else { return };
        let options = clock.options().max_attempts(2);
        let plain = options.connect().await.unwrap();
        let (store, other) = (AsyncStore::new(plain.clone()), options.connect().await.unwrap());
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
        // One that failed and was dropped is counted twice: as both.
        assert_eq!((now.saw_interrupted, now.abandoned), (3, 3));
        assert_eq!((now.interrupted_expired, now.began_after_expiry), (0, 0));
        // The record expires, and the interrupted keys are forgotten: one is granted again, the
        // other is found by the sweeper.
        clock.advance(DAY * 8).await;
        granted("done").await.complete(b"again").await.unwrap();
        granted("dropped").await.complete(b"again").await.unwrap();
        let now = plain.counts();
        assert_eq!((now.interrupted_expired, now.began_after_expiry), (1, 1));
        other.sweep().await.unwrap();
        assert_eq!(other.counts().interrupted_expired, 1);
        assert_eq!(plain.counts(), now);
        // Transactions are counted with the store that they are of.
        let shop = AsyncStore::new(plain.in_transactions());
        let Begin::Execute(mut order) = shop.begin(key("order"), print()).await.unwrap() else {
            panic!("not granted")
        };
        order.complete(b"order").await.unwrap();
        let Begin::Execute(refused) = shop.begin(key("refused"), print()).await.unwrap() else {
            panic!("not granted")
        };
        refused.release().await.unwrap();
        let after = plain.counts();
        assert_eq!((after.granted - now.granted, after.completed - now.completed), (2, 1));
        assert_eq!(after.released - now.released, 1);
    });
}
