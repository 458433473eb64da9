//! Requests that go out together, in order, on one connection.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Polls three futures, each time in this order, until all have ended.
pub(super) async fn in_order<A: Future, B: Future, C: Future>(
    a: A,
    b: B,
    c: C,
) -> (A::Output, B::Output, C::Output) {
    let (mut a, mut b, mut c) = (pin!(a), pin!(b), pin!(c));
    let (mut x, mut y, mut z) = (None, None, None);
    poll_fn(|context| {
        if x.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(context)
        {
            x = Some(value);
        }
        if y.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(context)
        {
            y = Some(value);
        }
        if z.is_none()
            && let Poll::Ready(value) = c.as_mut().poll(context)
        {
            z = Some(value);
        }
        match (x.is_some(), y.is_some(), z.is_some()) {
            (true, true, true) => {
                let ended = (x.take(), y.take(), z.take());
                let (Some(x), Some(y), Some(z)) = ended else { unreachable!("seen above") };
                Poll::Ready((x, y, z))
            }
            _ => Poll::Pending,
        }
    })
    .await
}
