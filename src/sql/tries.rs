//! Connections that are lent, and calls that are repeated until they have an answer or no time.

use super::connection::{Pool, SqlError, SqlErrorKind};
use std::{
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

/// A connection of a pool. Unless it is kept, it is ended: it may be in the middle of a statement.
#[derive(Debug)]
pub(super) struct Lent<P: Pool> {
    pool: P,
    connection: Option<P::Connection>,
}

impl<P: Pool> Lent<P> {
    pub async fn from(pool: &P, until: Instant) -> Result<Self, SqlError> {
        match timeout_at(until, pool.get()).await {
            Ok(connection) => Ok(Lent { pool: pool.clone(), connection: Some(connection?) }),
            Err(_) => Err(SqlError::new(SqlErrorKind::Again, "no connection was free in time")),
        }
    }

    /// Gives it back as it is.
    pub fn keep(mut self) {
        drop(self.connection.take());
    }

    /// The same if the answer shows that it is in order.
    pub fn keep_if<T>(self, answer: &Result<T, SqlError>) {
        if !matches!(answer, Err(error) if error.kind() == SqlErrorKind::Lost) {
            self.keep();
        }
    }
}

impl<P: Pool> Deref for Lent<P> {
    type Target = P::Connection;

    fn deref(&self) -> &P::Connection {
        self.connection.as_ref().expect("taken at its end only")
    }
}

impl<P: Pool> DerefMut for Lent<P> {
    fn deref_mut(&mut self) -> &mut P::Connection {
        self.connection.as_mut().expect("taken at its end only")
    }
}

impl<P: Pool> Drop for Lent<P> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.end(connection);
        }
    }
}

/// The tries of one call.
#[derive(Debug)]
pub(super) struct Tries {
    pub until: Instant,
    count: u32,
    /// An earlier try may have taken effect.
    pub unknown: bool,
}

impl Tries {
    pub fn new(deadline: Duration) -> Self {
        Tries { until: Instant::now() + deadline, count: 0, unknown: false }
    }

    /// Waits for the next try, longer each time; an error if there is no time for one.
    pub async fn again(&mut self, error: SqlError) -> Result<(), SqlError> {
        self.unknown |= error.kind() == SqlErrorKind::Lost;
        // 5 ms, doubled each time up to 320 ms, of which a half is random.
        let most = 5_u64 << self.count.min(6);
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let random = u64::from_le_bytes(random) % (most * 500);
        let pause = Duration::from_micros(most * 500 + random);
        self.count += 1;
        if !error.is_transient() || Instant::now() + pause >= self.until {
            return Err(match error.kind() {
                SqlErrorKind::Lost => error,
                _ if self.unknown => SqlError::lost(error),
                _ => error,
            });
        }
        sleep(pause).await;
        Ok(())
    }
}

/// What is under way although its caller doesn't wait for it.
#[derive(Clone, Debug)]
pub(super) struct Behind(Arc<Tasks>);

#[derive(Debug)]
struct Tasks {
    runtime: Handle,
    ending: AtomicU64,
    ended: Notify,
}

impl Behind {
    pub fn new() -> Self {
        let runtime = Handle::current();
        Behind(Arc::new(Tasks { runtime, ending: AtomicU64::new(0), ended: Notify::new() }))
    }

    pub fn run(&self, ending: impl Future<Output = ()> + Send + 'static) {
        self.0.ending.fetch_add(1, Ordering::SeqCst);
        let behind = self.clone();
        self.0.runtime.spawn(async move {
            ending.await;
            behind.0.ending.fetch_sub(1, Ordering::SeqCst);
            behind.0.ended.notify_waiters();
        });
    }

    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    pub fn count(&self) -> u64 {
        self.0.ending.load(Ordering::SeqCst)
    }

    /// Resolves when nothing is under way.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// A call that runs to its end even if its caller drops it.
    pub fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Call<T> {
        Call { call: Some(Box::pin(call)), begun: false, behind: self.clone() }
    }
}

/// A call under way: in its caller's task, and, if that drops it half way, in one of its own.
pub(super) struct Call<T: Send + 'static> {
    call: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    begun: bool,
    behind: Behind,
}

impl<T: Send + 'static> Future for Call<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        this.begun = true;
        // The caller may be on another runtime, or on none.
        let _entered = this.behind.0.runtime.enter();
        let call = this.call.as_mut().expect("polled after its end");
        let value = std::task::ready!(call.as_mut().poll(context));
        this.call = None;
        Poll::Ready(value)
    }
}

impl<T: Send + 'static> Drop for Call<T> {
    fn drop(&mut self) {
        if self.begun
            && let Some(call) = self.call.take()
        {
            self.behind.run(async move { drop(call.await) });
        }
    }
}
