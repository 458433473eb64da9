//! `assert_idempotent` passes what is right and finds what is not.

use bytes::Bytes;
use http::{Request, Response};
use onlyonce::{
    Store,
    http::{Attempt, IdempotencyLayer, KeyScope, RequestBody, Settlement},
    testing::{Whole, assert_idempotent},
};
use std::{
    collections::HashSet,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::yield_now;
use tower::{Layer, service_fn};

type In = Request<RequestBody<Whole>>;

fn request() -> Request<Bytes> {
    Request::post("/orders").body("one book".into()).unwrap()
}

fn layer(store: Store) -> IdempotencyLayer<Store> {
    IdempotencyLayer::new(store, KeyScope::Global)
}

fn done() -> Response<Whole> {
    Response::new("order taken".into())
}

/// What it panics with.
fn found(check: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("nothing was found");
    panic.downcast_ref::<String>().cloned().unwrap()
}

#[test]
fn a_refusing_service_is_fine_whatever_its_handler_does() {
    let effects = AtomicU64::new(0);
    let effects = Arc::new(effects);
    let service = |store| {
        let effects = effects.clone();
        layer(store).layer(service_fn(move |_: In| {
            let effects = effects.clone();
            async move {
                yield_now().await;
                effects.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok::<_, Infallible>(done())
            }
        }))
    };
    assert_idempotent(service, request(), || effects.load(Ordering::SeqCst));
}

/// Refusals are known for what they are, whatever a service makes of their bodies.
#[test]
fn refusals_in_another_shape_are_no_answers() {
    let effects = Arc::new(AtomicU64::new(0));
    let service = |store| {
        let effects = effects.clone();
        let shaped = layer(store).problem_body(|details| {
            let said = format!("error: {}, {}", details.instance(), details.detail());
            (http::HeaderValue::from_static("text/plain"), said.into())
        });
        shaped.layer(service_fn(move |_: In| {
            let effects = effects.clone();
            async move {
                yield_now().await;
                effects.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok::<_, Infallible>(done())
            }
        }))
    };
    assert_idempotent(service, request(), || effects.load(Ordering::SeqCst));
}

/// An effect that is told apart by a derived key, and settled by it.
#[test]
fn a_settling_service_is_fine() {
    let effects = Arc::new(Mutex::new(HashSet::new()));
    let service = |store| {
        let (taking, settling) = (effects.clone(), effects.clone());
        let handler = service_fn(move |request: In| {
            let attempt = request.extensions().get::<Attempt>().unwrap().clone();
            let taking = taking.clone();
            async move {
                yield_now().await;
                assert!(taking.lock().unwrap().insert(attempt.derive_key("order")));
                yield_now().await;
                Ok::<_, Infallible>(done())
            }
        });
        let layer = layer(store).settle(move |attempt: Attempt, _| {
            let known = settling.lock().unwrap().contains(&attempt.derive_key("order"));
            async move {
                match known {
                    true => Settlement::Happened(done()),
                    false => Settlement::NothingHappened,
                }
            }
        });
        layer.layer(handler)
    };
    assert_idempotent(service, request(), || effects.lock().unwrap().len() as u64);
}

#[test]
fn a_service_without_the_layer_is_found() {
    let effects = Arc::new(AtomicU64::new(0));
    let service = |_| {
        let effects = effects.clone();
        service_fn(move |_: Request<Whole>| {
            effects.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Infallible>(done()) }
        })
    };
    let what = found(|| assert_idempotent(service, request(), || effects.load(Ordering::SeqCst)));
    assert!(what.contains("sent twice: the request took effect 2 times"), "{what}");
}

/// It resumes although its effect isn't idempotent.
#[test]
fn a_careless_resumption_is_found() {
    let effects = Arc::new(AtomicU64::new(0));
    let service = |store| {
        let effects = effects.clone();
        layer(store).resume().layer(service_fn(move |_: In| {
            let effects = effects.clone();
            async move {
                effects.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                Ok::<_, Infallible>(done())
            }
        }))
    };
    let what = found(|| assert_idempotent(service, request(), || effects.load(Ordering::SeqCst)));
    assert!(what.contains("the process died") && what.contains("2 times"), "{what}");
}
