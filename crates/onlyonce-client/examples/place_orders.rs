//! Places orders at the service `orders`, all at once, each under a name; run again with the same
//! folder, it places those that it has not, and asks again for the answers to the others.
//!
//!     cargo run -p onlyonce-client --features store --example place_orders -- URL COUNT FOLDER
//!
//! A line for each order that is taken: its item and its number.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use onlyonce_client::{Intention, KeyedLayer, Memory, Policy};
use std::{env, error::Error, time::Duration};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [url, count, folder] = &args[..] else { return Err("URL COUNT FOLDER".into()) };
    let count: u64 = count.parse()?;
    // Another process may still hold the folder: one that was killed a moment ago.
    let memory = Memory::new(onlyonce::Options::new().open(folder)?);
    let policy = Policy::new()
        .memory(memory)
        .time_for_a_try(Duration::from_secs(1))
        .waits(Duration::from_millis(20), Duration::from_secs(1));
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let client = KeyedLayer::new(policy).layer(client);
    let mut orders = JoinSet::new();
    for nth in 0..count {
        let (client, item) = (client.clone(), format!("named {nth}"));
        let delay_ms = if nth % 10 == 0 { 1500 } else { 0 };
        let order = serde_json::json!({ "item": item, "quantity": 1 + nth, "delay_ms": delay_ms });
        let request = Request::post(url)
            .header("content-type", "application/json")
            .extension(Intention::new(&item))
            .body(Full::<Bytes>::from(order.to_string()))?;
        orders.spawn(async move {
            let answer = client.oneshot(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            if status != 201 {
                return Err(format!("{item}: {status} {body:?}").into());
            }
            let order: serde_json::Value = serde_json::from_slice(&body)?;
            println!("{item}\t{}", order["id"]);
            Ok::<_, Box<dyn Error + Send + Sync>>(())
        });
    }
    while let Some(placed) = orders.join_next().await {
        placed??;
    }
    Ok(())
}
