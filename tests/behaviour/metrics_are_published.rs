//! What a recorder of the crate `metrics` gets to see, as Prometheus shows it.

use crate::common::*;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use onlyonce::{
    metrics::{GROUP_BUCKETS, Publisher, SECONDS_BUCKETS},
    *,
};
use std::{collections::BTreeSet, fs, path::Path};

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
        .unwrap()
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &GROUP_BUCKETS)
        .unwrap()
        .build_recorder()
}

/// A store that has seen one of everything, and what it publishes.
fn published() -> String {
    let sim = Sim::new();
    let recorder = recorder();
    ::metrics::with_local_recorder(&recorder, || {
        let store = sim.open();
        let mut publisher = Publisher::new(&store);
        store.finish("done", b"first");
        assert_eq!(store.answer("done"), b"first");
        let _ = store.begin(key("done"), other_print()).unwrap();
        let mut late = store.claim("late");
        assert!(store.is_in_flight("late"));
        sim.clock.advance(2 * MINUTE);
        store.housekeep().unwrap();
        let Begin::Execute(mut next) = store.stuck("late").take_over().unwrap() else { panic!() };
        next.complete(b"second").unwrap();
        assert_eq!(late.complete(b"first"), Err(ClaimError::Fenced));
        drop(store.claim("forgotten"));
        sim.clock.advance(8 * DAY);
        // Another segment first, then this one is closed and sealed, then swept.
        for _ in 0..3 {
            store.housekeep().unwrap();
            sim.clock.advance(SECOND);
        }
        drop(store.claim("stuck"));
        let _held = store.claim("held");
        sim.clock.advance(10 * SECOND);
        assert!(publisher.publish());
        // Nothing is counted twice.
        assert!(publisher.publish());
        recorder.handle().render()
    })
}

/// The value of a line that starts so.
#[track_caller]
fn value(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in\n{text}")).parse().unwrap()
}

#[test]
fn the_stores_figures_are_published() {
    let text = published();
    for (line, expected) in [
        ("onlyonce_begins_total{outcome=\"granted\"}", 5.0),
        ("onlyonce_begins_total{outcome=\"taken_over\"}", 1.0),
        ("onlyonce_begins_total{outcome=\"replayed\"}", 1.0),
        ("onlyonce_begins_total{outcome=\"in_flight\"}", 1.0),
        ("onlyonce_begins_total{outcome=\"interrupted\"}", 1.0),
        ("onlyonce_begins_total{outcome=\"mismatch\"}", 1.0),
        ("onlyonce_begins_total{outcome=\"full\"}", 0.0),
        ("onlyonce_ends_total{how=\"completed\"}", 2.0),
        ("onlyonce_ends_total{how=\"abandoned\"}", 2.0),
        ("onlyonce_ends_total{how=\"lease_passed\"}", 1.0),
        ("onlyonce_fenced_total", 1.0),
        ("onlyonce_interrupted_expired_total", 1.0),
        ("onlyonce_segments_recycled_total", 1.0),
        ("onlyonce_keys{state=\"in_flight\"}", 1.0),
        ("onlyonce_keys{state=\"interrupted\"}", 1.0),
        ("onlyonce_keys{state=\"completed\"}", 0.0),
        ("onlyonce_oldest_seconds{state=\"in_flight\"}", 10.0),
        ("onlyonce_interrupted_keys{reason=\"dropped\"}", 1.0),
        ("onlyonce_interrupted_keys{reason=\"lease-passed\"}", 0.0),
        ("onlyonce_oldest_seconds{state=\"interrupted\"}", 10.0),
        ("onlyonce_capacity_bytes", f64::from(8 << 20)),
        ("onlyonce_poisoned", 0.0),
        ("onlyonce_life", 1.0),
        // Two completions, one of them fenced later and not counted as one.
        ("onlyonce_step_seconds_count{step=\"complete\"}", 3.0),
        ("onlyonce_step_seconds_count{step=\"replay\"}", 2.0),
    ] {
        assert_eq!(value(&text, line), expected, "{line}");
    }
    let claims_syncs = value(&text, "onlyonce_step_seconds_count{step=\"sync_claims\"}");
    assert!(claims_syncs >= 5.0, "each claim was synced: {claims_syncs}");
    let waits = value(&text, "onlyonce_step_seconds_count{step=\"commit_wait\"}");
    assert_eq!(value(&text, "onlyonce_group_size_sum"), waits, "each waiter is in one group");
}

#[test]
fn a_full_store_is_a_gauge() {
    let small = |options: Options| options.max_response(16 << 10).capacity(2 << 20);
    for sim in [Sim::with(small), Sim::with(|options| options.max_claims(16))] {
        let recorder = recorder();
        ::metrics::with_local_recorder(&recorder, || {
            let store = sim.open();
            let mut publisher = Publisher::new(&store);
            let mut full = || {
                assert!(publisher.publish());
                let text = recorder.handle().render();
                let refused = value(&text, "onlyonce_begins_total{outcome=\"full\"}");
                (value(&text, "onlyonce_full"), refused)
            };
            assert_eq!(full(), (0.0, 0.0));
            let mut held = Vec::new();
            loop {
                let name = format!("key-{}", held.len());
                match store.begin(key(&name), print()) {
                    Ok(begin) => held.push(granted(begin)),
                    Err(error) => break assert!(matches!(error, BeginError::StoreFull(_))),
                }
            }
            assert_eq!(full(), (1.0, 1.0));
            held.pop().unwrap().release().unwrap();
            assert_eq!(full(), (0.0, 1.0));
        });
    }
}

#[test]
fn live_and_dead_bytes_and_segments_are_told_apart() {
    let sim = Sim::new();
    let store = sim.open();
    store.finish("a", &[7; 1000]);
    store.finish("b", &[7; 1000]);
    let stats = store.stats();
    assert!((2000..2600).contains(&stats.bytes_live), "{stats:?}");
    assert_eq!(stats.bytes_dead, 0);
    let before = stats.bytes_live;
    store.close().unwrap();
    // Recovered records count as those that were written.
    let store = sim.open();
    assert_eq!(store.stats().bytes_live, before);
    sim.clock.advance(DAY);
    let stats = store.stats();
    assert_eq!((stats.bytes_live, stats.bytes_dead), (0, before));
    store.housekeep().unwrap();
    let stats = store.stats();
    assert_eq!((stats.bytes_live, stats.bytes_dead, stats.segments_recycled), (0, 0, 1));
}

#[test]
fn several_stores_are_told_apart_and_a_publisher_keeps_none_open() {
    let sims = [Sim::new(), Sim::new()];
    let stores = sims.each_ref().map(Sim::open);
    let recorder = recorder();
    ::metrics::with_local_recorder(&recorder, || {
        let mut publishers =
            [Publisher::named(&stores[0], "payments"), Publisher::named(&stores[1], "orders")];
        stores[0].finish("k", b"x");
        publishers.iter_mut().for_each(|publisher| assert!(publisher.publish()));
        let text = recorder.handle().render();
        let granted = |store| {
            let line = format!("onlyonce_begins_total{{store=\"{store}\",outcome=\"granted\"}}");
            value(&text, &line)
        };
        assert_eq!((granted("payments"), granted("orders")), (1.0, 0.0));
        drop(stores);
        assert!(publishers.iter_mut().all(|publisher| !publisher.publish()));
    });
    // The directory is free.
    sims[0].open();
}

/// Words of a text that are names of metrics.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|w| w.starts_with("onlyonce_"));
    let plain = words.map(|w| {
        ["_bucket", "_sum", "_count"].iter().find_map(|end| w.strip_suffix(end)).unwrap_or(w)
    });
    plain.map(str::to_owned).collect()
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn dashboard_alerts_and_documents_name_what_exists() {
    let text = published();
    let exported = names(&text);
    for path in ["docs/grafana/dashboard.json", "docs/grafana/alerts.yml"] {
        let used = names(&file(path));
        assert!(!used.is_empty(), "{path} names no metric");
        let unknown: Vec<_> = used.difference(&exported).collect();
        assert!(unknown.is_empty(), "{path} names what no store publishes: {unknown:?}");
    }
    let documented = names(&file("docs/operations.md"));
    // Those of the HTTP layer are published by the layer.
    let (layer, documented): (BTreeSet<_>, BTreeSet<_>) =
        documented.into_iter().partition(|name| name.starts_with("onlyonce_http_"));
    // Those of a table are published by a store on PostgreSQL.
    let listed = file("src/metrics.rs") + &file("src/operate/figures.rs");
    assert_eq!(documented, names(&listed));
    assert!(exported.is_subset(&documented));
    assert_eq!(layer, names(&file("src/http/outcome.rs")));
}

#[test]
fn labels_in_dashboard_and_alerts_exist() {
    let text = published();
    for path in ["docs/grafana/dashboard.json", "docs/grafana/alerts.yml"] {
        let used = file(path).replace("\\\"", "\"");
        for label in ["outcome", "how", "state", "step"] {
            for (at, _) in used.match_indices(&format!("{label}=\"")) {
                let value = used[at..].split('"').nth(1).unwrap();
                let pair = format!("{label}=\"{value}\"");
                assert!(text.contains(&pair), "{path}: nothing has {pair}");
            }
        }
    }
}

#[test]
fn the_dashboard_is_one() {
    let board: serde_json::Value =
        serde_json::from_str(&file("docs/grafana/dashboard.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id is used twice: {panel}");
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()));
        let asks = panel["targets"].as_array().is_some_and(|t| !t.is_empty());
        assert!(asks || panel["type"] == "row", "{} asks for nothing", panel["title"]);
        let at = &panel["gridPos"];
        assert!(at["x"].as_u64().unwrap() + at["w"].as_u64().unwrap() <= 24);
    }
}
