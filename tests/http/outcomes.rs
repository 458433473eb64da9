//! H31: what became of requests is counted, published and in a span of each.

use crate::service::*;

use http::{HeaderValue, Method};
use onlyonce::http::{IdempotencyLayer, KeyScope};
use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

fn count(layer: &Layered, outcome: &str) -> u64 {
    let all = layer.outcomes();
    all.iter().find(|(name, _)| *name == outcome).unwrap_or_else(|| panic!("no {outcome}")).1
}

#[tokio::test]
async fn each_has_its_count() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order"));
    let layer = layer(&store).optional().wait(Duration::from_secs(3600)).max_waiters(0);
    let address = serve(behind(&layer, &orders)).await;
    let first = tokio::spawn(send_to(address, post("k")));
    until(|| orders.runs() == 1).await;
    assert_eq!(send_to(address, post("k")).await.problem(), "in-flight");
    gate.add_permits(9);
    first.await.unwrap();
    assert!(send_to(address, post("k")).await.is_replay());
    assert_eq!(send_to(address, post_body("k", "other")).await.problem(), "key-reused");
    assert_eq!(send_to(address, post("a b")).await.problem(), "key-malformed");
    let mut get = post("k");
    *get.method_mut() = Method::GET;
    send_to(address, get).await;
    let mut keyless = post("k");
    keyless.headers_mut().remove("idempotency-key");
    send_to(address, keyless).await;
    let counted: Vec<_> = layer.outcomes().into_iter().filter(|(_, count)| *count > 0).collect();
    let expected = [
        ("passed", 2),
        ("executed", 1),
        ("replayed", 1),
        ("wait_refused", 1),
        ("key-malformed", 1),
        ("key-reused", 1),
        ("in-flight", 1),
    ];
    assert_eq!(counted, expected);
}

/// Bytes and places that a scope is refused are counted, and told by the scope's hash.
#[tokio::test]
async fn shares_of_the_layer_are_told_by_scope() {
    crate::listener::listen();
    let told = Told::default();
    let _told = tracing::subscriber::set_default(told.clone());
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let orders = gated(&gate, || answer(201, "order"));
    let account =
        |parts: &http::request::Parts| Some(parts.headers.get("account")?.as_bytes().to_vec());
    let layer = IdempotencyLayer::new(store.clone(), KeyScope::by(account))
        .max_buffered(20_000)
        .wait(Duration::from_secs(3600))
        .max_waiting(4);
    let address = serve(behind(&layer, &orders)).await;
    let of = |account: &'static str, key: &str, size: usize| {
        let mut request = post_body(key, vec![b'x'; size]);
        request.headers_mut().insert("account", HeaderValue::from_static(account));
        request
    };
    let large = send_to(address, of("a", "k", 15_000)).await;
    assert_eq!(large.problem(), "share-used");
    let first = tokio::spawn(send_to(address, of("b", "k", 1)));
    until(|| orders.runs() == 1).await;
    // Of four places one scope has one, then two at most.
    let waiting: Vec<_> = (0..4).map(|_| tokio::spawn(send_to(address, of("b", "k", 1)))).collect();
    until(|| count(&layer, "wait_refused") > 0).await;
    gate.add_permits(9);
    first.await.unwrap();
    for one in waiting {
        one.await.unwrap();
    }
    assert_eq!(count(&layer, "share-used"), 1);
    let events = told.events();
    for what in ["bytes of bodies", "places to wait"] {
        let event = events.iter().find(|event| event.contains(what));
        let event = event.unwrap_or_else(|| panic!("{what}: {events:?}"));
        assert!(event.contains("scope=") && event.contains("refusals=1"), "{event}");
    }
}

#[tokio::test]
async fn one_span_for_each_request_has_the_outcome() {
    crate::listener::listen();
    let told = Told::default();
    let _told = tracing::subscriber::set_default(told.clone());
    let store = store();
    let orders = counter();
    let service = behind(&layer(&store), &orders);
    for _ in 0..2 {
        send(&service, post("k")).await;
    }
    send(&service, post_body("k", "other")).await;
    let spans = told.spans();
    assert_eq!(spans.len(), 3, "{spans:?}");
    assert!(spans[0].starts_with("outcome=\"executed\" attempt=1 token="), "{spans:?}");
    assert_eq!(spans[1..], ["outcome=\"replayed\" ", "outcome=\"key-reused\" "]);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn they_are_published() {
    use metrics_exporter_prometheus::PrometheusBuilder;
    let store = store();
    let layer = layer(&store);
    let service = behind(&layer, &counter());
    send(&service, post("k")).await;
    send(&service, post("k")).await;
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || layer.publish());
    let page = recorder.handle().render();
    for line in [
        "onlyonce_http_requests_total{outcome=\"executed\"} 1",
        "onlyonce_http_requests_total{outcome=\"replayed\"} 1",
        "onlyonce_http_requests_total{outcome=\"key-reused\"} 0",
        "onlyonce_http_double_executions_total 0",
        "onlyonce_http_running 0",
    ] {
        assert!(page.lines().any(|published| published == line), "{line}\n{page}");
    }
}

/// Remembers the layer's events and what was written into its spans. The tests' services run on the
/// test's own thread.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl Told {
    fn events(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }

    fn spans(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        *self.0 += &format!("{}={value:?} ", field.name());
    }
}

/// Of spans of the store's own.
const OTHER: u64 = u64::MAX;

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "onlyonce"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if span.metadata().name() != "idempotency" {
            return Id::from_u64(OTHER);
        }
        let mut told = self.0.lock().unwrap();
        told.1.push(String::new());
        Id::from_u64(told.1.len() as u64)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        if id.into_u64() != OTHER {
            values.record(&mut Line(&mut self.0.lock().unwrap().1[id.into_u64() as usize - 1]));
        }
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut Line(&mut line));
        self.0.lock().unwrap().0.push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
