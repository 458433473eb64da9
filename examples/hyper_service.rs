//! A plain hyper service whose retried requests take effect once.
//!
//! ```text
//! cargo run --features tower --example hyper_service
//! curl -i http://127.0.0.1:8080/ -H 'Idempotency-Key: "one"' -d 'a book'
//! ```
//!
//! Send the second line twice: the order is taken once. Stop it by ctrl-c or `kill -9` and start
//! it again: still once.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use onlyonce::{
    Store,
    http::{Attempt, BoxError, IdempotencyLayer, KeyScope, RequestBody},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

static ORDERS: AtomicU64 = AtomicU64::new(0);

/// Runs once for each key.
async fn order(request: Request<RequestBody<Incoming>>) -> Result<Response<Full<Bytes>>, BoxError> {
    let Some(attempt) = request.extensions().get::<Attempt>().cloned() else {
        return Ok(Response::new(Full::from("POST an order here\n")));
    };
    let what = request.into_body().collect().await?.to_bytes();
    // A real service sends this key to the provider that it charges, or puts it into a unique
    // column: the same at each attempt.
    let charge = attempt.derive_key("charge");
    let number = ORDERS.fetch_add(1, Ordering::SeqCst) + 1;
    let what = String::from_utf8_lossy(&what);
    let answer = format!("order {number} for {what}, charged under {charge}\n");
    Ok(Response::builder().status(StatusCode::CREATED).body(Full::from(answer))?)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let directory = std::env::temp_dir().join("onlyonce-hyper-service");
    let store = Store::open(&directory)?;
    // One client, so one name space. With users: KeyScope::by(|request| the account).
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::Global);
    let service = layer.layer(service_fn(order));

    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}, keys in {}", listener.local_addr()?, directory.display());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = tokio::signal::ctrl_c() => break,
        };
        let service = TowerToHyperService::new(service.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
    let left = layer.drain(Duration::from_secs(10)).await;
    println!("{left} requests still ran");
    store.close()?;
    Ok(())
}
