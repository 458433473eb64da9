//! The handlers. `POST /orders` is the one that matters: it takes effect once per key.

use crate::orders::{NewOrder, Order, Orders};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use onlyonce::{
    AnyStore,
    http::{Attempt, Fingerprints, IdempotencyLayer, KeyScope, Settlement, Verdict},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};

#[cfg(test)]
mod tests;

/// How long a duplicate waits for the request that is being executed, before it is sent away.
const WAIT: Duration = Duration::from_millis(500);

/// What the handlers work on.
pub struct App {
    /// What the requests are about.
    pub orders: Orders,
}

/// Retries of covered requests are answered by what `store` keeps. When an attempt has died, the
/// orders database tells whether it had taken the order.
pub fn idempotency(store: AnyStore, orders: Orders) -> IdempotencyLayer<AnyStore> {
    // A service with users names the account here, so that no user meets another's keys.
    IdempotencyLayer::new(store, KeyScope::Global)
        .wait(WAIT)
        // A retry may be spelled otherwise.
        // One service, by whatever address it is reached.
        .fingerprint(Fingerprints::new().host(false).canonical_json(true))
        .settle(move |attempt: Attempt, _| {
            let orders = orders.clone();
            async move {
                match orders.of_request(attempt.derive_key("order")).await {
                    Ok(Some(order)) => Settlement::Happened(created(&order)),
                    Ok(None) => Settlement::NothingHappened,
                    Err(_) => Settlement::Unknown,
                }
            }
        })
}

/// The routes.
pub fn router(app: Arc<App>, idempotency: IdempotencyLayer<AnyStore>) -> Router {
    Router::new()
        .route("/orders", get(list).post(create))
        .route("/orders/{id}", get(show))
        .route_layer(idempotency)
        .with_state(app)
}

async fn list(State(app): State<Arc<App>>) -> Response {
    match app.orders.all("").await {
        Ok(orders) => Json(orders).into_response(),
        Err(error) => failed("reading the orders", &error),
    }
}

async fn show(State(app): State<Arc<App>>, Path(id): Path<i64>) -> Response {
    match app.orders.with_id(id).await {
        Ok(Some(order)) => Json(order).into_response(),
        Ok(None) => Problem::NotFound.answer("there is no order with this number"),
        Err(error) => failed("reading the order", &error),
    }
}

/// Runs once for each key: the layer has claimed it, and keeps what comes back.
async fn create(State(app): State<Arc<App>>, attempt: Attempt, body: Bytes) -> Response {
    let new: NewOrder = match serde_json::from_slice(&body) {
        Ok(new) => new,
        Err(error) => return Problem::BadOrder.answer(&error.to_string()),
    };
    if let Err(why) = new.check() {
        return Problem::BadOrder.answer(why);
    }
    // Slow before and after the insert, so that a kill can fall on either side.
    let pause = Duration::from_millis(u64::from(new.delay_ms) / 2);
    tokio::time::sleep(pause).await;
    let order = match app.orders.insert(&attempt, &new).await {
        Ok(order) => order,
        Err(error) => return failed("taking the order", &error),
    };
    tokio::time::sleep(pause).await;
    created(&order)
}

/// 201: this order was created.
fn created(order: &Order) -> Response {
    let location = [(header::LOCATION, format!("/orders/{}", order.id))];
    (StatusCode::CREATED, location, Json(order)).into_response()
}

/// The service's own fault: told in the log, not to the client.
fn failed(doing: &str, error: &anyhow::Error) -> Response {
    eprintln!("{doing}: {error:#}");
    Problem::Failed.answer("the outcome is not known; send the same request again to find out")
}

/// The answers that are not orders, as `application/problem+json` (RFC 9457).
#[derive(Clone, Copy)]
enum Problem {
    BadOrder,
    NotFound,
    Failed,
}

impl Problem {
    fn answer(self, detail: &str) -> Response {
        let (status, name, title) = match self {
            Problem::BadOrder => {
                (StatusCode::BAD_REQUEST, "order-malformed", "This is not an order")
            }
            Problem::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Problem::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed", "The service failed"),
        };
        let kind = format!("urn:onlyonce:problem:{name}");
        let problem = json!({
            "type": kind, "title": title, "status": status.as_u16(), "detail": detail,
        });
        let headers = [
            (header::CONTENT_TYPE, "application/problem+json"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        let mut answer = (status, headers, format!("{problem}\n")).into_response();
        if let Problem::BadOrder = self {
            // The key is free for the order as it was meant.
            answer.extensions_mut().insert(Verdict::NothingDone);
        }
        answer
    }
}
