//! H16: what only a socket shows.

use crate::service::*;

use bytes::Bytes;
use http::Request;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn echo() -> Handler {
    handler(|request: Request<Bytes>| async move { answer(201, request.into_body()) })
}

/// Sends pieces, each when the one before has been answered by what is expected, and returns all
/// that came back.
async fn talk(address: SocketAddr, pieces: &[(&str, &str)]) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut heard = Vec::new();
    for (say, hear) in pieces {
        client.write_all(say.as_bytes()).await.unwrap();
        while !String::from_utf8_lossy(&heard).contains(hear) {
            assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0, "it hung up");
        }
    }
    String::from_utf8(heard).unwrap()
}

const HEAD: &str = "POST /orders HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n";

#[tokio::test]
async fn expect_continue() {
    let store = store();
    let echo = echo();
    let layer = layer(&store).max_body(100);
    let address = serve(behind(&layer, &echo)).await;
    let head = format!("{HEAD}expect: 100-continue\r\ncontent-length: 8\r\n\r\n");
    let heard = talk(address, &[(&head, "100 Continue"), ("one book", "one book")]).await;
    assert!(heard.contains("HTTP/1.1 201"));
    // Refused before anybody sends the body.
    let head = format!("{HEAD}expect: 100-continue\r\ncontent-length: 101\r\n\r\n");
    let heard = talk(address, &[(&head, "body-too-large")]).await;
    assert!(heard.contains("HTTP/1.1 413") && !heard.contains("100 Continue"));
    assert_eq!(echo.runs(), 1);
}

#[tokio::test]
async fn chunks_are_the_same_request_as_one_piece() {
    let store = store();
    let echo = echo();
    let address = serve(behind(&layer(&store), &echo)).await;
    let chunked =
        format!("{HEAD}transfer-encoding: chunked\r\n\r\n3\r\none\r\n5\r\n book\r\n0\r\n\r\n");
    let heard = talk(address, &[(&chunked, "one book")]).await;
    assert!(heard.contains("content-length: 8") && !heard.contains("idempotent-replayed"));
    let whole = format!("{HEAD}content-length: 8\r\n\r\none book");
    let heard = talk(address, &[(&whole, "one book")]).await;
    assert!(heard.contains("content-length: 8") && heard.contains("idempotent-replayed: true"));
    assert_eq!(echo.runs(), 1);
}

#[tokio::test]
async fn trailers_arrive() {
    let store = store();
    let seen = tower::service_fn(
        |request: Request<onlyonce::http::RequestBody<hyper::body::Incoming>>| async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await?;
            let sum = body.trailers().map(|trailers| trailers["x-sum"].as_bytes().to_vec());
            Ok::<_, onlyonce::http::BoxError>(answer(200, sum.unwrap_or_default()))
        },
    );
    let address = serve(tower::Layer::layer(&layer(&store), seen)).await;
    let chunked = format!(
        "{HEAD}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\none\r\n0\r\nx-sum: seventy\r\n\r\n"
    );
    let heard = talk(address, &[(&chunked, "seventy")]).await;
    assert!(heard.contains("HTTP/1.1 200"));
}

/// An upgrade passes, once, and is no answer that could be replayed.
#[tokio::test]
async fn upgrades_pass_and_are_not_repeated() {
    let store = store();
    let upgrade = handler(|_| async { with(answer(101, ""), "upgrade", "chat") });
    let layer = layer(&store);
    let service = behind(&layer, &upgrade);
    let first = send(&service, post("k")).await;
    assert_eq!((first.status.as_u16(), first.header("upgrade")), (101, Some("chat")));
    let second = send(&service, post("k")).await;
    assert_eq!(
        (second.problem().as_str(), &second.json()["original_status"]),
        ("not-retained", &101.into())
    );
    assert_eq!(upgrade.runs(), 1);
}
