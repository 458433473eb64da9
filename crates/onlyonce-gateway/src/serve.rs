//! Connections of clients, and the end of the process in good order.

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::sleep,
};
use tower_service::Service;

/// How long requests that run at a stop may take.
pub const GRACE: Duration = Duration::from_secs(30);

/// The address of a request's sender, in its extensions.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Serves connections until `stop`, and the requests that run then to their end.
pub async fn serve<S, B>(listener: TcpListener, service: S, stop: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (ending, end) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, peer)) = accepted else {
            // No descriptor is free, perhaps: a moment later one may be.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (service, mut end) = (service.clone(), end.clone());
        tokio::spawn(async move {
            let each = service_fn(move |mut request: Request<Incoming>| {
                let mut service = service.clone();
                async move {
                    request.extensions_mut().insert(Peer(peer));
                    let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
                    service.call(request).await
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), each);
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = end.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            // A client that went away: nothing to do about it.
            drop(ended);
        });
    }
    drop(end);
    // The connections hear it when the sender is gone, and each drops its receiver at its end.
    let closed = async {
        ending.send_replace(());
        ending.closed().await;
    };
    let _ = tokio::time::timeout(GRACE, closed).await;
}

/// SIGTERM and ctrl-c.
pub struct Stop([Signal; 2]);

impl Stop {
    pub fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Stop([terminate, signal(SignalKind::interrupt())?]))
    }

    pub async fn asked(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
