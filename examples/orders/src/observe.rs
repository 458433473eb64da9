//! What the service lets see of itself: figures under `GET /metrics`, events on stderr.

use anyhow::Context;
use axum::{
    Router,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use onlyonce::{
    Operators,
    metrics::{GROUP_BUCKETS, Publisher, SECONDS_BUCKETS},
};
use std::sync::{Arc, Mutex};
use tracing::Level;

/// Writes events of `level` and above to stderr.
pub fn log(level: Level) {
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
}

/// A recorder, and what fills it.
struct Metrics {
    publisher: Mutex<Publisher>,
    recorder: PrometheusHandle,
}

/// `GET /metrics`: the store's figures at the time of the request.
pub fn metrics(store: Operators) -> anyhow::Result<Router> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &GROUP_BUCKETS)?
        .install_recorder()
        .context("installing the recorder of metrics")?;
    let publisher = Mutex::new(Publisher::new(store));
    let metrics = Arc::new(Metrics { publisher, recorder });
    Ok(Router::new().route("/metrics", get(move || async move { metrics.render() })))
}

impl Metrics {
    fn render(&self) -> Response {
        self.publisher.lock().expect("publishing doesn't panic").publish();
        let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
        (kind, self.recorder.render()).into_response()
    }
}
