//! H19: a handler that ends after somebody else has ended its key.

use crate::service::*;

use bytes::Bytes;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use onlyonce::{Completion, KeyRef, Resolution, ResolveOptions, Scope, http::BoxError};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

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
        resolving.resolve_with(key, resolution, ResolveOptions::forced()).unwrap();
        gate.add_permits(1);
        assert_eq!(call.await.unwrap().problem(), problem);
        assert_eq!(layer.double_executions(), 1);
    }
}

/// How a handler ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Answers(u16),
    BreaksOff,
    Fails,
    Panics,
}

type In = http::Request<onlyonce::http::RequestBody<hyper::body::Incoming>>;

/// A handler that ends so when it may. Counts when it begins.
fn ending(
    ends: Ends,
    gate: &Arc<Semaphore>,
    begun: &Arc<AtomicU64>,
) -> impl Service<In, Response = Response<AnyBody>, Error = BoxError, Future: Send> + Clone + Send + use<>
{
    let (gate, begun) = (gate.clone(), begun.clone());
    tower::service_fn(move |_: In| {
        let (gate, begun) = (gate.clone(), begun.clone());
        async move {
            begun.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await?.forget();
            match ends {
                Ends::Answers(status) => Ok(answer(status, "the late one's")),
                Ends::BreaksOff => Ok(answer(200, "").map(|_| {
                    let cut = Frame::data(Bytes::from("the late one's"));
                    StreamBody::new(Pieces(vec![Ok(cut), Err("cut".into())])).boxed_unsync()
                })),
                Ends::Fails => Err("the late one's".into()),
                Ends::Panics => panic!("the late one's"),
            }
        }
    })
}

struct Pieces(Vec<Result<Frame<Bytes>, BoxError>>);

impl futures_core::Stream for Pieces {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = (!self.0.is_empty()).then(|| self.0.remove(0));
        Poll::Ready(next)
    }
}

/// Whatever it says, be it that nothing was done: its client hears what stands, and it is counted.
#[tokio::test]
async fn its_own_answer_is_never_told() {
    for ends in [
        Ends::Answers(201),
        Ends::Answers(400),
        Ends::Answers(403),
        Ends::Answers(429),
        Ends::Answers(500),
        Ends::BreaksOff,
        Ends::Fails,
        Ends::Panics,
    ] {
        let clock = onlyonce::ManualClock::at(1_000_000);
        let store = store_at(&clock);
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
        let layer = layer(&store);
        let address = serve(Layer::layer(&layer, ending(ends, &gate, &begun))).await;
        let call = tokio::spawn(try_send_to(address, post("k")));
        until(|| begun.load(Ordering::SeqCst) == 1).await;
        clock.advance(HOUR);
        let taker = behind(&self::layer(&store).resume().even_if_holder_lives(), &counter());
        assert_eq!(send(&taker, post("k")).await.text(), "order 1");
        gate.add_permits(1);
        let got = call.await.unwrap();
        match ends {
            // There is no answer then.
            Ends::Panics => assert_eq!(got, None),
            _ => assert!(got.as_ref().is_some_and(Got::is_replay), "{ends:?}: {got:?}"),
        }
        assert!(got.is_none_or(|got| got.text() == "order 1"));
        until(|| layer.double_executions() == 1).await;
    }
}

/// Neither while the one that overtook it still runs.
#[tokio::test]
async fn nor_while_the_winner_runs() {
    for ends in [Ends::Answers(403), Ends::BreaksOff, Ends::Fails] {
        let clock = onlyonce::ManualClock::at(1_000_000);
        let store = store_at(&clock);
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicU64::new(0)));
        let layer = layer(&store);
        let address = serve(Layer::layer(&layer, ending(ends, &gate, &begun))).await;
        let call = tokio::spawn(send_to(address, post("k")));
        until(|| begun.load(Ordering::SeqCst) == 1).await;
        clock.advance(HOUR);
        let winner = handler(|_| std::future::pending());
        let taker = behind(&self::layer(&store).resume().even_if_holder_lives(), &winner);
        let taken = tokio::spawn(send(&taker, post("k")));
        until(|| winner.runs() == 1).await;
        gate.add_permits(1);
        assert_eq!(
            (call.await.unwrap().problem().as_str(), layer.double_executions()),
            ("in-flight", 1)
        );
        taken.abort();
    }
}
