//! Calls that take long and block, for callers that must not.

use crate::{
    error::StoreError,
    sync::{Mutex, thread::Builder, wait::Event},
};
use std::{future::poll_fn, sync::Arc};

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Event,
}

struct State<T> {
    ended: bool,
    /// `None`, when it has ended: it panicked.
    value: Option<Result<T, StoreError>>,
}

/// Ends the wait, also if the call panics.
struct Ends<T>(Arc<Shared<T>>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.changed.notify();
    }
}

/// Makes a call on a thread of its own. Dropping the future abandons the notification, not the call.
pub(super) async fn call<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let unavailable = |what: String| StoreError::Unavailable { what };
    let state = Mutex::new(State { ended: false, value: None });
    let shared = Arc::new(Shared { state, changed: Event::new() });
    let ends = Ends(shared.clone());
    let run = move || {
        let value = call();
        ends.0.state.lock().value = Some(value);
    };
    let thread = Builder::new().name("onlyonce beside".into()).spawn(run);
    thread.map_err(|error| unavailable(format!("starting a thread: {error}")))?;
    loop {
        let since = shared.changed.count();
        {
            let mut state = shared.state.lock();
            if state.ended {
                let panicked = || Err(unavailable("the call has panicked".into()));
                return state.value.take().unwrap_or_else(panicked);
            }
        }
        poll_fn(|context| shared.changed.poll_since(since, context)).await;
    }
}
