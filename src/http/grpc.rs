//! Calls of gRPC: where their status is, and whether an answer is one message or a stream of them.

use super::{
    body::{Gathered, Read, Trailers},
    executor::{BoxFuture, Executor},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Body;
use std::{future::poll_fn, task::Poll, time::Duration};

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// UNKNOWN: what clients make of a call that ends without a status.
pub(super) const WITHOUT_STATUS: HeaderValue = HeaderValue::from_static("2");

/// An answer that is silent for so long before it has ended is a stream. A unary answer comes in one
/// piece, unless it comes from another host.
const SILENCE: Duration = Duration::from_secs(1);

/// Whether a line belongs after an answer's message, where there is one.
pub(super) fn is_trailer(name: &HeaderName) -> bool {
    *name == STATUS || ["grpc-message", "grpc-status-details-bin"].contains(&name.as_str())
}

/// Whether a message is one of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    is_grpc_media(value)
}

/// Whether a media type, with parameters or without, is that of gRPC.
pub(super) fn is_grpc_media(media: &[u8]) -> bool {
    const MEDIA: &[u8] = b"application/grpc";
    let Some((begins, rest)) = media.trim_ascii_start().split_at_checked(MEDIA.len()) else {
        return false;
    };
    let ends = matches!(rest.trim_ascii_start().first(), None | Some(b';')) || rest[0] == b'+';
    ends && begins.eq_ignore_ascii_case(MEDIA)
}

/// Reads an answer of gRPC as far as it can be that of a unary call: to its trailers, unless a
/// second message begins, or it falls silent, or has more than `limit` bytes. It is `TooLarge` then.
pub(super) async fn read_unary<B: Body<Data = Bytes>>(
    body: B,
    limit: usize,
    executor: &dyn Executor,
) -> Read<B> {
    let mut body = Box::pin(body);
    let (mut gathered, mut messages) = (Gathered::default(), Messages::default());
    let mut trailers: Trailers = None;
    loop {
        let mut silence: Option<BoxFuture<()>> = None;
        let next = poll_fn(|context| {
            if let Poll::Ready(next) = body.as_mut().poll_frame(context) {
                return Poll::Ready(Some(next));
            }
            let silence = silence.get_or_insert_with(|| executor.sleep(SILENCE));
            silence.as_mut().poll(context).map(|()| None)
        })
        .await;
        let frame = match next {
            None => return Read::TooLarge(gathered.done(), body),
            Some(None) => return Read::Whole(gathered.done(), trailers),
            Some(Some(Err(error))) => return Read::Failed(gathered.done(), error),
            Some(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(chunk) if chunk.is_empty() => {}
            Ok(chunk) => {
                let one = messages.is_one_with(&chunk);
                let held = gathered.held_with(chunk.len(), limit);
                gathered.add(chunk, held);
                if !one || gathered.len() > limit {
                    return Read::TooLarge(gathered.done(), body);
                }
            }
            Err(frame) => {
                if let Ok(more) = frame.into_trailers() {
                    trailers.get_or_insert_default().extend(more);
                }
            }
        }
    }
}

/// Messages as they go by: a flag, the length in four bytes, the message.
#[derive(Debug, Default)]
struct Messages {
    begun: u64,
    head: [u8; 5],
    head_len: usize,
    left: usize,
}

impl Messages {
    /// Whether there is one message at most when `chunk` has come.
    fn is_one_with(&mut self, mut chunk: &[u8]) -> bool {
        while !chunk.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(chunk.len());
                self.left -= taken;
                chunk = &chunk[taken..];
                continue;
            }
            if self.head_len == 0 {
                self.begun += 1;
            }
            self.head[self.head_len] = chunk[0];
            self.head_len += 1;
            chunk = &chunk[1..];
            if self.head_len == 5 {
                let [_, len @ ..] = self.head;
                self.left = u32::from_be_bytes(len) as usize;
                self.head_len = 0;
            }
        }
        self.begun <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let message = |text: &str| {
            let len = (text.len() as u32).to_be_bytes();
            [&[0][..], &len, text.as_bytes()].concat()
        };
        for (one, text) in [(true, ""), (true, "x"), (true, "some more")] {
            let whole = message(text);
            let two = [&whole[..], &message("")].concat();
            for cut in 1..=two.len() {
                let mut messages = Messages::default();
                assert!(whole.chunks(cut).all(|chunk| messages.is_one_with(chunk)) == one);
                let mut messages = Messages::default();
                assert!(!two.chunks(cut).all(|chunk| messages.is_one_with(chunk)));
            }
        }
    }
}
