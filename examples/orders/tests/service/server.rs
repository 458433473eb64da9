//! The built service as a child process, and a client that reads answers byte for byte.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one on `dir`, at a free port.
    pub fn start(dir: &Path) -> Self {
        Server::start_with(dir, &[])
    }

    /// Starts one with these variables in its environment.
    pub fn start_with(dir: &Path, env: &[(&str, &str)]) -> Self {
        let create = (!dir.join("keys").exists()).then_some("--create");
        Server::start_as(dir, create.as_slice(), env)
    }

    /// Starts one with these words, too.
    pub fn start_as(dir: &Path, words: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_orders"))
            .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .args(words)
            .env_remove("ORDERS_ADMIN_TOKEN")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let address = first.trim().strip_prefix("listening on http://").unwrap();
        let address = address.to_owned();
        // Reads on, so that the server never waits for us.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Server { child, address }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; returns without waiting.
    pub fn terminate(&self) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, Signal::TERM).unwrap();
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Sends an order with these lines of header, and returns without reading an answer.
    pub fn send(&self, headers: &[&str], body: &str) -> TcpStream {
        self.request("POST /orders", headers, body)
    }

    /// Sends an order under a key, and reads the answer.
    pub fn order(&self, key: &str, body: &str) -> Answer {
        self.post(&[&format!("Idempotency-Key: {key}")], body)
    }

    /// Sends an order with these lines of header, and reads the answer.
    pub fn post(&self, headers: &[&str], body: &str) -> Answer {
        Answer::read(self.send(headers, body))
    }

    /// Reads a page.
    pub fn get(&self, path: &str) -> Answer {
        Answer::read(self.request(&format!("GET {path}"), &[], ""))
    }

    /// Reads a page, with these lines of header.
    pub fn get_with(&self, path: &str, headers: &[&str]) -> Answer {
        Answer::read(self.request(&format!("GET {path}"), headers, ""))
    }

    /// Posts to another path than the orders'.
    pub fn post_to(&self, path: &str, headers: &[&str], body: &str) -> Answer {
        Answer::read(self.request(&format!("POST {path}"), headers, body))
    }

    /// The items of all orders, in order of their numbers.
    pub fn items(&self) -> Vec<String> {
        let orders: serde_json::Value = serde_json::from_slice(&self.get("/orders").body).unwrap();
        let item = |order: &serde_json::Value| order["item"].as_str().unwrap().to_owned();
        orders.as_array().unwrap().iter().map(item).collect()
    }

    fn request(&self, what: &str, headers: &[&str], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let mut text = format!("{what} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        text += "Content-Type: application/json\r\n";
        for line in headers {
            text += &format!("{line}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Sorted, lower case, without `date`, `age` and `idempotent-replayed`.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
    pub replayed: bool,
}

impl Answer {
    /// Reads until the server closes the connection.
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
        let head = std::str::from_utf8(&bytes[..end]).unwrap().to_ascii_lowercase();
        let (status_line, headers) = head.split_once("\r\n").unwrap();
        let mut headers: Vec<_> = headers.split("\r\n").map(str::to_owned).collect();
        let all = headers.len();
        headers.retain(|line| line != "idempotent-replayed: true");
        let replayed = headers.len() < all;
        let of_delivery = ["date: ", "age: ", "idempotency-expires-in: "];
        headers.retain(|line| !of_delivery.iter().any(|name| line.starts_with(name)));
        headers.sort();
        Answer {
            status: status_line.split(' ').nth(1).unwrap().parse().unwrap(),
            headers,
            body: bytes[end + 4..].to_vec(),
            replayed,
        }
    }

    /// Reads the answer that comes first on any of these connections; gives back the others.
    pub fn first_of(mut streams: Vec<TcpStream>) -> (Self, Vec<TcpStream>) {
        let mut answered = 0;
        until("an answer", || {
            let arrived = streams.iter().position(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                stream.peek(&mut [0]).is_ok()
            });
            answered = arrived.unwrap_or_default();
            arrived.is_some()
        });
        let first = streams.swap_remove(answered);
        first.set_read_timeout(None).unwrap();
        (Self::read(first), streams)
    }

    /// The same answer, delivered again.
    pub fn again(&self) -> Self {
        Answer { replayed: true, ..self.clone() }
    }

    /// Has a header that starts so.
    pub fn has(&self, start: &str) -> bool {
        self.headers.iter().any(|line| line.starts_with(start))
    }

    /// It is a problem of this kind.
    pub fn is_problem(&self, status: u16, kind: &str) -> bool {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        self.status == status
            && self.has("content-type: application/problem+json")
            && problem["status"] == status
            && problem["type"] == format!("urn:onlyonce:problem:{kind}")
    }
}

/// Polls until it is so.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
