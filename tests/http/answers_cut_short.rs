//! H10: clients that go away while their answer is on its way, after each byte of it.

use crate::service::*;

use onlyonce::{Options, storage::SimStorage};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A handler whose answers tell each other apart.
fn orders(filler: usize) -> Handler {
    let made = AtomicU64::new(0);
    handler(move |_| {
        let order = 1000 + made.fetch_add(1, Ordering::SeqCst);
        let body = format!("order {order}{}\n", "x".repeat(filler));
        std::future::ready(with(answer(201, body), "x-order", "taken"))
    })
}

/// Sends a request on a connection of its own.
async fn ask(address: SocketAddr, key: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Little, so that a long answer is still with the server when its reader goes.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\nconnection: close\r\n\
         content-length: 8\r\n\r\none book"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// A whole answer: its status line, its headers in order but for those of the message, its body.
#[derive(Debug, PartialEq)]
struct Heard {
    status: String,
    own: Vec<String>,
    replayed: bool,
    body: String,
}

fn heard(bytes: &[u8]) -> Heard {
    let text = std::str::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let (status, lines) = head.split_once("\r\n").unwrap();
    let lines: Vec<_> = lines.split("\r\n").map(str::to_owned).collect();
    let of_message = |line: &String| {
        ["date: ", "age: ", "connection: ", "idempotent-replayed: ", "idempotency-expires-in: "]
            .iter()
            .any(|h| line.starts_with(h))
    };
    let replayed = lines.iter().any(|line| line == "idempotent-replayed: true");
    let mut own: Vec<_> = lines.into_iter().filter(|line| !of_message(line)).collect();
    own.sort();
    Heard { status: status.to_owned(), own, replayed, body: body.to_owned() }
}

async fn whole(address: SocketAddr, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    ask(address, key).await.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// The client reads `len` bytes of its answer and goes. The retry gets the answer of the one
/// execution.
async fn leave_after(len: usize, address: SocketAddr, layer: &Layered, orders: &Handler) {
    let (key, before) = (format!("key-{len}"), orders.runs());
    let mut client = ask(address, &key).await;
    let mut part = vec![0; len];
    client.read_exact(&mut part).await.unwrap();
    // The answer is on its way, also if nothing of it has been read.
    until(|| orders.runs() > before && layer.running() == 0).await;
    drop(client);
    let first = whole(address, &key).await;
    let again = whole(address, &key).await;
    assert_eq!(orders.runs(), before + 1, "after {len} bytes");
    let (first, again) = (heard(&first), heard(&again));
    assert!(first.replayed && again == first, "after {len} bytes: {first:?} {again:?}");
    let line = part.iter().position(|byte| *byte == b'\r').unwrap_or(part.len());
    assert!(first.status.as_bytes().starts_with(&part[..line]));
    // What was read of the body is the beginning of what is replayed.
    if let Some(end) = part.windows(4).position(|four| four == b"\r\n\r\n") {
        assert!(first.body.as_bytes().starts_with(&part[end + 4..]), "after {len} bytes");
    }
}

#[tokio::test]
async fn after_each_byte() {
    let (store, orders) = (store(), orders(0));
    let layer = layer(&store);
    let address = serve(behind(&layer, &orders)).await;
    let answer = whole(address, "whole").await;
    assert!(!heard(&answer).replayed && heard(&answer).body == "order 1000\n");
    for len in 0..=answer.len() {
        leave_after(len, address, &layer, &orders).await;
    }
    assert_eq!((orders.runs(), store.stats().completed), (answer.len() as u64 + 2, orders.runs()));
    assert_eq!((store.stats().holders, layer.buffered()), (0, 0));
}

/// A long answer is still being written when its reader goes.
#[tokio::test]
async fn in_the_middle_of_a_long_answer() {
    let options = Options::new().max_response(8 << 20).max_claims(64).capacity(256 << 20);
    let store = options.segment_bytes(32 << 20).open_on(Arc::new(SimStorage::new(3))).unwrap();
    let orders = orders(6 << 20);
    let layer = layer(&store);
    let address = serve(behind(&layer, &orders)).await;
    for len in [0, 1, 1000, 1 << 20, 5 << 20] {
        leave_after(len, address, &layer, &orders).await;
    }
    assert_eq!((orders.runs(), store.stats().completed), (5, 5));
}
