//! The layer's own answers, as `application/problem+json` (RFC 9457).

use super::{
    body::ResponseBody,
    config::Config,
    details::{ProblemDetails, seconds},
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body;
use std::time::Duration;

/// The layer's own answers, for requests that get none from the service. Each has a page in
/// `docs/problems/`. An answer has its problem among its extensions, for the layers outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// 400: the request has no key and needs one.
    KeyMissing,
    /// 400: the request's key is malformed.
    KeyMalformed,
    /// 400: the request's body could not be read to its end.
    BodyUnreadable,
    /// 413: the request's body is larger than the layer reads.
    BodyTooLarge,
    /// 408: the request's body did not come in time.
    BodyTooSlow,
    /// 422: the key was used for another request.
    KeyReused,
    /// 503: the key was used under another definition of what makes two requests the same, which
    /// this node doesn't know: a deployment that changes it is under way.
    OtherDefinition,
    /// 409: the request is being executed.
    InFlight,
    /// 409: it isn't known whether the request took effect.
    Interrupted,
    /// 409: the request took effect, and its answer is not kept.
    NotRetained,
    /// 500: the service names no scope for this request.
    ScopeMissing,
    /// 500: the request was executed, and its answer could not be recorded.
    NotRecorded,
    /// 500: the store refused the request for good, or its record can't be read.
    Failed,
    /// 503: the store or the service takes no requests now, or the body of a stored answer, which
    /// the service keeps itself, can't be read now.
    Unavailable,
    /// 503: as many bytes of requests are held as the layer allows.
    Overloaded,
    /// 429: the principal has its share of what can be unfinished.
    ShareUsed,
}

impl Problem {
    pub(super) const ALL: [Problem; 16] = [
        Problem::KeyMissing,
        Problem::KeyMalformed,
        Problem::BodyUnreadable,
        Problem::BodyTooLarge,
        Problem::BodyTooSlow,
        Problem::KeyReused,
        Problem::OtherDefinition,
        Problem::InFlight,
        Problem::Interrupted,
        Problem::NotRetained,
        Problem::ScopeMissing,
        Problem::NotRecorded,
        Problem::Failed,
        Problem::Unavailable,
        Problem::Overloaded,
        Problem::ShareUsed,
    ];

    /// Status, the last part of the `type`, and the title, in which `{key}` stands for the header.
    fn row(self) -> (StatusCode, &'static str, &'static str) {
        use Problem::*;
        let (status, name, title) = match self {
            KeyMissing => (400, "key-missing", "{key} is missing"),
            KeyMalformed => (400, "key-malformed", "{key} is malformed"),
            BodyUnreadable => (400, "body-unreadable", "The request's body could not be read"),
            BodyTooLarge => (413, "body-too-large", "The request's body is too large"),
            BodyTooSlow => (408, "body-too-slow", "The request's body did not come in time"),
            KeyReused => (422, "key-reused", "{key} is already used"),
            OtherDefinition => (503, "other-definition", "The service is being exchanged"),
            InFlight => (409, "in-flight", "A request is outstanding for this {key}"),
            Interrupted => (409, "interrupted", "The outcome of this request is not known"),
            NotRetained => (409, "not-retained", "The request is done, its answer is not kept"),
            ScopeMissing => (500, "scope-missing", "The service is misconfigured"),
            NotRecorded => (500, "not-recorded", "The outcome of this request was not recorded"),
            Failed => (500, "failed", "The idempotency store failed"),
            Unavailable => (503, "unavailable", "The service takes no requests now"),
            Overloaded => (503, "overloaded", "Too many requests are waiting"),
            ShareUsed => (429, "share-used", "Too many requests of this client are unfinished"),
        };
        (StatusCode::from_u16(status).expect("from the table above"), name, title)
    }

    /// Returns the status of the answer.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// Returns the last part of the `type`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The title, with what the key is called.
    pub(super) fn title(self, label: &str) -> String {
        self.row().2.replace("{key}", label)
    }

    /// The status of gRPC that says the same.
    fn grpc_status(self) -> u16 {
        use Problem::*;
        match self {
            // INVALID_ARGUMENT
            KeyMissing | KeyMalformed | BodyUnreadable => 3,
            // DEADLINE_EXCEEDED
            BodyTooSlow => 4,
            // ALREADY_EXISTS
            NotRetained => 6,
            // RESOURCE_EXHAUSTED
            BodyTooLarge | ShareUsed => 8,
            // FAILED_PRECONDITION: a retry doesn't help until something else is done.
            KeyReused | Interrupted => 9,
            // ABORTED: again, with the same key.
            InFlight => 10,
            // INTERNAL
            ScopeMissing | Failed => 13,
            // UNKNOWN
            NotRecorded => 2,
            // UNAVAILABLE
            OtherDefinition | Unavailable | Overloaded => 14,
        }
    }

    /// Whether the same request may be sent again, unchanged.
    fn retryable(self) -> bool {
        use Problem::*;
        match self {
            BodyUnreadable | BodyTooSlow | OtherDefinition | InFlight | NotRecorded
            | Unavailable | Overloaded | ShareUsed => true,
            KeyMissing | KeyMalformed | BodyTooLarge | KeyReused | Interrupted | NotRetained
            | ScopeMissing | Failed => false,
        }
    }

    pub(super) fn because(self, detail: impl Into<String>) -> ProblemResponse {
        ProblemResponse {
            problem: self,
            detail: detail.into(),
            retryable: self.retryable(),
            retry_after: None,
            original: None,
        }
    }
}

/// A problem with its details.
#[derive(Clone, Debug)]
pub(super) struct ProblemResponse {
    pub problem: Problem,
    detail: String,
    pub retryable: bool,
    retry_after: Option<Duration>,
    /// Status and `Location` of an answer that is not kept.
    original: Option<(StatusCode, Option<HeaderValue>)>,
}

impl ProblemResponse {
    /// Says that a retry may help after this time.
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self.retryable = true;
        self
    }

    pub fn original(mut self, status: StatusCode, location: Option<HeaderValue>) -> Self {
        self.original = Some((status, location));
        self
    }

    /// Makes the response, and logs the same details, without the key. `grpc`: for a call of gRPC,
    /// whose status is in headers of its own.
    pub fn answer<B: Body>(self, config: &Config, grpc: bool) -> Response<ResponseBody<B>> {
        let ProblemResponse { problem, detail, retryable, retry_after, original } = self;
        let (original_status, location) = original.unzip();
        let details = ProblemDetails {
            problem,
            kind: config.kind_of(problem),
            title: problem.title(&config.label),
            detail,
            instance: format!("urn:uuid:{}", uuid()),
            retryable,
            retry_after,
            original_status,
        };
        let (name, instance, detail) = (problem.name(), &details.instance, &details.detail);
        if problem.status().is_server_error() {
            tracing::error!(problem = name, %instance, "{detail}");
        } else {
            tracing::debug!(problem = name, %instance, "{detail}");
        }
        let mut response = Response::new(());
        *response.status_mut() = problem.status();
        response.extensions_mut().insert(problem);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRYABLE, said(retryable));
        if let Some(wait) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds(wait).into());
        }
        if let Some(location) = location.flatten() {
            headers.insert(header::LOCATION, location);
        }
        // What can't be fetched describes nothing.
        if ["http://", "https://", "/"].iter().any(|start| details.kind.starts_with(start))
            && let Ok(link) = format!("<{}>; rel=\"describedby\"", details.kind).try_into()
        {
            headers.insert(header::LINK, link);
        }
        if grpc {
            let message = percent_encoded(&format!("{}: {}", details.title, details.detail));
            headers.insert("grpc-status", problem.grpc_status().into());
            headers.extend(HeaderValue::try_from(message).map(|said| (GRPC_MESSAGE, said)));
            if let Some(wait) = retry_after {
                headers.insert("grpc-retry-pushback-ms", (wait.as_millis() as u64).into());
            }
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            *response.status_mut() = StatusCode::OK;
            return response.map(|()| ResponseBody::whole(Bytes::new(), None));
        }
        let (media, body) = (config.envelope.0)(&details);
        headers.insert(header::CONTENT_TYPE, media);
        response.map(|()| ResponseBody::whole(body, None))
    }
}

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A text as `grpc-message` has it.
fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Says whether the same request may be sent again, unchanged.
pub(super) const RETRYABLE: HeaderName = HeaderName::from_static("idempotency-retryable");

/// A value of [`RETRYABLE`].
pub(super) fn said(retryable: bool) -> HeaderValue {
    HeaderValue::from_static(if retryable { "true" } else { "false" })
}

/// Between three quarters and five quarters of `wait`, and between 1 and 10 seconds, so that
/// clients that were refused together don't come back together.
pub(super) fn with_jitter(wait: Duration) -> Duration {
    let share = f64::from(random()[0]) / 255.0;
    wait.mul_f64(0.75 + share / 2.0).clamp(Duration::from_secs(1), Duration::from_secs(10))
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without randomness the numbers repeat, which does no harm.
    let _ = getrandom::fill(&mut bytes);
    bytes
}

/// A random one (RFC 9562, version 4).
fn uuid() -> String {
    let mut bytes = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        text += if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
        text += &format!("{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_uuids() {
        let (one, two) = (uuid(), uuid());
        assert_ne!(one, two);
        assert_eq!((one.len(), &one[14..15]), (36, "4"));
        assert_eq!(one.match_indices('-').map(|(at, _)| at).collect::<Vec<_>>(), [8, 13, 18, 23]);
    }

    #[test]
    fn waiting_is_bounded() {
        for _ in 0..100 {
            let wait = with_jitter(Duration::from_secs(4));
            assert!((Duration::from_secs(3)..=Duration::from_secs(5)).contains(&wait));
        }
        assert_eq!(with_jitter(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(with_jitter(Duration::from_secs(99)), Duration::from_secs(10));
    }
}
