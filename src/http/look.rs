//! Stored answers for operators and tools.

use super::stored::{Kind, decode, encode, prefix, split};
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
pub enum StoredAnswer {
    /// An answer that can be read.
    Open {
        /// The status.
        status: StatusCode,
        /// The headers that are replayed.
        headers: HeaderMap,
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
        Some(StoredAnswer::Open { status: stored.status, headers: stored.headers, body })
    }

    /// Encodes an answer as the layer would store it without a seal. Returns the head and the
    /// response for the completion of a key, by an operator's [`resolve`](crate::Store::resolve).
    ///
    /// ```
    /// use onlyonce::http::StoredAnswer;
    /// let (_head, response) = StoredAnswer::pack(http::StatusCode::OK, &Default::default(), b"done");
    /// let read = StoredAnswer::read(&response);
    /// assert!(matches!(read, Some(StoredAnswer::Open { body, .. }) if body == "done"));
    /// ```
    pub fn pack(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut response = prefix(Kind::Whole, false).to_vec();
        encode(&mut response, status, &headers.iter().collect(), None, [body].into_iter());
        // What stays when the response is not retained any more. Room enough for any address.
        let location = headers.get(header::LOCATION).filter(|value| value.len() < 2048);
        let kept = location.map(|value| (&header::LOCATION, value)).into_iter().collect();
        let mut head = prefix(Kind::HeadOnly, false).to_vec();
        encode(&mut head, status, &kept, None, std::iter::empty::<&[u8]>());
        (head, response)
    }
}
