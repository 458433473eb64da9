//! H36: one table of what a client sees, in front of services of hyper, axum and actix-web.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use onlyonce::http::Verdict;
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::Semaphore;

#[derive(Clone, Copy, Debug)]
enum Framework {
    Hyper,
    #[cfg(feature = "axum")]
    Axum,
    #[cfg(feature = "actix")]
    Actix,
}

const ALL: &[Framework] = &[
    Framework::Hyper,
    #[cfg(feature = "axum")]
    Framework::Axum,
    #[cfg(feature = "actix")]
    Framework::Actix,
];

impl Framework {
    /// Serves `/orders` on a socket, as its users would write it.
    async fn serve(self, layer: &Layered, orders: &Handler) -> SocketAddr {
        match self {
            Framework::Hyper => serve(behind(layer, orders)).await,
            #[cfg(feature = "axum")]
            Framework::Axum => {
                use tower::ServiceExt;
                let orders = orders.clone();
                let create = move |request: axum::extract::Request| async move {
                    orders.oneshot(request).await.unwrap().map(axum::body::Body::new)
                };
                let routes = axum::Router::new().route("/orders", axum::routing::any(create));
                serve(routes.route_layer(layer.clone())).await
            }
            #[cfg(feature = "actix")]
            Framework::Actix => crate::with_actix::serve_actix(&layer.actix(), orders),
        }
    }
}

/// What a client sees first, and for its retry.
async fn twice(address: SocketAddr, key: &str) -> (Got, Got) {
    (send_to(address, post(key)).await, send_to(address, post(key)).await)
}

#[tokio::test]
async fn a_retry_gets_the_first_answer() {
    for framework in ALL {
        let store = store();
        let orders = handler(|request: Request<Bytes>| {
            assert!(request.extensions().get::<onlyonce::http::Attempt>().is_some());
            let made = answer(201, [b"order for ", &request.body()[..]].concat());
            let made = with(with(made, "location", "/orders/1"), "content-type", "text/plain");
            let made = with(with(made, "link", "<1>"), "link", "<2>");
            std::future::ready(with(made, "set-cookie", "a=b"))
        });
        let address = framework.serve(&layer(&store), &orders).await;
        let (first, again) = twice(address, "k").await;
        for (got, replay) in [(&first, false), (&again, true)] {
            assert_eq!((got.status.as_u16(), got.text()), (201, "order for one book"));
            assert_eq!(got.header("location"), Some("/orders/1"));
            assert_eq!(got.header("content-type"), Some("text/plain"));
            let links: Vec<_> = got.headers.get_all("link").iter().collect();
            assert_eq!(links, ["<1>", "<2>"]);
            assert_eq!((got.is_replay(), got.header("age").is_some()), (replay, replay));
            assert_eq!(got.header("idempotency-expires-in").is_some(), replay);
            assert_eq!(got.header("set-cookie").is_none(), replay);
        }
        assert_eq!((orders.runs(), store.stats().completed), (1, 1), "{framework:?}");
    }
}

#[tokio::test]
async fn while_the_first_runs() {
    for framework in ALL {
        let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
        let orders = gated(&gate, || answer(201, "order"));
        let address = framework.serve(&layer(&store), &orders).await;
        let first = tokio::spawn(send_to(address, post("k")));
        until(|| orders.runs() == 1).await;
        let busy = send_to(address, post("k")).await;
        assert_eq!((busy.status.as_u16(), busy.problem().as_str()), (409, "in-flight"));
        assert!(busy.retryable() && busy.header("retry-after").is_some());
        gate.add_permits(1);
        assert_eq!(first.await.unwrap().text(), "order");
        assert!(send_to(address, post("k")).await.is_replay());
        assert_eq!(orders.runs(), 1, "{framework:?}");
    }
}

#[tokio::test]
async fn what_is_refused() {
    for framework in ALL {
        let (store, orders) = (store(), counter());
        let address = framework.serve(&layer(&store).max_body(100), &orders).await;
        send_to(address, post("k")).await;
        let refused =
            async |status: u16, problem: &str, retryable, request: Request<Full<Bytes>>| {
                let got = send_to(address, request).await;
                assert_eq!((got.status.as_u16(), got.problem().as_str()), (status, problem));
                assert_eq!(got.retryable(), retryable);
                let said = if retryable { "true" } else { "false" };
                assert_eq!(got.header("idempotency-retryable"), Some(said), "{framework:?}");
            };
        refused(422, "key-reused", false, post_body("k", "another book")).await;
        refused(400, "key-malformed", false, post("a b")).await;
        refused(413, "body-too-large", false, post_body("l", vec![b'x'; 101])).await;
        let mut keyless = post("k");
        keyless.headers_mut().remove("idempotency-key");
        refused(400, "key-missing", false, keyless).await;
        let mut twice = post("l");
        twice.headers_mut().append("idempotency-key", HeaderValue::from_static("m"));
        refused(400, "key-malformed", false, twice).await;
        assert_eq!(orders.runs(), 1, "{framework:?}");
        store.close().unwrap();
        refused(503, "unavailable", true, post("m")).await;
        assert_eq!(orders.runs(), 1, "{framework:?}");
    }
}

#[tokio::test]
async fn failures_are_kept_and_nothing_done_is_free() {
    for framework in ALL {
        let orders = handler(|request: Request<Bytes>| {
            let key = request.headers()["idempotency-key"].to_str().unwrap();
            let mut made = answer(key[..3].parse().unwrap(), "so");
            if key.ends_with("free") {
                made.extensions_mut().insert(Verdict::NothingDone);
            }
            std::future::ready(made)
        });
        for (key, runs, replayed, interrupted) in [
            ("500", 1, true, 1),
            ("502", 1, true, 1),
            ("404", 1, true, 0),
            ("401", 2, false, 0),
            ("429", 2, false, 0),
            ("409-free", 2, false, 0),
            ("500-free", 2, false, 0),
        ] {
            let store = store();
            let address = framework.serve(&layer(&store), &orders).await;
            let before = orders.runs();
            let (first, again) = twice(address, key).await;
            assert_eq!((first.status, first.text()), (again.status, again.text()));
            assert_eq!(first.status.as_str(), &key[..3]);
            assert_eq!(again.is_replay(), replayed, "{framework:?} {key}");
            assert_eq!(orders.runs() - before, runs, "{framework:?} {key}");
            assert_eq!(store.stats().interrupted, interrupted, "{framework:?} {key}");
            let said = (interrupted == 1).then_some("false");
            assert_eq!(again.header("idempotency-retryable"), said);
        }
    }
}

#[tokio::test]
async fn a_panic_interrupts() {
    for framework in ALL {
        let (store, orders) = (store(), handler(|_| async { panic!("a bug") }));
        let address = framework.serve(&layer(&store), &orders).await;
        assert!(try_send_to(address, post("k")).await.is_none(), "{framework:?}");
        let got = send_to(address, post("k")).await;
        assert_eq!((got.problem().as_str(), got.retryable()), ("interrupted", false));
        assert_eq!(orders.runs(), 1, "{framework:?}");
    }
}

/// An answer beyond the bound is sent whole, and remembered by its head.
#[tokio::test]
async fn what_is_too_large_to_keep() {
    for framework in ALL {
        let store = store();
        let orders = handler(|_| {
            let made = answer(201, vec![b'x'; 5000]);
            std::future::ready(with(made, "location", "/orders/1"))
        });
        let address = framework.serve(&layer(&store).max_response(2048), &orders).await;
        let (first, again) = twice(address, "k").await;
        assert_eq!((first.status.as_u16(), first.body.len()), (201, 5000), "{framework:?}");
        assert_eq!((again.status.as_u16(), again.problem().as_str()), (409, "not-retained"));
        assert_eq!(again.json()["original_status"], 201);
        assert_eq!(again.header("location"), Some("/orders/1"));
        assert_eq!(orders.runs(), 1, "{framework:?}");
    }
}

/// A client that goes away: its handler ends and is recorded.
#[tokio::test]
async fn a_client_leaves() {
    for framework in ALL {
        let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
        let orders = gated(&gate, || answer(201, "order"));
        let layer = layer(&store);
        let address = framework.serve(&layer, &orders).await;
        let first = tokio::spawn(send_to(address, post("k")));
        until(|| orders.runs() == 1).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(send_to(address, post("k")).await.problem(), "in-flight");
        gate.add_permits(1);
        until(|| layer.running() == 0).await;
        let again = send_to(address, post("k")).await;
        assert_eq!((again.text(), again.is_replay()), ("order", true), "{framework:?}");
        assert_eq!(orders.runs(), 1, "{framework:?}");
    }
}

#[tokio::test]
async fn what_is_not_covered_passes() {
    for framework in ALL {
        let store = store();
        let orders = handler(|request: Request<Bytes>| {
            let attempt = request.extensions().get::<onlyonce::http::Attempt>();
            let said = format!("{} {}", request.body().len(), attempt.is_some());
            std::future::ready(answer(200, said))
        });
        let layer = layer(&store).optional().header(HeaderName::from_static("x-key"));
        let address = framework.serve(&layer, &orders).await;
        let mut get = post("k");
        *get.method_mut() = http::Method::GET;
        for request in [get, post("k")] {
            assert_eq!(send_to(address, request).await.text(), "8 false", "{framework:?}");
        }
        let mut keyed = post("k");
        keyed.headers_mut().insert("x-key", HeaderValue::from_static("k"));
        assert_eq!(send_to(address, keyed).await.text(), "8 true", "{framework:?}");
        assert_eq!((orders.runs(), store.stats().granted), (3, 1));
    }
}
