//! Answers on their way into the store and out of it: encoded, sealed, opened, decoded.

use super::{
    config::Config,
    stored::{self, Kind, Line, Lines, Stored},
};
use crate::{key::OwnedKey, limits::HEAD_BYTES_MAX};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

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
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let trailers = trailers.map(|all| self.retained.of(all, false)).unwrap_or_default();
        self.packed((key, place, kind), head.status, &head.headers, &trailers, body)
    }

    fn packed(
        &self,
        (key, place, kind): (&OwnedKey, Place, Kind),
        status: StatusCode,
        headers: &[Line<'_>],
        trailers: &[Line<'_>],
        body: &[u8],
    ) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(2 + stored::head_len(headers) + body.len());
        let Some(seal) = &self.seal else {
            bytes.extend_from_slice(&stored::prefix(kind, false));
            stored::encode(&mut bytes, status, headers, trailers, body);
            return Some(bytes);
        };
        stored::encode(&mut bytes, status, headers, trailers, body);
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
        // A seal adds something, too.
        let room = if self.seal.is_some() { HEAD_BYTES_MAX - 512 } else { HEAD_BYTES_MAX };
        let location = head.headers.iter().find(|line| is_location(line)).copied();
        let of = (key, Place::Record, Kind::HeadOnly);
        let packed = if all {
            let others = head.headers.iter().filter(|line| !is_location(line)).copied();
            let headers = fitting(location.into_iter().chain(others), room);
            self.packed(of, head.status, &headers, &[], &[])
        } else {
            let fits = location.filter(|line| line_len(line) + HEAD_ALONE <= room);
            self.packed(of, head.status, fits.as_slice(), &[], &[])
        };
        packed.filter(|packed| packed.len() <= HEAD_BYTES_MAX).unwrap_or_else(|| {
            // Nothing secret in a status.
            let mut bytes = stored::prefix(Kind::HeadOnly, false).to_vec();
            stored::encode(&mut bytes, head.status, &[], &[], &[]);
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

/// At least as many bytes as a head has without its headers.
const HEAD_ALONE: usize = 32;

fn is_location(line: &Line<'_>) -> bool {
    line.0 == header::LOCATION
}

/// At most how many bytes a header takes.
fn line_len((name, value): &Line<'_>) -> usize {
    name.as_str().len() + value.len() + 10
}

/// As many whole headers as take at most `room` bytes.
fn fitting<'a>(all: impl Iterator<Item = Line<'a>>, room: usize) -> Lines<'a> {
    let mut len = HEAD_ALONE;
    let fits = |line: &Line<'a>| {
        let fits = len + line_len(line) <= room;
        len += if fits { line_len(line) } else { 0 };
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
