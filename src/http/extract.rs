//! Extraction of the [`Attempt`] as an argument of axum handlers.

use super::attempt::Attempt;
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{StatusCode, request::Parts};
use std::convert::Infallible;

/// A handler extracts an [`Attempt`], and its request was not covered by the layer: its route has
/// no layer, or it has no key where keys are optional. Answered with 500. Extract `Option<Attempt>`
/// where that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this request is not covered by an idempotency layer; extract Option<Attempt>")]
pub struct NoAttempt;

impl IntoResponse for NoAttempt {
    fn into_response(self) -> Response {
        tracing::error!(
            "a handler takes an Attempt, and its request is not covered by an idempotency layer"
        );
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Attempt {
    type Rejection = NoAttempt;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoAttempt> {
        parts.extensions.get().cloned().ok_or(NoAttempt)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Attempt {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get().cloned())
    }
}
