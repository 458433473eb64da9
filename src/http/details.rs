//! The content of the layer's own answers, and how it is written.

use super::problem::Problem;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use std::{fmt, sync::Arc, time::Duration};

/// What one of the layer's own answers says, for a service that writes it in its own shape. See
/// [`IdempotencyLayer::problem_body`](super::IdempotencyLayer::problem_body).
#[derive(Clone, Debug)]
pub struct ProblemDetails {
    pub(super) problem: Problem,
    pub(super) kind: String,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) instance: String,
    pub(super) retryable: bool,
    pub(super) retry_after: Option<Duration>,
    pub(super) original_status: Option<StatusCode>,
}

impl ProblemDetails {
    /// Returns which problem it is.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// Returns the `type`, a URI.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the title, which is the same for each problem of a layer.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns what is special about this answer.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the `urn:uuid` that is also in the log.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns whether the same request may be sent again, unchanged.
    pub fn retryable(&self) -> bool {
        self.retryable
    }

    /// Returns after which time a retry may help, if that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the status of an answer that is not kept.
    pub fn original_status(&self) -> Option<StatusCode> {
        self.original_status
    }

    /// Returns media type and body after RFC 9457, as the layer sends them by default.
    pub fn rfc9457(&self) -> (HeaderValue, Bytes) {
        let mut body = json!({
            "type": self.kind,
            "title": self.title,
            "status": self.problem.status().as_u16(),
            "detail": self.detail,
            "instance": self.instance,
            "retryable": self.retryable,
        });
        if let Some(wait) = self.retry_after {
            body["retry_after"] = Value::from(seconds(wait));
        }
        if let Some(status) = self.original_status {
            body["original_status"] = Value::from(status.as_u16());
        }
        (HeaderValue::from_static("application/problem+json"), written(&body))
    }

    /// Returns media type and body in the shape of Stripe's errors, for clients that look for a
    /// member `error` and take an answer without one for a success, whatever its status.
    pub fn stripe(&self) -> (HeaderValue, Bytes) {
        use Problem::*;
        let (kind, code) = match self.problem {
            KeyReused | Interrupted | NotRetained => ("idempotency_error", self.problem.name()),
            InFlight => ("idempotency_error", "idempotency_key_in_use"),
            ShareUsed => ("invalid_request_error", "rate_limit"),
            _ if self.problem.status().is_server_error() => ("api_error", self.problem.name()),
            _ => ("invalid_request_error", self.problem.name()),
        };
        let body = json!({ "error": {
            "type": kind,
            "code": code.replace('-', "_"),
            "message": format!("{}: {}", self.title, self.detail),
            "doc_url": self.kind,
        }});
        (HeaderValue::from_static("application/json"), written(&body))
    }
}

pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil() as u64
}

fn written(body: &Value) -> Bytes {
    Bytes::from(format!("{body}\n"))
}

type Write = dyn Fn(&ProblemDetails) -> (HeaderValue, Bytes) + Send + Sync;

/// Writes the bodies of the layer's own answers.
#[derive(Clone)]
pub(super) struct Envelope(pub Arc<Write>);

impl Default for Envelope {
    fn default() -> Self {
        Envelope(Arc::new(ProblemDetails::rfc9457))
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Envelope")
    }
}
