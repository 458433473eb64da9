//! What names an intention: its key, and the name under which a memory keeps the key.

use http::HeaderValue;
use std::fmt;

/// The key of one intention, as it is sent: the same with each try of it, and never with another.
///
/// Put it into a request's extensions to send that request under it. A request that has its header
/// already keeps it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(HeaderValue);

/// The text is no key: a key is 1 to 255 bytes of visible ASCII or spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 1 to 255 bytes of visible ASCII or spaces")]
pub struct InvalidKey;

impl Key {
    /// Makes a key that has never been one: a random UUID (version 4).
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
        let bits = u128::from_be_bytes(bytes);
        let bits = bits & !(0xf << 76) | 4 << 76;
        let bits = bits & !(0x3 << 62) | 2 << 62;
        let hex = format!("{bits:032x}");
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        Key::new(&parts.join("-")).expect("a UUID is a key")
    }

    /// Makes a key of the caller's own text, 1 to 255 bytes of visible ASCII or spaces.
    pub fn new(text: &str) -> Result<Self, InvalidKey> {
        let fits = (1..=255).contains(&text.len());
        if !fits || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(InvalidKey);
        }
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        HeaderValue::try_from(quoted).map(Key).map_err(|_| InvalidKey)
    }

    /// Takes a header as the caller has set it.
    pub(crate) fn sent(value: HeaderValue) -> Self {
        Key(value)
    }

    /// Returns the header's value: the text in quotes, as RFC 9651 writes a string.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl fmt::Display for Key {
    /// As in the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.0.as_bytes()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// The caller's own name of an intention, such as `order-4711`: in a request's extensions it gets
/// the key that a memory (`Memory`, feature `store`) keeps under it, also in a later process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Intention(pub String);

impl Intention {
    /// Makes the name of an intention, 1 to 255 bytes.
    pub fn new(name: impl Into<String>) -> Self {
        Intention(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_keys_are_uuids_and_differ() {
        let (a, b) = (Key::random(), Key::random());
        assert_ne!(a, b);
        let text = a.to_string();
        assert_eq!(text.len(), 38);
        assert_eq!(&text[15..16], "4");
        assert!("89ab".contains(&text[20..21]), "{text}");
    }

    #[test]
    fn text_is_quoted() {
        assert_eq!(Key::new("a\"b\\c d").unwrap().to_string(), r#""a\"b\\c d""#);
        for bad in ["", "ä", "a\nb", &"x".repeat(256)] {
            assert_eq!(Key::new(bad), Err(InvalidKey), "{bad}");
        }
    }
}
