//! H19: a handler that ends after somebody else has ended its key.

use crate::service::*;

use onlyonce::{Completion, KeyRef, Resolution, Scope, http::Verdict};
use std::sync::Arc;
use tokio::sync::Semaphore;

fn late(gate: &Arc<Semaphore>, status: u16) -> Handler {
    gated(gate, move || answer(status, "the late one's"))
}

async fn overtaken(
    status: u16,
    by: Option<Handler>,
    winner_ends: bool,
) -> (Got, u64, onlyonce::Store) {
    let clock = onlyonce::ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let gate = Arc::new(Semaphore::new(0));
    let (layer, slow) = (layer(&store), late(&gate, status));
    let call = tokio::spawn(send(&behind(&layer, &slow), post("k")));
    until(|| slow.runs() == 1).await;
    clock.advance(HOUR);
    if let Some(winner) = by {
        let taker = behind(&self::layer(&store).resume().even_if_holder_lives(), &winner);
        let taken = tokio::spawn(send(&taker, post("k")));
        until(|| winner.runs() == 1).await;
        if winner_ends {
            taken.await.unwrap();
        }
    }
    gate.add_permits(1);
    let got = call.await.unwrap();
    (got, layer.double_executions(), store)
}

#[tokio::test]
async fn it_gets_the_winners_answer() {
    for status in [201, 500] {
        let winner = counter();
        let (got, alarms, store) = overtaken(status, Some(winner), true).await;
        assert!(got.is_replay(), "{got:?}");
        assert!(!got.text().contains("late"));
        assert_eq!(alarms, 1);
        let again = send(&behind(&layer(&store), &counter()), post("k")).await;
        assert_eq!(again.text(), "order 1");
    }
}

#[tokio::test]
async fn or_409_while_the_winner_runs() {
    let (got, alarms, _) = overtaken(201, Some(handler(|_| std::future::pending())), false).await;
    assert_eq!((got.problem().as_str(), alarms), ("in-flight", 1));
}

#[tokio::test]
async fn nobody_took_over_so_it_counts() {
    let (got, alarms, store) = overtaken(201, None, true).await;
    assert_eq!((got.text(), got.is_replay(), alarms), ("the late one's", false, 0));
    assert!(send(&behind(&layer(&store), &counter()), post("k")).await.is_replay());
}

#[tokio::test]
async fn an_operator_was_quicker() {
    let scope = Scope::global();
    let key = KeyRef::new(&scope, "k").unwrap();
    let completed = |head| Resolution::Complete {
        fingerprint: None,
        completion: Completion { head, ..Completion::default() },
    };
    for (resolution, problem) in
        [(completed(b""), "not-retained"), (Resolution::Free, "not-recorded")]
    {
        let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
        let (layer, slow) = (layer(&store), late(&gate, 201));
        let call = tokio::spawn(send(&behind(&layer, &slow), post("k")));
        until(|| slow.runs() == 1).await;
        let resolving = store.clone();
        resolving.resolve(key, resolution, true).unwrap();
        gate.add_permits(1);
        assert_eq!(call.await.unwrap().problem(), problem);
        assert_eq!(layer.double_executions(), 1);
    }
}

/// Who says that nothing was done has nothing to be sorry for.
#[tokio::test]
async fn nothing_done_is_no_alarm() {
    let clock = onlyonce::ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let gate = Arc::new(Semaphore::new(0));
    let layer = layer(&store).policy(onlyonce::http::Policy::by(|_| Verdict::NothingDone));
    let slow = late(&gate, 200);
    let call = tokio::spawn(send(&behind(&layer, &slow), post("k")));
    until(|| slow.runs() == 1).await;
    clock.advance(HOUR);
    let taker = behind(&self::layer(&store).resume().even_if_holder_lives(), &counter());
    assert_eq!(send(&taker, post("k")).await.text(), "order 1");
    gate.add_permits(1);
    assert_eq!(call.await.unwrap().text(), "the late one's");
    assert_eq!(layer.double_executions(), 0);
}
