//! Bytes as text and back: keys, scopes and answers are bytes, and JSON, terminals and people want
//! characters.
//!
//! Visible UTF-8 is left as it is. Every other byte is `\xNN`, and a backslash is
//! `\\`. So nothing is lost, two byte strings never look alike by this, and no control character,
//! escape sequence or invisible or direction-changing character of an attacker's reaches a screen.

use std::fmt::Write;

/// The text of these bytes.
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
pub(crate) fn of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if is_plain(c) => text.push(c),
                c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| escape(&mut text, b)),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape(&mut text, *byte));
    }
    text
}

#[cfg_attr(not(feature = "admin"), allow(dead_code))]
fn escape(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").expect("a string takes everything");
}

/// Whether a character is what it looks like.
pub fn is_plain(c: char) -> bool {
    let invisible = matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f
        | 0xfeff | 0xffa0 | 0xfff0..=0xfffd | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
        | 0xe000..=0xf8ff | 0xe0000..=0x10ffff);
    // Of the spaces only the common one.
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}

/// The bytes of a text; `None` if a backslash in it begins neither `\\` nor `\xNN`.
#[cfg_attr(not(feature = "admin"), allow(dead_code))]
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        (rest, _) = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => (after, bytes.push(b'\\')),
            (b'\\', [b'x', high, low, after @ ..]) => {
                (after, bytes.push(digit(*high)? << 4 | digit(*low)?))
            }
            (b'\\', _) => return None,
            (plain, after) => (after, bytes.push(plain)),
        };
    }
    Some(bytes)
}

#[cfg_attr(not(feature = "admin"), allow(dead_code))]
fn digit(c: u8) -> Option<u8> {
    char::from(c).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_can_be_seen_stands_as_it_is() {
        assert_eq!(of(b"order-1"), "order-1");
        assert_eq!(of("Straße 7, 東京".as_bytes()), "Straße 7, 東京");
        assert_eq!(of(b"<script>alert(1)</script>"), "<script>alert(1)</script>");
        assert_eq!(of(b"C:\\x41"), "C:\\\\x41");
    }

    #[test]
    fn what_can_not_is_escaped() {
        assert_eq!(of(b"\x07\0\x1b[31m\n"), "\\x07\\x00\\x1b[31m\\x0a");
        assert_eq!(of(b"\xff\xfe"), "\\xff\\xfe");
        // Right-to-left override; zero-width space; no-break space.
        assert_eq!(of("\u{202e}".as_bytes()), "\\xe2\\x80\\xae");
        assert_eq!(of("a\u{200b}b".as_bytes()), "a\\xe2\\x80\\x8bb");
        assert_eq!(of("\u{a0}".as_bytes()), "\\xc2\\xa0");
    }

    #[test]
    fn half_an_escape_is_none() {
        for text in ["\\", "\\x", "\\x4", "\\n", "\\xg0", "\\x+4", "a\\"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!(bytes("\\x4a\\\\x4a"), Some(b"J\\x4a".to_vec()));
    }

    proptest! {
        #[test]
        fn nothing_is_lost(all in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = of(&all);
            prop_assert_eq!(bytes(&text), Some(all));
            prop_assert!(text.chars().all(is_plain));
        }

        #[test]
        fn two_are_never_alike(a in "\\PC{0,8}", b in "\\PC{0,8}") {
            prop_assert_eq!(a == b, of(a.as_bytes()) == of(b.as_bytes()));
        }
    }
}
