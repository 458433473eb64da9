//! H3, H5, H6, H7: a retry gets the first answer again, with what is the answer's own.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use onlyonce::ManualClock;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

#[tokio::test]
async fn the_second_answer_is_the_first_one_marked() {
    let clock = ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let orders = handler(|_| async { with(answer(201, "order 1"), "location", "/orders/1") });
    let service = behind(&layer(&store), &orders);
    let first = send(&service, post("k")).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    clock.advance(Duration::from_secs(5));
    let mut second = send(&service, post("k")).await;
    assert!(second.is_replay());
    assert_eq!(second.header("age"), Some("5"));
    second.headers.remove("idempotent-replayed");
    second.headers.remove("age");
    second.headers.remove("idempotency-expires-in");
    assert_eq!(second, first);
    assert_eq!(orders.runs(), 1);
    assert_eq!(send(&service, post("another")).await.text(), "order 1");
    assert_eq!(orders.runs(), 2);
}

#[tokio::test]
async fn over_a_socket() {
    let store = store();
    let orders = counter();
    let address = serve(behind(&layer(&store), &orders)).await;
    let first = send_to(address, post("\"k\"")).await;
    let second = send_to(address, post("k")).await;
    assert_eq!((first.is_replay(), second.is_replay()), (false, true));
    assert_eq!((first.text(), second.text()), ("order 1", "order 1"));
    assert_eq!(second.header("content-length"), Some("7"));
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn while_the_first_runs_others_are_sent_away() {
    let store = store();
    let gate = Arc::new(Semaphore::new(0));
    let orders = gated(&gate, || answer(201, "order 1"));
    let service = behind(&layer(&store), &orders);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k")).await }
    });
    until(|| orders.runs() == 1).await;
    let second = send(&service, post("k")).await;
    assert_eq!((second.status.as_u16(), second.problem().as_str()), (409, "in-flight"));
    assert!(second.retryable() && second.header("retry-after").is_some());
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 201);
    assert!(send(&service, post("k")).await.is_replay());
}

#[tokio::test]
async fn or_wait_for_it() {
    let store = store();
    let gate = Arc::new(Semaphore::new(0));
    let orders = gated(&gate, || answer(201, "order 1"));
    let service = behind(&layer(&store).wait(HOUR), &orders);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { send(&service, post("k")).await })
    };
    let first = ask();
    until(|| orders.runs() == 1).await;
    let second = ask();
    until(|| store.stats().waiters == 1).await;
    gate.add_permits(1);
    assert!(!first.await.unwrap().is_replay());
    assert!(second.await.unwrap().is_replay());
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn and_are_sent_away_when_their_time_is_over() {
    let clock = ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store).wait(HOUR), &never);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { send(&service, post("k")).await })
    };
    let first = ask();
    until(|| never.runs() == 1).await;
    let second = ask();
    until(|| store.stats().waiters == 1).await;
    // Of the store's time; an execution is kept alive for 15 minutes.
    clock.advance(Duration::from_secs(60));
    assert_eq!(store.stats().waiters, 1);
    let third = behind(&layer(&store).wait(Duration::from_millis(20)), &never);
    let third = tokio::spawn(async move { send(&third, post("k")).await });
    until(|| store.stats().waiters == 2).await;
    clock.advance(Duration::from_millis(30));
    assert_eq!(third.await.unwrap().problem(), "in-flight");
    first.abort();
    second.abort();
}

/// Everything an answer can be made of.
async fn comes_back(answer: impl Fn() -> http::Response<AnyBody> + Send + Sync + 'static) -> Got {
    let store = store();
    let orders = handler(move |_| std::future::ready(answer()));
    let service = behind(&layer(&store), &orders);
    let first = send(&service, post("k")).await;
    let second = send(&service, post("k")).await;
    assert!(second.is_replay(), "{second:?}");
    let lines = |got: &Got| {
        let of_message = ["age", "date", "idempotent-replayed", "idempotency-expires-in"];
        let lines = got.headers.iter().filter(|(name, _)| !of_message.contains(&name.as_str()));
        let lines = lines.map(|(name, value)| (name.clone(), value.clone()));
        lines.collect::<Vec<(HeaderName, HeaderValue)>>()
    };
    assert_eq!(lines(&first), lines(&second));
    let rest = |got: &Got| (got.status, got.body.clone(), got.trailers.clone());
    assert_eq!(rest(&first), rest(&second));
    second
}

#[tokio::test]
async fn answers_of_all_kinds() {
    comes_back(|| answer(200, (0..=255).collect::<Vec<u8>>())).await;
    comes_back(|| answer(204, "")).await;
    comes_back(|| answer(303, "")).await;
    comes_back(|| answer(404, "none")).await;
    comes_back(|| with(answer(200, b"\x1f\x8b\x08".to_vec()), "content-encoding", "gzip")).await;
    let two = comes_back(|| {
        let links = with(with(answer(200, ""), "link", "<1>"), "link", "<2>");
        with(with(links, "vary", "accept"), "vary", "origin")
    });
    assert_eq!(two.await.headers.get_all("link").iter().count(), 2);
    let odd = comes_back(|| {
        let mut odd = answer(200, "x");
        odd.headers_mut().insert("x-name", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        odd
    });
    assert_eq!(odd.await.headers["x-name"].as_bytes(), b"caf\xe9");
}

/// Over a socket: `http_two`.
#[tokio::test]
async fn trailers_come_back() {
    let store = store();
    let orders = handler(|_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let body = Full::new(Bytes::from("x")).map_err(|never| match never {});
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
        std::future::ready(answer(200, "").map(|_| body))
    });
    let service = behind(&layer(&store), &orders);
    for replay in [false, true] {
        let got = call(&service, post("k")).await;
        assert_eq!((got.text(), got.is_replay()), ("x", replay));
        assert_eq!(got.trailers.unwrap()["x-sum"], "7");
    }
}

#[tokio::test]
async fn head_keeps_the_length_of_what_it_did_not_send() {
    let store = store();
    let orders = handler(|_| async { with(answer(200, ""), "content-length", "1000") });
    let layer = layer(&store).methods([Method::HEAD]);
    let address = serve(behind(&layer, &orders)).await;
    for _ in 0..2 {
        let mut request = post("k");
        *request.method_mut() = Method::HEAD;
        let got = send_to(address, request).await;
        assert_eq!((got.header("content-length"), got.body.len()), (Some("1000"), 0));
    }
    assert_eq!(orders.runs(), 1);
}

const NOT_REPLAYED: &[&str] = &[
    "set-cookie",
    "date",
    "age",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "x-request-id",
    "request-id",
    "traceparent",
    "server-timing",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-remaining",
    "alt-svc",
    "www-authenticate",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-hop",
];

fn with_everything() -> http::Response<AnyBody> {
    let mut answer = with(answer(201, "order 1"), "x-own", "1");
    for name in NOT_REPLAYED {
        let value = if *name == "connection" { "x-hop" } else { "first" };
        answer = with(answer, name, value);
    }
    with(answer, "idempotent-replayed", "false")
}

#[tokio::test]
async fn what_belongs_to_one_message_is_not_replayed() {
    let store = store();
    let orders = handler(|_| std::future::ready(with_everything()));
    let service = behind(&layer(&store), &orders);
    let first = send(&service, post("k")).await;
    assert!(first.headers.contains_key("set-cookie"));
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let second = send(&service, post("k")).await;
    assert_eq!((second.header("x-own"), second.header("age")), (Some("1"), Some("0")));
    assert!(second.is_replay());
    // The server's own.
    assert_ne!(second.header("date"), Some("first"));
    let here = ["age", "date"];
    for name in NOT_REPLAYED.iter().filter(|name| !here.contains(*name)) {
        assert!(!second.headers.contains_key(*name), "{name}");
    }
}

#[tokio::test]
async fn the_list_can_be_changed() {
    let store = store();
    let orders = handler(|_| std::future::ready(with_everything()));
    let layer = layer(&store)
        .retain_headers([HeaderName::from_static("x-request-id")])
        .never_retain_headers([HeaderName::from_static("x-own")]);
    let service = behind(&layer, &orders);
    send(&service, post("k")).await;
    let second = send(&service, post("k")).await;
    assert_eq!((second.header("x-own"), second.header("x-request-id")), (None, Some("first")));
}

#[tokio::test]
async fn the_request_arrives_whole() {
    let store = store();
    let echo = handler(|request: Request<Bytes>| async move {
        answer(200, [request.uri().path().as_bytes(), request.body()].concat())
    });
    let service = behind(&layer(&store), &echo);
    let got = send(&service, post_body("k", vec![7u8; 100_000])).await;
    assert_eq!(got.body.len(), 7 + 100_000);
}
