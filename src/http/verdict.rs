//! The meaning of a service's answer for the operation.

use super::grpc::{self, is_grpc};
use super::seal::BoxError;
use http::{StatusCode, header, response::Parts};
use std::{any::Any, error::Error, fmt, sync::Arc};
use tower::load_shed::error::Overloaded;

/// The fate of the key when the service has answered.
///
/// A handler that knows better than the [`Policy`] puts one into its response's extensions.
///
/// ```
/// use onlyonce::http::Verdict;
/// let mut response = http::Response::new("try another warehouse");
/// *response.status_mut() = http::StatusCode::CONFLICT;
/// response.extensions_mut().insert(Verdict::NothingDone);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The operation has ended, and this is its answer: every retry gets it.
    Final,
    /// The operation has ended with this answer, and without an effect: every retry gets the answer,
    /// and what the handler has written in its attempt's transaction
    /// (`postgres::TransactionStore`) is undone. For a refusal that is found after the first write.
    /// With stores whose claims are no transactions the same as [`Final`](Self::Final).
    FinalWithoutEffects,
    /// The operation has ended. Only this client gets the answer; retries learn that it is done.
    NotRetained,
    /// This attempt did nothing. At a first attempt without a checkpoint the key is free again, and
    /// a retry executes. Otherwise the key is interrupted, because an earlier attempt may have had
    /// an effect.
    NothingDone,
    /// It isn't known whether the operation took effect. The key is interrupted and keeps the
    /// answer.
    Unknown,
}

impl Verdict {
    /// Returns the verdict on an error of the service: [`NothingDone`](Self::NothingDone) if it, or
    /// one of its sources, is the [`Overloaded`](tower::load_shed::error::Overloaded) of tower's
    /// load shedding, which refuses a request before the service behind it has seen it; otherwise
    /// [`Unknown`](Self::Unknown).
    ///
    /// The layer uses this for errors that reach it. If errors are made into responses inside of
    /// it, as with axum, the response must carry the verdict:
    ///
    /// ```
    /// use onlyonce::http::{BoxError, Verdict};
    /// fn response_of(error: BoxError) -> http::Response<String> {
    ///     let mut response = http::Response::new(error.to_string());
    ///     *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    ///     response.extensions_mut().insert(Verdict::of_error(&*error));
    ///     response
    /// }
    /// ```
    pub fn of_error(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.is::<Overloaded>() {
                return Verdict::NothingDone;
            }
            cause = error.source();
        }
        Verdict::Unknown
    }

    /// [`of_error`](Self::of_error) for an error of any type: those in a box are looked into.
    pub(super) fn of_any<E: 'static>(error: &E) -> Self {
        let error: &dyn Any = error;
        match error.downcast_ref::<BoxError>() {
            Some(error) => Verdict::of_error(&**error),
            None if error.is::<Overloaded>() => Verdict::NothingDone,
            None => Verdict::Unknown,
        }
    }
}

/// Decides the verdict of answers that don't bring one.
///
/// ```
/// use http::StatusCode;
/// use onlyonce::http::Policy;
/// let policy = Policy::default()
///     // Requests are validated before anything happens, as by the extractors of axum.
///     .nothing_done(Policy::REJECTIONS)
///     // A quote has no effect that could be doubled.
///     .path("/quotes/*", Policy::default().nothing_done([StatusCode::INTERNAL_SERVER_ERROR]));
/// # let _ = policy;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Policy {
    kind: Kind,
    /// Statuses with which nothing was done.
    free: Vec<StatusCode>,
    /// Other policies for some paths, the last one first.
    paths: Vec<(String, Policy)>,
}

#[derive(Clone)]
enum Kind {
    Default,
    Everything,
    By(Arc<dyn Fn(&Parts) -> Verdict + Send + Sync>),
}

impl Policy {
    /// The statuses with which extractors (axum's `Json`, `Path`, `Query`, `Form`, `Bytes`) refuse a
    /// request before its handler begins: 400, 413, 415 and 422. Given to
    /// [`nothing_done`](Self::nothing_done) they leave the key to the corrected request. Only for
    /// handlers that give these statuses before any effect.
    pub const REJECTIONS: [StatusCode; 4] = [
        StatusCode::BAD_REQUEST,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];

    /// Makes the policy of Stripe's v1 API: every answer is final, a 500 too.
    pub fn store_everything() -> Self {
        Policy::of(Kind::Everything)
    }

    fn of(kind: Kind) -> Self {
        Policy { kind, free: Vec::new(), paths: Vec::new() }
    }

    /// Makes a policy of a function. Of a unary call of gRPC it sees the status among the headers,
    /// wherever it was sent. To use [`Policy::default`] for the rest:
    ///
    /// ```
    /// use onlyonce::http::{Policy, Verdict};
    /// let usual = Policy::default();
    /// let policy = Policy::by(move |answer| match answer.status.as_u16() {
    ///     402 => Verdict::NothingDone,
    ///     _ => usual.verdict(answer),
    /// });
    /// # let _ = policy;
    /// ```
    pub fn by(decide: impl Fn(&Parts) -> Verdict + Send + Sync + 'static) -> Self {
        Policy::of(Kind::By(Arc::new(decide)))
    }

    /// Says that answers with these statuses did nothing, so that their keys are free again. For
    /// statuses that the service gives only before any effect: a 400, 404 or 422 of its validation,
    /// such as the rejections of axum's `Json` and `Path` ([`REJECTIONS`](Self::REJECTIONS)), or a 500
    /// where nothing can be doubled.
    pub fn nothing_done(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.free.extend(statuses);
        self
    }

    /// Sets another policy for the paths of `pattern`, as the client sends them; `/quotes/*` means
    /// all that begin with `/quotes/`. Of several that match the one that was set last decides. It
    /// decides about answers; see [`Verdict::of_error`] for errors.
    pub fn path(mut self, pattern: impl Into<String>, policy: Policy) -> Self {
        self.paths.insert(0, (pattern.into(), policy));
        self
    }

    /// The policy for a path.
    pub(super) fn at(&self, path: &str) -> &Policy {
        let named = self.paths.iter().find(|(pattern, _)| matches_path(pattern, path));
        named.map_or(self, |(_, policy)| policy.at(path))
    }

    /// Returns the verdict on an answer with this head, where no path has a policy of its own.
    pub fn verdict(&self, answer: &Parts) -> Verdict {
        match &self.kind {
            _ if self.free.contains(&answer.status) => Verdict::NothingDone,
            Kind::Everything => Verdict::Final,
            Kind::By(decide) => decide(answer),
            Kind::Default => usual(answer),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Default => "default",
            Kind::Everything => "everything",
            Kind::By(_) => "custom",
        }
    }

    /// For the published policy: statuses with which nothing was done, besides the usual ones.
    pub(super) fn free(&self) -> Vec<u16> {
        self.free.iter().map(StatusCode::as_u16).collect()
    }

    /// For the published policy: the paths with a policy of their own.
    pub(super) fn paths(&self) -> impl Iterator<Item = &(String, Policy)> {
        self.paths.iter()
    }
}

impl Default for Policy {
    /// The default policy: 307, 308, 401, 403, 407, 421, 425, 429 and 503 with `Retry-After` did
    /// nothing; for 408 and any other 5xx but 501 it isn't known; everything else is final.
    fn default() -> Self {
        Policy::of(Kind::Default)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({})", self.name())
    }
}

/// Whether a path is one of a pattern's: the same, or, where that ends in `*`, one that begins so.
pub(super) fn matches_path(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

fn usual(answer: &Parts) -> Verdict {
    if is_grpc(&answer.headers)
        && let Some(status) = answer.headers.get(grpc::STATUS)
    {
        return match status.as_bytes() {
            // PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED.
            b"7" | b"8" | b"14" | b"16" => Verdict::NothingDone,
            // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL.
            b"2" | b"4" | b"13" => Verdict::Unknown,
            _ => Verdict::Final,
        };
    }
    match answer.status.as_u16() {
        307 | 308 | 401 | 403 | 407 | 421 | 425 | 429 => Verdict::NothingDone,
        503 if answer.headers.contains_key(header::RETRY_AFTER) => Verdict::NothingDone,
        408 => Verdict::Unknown,
        501 => Verdict::Final,
        _ if answer.status.is_server_error() => Verdict::Unknown,
        _ => Verdict::Final,
    }
}

/// Whether a status has no body by definition.
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status.as_u16(), 204 | 304)
}
