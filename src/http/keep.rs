//! Answers on their way into the store and out of it: encoded, sealed, opened, decoded.

use super::{
    config::Config,
    stored::{self, Kind, Lines, Stored},
};
use crate::{key::OwnedKey, limits::HEAD_BYTES_MAX};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// An answer's head, as it is kept.
pub(super) struct Head<'a> {
    pub status: StatusCode,
    pub headers: Lines<'a>,
}

impl Config {
    /// An answer as the store keeps it; `None` if it can't be sealed.
    pub fn pack(
        &self,
        key: &OwnedKey,
        place: Place,
        kind: Kind,
        head: &Head<'_>,
        trailers: Option<&HeaderMap>,
        body: impl Iterator<Item = impl AsRef<[u8]>> + Clone,
    ) -> Option<Vec<u8>> {
        let trailers = trailers.map(|all| self.retained.of(all, false)).unwrap_or_default();
        let len: usize = body.clone().map(|chunk| chunk.as_ref().len()).sum();
        let mut bytes = Vec::with_capacity(2 + stored::head_len(&head.headers) + len);
        let Some(seal) = &self.seal else {
            bytes.extend_from_slice(&stored::prefix(kind, false));
            stored::encode(&mut bytes, head.status, &head.headers, &trailers, body);
            return Some(bytes);
        };
        stored::encode(&mut bytes, head.status, &head.headers, &trailers, body);
        match seal.seal(&context(key, place, kind), &bytes) {
            Ok(sealed) => Some([&stored::prefix(kind, true), &sealed[..]].concat()),
            Err(error) => {
                tracing::error!(%error, "an answer could not be sealed, and is not kept");
                None
            }
        }
    }

    /// The head that is kept of an answer that is not retained: its status, and `Location`, or as
    /// many of all its headers as there is room for, `Location` first.
    pub fn pack_head(&self, key: &OwnedKey, head: &Head<'_>, all: bool) -> Vec<u8> {
        let is_location = |line: &(&HeaderName, &HeaderValue)| line.0 == header::LOCATION;
        let location = head.headers.iter().find(|line| is_location(line));
        let others = head.headers.iter().filter(|line| all && !is_location(line));
        // A seal adds something, too.
        let room = if self.seal.is_some() { HEAD_BYTES_MAX - 512 } else { HEAD_BYTES_MAX };
        let headers = fitting(location.into_iter().chain(others).copied(), room);
        let head = Head { status: head.status, headers };
        let none = std::iter::empty::<&[u8]>;
        self.pack(key, Place::Record, Kind::HeadOnly, &head, None, none())
            .filter(|packed| packed.len() <= HEAD_BYTES_MAX)
            // Nothing secret in a status.
            .unwrap_or_else(|| {
                let mut bytes = stored::prefix(Kind::HeadOnly, false).to_vec();
                stored::encode(&mut bytes, head.status, &Lines::new(), &Lines::new(), none());
                bytes
            })
    }

    /// Reads what [`pack`](Self::pack) made; `None` if these bytes are something else, or can't be
    /// opened.
    pub fn unpack(&self, key: &OwnedKey, place: Place, bytes: Bytes) -> Option<Stored> {
        if bytes.is_empty() {
            return None;
        }
        let Some((kind, sealed, rest)) = stored::split(bytes) else {
            return strange();
        };
        if !sealed {
            if self.seal.is_some() && !self.unsealed {
                tracing::error!("a stored answer is not sealed, and is not believed");
                return None;
            }
            return stored::decode(kind, rest).or_else(strange);
        }
        let opened = self.seal.as_ref()?.open(&context(key, place, kind), &rest);
        match opened {
            Ok(plain) => stored::decode(kind, plain.into()),
            Err(error) => {
                tracing::error!(%error, "a stored answer could not be opened");
                None
            }
        }
    }
}

/// Bytes that the layer has not written.
#[cold]
fn strange<T>() -> Option<T> {
    tracing::error!(
        "the stored answer of this key can't be replayed: the HTTP layer has not written it; a \
         service without the layer, or an operator without a status, has completed the key"
    );
    None
}

/// As many whole headers as take at most `room` bytes.
fn fitting<'a>(
    all: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    room: usize,
) -> Lines<'a> {
    let mut len = 0;
    let fits = |(name, value): &(&HeaderName, &HeaderValue)| {
        let line = name.as_str().len() + value.len() + 10;
        let fits = len + line + 32 <= room;
        len += if fits { line } else { 0 };
        fits
    };
    all.filter(fits).collect()
}

/// What an answer is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A part of the key's record.
    Record,
    /// What an interrupted key has kept.
    Left,
}

/// Place and kind, scope and key, delimited. Not the token: it is another one when a key moves to
/// another store.
fn context(key: &OwnedKey, place: Place, kind: Kind) -> Vec<u8> {
    let mut context = vec![place as u8, kind as u8, key.scope().len() as u8];
    context.extend_from_slice(key.scope());
    context.extend_from_slice(key.key());
    context
}
