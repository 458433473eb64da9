//! H35: calls of gRPC, by tonic's server and client and by the client of another language: unary
//! answers are kept with their trailers, streams by their heads.

use crate::{
    service::*,
    slow_clients::Told,
    two::{Client, Pieces, ask, channel, connect, serve_two, trailers},
};

use bytes::{Buf, BufMut, Bytes};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::Full;
use onlyonce::{
    Store,
    http::{Attempt, BoxError, RequestBody, Settlement, StoredAnswer, Verdict},
    storage::SimStorage,
};
use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tonic::{
    Code, Status,
    body::Body as GrpcBody,
    client::Grpc as Caller,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::Grpc as Server,
};
use tower::{Layer, service_fn};

/// Messages that are texts.
#[derive(Clone, Copy)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Text;
    type Decoder = Text;

    fn encoder(&mut self) -> Text {
        Text
    }

    fn decoder(&mut self) -> Text {
        Text
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        String::from_utf8(bytes.into()).map(Some).map_err(|_| Status::internal("no text"))
    }
}

/// The method `Create` of a shop: what a call does is in its message.
#[derive(Clone, Default)]
struct Create(Arc<AtomicU64>);

impl tonic::server::UnaryService<String> for Create {
    type Response = String;
    type Future = std::future::Ready<Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let run = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(request.extensions().get::<Attempt>().unwrap().number(), 1);
        std::future::ready(match request.get_ref().split_once(' ') {
            Some(("fails", code)) => Err(Status::new(code.parse::<i32>().unwrap().into(), "so")),
            Some(("flaky", _)) if run == 1 => Err(Status::unavailable("not yet")),
            _ => {
                let mut answer = tonic::Response::new(format!("order {run}"));
                answer.metadata_mut().insert("taken-by", "till 7".parse().unwrap());
                Ok(answer)
            }
        })
    }
}

/// The method `Watch`: a stream of three messages.
struct Watch;

impl tonic::server::ServerStreamingService<String> for Watch {
    type Response = String;
    type ResponseStream = Three;
    type Future = std::future::Ready<Result<tonic::Response<Three>, Status>>;

    fn call(&mut self, _: tonic::Request<String>) -> Self::Future {
        let (tell, told) = mpsc::unbounded_channel();
        for message in ["one", "two", "three"] {
            tell.send(message.to_owned()).unwrap();
        }
        std::future::ready(Ok(tonic::Response::new(Three(told))))
    }
}

struct Three(mpsc::UnboundedReceiver<String>);

impl futures_core::Stream for Three {
    type Item = Result<String, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|message| message.map(Ok))
    }
}

/// Serves the shop on a socket, behind a layer over `store`.
async fn shop(store: &Store, create: &Create) -> SocketAddr {
    let create = create.clone();
    let methods = service_fn(move |call: Request<RequestBody<hyper::body::Incoming>>| {
        let create = create.clone();
        async move {
            let mut server = Server::new(Text);
            Ok::<_, BoxError>(match call.uri().path() {
                "/shop.Orders/Create" => server.unary(create, call).await,
                "/shop.Orders/Watch" => server.server_streaming(Watch, call).await,
                other => panic!("no {other}"),
            })
        }
    });
    serve_two(layer(store).layer(methods)).await
}

fn text(message: &str, key: Option<&'static str>) -> tonic::Request<String> {
    let mut request = tonic::Request::new(message.to_owned());
    if let Some(key) = key {
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    }
    request
}

/// Calls `Create` by tonic's client: the message and the metadata of its head, or the status.
async fn create(
    client: &Client<GrpcBody>,
    message: &str,
    key: Option<&'static str>,
) -> Result<(String, HeaderMap), Status> {
    let client = client.clone();
    let channel = service_fn(move |call| client.clone().send_request(call));
    let mut caller = Caller::with_origin(channel, "http://shop.test".parse().unwrap());
    caller.ready().await.unwrap();
    let path = "/shop.Orders/Create".parse().unwrap();
    let answer = caller.unary(text(message, key), path, Text).await?;
    let (metadata, message, _) = answer.into_parts();
    Ok((message, metadata.into_headers()))
}

#[tokio::test]
async fn a_unary_answer_is_kept() {
    let (disk, runs) = (SimStorage::new(7), Create::default());
    let store = options().open_on(Arc::new(disk.clone())).unwrap();
    let client = connect(shop(&store, &runs).await).await;
    let (message, head) = create(&client, "book", Some("k")).await.unwrap();
    assert_eq!((message.as_str(), head["taken-by"].to_str().unwrap()), ("order 1", "till 7"));
    assert!(!head.contains_key("idempotent-replayed"));
    let replayed = async |client: &Client<GrpcBody>| {
        let (message, head) = create(client, "book", Some("k")).await.unwrap();
        assert_eq!((message.as_str(), head["taken-by"].to_str().unwrap()), ("order 1", "till 7"));
        assert_eq!(head["idempotent-replayed"], "true");
    };
    replayed(&client).await;
    // Another request, and one without a key.
    let other = create(&client, "pen", Some("k")).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition);
    assert!(other.message().starts_with("Idempotency-Key is already used: "), "{other:?}");
    let none = create(&client, "pen", None).await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument);
    // In another life of the store, too.
    store.close().unwrap();
    let store = options().open_on(Arc::new(disk)).unwrap();
    replayed(&connect(shop(&store, &runs).await).await).await;
    assert_eq!(runs.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failure_of_tonic_is_a_verdict() {
    for (code, runs, done, interrupted) in [
        (14, 2, 0, 0),
        (8, 2, 0, 0),
        (16, 2, 0, 0),
        (7, 2, 0, 0),
        (2, 1, 0, 1),
        (4, 1, 0, 1),
        (13, 1, 0, 1),
        (5, 1, 1, 0),
        (9, 1, 1, 0),
    ] {
        let (store, made) = (store(), Create::default());
        let client = connect(shop(&store, &made).await).await;
        for _ in 0..2 {
            let status = create(&client, &format!("fails {code}"), Some("k")).await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::from(code), "so"));
        }
        let stats = store.stats();
        assert_eq!(made.0.load(Ordering::SeqCst), runs, "{code}");
        assert_eq!((stats.completed, stats.interrupted), (done, interrupted), "{code}");
    }
}

/// A call with a message and its status after it, as it comes over the wire.
fn call_with(key: &str, message: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://orders.test/shop.Orders/Create");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let request = request.header("idempotency-key", key);
    request.body(Full::new(Bytes::from(message))).unwrap()
}

const MESSAGE: &str = "\0\0\0\0\x01x";

fn trailer<'a>(got: &'a Got, name: &str) -> Option<&'a str> {
    Some(got.trailers.as_ref()?.get(name)?.to_str().unwrap())
}

fn status_of(got: &Got) -> Option<&str> {
    trailer(got, "grpc-status")
}

/// An answer of one message and these trailers.
fn one_message(status: Option<&'static str>) -> http::Response<AnyBody> {
    let (tell, body) = channel();
    tell.send(Frame::data(Bytes::from(&MESSAGE[..3]))).unwrap();
    tell.send(Frame::data(Bytes::from(&MESSAGE[3..]))).unwrap();
    if let Some(status) = status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        trailers.insert("x-sum", "seventy".parse().unwrap());
        // What describes one message only.
        trailers.insert("server-timing", "db;dur=3".parse().unwrap());
        tell.send(Frame::trailers(trailers)).unwrap();
    }
    with(answer(200, "").map(|_| body), "content-type", "application/grpc")
}

#[tokio::test]
async fn the_status_after_the_message_is_a_verdict() {
    for (status, runs, replayed, done) in [
        (Some("14"), 2, false, 0),
        (Some("8"), 2, false, 0),
        (Some("16"), 2, false, 0),
        (Some("7"), 2, false, 0),
        (Some("2"), 1, true, 0),
        (Some("4"), 1, true, 0),
        (Some("13"), 1, true, 0),
        (Some("5"), 1, true, 1),
        (Some("0"), 1, true, 1),
        // It broke off: clients say UNKNOWN.
        (None, 1, true, 0),
    ] {
        let store = store();
        let calls = handler(move |_| std::future::ready(one_message(status)));
        let client = connect(serve_two(behind(&layer(&store), &calls)).await).await;
        let first = ask(&client, call_with("k", "a")).await;
        let again = ask(&client, call_with("k", "a")).await;
        assert_eq!((first.text(), again.text()), (MESSAGE, MESSAGE));
        assert_eq!(again.is_replay(), replayed, "{status:?}");
        assert_eq!((calls.runs(), store.stats().completed), (runs, done), "{status:?}");
        for name in ["grpc-status", "x-sum"] {
            assert_eq!(trailer(&first, name), trailer(&again, name));
        }
        assert_eq!(status_of(&again), status);
        assert!(!replayed || trailer(&again, "server-timing").is_none());
        let retryable = (replayed && done == 0).then_some("false");
        assert_eq!(again.header("idempotency-retryable"), retryable);
    }
}

/// A policy and a handler know better, as with any other answer.
#[tokio::test]
async fn an_answer_knows_better() {
    for (verdict, runs) in [(Verdict::NothingDone, 2), (Verdict::Final, 1), (Verdict::Unknown, 1)] {
        let store = store();
        let calls = handler(move |_| {
            let mut answer = one_message(Some("0"));
            answer.extensions_mut().insert(verdict);
            std::future::ready(answer)
        });
        let client = connect(serve_two(behind(&layer(&store), &calls)).await).await;
        for _ in 0..2 {
            let got = ask(&client, call_with("k", "a")).await;
            assert_eq!((got.text(), status_of(&got).unwrap()), (MESSAGE, "0"));
        }
        assert_eq!(calls.runs(), runs, "{verdict:?}");
        assert_eq!(store.stats().interrupted, u64::from(verdict == Verdict::Unknown));
    }
    // Of a call the policy sees the status in the head, and the client where it was.
    let policy =
        onlyonce::http::Policy::by(|answer| match answer.headers["grpc-status"].as_bytes() {
            b"5" => Verdict::NothingDone,
            _ => Verdict::Final,
        });
    let (store, calls) = (store(), handler(|_| std::future::ready(one_message(Some("5")))));
    let layer = layer(&store).policy(policy);
    let client = connect(serve_two(behind(&layer, &calls)).await).await;
    for _ in 0..2 {
        let got = ask(&client, call_with("k", "a")).await;
        assert_eq!((got.header("grpc-status"), got.is_replay()), (None, false));
    }
    assert_eq!(calls.runs(), 2);
}

/// What a call that has failed says of it in its head.
#[tokio::test]
async fn the_status_in_the_head_is_a_verdict() {
    for (code, runs, replayed) in [
        ("14", 2, false),
        ("8", 2, false),
        ("16", 2, false),
        ("7", 2, false),
        ("2", 1, true),
        ("4", 1, true),
        ("13", 1, true),
        ("5", 1, true),
        ("0", 1, true),
    ] {
        let store = store();
        let calls = handler(move |_| {
            let head = with(answer(200, ""), "content-type", "application/grpc");
            std::future::ready(with(head, "grpc-status", code))
        });
        let client = connect(serve_two(behind(&layer(&store), &calls)).await).await;
        ask(&client, call_with("k", "a")).await;
        let again = ask(&client, call_with("k", "a")).await;
        assert_eq!((again.header("grpc-status"), again.is_replay()), (Some(code), replayed));
        let done = u64::from(code < "1" || code == "5");
        assert_eq!((calls.runs(), store.stats().completed), (runs, done));
    }
}

/// The layer's own answers to calls of gRPC.
#[tokio::test]
async fn refusals_are_in_its_own_words() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let calls = gated(&gate, || one_message(Some("0")));
    let client = connect(serve_two(behind(&layer(&store), &calls)).await).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, call_with("k", "a")).await }
    });
    until(|| calls.runs() == 1).await;
    let told = |got: &Got| {
        assert_eq!((got.status.as_u16(), got.body.len()), (200, 0));
        assert_eq!(got.header("content-type"), Some("application/grpc"));
        let said = got.header("grpc-message").unwrap().to_owned();
        (got.header("grpc-status").unwrap().to_owned(), said)
    };
    let busy = ask(&client, call_with("k", "a")).await;
    let (status, said) = told(&busy);
    assert_eq!(status, "10");
    assert!(said.starts_with("A request is outstanding for this Idempotency-Key: "), "{said}");
    let pushback: u64 = busy.header("grpc-retry-pushback-ms").unwrap().parse().unwrap();
    assert!((1_000..=10_000).contains(&pushback));
    assert_eq!(told(&ask(&client, call_with("k", "b")).await).0, "9");
    assert_eq!(told(&ask(&client, call_with("a b", "a")).await).0, "3");
    gate.add_permits(1);
    first.await.unwrap();
}

/// A handler whose answer is sent frame by frame by the test.
fn by_hand() -> (Handler, Arc<Mutex<Option<Pieces>>>) {
    let pieces: Arc<Mutex<Option<Pieces>>> = Arc::default();
    let calls = handler({
        let pieces = pieces.clone();
        move |_| {
            let (tell, body) = channel();
            *pieces.lock().unwrap() = Some(tell);
            let made = answer(200, "").map(|_| body);
            std::future::ready(with(made, "content-type", "application/grpc+proto"))
        }
    });
    (calls, pieces)
}

/// Recorded by its head when its second message begins, before anything is sent; whole for the one
/// who called; never executed again.
#[tokio::test]
async fn a_stream_is_recorded_by_its_head() {
    let store = store();
    let client = connect(shop(&store, &Create::default()).await).await;
    let watch = async || {
        let client = client.clone();
        let channel = service_fn(move |call| client.clone().send_request(call));
        let mut caller = Caller::with_origin(channel, "http://shop.test".parse().unwrap());
        caller.ready().await.unwrap();
        let path = "/shop.Orders/Watch".parse().unwrap();
        caller.server_streaming(text("all", Some("k")), path, Text).await
    };
    let mut stream = watch().await.unwrap().into_inner();
    assert_eq!(store.stats().completed, 1);
    for expected in ["one", "two", "three"] {
        assert_eq!(stream.message().await.unwrap().as_deref(), Some(expected));
    }
    assert_eq!(stream.message().await.unwrap(), None);
    let again = watch().await.map(|_| ()).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert_eq!(again.metadata().get("idempotency-retryable").unwrap(), "false");
}

/// An answer that falls silent after its first message is a stream, too; until then it is held.
#[tokio::test]
async fn what_falls_silent_is_a_stream() {
    let (store, time, (calls, pieces)) = (store(), Told::default(), by_hand());
    let layer = layer(&store).executor(time.clone());
    let client = connect(serve_two(behind(&layer, &calls)).await).await;
    let first = tokio::spawn(client.clone().send_request(call_with("k", "a")));
    // A request's body may take its time, too.
    const SILENCE: Duration = Duration::from_secs(1);
    let silences = || time.0.lock().unwrap().iter().filter(|(time, _)| *time == SILENCE).count();
    until(|| silences() == 1).await;
    let tell = pieces.lock().unwrap().take().unwrap();
    tell.send(Frame::data(Bytes::from(MESSAGE))).unwrap();
    until(|| silences() == 2).await;
    assert_eq!((store.stats().completed, store.stats().in_flight), (0, 1));
    let (_, over) = time.0.lock().unwrap().pop().unwrap();
    over.send(()).unwrap();
    // The head is here, and so will be the message; the end is still to come.
    let first = first.await.unwrap().unwrap();
    assert_eq!(store.stats().completed, 1);
    assert_eq!(ask(&client, call_with("k", "a")).await.header("grpc-status"), Some("6"));
    tell.send(trailers("grpc-status", "0")).unwrap();
    drop(tell);
    let first = Got::of(first).await;
    assert_eq!((first.text(), status_of(&first).unwrap()), (MESSAGE, "0"));
    assert_eq!(calls.runs(), 1);
}

/// A unary answer beyond the bound is recorded by its head, and passed on whole.
#[tokio::test]
async fn what_is_too_large_is_recorded_by_its_head() {
    let (store, (calls, pieces)) = (store(), by_hand());
    let client = connect(serve_two(behind(&layer(&store).max_response(2048), &calls)).await).await;
    let first = tokio::spawn(client.clone().send_request(call_with("k", "a")));
    until(|| pieces.lock().unwrap().is_some()).await;
    let tell = pieces.lock().unwrap().take().unwrap();
    let message = [&b"\0\0\0\x10\0"[..], &[b'x'; 4096]].concat();
    for chunk in message.chunks(1000) {
        tell.send(Frame::data(Bytes::copy_from_slice(chunk))).unwrap();
    }
    tell.send(trailers("grpc-status", "0")).unwrap();
    drop(tell);
    let first = Got::of(first.await.unwrap().unwrap()).await;
    assert_eq!((&first.body[..], status_of(&first).unwrap()), (&message[..], "0"));
    assert_eq!(ask(&client, call_with("k", "a")).await.header("grpc-status"), Some("6"));
    assert_eq!(calls.runs(), 1);
}

/// What a settle function answers is replayed with its trailers.
#[tokio::test]
async fn a_settled_answer_has_its_trailers() {
    let store = store();
    let calls = handler(|_| std::future::ready(one_message(Some("13"))));
    let layer = layer(&store).settle(|_, _| async { Settlement::Happened(one_message(Some("0"))) });
    let client = connect(serve_two(behind(&layer, &calls)).await).await;
    let first = ask(&client, call_with("k", "a")).await;
    assert_eq!(first.trailers.unwrap()["grpc-status"], "13");
    for _ in 0..2 {
        let got = ask(&client, call_with("k", "a")).await;
        assert_eq!((got.text(), got.is_replay()), (MESSAGE, true));
        assert_eq!(got.trailers.unwrap()["grpc-status"], "0");
    }
    assert_eq!(calls.runs(), 1);
}

/// An operator's answer is where a client of gRPC looks for it, and is shown whole.
#[test]
fn an_operators_answer_has_trailers() {
    let headers: HeaderMap = [("content-type", "application/grpc"), ("grpc-status", "0")]
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect();
    let read = |body: &[u8]| {
        let (_, response) = StoredAnswer::pack(http::StatusCode::OK, &headers, body);
        match StoredAnswer::read(&response) {
            Some(StoredAnswer::Open { headers, trailers, .. }) => {
                (headers.contains_key("grpc-status"), trailers.contains_key("grpc-status"))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(MESSAGE.as_bytes()), (false, true));
    assert_eq!(read(b""), (true, false));
}

/// Python's client, with retries by itself. Skipped, with a line, where there is no `grpcio`; see
/// `.ci/clients`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_another_language() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = || {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", root.join("target/clients/python"));
        python
    };
    if !python().args(["-c", "import grpc"]).output().is_ok_and(|ended| ended.status.success()) {
        println!("skipped: no grpcio here; .ci/clients installs it");
        return;
    }
    let (store, runs) = (store(), Create::default());
    let address = shop(&store, &runs).await;
    let mut script = python();
    script.arg(root.join("tests/http/grpc_client.py")).arg(address.to_string());
    let ended = tokio::task::spawn_blocking(move || script.output().unwrap()).await.unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(ended.status.success(), "{}{}", said(&ended.stdout), said(&ended.stderr));
    // One that was unavailable, its second try, one more.
    assert_eq!(runs.0.load(Ordering::SeqCst), 3);
    assert_eq!((store.stats().completed, store.stats().interrupted), (3, 0));
}
