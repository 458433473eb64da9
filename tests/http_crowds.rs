//! H15, H22 over sockets: thousands of connections retry one key while its handler runs.

#[path = "http/service.rs"]
mod service;
use service::*;

use onlyonce::{Options, storage::SimStorage};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, Semaphore},
};

/// Connections, if the limit of open files allows them: both ends of each are in this process.
const CONNECTIONS: usize = 4000;
/// Other files that a process may have open.
const OTHER_FILES: usize = 200;
/// Requests of each connection while the handler runs.
const RETRIES: usize = 3;
const BODY: usize = 16 << 10;
const WAITERS: usize = 20;
/// Far below what all of them send.
const BUFFERED: usize = 64 * BODY;

/// How many connections there may be.
fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // May be refused; then it stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
    let possible = (files.saturating_sub(OTHER_FILES) / 2).min(CONNECTIONS);
    if possible < CONNECTIONS {
        println!("{possible} connections instead of {CONNECTIONS}: {files} files may be open");
    }
    possible
}

/// Memory of this process in KiB, and the most it ever was.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines =
        status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines.collect::<Vec<_>>().join(", ").replace(['\t', ' '], "")
}

/// An answer: its status, whether it is a replay, its body.
type Answer = (u16, bool, String);

/// Sends the request on an open connection. An error is a server that hung up: it does so to who
/// is sent away in the middle of a body.
async fn ask(client: &mut TcpStream) -> std::io::Result<Answer> {
    let head = format!(
        "POST /orders HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\ncontent-length: {BODY}\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(&[b'x'; BODY]).await?;
    let mut bytes = Vec::new();
    loop {
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = std::str::from_utf8(&bytes).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if body.len() == length {
            let status = head[9..12].parse().unwrap();
            return Ok((status, head.contains("idempotent-replayed: true"), body.to_owned()));
        }
    }
}

/// What the connections heard.
#[derive(Default)]
struct Heard {
    first: AtomicUsize,
    in_flight: AtomicUsize,
    overloaded: AtomicUsize,
    replays: AtomicUsize,
    hung_up: AtomicUsize,
    /// Connections that were answered as often as they are to ask.
    ended: AtomicUsize,
}

impl Heard {
    fn count(&self, answer: &std::io::Result<Answer>) {
        let counter = match answer {
            Ok((201, false, _)) => &self.first,
            Ok((201, true, _)) => &self.replays,
            Ok((409, _, body)) if body.contains(":in-flight") => &self.in_flight,
            Ok((503, _, body)) if body.contains(":overloaded") => &self.overloaded,
            Ok(other) => panic!("{other:?}"),
            Err(_) => &self.hung_up,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn thousands_of_connections_execute_once() {
    let connections = connections();
    let options = Options::new().max_response(64 << 10).max_claims(64).capacity(64 << 20);
    let store = options.open_on(Arc::new(SimStorage::new(1))).unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let slow = gated(&gate, || answer(201, "order 1"));
    let layer = layer(&store).wait(HOUR).max_waiters(WAITERS).max_buffered(BUFFERED);
    let address = serve(behind(&layer, &slow)).await;
    let before = resident();
    let mut first = connect(address).await;
    let first = tokio::spawn(async move { ask(&mut first).await.unwrap() });
    until(|| slow.runs() == 1).await;

    let (heard, most) = (Arc::new(Heard::default()), Arc::new(AtomicUsize::new(0)));
    // All are connected before the first of them asks.
    let all_here = Arc::new(Barrier::new(connections));
    let crowd: Vec<_> = (0..connections)
        .map(|_| {
            let (heard, most) = (heard.clone(), most.clone());
            let (layer, all_here) = (layer.clone(), all_here.clone());
            tokio::spawn(async move {
                let mut client = connect(address).await;
                all_here.wait().await;
                for _ in 0..RETRIES {
                    let answer = ask(&mut client).await;
                    heard.count(&answer);
                    most.fetch_max(layer.buffered(), Ordering::Relaxed);
                    if answer.is_err() {
                        client = connect(address).await;
                    }
                }
                heard.ended.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    // Those who wait hear nothing yet; the others have been sent away each time.
    let waiting = WAITERS.min(connections);
    while heard.ended.load(Ordering::Relaxed) < connections - waiting {
        most.fetch_max(layer.buffered(), Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    assert_eq!((store.stats().waiters, slow.runs()), (waiting as u64, 1));
    // Only the bodies of the handler's caller and of who waits are held.
    assert_eq!(layer.buffered(), waiting * BODY);
    let most = most.load(Ordering::Relaxed);
    assert!(most <= BUFFERED, "{most} bytes were held");
    let [in_flight, overloaded, hung_up] =
        [&heard.in_flight, &heard.overloaded, &heard.hung_up].map(|n| n.load(Ordering::Relaxed));
    println!(
        "{connections} connections: {in_flight} times in flight, {overloaded} times overloaded, \
         {hung_up} hung up; at most {most} of {BUFFERED} bytes held; {before} -> {}",
        resident()
    );

    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), (201, false, "order 1".to_owned()));
    for client in crowd {
        client.await.unwrap();
        heard.count(&ask(&mut connect(address).await).await);
    }
    // The last answer of everybody, and whatever the waiters asked after the first.
    assert!(heard.replays.load(Ordering::Relaxed) >= connections + waiting);
    assert_eq!((slow.runs(), store.stats().granted), (1, 1));
    assert_eq!((heard.first.load(Ordering::Relaxed), layer.buffered()), (0, 0));
}
