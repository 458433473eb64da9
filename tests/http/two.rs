//! The layer over HTTP/2: many requests on one connection, streams that are reset.

use crate::service::*;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onlyonce::http::BoxError;
use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tower::Service;

/// Serves on a socket, HTTP/2 without TLS.
pub async fn serve_two<I, R>(service: I) -> SocketAddr
where
    I: Service<Request<hyper::body::Incoming>, Response = Response<R>> + Clone + Send + 'static,
    I::Future: Send,
    I::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

pub type Client<B> = SendRequest<B>;

pub async fn connect<B>(address: SocketAddr) -> Client<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let io = TokioIo::new(stream);
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    client
}

fn order(key: &str) -> Request<Full<Bytes>> {
    let (mut parts, body) = post(key).into_parts();
    parts.uri = "http://orders.test/orders".parse().unwrap();
    Request::from_parts(parts, body)
}

pub async fn ask<B>(client: &Client<B>, request: Request<B>) -> Got
where
    B: Body + Send + 'static,
{
    Got::of(client.clone().send_request(request).await.unwrap()).await
}

/// Polls a call once, so that it is on its way.
async fn begun<F: Future>(mut call: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(call.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// What the gated handlers answer.
fn taken() -> http::Response<AnyBody> {
    with(with(answer(201, "order 1"), "link", "<1>"), "link", "<2>")
}

#[tokio::test]
async fn streams_of_one_connection_share_a_key() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, taken);
    let address = serve_two(behind(&layer(&store), &orders)).await;
    let client = connect(address).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, order("k")).await }
    });
    until(|| orders.runs() == 1).await;
    let second = ask(&client, order("k")).await;
    assert_eq!((second.status.as_u16(), second.problem().as_str()), (409, "in-flight"));
    gate.add_permits(1);
    let first = first.await.unwrap();
    assert_eq!((first.status.as_u16(), first.text(), first.is_replay()), (201, "order 1", false));
    for client in [client, connect(address).await] {
        let again = ask(&client, order("\"k\"")).await;
        assert_eq!(
            (again.status, &again.body, again.is_replay()),
            (first.status, &first.body, true)
        );
        let links = |got: &Got| got.headers.get_all("link").iter().cloned().collect::<Vec<_>>();
        assert_eq!((links(&again), links(&again).len()), (links(&first), 2));
    }
    assert_eq!(orders.runs(), 1);
}

/// A stream that is reset while its handler runs: the handler ends, and the retry gets its answer.
#[tokio::test]
async fn a_stream_is_reset() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, taken);
    let layer = layer(&store);
    let address = serve_two(behind(&layer, &orders)).await;
    let client = connect(address).await;
    let mut first = Box::pin(client.clone().send_request(order("k")));
    begun(first.as_mut()).await;
    until(|| orders.runs() == 1).await;
    // Sends RST_STREAM; the connection goes on.
    drop(first);
    assert_eq!(ask(&client, order("k")).await.problem(), "in-flight");
    gate.add_permits(1);
    until(|| layer.running() == 0).await;
    let again = ask(&client, order("k")).await;
    assert_eq!((again.text(), again.is_replay(), orders.runs()), ("order 1", true, 1));
}

/// Reset when its head has arrived, and its body hasn't been read.
#[tokio::test]
async fn a_stream_is_reset_before_its_body() {
    let store = store();
    let orders = handler(|_| async { answer(201, vec![b'x'; 60_000]) });
    let client = connect(serve_two(behind(&layer(&store), &orders)).await).await;
    drop(client.clone().send_request(order("k")).await.unwrap());
    let again = ask(&client, order("k")).await;
    assert_eq!((again.body.len(), again.is_replay(), orders.runs()), (60_000, true, 1));
}

/// Reset before its body was whole: nothing has begun.
#[tokio::test]
async fn a_request_is_reset() {
    let store = store();
    let orders = counter();
    let layer = layer(&store);
    let client = connect(serve_two(behind(&layer, &orders)).await).await;
    let (tell, body) = channel();
    tell.send(Frame::data(Bytes::from("one "))).unwrap();
    let request = order("k").map(|_| body);
    let mut first = Box::pin(client.clone().send_request(request));
    begun(first.as_mut()).await;
    until(|| layer.buffered() == 4).await;
    drop(first);
    drop(tell);
    until(|| layer.buffered() == 0).await;
    assert_eq!((orders.runs(), store.stats().granted), (0, 0));
    let (tell, body) = channel();
    tell.send(Frame::data(Bytes::from("one book"))).unwrap();
    drop(tell);
    assert_eq!(ask(&client, order("k").map(|_| body)).await.text(), "order 1");
}

pub type Pieces = mpsc::UnboundedSender<Frame<Bytes>>;

/// A body that is sent frame by frame.
pub fn channel() -> (Pieces, AnyBody) {
    let (tell, told) = mpsc::unbounded_channel();
    (tell, StreamBody::new(Stream(told)).boxed_unsync())
}

struct Stream(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl futures_core::Stream for Stream {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

pub fn trailers(name: &'static str, value: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, HeaderValue::from_static(value));
    Frame::trailers(trailers)
}

/// Trailers of an answer are kept with it, and those of a request arrive.
#[tokio::test]
async fn trailers_go_both_ways() {
    let store = store();
    let sums = tower::service_fn(
        |request: Request<onlyonce::http::RequestBody<hyper::body::Incoming>>| async move {
            let body = request.into_body().collect().await?;
            let sum = body.trailers().unwrap()["x-sum"].clone();
            let (tell, body) = channel();
            tell.send(Frame::data(Bytes::from("summed"))).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", sum);
            tell.send(Frame::trailers(trailers)).unwrap();
            Ok::<_, BoxError>(answer(200, "").map(|_| body))
        },
    );
    let client = connect(serve_two(tower::Layer::layer(&layer(&store), sums)).await).await;
    for replay in [false, true] {
        let (tell, body) = channel();
        tell.send(Frame::data(Bytes::from("one book"))).unwrap();
        tell.send(trailers("x-sum", "seventy")).unwrap();
        drop(tell);
        let got = ask(&client, order("k").map(|_| body)).await;
        assert_eq!((got.text(), got.is_replay()), ("summed", replay));
        assert_eq!(got.trailers.unwrap()["x-sum"], "seventy");
    }
}

/// What HTTP/2 calls authority is what HTTP/1 calls host.
#[tokio::test]
async fn another_authority_is_another_request() {
    let (store, orders) = (store(), counter());
    let service = behind(&layer(&store), &orders);
    let client = connect(serve_two(service.clone()).await).await;
    let to = |host: &str| {
        let mut request = order("k");
        request.headers_mut().remove("host");
        *request.uri_mut() = format!("http://{host}/orders").parse().unwrap();
        request
    };
    assert_eq!(ask(&client, to("orders.test")).await.text(), "order 1");
    assert!(ask(&client, to("Orders.TEST")).await.is_replay());
    assert_eq!(ask(&client, to("other.test")).await.problem(), "key-reused");
    let mut request = post("k");
    request.headers_mut().insert("host", HeaderValue::from_static("orders.test"));
    assert!(send(&service, request).await.is_replay());
    assert_eq!(orders.runs(), 1);
}
