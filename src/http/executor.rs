//! The runtime on which handlers continue when their client has gone.

use std::{future::Future, pin::Pin, time::Duration};

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Spawns futures and measures time. [`TokioExecutor`] is one; the layer needs nothing else of a
/// runtime. Another implementation can carry tracing spans and task locals into the futures that it
/// spawns.
pub trait Executor: Send + Sync + 'static {
    /// Runs `future` to its end. Called when the client of a running handler has gone.
    fn spawn(&self, future: BoxFuture<()>);

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<()>;
}

/// Spawns on the tokio runtime in which a request is handled. Outside of any, or when it shuts
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
