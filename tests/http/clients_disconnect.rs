//! H10, H17, H20, H24: clients that go away, at every moment.

use crate::service::*;

use onlyonce::{Filter, State, http::BoxError};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};
use tower::ServiceExt;

#[tokio::test]
async fn the_handler_runs_on_and_is_recorded() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let layer = layer(&store);
    let service = behind(&layer, &orders);
    let first = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| orders.runs() == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!((layer.running(), store.stats().in_flight), (1, 1));
    gate.add_permits(1);
    until(|| layer.running() == 0).await;
    let second = send(&service, post("k")).await;
    assert_eq!((second.text(), second.is_replay()), ("order 1", true));
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn over_a_socket_that_is_closed() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let layer = layer(&store);
    let address = serve(behind(&layer, &orders)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "POST /orders HTTP/1.1\r\nhost: here\r\nidempotency-key: k\r\n\
                   content-length: 8\r\n\r\none book";
    client.write_all(request.as_bytes()).await.unwrap();
    until(|| orders.runs() == 1).await;
    drop(client);
    gate.add_permits(1);
    until(|| layer.running() == 0).await;
    assert!(send_to(address, post("k")).await.is_replay());
    assert_eq!(orders.runs(), 1);
}

/// Cut after each byte of the request: nothing runs, and nothing is held, until it is whole.
#[tokio::test]
async fn broken_off_requests_hold_no_claim() {
    let store = store();
    let orders = counter();
    let layer = layer(&store);
    let address = serve(behind(&layer, &orders)).await;
    let request = "POST /orders HTTP/1.1\r\nhost: here\r\nidempotency-key: k\r\n\
                   content-length: 8\r\n\r\none book";
    for len in 0..request.len() {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&request.as_bytes()[..len]).await.unwrap();
        client.shutdown().await.unwrap();
        // The server has seen the end when it closes.
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut client, &mut rest).await;
    }
    assert_eq!((orders.runs(), store.stats().granted, layer.buffered()), (0, 0, 0));
    assert_eq!(send_to(address, post("k")).await.text(), "order 1");
}

/// Dropped after any number of polls: the key is free if the handler didn't run, and has its
/// answer, or will have it, if it did.
#[tokio::test]
async fn dropped_at_every_poll() {
    let store = store();
    for polls in 0.. {
        let orders = counter();
        let layer = layer(&store);
        let service = behind(&layer, &orders);
        let key = format!("k{polls}");
        let mut call = Box::pin(service.clone().oneshot(post(&key)));
        let mut ended = false;
        for _ in 0..polls {
            ended = poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
            if ended {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        assert_eq!(layer.drain(HOUR).await, 0);
        store.flush().unwrap();
        let scope = onlyonce::Scope::global();
        let state = store.get(onlyonce::KeyRef::new(&scope, &key).unwrap()).unwrap();
        match (orders.runs(), state.map(|entry| entry.state)) {
            (0, None) | (1, Some(State::Completed(_))) => {}
            other => panic!("after {polls} polls: {other:?}"),
        }
        assert_eq!((store.stats().holders, layer.buffered()), (0, 0));
        if ended {
            return;
        }
    }
}

#[tokio::test]
async fn undetached_handlers_are_interrupted() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let service = behind(&layer(&store).detached(false), &orders);
    let first = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| orders.runs() == 1).await;
    first.abort();
    let _ = first.await;
    let entry = store.entries(Filter::ALL).next().unwrap().unwrap();
    assert!(matches!(entry.state, State::Interrupted { holder_gone: true, .. }));
    assert_eq!(send(&service, post("k")).await.problem(), "interrupted");
}

/// Those who wait for a key and go leave nothing behind.
#[tokio::test]
async fn waiters_leave() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let layer = layer(&store).wait(HOUR);
    let service = behind(&layer, &orders);
    let first = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| orders.runs() == 1).await;
    let second = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| store.stats().waiters == 1).await;
    second.abort();
    let _ = second.await;
    until(|| store.stats().waiters == 0).await;
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), 201);
    assert_eq!(orders.runs(), 1);
}

#[tokio::test]
async fn draining_waits_for_detached_handlers() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let layer = layer(&store);
    let service = behind(&layer, &orders);
    assert_eq!(send(&behind(&layer, &counter()), post("done")).await.status, 201);
    let first = tokio::spawn(service.clone().oneshot(post("k")));
    until(|| orders.runs() == 1).await;
    first.abort();
    assert_eq!(layer.drain(Duration::ZERO).await, 1);
    // From now on nothing new starts, and replays go on.
    let got = send(&service, post("new")).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (503, "unavailable"));
    assert!(got.retryable());
    assert!(send(&service, post("done")).await.is_replay());
    let draining = tokio::spawn({
        let layer = layer.clone();
        async move { layer.drain(HOUR).await }
    });
    gate.add_permits(1);
    assert_eq!(draining.await.unwrap(), 0);
    store.flush().unwrap();
    assert!(send(&service, post("k")).await.is_replay());
    assert_eq!(orders.runs(), 1);
}

/// A time-out inside cuts the handler off: its 408 says that nothing is known. One outside is a
/// client that goes.
#[tokio::test]
async fn time_outs_inside_and_outside() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order 1"));
    let inside = tower::ServiceBuilder::new()
        .layer(layer(&store))
        .map_result(|result: Result<http::Response<AnyBody>, BoxError>| match result {
            Err(error) if error.is::<tower::timeout::error::Elapsed>() => Ok(answer(408, "late")),
            result => result,
        })
        .timeout(Duration::from_millis(1))
        .service(orders.clone());
    let got = send(&inside, post("a")).await;
    assert_eq!((got.status.as_u16(), got.text(), got.is_replay()), (408, "late", false));
    let again = send(&inside, post("a")).await;
    assert_eq!((again.status.as_u16(), again.text(), again.is_replay()), (408, "late", true));
    assert_eq!(store.stats().interrupted, 1);

    let layer = layer(&store);
    let outside = tower::ServiceBuilder::new()
        .timeout(Duration::from_millis(1))
        .layer(layer.clone())
        .service(orders.clone());
    assert!(outside.clone().oneshot(post("b")).await.is_err());
    gate.add_permits(10);
    assert_eq!(layer.drain(HOUR).await, 0);
    // Perhaps it was gone before its turn came; it ran once all the same.
    assert_eq!(send(&behind(&self::layer(&store), &orders), post("b")).await.text(), "order 1");
    assert_eq!(orders.runs(), 2);
}

/// Around the layer, and inside it.
#[tokio::test]
async fn buffers() {
    let store = store();
    let orders = counter();
    let inner = tower::buffer::Buffer::new(orders.clone(), 4);
    let service = tower::Layer::layer(&layer(&store), inner);
    let service = tower::buffer::Buffer::new(service, 4);
    assert_eq!(send(&service, post("k")).await.text(), "order 1");
    assert!(send(&service, post("k")).await.is_replay());
}

/// Clients that hang up at any moment: what was granted adds up with how it ended.
#[tokio::test]
async fn every_claim_is_accounted_for() {
    let (store, orders) = (store(), counter());
    let layer = layer(&store);
    let service = behind(&layer, &orders);
    for polls in 0..200 {
        if polls % 20 == 19 {
            send(&service, post(&format!("k{polls}"))).await;
            continue;
        }
        let mut call = service.clone().oneshot(post(&format!("k{polls}")));
        for _ in 0..polls % 20 {
            let ended =
                poll_fn(|context| Poll::Ready(Future::poll(pin!(&mut call), context))).await;
            if ended.is_ready() {
                break;
            }
        }
    }
    until(|| layer.running() == 0).await;
    let stats = store.stats();
    assert!(stats.undelivered > 0 && stats.completed > 0, "{stats:?}");
    assert_eq!(stats.granted, stats.completed + stats.undelivered);
    assert_eq!((stats.in_flight, stats.interrupted, stats.holders), (0, 0, 0));
}
