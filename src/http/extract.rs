//! Extraction of the [`Attempt`] as an argument of handlers of axum and actix-web.

use super::attempt::Attempt;

/// A handler extracts an [`Attempt`], and its request was not covered by the layer: its route has
/// no layer, or it has no key where keys are optional. Answered with 500. Extract `Option<Attempt>`
/// where that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this request is not covered by an idempotency layer; extract Option<Attempt>")]
pub struct NoAttempt;

fn tell() {
    tracing::error!(
        "a handler takes an Attempt, and its request is not covered by an idempotency layer"
    );
}

#[cfg(feature = "axum")]
mod axum {
    use super::{Attempt, NoAttempt, tell};
    use ::axum::{
        extract::{FromRequestParts, OptionalFromRequestParts},
        response::{IntoResponse, Response},
    };
    use http::{StatusCode, request::Parts};
    use std::convert::Infallible;

    impl IntoResponse for NoAttempt {
        fn into_response(self) -> Response {
            tell();
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
}

#[cfg(feature = "actix")]
mod actix {
    use super::{Attempt, NoAttempt, tell};
    use actix_web::{
        FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError, dev::Payload,
    };
    use std::future::{Ready, ready};

    /// 500.
    impl ResponseError for NoAttempt {
        fn error_response(&self) -> HttpResponse {
            tell();
            HttpResponse::InternalServerError().finish()
        }
    }

    impl FromRequest for Attempt {
        type Error = NoAttempt;
        type Future = Ready<Result<Self, NoAttempt>>;

        fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
            ready(request.extensions().get::<Attempt>().cloned().ok_or(NoAttempt))
        }
    }
}
