//! The body of an answer: read to its end before the caller gets it, as far as it is small enough.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// The body of an answer: whole in memory, or, if it is larger than the policy reads or a stream of
/// events, what was read of it and then the rest as it comes.
pub struct AnswerBody<B> {
    data: Bytes,
    trailers: Option<HeaderMap>,
    rest: Option<Pin<Box<B>>>,
}

impl<B> AnswerBody<B> {
    /// A body of which nothing has been read.
    pub(crate) fn unread(body: B) -> Self {
        AnswerBody { data: Bytes::new(), trailers: None, rest: Some(Box::pin(body)) }
    }

    /// The bytes that have been read.
    pub(crate) fn known(&self) -> &[u8] {
        &self.data
    }
}

impl<B: Body> AnswerBody<B> {
    /// Reads to the end, or until more than `limit` bytes have come.
    pub(crate) async fn read(mut self, limit: usize) -> Result<Self, B::Error> {
        let Some(mut body) = self.rest.take() else { return Ok(self) };
        let mut data = BytesMut::new();
        while data.len() <= limit {
            let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await else {
                return Ok(AnswerBody { data: data.freeze(), ..self });
            };
            match frame?.into_data() {
                Ok(mut part) => {
                    while part.has_remaining() {
                        let chunk = part.chunk();
                        data.extend_from_slice(chunk);
                        let read = chunk.len();
                        part.advance(read);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        Ok(AnswerBody { data: data.freeze(), trailers: None, rest: Some(body) })
    }
}

impl<B: Body> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut self.rest {
            Some(rest) => rest
                .as_mut()
                .poll_frame(context)
                .map_ok(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref().is_none_or(|rest| rest.is_end_stream());
        self.data.is_empty() && self.trailers.is_none() && rest
    }

    fn size_hint(&self) -> SizeHint {
        let known = self.data.len() as u64;
        let Some(rest) = &self.rest else { return SizeHint::with_exact(known) };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(known.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(known)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody")
            .field("bytes", &self.data.len())
            .field("whole", &self.rest.is_none())
            .finish()
    }
}
