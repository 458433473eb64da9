//! H11, H15, H22: large requests, large answers, and crowds.

use crate::service::*;

use bytes::Bytes;
use http::HeaderValue;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use onlyonce::Options;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tower::ServiceExt;

/// A body that is sent chunk by chunk.
fn channel() -> (mpsc::UnboundedSender<Bytes>, AnyBody) {
    let (tell, told) = mpsc::unbounded_channel::<Bytes>();
    let told = Mutex::new(told);
    let stream = StreamBody::new(Stream(told));
    (tell, stream.boxed_unsync())
}

struct Stream(Mutex<mpsc::UnboundedReceiver<Bytes>>);

impl futures_core::Stream for Stream {
    type Item = Result<Frame<Bytes>, onlyonce::http::BoxError>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let next = self.0.lock().unwrap().poll_recv(context);
        next.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[tokio::test]
async fn large_requests_are_refused_by_what_they_declare() {
    let store = store();
    let orders = counter();
    let layer = layer(&store).max_body(8);
    let service = behind(&layer, &orders);
    assert_eq!(send(&service, post_body("a", "12345678")).await.status, 201);
    let got = send(&service, post_body("b", "123456789")).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (413, "body-too-large"));
    // Nothing of it is read.
    let (_tell, body) = channel();
    let request = http::Request::post("/orders")
        .header("idempotency-key", "c")
        .header("content-length", "9")
        .body(body)
        .unwrap();
    assert_eq!(call(&service, request).await.problem(), "body-too-large");
    // Or by what arrives.
    let (tell, body) = channel();
    let request = http::Request::post("/orders").header("idempotency-key", "d").body(body).unwrap();
    let large = tokio::spawn(call(&service, request));
    tell.send(Bytes::from("12345")).unwrap();
    tell.send(Bytes::from("6789")).unwrap();
    assert_eq!(large.await.unwrap().problem(), "body-too-large");
    assert_eq!((orders.runs(), store.stats().granted, layer.buffered()), (1, 1, 0));
}

/// A large answer, an event stream, gRPC: whole for the first client, recorded before its first
/// byte, never executed again.
#[tokio::test]
async fn what_can_not_be_kept_is_recorded_as_done() {
    for media in
        ["text/plain", "text/event-stream", "application/grpc", "multipart/x-mixed-replace"]
    {
        let store = store();
        let bodies = Arc::new(Mutex::new(None));
        let orders = handler({
            let bodies = bodies.clone();
            move |_| {
                let (tell, body) = channel();
                let first = if media == "text/plain" { 70_000 } else { 10 };
                tell.send(Bytes::from(vec![1; first])).unwrap();
                *bodies.lock().unwrap() = Some(tell);
                let made = answer(201, "").map(|_| body);
                std::future::ready(with(with(made, "content-type", media), "location", "/orders/1"))
            }
        });
        let service = behind(&layer(&store), &orders);
        let first = service.clone().oneshot(post("k")).await.unwrap();
        // Its head is out, its body isn't at its end, and it is recorded.
        assert_eq!((first.status().as_u16(), store.stats().completed), (201, 1));
        let second = send(&service, post("k")).await;
        assert_eq!((second.status.as_u16(), second.problem().as_str()), (409, "not-retained"));
        assert_eq!(second.json()["original_status"], 201);
        assert_eq!(second.header("location"), Some("/orders/1"));
        assert!(!second.retryable());
        let tell = bodies.lock().unwrap().take().unwrap();
        tell.send(Bytes::from("the end")).unwrap();
        drop(tell);
        let whole = Got::of(first).await.body;
        assert!(whole.ends_with(b"the end") && whole.len() > 16);
        assert_eq!(orders.runs(), 1);
    }
}

#[tokio::test]
async fn the_bound_of_answers_can_be_lowered() {
    let store = store();
    let sizes = handler(|request| async move {
        let len = std::str::from_utf8(request.body()).unwrap().parse().unwrap();
        answer(200, vec![b'x'; len])
    });
    let service = behind(&layer(&store).max_response(1000), &sizes);
    for (len, kept) in [("100", true), ("900", true), ("1000", false), ("5000", false)] {
        let first = send(&service, post_body(len, len)).await;
        assert_eq!(first.body.len(), len.parse::<usize>().unwrap());
        assert_eq!(send(&service, post_body(len, len)).await.is_replay(), kept, "{len}");
    }
    assert_eq!(sizes.runs(), 4);
}

/// Around the bound each length is either replayed or recorded as done.
#[tokio::test]
async fn no_length_executes_twice() {
    let options = Options::new().max_response(600).max_claims(64).capacity(16 << 20);
    let store = options.open_on(Arc::new(onlyonce::storage::SimStorage::new(1))).unwrap();
    let sizes = handler(|request| async move {
        let len = std::str::from_utf8(request.body()).unwrap().parse().unwrap();
        with(answer(200, vec![b'x'; len]), "location", "/orders/12345")
    });
    let service = behind(&layer(&store), &sizes);
    for len in 350..620 {
        let len = len.to_string();
        send(&service, post_body(&len, len.clone())).await;
        let second = send(&service, post_body(&len, len.clone())).await;
        assert!(second.is_replay() || second.problem() == "not-retained", "{len}");
    }
    assert_eq!(sizes.runs(), 270);
}

#[tokio::test]
async fn a_crowd_is_executed_once_and_bounded() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let slow = gated(&gate, || answer(201, "order 1"));
    // Room for ten bodies.
    let layer = layer(&store).wait(HOUR).max_waiters(5).max_buffered(10_000);
    let service = behind(&layer, &slow);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { call(&service, post_body("k", vec![7u8; 1000])).await })
    };
    let first = ask();
    until(|| slow.runs() == 1).await;
    let waiting: Vec<_> = (0..5).map(|_| ask()).collect();
    until(|| store.stats().waiters == 5).await;
    for _ in 0..10_000 {
        let got = call(&service, post_body("k", vec![7u8; 1000])).await;
        assert_eq!(got.problem(), "in-flight");
        assert!(layer.buffered() <= 6000);
    }
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().status, 201);
    for waiter in waiting {
        assert!(waiter.await.unwrap().is_replay());
    }
    assert_eq!((slow.runs(), layer.buffered()), (1, 0));
}

#[tokio::test]
async fn bytes_beyond_the_bound_are_refused() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let layer = layer(&store).max_buffered(25_000);
    let holds = tower::service_fn({
        let gate = gate.clone();
        // Doesn't read its body.
        move |request: http::Request<onlyonce::http::RequestBody<hyper::body::Incoming>>| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                drop(request);
                Ok::<_, onlyonce::http::BoxError>(answer(201, "ok"))
            }
        }
    });
    let service = tower::Layer::layer(&layer, holds);
    let call = |key: &str| {
        let (service, key) = (service.clone(), key.to_owned());
        tokio::spawn(async move { send(&service, post_body(&key, vec![7u8; 10_000])).await })
    };
    let (one, two) = (call("a"), call("b"));
    until(|| layer.running() == 2).await;
    let got = call("c").await.unwrap();
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (503, "overloaded"));
    assert!(got.retryable() && got.header("retry-after").is_some());
    gate.add_permits(3);
    assert_eq!(one.await.unwrap().status, 201);
    assert_eq!(two.await.unwrap().status, 201);
    assert_eq!(call("c").await.unwrap().status, 201);
}

#[tokio::test]
async fn retry_after_follows_the_running_time() {
    let clock = onlyonce::ManualClock::at(1_000_000);
    let store = store_at(&clock);
    let never = handler(|_| std::future::pending());
    let service = behind(&layer(&store), &never);
    let first = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| never.runs() == 1).await;
    let mut passed = 0;
    for (running, bounds) in [(0, 1..=2), (8, 3..=5), (600, 7..=10)] {
        clock.advance(Duration::from_secs(running - passed));
        passed = running;
        let got = send(&service, post("k")).await;
        let wait: u64 = got.header("retry-after").unwrap().parse().unwrap();
        assert!(bounds.contains(&wait), "{running}: {wait}");
        assert_eq!(got.headers["retry-after"], HeaderValue::from(wait));
    }
    first.abort();
}
