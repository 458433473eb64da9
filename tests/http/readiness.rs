//! H26: what is not executed holds nothing of the service inside.

use crate::service::*;

use onlyonce::http::{BoxError, RequestBody};
use std::sync::Arc;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Semaphore};
use tower::{Layer, util::BoxCloneService};

/// A request whose body doesn't come to its end.
async fn stalled(address: std::net::SocketAddr, key: &str) -> TcpStream {
    let mut upload = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: here\r\nidempotency-key: {key}\r\ncontent-length: 100\r\n\r\nx"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    upload
}

/// One permit, behind a buffer or not: neither a stalled upload nor one who waits has it, and what
/// passes by, is replayed or is refused needs none.
#[tokio::test]
async fn the_permit_is_the_handlers() {
    for buffered in [false, true] {
        let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
        let orders = gated(&gate, || answer(201, "order"));
        let layer = layer(&store).wait(HOUR);
        type In = http::Request<RequestBody<hyper::body::Incoming>>;
        let permits = tower::limit::GlobalConcurrencyLimitLayer::new(2);
        let limited = permits.layer(orders.clone());
        let inner: BoxCloneService<In, _, BoxError> = match buffered {
            true => BoxCloneService::new(tower::buffer::Buffer::new(limited, 1)),
            false => BoxCloneService::new(limited),
        };

        let address = serve(layer.layer(inner)).await;
        gate.add_permits(1);
        assert_eq!(send_to(address, post("done")).await.status, 201);

        let uploads = [stalled(address, "a").await, stalled(address, "b").await];
        until(|| layer.buffered() == 2).await;
        let first = tokio::spawn(send_to(address, post("k")));
        until(|| orders.runs() == 2).await;
        let waits: Vec<_> = (0..3).map(|_| tokio::spawn(send_to(address, post("k")))).collect();
        until(|| store.stats().waiters == 3).await;

        // The other permit is free for all that follows.
        assert!(send_to(address, post("done")).await.is_replay());
        assert_eq!(send_to(address, post_body("done", "two")).await.problem(), "key-reused");
        let get = http::Request::get("/orders").body(Default::default()).unwrap();
        let looked = tokio::spawn(send_to(address, get));
        until(|| orders.runs() == 3).await;
        // Here both are taken: what needs none is answered all the same.
        let third = tokio::spawn(send_to(address, post("third")));
        until(|| store.stats().in_flight == 2).await;
        assert!(send_to(address, post("done")).await.is_replay());
        gate.add_permits(3);
        assert_eq!(looked.await.unwrap().text(), "order");
        assert_eq!(third.await.unwrap().text(), "order");
        assert!(!first.await.unwrap().is_replay());
        for wait in waits {
            assert!(wait.await.unwrap().is_replay());
        }
        drop(uploads);
    }
}
