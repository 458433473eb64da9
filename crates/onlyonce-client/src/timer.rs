//! The clock and the waits of a policy.

use std::{
    future::Future,
    pin::Pin,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

/// Time as a policy sees it: a clock that only rises, one of the wall, and waiting. Tests put one
/// of their own in its place.
pub trait Timer: Send + Sync + 'static {
    /// Returns the time since a fixed moment; it never falls.
    fn now(&self) -> Duration;
    /// Returns the wall's time, which dates in `Retry-After` are compared with.
    fn wall(&self) -> SystemTime;
    /// Returns a future that is ready after `time`.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The timer of tokio's runtime, with the system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioTimer;

impl Timer for TokioTimer {
    fn now(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(time))
    }
}
