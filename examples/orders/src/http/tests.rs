//! An order is taken once, however its clients and its process end.

use super::{App, created, idempotency, router};
use crate::orders::{NewOrder, Orders, Sqlite};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{Request, header},
    response::Response,
    routing::post,
};
use onlyonce::{AnyStore, testing::assert_idempotent};
use rusqlite::Connection;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

fn request() -> Request<Bytes> {
    let order = r#"{"item": "a book", "quantity": 1}"#;
    let request = Request::post("/orders").header(header::CONTENT_TYPE, "application/json");
    request.body(order.into()).unwrap()
}

/// Checks what `service` makes of a store and an orders database. The orders are counted beside it.
fn check(service: impl Fn(AnyStore, Sqlite) -> Router + Sync) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("orders.db");
    let orders = Sqlite::open(&file).unwrap();
    let counter = Mutex::new(Connection::open(&file).unwrap());
    let count = || {
        let count = "SELECT count(*) FROM orders";
        let orders = counter.lock().unwrap().query_row(count, [], |row| row.get::<_, i64>(0));
        orders.unwrap().unsigned_abs()
    };
    let service = |store| service(AnyStore::new(store), orders.clone());
    assert_idempotent(service, request(), count);
}

#[test]
fn orders_are_taken_once() {
    check(|store, orders| {
        let orders = Orders::Sqlite(orders);
        let layer = idempotency(store, orders.clone());
        router(Arc::new(App { orders }), layer)
    });
}

/// The same with one mistake: each attempt takes its order under a new name, so that none finds
/// the one of an attempt that died.
async fn create_under_any_name(
    State(orders): State<Sqlite>,
    Json(order): Json<NewOrder>,
) -> Response {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let name = format!("attempt {}", ATTEMPTS.fetch_add(1, Ordering::Relaxed));
    let order = orders.insert(name, &order).await.unwrap();
    // An attempt that dies here has taken its order.
    tokio::task::yield_now().await;
    created(&order)
}

#[test]
fn a_broken_handler_is_found() {
    let broken = || {
        check(|store, orders| {
            Router::new()
                .route("/orders", post(create_under_any_name))
                .route_layer(idempotency(store, Orders::Sqlite(orders.clone())))
                .with_state(orders)
        });
    };
    let panic = catch_unwind(AssertUnwindSafe(broken)).expect_err("nothing was found");
    let what = panic.downcast_ref::<String>().unwrap();
    assert!(what.starts_with("the process died: the request took effect 2 times"), "{what}");
}
