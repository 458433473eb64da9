//! The bodies that the layer passes on: to the service inside, and to the client.

use super::budget::Held;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// Trailers, where there are any. In a box, because there rarely are, and a map is large.
pub(super) type Trailers = Option<Box<HeaderMap>>;

pin_project! {
    /// The body of a request, as the service inside gets it: read already if the request is
    /// covered, otherwise as it comes.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        through: Option<B>,
        data: Option<Bytes>,
        trailers: Trailers,
        held: Option<Held>,
    }
}

impl<B> RequestBody<B> {
    pub(super) fn through(body: B) -> Self {
        RequestBody { through: Some(body), data: None, trailers: None, held: None }
    }

    pub(super) fn whole(data: Bytes, trailers: Trailers, held: Held) -> Self {
        let data = Some(data).filter(|data| !data.is_empty());
        RequestBody { through: None, data, trailers, held: Some(held) }
    }
}

#[cfg(feature = "actix")]
impl<B> RequestBody<B> {
    /// The body as it comes, or the one that has been read, and its part of the budget.
    pub(super) fn into_parts(self) -> (Option<B>, Bytes, Option<Held>) {
        (self.through, self.data.unwrap_or_default(), self.held)
    }
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(body) = this.through.as_pin_mut() {
            return body.poll_frame(context);
        }
        let frame = match this.data.take() {
            Some(data) => Some(Frame::data(data)),
            None => this.trailers.take().map(|trailers| Frame::trailers(*trailers)),
        };
        if frame.is_none() {
            *this.held = None;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.through {
            Some(body) => body.is_end_stream(),
            None => self.data.is_none() && self.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.through {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

pin_project! {
    /// The body of an answer, as the client gets it: from the store, or from the service, of which
    /// a part may have been read already.
    #[derive(Debug)]
    pub struct ResponseBody<B>
    where
        B: Body,
    {
        #[pin]
        through: Option<B>,
        data: Bytes,
        rest: Option<Pin<Box<B>>>,
        failed: Option<B::Error>,
        trailers: Trailers,
    }
}

impl<B: Body> ResponseBody<B> {
    /// Read to its end.
    pub(super) fn whole(data: Bytes, trailers: Trailers) -> Self {
        ResponseBody { through: None, data, rest: None, failed: None, trailers }
    }

    /// As it comes.
    pub(super) fn through(body: B) -> Self {
        ResponseBody { through: Some(body), ..Self::whole(Bytes::new(), None) }
    }

    /// Of which `data` has been read.
    pub(super) fn resumed(data: Bytes, rest: Pin<Box<B>>) -> Self {
        ResponseBody { rest: Some(rest), ..Self::whole(data, None) }
    }

    /// Which ended in an error.
    pub(super) fn broken(data: Bytes, error: B::Error) -> Self {
        ResponseBody { failed: Some(error), ..Self::whole(data, None) }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(body) = this.through.as_pin_mut() {
            return body.poll_frame(context);
        }
        if !this.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(this.data)))));
        }
        if let Some(rest) = this.rest {
            return rest.as_mut().poll_frame(context);
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = |body: &B| body.is_end_stream();
        self.data.is_empty()
            && self.trailers.is_none()
            && self.failed.is_none()
            && self.through.as_ref().is_none_or(ended)
            && self.rest.as_deref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.data.len() as u64;
        let rest = match (&self.through, self.rest.as_deref()) {
            (Some(body), _) | (None, Some(body)) => body.size_hint(),
            // Longer than it will ever be, so that it is seen to be cut short.
            (None, None) if self.failed.is_some() => SizeHint::default(),
            (None, None) => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::default();
        hint.set_lower(rest.lower() + here);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + here);
        }
        hint
    }
}

/// A body that has been read.
pub(super) enum Read<B: Body> {
    /// To its end.
    Whole(Bytes, Trailers),
    /// As far as it may be.
    TooLarge(Bytes, Pin<Box<B>>),
    /// To an error.
    Failed(Bytes, B::Error),
}

impl<B: Body<Data = Bytes>> Read<B> {
    /// The same for the client.
    pub fn into_body(self) -> ResponseBody<B> {
        match self {
            Read::Whole(data, trailers) => ResponseBody::whole(data, trailers),
            Read::TooLarge(data, rest) => ResponseBody::resumed(data, rest),
            Read::Failed(data, error) => ResponseBody::broken(data, error),
        }
    }
}

/// Chunks in one piece: the first as it came as long as it is the only one, else all copied, so
/// that a small chunk doesn't keep the buffer that it was read into, and many cost no more than
/// few.
#[derive(Default)]
pub(super) struct Gathered {
    only: Bytes,
    all: Vec<u8>,
}

impl Gathered {
    pub fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    /// How many bytes are held when `more` have been added; twice what there is, so that it is
    /// rarely copied again, but no more than `most` unless they are.
    pub fn held_with(&self, more: usize, most: usize) -> usize {
        let needed = self.len() + more;
        if self.len() == 0 || needed <= self.all.capacity() {
            return needed.max(self.all.capacity());
        }
        (2 * self.len()).max(256).min(most).max(needed)
    }

    pub fn add(&mut self, chunk: Bytes, held: usize) {
        if self.len() == 0 {
            self.only = chunk;
            return;
        }
        self.all.reserve_exact(held - self.all.len());
        self.all.extend_from_slice(&std::mem::take(&mut self.only));
        self.all.extend_from_slice(&chunk);
    }

    pub fn done(self) -> Bytes {
        if self.all.is_empty() { self.only } else { self.all.into() }
    }
}

/// How far a body has been read in place.
pub(super) enum Reading<E> {
    /// To its end.
    Whole(Bytes, Trailers),
    /// As far as it may be.
    TooLarge(Bytes),
    /// To an error.
    Failed(Bytes, E),
}

/// Reads up to `limit` bytes of a body. `keep` is asked before more is held: how many bytes it is
/// then in all.
pub(super) async fn read<B: Body<Data = Bytes>, R>(
    mut body: Pin<&mut B>,
    limit: usize,
    mut keep: impl FnMut(usize) -> Result<(), R>,
) -> Result<Reading<B::Error>, R> {
    // Nothing is held for what will not come.
    let most = body.size_hint().upper().map_or(limit, |upper| limit.min(upper as usize));
    let mut gathered = Gathered::default();
    let mut trailers: Trailers = None;
    loop {
        match poll_fn(|context| body.as_mut().poll_frame(context)).await {
            None => return Ok(Reading::Whole(gathered.done(), trailers)),
            Some(Err(error)) => return Ok(Reading::Failed(gathered.done(), error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    let held = gathered.held_with(chunk.len(), most);
                    keep(held)?;
                    gathered.add(chunk, held);
                    if gathered.len() > limit {
                        return Ok(Reading::TooLarge(gathered.done()));
                    }
                    // Most end with their only chunk, and say so.
                    if body.is_end_stream() {
                        return Ok(Reading::Whole(gathered.done(), trailers));
                    }
                }
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        trailers.get_or_insert_default().extend(more);
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_is_not_copied_and_many_are_held_once() {
        let chunk = Bytes::from(vec![7; 100]);
        let mut gathered = Gathered::default();
        gathered.add(chunk.clone(), gathered.held_with(100, 1000));
        assert_eq!(gathered.done().as_ptr(), chunk.as_ptr());
        let mut gathered = Gathered::default();
        for n in 1..=1000 {
            let held = gathered.held_with(1, 1000);
            gathered.add(chunk.slice(..1), held);
            assert!(
                held >= n && held <= (2 * n).clamp(256, 1000) && gathered.all.capacity() <= held
            );
        }
        assert_eq!(gathered.done(), vec![7; 1000]);
        // What doesn't fit is read all the same, to be passed on.
        let mut gathered = Gathered::default();
        gathered.add(chunk.clone(), gathered.held_with(100, 150));
        assert_eq!(gathered.held_with(100, 150), 200);
    }
}
