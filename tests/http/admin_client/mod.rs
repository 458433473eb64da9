//! What the tests of the admin service share: the service behind a real socket, and a client.

#![allow(dead_code)]

pub mod browser;

use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use onlyonce::admin::Admin;
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

/// Serves `admin` until the test ends.
pub fn serve(admin: Admin) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(admin.clone());
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
    });
    address
}

/// A status, the lines of the header in lower case, and a body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn request(address: SocketAddr, what: &str, lines: &[&str], body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut text = format!("{what} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    lines.iter().for_each(|line| text += &format!("{line}\r\n"));
    text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, &format!("GET {path}"), &[], "")
}

/// What the page sends, and what a command line would.
pub const OWN: [&str; 2] = ["content-type: application/json", "x-onlyonce-admin: 1"];

pub fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    request(address, &format!("POST {path}"), &OWN, &body.to_string())
}
