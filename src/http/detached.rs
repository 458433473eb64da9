//! Handlers whose client has gone.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Work that continues by itself when its client's task drops it: `alone` gets it then. Until then it
/// runs in that task, which costs nothing; a panic of it is that task's, as it would be without the
/// layer.
pub(super) struct Detached<F: Future + Unpin, A: FnMut(F) + Unpin> {
    work: Option<F>,
    alone: A,
}

impl<F: Future + Unpin, A: FnMut(F) + Unpin> Detached<F, A> {
    pub fn new(work: F, alone: A) -> Self {
        Detached { work: Some(work), alone }
    }
}

impl<F: Future + Unpin, A: FnMut(F) + Unpin> Future for Detached<F, A> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // If this panics, there is nothing left to continue.
        let mut work = self.work.take().expect("polled after it has ended");
        let polled = Pin::new(&mut work).poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<F: Future + Unpin, A: FnMut(F) + Unpin> Drop for Detached<F, A> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            (self.alone)(work);
        }
    }
}
