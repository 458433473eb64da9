//! The meaning of a service's answer for the operation.

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
#[derive(Clone)]
pub struct Policy(Kind);

#[derive(Clone)]
enum Kind {
    Default,
    Everything,
    By(Arc<dyn Fn(&Parts) -> Verdict + Send + Sync>),
}

impl Policy {
    /// Makes the policy of Stripe's v1 API: every answer is final, a 500 too.
    pub fn store_everything() -> Self {
        Policy(Kind::Everything)
    }

    /// Makes a policy of a function. To use [`Policy::default`] for the rest:
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
        Policy(Kind::By(Arc::new(decide)))
    }

    /// Returns the verdict on an answer with this head.
    pub fn verdict(&self, answer: &Parts) -> Verdict {
        match &self.0 {
            Kind::Everything => Verdict::Final,
            Kind::By(decide) => decide(answer),
            Kind::Default => usual(answer),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self.0 {
            Kind::Default => "default",
            Kind::Everything => "everything",
            Kind::By(_) => "custom",
        }
    }
}

impl Default for Policy {
    /// The default policy: 307, 308, 401, 403, 407, 421, 425, 429 and 503 with `Retry-After` did
    /// nothing; for 408 and any other 5xx but 501 it isn't known; everything else is final.
    fn default() -> Self {
        Policy(Kind::Default)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({})", self.name())
    }
}

fn usual(answer: &Parts) -> Verdict {
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
