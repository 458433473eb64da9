//! What Prometheus is told.

use crate::server::Server;

#[test]
fn the_stores_figures_are_served_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.order("k", r#"{"item":"book","quantity":1}"#);
    server.order("k", r#"{"item":"book","quantity":1}"#);
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.has("content-type: text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body).unwrap();
    for line in [
        "onlyonce_begins_total{outcome=\"granted\"} 1",
        "onlyonce_begins_total{outcome=\"replayed\"} 1",
        "onlyonce_ends_total{how=\"completed\"} 1",
        "onlyonce_step_seconds_count{step=\"begin\"} 2",
        "onlyonce_poisoned 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert!(text.contains("onlyonce_step_seconds_bucket{step=\"complete\",le=\"+Inf\"} 1"));
}
