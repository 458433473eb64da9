//! H25, H26: clients that send slowly, or not at all, hold nobody else up.

use crate::service::*;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use onlyonce::http::{BoxFuture, Executor, IdempotencyLayer, KeyScope, TokioExecutor};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

/// An executor whose time passes when it is told to.
#[derive(Clone, Default)]
pub struct Told(pub Arc<Mutex<Vec<Sleep>>>);

/// How long, and how to end it.
pub type Sleep = (Duration, oneshot::Sender<()>);

impl Executor for Told {
    fn spawn(&self, future: BoxFuture<()>) {
        TokioExecutor.spawn(future);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        let (tell, told) = oneshot::channel();
        self.0.lock().unwrap().push((duration, tell));
        Box::pin(async {
            // Who hears nothing sleeps on.
            if told.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Sends a head that declares so many bytes, and some of them.
async fn upload(
    address: SocketAddr,
    account: &str,
    key: &str,
    declared: usize,
    sent: usize,
) -> TcpStream {
    let mut upload = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: here\r\naccount: {account}\r\nidempotency-key: {key}\r\n\
         content-length: {declared}\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    // May be refused in the middle.
    let _ = upload.write_all(&vec![b'x'; sent]).await;
    upload
}

#[tokio::test]
async fn a_body_has_its_time() {
    let (store, time, orders) = (store(), Told::default(), counter());
    let layer = layer(&store).executor(time.clone()).read_timeout(Duration::from_secs(7));
    let address = serve(behind(&layer, &orders)).await;
    // A body that is there with its head needs no timer.
    assert_eq!(send_to(address, post("whole")).await.status, 201);
    assert!(time.0.lock().unwrap().is_empty());
    let mut slow = upload(address, "a", "k", 100, 50).await;
    until(|| layer.buffered() == 50 && time.0.lock().unwrap().len() == 1).await;
    let (asked, tell) = time.0.lock().unwrap().pop().unwrap();
    assert_eq!(asked, Duration::from_secs(7));
    tell.send(()).unwrap();
    let mut got = String::new();
    slow.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
    assert!(
        got.contains("urn:onlyonce:problem:body-too-slow") && got.contains("\"retryable\":true")
    );
    assert_eq!((layer.buffered(), orders.runs(), store.stats().granted), (0, 1, 1));
    // The same request, sent again as it should be.
    assert_eq!(send_to(address, post_body("k", vec![b'x'; 100])).await.text(), "order 2");
}

/// Half a hundred large uploads of one tenant stall. The others go on, and so do its own small ones.
#[tokio::test]
async fn stalled_uploads_are_their_senders_own() {
    const LARGE: usize = 60_000;
    let store = store();
    let account =
        |parts: &http::request::Parts| Some(parts.headers.get("account")?.as_bytes().to_vec());
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(account))
        .max_body(64 << 10)
        .max_buffered(1 << 20);
    let orders = counter();
    let address = serve(behind(&layer, &orders)).await;
    let of = |account: &'static str, key: &str, len: usize| {
        let mut request: Request<Full<Bytes>> = post_body(key, vec![b'x'; len]);
        request.headers_mut().insert("account", account.parse().unwrap());
        send_to(address, request)
    };
    assert_eq!(of("b", "done", LARGE).await.status, 201);
    assert_eq!(of("b", "empty", 0).await.status, 201);
    let refused = Arc::new(AtomicUsize::new(0));
    let stalled: Vec<_> = (0..50)
        .map(|n| {
            let refused = refused.clone();
            tokio::spawn(async move {
                let mut upload = upload(address, "a", &n.to_string(), LARGE + 1, LARGE).await;
                let mut status = [0; 12];
                // An answer, or a connection that was closed with bytes of ours unread.
                let answered = upload.read_exact(&mut status).await.is_ok();
                assert!(!answered || &status == b"HTTP/1.1 429");
                refused.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    until(|| refused.load(Ordering::SeqCst) > 0).await;
    for n in 0..5 {
        assert_eq!(of("b", &format!("large-{n}"), LARGE).await.status, 201);
        assert_eq!(of("b", &format!("small-{n}"), 600).await.status, 201);
        assert!(of("b", "done", LARGE).await.is_replay());
        assert!(of("b", "empty", 0).await.is_replay());
        assert_eq!(of("a", &format!("small-{n}"), 600).await.status, 201);
        assert!(layer.buffered() < 512 << 10, "{}", layer.buffered());
    }
    let got = of("a", "large", LARGE).await;
    assert_eq!((got.status.as_u16(), got.problem().as_str()), (429, "share-used"));
    stalled.into_iter().for_each(|upload| upload.abort());
    until(|| layer.buffered() == 0).await;
    assert_eq!(of("a", "large", LARGE).await.status, 201);
}
