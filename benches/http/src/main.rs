//! Requests per second over loopback: a trivial axum handler bare, behind the layer (every request
//! its own key; `Buffered` and `Synced`), and replays. Server and client are processes of their
//! own, and the client does as little as a client can: raw sockets, kept open.
//!
//! Beside it, under the same load, `axum-idempotent`: another layer for axum, whose answers are
//! fields of a session, here in memory (moka). It promises less: nothing survives its process, and
//! two requests at once both execute. Each connection has a session of its own.
//!
//! ```text
//! cargo run --release -- [seconds [rounds [connections]]]
//! cargo run --release -- instructions
//! ```
//!
//! Cases take turns in each round; the figure is the median of the rounds.
//!
//! `instructions` counts those of a request with callgrind (Debian: valgrind), server and client in
//! one process. What else the machine does makes no difference to them; the kernel's share is not in
//! them.

use axum::{Router, body::Bytes, http::StatusCode, response::IntoResponse, routing::post};
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use onlyonce::{
    Durability, Options,
    http::{IdempotencyLayer, KeyScope},
};
use ruts::{
    CookieOptions, Session, SessionLayer,
    store::{Ttl, moka::MokaStore},
};
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower_cookies::CookieManagerLayer;

/// What is measured: name, how the server is made, and what is sent.
const CASES: &[(&str, &str, &str)] = &[
    ("bare", "bare", "first"),
    ("first, Buffered", "buffered", "first"),
    ("first, Synced", "synced", "first"),
    ("replay", "buffered", "again"),
    ("axum-idempotent, first", PEER, "first"),
    ("axum-idempotent, replay", PEER, "again"),
];

/// What refusals cost: name, how the server is made, what is sent. Counted only.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("refused, 400", "buffered", "malformed"),
    ("refused, 409", "held", "held"),
    ("refused, 422", "buffered", "other"),
    ("refused, 503", "closed", "first"),
];

const PEER: &str = "axum-idempotent";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args[..] {
        ["serve", mode] => runtime.block_on(serve(mode)),
        ["load", address, mode, sent, seconds, connections] => {
            let single = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let seconds = seconds.parse().unwrap();
            let connections = connections.parse().unwrap();
            let load = Load {
                address: address.parse().unwrap(),
                session: mode == PEER,
                sent: Sent::named(sent),
                status: "201",
            };
            single.unwrap().block_on(load.run(seconds, connections));
        }
        ["one-process", mode, sent, requests] => {
            let single = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let one = one_process(mode, sent, requests.parse().unwrap());
            single.unwrap().block_on(one);
        }
        ["instructions"] => instructions(),
        _ => {
            let number = |at: usize, usual: u64| args.get(at).map_or(usual, |a| a.parse().unwrap());
            compare(number(0, 3), number(1, 5), number(2, 32));
        }
    }
}

fn compare(seconds: u64, rounds: u64, connections: u64) {
    println!("{connections} connections, {rounds} rounds of {seconds} s");
    let mut rates = vec![Vec::new(); CASES.len()];
    for _ in 0..rounds {
        for ((_, mode, sent), rates) in CASES.iter().zip(&mut rates) {
            let mut server = start(&["serve", mode]);
            let address = first_line(&mut server);
            let [seconds, connections] = [seconds, connections].map(|n| n.to_string());
            let mut client = start(&["load", &address, mode, sent, &seconds, &connections]);
            rates.push(first_line(&mut client).parse::<f64>().unwrap());
            client.wait().unwrap();
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
    let medians: Vec<f64> = rates.iter_mut().map(|rates| median(rates)).collect();
    for (((name, ..), rate), all) in CASES.iter().zip(&medians).zip(&rates) {
        let spread = (all[all.len() - 1] - all[0]) / rate * 100.0;
        let share = rate / medians[0];
        println!("{name:<24}{rate:>9.0} requests/s   {share:.2} of bare   spread {spread:.0} %");
    }
}

/// Of a request, by the difference between many and few.
fn instructions() {
    let mut bare = 0;
    for (name, mode, sent) in CASES.iter().chain(REFUSALS) {
        let [few, many] = [1000, 3000].map(|requests| collected(mode, sent, requests));
        let each = (many - few) / 2000;
        bare = if *mode == "bare" { each } else { bare };
        println!("{name:<24}{each:>9} instructions a request   {:>+8}", each as i64 - bare as i64);
    }
}

/// What callgrind says of one run. Its output stays in `target/callgrind.*` of this package.
fn collected(mode: &str, sent: &str, requests: u64) -> u64 {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={target}/callgrind.{mode}.{sent}.{requests}"));
    command.arg(std::env::current_exe().unwrap()).args(["one-process", mode]);
    command.args([sent, &requests.to_string()]);
    let output = command.output().expect("valgrind can be started");
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    line.unwrap_or_else(|| panic!("{text}")).1.trim().parse().unwrap()
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).stdout(Stdio::piped()).spawn().unwrap()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

async fn create(body: Bytes) -> impl IntoResponse {
    let location = [("location", "/orders/1"), ("content-type", "application/json")];
    (StatusCode::CREATED, location, format!("{{\"id\":1,\"bytes\":{}}}\n", body.len()))
}

async fn serve(mode: &str) {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, service(mode, dir.path())).await.unwrap();
}

async fn one_process(mode: &str, sent: &str, requests: u64) {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Sent::named(sent);
    let status = match (mode, sent) {
        ("closed", _) => "503",
        (_, Sent::Malformed) => "400",
        (_, Sent::Held) => "409",
        (_, Sent::Other) => "422",
        _ => "201",
    };
    let load = Load { address, session: mode == PEER, sent, status };
    let server = axum::serve(listener, service(mode, dir.path()));
    tokio::select! {
        _ = std::future::IntoFuture::into_future(server) => {}
        done = load.connection(0, |done| done < requests) => assert_eq!(done, requests),
    }
}

fn service(mode: &str, dir: &Path) -> Router {
    let store = |durability| {
        let options = Options::new().durability(durability).max_response(4096);
        options.open(dir).unwrap()
    };
    let app = Router::new().route("/orders", post(create));
    match mode {
        "bare" => app,
        "buffered" => {
            let store = store(Durability::Buffered { max_delay: Duration::from_millis(50) });
            app.route_layer(IdempotencyLayer::new(store, KeyScope::Global))
        }
        "synced" => {
            let store = store(Durability::Synced);
            app.route_layer(IdempotencyLayer::new(store, KeyScope::Global))
        }
        "held" => {
            let store = store(Durability::Buffered { max_delay: Duration::from_millis(50) });
            let never = Router::new().route("/orders", post(std::future::pending::<StatusCode>));
            never.route_layer(IdempotencyLayer::new(store, KeyScope::Global))
        }
        "closed" => {
            let store = store(Durability::Buffered { max_delay: Duration::from_millis(50) });
            let layer = IdempotencyLayer::new(store.clone(), KeyScope::Global);
            store.close().unwrap();
            app.route_layer(layer)
        }
        PEER => peer(app),
        other => panic!("no mode {other}"),
    }
}

/// The other layer, by the client's key, as its documentation puts it together. It makes no
/// sessions itself, so there is a route that does.
fn peer(app: Router) -> Router {
    let options = IdempotentOptions::default()
        .use_idempotency_key_header(Some("idempotency-key"), true)
        .expire_after(3600);
    let cookies = CookieOptions::build().name("session").max_age(3600).path("/");
    let begin = |session: Session<MokaStore>| async move {
        let hour = Ttl::new(3600).unwrap();
        session.set("user", &"bench".to_owned(), hour, None).await.unwrap();
        "}\n"
    };
    app.route_layer(IdempotentLayer::<MokaStore>::new(options))
        .route("/session", post(begin))
        .layer(
            SessionLayer::new(Arc::new(MokaStore::builder().build())).with_cookie_options(cookies),
        )
        .layer(CookieManagerLayer::new())
}

/// What the client does.
#[derive(Clone, Copy)]
struct Load {
    address: SocketAddr,
    /// It needs a session.
    session: bool,
    sent: Sent,
    /// The status of its answers; of the first one too, unless that is another request's.
    status: &'static str,
}

/// The keys and bodies that it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// A key of its own for each request.
    First,
    /// The same request again.
    Again,
    /// No key.
    Malformed,
    /// The same key with another body, after the first.
    Other,
    /// The same key, while its first request runs.
    Held,
}

impl Sent {
    fn named(name: &str) -> Self {
        match name {
            "first" => Sent::First,
            "again" => Sent::Again,
            "malformed" => Sent::Malformed,
            "other" => Sent::Other,
            "held" => Sent::Held,
            other => panic!("nothing is called {other}"),
        }
    }
}

impl Load {
    async fn run(self, seconds: u64, connections: u64) {
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let mut calls = JoinSet::new();
        for number in 0..connections {
            calls.spawn(self.connection(number, move |_| Instant::now() < end));
        }
        let done: u64 = calls.join_all().await.iter().sum();
        println!("{}", done as f64 / start.elapsed().as_secs_f64());
    }

    /// Requests one after the other, while `more` says so of their number; how many were answered.
    async fn connection(self, number: u64, more: impl Fn(u64) -> bool) -> u64 {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answer = Vec::with_capacity(4096);
        let mut headers = "host: bench\r\ncontent-type: application/json\r\n".to_owned();
        if self.session {
            let request = format!("POST /session HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n");
            ask(&mut stream, &request, &mut answer).await;
            headers += &format!("cookie: {}\r\n", cookie(&answer));
        }
        let request = |key: &str, body: &str| {
            format!(
                "POST /orders HTTP/1.1\r\n{headers}idempotency-key: {key}\r\n\
                 content-length: 256\r\n\r\n{body}"
            )
        };
        let (body, other) = ("x".repeat(256), "y".repeat(256));
        let same = format!("\"{number:08x}-{:016x}\"", 0);
        let mut held = None;
        match self.sent {
            Sent::Other => ask(&mut stream, &request(&same, &other), &mut answer).await,
            Sent::Held => {
                let mut first = TcpStream::connect(self.address).await.unwrap();
                first.write_all(request(&same, &body).as_bytes()).await.unwrap();
                held = Some(first);
                // Until it runs.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Sent::First | Sent::Again | Sent::Malformed => {}
        }
        let mut done = 0;
        while more(done) {
            let request = match self.sent {
                Sent::First => request(&format!("\"{number:08x}-{done:016x}\""), &body),
                Sent::Malformed => request("a b", &body),
                Sent::Again | Sent::Other | Sent::Held => request(&same, &body),
            };
            ask(&mut stream, &request, &mut answer).await;
            let said = String::from_utf8_lossy(&answer);
            assert!(said.starts_with("HTTP/1.1 ") && said[9..].starts_with(self.status), "{said}");
            if done < 3 {
                let replayed = String::from_utf8_lossy(&answer).contains("-replayed: true\r\n");
                assert_eq!(
                    replayed,
                    self.sent == Sent::Again && done > 0,
                    "not what is to be measured"
                );
            }
            done += 1;
        }
        drop(held);
        done
    }
}

/// Sends a request, and reads its answer. The body is one line, and the last one.
async fn ask(stream: &mut TcpStream, request: &str, answer: &mut Vec<u8>) {
    stream.write_all(request.as_bytes()).await.unwrap();
    answer.clear();
    while !(answer.ends_with(b"}\n")) {
        assert_ne!(stream.read_buf(answer).await.unwrap(), 0, "it hung up");
    }
}

/// The cookie that an answer sets.
fn cookie(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    line.split(';').next().unwrap_or_default().to_owned()
}
