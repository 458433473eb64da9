//! The layer's policy as JSON, because the draft asks servers to publish how they treat keys.

use super::{layer::IdempotencyLayer, problem::Problem};
use crate::{limits::KEY_BYTES_MAX, spi::IdempotencyStore};
use http::{HeaderName, Method};
use serde_json::{Value, json};

impl<S: IdempotencyStore> IdempotencyLayer<S> {
    /// Returns the layer's policy as JSON, for the service's documentation: the key's format, the
    /// covered requests, how long answers are replayed, and what is not replayed. Windows and bounds
    /// are those in force; `null` only where a backend doesn't know them, or a list means all.
    pub fn policy_json(&self) -> String {
        let config = &self.core.config;
        let names = |names: &[HeaderName]| -> Vec<String> {
            names.iter().map(|name| name.as_str().to_owned()).collect()
        };
        let terms = self.core.store.terms_in_force(config.terms()).unwrap_or(config.terms());
        let problems = Problem::ALL.map(|problem| {
            json!({
                "type": config.kind_of(problem),
                "title": problem.title(&config.label),
                "status": problem.status().as_u16(),
            })
        });
        let policy: Value = json!({
            "draft": "draft-ietf-httpapi-idempotency-key-header-07",
            "header": config.key.names().first().map(HeaderName::as_str),
            "headers": names(config.key.names()),
            "required": !config.optional,
            "key": {
                "format": config.key.format(),
                "min_bytes": config.key.least(),
                "max_bytes": KEY_BYTES_MAX,
            },
            "methods": config.methods.iter().map(Method::as_str).collect::<Vec<_>>(),
            "paths": if config.paths.is_empty() { Value::Null } else { json!(config.paths) },
            "same_request": {
                "parts": config.fingerprints.parts(),
                "headers": names(config.fingerprints.header_names()),
                "json_by_meaning": config.fingerprints.is_canonical(),
                "json_left_out": config.fingerprints.pointers().0,
                "json_only": config.fingerprints.pointers().1,
            },
            "max_request_body_bytes": config.max_body,
            "request_body_seconds": config.read_timeout.as_secs(),
            "max_response_bytes": terms.reserve,
            "replay_for_seconds": terms.retention.map(|r| r.replay_for.as_secs()),
            "remember_for_seconds": terms.retention.map(|r| r.remember_for.as_secs()),
            "while_in_flight": {
                "mode": if config.wait.is_zero() { "refuse" } else { "wait" },
                "wait_ms": config.wait.as_millis() as u64,
            },
            "when_interrupted": config.interrupted.name(),
            "answers_kept": config.policy.name(),
            "nothing_done_also": config.policy.free(),
            "paths_with_a_policy": config.policy.paths().map(|(p, _)| p).collect::<Vec<_>>(),
            "headers_never_replayed": {
                "besides_the_usual": names(&config.retained.never),
                "except": names(&config.retained.keep),
            },
            "replay_marker": "Idempotent-Replayed: true",
            "headers_of_answers": ["Idempotent-Replayed", "Age", "Idempotency-Expires-In",
                "Idempotency-Retryable", "Retry-After"],
            "problems": problems,
        });
        policy.to_string()
    }
}
