//! Stored answers for operators and tools.

use super::grpc::{self, is_grpc};
use super::headers::is_of_the_message;
use super::stored::{Kind, Lines, decode, encode, prefix, split};
use crate::engine::entries::{Entry, State};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

/// An answer that the layer has stored, decoded.
///
/// ```
/// use onlyonce::http::StoredAnswer;
/// assert!(StoredAnswer::read(b"not stored by the layer").is_none());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
// One at a time, for people to read.
#[allow(clippy::large_enum_variant)]
pub enum StoredAnswer {
    /// An answer that can be read.
    Open {
        /// The status.
        status: StatusCode,
        /// The headers that are replayed.
        headers: HeaderMap,
        /// The trailers that are replayed.
        trailers: HeaderMap,
        /// The body; for a [`StoreReference`](super::StoreReference) the reference; empty if only
        /// the head was kept.
        body: Bytes,
    },
    /// An answer that is encrypted by a [`Seal`](super::Seal).
    Sealed,
}

impl StoredAnswer {
    /// Reads a record's response, or, if that was not retained, its head. `None` if the layer has
    /// not written it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, sealed, rest) = split(Bytes::copy_from_slice(bytes))?;
        if sealed {
            return Some(StoredAnswer::Sealed);
        }
        let stored = decode(kind, rest)?;
        let body = if kind == Kind::HeadOnly { Bytes::new() } else { stored.body };
        let trailers = stored.trailers.map(|trailers| *trailers).unwrap_or_default();
        Some(StoredAnswer::Open { status: stored.status, headers: stored.headers, trailers, body })
    }

    /// Returns whether the answers of a key are the layer's, as far as it can be told: by what its
    /// record or its failed holder has left, else by the number of its fingerprint's scheme. That
    /// is 0 where a service without the layer has not set it, and 1 where the layer's was not
    /// [set](super::Fingerprints::scheme).
    pub fn is_of(entry: &Entry) -> bool {
        let left = match &entry.state {
            State::Completed(record) => record.response().unwrap_or(record.head()),
            State::Interrupted { answer: Some(answer), .. } => answer,
            _ => &[],
        };
        match left.is_empty() {
            true => entry.fingerprint.scheme() != 0,
            false => Self::read(left).is_some(),
        }
    }

    /// Returns why an answer like this can't be sent again as it is; `None` if it can.
    pub fn unfit(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
        if status.is_informational() {
            return Some("a status below 200 is not the end of an answer");
        }
        if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
            return Some("an answer with this status has no body");
        }
        let own = headers.keys().any(is_of_the_message);
        own.then_some(
            "a header of the connection, or of the body's length, is made for each answer",
        )
    }

    /// Encodes an answer as the layer would store it without a seal. Returns the head and the
    /// response for the completion of a key, by an operator's [`resolve`](crate::Store::resolve).
    /// Of an answer of gRPC with a message `grpc-status` and the like are stored as trailers, which
    /// is where a client looks for them.
    ///
    /// ```
    /// use onlyonce::http::StoredAnswer;
    /// let (_head, response) = StoredAnswer::pack(http::StatusCode::OK, &Default::default(), b"done");
    /// let read = StoredAnswer::read(&response);
    /// assert!(matches!(read, Some(StoredAnswer::Open { body, .. }) if body == "done"));
    /// ```
    pub fn pack(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut response = prefix(Kind::Whole, false).to_vec();
        let trails = is_grpc(headers) && !body.is_empty();
        let (trailers, own): (Lines<'_>, Lines<'_>) =
            headers.iter().partition(|(name, _)| trails && grpc::is_trailer(name));
        encode(&mut response, status, &own, &trailers, body);
        // What stays when the response is not retained any more. Room enough for any address.
        let location = headers.get(header::LOCATION).filter(|value| value.len() < 2048);
        let kept = location.map(|value| (&header::LOCATION, value));
        let mut head = prefix(Kind::HeadOnly, false).to_vec();
        encode(&mut head, status, kept.as_slice(), &[], &[]);
        (head, response)
    }
}
