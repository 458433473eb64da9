//! H8, H9: what an answer says about the operation.

use crate::service::*;

use onlyonce::http::{Policy, Verdict};
use std::sync::atomic::{AtomicU64, Ordering};

/// What the second request gets if the first was answered so.
#[derive(Debug, PartialEq)]
enum Then {
    Replayed,
    Executed,
    /// The same answer, of an interrupted key.
    Left,
    NotRetained,
}

async fn after(policy: Policy, first: impl Fn() -> http::Response<AnyBody>) -> Then {
    let first = first();
    let (parts, _) = first.into_parts();
    let store = store();
    let runs = AtomicU64::new(0);
    let orders = handler(move |_| {
        let mut answer = answer(200, "second");
        if runs.fetch_add(1, Ordering::SeqCst) == 0 {
            answer = answer.map(|_| {
                http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(
                    http_body_util::Full::new(bytes::Bytes::from("first")),
                    |never| match never {},
                ))
            });
            *answer.status_mut() = parts.status;
            *answer.headers_mut() = parts.headers.clone();
            *answer.extensions_mut() = parts.extensions.clone();
        }
        std::future::ready(answer)
    });
    let service = behind(&layer(&store).policy(policy), &orders);
    let one = send(&service, post("k")).await;
    assert_eq!((one.text(), one.is_replay()), ("first", false));
    let interrupted = store.stats().interrupted == 1;
    let two = send(&service, post("k")).await;
    match (orders.runs(), two.is_replay(), interrupted) {
        (1, true, false) if two.text() == "first" => Then::Replayed,
        (1, true, true) if two.text() == "first" && two.status == one.status => Then::Left,
        (2, false, false) => Then::Executed,
        (1, false, false) if two.problem() == "not-retained" => {
            assert_eq!(two.json()["original_status"], one.status.as_u16());
            assert!(!two.retryable());
            Then::NotRetained
        }
        other => panic!("{other:?} {two:?}"),
    }
}

#[tokio::test]
async fn the_default_table() {
    for status in [307, 308, 401, 403, 407, 421, 425, 429] {
        let then = after(Policy::default(), || answer(status, "")).await;
        assert_eq!(then, Then::Executed, "{status}");
    }
    for status in [408, 500, 502, 503, 504, 507] {
        let then = after(Policy::default(), || answer(status, "")).await;
        assert_eq!(then, Then::Left, "{status}");
    }
    for status in [200, 201, 202, 301, 303, 400, 402, 404, 409, 410, 422, 501] {
        let then = after(Policy::default(), || answer(status, "")).await;
        assert_eq!(then, Then::Replayed, "{status}");
    }
    let busy = after(Policy::default(), || with(answer(503, ""), "retry-after", "1")).await;
    assert_eq!(busy, Then::Executed);
}

#[tokio::test]
async fn a_function_replaces_it() {
    let policy = || {
        Policy::by(|answer| match answer.status.as_u16() {
            402 => Verdict::NothingDone,
            418 => Verdict::NotRetained,
            _ => Verdict::Final,
        })
    };
    assert_eq!(after(policy(), || answer(402, "")).await, Then::Executed);
    assert_eq!(after(policy(), || answer(500, "")).await, Then::Replayed);
    assert_eq!(after(policy(), || answer(418, "")).await, Then::NotRetained);
}

#[tokio::test]
async fn everything_is_stored_as_stripe_does() {
    for status in [200, 401, 429, 500, 503] {
        let then = after(Policy::store_everything(), || answer(status, "")).await;
        assert_eq!(then, Then::Replayed, "{status}");
    }
}

#[tokio::test]
async fn an_answer_knows_better() {
    let saying = |status, verdict: Verdict| {
        let mut answer = answer(status, "");
        answer.extensions_mut().insert(verdict);
        answer
    };
    let policy = Policy::default;
    assert_eq!(after(policy(), || saying(200, Verdict::NothingDone)).await, Then::Executed);
    assert_eq!(after(policy(), || saying(200, Verdict::Unknown)).await, Then::Left);
    assert_eq!(after(policy(), || saying(500, Verdict::Final)).await, Then::Replayed);
    assert_eq!(after(policy(), || saying(201, Verdict::NotRetained)).await, Then::NotRetained);
    let whole = || saying(409, Verdict::FinalWithoutEffects);
    assert_eq!(after(policy(), whole).await, Then::Replayed);
    let everything = Policy::store_everything();
    assert_eq!(after(everything, || saying(200, Verdict::NothingDone)).await, Then::Executed);
}

#[tokio::test]
async fn errors_and_panics_are_the_services_own_and_interrupt() {
    use onlyonce::{Reason, State, http::BoxError};
    use tower::{ServiceExt, service_fn};
    type In = http::Request<onlyonce::http::RequestBody<http_body_util::Full<bytes::Bytes>>>;
    async fn fails(_: In) -> Result<http::Response<AnyBody>, BoxError> {
        Err("no database".into())
    }
    async fn panics(_: In) -> Result<http::Response<AnyBody>, BoxError> {
        panic!("a bug")
    }
    let reason = |store: &onlyonce::Store| {
        let entry = store.entries(onlyonce::Filter::ALL).next().unwrap().unwrap();
        match entry.state {
            State::Interrupted { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    };
    for detached in [true, false] {
        let store = store();
        let layer = layer(&store).detached(detached);
        let service = tower::Layer::layer(&layer, service_fn(fails));
        let error = service.clone().oneshot(post("k")).await.unwrap_err();
        assert_eq!(error.to_string(), "no database");
        assert_eq!(reason(&store), Reason::Failed);
        assert_eq!(call(&service, post("k")).await.problem(), "interrupted");

        let store = self::store();
        let layer = self::layer(&store).detached(detached);
        let service = tower::Layer::layer(&layer, service_fn(panics));
        let panicking = tokio::spawn(service.clone().oneshot(post("k")));
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(reason(&store), Reason::Panicked);
        let got = call(&service, post("k")).await;
        assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", false));
    }
}

/// A server has no answer to send then; the retry hears that nothing is known.
#[tokio::test]
async fn over_a_socket_they_hang_up() {
    type In = http::Request<onlyonce::http::RequestBody<hyper::body::Incoming>>;
    for panics in [false, true] {
        let broken = tower::service_fn(move |_: In| async move {
            assert!(!panics, "a bug");
            Err::<http::Response<AnyBody>, _>(onlyonce::http::BoxError::from("no database"))
        });
        let store = store();
        let address = serve(tower::Layer::layer(&layer(&store), broken)).await;
        assert!(try_send_to(address, post("k")).await.is_none());
        let got = send_to(address, post("k")).await;
        assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", false));
        assert_eq!(store.stats().granted, 1);
    }
}

/// What load shedding inside the layer refuses has not reached the handler: the key is free.
#[tokio::test]
async fn what_is_shed_is_no_interruption() {
    let (store, gate) = (store(), std::sync::Arc::new(tokio::sync::Semaphore::new(0)));
    let slow = gated(&gate, || answer(201, "order"));
    let limited = tower::ServiceBuilder::new()
        .layer(tower::load_shed::LoadShedLayer::new())
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(1))
        .service(slow.clone());
    let service = tower::Layer::layer(&layer(&store), limited);
    let address = serve(service).await;
    let first = tokio::spawn(send_to(address, post("a")));
    until(|| slow.runs() == 1).await;
    // An error, of which a server makes nothing.
    assert!(try_send_to(address, post("b")).await.is_none());
    assert_eq!((store.stats().in_flight, store.stats().interrupted), (1, 0));
    gate.add_permits(2);
    assert_eq!(first.await.unwrap().text(), "order");
    assert_eq!(send_to(address, post("b")).await.text(), "order");
}

/// Statuses of a validation, and routes where nothing can be doubled.
#[tokio::test]
async fn statuses_and_paths_have_verdicts_of_their_own() {
    let validated = [http::StatusCode::BAD_REQUEST, http::StatusCode::UNPROCESSABLE_ENTITY];
    let errors = [http::StatusCode::INTERNAL_SERVER_ERROR];
    let quotes = Policy::default().nothing_done(errors);
    let policy = || {
        Policy::default()
            .nothing_done(validated)
            .path("/quotes/*", quotes.clone())
            .path("/quotes/paid", Policy::store_everything())
    };
    for (status, then) in
        [(400, Then::Executed), (422, Then::Executed), (404, Then::Replayed), (500, Then::Left)]
    {
        assert_eq!(after(policy(), || answer(status, "")).await, then, "{status}");
    }
    // The path is the one that the client sent.
    let (store, orders) = (store(), handler(|_| async { answer(500, "") }));
    let address = serve(behind(&layer(&store).policy(policy()), &orders)).await;
    for (path, runs, replayed) in
        [("/quotes/1", 2, false), ("/quotes/paid", 3, true), ("/orders", 4, true)]
    {
        let to = || {
            let mut request = post(path.trim_start_matches('/'));
            *request.uri_mut() = path.parse().unwrap();
            request
        };
        send_to(address, to()).await;
        let again = send_to(address, to()).await;
        assert_eq!((again.status.as_u16(), again.is_replay()), (500, replayed), "{path}");
        assert_eq!(orders.runs(), runs, "{path}");
    }
    assert_eq!((store.stats().interrupted, store.stats().completed), (1, 1));
}
