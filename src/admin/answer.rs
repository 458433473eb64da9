//! The answers of the admin service.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

/// The body of an answer: whole, in memory.
#[derive(Clone, Debug, Default)]
pub struct AdminBody(Option<Bytes>);

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// Why a request is not answered as it was meant.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    /// It would be done with `force`.
    needs_force: bool,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl ToString) -> Self {
        Refusal { status, error: error.to_string(), needs_force: false }
    }

    pub fn bad(error: impl ToString) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, error)
    }

    pub fn forcible(self) -> Self {
        Refusal { needs_force: true, ..self }
    }
}

/// `Err` is an answer too.
pub(super) fn of(answered: Result<Value, Refusal>) -> Response<AdminBody> {
    match answered {
        Ok(value) => json(StatusCode::OK, &value),
        Err(Refusal { status, error, needs_force }) => {
            json(status, &json!({ "error": error, "needs_force": needs_force }))
        }
    }
}

/// An answer of the API.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<AdminBody> {
    let mut answer = bare(Bytes::from(format!("{value}\n")), "application/json");
    *answer.status_mut() = status;
    let none = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, none);
    answer
}

/// The page. Its script and its style run because they have this nonce; nothing else does, and
/// nothing is loaded from anywhere but this service.
pub(super) fn page(html: &str) -> Response<AdminBody> {
    let nonce = nonce();
    let mut answer =
        bare(Bytes::from(html.replace("{{nonce}}", &nonce)), "text/html; charset=utf-8");
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let policy = HeaderValue::from_str(&policy).expect("printable");
    answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    answer
}

fn bare(body: Bytes, media: &'static str) -> Response<AdminBody> {
    let mut answer = Response::new(AdminBody(Some(body)));
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    answer
}

fn nonce() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
