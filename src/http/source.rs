//! Where a request's key is found.

use super::header::{self, BadKey};
use bytes::Bytes;
use http::{HeaderName, request::Parts};
use serde_json::Value;
use std::{borrow::Cow, fmt, sync::Arc};

type Find = dyn Fn(&Parts, &Bytes) -> Option<Vec<u8>> + Send + Sync;

/// Where a request's key is found, and which form it must have. Default: the header
/// `Idempotency-Key`, in any form.
///
/// ```
/// use http::HeaderName;
/// use onlyonce::http::KeySource;
/// // Stripe's events carry their names in their bodies, Standard Webhooks in a header.
/// let stripe = KeySource::json("/id");
/// let standard = KeySource::header(HeaderName::from_static("webhook-id"));
/// // An API of one's own that takes nothing that could be guessed or repeated.
/// let strict = KeySource::default().uuids();
/// # let _ = (stripe, standard, strict);
/// ```
#[derive(Clone)]
#[must_use]
pub struct KeySource {
    place: Place,
    uuids: bool,
    min_bytes: usize,
}

#[derive(Clone)]
enum Place {
    Headers(Vec<HeaderName>),
    Request(Arc<Find>),
}

impl Default for KeySource {
    fn default() -> Self {
        Self::header(HeaderName::from_static("idempotency-key"))
    }
}

impl KeySource {
    /// Takes the key from a header: a string in quotes (RFC 9651), or the same without quotes.
    pub fn header(name: HeaderName) -> Self {
        Self::headers([name])
    }

    /// Takes the key from whichever of these headers the request has. A request that has two of
    /// them with different keys is refused: it isn't clear which operation it means.
    pub fn headers(names: impl IntoIterator<Item = HeaderName>) -> Self {
        Self::at(Place::Headers(names.into_iter().collect()))
    }

    /// Takes the key from a field of a JSON body, named by a JSON pointer (RFC 6901): a string, or
    /// a number as it is written. For events with a name of their own, and for APIs whose clients
    /// send a token in the body.
    pub fn json(pointer: impl Into<String>) -> Self {
        let pointer = pointer.into();
        Self::by(move |_, body| {
            match serde_json::from_slice::<Value>(body).ok()?.pointer(&pointer)? {
                Value::String(key) => Some(key.clone()),
                Value::Number(key) => Some(key.to_string()),
                _ => None,
            }
        })
    }

    /// Takes the key that a function finds in the request and its body; `None` if it has none. The
    /// body is read first, so it is bounded by what the scope may hold and by the layer's time.
    pub fn by<K: AsRef<[u8]>>(
        find: impl Fn(&Parts, &Bytes) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let find =
            move |parts: &Parts, body: &Bytes| find(parts, body).map(|key| key.as_ref().to_vec());
        Self::at(Place::Request(Arc::new(find)))
    }

    fn at(place: Place) -> Self {
        KeySource { place, uuids: false, min_bytes: 1 }
    }

    /// Accepts UUIDs only (RFC 9562, with hyphens, in any case): others get 400. Upper and lower
    /// case are different keys.
    pub fn uuids(mut self) -> Self {
        self.uuids = true;
        self
    }

    /// Accepts keys of at least so many bytes only, so that no two clients of a scope make the same
    /// one by chance. Default: 1. A key has at most 255 bytes.
    pub fn min_bytes(mut self, bytes: usize) -> Self {
        self.min_bytes = bytes;
        self
    }

    /// The key is in the body, or can be.
    pub(super) fn needs_body(&self) -> bool {
        matches!(self.place, Place::Request(_))
    }

    /// The key in a request's headers.
    pub(super) fn in_headers<'a>(&self, parts: &'a Parts) -> Result<Cow<'a, [u8]>, BadKey> {
        let Place::Headers(names) = &self.place else {
            return Err(BadKey::Missing);
        };
        let mut found: Result<Cow<'a, [u8]>, BadKey> = Err(BadKey::Missing);
        for name in names {
            match (header::key(&parts.headers, name), &found) {
                (Err(BadKey::Missing), _) => {}
                (Ok(key), Ok(other)) if key != *other => {
                    return Err(BadKey::Malformed("two headers have different keys"));
                }
                (Err(bad), _) => return Err(bad),
                (key, _) => found = key,
            }
        }
        found.and_then(|key| self.formed(key))
    }

    /// The key in a request and its body.
    pub(super) fn in_request<'a>(
        &self,
        parts: &'a Parts,
        body: &Bytes,
    ) -> Result<Cow<'a, [u8]>, BadKey> {
        match &self.place {
            Place::Headers(_) => self.in_headers(parts),
            Place::Request(find) => {
                let found = find(parts, body).map(Cow::Owned).ok_or(BadKey::Missing);
                found.and_then(|key| self.formed(key))
            }
        }
    }

    fn formed<'a>(&self, key: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, BadKey> {
        if self.uuids && !is_uuid(&key) {
            return Err(BadKey::Malformed("the key is not a UUID"));
        }
        if key.len() < self.min_bytes {
            return Err(BadKey::Malformed("the key is shorter than this service takes"));
        }
        Ok(key)
    }

    /// What the key is called in answers: as a person writes the header's name.
    pub(super) fn label(&self) -> String {
        match &self.place {
            Place::Headers(names) => names.iter().map(as_written).collect::<Vec<_>>().join(" or "),
            Place::Request(_) => "Idempotency key".to_owned(),
        }
    }

    /// For the published policy.
    pub(super) fn names(&self) -> &[HeaderName] {
        match &self.place {
            Place::Headers(names) => names,
            Place::Request(_) => &[],
        }
    }

    /// For the published policy.
    pub(super) fn format(&self) -> &'static str {
        match (&self.place, self.uuids) {
            (Place::Headers(_), false) => {
                "a string in quotes (RFC 9651), or the same without quotes"
            }
            (Place::Headers(_), true) => "a UUID, in quotes or without",
            (Place::Request(_), false) => "bytes of the request",
            (Place::Request(_), true) => "a UUID in the request",
        }
    }

    /// For the published policy.
    pub(super) fn is_uuids(&self) -> bool {
        self.uuids
    }

    /// For the published policy.
    pub(super) fn least(&self) -> usize {
        self.min_bytes.max(1)
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource")
            .field("headers", &self.names())
            .field("uuids", &self.uuids)
            .field("min_bytes", &self.min_bytes)
            .finish_non_exhaustive()
    }
}

/// `x-my-key` as `X-My-Key`.
fn as_written(name: &HeaderName) -> String {
    let word = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    match name.as_str() {
        "idempotency-key" => "Idempotency-Key".to_owned(),
        other => other.split('-').map(word).collect::<Vec<_>>().join("-"),
    }
}

fn is_uuid(key: &[u8]) -> bool {
    key.len() == 36
        && key.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
