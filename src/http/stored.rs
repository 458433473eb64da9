//! An answer as the store keeps it. Compact, versioned, total on arbitrary bytes.
//!
//! ```text
//! version 1 | kind u8 | status u16 | headers: count, (name, value)... | trailers: likewise | body
//! ```
//!
//! Numbers of the header lists are LEB128, the status is little-endian. Names and values are
//! preceded by their lengths. When sealed, everything after `kind` is made by the seal.

use super::body::Trailers;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

const VERSION: u8 = 1;

/// The kind of a stored answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The body itself.
    Whole = 0,
    /// The reference by which the service finds it.
    Reference = 1,
    /// Nothing: it was not retained.
    HeadOnly = 2,
}

/// An answer that comes from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub kind: Kind,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: Trailers,
    pub body: Bytes,
}

const SEALED: u8 = 0x80;

/// The two bytes that are never sealed.
pub(super) fn prefix(kind: Kind, sealed: bool) -> [u8; 2] {
    [VERSION, kind as u8 | if sealed { SEALED } else { 0 }]
}

/// The prefix of what was stored, and the rest.
pub(super) fn split(mut bytes: Bytes) -> Option<(Kind, bool, Bytes)> {
    if bytes.len() < 2 || bytes[0] != VERSION {
        return None;
    }
    let kind = match bytes[1] & !SEALED {
        0 => Kind::Whole,
        1 => Kind::Reference,
        2 => Kind::HeadOnly,
        _ => return None,
    };
    let sealed = bytes[1] & SEALED != 0;
    Some((kind, sealed, bytes.split_off(2)))
}

/// A header line, borrowed.
pub(super) type Line<'a> = (&'a HeaderName, &'a HeaderValue);

/// Header lines in their order.
pub(super) type Lines<'a> = Vec<Line<'a>>;

/// Everything after the prefix, the body last.
pub(super) fn encode(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &[Line<'_>],
    trailers: &[Line<'_>],
    body: &[u8],
) {
    out.extend_from_slice(&status.as_u16().to_le_bytes());
    put_headers(out, headers);
    put_headers(out, trailers);
    out.extend_from_slice(body);
}

/// At most how many bytes [`encode`] takes for the head.
pub(super) fn head_len(headers: &[Line<'_>]) -> usize {
    16 + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 10).sum::<usize>()
}

/// Decodes the bytes after the prefix; `None` if they are no answer.
pub(super) fn decode(kind: Kind, rest: Bytes) -> Option<Stored> {
    let mut reader = Reader { bytes: &rest, at: 0 };
    let status = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    let status = StatusCode::from_u16(status).ok()?;
    let headers = reader.headers()?;
    let trailers = Some(reader.headers()?).filter(|trailers| !trailers.is_empty()).map(Box::new);
    let body = rest.slice(reader.at..);
    Some(Stored { kind, status, headers, trailers, body })
}

fn put_headers(out: &mut Vec<u8>, headers: &[Line<'_>]) {
    put_number(out, headers.len());
    for (name, value) in headers {
        put_bytes(out, name.as_str().as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a head. Values share its bytes.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.take(1)?[0];
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn headers(&mut self) -> Option<HeaderMap> {
        let count = self.number()?;
        // A line has at least two bytes.
        if count > (self.bytes.len() - self.at) / 2 {
            return None;
        }
        // Those that a replay adds have room, too. A map has a bound of its own.
        let room = if count == 0 { 0 } else { count + 4 };
        let mut headers = HeaderMap::try_with_capacity(room).ok()?;
        for _ in 0..count {
            let len = self.number()?;
            let name = HeaderName::from_bytes(self.take(len)?).ok()?;
            let len = self.number()?;
            let start = self.at;
            self.take(len)?;
            let value = self.bytes.slice(start..self.at);
            headers.try_append(name, HeaderValue::from_maybe_shared(value).ok()?).ok()?;
        }
        Some(headers)
    }
}

/// Decodes any bytes, and checks that the result is the same when it is encoded and decoded again,
/// lines and their order too, and that its head is no longer than computed. Returns whether the
/// bytes decode.
#[cfg(any(test, feature = "__internals"))]
pub(crate) fn round_trip(bytes: &[u8]) -> bool {
    let Some((kind, false, rest)) = split(Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    let Some(stored) = decode(kind, rest) else {
        return false;
    };
    let mut again = Vec::new();
    let Stored { status, headers, trailers, body, .. } = &stored;
    let list = |map: &HeaderMap| head_len(&map.iter().collect::<Lines<'_>>());
    let trailing: Lines<'_> = trailers.as_deref().into_iter().flatten().collect();
    let own: Lines<'_> = headers.iter().collect();
    encode(&mut again, *status, &own, &trailing, body);
    let room = list(headers) + trailers.as_deref().map_or(0, list);
    assert!(again.len() <= room + body.len());
    let back = decode(kind, again.into()).expect("it has just been encoded");
    let lines = |map: Option<&HeaderMap>| {
        let lines = map.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(lines(Some(&back.headers)), lines(Some(&stored.headers)));
    assert_eq!(lines(back.trailers.as_deref()), lines(stored.trailers.as_deref()));
    assert_eq!(back, stored);
    true
}

/// An answer with these header lines, as far as they are any, as it is stored.
#[cfg(any(test, feature = "__internals"))]
pub(crate) fn encoded(status: u16, lists: [&[(&[u8], &[u8])]; 2], body: &[u8]) -> Vec<u8> {
    let [headers, trailers] = lists.map(|lines| {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
            {
                map.append(name, value);
            }
        }
        map
    });
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut bytes = prefix(Kind::Whole, false).to_vec();
    let (headers, trailers): (Lines<'_>, Lines<'_>) =
        (headers.iter().collect(), trailers.iter().collect());
    encode(&mut bytes, status, &headers, &trailers, body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored() -> impl Strategy<Value = Stored> {
        let line = ("[a-z][a-z0-9-]{0,20}", prop::collection::vec(0x80u8..=0xff, 0..40));
        let lines = || {
            prop::collection::vec(line.clone(), 0..12).prop_map(|lines| {
                let mut headers = HeaderMap::new();
                for (name, value) in lines {
                    let name: HeaderName = name.parse().unwrap();
                    headers.append(name, HeaderValue::from_bytes(&value).unwrap());
                }
                headers
            })
        };
        (100u16..1000, lines(), lines(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(status, headers, trailers, body)| Stored {
                kind: Kind::Whole,
                status: StatusCode::from_u16(status).unwrap(),
                headers,
                trailers: Some(trailers).filter(|t| !t.is_empty()).map(Box::new),
                body: body.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(stored in stored()) {
            let mut bytes = prefix(Kind::Whole, false).to_vec();
            let Stored { status, headers, trailers, body, .. } = &stored;
            let own: Lines<'_> = headers.iter().collect();
            let trailing: Lines<'_> = trailers.as_deref().into_iter().flatten().collect();
            encode(&mut bytes, *status, &own, &trailing, body);
            let (kind, sealed, rest) = split(bytes.into()).unwrap();
            prop_assert!(!sealed);
            let back = decode(kind, rest).unwrap();
            prop_assert_eq!(&back, &stored);
            let lines = |map: &HeaderMap| {
                map.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(lines(&back.headers), lines(&stored.headers));
        }

        #[test]
        fn arbitrary_bytes_are_no_trouble(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            round_trip(&bytes);
            if bytes.len() > 2 {
                bytes[0] = VERSION;
                bytes[1] %= 3;
                round_trip(&bytes);
            }
        }
    }

    #[test]
    fn cut_anywhere_before_its_body_it_is_refused() {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("<1>"));
        headers.append("link", HeaderValue::from_static("<2>"));
        let mut bytes = prefix(Kind::Whole, false).to_vec();
        let headers: Lines<'_> = headers.iter().collect();
        encode(&mut bytes, StatusCode::OK, &headers, &[], b"body");
        for len in 0..bytes.len() - 4 {
            let cut = Bytes::copy_from_slice(&bytes[..len]);
            assert!(split(cut).and_then(|(kind, _, rest)| decode(kind, rest)).is_none());
        }
        assert!(head_len(&headers) + 4 >= bytes.len());
    }
}
