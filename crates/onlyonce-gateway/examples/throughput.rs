//! Requests per second through the gateway, bare and with the layer, and straight to the service.
//!
//!     cargo build --release -p onlyonce-gateway
//!     cargo run --release -p onlyonce-gateway --example throughput -- target/release/onlyonce-gateway
//!
//! A trivial service, clients that keep their connections, 100 bytes there and 100 back; everything
//! on one machine, so that they share its cores.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const SECONDS: u64 = 5;

fn main() {
    let program = env::args().nth(1).expect("the gateway's program");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            thread::spawn(move || serve(client.unwrap()));
        }
    });
    println!("| clients | straight | bare proxy | with the layer, synced |");
    println!("|---:|---:|---:|---:|");
    for clients in [1, 8, 32] {
        let straight = measure(behind, clients);
        let bare = through(&program, behind, clients, &["--bare"]);
        let layer = through(&program, behind, clients, &[]);
        println!("| {clients} | {straight:.0} | {bare:.0} | {layer:.0} |");
    }
}

/// Requests per second through a gateway of its own.
fn through(program: &str, behind: SocketAddr, clients: u64, more: &[&str]) -> f64 {
    let folder = tempfile::tempdir_in(".").unwrap();
    let mut gateway = Command::new(program)
        .args(["--listen", "127.0.0.1:0", "--create", "--scope-global", "--dir"])
        .arg(folder.path().join("keys"))
        .args(["--upstream", &format!("http://{behind}")])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(gateway.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").expect("the first line");
    let rate = measure(address.parse().unwrap(), clients);
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    rate
}

fn measure(address: SocketAddr, clients: u64) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            let (stop, done) = (stop.clone(), done.clone());
            thread::spawn(move || {
                let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
                stream.get_ref().set_nodelay(true).unwrap();
                let mut nth = 0;
                while !stop.load(Ordering::Relaxed) {
                    nth += 1;
                    let body = format!("{client:<10}{nth:<90}");
                    let request = format!(
                        "POST /orders HTTP/1.1\r\nhost: shop\r\nidempotency-key: \"{client}-{nth}\"\r\n\
                         content-length: 100\r\n\r\n{body}"
                    );
                    stream.get_mut().write_all(request.as_bytes()).unwrap();
                    let (head, _) = message(&mut stream).expect("an answer");
                    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(SECONDS));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn serve(client: TcpStream) {
    client.set_nodelay(true).unwrap();
    let mut client = BufReader::new(client);
    while let Some((_, body)) = message(&mut client) {
        let answer =
            format!("HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{:<100}", body.len());
        if client.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A message with its length in the head; `None` at the end.
fn message(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let before = head.len();
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
        let line = head[before..].trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).ok()?;
            return Some((head, body));
        }
    }
}
