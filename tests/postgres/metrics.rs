//! What a recorder of the crate `metrics` gets to see of a table.

use crate::servers::*;
use metrics_exporter_prometheus::PrometheusBuilder;
use onlyonce::{metrics::Publisher, *};

#[test]
fn a_table_is_published() {
    block_on(async {
        let Some((plain, _, _server)) = manual().await else { return };
        let recorder = PrometheusBuilder::new().build_recorder();
        let store = AsyncStore::new(plain.clone());
        let mut publisher = ::metrics::with_local_recorder(&recorder, || Publisher::new(&plain));
        let begin = async |name| match store.begin(key(name), print()).await.unwrap() {
            Begin::Execute(claim) => claim,
            other => panic!("{other:?}"),
        };
        begin("done").await.complete(b"done").await.unwrap();
        drop(begin("stuck").await);
        assert_eq!(plain.drain(PATIENCE).await, 0);
        let _held = begin("held").await;
        // The keys are counted in the background: published by a later call.
        let mut text = String::new();
        until(async || {
            ::metrics::with_local_recorder(&recorder, || assert!(publisher.publish()));
            text = recorder.handle().render();
            text.contains("onlyonce_keys{state=\"interrupted\"} 1")
        })
        .await;
        for line in [
            "onlyonce_keys{state=\"completed\"} 1",
            "onlyonce_keys{state=\"in_flight\"} 1",
            "onlyonce_begins_total{outcome=\"granted\"} 3",
            "onlyonce_ends_total{how=\"completed\"} 1",
            "onlyonce_ends_total{how=\"abandoned\"} 1",
            "onlyonce_ends_total{how=\"undelivered\"} 0",
            "onlyonce_interrupted_expired_total 0",
            "onlyonce_fenced_total 0",
            "onlyonce_began_after_expiry_total 0",
            "onlyonce_rows_swept_total{how=\"removed\"} 0",
            "onlyonce_unreachable 0",
            "onlyonce_connections_max 16",
            "onlyonce_ends_under_way 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        // What a table hasn't is absent.
        for absent in ["segment", "poisoned", "life", "late_calls", "clock_held", "group_size"] {
            assert!(!text.contains(absent), "{absent} is in\n{text}");
        }
        assert!(text.contains("onlyonce_step_seconds"), "{text}");
        drop((store, _held));
        drop(plain);
        until(async || !publisher.publish()).await;
    });
}
