//! The bodies that the layer hands on: to the service inside, and to the client.

use super::budget::Held;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// The body of a request, as the service inside gets it: read already if the request is
    /// covered, else as it came.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        through: Option<B>,
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
        held: Option<Held>,
    }
}

impl<B> RequestBody<B> {
    pub(super) fn through(body: B) -> Self {
        RequestBody { through: Some(body), data: None, trailers: None, held: None }
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>, held: Held) -> Self {
        let data = Some(data).filter(|data| !data.is_empty());
        RequestBody { through: None, data, trailers, held: Some(held) }
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
            None => this.trailers.take().map(Frame::trailers),
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
    /// The body of an answer, as the client gets it: from the store, or the service's own, of
    /// which a part may have been read already.
    #[derive(Debug)]
    pub struct ResponseBody<B>
    where
        B: Body,
    {
        #[pin]
        through: Option<B>,
        chunks: VecDeque<Bytes>,
        rest: Option<Pin<Box<B>>>,
        failed: Option<B::Error>,
        trailers: Option<HeaderMap>,
    }
}

impl<B: Body> ResponseBody<B> {
    /// Read to its end.
    pub(super) fn whole(chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>) -> Self {
        ResponseBody { through: None, chunks, rest: None, failed: None, trailers }
    }

    /// One piece.
    pub(super) fn of(data: Bytes) -> Self {
        Self::whole(Some(data).filter(|data| !data.is_empty()).into_iter().collect(), None)
    }

    /// As it comes.
    pub(super) fn through(body: B) -> Self {
        ResponseBody { through: Some(body), ..Self::whole(VecDeque::new(), None) }
    }

    /// Of which the first `chunks` have been read.
    pub(super) fn resumed(chunks: VecDeque<Bytes>, rest: Pin<Box<B>>) -> Self {
        ResponseBody { rest: Some(rest), ..Self::whole(chunks, None) }
    }

    /// Which ended in an error.
    pub(super) fn broken(chunks: VecDeque<Bytes>, error: B::Error) -> Self {
        ResponseBody { failed: Some(error), ..Self::whole(chunks, None) }
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
        if let Some(data) = this.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(rest) = this.rest {
            return rest.as_mut().poll_frame(context);
        }
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = |body: &B| body.is_end_stream();
        self.chunks.is_empty()
            && self.trailers.is_none()
            && self.failed.is_none()
            && self.through.as_ref().is_none_or(ended)
            && self.rest.as_deref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        let here: u64 = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
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
    Whole(VecDeque<Bytes>, Option<HeaderMap>),
    /// As far as it may be.
    TooLarge(VecDeque<Bytes>, Pin<Box<B>>),
    /// To an error.
    Failed(VecDeque<Bytes>, B::Error),
}

/// Reads up to `limit` bytes of a body. `keep` is asked for each chunk.
pub(super) async fn read<B: Body<Data = Bytes>, R>(
    body: B,
    limit: usize,
    mut keep: impl FnMut(usize) -> Result<(), R>,
) -> Result<Read<B>, R> {
    let mut body = Box::pin(body);
    let mut chunks = VecDeque::new();
    let (mut len, mut trailers) = (0, None);
    loop {
        match poll_fn(|context| body.as_mut().poll_frame(context)).await {
            None => return Ok(Read::Whole(chunks, trailers)),
            Some(Err(error)) => return Ok(Read::Failed(chunks, error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => {
                    keep(chunk.len())?;
                    len += chunk.len();
                    chunks.push_back(chunk);
                    if len > limit {
                        return Ok(Read::TooLarge(chunks, body));
                    }
                }
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        trailers.get_or_insert_with(HeaderMap::new).extend(more);
                    }
                }
            },
        }
    }
}

/// Chunks as one piece; without a copy if they are one.
pub(super) fn join(mut chunks: VecDeque<Bytes>) -> Bytes {
    if chunks.len() <= 1 {
        return chunks.pop_front().unwrap_or_default();
    }
    let mut all = Vec::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
    all.into()
}
