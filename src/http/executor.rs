//! Where handlers run on when their client has gone: whatever spawns futures and knows the time.

use std::{future::Future, pin::Pin, time::Duration};

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Spawns futures and lets time pass. [`TokioExecutor`] is one; the layer needs nothing else of a
/// runtime. An own one can carry tracing spans and task locals into what it spawns.
pub trait Executor: Send + Sync + 'static {
    /// Runs `future` to its end. Called when the client of a running handler has gone.
    fn spawn(&self, future: BoxFuture<()>);

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;
}

/// Spawns on the tokio runtime that a request was handled in. Outside of any, or when it shuts
/// down, the handler is dropped and its key interrupted.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioExecutor;

impl Executor for TokioExecutor {
    fn spawn(&self, future: BoxFuture<()>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(future);
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
