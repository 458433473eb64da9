//! A [`tower::Layer`](tower_layer::Layer) that makes the requests of any `http` service
//! idempotent, as draft-ietf-httpapi-idempotency-key-header-07 describes it. Feature `tower`.
//!
//! ```
//! use onlyonce::{Store, http::{IdempotencyLayer, KeyScope}};
//!
//! #[derive(Clone)]
//! struct Account(String); // an outer authentication layer puts it into the extensions
//!
//! # fn make(path: &std::path::Path) -> Result<(), onlyonce::OpenError> {
//! let store = Store::open(path)?;
//! let layer = IdempotencyLayer::new(
//!     store,
//!     KeyScope::by(|parts| Some(parts.extensions.get::<Account>()?.0.clone())),
//! );
//! // axum: Router::new().route("/orders", post(create_order)).route_layer(layer)
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```
//!
//! # Its place among other layers
//!
//! From the outside in: request id and trace, CORS, compression, the client's time-out,
//! authentication, rate limit, **idempotency**, handler. In axum by `route_layer`, because
//! `Router::layer` covers unmatched routes too and fills the store with 404s. With feature `axum`
//! the path of nested routers is compared whole. An inner second layer lets the request pass.
//!
//! # What it promises
//!
//! One execution for each key, as far as that can be promised; an answer is stored before its
//! client sees it, and every retry gets it again. The layer never guesses what became of an
//! interrupted execution: see [`IdempotencyLayer::settle`]. The service must make effects
//! recognisable that may happen twice after a crash, by [`Attempt::derive_key`].
//!
//! When a client goes away, its handler continues in a task of its own, so that it ends and is
//! recorded; [`IdempotencyLayer::drain`] waits for these.

#[cfg(feature = "actix")]
mod actix;
mod admit;
mod attempt;
mod body;
mod budget;
mod canonical;
mod check;
mod config;
mod decide;
mod describe;
mod detached;
mod details;
mod execute;
mod executor;
#[cfg(any(feature = "actix", feature = "axum"))]
mod extract;
mod fingerprint;
mod grpc;
mod header;
mod headers;
mod interrupted;
mod keep;
mod layer;
mod look;
mod meaning;
mod openapi;
mod options;
mod outcome;
mod problem;
mod record;
mod replay;
mod running;
mod scope;
mod seal;
mod service;
mod source;
mod status;
mod stored;
mod verdict;

#[cfg(feature = "actix")]
pub use actix::{ActixIdempotency, ActixLayer};
pub use attempt::Attempt;
pub use body::{RequestBody, ResponseBody};
pub use check::WrongSetting;
pub use details::ProblemDetails;
pub use executor::{BoxFuture, Executor, TokioExecutor};
#[cfg(any(feature = "actix", feature = "axum"))]
pub use extract::NoAttempt;
pub use fingerprint::Fingerprints;
pub use interrupted::Settlement;
pub use layer::{IdempotencyLayer, IntoStore};
pub use look::StoredAnswer;
pub use problem::Problem;
pub use scope::{By, KeyScope};
pub use seal::{BoxError, Seal, StoreReference};
pub use service::Idempotency;
pub use source::KeySource;
pub use status::KeyStatus;
pub use verdict::{Policy, Verdict};

#[cfg(feature = "__internals")]
pub(crate) use {
    header::parse as parse_key,
    stored::{encoded as encoded_answer, round_trip as answer_round_trip},
};
