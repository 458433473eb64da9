//! Reads and bounds the key's header: a Structured-Field string, or the same without its quotes.

use crate::limits::KEY_BYTES_MAX;
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Item, Parser};
use std::borrow::Cow;

/// The fault of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadKey {
    /// There is none.
    Missing,
    /// There is one that is no key, for this reason.
    Malformed(&'static str),
}

/// The request's key.
///
/// `"8e03978e"` (RFC 9651) and `8e03978e`, which most clients send, are the same key. A string may
/// have parameters; they mean nothing here. A second line is refused even if it has the same key,
/// because its sender may have meant another request.
pub(super) fn key<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Cow<'a, [u8]>, BadKey> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next().ok_or(BadKey::Missing)?;
    if lines.next().is_some() {
        return Err(BadKey::Malformed("the header has more than one line"));
    }
    parse(line.as_bytes()).map_err(BadKey::Malformed)
}

/// Returns the key of one line of the header, or why the line has none.
pub(crate) fn parse(line: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    let line = line.trim_ascii();
    let key = match line.first() {
        None => return Err("the header is empty"),
        Some(b'"') => quoted(line)?,
        Some(_) if line.iter().all(|&byte| is_bare(byte)) => Cow::Borrowed(line),
        Some(_) => {
            return Err(
                "a key without quotes is visible ASCII without \", \\, comma and semicolon",
            );
        }
    };
    match key.len() {
        0 => Err("the key is empty"),
        1..=KEY_BYTES_MAX => Ok(key),
        _ => Err("the key is longer than 255 bytes"),
    }
}

fn quoted(line: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    // Nearly all are so: a string that needs no reading.
    let inside = line.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    if let Some(plain) = inside.filter(|inside| inside.iter().all(|&byte| is_plain(byte))) {
        return Ok(Cow::Borrowed(plain));
    }
    let item: Item = Parser::new(line)
        .parse()
        .map_err(|_| "the key is not a string as RFC 9651 defines it: ASCII in double quotes")?;
    match item.bare_item {
        BareItem::String(key) => Ok(Cow::Owned(String::from(key).into_bytes())),
        _ => Err("the key is not a string"),
    }
}

/// Whether a byte stands for itself in a string of RFC 9651.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"\\,;".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(lines: &[&[u8]]) -> Result<Vec<u8>, BadKey> {
        let name = HeaderName::from_static("idempotency-key");
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_bytes(line).unwrap());
        }
        key(&headers, &name).map(Cow::into_owned)
    }

    #[test]
    fn quoted_and_bare_are_one_key() {
        assert_eq!(read(&[b"8e03978e"]).unwrap(), b"8e03978e");
        assert_eq!(read(&[b"\"8e03978e\""]).unwrap(), b"8e03978e");
        assert_eq!(read(&[b" \"8e03978e\" \t"]).unwrap(), b"8e03978e");
        assert_eq!(read(&[br#""a\"b c\\""#]).unwrap(), br#"a"b c\"#);
        assert_eq!(read(&[br#""k";v=1"#]).unwrap(), b"k");
        let longest = "k".repeat(255);
        assert_eq!(read(&[longest.as_bytes()]).unwrap(), longest.as_bytes());
    }

    /// What is read without the parser is read as the parser reads it.
    #[test]
    fn plain_strings_are_what_the_parser_says() {
        let lines = (0..=255u8).flat_map(|byte| {
            let whole = [b'"', b'a', byte, b'"'].to_vec();
            [whole.clone(), whole[..3].to_vec(), [&whole[..], &[byte]].concat(), vec![b'"', byte]]
        });
        for line in lines {
            let parsed = Parser::new(&line).parse::<Item>().ok().map(|item| item.bare_item);
            let parsed = parsed.and_then(|bare| match bare {
                BareItem::String(key) => Some(String::from(key).into_bytes()),
                _ => None,
            });
            assert_eq!(quoted(&line).ok().map(Cow::into_owned), parsed, "{line:?}");
        }
    }

    #[test]
    fn everything_else_says_why() {
        assert_eq!(read(&[]), Err(BadKey::Missing));
        let long = "k".repeat(256);
        let bad: [&[u8]; 14] = [
            b"",
            b"  ",
            b"\"\"",
            b"\"",
            b"\"a",
            b"\"a\\n\"",
            b"\"a\"b",
            b"\"a\", \"b\"",
            b"a b",
            b"a,b",
            b"a;b=1",
            b"a\\b",
            b"\xc3\xa9",
            b"\"\xc3\xa9\"",
        ];
        for line in bad.into_iter().chain([long.as_bytes()]) {
            assert!(matches!(read(&[line]), Err(BadKey::Malformed(_))), "{line:?}");
        }
        assert!(matches!(read(&[b"a", b"a"]), Err(BadKey::Malformed(_))));
    }
}
