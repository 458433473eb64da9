//! A small proxy in front of a server, which can lose a connection at a chosen message: before it
//! reaches the server, or after, so that its answer is lost.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
    task::AbortHandle,
};

/// Where a connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lose {
    /// What the client sends does not arrive.
    Request,
    /// It arrives, and the server's answer does not.
    Answer,
    /// It arrives when the proxy is told to [`release`](Proxy::release) it.
    Late,
}

#[derive(Debug)]
struct Plan {
    /// Client messages of the kind Execute (or a simple query) since the plan was made.
    seen: AtomicU64,
    strike: Mutex<Option<(u64, Lose)>>,
    struck: AtomicU64,
    /// What is held back is passed on.
    released: Notify,
    /// How many were passed on so, and answered.
    arrived: AtomicU64,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    plan: Arc<Plan>,
    accepting: AbortHandle,
}

impl Proxy {
    /// In front of the server at `to`.
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan {
            seen: AtomicU64::new(0),
            strike: Mutex::new(None),
            struck: AtomicU64::new(0),
            released: Notify::new(),
            arrived: AtomicU64::new(0),
        });
        let shared = plan.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let plan = shared.clone();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                        pass(client, server, plan).await;
                    }
                });
            }
        });
        Proxy { port, plan, accepting: accepting.abort_handle() }
    }

    /// The statement with this number from now on (from 0) loses its connection.
    pub fn strike(&self, statement: u64, lose: Lose) {
        self.plan.seen.store(0, Ordering::SeqCst);
        *self.plan.strike.lock().unwrap() = Some((statement, lose));
    }

    /// How many connections were lost so far.
    pub fn struck(&self) -> u64 {
        self.plan.struck.load(Ordering::SeqCst)
    }

    /// What was held back reaches the server; returns when it has answered.
    pub async fn release(&self) {
        let before = self.plan.arrived.load(Ordering::SeqCst);
        self.plan.released.notify_one();
        super::until(async || self.plan.arrived.load(Ordering::SeqCst) > before).await;
    }

    pub fn calm(&self) {
        *self.plan.strike.lock().unwrap() = None;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What is done with the next message of the client's.
enum Next {
    Pass,
    LoseRequest,
    LoseAnswer,
    Hold,
}

impl Plan {
    fn next(&self, kind: u8) -> Next {
        // Execute, or a simple query.
        if !matches!(kind, b'E' | b'Q') {
            return Next::Pass;
        }
        let n = self.seen.fetch_add(1, Ordering::SeqCst);
        let mut strike = self.strike.lock().unwrap();
        match *strike {
            Some((at, lose)) if at == n => {
                *strike = None;
                self.struck.fetch_add(1, Ordering::SeqCst);
                match lose {
                    Lose::Request => Next::LoseRequest,
                    Lose::Answer => Next::LoseAnswer,
                    Lose::Late => Next::Hold,
                }
            }
            _ => Next::Pass,
        }
    }
}

async fn pass(client: TcpStream, server: TcpStream, plan: Arc<Plan>) {
    // Message by message, without waiting to fill packets.
    server.set_nodelay(true).unwrap();
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (silence, mut silenced) = oneshot::channel::<()>();
    let answered = plan.clone();
    let back = tokio::spawn(async move {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let read = tokio::select! {
                biased;
                Ok(()) = &mut silenced => {
                    // The server goes on undisturbed until it has answered; nobody hears it.
                    let _ = from_server.read(&mut bytes).await;
                    answered.arrived.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                read = from_server.read(&mut bytes) => read,
            };
            let Ok(n) = read else { return };
            if n == 0 || to_client.write_all(&bytes[..n]).await.is_err() {
                return;
            }
        }
    });
    let mut silence = Some(silence);
    forward(&mut from_client, &mut to_server, &plan, &mut silence).await;
    if silence.is_some() {
        back.abort();
    }
    let _ = back.await;
}

/// Passes the client's messages on, one by one.
async fn forward(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    plan: &Plan,
    silence: &mut Option<oneshot::Sender<()>>,
) {
    let mut buffer = Vec::new();
    let mut bytes = vec![0; 64 << 10];
    // The first message of a connection has no kind.
    let mut started = false;
    let mut lose_after_sync = false;
    loop {
        let Ok(n) = from.read(&mut bytes).await else { return };
        if n == 0 {
            return;
        }
        buffer.extend_from_slice(&bytes[..n]);
        loop {
            let header = usize::from(started);
            let Some(length) = buffer.get(header..header + 4) else { break };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize + header;
            if buffer.len() < length {
                break;
            }
            let message: Vec<u8> = buffer.drain(..length).collect();
            let kind = if started { message[0] } else { 0 };
            started = true;
            match plan.next(kind) {
                Next::Pass => {}
                Next::LoseRequest => return,
                Next::Hold => {
                    plan.released.notified().await;
                    let _ = silence.take().expect("once a connection").send(());
                    lose_after_sync = true;
                }
                Next::LoseAnswer => {
                    let _ = silence.take().expect("once a connection").send(());
                    lose_after_sync = true;
                }
            }
            if to.write_all(&message).await.is_err() {
                return;
            }
            // With the Sync (or the query) the server has all it needs to commit.
            if lose_after_sync && matches!(kind, b'S' | b'Q') {
                return;
            }
        }
    }
}
