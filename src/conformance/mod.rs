//! A suite that every backend must pass: the table of a key's states, row by row and column by
//! column, through the calls of [`IdempotencyStore`] alone.
//!
//! ```
//! use onlyonce::{ManualClock, Options, Store, conformance::{self, Facts, Subject}};
//! use std::time::Duration;
//!
//! struct Embedded(Store, ManualClock);
//!
//! impl Subject for Embedded {
//!     type Store = Store;
//!     fn store(&self) -> &Store {
//!         &self.0
//!     }
//!     async fn advance(&self, by: Duration) {
//!         self.1.advance(by);
//!     }
//!     fn facts(&self) -> Facts {
//!         Facts { max_response: 4096, ..Facts::default() }
//!     }
//! }
//!
//! # let dir = tempfile::tempdir()?;
//! let clock = ManualClock::at(1_800_000_000_000);
//! let store = Options::new().clock(clock.clone()).max_response(4096).open(dir.path())?;
//! let ran = pollster(conformance::run(&Embedded(store, clock)));
//! assert!(ran.contains(&"one of many callers gets the claim"));
//! # fn pollster<F: Future>(future: F) -> F::Output {
//! #     struct Unpark(std::thread::Thread);
//! #     impl std::task::Wake for Unpark {
//! #         fn wake(self: std::sync::Arc<Self>) { self.0.unpark() }
//! #     }
//! #     let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
//! #     let mut context = std::task::Context::from_waker(&waker);
//! #     let mut future = std::pin::pin!(future);
//! #     loop {
//! #         match future.as_mut().poll(&mut context) {
//! #             std::task::Poll::Ready(value) => return value,
//! #             std::task::Poll::Pending => std::thread::park(),
//! #         }
//! #     }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not in it: what survives which crash (each backend has its own crashes), a completion that is
//! not yet durable, and operators' decisions where the backend has none.

mod bounds;
mod callers;
mod holders;
mod operators;
mod time;
mod words;

use crate::{
    engine::resolve::{Resolution, ResolveOptions},
    error::StoreError,
    key::KeyRef,
    spi::IdempotencyStore,
};
use std::{future::Future, time::Duration};
use words::{Bench, Named};

/// The facts about a backend that the suite needs.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Largest response in bytes that a claim can be promised room for; at least 1,024.
    pub max_response: u32,
    /// Attempts that `take_over` grants; at least 3.
    pub max_attempts: u32,
    /// How long a key with a retention of an hour is kept when it is interrupted.
    pub interrupted_retention: Duration,
    /// Whether the backend knows which handles exist: an interrupted key is not forgotten then
    /// while its holder's handle exists.
    pub knows_handles: bool,
    /// How many `begin`s are made concurrently.
    pub callers: usize,
}

impl Default for Facts {
    /// Returns the facts of the embedded store with its default options.
    fn default() -> Self {
        Facts {
            max_response: 256 << 10,
            max_attempts: 5,
            interrupted_retention: Duration::from_secs(7 * 24 * 3600),
            knows_handles: true,
            callers: 100,
        }
    }
}

/// A backend under test. The suite uses keys of its own, so that the store need not be empty.
pub trait Subject {
    /// The backend.
    type Store: IdempotencyStore;

    /// Returns a handle of the backend.
    fn store(&self) -> &Self::Store;

    /// Lets exactly this much of the store's time pass. Otherwise its time must stand still, so
    /// that no lease ends by itself.
    fn advance(&self, by: Duration) -> impl Future<Output = ()>;

    /// Resolves when earlier calls of `abandon` have taken effect. Default: at once.
    fn settle(&self) -> impl Future<Output = ()> {
        async {}
    }

    /// Records an operator's decision. Default: `None`, which means that the backend has none.
    fn resolve(
        &self,
        key: KeyRef<'_>,
        resolution: Resolution<'_>,
        options: ResolveOptions<'_>,
    ) -> impl Future<Output = Option<Result<(), StoreError>>> {
        let _ = (key, resolution, options);
        async { None }
    }

    /// Returns what the suite has to know.
    fn facts(&self) -> Facts;
}

/// Runs the suite, and returns the names of the cases that were run.
///
/// # Panics
///
/// At the first answer that a backend must not give. The case is named on the standard error.
pub async fn run<S: Subject>(subject: &S) -> Vec<&'static str> {
    let bench = &Bench::new(subject);
    let mut ran = Vec::new();
    macro_rules! cases {
        ($($name:literal: $case:expr,)*) => {
            $({
                let named = Named($name);
                // On the heap: together they are larger than a thread's stack.
                Box::pin($case(bench)).await;
                std::mem::forget(named);
                ran.push($name);
            })*
        };
    }
    cases! {
        "begin with the same and with another fingerprint": callers::begin,
        "taking over what was seen": callers::take_over,
        "taking over what was not seen": callers::take_over_unseen,
        "taking over with another fingerprint": callers::take_over_mismatched,
        "a takeover keeps checkpoint and terms": callers::take_over_keeps,
        "one of many callers gets the claim": callers::one_of_many,
        "one of two takers gets the claim": callers::one_of_two_takers,
        "attempts are bounded": callers::attempts,
        "waiting ends with the attempt": callers::waiting,
        "a dropped begin leaves nothing": callers::dropped,
        "complete": holders::complete,
        "complete with other bytes": holders::complete_differently,
        "complete without a response": holders::complete_without_response,
        "fail": holders::fail,
        "fail keeps its answer until its holder continues": holders::fail_keeps_answer,
        "release of a first attempt": holders::release,
        "release keeps a history": holders::release_keeps_history,
        "undoing a takeover that learned nothing": holders::undone_takeovers,
        "nothing happened before": holders::nothing_happened,
        "renew and checkpoint": holders::renew_and_checkpoint,
        "ensure durable": holders::ensure_durable,
        "another token": holders::another_token,
        "a late holder is fenced": holders::late,
        "a handle that goes": holders::abandon,
        "a handle that went is not back": holders::abandon_again,
        "an undelivered claim did nothing": holders::undelivered,
        "tokens rise": holders::tokens,
        "a lease passes at its first instant": time::lease,
        "renewals keep a claim": time::renewals,
        "a renewal never shortens a lease": time::renewal_of_longer,
        "a record expires at its first instant": time::retention,
        "a replay extends nothing": time::replay_extends_nothing,
        "two windows": time::two_windows,
        "a completion's own retention": time::own_retention,
        "interrupted keys are forgotten": time::interrupted,
        "a living holder keeps its key": time::living_holder,
        "keys and scopes are exact": bounds::keys,
        "responses are exact": bounds::responses,
        "sizes at their bounds": bounds::sizes,
        "terms that can't be kept": bounds::terms,
        "fingerprint schemes": bounds::schemes,
    }
    if operators::can(bench).await {
        cases! {
            "an operator completes": operators::complete,
            "an operator imports": operators::import,
            "an operator frees": operators::free,
            "an operator forgets": operators::forget,
            "an operator replaces": operators::replace,
        }
    }
    ran
}
