//! The program, in front of services that lose, refuse and break off.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

const GATEWAY: &str = env!("CARGO_BIN_EXE_onlyonce-gateway");

#[test]
fn a_python_service_behind_it_takes_each_order_once() {
    if Command::new("python3").args(["-c", "import sqlite3"]).output().is_err() {
        println!("skipped: no python3 here");
        return;
    }
    let storm = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/storm.py");
    let ran = Command::new("python3").args([storm, GATEWAY]).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}{}", String::from_utf8_lossy(&ran.stderr));
    print!("{told}");
}

/// A gateway in front of a service at `behind`.
struct Gateway {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn start(behind: SocketAddr, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(GATEWAY)
            .args(["--listen", "127.0.0.1:0", "--create", "--dir"])
            .arg(folder.path().join("keys"))
            .args(["--upstream", &format!("http://{behind}")])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").expect(&line);
        Gateway { child, address: address.parse().unwrap(), _folder: folder }
    }

    fn post(&self, key: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!(
            "POST /orders HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nidempotency-key: {key}\r\n\
             {headers}content-length: 4\r\n\r\nbook"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that gives these answers, one a connection, and passes on what it hears.
fn service(answers: Vec<&'static str>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, heard) = mpsc::channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"book") {
                let mut part = [0; 4096];
                match client.read(&mut part).unwrap() {
                    0 => break,
                    read => request.extend_from_slice(&part[..read]),
                }
            }
            let _ = tell.send(String::from_utf8(request).unwrap());
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, heard)
}

const CREATED: &str =
    "HTTP/1.1 201 Created\r\ncontent-length: 7\r\nconnection: close\r\n\r\norder 7";
const GLOBAL: &[&str] = &["--scope-global"];

fn value<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn a_retry_is_replayed_and_the_attempt_is_told() {
    let (behind, heard) = service(vec![CREATED]);
    let gateway = Gateway::start(behind, GLOBAL);
    let spoofed = "onlyonce-token: 99\r\nonlyonce-derived-key: mine\r\n";
    let first = gateway.post("a", spoofed);
    assert!(first.starts_with("HTTP/1.1 201 ") && first.ends_with("order 7"), "{first}");
    let again = gateway.post("a", spoofed);
    assert!(again.ends_with("order 7"), "{again}");
    assert_eq!(value(&again, "idempotent-replayed"), Some("true"));
    let heard = heard.recv().unwrap();
    assert_eq!(value(&heard, "onlyonce-attempt"), Some("1"));
    assert_eq!(value(&heard, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(value(&heard, "host"), Some("shop"));
    assert!(value(&heard, "onlyonce-derived-key").is_some_and(|key| key != "mine"), "{heard}");
    assert!(value(&heard, "onlyonce-token").is_some_and(|token| token != "99"), "{heard}");
}

#[test]
fn a_refused_connection_did_nothing() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let behind = unused.local_addr().unwrap();
    drop(unused);
    let gateway = Gateway::start(behind, GLOBAL);
    let refused = gateway.post("a", "");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(value(&refused, "retry-after"), Some("1"));
    // The service is there again: the same key is executed.
    let listener = TcpListener::bind(behind).unwrap();
    let served = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = client.read(&mut request).unwrap();
        client.write_all(CREATED.as_bytes()).unwrap();
    });
    let answer = gateway.post("a", "");
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert_eq!(value(&answer, "idempotent-replayed"), None);
    served.join().unwrap();
}

#[test]
fn a_broken_connection_interrupts_and_settling_decides() {
    let half = "HTTP/1.1 201 Created\r\ncontent-length: 7\r\nconnection: close\r\n\r\nord";
    for broken in ["", half] {
        let (behind, heard) = service(vec![broken]);
        let happened = "HTTP/1.1 201 Created\r\nonlyonce-settled: happened\r\ncontent-length: 7\r\n\
                        connection: close\r\n\r\norder 7";
        let (asked, questions) = service(vec![happened]);
        let settle = format!("http://{asked}/settle");
        let gateway = Gateway::start(behind, &["--scope-global", "--settle", &settle]);
        let lost = gateway.post("a", "");
        assert!(!lost.ends_with("order 7"), "{lost}");
        let settled = gateway.post("a", "");
        assert!(settled.starts_with("HTTP/1.1 201 ") && settled.ends_with("order 7"), "{settled}");
        assert_eq!(value(&settled, "onlyonce-settled"), None);
        let (sent, question) = (heard.recv().unwrap(), questions.recv().unwrap());
        assert!(question.starts_with("POST /settle "), "{question}");
        assert_eq!(value(&question, "onlyonce-path"), Some("/orders"));
        assert_eq!(value(&question, "onlyonce-derived-key"), value(&sent, "onlyonce-derived-key"));
        assert!(question.ends_with("\r\n\r\nbook"), "{question}");
    }
}

#[test]
fn a_request_without_a_scope_does_not_reach_the_service() {
    let (behind, heard) = service(vec![CREATED]);
    let gateway = Gateway::start(behind, &["--scope-header", "x-account"]);
    let refused = gateway.post("a", "");
    assert!(refused.starts_with("HTTP/1.1 500 "), "{refused}");
    let twice = gateway.post("a", "x-account: ann\r\nx-account: bob\r\n");
    assert!(twice.starts_with("HTTP/1.1 500 "), "{twice}");
    assert!(heard.try_recv().is_err());
    let one = gateway.post("a", "x-account: ann\r\n");
    assert!(one.starts_with("HTTP/1.1 201 "), "{one}");
}
