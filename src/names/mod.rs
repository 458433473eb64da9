//! Scopes and keys as they are written on a command line and in the API of the admin service, and
//! read back: without loss, without spaces.
//!
//! A scope is `a/b/c` for `Scope::of(["a", "b", "c"])`, `=text` for `Scope::new("text")`,
//! `hex:0a0b` for any bytes, `-` for the empty one. A key is text, or `hex:0a0b`.
//!
//! ```
//! use onlyonce::{Scope, names};
//!
//! let scope = Scope::of(["tenant-7", "payments"]);
//! assert_eq!(names::of_scope(scope.as_bytes()), "tenant-7/payments");
//! assert_eq!(names::parse_scope("tenant-7/payments"), Ok(scope));
//! // What could not be told from something else on a screen is written in digits.
//! assert_eq!(names::of_key(b"two words"), "hex:74776f20776f726473");
//! ```

pub(crate) mod escape;

pub use crate::names::escape::is_plain;

use crate::{
    error::KeyError,
    key::{KeyRef, Scope},
};

/// Why a name is none of a scope or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Something else than pairs of hexadecimal digits stands behind `hex:`.
    #[error("{name}: hex: is followed by pairs of digits")]
    NotHex {
        /// The name that was given.
        name: String,
    },
    /// No scope or key has these bytes.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Text that can be printed, looks like what it is, and is read back without a mark.
fn printable(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let plain = |c: char| c != ' ' && is_plain(c);
    (!text.is_empty() && text.chars().all(plain)).then_some(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of pairs of hexadecimal digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let whole = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    whole.then(|| digits.chunks(2).map(pair).collect())?
}

/// The parts of a scope that was made of parts.
fn parts(scope: &[u8]) -> Option<Vec<&[u8]>> {
    let mut parts = Vec::new();
    let mut rest = scope;
    while !rest.is_empty() {
        let (len, behind) = rest.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*len) as usize;
        let (part, behind) = behind.split_at_checked(len)?;
        parts.push(part);
        rest = behind;
    }
    Some(parts)
}

/// The name of a scope, given its bytes.
pub fn of_scope(scope: &[u8]) -> String {
    if scope.is_empty() {
        return "-".into();
    }
    // Parts that could be written in no other way.
    let plain = |part: &&[u8]| printable(part).filter(|text| !text.contains('/')).map(String::from);
    let joined = parts(scope).and_then(|parts| parts.iter().map(plain).collect::<Option<Vec<_>>>());
    if let Some(joined) = joined.map(|parts| parts.join("/"))
        && parse_scope(&joined).is_ok_and(|back| back.as_bytes() == scope)
    {
        return joined;
    }
    match printable(scope) {
        Some(text) => format!("={text}"),
        None => format!("hex:{}", hex(scope)),
    }
}

/// The name of a key.
pub fn of_key(key: &[u8]) -> String {
    match printable(key) {
        Some(text) if !text.starts_with("hex:") => text.into(),
        _ => format!("hex:{}", hex(key)),
    }
}

fn not_hex(name: &str) -> NameError {
    NameError::NotHex { name: name.into() }
}

/// The scope of a name; an empty one is that of the empty scope, too.
///
/// # Errors
///
/// If the digits behind `hex:` are none, or no scope is as long as that.
pub fn parse_scope(text: &str) -> Result<Scope, NameError> {
    Ok(match text {
        "-" | "" => Scope::global(),
        _ if text.starts_with('=') => Scope::new(&text.as_bytes()[1..])?,
        _ => match text.strip_prefix("hex:") {
            None => Scope::of(text.split('/')),
            Some(digits) => Scope::new(unhex(digits).ok_or_else(|| not_hex(text))?)?,
        },
    })
}

/// The key of a name.
///
/// # Errors
///
/// If the digits behind `hex:` are none, or no key is as long or as short as that.
pub fn parse_key(text: &str) -> Result<Vec<u8>, NameError> {
    let key = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => unhex(digits).ok_or_else(|| not_hex(text))?,
    };
    KeyRef::new(&Scope::global(), &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given_back() {
        let long = "x".repeat(300);
        let scopes = [
            Scope::global(),
            Scope::of(["tenant-7", "payments"]),
            Scope::of(["one"]),
            Scope::of(["a/b", "c"]),
            Scope::of(["", "b"]),
            Scope::of(["-"]),
            Scope::of(["=x"]),
            Scope::of(["hex:0a"]),
            Scope::of([&long]),
            Scope::new("plain").unwrap(),
            Scope::new("hex:").unwrap(),
            Scope::new("-").unwrap(),
            Scope::new([0, 255, 10]).unwrap(),
            Scope::new("with space").unwrap(),
            Scope::new("right to left \u{202e}").unwrap(),
        ];
        for scope in scopes {
            let text = of_scope(scope.as_bytes());
            assert!(!text.contains(char::is_whitespace), "{text}");
            assert!(text.chars().all(is_plain), "{text}");
            assert_eq!(parse_scope(&text).unwrap(), scope, "{text}");
        }
        for key in [&b"8e03978e"[..], b"hex:00", b"a b", &[0, 1], "\u{e4}\u{200b}".as_bytes()] {
            assert_eq!(parse_key(&of_key(key)).unwrap(), key);
        }
        assert_eq!(of_key("a\u{200b}".as_bytes()), "hex:61e2808b");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["hex:0", "hex:zz", &format!("={}", "x".repeat(256))] {
            assert!(parse_scope(text).is_err(), "{text}");
        }
        for text in ["", "hex:", "hex:0", &"x".repeat(256)] {
            assert!(parse_key(text).is_err(), "{text}");
        }
    }
}
