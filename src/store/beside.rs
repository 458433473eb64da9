//! Calls that take long and block, for callers that must not.

use crate::{
    error::StoreError,
    sync::{Mutex, thread::Builder, wait::Event},
};
use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

struct Shared<T> {
    /// `None` until it has ended.
    answer: Mutex<Option<Result<T, StoreError>>>,
    ended: Event,
}

/// Makes a call on a thread of its own. Dropping the future abandons the notification, not the call.
pub(super) async fn call<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let unavailable = |what: String| StoreError::Unavailable { what };
    let shared = Arc::new(Shared { answer: Mutex::new(None), ended: Event::new() });
    let told = shared.clone();
    let run = move || {
        // What the call has borrowed goes with it.
        let answer = catch_unwind(AssertUnwindSafe(call));
        let panicked = |_| Err(unavailable("the call has panicked".into()));
        *told.answer.lock() = Some(answer.unwrap_or_else(panicked));
        told.ended.notify();
    };
    let thread = Builder::new().name("onlyonce beside".into()).spawn(run);
    thread.map_err(|error| unavailable(format!("starting a thread: {error}")))?;
    loop {
        let since = shared.ended.count();
        if let Some(answer) = shared.answer.lock().take() {
            return answer;
        }
        poll_fn(|context| shared.ended.poll_since(since, context)).await;
    }
}
